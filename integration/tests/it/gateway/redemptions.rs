//! Redemptions over HTTP: by shops with their users' consent, and by operators, in the embedded default; and while
//! there is no coordinator.

use std::time::Duration;

use serde_json::{Value, json};
use tercet_gateway::token::{Bearer, Role};
use tercet_shards::Slot;

use super::coupons::{claim, published};
use super::rules;
use super::stage::{Ask, Asks as _, Gateway, Keys, Platform, bearer};
use crate::redemption::world;

/// Of this shop, for 100 yuan in all.
pub(super) fn lines(shop_id: &str) -> Value {
    json!([{ "product_id": "1", "category_id": "2", "shop_id": shop_id, "price_cents": 5_000, "quantity": 2 }])
}

/// So many units of a product of shop 9, each for 50 yuan.
fn product(product_id: &str, quantity: u32) -> Value {
    json!({ "product_id": product_id, "category_id": "2", "shop_id": "9", "price_cents": 5_000, "quantity": quantity })
}

/// By a shop, with a user's consent.
pub(super) fn redeem(shop: &str, consent: &str, key: &str, body: &Value) -> Ask {
    Ask::new("POST", "/v1/shop/redemptions").by(shop).consent(consent).with("idempotency-key", key).json(body)
}

/// There are five units of product 1 from now on.
async fn supply(platform: &Platform, operator: &str) {
    let path = "/v1/operator/products/1/stock";
    let set_by = |by: &str, units: i64, revision: u64| {
        let body = json!({ "units": units, "expected_revision": revision, "reason": "a delivery" });
        Ask::new("PUT", path).by(by).json(&body)
    };
    let set = |units, revision| set_by(operator, units, revision);
    let told = platform.ask(Ask::get(path).by(operator).with("accept-language", "zh")).await;
    assert_eq!((told.code(), told.status, &told.body["title"]), ("NOT_FOUND", 404, &json!("商品 1 不存在")));
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
    let by_bob = platform.logged("shop_id=9&order_id=7&operator=bob", 2).await;
    let refunded = by_bob.iter().find(|entry| entry["action"] == "order closed").expect("it was closed");
    assert_eq!(refunded["reason"], "broken");
    let used = by_bob.iter().find(|entry| entry["action"] == "coupon used").expect("it was used");
    assert_eq!((&used["shop_id"], &used["order_id"]), (&json!("9"), &json!("7")));
    assert!(used["after"].as_str().is_some_and(|after| after.contains(r#""shop_id":9"#)), "{used}");
    let of_ann = platform.logged("operator=ann", 5).await;
    let (action, before) = (&of_ann[0]["action"], of_ann[0]["before"].as_str().expect("text"));
    assert_eq!((action, &of_ann[0]["reason"]), (&json!("product set_stock"), &json!("a delivery")));
    assert_eq!(before, r#"{"free":7,"issued":0,"reserved":0,"units":7}"#);
    assert_eq!(of_ann[0]["about_id"], "1", "which product");
    let promoted = of_ann.iter().find(|entry| entry["action"] == "template promote").expect("it was promoted");
    assert!(promoted["after"].as_str().is_some_and(|after| after.contains(r#""status":"published""#)), "{promoted}");
}

/// A platform with five units of product 1, and two coupons of user 42.
async fn stocked() -> (Platform, [Value; 2]) {
    let platform = Platform::start(&[]).await;
    let (ann, one) = (platform.keys.operator("ann"), platform.keys.user(42));
    let mut wide = rules();
    wide["quota"] = json!({ "per_user": 2, "per_user_day": 2 });
    let template = published(&platform, &ann, "wide", &wide).await;
    let mut coupon_ids = Vec::new();
    for key in ["a", "b"] {
        coupon_ids.push(platform.ask(claim(&one, &template, key)).await.good(201)["coupon_id"].clone());
    }
    supply(&platform, &ann).await;
    (platform, coupon_ids.try_into().expect("two"))
}

#[tokio::test]
async fn coupons_are_tried_used_and_given_back_by_whom_they_concern() {
    let (platform, [first, second]) = stocked().await;
    let keys = &platform.keys;
    // Their coupons are in one table: whose each is is all that keeps them apart.
    let neighbour = (43..).find(|user_id| Slot::of_user(*user_id) == Slot::of_user(42)).expect("slots have many users");
    let (ann, one, two) = (keys.operator("ann"), keys.user(42), keys.user(neighbour));
    let (shop, consent) = (keys.shop("bob"), keys.consent(42, 9));
    let body = json!({ "lines": lines("9") });
    let tried = Ask::new("POST", "/v1/orders/validate").by(&one).json(&body);
    let told = platform.ask(tried).await.good(200);
    assert_eq!((&told["best"]["discount_cents"], &told["best"]["amount_cents"]), (&json!(500), &json!(10_000)));
    assert_eq!(told["coupons"].as_array().map(Vec::len), Some(2));
    let left_out = told["coupons"].as_array().expect("a list").iter().find(|own| own.get("left_out").is_some());
    assert_eq!(left_out.expect("they stand alone")["left_out"]["code"], "NOT_STACKABLE");
    let by_shop = Ask::new("POST", "/v1/shop/orders/validate").by(&shop).consent(&consent).json(&body);
    assert_eq!(platform.ask(by_shop).await.good(200), told);
    let foreign = json!({ "lines": lines("10") });
    let by_shop = Ask::new("POST", "/v1/shop/orders/validate").by(&shop).consent(&consent).json(&foreign);
    assert_eq!(platform.ask(by_shop).await.code(), "OTHER_SHOP");
    let named = json!({ "lines": lines("9"), "coupon_ids": [first] });
    let strange = Ask::new("POST", "/v1/orders/validate").by(&two).with("accept-language", "zh").json(&named);
    let refusal = platform.ask(strange).await.good(200)["coupons"][0]["refusal"].clone();
    assert_eq!(refusal["code"], "NOT_FOUND");
    assert!(refusal["title"].as_str().expect("text").contains("不存在"), "{refusal}");

    let wanted = json!({ "order_id": "7", "lines": lines("9"), "coupon_ids": [first], "discount_cents": 500 });
    let strangers = redeem(&shop, &keys.consent(neighbour, 9), "k", &wanted);
    assert_eq!(platform.ask(strangers).await.code(), "NOT_FOUND");
    let done = platform.ask(redeem(&shop, &consent, "k", &wanted)).await.good(200);
    assert_eq!((&done["state"], &done["combination"]["discount_cents"]), (&json!("done"), &json!(500)));
    // Another person of the shop may ask again.
    let again = platform.ask(redeem(&keys.shop("li"), &consent, "k", &wanted)).await.good(200);
    assert_eq!((&again["state"], &again["user_id"]), (&json!("done"), &json!("42")));
    for (code, key, change) in [
        ("KEY_REUSED", "k", json!({ "order_id": "8" })),
        ("COUPON_TAKEN", "l", json!({ "order_id": "8" })),
        ("ORDER_EXISTS", "m", json!({ "coupon_ids": [second] })),
        ("AMOUNT_CHANGED", "n", json!({ "coupon_ids": [second], "order_id": "8", "discount_cents": 501 })),
        ("INVALID", "o", json!({ "coupon_ids": [first, first] })),
        ("OUT_OF_STOCK", "p", json!({ "coupon_ids": [second], "order_id": "8", "lines": [product("1", 4)] })),
        ("NOT_STOCKED", "q", json!({ "coupon_ids": [second], "order_id": "8", "lines": [product("77", 1)] })),
        ("OTHER_SHOP", "r", json!({ "coupon_ids": [second], "order_id": "8", "lines": lines("10") })),
    ] {
        let mut other = wanted.clone();
        other.as_object_mut().expect("a record").extend(change.as_object().expect("a record").clone());
        if change.get("lines").is_some() {
            other.as_object_mut().expect("a record").remove("discount_cents");
        }
        assert_eq!(platform.ask(redeem(&shop, &consent, key, &other)).await.code(), code);
    }
    let path = "/v1/shops/9/orders/7/redemption";
    assert_eq!(platform.ask(Ask::get(path).by(&one)).await.good(200)["key"], "k");
    assert_eq!(platform.ask(Ask::get(path).by(&two)).await.code(), "NOT_FOUND", "another user's is nobody's");
    let rival = keys.mint(Bearer { shop_id: Some(10), ..bearer(Role::Shop, "eve") }, Duration::from_secs(60));
    for path in ["/v1/shop/users/42/orders/7/redemption", "/v1/shop/users/42/redemptions/k"] {
        assert_eq!(platform.ask(Ask::get(path).by(&shop)).await.good(200)["state"], "done");
        assert_eq!(platform.ask(Ask::get(path).by(&rival)).await.code(), "NOT_FOUND", "another shop's is nobody's");
    }
    let path = "/v1/operator/shops/9/users/42/orders/7/redemption";
    assert_eq!(platform.ask(Ask::get(path).by(&ann)).await.good(200)["state"], "done");
    assert_eq!(platform.ask(Ask::get(path).by(&one)).await.code(), "FORBIDDEN");

    let refund = |by: &str, path: &str| Ask::new("POST", path).by(by).json(&json!({ "reason": "broken" }));
    let path = "/v1/shop/users/42/orders/7/refund";
    assert_eq!(platform.ask(refund(&rival, path)).await.code(), "NOT_FOUND");
    assert_eq!(platform.ask(refund(&shop, "/v1/shop/users/42/orders/99/refund")).await.code(), "NOT_FOUND");
    for _ in 0..2 {
        let told = platform.ask(refund(&shop, path)).await.good(200);
        assert_eq!(told, json!({ "state": "done", "returned_coupon_ids": [first] }));
    }
    assert_eq!(platform.ask(Ask::get("/v1/shops/9/orders/7/redemption").by(&one)).await.good(200)["state"], "refunded");
    the_log_has_who_did_it_and_why(&platform).await;
}

/// Prices come from shops, consent from users, and what has left the shop is not taken back by who has it.
#[tokio::test]
async fn nobody_names_his_own_price_and_no_shop_spends_coupons_without_their_user() {
    let (platform, [first, _]) = stocked().await;
    let keys = &platform.keys;
    let (one, shop, consent) = (keys.user(42), keys.shop("bob"), keys.consent(42, 9));
    let wanted = json!({ "order_id": "7", "lines": lines("9"), "coupon_ids": [first] });
    let by_user = Ask::new("POST", "/v1/redemptions").by(&one).with("idempotency-key", "k").json(&wanted);
    assert_eq!(platform.ask(by_user).await.code(), "NO_ROUTE");
    assert_eq!(platform.ask(redeem(&one, &consent, "k", &wanted)).await.code(), "FORBIDDEN");
    for path in ["/v1/shop/redemptions", "/v1/shop/orders/validate"] {
        let ask = || Ask::new("POST", path).by(&shop).with("idempotency-key", "k").json(&wanted);
        let told = platform.ask(ask()).await;
        assert_eq!((told.code(), told.status), ("CONSENT_NEEDED", 401));
        for (code, status, token) in [
            ("CONSENT_NEEDED", 401, &one),
            ("CONSENT_NEEDED", 401, &shop),
            ("CONSENT_OTHER_SHOP", 403, &keys.consent(42, 10)),
        ] {
            let told = platform.ask(ask().consent(token).with("accept-language", "zh")).await;
            assert_eq!((told.code(), told.status), (code, status), "{path}");
            assert!(told.body["title"].as_str().is_some_and(|title| title.contains("授权")), "{told:?}");
        }
        let ended = Bearer { shop_id: Some(9), ..bearer(Role::User, "42") };
        let told = platform.ask(ask().consent(&(keys.mint(ended, Duration::from_secs(60)) + "x"))).await;
        assert_eq!(
            (told.code(), &told.body["arguments"]["header"]),
            ("TOKEN_SIGNATURE", &json!("x-user-authorization"))
        );
    }
    let named = json!({ "user_id": "42", "order_id": "7", "lines": lines("9"), "coupon_ids": [first] });
    assert_eq!(platform.ask(redeem(&shop, &consent, "k", &named)).await.code(), "MALFORMED");
    // It is good for nothing else.
    for path in ["/v1/coupons", "/v1/shops/9/orders/7/redemption"] {
        assert_eq!(platform.ask(Ask::get(path).by(&consent)).await.code(), "FORBIDDEN");
    }
    assert_eq!(platform.ask(claim(&consent, "1", "c")).await.code(), "FORBIDDEN");

    platform.ask(redeem(&shop, &consent, "k", &wanted)).await.good(200);
    let reason = json!({ "reason": "I keep it" });
    let by_user = Ask::new("POST", "/v1/orders/7/refund").by(&one).json(&reason);
    assert_eq!(platform.ask(by_user).await.code(), "NO_ROUTE");
    let by_user = Ask::new("POST", "/v1/shop/users/42/orders/7/refund").by(&one).json(&reason);
    assert_eq!(platform.ask(by_user).await.code(), "FORBIDDEN");
    let by_operator = Ask::new("POST", "/v1/operator/shops/9/users/42/orders/7/refund").by(&keys.operator("ann"));
    assert_eq!(platform.ask(by_operator.json(&reason)).await.good(200)["returned_coupon_ids"], json!([first]));
}

#[tokio::test]
async fn a_consent_that_names_an_order_is_good_for_it_alone() {
    let (platform, [first, second]) = stocked().await;
    let keys = &platform.keys;
    let shop = keys.shop("bob");
    let consent_for = |shop_id| {
        let bearer = Bearer { shop_id: Some(shop_id), order_id: Some(7), ..bearer(Role::User, "42") };
        keys.mint(bearer, Duration::from_secs(60))
    };
    let (consent, rivals) = (consent_for(9), consent_for(10));
    let order =
        |order_id: &str, coupon: &Value| json!({ "order_id": order_id, "lines": lines("9"), "coupon_ids": [coupon] });
    let only = |language: &str| match language {
        "zh" => json!("用户的授权仅限订单 7"),
        _ => json!("The user's consent is for order 7 alone"),
    };
    let validate = |body: &Value| Ask::new("POST", "/v1/shop/orders/validate").by(&shop).consent(&consent).json(body);
    let mut nameless = order("7", &first);
    nameless.as_object_mut().expect("a record").remove("order_id");
    for language in ["en", "zh"] {
        for ask in [
            redeem(&shop, &consent, "k", &order("8", &first)),
            validate(&order("8", &first)),
            // Which order it would be nobody says.
            validate(&nameless),
        ] {
            let told = platform.ask(ask.with("accept-language", language)).await;
            assert_eq!((told.code(), told.status), ("CONSENT_OTHER_ORDER", 403));
            assert_eq!((&told.body["title"], &told.body["arguments"]["order_id"]), (&only(language), &json!("7")));
        }
    }
    assert_eq!(platform.ask(redeem(&shop, &rivals, "k", &order("7", &first))).await.code(), "CONSENT_OTHER_SHOP");
    assert_eq!(platform.ask(Ask::get("/v1/coupons").by(&consent)).await.code(), "FORBIDDEN");
    let told = platform.ask(validate(&order("7", &first))).await.good(200);
    assert_eq!(told["best"]["discount_cents"], 500);
    let done = platform.ask(redeem(&shop, &consent, "k", &order("7", &first))).await.good(200);
    assert_eq!((&done["state"], &done["order_id"]), (&json!("done"), &json!("7")));
    let again = platform.ask(redeem(&shop, &consent, "k", &order("7", &first))).await.good(200);
    assert_eq!((&again["state"], &again["order_id"]), (&json!("done"), &json!("7")));
    // Without one it is good for any.
    let done = platform.ask(redeem(&shop, &keys.consent(42, 9), "l", &order("8", &second))).await.good(200);
    assert_eq!(done["order_id"], "8");
}

#[tokio::test]
async fn an_order_that_is_too_long_is_told_so() {
    let platform = Platform::start(&[]).await;
    let keys = &platform.keys;
    let (shop, consent) = (keys.shop("bob"), keys.consent(42, 9));
    let told = async |lines: usize| {
        let longest = json!({ "product_id": i64::MAX.to_string(), "category_id": i64::MAX.to_string(), "shop_id": "9",
            "price_cents": 1, "quantity": 1 });
        let wanted = json!({ "order_id": "7", "lines": vec![longest; lines], "coupon_ids": ["1"] });
        platform.ask(redeem(&shop, &consent, "k", &wanted)).await
    };
    let most = told(500).await;
    assert_eq!((most.code(), &most.body["arguments"]["field"]), ("INVALID", &json!("lines[0].product_id")));
    let more = told(501).await;
    assert_eq!((more.code(), more.status, &more.body["arguments"]["field"]), ("INVALID", 400, &json!("lines")));
    let much_more = told(2_000).await;
    assert_eq!((much_more.code(), much_more.status), ("PAYLOAD_TOO_LARGE", 413));
    assert_eq!(much_more.body["arguments"]["limit"], "196608");
}

#[tokio::test]
async fn without_a_coordinator_a_redemption_is_kept_and_told_so_and_without_the_service_the_system_is_busy() {
    let mut world = world::on_sqlite().await;
    let coupon = world.own(world::universal(500, 2)).await.to_string();
    world.with_orders(&[(1, 100)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new(folder.path().join("jwks.json"), "first");
    let jwks = keys.path.display().to_string();
    let shop = keys.mint(Bearer { shop_id: Some(world::SHOP), ..bearer(Role::Shop, "bob") }, Duration::from_secs(60));
    let at = async |redemption: &str| Gateway::start(&["--jwks", &jwks, "--redemption", redemption]).await;
    let gateway = at(&format!("http://{}", world.address)).await;
    let wanted = json!({ "order_id": "7", "lines": lines(&world::SHOP.to_string()), "coupon_ids": [coupon] });
    let asked = redeem(&shop, &keys.consent(world::USER, world::SHOP), "k", &wanted);
    let by_key = format!("/v1/shop/users/{}/redemptions/k", world::USER);

    world.coordinator.crash().await;
    assert_eq!(gateway.ask(asked.clone()).await.good(202)["state"], "kept");
    assert_eq!(gateway.ask(Ask::get(&by_key).by(&shop)).await.good(202)["state"], "kept");
    world.coordinator.start_again().await;
    world::until("it is done", async || gateway.ask(Ask::get(&by_key).by(&shop)).await.body["state"] == "done").await;
    assert_eq!(gateway.ask(asked.clone()).await.good(200)["state"], "done");

    let nowhere = at("http://127.0.0.1:1").await;
    for (language, text) in [("en", "The system is busy, please try again later"), ("zh", "系统繁忙，请稍后重试")]
    {
        let told = nowhere.ask(asked.clone().with("accept-language", language)).await;
        assert_eq!((told.status, told.code(), &told.body["title"]), (503, "SYSTEM_BUSY", &json!(text)));
    }
}
