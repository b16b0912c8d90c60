//! Limits that hold for whatever is asked, and the memory that bodies take.

use std::time::Duration;

use serde_json::json;
use tercet_gateway::limits::{BODIES_BYTES_MAX, LARGE_BODY_BYTES_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::TEMPLATES;
use super::stage::{Ask, Stage};

#[tokio::test]
async fn no_path_passes_the_limit_of_an_address_but_health() {
    let stage = Stage::start(&["--address-per-second", "2", "--cors-origin", "*"]).await;
    let preflight =
        Ask::new("OPTIONS", TEMPLATES).with("origin", "https://a.example").with("access-control-request-method", "PUT");
    for ask in [
        Ask::get("/openapi.json"),
        Ask::get("/"),
        Ask::get("/nowhere"),
        Ask::new("PUT", "/v1/coupons"),
        preflight,
        Ask::get("/v1/offers"),
    ] {
        let mut asked = 0;
        let refused = loop {
            let told = stage.ask(ask.clone()).await;
            if told.status == 429 {
                break told;
            }
            asked += 1;
            assert!(asked < 60, "{ask:?} passes");
        };
        assert_eq!((refused.code(), refused.header("retry-after")), ("TOO_MANY_REQUESTS", "1"));
    }
    for _ in 0..60 {
        stage.ask(Ask::get("/health")).await.good(200);
    }
}

#[tokio::test]
async fn six_hundred_documents_at_once_are_too_many() {
    let stage = Stage::start(&["--address-per-second", "50"]).await;
    let text = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let refused = async || {
        let mut socket = TcpStream::connect(stage.gateway.address).await.expect("it listens");
        let (mut reader, mut writer) = socket.split();
        let closing = text.clone() + "GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let write = async { writer.write_all(closing.as_bytes()).await.expect("it reads") };
        let mut told = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut told));
        read.expect("it answers");
        String::from_utf8_lossy(&told).matches("HTTP/1.1 429 ").count()
    };
    let refused = tokio::join!(refused(), refused(), refused(), refused(), refused(), refused());
    assert!(refused.0 + refused.1 + refused.2 + refused.3 + refused.4 + refused.5 > 0);
}

/// Senders of large bodies that never end fill the room for all bodies, and no more; when they go it is free again.
#[tokio::test]
async fn bodies_that_do_not_end_take_no_more_than_their_room() {
    let stage = Stage::start(&["--client-timeout-ms", "60000"]).await;
    let ann = stage.keys.operator("ann");
    let head = format!("POST {TEMPLATES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ann}\r\nidempotency-key: k");
    let head = format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {LARGE_BODY_BYTES_MAX}\r\n\r\n");
    let part = vec![b' '; LARGE_BODY_BYTES_MAX - 1];
    let name = "n".repeat(100);
    let ask = async || {
        let ask = Ask::new("POST", TEMPLATES).by(&ann).with("idempotency-key", "k").json(&json!({ "name": name }));
        stage.ask(ask).await.code().to_owned()
    };
    assert_eq!(ask().await, "MALFORMED");
    let mut senders = Vec::new();
    for _ in 0..BODIES_BYTES_MAX / part.len() {
        let mut socket = TcpStream::connect(stage.gateway.address).await.expect("it listens");
        socket.write_all(head.as_bytes()).await.expect("it reads");
        socket.write_all(&part).await.expect("it reads");
        senders.push(socket);
    }
    let becomes = async |code: &str| {
        let begun = Instant::now();
        while ask().await != code {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not become {code}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    becomes("SYSTEM_BUSY").await;
    stage.ask(Ask::get("/health")).await.good(200);
    assert_eq!(stage.ask(Ask::get("/openapi.json")).await.status, 200, "what has no body needs no room");
    drop(senders);
    becomes("MALFORMED").await;
}
