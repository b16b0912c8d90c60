//! Errors that no other test of the gateway provokes, and that every one of the catalogue is provoked over HTTP.

use std::path::Path;

use ring::hmac;
use serde_json::{Value, json};
use sqlx::Sqlite;
use tercet::fence::Dialect as _;
use tercet_coupon::issuing::CRON;
use tercet_rules::Code;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::coupons::{claim, published};
use super::redemptions::{lines, redeem};
use super::stage::{Ask, Asks as _, Gateway, Keys, Platform};
use super::{base64url, rules};
use crate::issuing::world::on_sqlite;

const SECRET: [u8; 32] = [7; 32];

/// Whoever has the secret, and says of himself what he likes.
fn signed(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| base64url(part.to_string().as_bytes()));
    let message = format!("{header}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), message.as_bytes());
    format!("{message}.{}", base64url(tag.as_ref()))
}

#[tokio::test]
async fn a_token_of_another_algorithm_issuer_or_time_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let key = json!({ "kty": "oct", "kid": "k", "alg": "HS256", "use": "sig", "k": base64url(&SECRET) });
    std::fs::write(&path, json!({ "keys": [key] }).to_string()).expect("it can be written");
    let gateway = Gateway::start(&["--jwks", &path.display().to_string(), "--token-issuer", "us"]).await;
    let (header, ends) = (json!({ "alg": "HS256", "kid": "k" }), 253_402_300_799_u64);
    let claims = |more: Value| {
        let mut claims = json!({ "sub": "42", "role": "user", "exp": ends, "iss": "us" });
        claims.as_object_mut().expect("a record").extend(more.as_object().expect("a record").clone());
        claims
    };
    let long = "x".repeat(65);
    for (code, field, token) in [
        ("TOKEN_ALGORITHM", "", signed(&json!({ "alg": "none", "kid": "k" }), &claims(json!({})))),
        ("TOKEN_ALGORITHM", "", signed(&json!({ "alg": "ES256", "kid": "k" }), &claims(json!({})))),
        ("TOKEN_ISSUER", "", signed(&header, &claims(json!({ "iss": "them" })))),
        ("TOKEN_NOT_YET_VALID", "", signed(&header, &claims(json!({ "nbf": ends - 1 })))),
        ("TOKEN_INVALID", "groups[0]", signed(&header, &claims(json!({ "groups": [long] })))),
        ("TOKEN_INVALID", "sub", signed(&header, &claims(json!({ "role": "operator", "sub": long })))),
    ] {
        let told = gateway.ask(Ask::get("/v1/offers").by(&token)).await;
        assert_eq!((told.code(), told.status), (code, 401), "{told:?}");
        if !field.is_empty() {
            for (language, title) in [
                ("en", format!("The token is not valid: {field}: it has 1 to 64 bytes")),
                ("zh", format!("令牌无效：{field}：长度须为 1 到 64 字节")),
            ] {
                let told = gateway.ask(Ask::get("/v1/offers").by(&token).with("accept-language", language)).await;
                assert_eq!(told.body["title"], title);
            }
        }
    }
    // The name of an operator may be as long as the services take it.
    let good = signed(&header, &claims(json!({ "role": "operator", "sub": "x".repeat(64) })));
    assert_eq!(gateway.ask(Ask::get("/v1/offers").by(&good)).await.code(), "FORBIDDEN");
}

