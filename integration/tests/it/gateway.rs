//! The gateway over HTTP in front of the real template service: what operators and users do, every error by its code,
//! stolen and wrongly signed tokens, limits, shedding, slow clients, and the document against the routes.

mod apart;
mod codes;
mod coupons;
mod inputs;
mod limits;
mod log;
mod occasions;
mod offers;
mod orders;
mod plan;
mod program;
mod redemptions;
mod roles;
pub(crate) mod stage;
mod tls;
mod voids;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_gateway::token::Role;
use tercet_integration::processes::free_address;
use tercet_rules::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use stage::{Ask, Gateway, Keys, Stage, Told, bearer};

const TEMPLATES: &str = "/v1/operator/templates";

/// Universal, 5 yuan off, and anyone may claim it for the next thousand years.
fn rules() -> Value {
    json!({
        "discount": { "universal": { "off_cents": 500 } },
        "validity": { "utc_offset_minutes": 480, "days_from_claim": 7 },
        "scope": { "all": {} },
        "quota": { "per_user": 2, "per_user_day": 1 },
        "stacking": { "alone": {} },
        "budget": { "coupons": 100, "cents": 50_000 },
        "claim": { "start_ms": 1, "end_ms": 32_503_680_000_000_i64 },
    })
}

fn create(operator: &str, key: &str) -> Ask {
    let body = json!({ "name": "新人券", "rules": rules(), "change": { "reason": "双十一" } });
    Ask::new("POST", TEMPLATES).by(operator).with("idempotency-key", key).json(&body)
}

fn change(operator: &str, path: &str, revision: u64) -> Ask {
    let body = json!({ "change": { "expected_revision": revision, "reason": "r" } });
    Ask::new("POST", format!("{TEMPLATES}/{path}")).by(operator).json(&body)
}

