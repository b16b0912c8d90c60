//! Coupons that operators void, over HTTP: what their users, shops and the log are told.

use serde_json::{Value, json};

use super::coupons::{claim, published};
use super::redemptions::{lines, redeem};
use super::rules;
use super::stage::{Ask, Asks as _, Platform};

#[tokio::test]
async fn a_voided_coupon_is_shown_as_such_and_used_by_nobody() {
    let platform = Platform::start(&[]).await;
    let keys = &platform.keys;
    let (ann, user) = (keys.operator("ann"), keys.user(42));
    let id = published(&platform, &ann, "spring", &rules()).await;
    let coupon = platform.ask(claim(&user, &id, "a")).await.good(201)["coupon_id"].clone();
    let path = format!("/v1/operator/coupons/{}/void", coupon.as_str().expect("text"));
    let void = |by: &str, body: &Value| Ask::new("POST", &path).by(by).json(body);
    let why = json!({ "reason": "a stolen account" });
    assert_eq!(platform.ask(void(&user, &why)).await.code(), "FORBIDDEN");
    assert_eq!(platform.ask(void(&ann, &json!({ "reason": "" }))).await.body["arguments"]["field"], "reason");
    let other = Ask::new("POST", "/v1/operator/coupons/1/void").by(&ann).json(&why);
    assert_eq!(platform.ask(other).await.code(), "NOT_FOUND");

    let voided = platform.ask(void(&ann, &why)).await.good(200);
    assert_eq!((&voided["status"], &voided["user_id"]), (&json!("voided"), &json!("42")));
    // Whoever asks again, of whatever name, changes nothing.
    assert_eq!(platform.ask(void(&keys.operator("bob"), &why)).await.good(200), voided);
    let own = Ask::get("/v1/coupons?status=voided").by(&user);
    assert_eq!(platform.ask(own).await.good(200)["items"][0]["coupon_id"], coupon);
    assert_eq!(platform.ask(Ask::get("/v1/coupons").by(&user)).await.good(200)["items"][0]["status"], "voided");

    let body = json!({ "units": 2, "reason": "a delivery" });
    platform.ask(Ask::new("PUT", "/v1/operator/products/1/stock").by(&ann).json(&body)).await.good(200);
    let order = json!({ "order_id": "7", "lines": lines("9"), "coupon_ids": [coupon] });
    let ask = redeem(&keys.shop("bob"), &keys.consent(42, 9), "k", &order).with("accept-language", "zh");
    let told = platform.ask(ask).await;
    assert_eq!((told.code(), told.status, &told.body["title"]), ("COUPON_VOIDED", 409, &json!("优惠券已作废")));
    let tried = json!({ "lines": lines("9"), "coupon_ids": [coupon] });
    let told = platform.ask(Ask::new("POST", "/v1/orders/validate").by(&user).json(&tried)).await.good(200);
    assert_eq!(told["coupons"][0]["refusal"]["code"], "COUPON_VOIDED");

    let about = format!("coupon_id={}", coupon.as_str().expect("text"));
    let log = platform.logged(&about, 2).await;
    let [entry, issued] = &log[..] else { panic!("{log:?}") };
    assert_eq!((&entry["action"], &issued["action"]), (&json!("coupon voided"), &json!("coupon issued")));
    assert_eq!((&entry["operator"], &entry["reason"]), (&json!("ann"), &json!("a stolen account")));
    assert_eq!(entry["before"], r#"{"status":"issued"}"#);
    assert_eq!(entry["after"], r#"{"status":"voided"}"#);
}
