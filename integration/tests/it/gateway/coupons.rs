//! Coupons over HTTP, in the embedded default: claims, limits, other users' coupons, and batches.

use serde_json::{Value, json};

use super::stage::{Ask, Asks, Platform};
use super::{TEMPLATES, rules};

/// A published template with these rules.
pub(super) async fn published(asks: &impl Asks, operator: &str, name: &str, rules: &Value) -> String {
    let body = json!({ "name": name, "rules": rules, "change": { "reason": "r" } });
    let create = Ask::new("POST", TEMPLATES).by(operator).with("idempotency-key", name).json(&body);
    let made = asks.ask(create).await.good(201);
    let id = made["template"]["template_id"].as_str().expect("numbers of things are text").to_owned();
    let everyone = json!({ "basis_points": 10_000 });
    let body = json!({ "audience": everyone, "change": { "expected_revision": 1, "reason": "r" } });
    asks.ask(Ask::new("POST", format!("{TEMPLATES}/{id}/gray")).by(operator).json(&body)).await.good(200);
    let promote = Ask::new("POST", format!("{TEMPLATES}/{id}/versions/1/promote")).by(operator);
    asks.ask(promote.json(&json!({ "change": { "reason": "r" } }))).await.good(200);
    id
}

pub(super) fn claim(user: &str, template_id: &str, key: &str) -> Ask {
    Ask::new("POST", "/v1/coupons").by(user).with("idempotency-key", key).json(&json!({ "template_id": template_id }))
}