#[tokio::test]
async fn a_template_is_made_tried_published_and_ended() {
    let stage = Stage::start(&[]).await;
    let (ann, one, two) = (stage.keys.operator("ann"), stage.keys.user(42), stage.keys.user(43));
    let made = stage.ask(create(&ann, "k")).await.good(201);
    let again = stage.ask(create(&ann, "k")).await.good(200);
    assert_eq!((&made["changed"], &again["changed"]), (&json!(true), &json!(false)));
    assert_eq!(made["template"], again["template"]);
    let id = made["template"]["template_id"].as_str().expect("numbers of things are text").to_owned();
    assert_eq!(made["template"]["status"], "draft");
    let offer = |user: &str| Ask::get(format!("/v1/offers/{id}")).by(user);
    assert_eq!(stage.ask(offer(&one)).await.code(), "NOT_OFFERED");

    let body = json!({ "audience": { "user_ids": ["42"] }, "change": { "expected_revision": 1, "reason": "r" } });
    let gray = Ask::new("POST", format!("{TEMPLATES}/{id}/gray")).by(&ann).json(&body);
    let gray = stage.ask(gray).await.good(200);
    assert_eq!(
        (&gray["template"]["status"], &gray["template"]["audience"]["user_ids"]),
        (&json!("gray"), &json!(["42"]))
    );
    let offered = stage.ask(offer(&one)).await.good(200);
    assert_eq!(offered, json!({ "template_id": id, "version": 1, "rules": rules() }));
    assert_eq!(stage.ask(offer(&two)).await.code(), "NOT_OFFERED");
    assert_eq!(stage.ask(Ask::get("/v1/offers").by(&two)).await.good(200), json!({ "items": [] }));

    let path = format!("{id}/versions/1/promote");
    let promote =
        Ask::new("POST", format!("{TEMPLATES}/{path}")).by(&ann).json(&json!({ "change": { "reason": "r" } }));
    assert_eq!(stage.ask(promote.clone()).await.good(200)["changed"], true);
    assert_eq!(stage.ask(promote).await.good(200)["changed"], false);
    stage.ask(offer(&two)).await.good(200);
    let list = stage.ask(Ask::get("/v1/offers?limit=1").by(&two)).await.good(200);
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["template_id"]), (&json!("新人券"), &json!(id)));

    let mut better = rules();
    better["discount"] = json!({ "percentage": { "off_basis_points": 1_500, "cap_cents": 400 } });
    let body = json!({ "rules": better, "change": { "expected_revision": 3, "reason": "r" } });
    let set = Ask::new("PUT", format!("{TEMPLATES}/{id}/rules")).by(&ann).json(&body);
    assert_eq!(stage.ask(set).await.good(200)["template"]["candidate_version"], 2);
    let version = Ask::get(format!("{TEMPLATES}/{id}/versions/2")).by(&ann);
    assert_eq!(stage.ask(version).await.good(200), json!({ "rules": better }));
    let version = Ask::get(format!("{TEMPLATES}/{id}/versions/1")).by(&ann);
    assert!(stage.ask(version).await.good(200)["published_ms"].as_i64() > Some(0));
    let usage = Ask::get(format!("{TEMPLATES}/{id}/versions/1/usage")).by(&ann);
    assert_eq!(stage.ask(usage).await.good(200)["gray"]["claimed"], 0);
    let back = Ask::new("POST", format!("{TEMPLATES}/{id}/versions/2/roll-back")).by(&ann);
    let back = stage.ask(back.json(&json!({ "change": { "reason": "r" } }))).await;
    assert_eq!(back.good(200)["changed"], false, "nobody has it");

    for (action, revision, status) in [("pause", 4, "paused"), ("resume", 5, "published"), ("end", 6, "ended")] {
        let changed = stage.ask(change(&ann, &format!("{id}/{action}"), revision)).await.good(200);
        assert_eq!(
            (&changed["template"]["status"], &changed["template"]["revision"]),
            (&json!(status), &json!(revision + 1))
        );
        assert_eq!(stage.ask(offer(&one)).await.status, if action == "resume" { 200 } else { 409 });
    }
    let get = stage.ask(Ask::get(format!("{TEMPLATES}/{id}")).by(&ann)).await.good(200);
    assert_eq!((&get["status"], &get["live_version"]), (&json!("ended"), &json!(1)));
    let list = stage.ask(Ask::get(format!("{TEMPLATES}?status=ended")).by(&ann)).await.good(200);
    assert_eq!(list["items"], json!([get]));
    let log = stage.ask(Ask::get("/v1/operator/changes?operator=ann&limit=2").by(&ann)).await.good(200);
    let actions: Vec<_> = log["items"].as_array().expect("a list").iter().map(|row| row["action"].clone()).collect();
    assert_eq!(actions, ["end", "resume"]);
    let next = log["next"].as_str().expect("there are more");
    let log = Ask::get(format!("/v1/operator/changes?operator=ann&limit=2&before={next}")).by(&ann);
    assert_eq!(stage.ask(log).await.good(200)["items"][0]["action"], "pause");
}

