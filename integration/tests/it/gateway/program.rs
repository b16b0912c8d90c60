//! The gateway as a program.

use std::time::Duration;

use tercet_integration::processes::{Spec, free_address};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

#[tokio::test]
async fn the_program_makes_keys_and_tokens_and_shows_its_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = Spec::new("gateway", "tercet-gateway", "tercet-gateway", folder.path()).expect("it is built");
    let say = |words: &[&str]| {
        let output = std::process::Command::new(&spec.program).args(words).output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let jwks = folder.path().join("jwks.json").display().to_string();
    std::fs::write(&jwks, say(&["keys"])).expect("it can be written");
    let token = say(&["token", "--jwks", &jwks, "user", "42"]);
    let consent = say(&["token", "--jwks", &jwks, "user", "42", "--for-shop", "9"]);
    let shop = say(&["token", "--jwks", &jwks, "shop", "bob", "--shop", "9"]);
    let of_order = say(&["token", "--jwks", &jwks, "user", "42", "--for-shop", "9", "--for-order", "7"]);
    let whole = ["token", "--jwks", &jwks, "user", "42", "--for-order", "7"];
    let output = std::process::Command::new(&spec.program).args(whole).output().expect("it starts");
    assert!(!output.status.success(), "it would be good for more than the order: {output:?}");
    let [listen, metrics] = [(); 2].map(|()| free_address().expect("there is one").to_string());
    let spec = spec.word("serve").with("--jwks", &jwks).with("--listen", &listen).with("--metrics", &metrics);
    let _process = spec.start().expect("it starts");
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(&listen).await.is_err() {
        assert!(Instant::now() < until, "it does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ask = async |method: &str, address: &str, path: &str, more: &str| {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let text = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}");
        socket.write_all(text.as_bytes()).await.expect("it reads");
        let mut told = String::new();
        socket.read_to_string(&mut told).await.expect("it is text");
        told
    };
    let get = async |address: &str, path: &str, more: &str| ask("GET", address, path, &format!("{more}\r\n")).await;
    let bearer = format!("authorization: Bearer {}\r\n", token.trim());
    let told = get(&listen, "/v1/offers/secret-7", &bearer).await;
    assert!(told.contains("INVALID"), "{told}");
    get(&listen, "/nowhere/secret-8", "").await;
    let told = get(&listen, "/v1/offers", &format!("authorization: Bearer {}\r\n", consent.trim())).await;
    assert!(told.contains("FORBIDDEN"), "{told}");
    let told =
        get(&listen, "/v1/shop/users/0/orders/1/redemption", &format!("authorization: Bearer {}\r\n", shop.trim()))
            .await;
    assert!(told.contains("INVALID"), "{told}");
    let bob = format!("authorization: Bearer {}\r\n", shop.trim());
    let body = r#"{"order_id":"8","lines":[]}"#;
    let more = format!(
        "{bob}x-user-authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        of_order.trim(),
        body.len()
    );
    let told = ask("POST", &listen, "/v1/shop/orders/validate", &more).await;
    assert!(told.contains("CONSENT_OTHER_ORDER"), "{told}");
    let shown = get(&metrics, "/metrics", "").await;
    let count = r#"tercet_gateway_request_seconds_count{route="get_offer",method="GET",status="4xx"} 1"#;
    let failed = r#"tercet_gateway_errors_total{route="get_offer",code="INVALID"} 1"#;
    let nowhere = r#"tercet_gateway_errors_total{route="none",code="NO_ROUTE"} 1"#;
    for line in [count, failed, nowhere, "tercet_gateway_requests_in_flight 0"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert!(!shown.contains("secret"), "labels are names of routes, never what callers say");
}