#[tokio::test]
async fn a_coupon_that_an_order_gets_nothing_from_says_why() {
    let platform = Platform::start(&[]).await;
    let keys = &platform.keys;
    let (ann, user) = (keys.operator("ann"), keys.user(42));
    let with = |changes: Value| {
        let mut rules = rules();
        rules.as_object_mut().expect("a record").extend(changes.as_object().expect("a record").clone());
        rules
    };
    let step = json!({ "threshold_cents": 20_000, "off_cents": 500 });
    let later = json!({ "start_ms": 32_503_679_000_000_i64, "end_ms": 32_503_680_000_000_i64 });
    let mut coupons = Vec::new();
    for (name, times, rules) in [
        ("much", 1, with(json!({ "discount": { "full_reduction": { "steps": [step] } } }))),
        ("other", 1, with(json!({ "scope": { "products": { "ids": ["5"] } } }))),
        ("later", 1, with(json!({ "validity": { "utc_offset_minutes": 480, "fixed": later } }))),
        (
            "whole",
            2,
            with(json!({
                "discount": { "universal": { "off_cents": 10_000 } },
                "budget": { "coupons": 100, "cents": 1_000_000 },
                "stacking": { "together": { "group": "g", "most": 2 } },
                "quota": { "per_user": 2, "per_user_day": 2 },
            })),
        ),
    ] {
        let id = published(&platform, &ann, name, &rules).await;
        for turn in 0..times {
            let made = platform.ask(claim(&user, &id, &format!("{name} {turn}"))).await.good(201);
            coupons.push(made["coupon_id"].clone());
        }
    }
    let [much, other, later, one, two] = &coupons[..] else { panic!("five") };
    let order = |number: usize, lines: Value, coupons: Value| {
        let body = json!({ "order_id": number.to_string(), "lines": lines, "coupon_ids": coupons });
        redeem(&keys.shop("bob"), &keys.consent(42, 9), &format!("k{number}"), &body)
    };
    for (number, (code, coupons, zh)) in [
        ("BELOW_THRESHOLD", json!([much]), "还差 100.00 元可用"),
        ("OUT_OF_SCOPE", json!([other]), "订单中没有适用此优惠券的商品"),
        ("NOT_YET_VALID", json!([later]), "优惠券尚未生效"),
        ("NO_GAIN", json!([one, two]), "不会带来更多优惠"),
    ]
    .into_iter()
    .enumerate()
    {
        let told = platform.ask(order(number + 1, lines("9"), coupons).with("accept-language", "zh")).await;
        assert_eq!((told.code(), told.status), (code, 409), "{told:?}");
        assert!(told.body["title"].as_str().is_some_and(|title| title.contains(zh)), "{told:?}");
    }
    // What somebody has closed in the database itself can not be taken back any more.
    let body = json!({ "units": 2, "reason": "a delivery" });
    platform.ask(Ask::new("PUT", "/v1/operator/products/1/stock").by(&ann).json(&body)).await.good(200);
    assert_eq!(platform.ask(order(7, lines("9"), json!([one]))).await.good(200)["state"], "done");
    let orders = Sqlite::open(&platform.running.database("order")).await.expect("it is there");
    let close = sqlx::query("UPDATE orders SET status = 2 WHERE shop_id = 9 AND order_id = 7");
    assert_eq!(close.execute(&orders).await.expect("the table is there").rows_affected(), 1);
    let refund = Ask::new("POST", "/v1/shop/users/42/orders/7/refund").by(&keys.shop("bob"));
    let told = platform.ask(refund.json(&json!({ "reason": "broken" }))).await;
    assert_eq!((told.code(), &told.body["arguments"]["order_id"]), ("NOT_REFUNDABLE", &json!("7")));
}

#[tokio::test]
async fn who_has_no_events_or_a_service_that_is_none_of_ours_is_told_so() {
    let world = on_sqlite(CRON).await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new(folder.path().join("jwks.json"), "first");
    // It speaks gRPC, and knows nothing of templates.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let strange = format!("http://{}", listener.local_addr().expect("it has one"));
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(TcpListenerStream::new(listener)));
    let (jwks, issuing) = (keys.path.display().to_string(), format!("http://{}", world.at_issuing));
    let gateway = Gateway::start(&["--jwks", &jwks, "--issuing", &issuing, "--template", &strange]).await;
    let registered = Ask::new("POST", "/v1/operator/users/7/registered").by(&keys.operator("ann")).json(&json!({}));
    for (ask, code, status, zh) in [
        (registered, "NO_EVENTS", 409, "未接入事件总线，无法使用此功能"),
        (Ask::get("/v1/offers").by(&keys.user(42)), "INTERNAL", 500, "系统内部错误，请求号 mine"),
    ] {
        let told = gateway.ask(ask.with("accept-language", "zh").with("x-request-id", "mine")).await;
        assert_eq!((told.code(), told.status, &told.body["title"]), (code, status, &json!(zh)));
    }
}

#[test]
fn every_code_of_the_catalogue_is_provoked_over_http() {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let files = std::fs::read_dir(at.join("gateway")).expect("it is there").map(|file| file.expect("a file").path());
    let read = |path| std::fs::read_to_string(path).expect("it is text");
    let text: String = files.chain([at.join("gateway.rs")]).map(read).collect();
    let missing: Vec<_> =
        Code::ALL.iter().map(|code| code.name()).filter(|name| !text.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "no test of the gateway has {missing:?}");
}