/// The answers to requests that fail, by their codes.
#[tokio::test]
async fn every_error_has_its_code_in_both_languages() {
    let stage = Stage::start(&[]).await;
    let (ann, user) = (stage.keys.operator("ann"), stage.keys.user(42));
    let made = stage.ask(create(&ann, "k")).await.good(201);
    let id = made["template"]["template_id"].as_str().expect("numbers of things are text").to_owned();
    let post = || Ask::new("POST", TEMPLATES).by(&ann).with("idempotency-key", "x");
    let mut other = rules();
    other["budget"]["coupons"] = json!(50);
    let other = json!({ "name": "新人券", "rules": other, "change": { "reason": "双十一" } });
    let mut wrong = rules();
    wrong["discount"] = json!({ "full_reduction": { "steps": [{ "threshold_cents": 1, "off_cents": 2 }] } });
    let wrong = json!({ "name": "n", "rules": wrong, "change": { "reason": "r" } });
    let large = " ".repeat(65 << 10);
    let get = |path: &str| Ask::get(path).by(&ann);
    for (code, field, ask) in [
        ("UNAUTHENTICATED", "", Ask::get(TEMPLATES)),
        ("UNAUTHENTICATED", "", Ask::get(TEMPLATES).with("authorization", "Basic YTpi")),
        ("TOKEN_INVALID", "", Ask::get(TEMPLATES).by("no token")),
        ("FORBIDDEN", "", Ask::get(TEMPLATES).by(&user)),
        ("FORBIDDEN", "", get("/v1/offers")),
        ("NO_ROUTE", "", Ask::get("/v1/nothing").by(&ann)),
        ("METHOD_NOT_ALLOWED", "", Ask::new("DELETE", TEMPLATES).by(&ann)),
        ("UNSUPPORTED_MEDIA_TYPE", "", post()),
        ("MALFORMED", "body", post().text("{")),
        ("MALFORMED", "name", post().json(&json!({ "name": 7 }))),
        ("MALFORMED", "rules.quotas", post().json(&json!({ "rules": { "quotas": 7 } }))),
        ("INVALID", "rules.discount.full_reduction.steps[0].off_cents", post().json(&wrong)),
        ("INVALID", "idempotency-key", Ask::new("POST", TEMPLATES).by(&ann).json(&wrong)),
        ("INVALID", "idempotency-key", post().with("x", "y").json(&wrong).with("idempotency-key", "z")),
        ("INVALID", "limit", get("/v1/operator/changes?limit=51")),
        ("INVALID", "limit", get("/v1/operator/changes?limit=many")),
        ("INVALID", "limit", get("/v1/operator/changes?limit=1&limit=2")),
        ("INVALID", "statsu", get("/v1/operator/templates?statsu=ended")),
        ("INVALID", "status", get("/v1/operator/templates?status=gone")),
        ("INVALID", "template_id", get("/v1/operator/templates/0")),
        ("INVALID", "template_id", get("/v1/operator/templates/-7")),
        ("INVALID", "change.expected_revision", {
            let path = format!("{TEMPLATES}/{id}/pause");
            Ask::new("POST", path).by(&ann).json(&json!({ "change": { "reason": "r" } }))
        }),
        ("PAYLOAD_TOO_LARGE", "", Ask::new("POST", format!("{TEMPLATES}/{id}/pause")).by(&ann).text(&large)),
        ("NOT_FOUND", "", get("/v1/operator/templates/9223372036854775807")),
        ("KEY_REUSED", "", Ask::new("POST", TEMPLATES).by(&ann).with("idempotency-key", "k").json(&other)),
        ("CONFLICT", "", change(&ann, &format!("{id}/end"), 7)),
        ("NOT_ALLOWED", "", change(&ann, &format!("{id}/pause"), 1)),
        ("WRONG_VERSION", "", change(&ann, &format!("{id}/versions/7/roll-back"), 1)),
        ("NOT_OFFERED", "", Ask::get(format!("/v1/offers/{id}")).by(&user)),
    ] {
        let english = stage.ask(ask.clone()).await;
        assert_eq!(english.code(), code, "{english:?}");
        assert_eq!(english.header("content-language"), "en");
        if !field.is_empty() {
            assert_eq!(english.body["arguments"]["field"], field, "{english:?}");
        }
        let chinese = stage.ask(ask.with("accept-language", "zh-CN, en;q=0.5")).await;
        assert_eq!((chinese.code(), chinese.header("content-language")), (code, "zh"));
        let is_chinese = |told: &Told| told.body["title"].as_str().expect("text").chars().any(|c| c as u32 > 0x4e00);
        assert!(is_chinese(&chinese) && !is_chinese(&english), "{chinese:?} {english:?}");
        // What the services call a thing is no name.
        if ["NOT_FOUND", "NOT_ALLOWED", "WRONG_VERSION", "FORBIDDEN"].contains(&code) {
            let title = chinese.body["title"].as_str().expect("text");
            assert!(!title.contains(|c: char| c.is_ascii_alphabetic()), "{title}");
        }
        let known = Code::from_name(code).expect("the catalogue has it");
        assert_eq!((english.status, chinese.status), (known.http(), known.http()));
        assert_eq!(english.headers.contains_key("www-authenticate"), known.http() == 401);
    }
}

