//! Redemptions over HTTP: by users, shops and operators in the embedded default, and while there is no coordinator.

use serde_json::{Value, json};
use tercet_gateway::token::Role;

use super::coupons::{claim, published};
use super::rules;
use super::stage::{Ask, Asks as _, Gateway, Keys, Platform, bearer};
use crate::redemption::world;

/// Of this shop, for 100 yuan in all.
fn lines(shop_id: &str) -> Value {
    json!([{ "product_id": "1", "category_id": "2", "shop_id": shop_id, "price_cents": 5_000, "quantity": 2 }])
}

/// So many units of a product of shop 9, each for 50 yuan.
fn product(product_id: &str, quantity: u32) -> Value {
    json!({ "product_id": product_id, "category_id": "2", "shop_id": "9", "price_cents": 5_000, "quantity": quantity })
}

fn redeem(by: &str, path: &str, key: &str, body: &Value) -> Ask {
    Ask::new("POST", path).by(by).with("idempotency-key", key).json(body)
}

/// There are five units of product 1 from now on.
async fn supply(platform: &Platform, operator: &str) {
    let path = "/v1/operator/products/1/stock";
    let set_by = |by: &str, units: i64, revision: u64| {
        let body = json!({ "units": units, "expected_revision": revision, "reason": "a delivery" });
        Ask::new("PUT", path).by(by).json(&body)
    };
    let set = |units, revision| set_by(operator, units, revision);
    assert_eq!(platform.ask(Ask::get(path).by(operator)).await.code(), "NOT_STOCKED");
    for _ in 0..2 {
        let told = platform.ask(set(7, 0)).await.good(200);
        assert_eq!((&told["units"], &told["free"], &told["revision"]), (&json!(7), &json!(7), &json!(1)));
    }
    assert_eq!(platform.ask(set(8, 0)).await.code(), "CONFLICT");
    let told = platform.ask(set(5, 1)).await.good(200);
    assert_eq!((&told["units"], &told["issued"], &told["revision"]), (&json!(5), &json!(0), &json!(2)));
    assert_eq!(platform.ask(Ask::get(path).by(operator)).await.good(200), told);
    assert_eq!(platform.ask(set(-1, 2)).await.body["arguments"]["field"], "units");
    assert_eq!(platform.ask(set_by(&platform.keys.user(42), 5, 2)).await.code(), "FORBIDDEN");
}

