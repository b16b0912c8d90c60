//! What users are offered, and what they are told of the coupons that they have, over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::coupons::{claim, published};
use super::stage::{Ask, Asks, Gateway, Platform, Stage};
use super::{TEMPLATES, change, create, rules};

/// Rules that take a part off, for so many things of shop 9.
fn better(ids: usize) -> Value {
    let mut better = rules();
    better["discount"] = json!({ "percentage": { "off_basis_points": 1_500, "cap_cents": 400 } });
    better["scope"] = json!({ "products": { "ids": (1..=ids).map(|id| id.to_string()).collect::<Vec<_>>() } });
    better
}

async fn set_rules(asks: &impl Asks, operator: &str, id: &str, revision: u64, rules: &Value) {
    let body = json!({ "rules": rules, "change": { "expected_revision": revision, "reason": "r" } });
    asks.ask(Ask::new("PUT", format!("{TEMPLATES}/{id}/rules")).by(operator).json(&body)).await.good(200);
}

async fn gray(asks: &impl Asks, operator: &str, id: &str, revision: u64, user_id: &str) {
    let body =
        json!({ "audience": { "user_ids": [user_id] }, "change": { "expected_revision": revision, "reason": "r" } });
    asks.ask(Ask::new("POST", format!("{TEMPLATES}/{id}/gray")).by(operator).json(&body)).await.good(200);
}

async fn list(asks: &impl Asks, by: &str, query: &str) -> Value {
    asks.ask(Ask::get(format!("/v1/offers{query}")).by(by)).await.good(200)
}

/// Ids and versions, page by page.
async fn pages(asks: &impl Asks, by: &str, limit: u32) -> Vec<(String, u64)> {
    let (mut found, mut after) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = list(asks, by, &format!("?limit={limit}{after}")).await;
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= limit as usize, "{page}");
        found.extend(items.iter().map(|own| {
            let id = own["template_id"].as_str().expect("numbers of things are text").to_owned();
            (id, own["version"].as_u64().expect("a number"))
        }));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
    panic!("it does not end");
}

#[tokio::test]
async fn a_template_that_is_tried_is_listed_to_everyone_in_the_version_that_he_gets() {
    let stage = Stage::start(&[]).await;
    let (ann, one, two) = (stage.keys.operator("ann"), stage.keys.user(42), stage.keys.user(43));
    let id = published(&stage, &ann, "spring", &rules()).await;
    set_rules(&stage, &ann, &id, 3, &better(25)).await;
    gray(&stage, &ann, &id, 4, "42").await;
    let tried = list(&stage, &one, "").await["items"][0].clone();
    assert_eq!((&tried["template_id"], &tried["name"], &tried["version"]), (&json!(id), &json!("spring"), &json!(2)));
    let terms = &tried["terms"];
    assert_eq!(terms["discount"], better(25)["discount"]);
    assert_eq!(terms["scope"]["products"]["ids"].as_array().map(Vec::len), Some(20), "as many as lists name");
    assert_eq!((&terms["scope_left_out"], &tried["validity"]["days_from_claim"]), (&json!(5), &json!(7)));
    let lived = list(&stage, &two, "").await["items"][0].clone();
    assert_eq!((&lived["version"], &lived["terms"]["discount"]), (&json!(1), &rules()["discount"]));
    assert_eq!(lived["terms"].get("scope_left_out"), None);

    // What can not be claimed in the version that one gets is not listed to him alone.
    let mut late = better(1);
    late["claim"]["start_ms"] = json!(32_503_679_999_999_i64);
    let other = published(&stage, &ann, "other", &rules()).await;
    set_rules(&stage, &ann, &other, 3, &late).await;
    gray(&stage, &ann, &other, 4, "42").await;
    assert_eq!(pages(&stage, &one, 20).await, [(id.clone(), 2)]);
    assert_eq!(pages(&stage, &two, 20).await, [(id.clone(), 1), (other, 1)]);
    stage.ask(change(&ann, &format!("{id}/end"), 5)).await.good(200);
    assert_eq!(pages(&stage, &one, 20).await, []);
}