#[tokio::test]
async fn a_token_is_refused_when_it_is_stolen_expired_or_of_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("revoked.json");
    std::fs::write(&list, "{}").expect("it can be written");
    let revoked = list.display().to_string();
    let stage = Stage::start(&["--token-audience", "coupons", "--revoked", &revoked]).await;
    let for_us = |role, subject: &str| {
        let mut bearer = bearer(role, subject);
        bearer.audience = Some("coupons".into());
        bearer
    };
    let minute = Duration::from_secs(60);
    let good = stage.keys.mint(for_us(Role::User, "42"), minute);
    stage.ask(Ask::get("/v1/offers").by(&good)).await.good(200);
    // Somebody's own secret under the name of ours, and under another.
    let others = Keys::new(folder.path().join("others"), "first");
    let unknown = Keys::new(folder.path().join("unknown"), "second");
    for (code, token) in [
        ("TOKEN_SIGNATURE", others.mint(for_us(Role::User, "42"), minute)),
        ("TOKEN_KEY_UNKNOWN", unknown.mint(for_us(Role::User, "42"), minute)),
        ("TOKEN_AUDIENCE", stage.keys.user(42)),
        ("TOKEN_INVALID", stage.keys.mint(for_us(Role::User, "everybody"), minute)),
    ] {
        let told = stage.ask(Ask::get("/v1/offers").by(&token)).await;
        assert_eq!((told.code(), told.status), (code, 401));
    }
    let short = stage.keys.mint(for_us(Role::User, "42"), Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let told = stage.ask(Ask::get("/v1/offers").by(&short)).await;
        if told.status == 401 {
            assert_eq!(told.code(), "TOKEN_EXPIRED");
            break;
        }
        assert!(Instant::now() < until, "it does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // All that the bearer of a stolen one had so far is refused, while it runs.
    let stolen = stage.keys.mint(for_us(Role::User, "43"), minute);
    stage.ask(Ask::get("/v1/offers").by(&stolen)).await.good(200);
    let now = SystemClock::start().now().0 / 1_000;
    let bearer = json!({ "role": "user", "sub": "43", "issued_before": now + 1 });
    std::fs::write(&list, json!({ "bearers": [bearer] }).to_string()).expect("it can be written");
    let until = Instant::now() + Duration::from_secs(5);
    while stage.ask(Ask::get("/v1/offers").by(&stolen)).await.status != 401 {
        assert!(Instant::now() < until, "it is not revoked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.ask(Ask::get("/v1/offers").by(&stolen)).await.code(), "TOKEN_REVOKED");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fresh = stage.keys.mint(for_us(Role::User, "43"), minute);
    stage.ask(Ask::get("/v1/offers").by(&fresh)).await.good(200);
    stage.ask(Ask::get("/v1/offers").by(&good)).await.good(200);
    // Another key takes the place of the first one, while it runs.
    let renewed = Keys::new(stage.keys.path.clone(), "second");
    let token = renewed.mint(for_us(Role::User, "42"), minute);
    let until = Instant::now() + Duration::from_secs(5);
    while stage.ask(Ask::get("/v1/offers").by(&token)).await.status != 200 {
        assert!(Instant::now() < until, "the new key is not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.ask(Ask::get("/v1/offers").by(&good)).await.code(), "TOKEN_KEY_UNKNOWN");
}

/// Two sets at a URL, the second in the place of the first after some time: no token of a new key waits for it, and
/// invented names do not make the gateway ask all the time.
#[tokio::test]
async fn keys_at_a_url_are_read_again_for_a_name_that_is_new() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("it has one"));
    let (publish, published) = tokio::sync::watch::channel(public_keys("a"));
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let read = socket.read(&mut head).await.expect("it asks");
            assert!(head[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
            count.send_modify(|count| *count += 1);
            let text = published.borrow().clone();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
            socket.write_all(answer.as_bytes()).await.expect("it listens");
        }
    });
    let gateway = Gateway::start(&["--jwks", &url]).await;
    let code = async |kid: &str| {
        // Signed by nobody: a name that is known is found out by the signature.
        let parts = [format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), "{}".to_owned()];
        let token = parts.map(|part| base64url(part.as_bytes())).join(".") + ".AAAA";
        gateway.ask(Ask::get("/v1/offers").by(&token)).await.code().to_owned()
    };
    assert_eq!((code("a").await, *counted.borrow()), ("TOKEN_SIGNATURE".to_owned(), 1));
    publish.send_replace(public_keys("b"));
    assert_eq!((code("b").await, *counted.borrow()), ("TOKEN_SIGNATURE".to_owned(), 2));
    assert_eq!((code("a").await, code("c").await), ("TOKEN_KEY_UNKNOWN".to_owned(), "TOKEN_KEY_UNKNOWN".to_owned()));
    assert_eq!(*counted.borrow(), 2);
}

/// A set with a public key: the point that P-256 is made with.
fn public_keys(kid: &str) -> String {
    let point = ["axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"];
    json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": kid, "x": point[0], "y": point[1] }] }).to_string()
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)).collect();
    let letter = |six: &[u8]| six.iter().fold(0, |sum, bit| sum << 1 | bit) << (6 - six.len());
    bits.chunks(6).map(|six| LETTERS[usize::from(letter(six))] as char).collect()
}