async fn the_log_has_who_did_it_and_why(platform: &Platform) {
    let by_bob = platform.logged("order_id=8&operator=bob", 1).await;
    assert_eq!((&by_bob[0]["action"], &by_bob[0]["reason"]), (&json!("order refunded"), &json!("broken")));
    let of_ann = platform.logged("operator=ann", 5).await;
    let (action, before) = (&of_ann[0]["action"], of_ann[0]["before"].as_str().expect("text"));
    assert_eq!((action, &of_ann[0]["reason"]), (&json!("product set_stock"), &json!("a delivery")));
    assert_eq!(before, r#"{"free":7,"issued":0,"reserved":0,"units":7}"#);
    let promoted = of_ann.iter().find(|entry| entry["action"] == "template promote").expect("it was promoted");
    assert!(promoted["after"].as_str().is_some_and(|after| after.contains(r#""status":"published""#)), "{promoted}");
}

#[tokio::test]
async fn coupons_are_tried_used_and_given_back_by_whom_they_concern() {
    let platform = Platform::start(&[]).await;
    let (ann, one, two) = (platform.keys.operator("ann"), platform.keys.user(42), platform.keys.user(43));
    let minute = std::time::Duration::from_secs(60);
    let shop = platform.keys.mint(bearer(Role::Shop, "bob"), minute);
    let mut wide = rules();
    wide["quota"] = json!({ "per_user": 2, "per_user_day": 2 });
    let template = published(&platform, &ann, "wide", &wide).await;
    let mut coupon_ids = Vec::new();
    for key in ["a", "b"] {
        coupon_ids.push(platform.ask(claim(&one, &template, key)).await.good(201)["coupon_id"].clone());
    }
    let [first, second] = &coupon_ids[..] else { panic!("two") };

    supply(&platform, &ann).await;
    let body = json!({ "lines": lines("9") });
    let told = platform.ask(Ask::new("POST", "/v1/orders/validate").by(&one).json(&body)).await.good(200);
    assert_eq!((&told["best"]["discount_cents"], &told["best"]["amount_cents"]), (&json!(500), &json!(10_000)));
    assert_eq!(told["coupons"].as_array().map(Vec::len), Some(2));
    let left_out = told["coupons"].as_array().expect("a list").iter().find(|own| own.get("left_out").is_some());
    assert_eq!(left_out.expect("they stand alone")["left_out"]["code"], "NOT_STACKABLE");
    let named = json!({ "lines": lines("9"), "coupon_ids": [first] });
    let strange = Ask::new("POST", "/v1/orders/validate").by(&two).with("accept-language", "zh").json(&named);
    let refusal = platform.ask(strange).await.good(200)["coupons"][0]["refusal"].clone();
    assert_eq!(refusal["code"], "NOT_FOUND");
    assert!(refusal["title"].as_str().expect("text").contains("不存在"), "{refusal}");

    let wanted = json!({ "order_id": "7", "lines": lines("9"), "coupon_ids": [first], "discount_cents": 500 });
    assert_eq!(platform.ask(redeem(&two, "/v1/redemptions", "k", &wanted)).await.code(), "NOT_FOUND");
    let done = platform.ask(redeem(&one, "/v1/redemptions", "k", &wanted)).await.good(200);
    assert_eq!((&done["state"], &done["combination"]["discount_cents"]), (&json!("done"), &json!(500)));
    assert_eq!(platform.ask(redeem(&one, "/v1/redemptions", "k", &wanted)).await.good(200)["state"], "done");
    for (code, key, change) in [
        ("KEY_REUSED", "k", json!({ "order_id": "8" })),
        ("COUPON_TAKEN", "l", json!({ "order_id": "8" })),
        ("ORDER_EXISTS", "m", json!({ "coupon_ids": [second] })),
        ("AMOUNT_CHANGED", "n", json!({ "coupon_ids": [second], "order_id": "8", "discount_cents": 501 })),
        ("INVALID", "o", json!({ "coupon_ids": [] })),
        ("OUT_OF_STOCK", "p", json!({ "coupon_ids": [second], "order_id": "8", "lines": [product("1", 4)] })),
        ("NOT_STOCKED", "q", json!({ "coupon_ids": [second], "order_id": "8", "lines": [product("77", 1)] })),
    ] {
        let mut other = wanted.clone();
        other.as_object_mut().expect("a record").extend(change.as_object().expect("a record").clone());
        if change.get("lines").is_some() {
            other.as_object_mut().expect("a record").remove("discount_cents");
        }
        assert_eq!(platform.ask(redeem(&one, "/v1/redemptions", key, &other)).await.code(), code);
    }
    for path in ["/v1/redemptions/k", "/v1/orders/7/redemption"] {
        assert_eq!(platform.ask(Ask::get(path).by(&one)).await.good(200)["order_id"], "7");
        assert_eq!(platform.ask(Ask::get(path).by(&two)).await.code(), "NOT_FOUND", "another user's is nobody's");
    }
    let path = "/v1/operator/users/42/orders/7/redemption";
    assert_eq!(platform.ask(Ask::get(path).by(&ann)).await.good(200)["state"], "done");
    assert_eq!(platform.ask(Ask::get(path).by(&one)).await.code(), "FORBIDDEN");

    // A shop does the same for its own orders alone.
    let body =
        |shop_id: &str| json!({ "user_id": "42", "order_id": "8", "lines": lines(shop_id), "coupon_ids": [second] });
    let path = "/v1/shop/redemptions";
    assert_eq!(platform.ask(redeem(&shop, path, "s", &body("10"))).await.code(), "OTHER_SHOP");
    assert_eq!(platform.ask(redeem(&one, path, "s", &body("9"))).await.code(), "FORBIDDEN");
    assert_eq!(platform.ask(redeem(&shop, path, "s", &body("9"))).await.good(200)["state"], "done");
    let reason = json!({ "reason": "broken" });
    let by_shop = Ask::new("POST", "/v1/shop/users/42/orders/8/refund").by(&shop).json(&reason);
    assert_eq!(platform.ask(by_shop).await.good(200)["returned_coupon_ids"], json!([second]));
    let own = |path: &str| Ask::new("POST", path).by(&one).json(&reason);
    assert_eq!(platform.ask(own("/v1/orders/99/refund")).await.code(), "NOT_FOUND");
    for _ in 0..2 {
        let told = platform.ask(own("/v1/orders/7/refund")).await.good(200);
        assert_eq!(told, json!({ "state": "done", "returned_coupon_ids": [first] }));
    }
    assert_eq!(platform.ask(Ask::get("/v1/orders/7/redemption").by(&one)).await.good(200)["state"], "refunded");

    the_log_has_who_did_it_and_why(&platform).await;
}

#[tokio::test]
async fn without_a_coordinator_a_redemption_is_kept_and_told_so_and_without_the_service_the_system_is_busy() {
    let mut world = world::on_sqlite().await;
    let coupon = world.own(world::universal(500, 2)).await.to_string();
    world.with_orders(&[(1, 100)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new(folder.path().join("jwks.json"), "first");
    let (jwks, user) = (keys.path.display().to_string(), keys.user(world::USER));
    let at = async |redemption: &str| Gateway::start(&["--jwks", &jwks, "--redemption", redemption]).await;
    let gateway = at(&format!("http://{}", world.address)).await;
    let wanted = json!({ "order_id": "7", "lines": lines("3"), "coupon_ids": [coupon] });
    let asked = redeem(&user, "/v1/redemptions", "k", &wanted);

    world.coordinator.crash().await;
    assert_eq!(gateway.ask(asked.clone()).await.good(202)["state"], "kept");
    assert_eq!(gateway.ask(Ask::get("/v1/redemptions/k").by(&user)).await.good(202)["state"], "kept");
    world.coordinator.start_again().await;
    world::until("it is done", async || {
        gateway.ask(Ask::get("/v1/redemptions/k").by(&user)).await.body["state"] == "done"
    })
    .await;
    assert_eq!(gateway.ask(asked.clone()).await.good(200)["state"], "done");

    let nowhere = at("http://127.0.0.1:1").await;
    for (language, text) in [("en", "The system is busy, please try again later"), ("zh", "系统繁忙，请稍后重试")]
    {
        let told = nowhere.ask(asked.clone().with("accept-language", language)).await;
        assert_eq!((told.status, told.code(), &told.body["title"]), (503, "SYSTEM_BUSY", &json!(text)));
    }
}