#[tokio::test]
async fn a_user_claims_once_for_each_key_and_sees_only_his_own() {
    let platform = Platform::start(&[]).await;
    let (ann, one, two) = (platform.keys.operator("ann"), platform.keys.user(42), platform.keys.user(43));
    let mut wide = rules();
    wide["quota"] = json!({ "per_user": 2, "per_user_day": 2 });
    let id = published(&platform, &ann, "wide", &wide).await;
    let other = published(&platform, &ann, "other", &rules()).await;

    let coupon = platform.ask(claim(&one, &id, "a")).await.good(201);
    assert_eq!(
        (&coupon["template_id"], &coupon["user_id"], &coupon["status"]),
        (&json!(id), &json!("42"), &json!("available"))
    );
    let again = platform.ask(claim(&one, &id, "a")).await.good(200);
    assert_eq!(again["coupon_id"], coupon["coupon_id"]);
    assert_eq!(platform.ask(claim(&one, &other, "a")).await.code(), "KEY_REUSED");
    let second = platform.ask(claim(&one, &id, "b")).await.good(201);
    assert_ne!(second["coupon_id"], coupon["coupon_id"]);
    let told = platform.ask(claim(&one, &id, "c")).await;
    assert_eq!((told.code(), &told.body["arguments"]["limit"]), ("PER_USER_LIMIT", &json!("2")));
    // The keys of another user are his own, and so is his list.
    let third = platform.ask(claim(&two, &id, "a")).await.good(201);
    assert_eq!(platform.ask(Ask::get("/v1/coupons").by(&two)).await.good(200)["items"], json!([third]));

    let own = platform.ask(Ask::get("/v1/coupons?limit=1").by(&one)).await.good(200);
    assert_eq!(own["items"][0]["coupon_id"], second["coupon_id"], "newest first");
    let next = own["next"].as_str().expect("there is another");
    let own = platform.ask(Ask::get(format!("/v1/coupons?limit=1&after={next}")).by(&one)).await.good(200);
    assert_eq!(own["items"][0]["coupon_id"], coupon["coupon_id"]);
    let own = platform.ask(Ask::get("/v1/coupons?status=used").by(&one)).await.good(200);
    assert_eq!(own["items"], json!([]));

    let path = format!("/v1/coupons/{}", coupon["coupon_id"].as_str().expect("text"));
    assert_eq!(platform.ask(Ask::get(&path).by(&one)).await.good(200)["coupon_id"], coupon["coupon_id"]);
    assert_eq!(platform.ask(Ask::get(&path).by(&two)).await.code(), "NOT_FOUND", "nobody learns that it is there");
    let path = path.replace("/v1/coupons", "/v1/operator/coupons");
    assert_eq!(platform.ask(Ask::get(&path).by(&ann)).await.good(200)["user_id"], "42");
    assert_eq!(platform.ask(Ask::get(&path).by(&one)).await.code(), "FORBIDDEN");
    let all = platform.ask(Ask::get(format!("/v1/operator/coupons?template_id={id}")).by(&ann)).await.good(200);
    assert_eq!(all["items"].as_array().map(Vec::len), Some(3));

    // For whoever is on the phone with a user.
    let of = async |query: &str| {
        let ask = Ask::get(format!("/v1/operator/coupons?{query}")).by(&ann);
        platform.ask(ask).await.good(200)["items"].clone()
    };
    let mine = platform.ask(Ask::get("/v1/coupons").by(&one)).await.good(200)["items"].clone();
    assert_eq!((of("user_id=42").await, mine.as_array().map(Vec::len)), (mine, Some(2)));
    assert_eq!(of("user_id=42&status=used").await, json!([]));
    assert_eq!(of(&format!("user_id=42&template_id={other}")).await, json!([]));
    assert_eq!(of(&format!("user_id=43&template_id={id}")).await, json!([third]));

    // Without a key each is a claim of its own.
    let keyless = || Ask::new("POST", "/v1/coupons").by(&two).json(&json!({ "template_id": id }));
    let fourth = platform.ask(keyless()).await.good(201);
    assert_ne!(fourth["coupon_id"], third["coupon_id"]);
    assert_eq!(platform.ask(keyless()).await.code(), "PER_USER_LIMIT");
    let document = platform.ask(Ask::get("/openapi.json")).await.good(200);
    let key = |path: &str| document["paths"][path]["post"]["parameters"][0].clone();
    for (path, required) in [("/v1/coupons", false), (TEMPLATES, true)] {
        let key = key(path);
        assert_eq!((&key["name"], &key["required"]), (&json!("Idempotency-Key"), &json!(required)), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_to_be_had_is_told_by_its_code() {
    let platform = Platform::start(&[]).await;
    let ann = platform.keys.operator("ann");
    let with = |changes: &[(&str, Value)]| {
        let mut rules = rules();
        for (name, value) in changes {
            rules[*name] = value.clone();
        }
        rules
    };
    let (one, later) = (json!({ "per_user": 1, "per_user_day": 1 }), 32_503_680_000_000_i64);
    let few = with(&[("quota", one), ("budget", json!({ "coupons": 1, "cents": 500 }))]);
    let daily = with(&[("quota", json!({ "per_user": 2, "per_user_day": 1 }))]);
    let late = with(&[("claim", json!({ "start_ms": later, "end_ms": later + 1 }))]);
    let past = with(&[("claim", json!({ "start_ms": 1, "end_ms": 2 }))]);
    let mut ids = Vec::new();
    for (name, rules) in [("few", &few), ("daily", &daily), ("late", &late), ("past", &past)] {
        ids.push(published(&platform, &ann, name, rules).await);
    }
    let [few, daily, late, past] = &ids[..] else { panic!("four") };
    let user = |user_id| platform.keys.user(user_id);
    platform.ask(claim(&user(1), few, "a")).await.good(201);
    platform.ask(claim(&user(1), daily, "b")).await.good(201);
    for (code, ask) in [
        ("SOLD_OUT", claim(&user(2), few, "a")),
        ("PER_USER_DAY_LIMIT", claim(&user(1), daily, "c")),
        ("NOT_STARTED", claim(&user(3), late, "a")),
        ("OVER", claim(&user(3), past, "a")),
        ("NOT_FOUND", claim(&user(3), "9223372036854775807", "a")),
        ("NOT_FOUND", Ask::get("/v1/coupons/1").by(&user(3))),
        ("FORBIDDEN", claim(&ann, few, "a")),
        ("INVALID", Ask::get("/v1/coupons?limit=101").by(&user(3))),
    ] {
        assert_eq!(platform.ask(ask).await.code(), code);
    }
}

#[tokio::test]
async fn a_user_claims_ten_times_a_minute() {
    let platform = Platform::start(&[]).await;
    let (one, two) = (platform.keys.user(42), platform.keys.user(43));
    for turn in 0..10 {
        assert_eq!(platform.ask(claim(&one, "7", &turn.to_string())).await.code(), "NOT_FOUND");
    }
    let told = platform.ask(claim(&one, "7", "10")).await;
    assert_eq!((told.code(), told.status), ("TOO_MANY_REQUESTS", 429));
    let seconds = told.header("retry-after").parse::<u32>().expect("a number");
    assert!((1..=6).contains(&seconds), "{seconds}");
    assert_eq!(platform.ask(claim(&two, "7", "0")).await.code(), "NOT_FOUND", "others may");
    platform.ask(Ask::get("/v1/coupons").by(&one)).await.good(200);
}

#[tokio::test]
async fn a_batch_tells_how_far_it_is_and_is_issued_once() {
    let platform = Platform::start(&[]).await;
    let (ann, user) = (platform.keys.operator("ann"), platform.keys.user(7));
    let id = published(&platform, &ann, "gift", &rules()).await;
    let named = |batch_id: &str, coupons_per_user: u32| {
        let ids = ["7", "8", "9"];
        let body = json!({
            "batch_id": batch_id,
            "template_id": id,
            "user_ids": ids,
            "coupons_per_user": coupons_per_user,
            "reason": "r",
        });
        Ask::new("POST", "/v1/operator/batches").by(&ann).json(&body)
    };
    let batch = |coupons_per_user| named("spring", coupons_per_user);
    for _ in 0..2 {
        let told = platform.ask(batch(2)).await;
        assert_eq!((told.status, told.header("content-type")), (200, "application/x-ndjson"), "{told:?}");
        let last: Value = serde_json::from_str(told.text.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["state"], &last["issued"], &last["coupons"]), (&json!("done"), &json!(6), &json!(6)));
        assert_eq!(platform.ask(Ask::get("/v1/operator/batches/spring").by(&ann)).await.good(200), last);
    }
    let own = platform.ask(Ask::get("/v1/coupons").by(&user)).await.good(200);
    assert_eq!(own["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(platform.ask(batch(1)).await.code(), "KEY_REUSED");
    let refused = platform.ask(named("occasion/7", 1).with("accept-language", "zh")).await;
    assert_eq!((refused.status, refused.code()), (400, "INVALID"), "{refused:?}");
    assert_eq!(refused.body["title"], "batch_id：不能以 occasion/ 开头");
    assert_eq!(platform.ask(Ask::get("/v1/operator/batches/autumn").by(&ann)).await.code(), "NOT_FOUND");
}