#[tokio::test]
async fn an_address_has_its_allowance_behind_trusted_proxies_only() {
    let stage = Stage::start(&["--address-per-second", "2", "--trusted-proxy", "127.0.0.0/8"]).await;
    let from = |addresses: &str| Ask::get("/v1/offers").with("x-forwarded-for", addresses);
    for _ in 0..2 {
        assert_eq!(stage.ask(from("198.51.100.7, 192.0.2.1")).await.status, 401);
    }
    let told = stage.ask(from("198.51.100.8, 192.0.2.1")).await;
    assert_eq!((told.code(), told.status, told.header("retry-after")), ("TOO_MANY_REQUESTS", 429, "1"));
    assert_eq!(stage.ask(from("192.0.2.1, 198.51.100.7")).await.status, 401);
    assert_eq!(stage.ask(Ask::get("/health")).await.good(200), json!({ "status": "serving" }));

    let open = Stage::start(&["--address-per-second", "2"]).await;
    let told =
        [open.ask(from("192.0.2.1")).await, open.ask(from("192.0.2.2")).await, open.ask(from("192.0.2.3")).await];
    assert_eq!(told.map(|told| told.status), [401, 401, 429], "nobody chooses his own address");

    let all = Stage::start(&["--requests-per-second", "1"]).await;
    let told = [all.ask(Ask::get("/v1/offers")).await, all.ask(Ask::get("/v1/offers")).await];
    assert_eq!(told.each_ref().map(Told::code), ["UNAUTHENTICATED", "SYSTEM_BUSY"]);
}

/// A service that takes connections and says nothing.
async fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    (listener, url)
}