#[tokio::test]
async fn pages_of_offers_have_each_once_whoever_it_is_for() {
    let stage = Stage::start(&["--address-per-second", "0"]).await;
    let (ann, one, two) = (stage.keys.operator("ann"), stage.keys.user(42), stage.keys.user(43));
    let mut wanted = Vec::new();
    for number in 0..9 {
        let name = format!("template {number}");
        if number % 3 == 0 {
            wanted.push((published(&stage, &ann, &name, &rules()).await, 1));
            continue;
        }
        let made = stage.ask(create(&ann, &name)).await.good(201);
        let id = made["template"]["template_id"].as_str().expect("numbers of things are text").to_owned();
        // Most are tried by somebody else.
        gray(&stage, &ann, &id, 1, if number % 3 == 1 { "42" } else { "7" }).await;
        if number % 3 == 1 {
            wanted.push((id, 1));
        }
    }
    for limit in [1, 2, 4, 50] {
        assert_eq!(pages(&stage, &one, limit).await, wanted, "{limit}");
    }
    let for_all: Vec<_> = wanted.into_iter().step_by(2).collect();
    assert_eq!(pages(&stage, &two, 1).await, for_all);
}

#[tokio::test]
async fn whoever_comes_too_late_or_while_it_is_paused_is_told_so() {
    let platform = Platform::start(&[]).await;
    let (ann, user) = (platform.keys.operator("ann"), platform.keys.user(42));
    let id = published(&platform, &ann, "spring", &rules()).await;
    let batch = |batch_id: &str| {
        let body = json!({ "batch_id": batch_id, "template_id": id, "user_ids": ["7"], "coupons_per_user": 1,
            "reason": "r" });
        Ask::new("POST", "/v1/operator/batches").by(&ann).json(&body)
    };
    for (action, revision, code, zh, en) in [
        ("pause", 3, "PAUSED", "领取已暂停，请稍后再来", "It can not be claimed for now, please come again later"),
        ("end", 4, "OVER", "领取已结束", "It can not be claimed any more"),
    ] {
        platform.ask(change(&ann, &format!("{id}/{action}"), revision)).await.good(200);
        // Issuing knows it a second later.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        for (language, title) in [("zh", zh), ("en", en)] {
            for ask in [Ask::get(format!("/v1/offers/{id}")).by(&user), claim(&user, &id, "k"), batch(action)] {
                let told = platform.ask(ask.with("accept-language", language)).await;
                assert_eq!((told.code(), told.status, &told.body["title"]), (code, 409, &json!(title)));
            }
        }
        assert_eq!(list(&platform, &user, "").await["items"], json!([]));
    }
}

#[tokio::test]
async fn a_coupon_tells_what_it_is_good_for_whatever_became_of_its_template() {
    let platform = Platform::start(&[]).await;
    let (ann, user) = (platform.keys.operator("ann"), platform.keys.user(42));
    let id = published(&platform, &ann, "spring gift", &better(25)).await;
    let made = platform.ask(claim(&user, &id, "k")).await.good(201);
    platform.ask(change(&ann, &format!("{id}/end"), 3)).await.good(200);

    let jwks = platform.running.jwks().display().to_string();
    let issuing = format!("http://{}", platform.running.addresses.issuing);
    let before =
        async |template: &str| Gateway::start(&["--jwks", &jwks, "--issuing", &issuing, "--template", template]).await;
    // One that has seen nothing yet, and one that can not ask.
    let fresh = before(&format!("http://{}", platform.running.addresses.template)).await;
    let alone = before("http://127.0.0.1:1").await;
    let path = format!("/v1/coupons/{}", made["coupon_id"].as_str().expect("text"));
    let of_operator = path.replace("/v1/coupons", "/v1/operator/coupons");
    let mut whole = fresh.ask(Ask::get(&path).by(&user)).await.good(200);
    // A first answer may take longer than anybody waits for it.
    for _ in 0..10 {
        if whole["name"].is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        whole = fresh.ask(Ask::get(&path).by(&user)).await.good(200);
    }
    assert_eq!((&whole["name"], &whole["terms"]["discount"]), (&json!("spring gift"), &better(25)["discount"]));
    assert_eq!((&whole["terms"]["scope"], &whole["terms"]["stacking"]), (&better(25)["scope"], &rules()["stacking"]));
    assert_eq!(whole, made, "a claim tells the same");
    assert_eq!(fresh.ask(Ask::get(&of_operator).by(&ann)).await.good(200), whole);
    let listed = fresh.ask(Ask::get("/v1/coupons").by(&user)).await.good(200)["items"][0].clone();
    assert_eq!((&listed["name"], &listed["terms"]["scope_left_out"]), (&json!("spring gift"), &json!(5)));
    for (path, by) in [(&*path, &user), ("/v1/coupons", &user), ("/v1/operator/coupons", &ann)] {
        let told = alone.ask(Ask::get(path).by(by)).await.good(200);
        let coupon = told.get("items").map_or(&told, |items| &items[0]);
        assert_eq!(coupon["coupon_id"], made["coupon_id"]);
        assert_eq!((coupon.get("name"), coupon.get("terms")), (None, None));
    }
}