#[tokio::test]
async fn who_finds_no_place_or_no_service_is_told_to_come_again() {
    let (_listener, url) = mute().await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new(folder.path().join("jwks"), "first");
    let jwks = keys.path.display().to_string();
    let flags = ["--jwks", &jwks, "--template", &url, "--concurrency", "1", "--timeout-ms", "700"];
    let gateway = Gateway::start(&flags).await;
    let user = keys.user(42);
    let ask = async || {
        let told = gateway.ask(Ask::get("/v1/offers").by(&user)).await;
        (told.code().to_owned(), told.status, told.header("retry-after").to_owned())
    };
    let started = Instant::now();
    let told = tokio::join!(ask(), ask(), ask());
    let mut told = [told.0, told.1, told.2];
    told.sort();
    let busy = ("SYSTEM_BUSY".to_owned(), 503, "1".to_owned());
    assert_eq!(told, [busy.clone(), busy.clone(), ("TIMEOUT".to_owned(), 504, String::new())]);
    assert!(started.elapsed() >= Duration::from_millis(700));
    let told = gateway.ask(Ask::get("/health")).await;
    assert_eq!(told.good(200), json!({ "status": "serving" }));

    let nowhere = format!("http://{}", free_address().expect("there is one"));
    let gateway = Gateway::start(&["--jwks", &jwks, "--template", &nowhere]).await;
    let told = gateway.ask(Ask::get("/v1/offers").by(&user).with("accept-language", "zh")).await;
    assert_eq!((told.code(), &told.body["title"]), ("SYSTEM_BUSY", &json!("系统繁忙，请稍后重试")));
}

/// Sends what it has, and reads to the end.
async fn raw(gateway: &Gateway, text: &str) -> String {
    let mut socket = TcpStream::connect(gateway.address).await.expect("it listens");
    socket.write_all(text.as_bytes()).await.expect("it reads");
    let mut told = String::new();
    let read = socket.read_to_string(&mut told);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("it does not wait for ever").expect("text");
    told
}

#[tokio::test]
async fn slow_clients_and_large_ones_are_not_waited_for() {
    let stage = Stage::start(&["--client-timeout-ms", "300"]).await;
    let ann = stage.keys.operator("ann");
    let head = format!("POST {TEMPLATES}/1/pause HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ann}\r\n");
    let json = "content-type: application/json\r\n";
    let told = raw(&stage.gateway, &format!("{head}{json}content-length: 9\r\n\r\n{{")).await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains(r#""code":"REQUEST_TIMEOUT""#), "{told}");
    // Whoever does not say how much he sends is stopped where it is too much.
    let chunk = format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(0x10001));
    let told = raw(&stage.gateway, &format!("{head}{json}transfer-encoding: chunked\r\n\r\n{chunk}")).await;
    assert!(told.starts_with("HTTP/1.1 413 ") && told.contains(r#""limit":"65536""#), "{told}");
    // A head that does not end is not waited for either.
    assert_eq!(raw(&stage.gateway, "GET / HTTP/1.1\r\nhost: ").await, "");
    let told = raw(&stage.gateway, &format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(17 << 10))).await;
    assert!(told.starts_with("HTTP/1.1 431 "), "{told}");
    stage.ask(Ask::get("/health")).await.good(200);
}

#[tokio::test]
async fn a_request_keeps_its_id_and_its_trace_on_the_way_to_the_services() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    // Over a connection, and in the same process.
    for stage in [Stage::start(&[]).await, Stage::within().await] {
        let user = stage.keys.user(42);
        let ask = Ask::get("/v1/offers/7").by(&user).with("x-request-id", "mine-1").with("traceparent", TRACE);
        let told = stage.ask(ask).await;
        assert_eq!((told.code(), told.header("x-request-id")), ("NOT_FOUND", "mine-1"));
        let told = stage.ask(Ask::get("/v1/offers/7").by(&user).with("x-request-id", "not one")).await;
        assert_eq!(told.header("x-request-id").len(), 16);
        let seen = stage.metadata.lock().expect("nobody panics").clone();
        let text = |at: usize, name: &str| seen[at].get(name).expect(name).to_str().expect("text").to_owned();
        assert_eq!((text(0, "traceparent"), text(0, "x-request-id")), (TRACE.to_owned(), "mine-1".to_owned()));
        assert_eq!(text(1, "x-request-id"), told.header("x-request-id"));
        assert!(text(1, "traceparent").parse::<tercet::context::Traceparent>().is_ok());
        assert!(seen.iter().all(|one| one.contains_key("grpc-timeout")));
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_answers() {
    let stage = Stage::start(&["--cors-origin", "https://shop.example"]).await;
    let from = |ask: Ask, origin: &str| ask.with("origin", origin);
    let preflight = || Ask::new("OPTIONS", TEMPLATES).with("access-control-request-method", "PUT");
    let told = stage.ask(from(preflight(), "https://shop.example")).await;
    assert_eq!((told.status, told.header("access-control-allow-origin")), (204, "https://shop.example"));
    assert!(told.header("access-control-allow-headers").contains("idempotency-key"), "{told:?}");
    let told = stage.ask(from(Ask::get("/v1/offers"), "https://shop.example")).await;
    assert_eq!((told.code(), told.header("access-control-allow-origin")), ("UNAUTHENTICATED", "https://shop.example"));
    let told = stage.ask(from(preflight(), "https://evil.example")).await;
    assert_eq!(told.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_request_under_way_is_answered_though_the_gateway_stops() {
    let (listener, url) = mute().await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new(folder.path().join("jwks"), "first");
    let jwks = keys.path.display().to_string();
    let mut gateway = Gateway::start(&["--jwks", &jwks, "--template", &url, "--timeout-ms", "500"]).await;
    let (address, user) = (gateway.address, keys.user(42));
    let text = format!("GET /v1/offers HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user}\r\n\r\n");
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    socket.write_all(text.as_bytes()).await.expect("it reads");
    // It is under way when it has reached the service.
    let _connection = listener.accept().await.expect("it is asked");
    gateway.tell_to_stop();
    let mut told = String::new();
    socket.read_to_string(&mut told).await.expect("it is answered");
    assert!(told.starts_with("HTTP/1.1 504 "), "{told}");
    gateway.stopped().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

/// What the document says is there, and what is there is in the document.
#[tokio::test]
async fn the_document_knows_every_route_and_every_code() {
    let stage = Stage::start(&[]).await;
    let document = stage.ask(Ask::get("/openapi.json")).await.good(200);
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let coupons = ["{template_id}", "{version}", "{coupon_id}", "{batch_id}", "{occasion_id}", "{campaign_id}"];
        let parts = [&coupons[..], &["{key}", "{order_id}", "{shop_id}", "{user_id}", "{product_id}"]].concat();
        let address = parts.iter().fold(path.clone(), |path, part| path.replace(part, "1"));
        assert!(!address.contains('{'), "{path} has a part that this test does not know");
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(names.insert(operation["operationId"].to_string()), "{operation} is there twice");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 8), "{path} says what it does");
            let told = stage.ask(Ask::new(&method.to_uppercase(), &*address)).await;
            let wants_token = operation.get("security").is_some();
            assert_eq!(told.status, if wants_token { 401 } else { 200 }, "{method} {path}");
            let parameters = operation["parameters"].as_array().expect("a list");
            let in_path = parameters.iter().filter(|own| own["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{path} has parameters of its own");
        }
    }
    assert!(names.len() > 15, "{names:?}");
    let codes: Vec<_> =
        document["x-codes"].as_array().expect("a list").iter().map(|code| code["code"].clone()).collect();
    assert_eq!(codes, Code::ALL.iter().map(|code| json!(code.name())).collect::<Vec<_>>());
    references(&document, &document);
    let page = stage.ask(Ask::get("/")).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "it needs nothing from elsewhere");
}

/// Each leads somewhere.
fn references(value: &Value, document: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(place) = fields.get("$ref").and_then(Value::as_str) {
                let found = document.pointer(place.trim_start_matches('#'));
                assert!(found.is_some_and(|found| found["type"].is_string()), "{place} is nowhere");
            }
            fields.values().for_each(|field| references(field, document));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, document)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
