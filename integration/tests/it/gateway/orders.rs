//! Orders after their checkout, over HTTP: paid, or closed where nobody pays, in the embedded default and with every
//! service apart.

use std::time::Duration;

use serde_json::{Value, json};
use tercet_gateway::token::{Bearer, Role};
use tokio::time::{Instant, sleep, sleep_until};

use super::apart::{Apart, SHARDS, until};
use super::coupons::{claim, published};
use super::rules;
use super::stage::{Ask, Asks, Keys, Platform, bearer};

/// Orders that are paid when their time is over.
const LATE: i64 = 5;

/// Whom it is asked of, and by whom.
struct Market<'a, A> {
    asks: &'a A,
    keys: &'a Keys,
    /// Coupons of user 42 that nobody has used.
    coupons: Vec<Value>,
}

fn path(order_id: i64) -> String {
    format!("/v1/shop/users/42/orders/{order_id}")
}

impl<'a, A: Asks> Market<'a, A> {
    /// With a hundred units of product 1, and coupons enough.
    async fn new(asks: &'a A, keys: &'a Keys) -> Self {
        let (ann, user) = (keys.operator("ann"), keys.user(42));
        let body = json!({ "units": 100, "expected_revision": 0, "reason": "a delivery" });
        asks.ask(Ask::new("PUT", "/v1/operator/products/1/stock").by(&ann).json(&body)).await.good(200);
        let mut wide = rules();
        wide["quota"] = json!({ "per_user": 9, "per_user_day": 9 });
        let template = published(asks, &ann, "wide", &wide).await;
        let mut coupons = Vec::new();
        for at in 0..3 + LATE {
            let made = asks.ask(claim(&user, &template, &at.to_string())).await.good(201);
            coupons.push(made["coupon_id"].clone());
        }
        Self { asks, keys, coupons }
    }

    /// Two units of product 1 for 100 yuan, less the coupon's five.
    fn checkout(&self, order_id: i64, coupon: &Value, pay_within_s: Option<i64>) -> Ask {
        let line =
            json!({ "product_id": "1", "category_id": "2", "shop_id": "9", "price_cents": 5_000, "quantity": 2 });
        let mut body = json!({ "order_id": order_id.to_string(), "lines": [line], "coupon_ids": [coupon] });
        if let Some(seconds) = pay_within_s {
            body["pay_within_s"] = json!(seconds);
        }
        let ask = Ask::new("POST", "/v1/shop/redemptions").by(&self.keys.shop("bob"));
        ask.consent(&self.keys.consent(42, 9)).with("idempotency-key", &order_id.to_string()).json(&body)
    }

    /// An order with a coupon of its own, which has to be paid so soon.
    async fn place(&mut self, order_id: i64, pay_within_s: Option<i64>) -> Value {
        let coupon = self.coupons.pop().expect("there are enough");
        let told = self.asks.ask(self.checkout(order_id, &coupon, pay_within_s)).await.good(200);
        assert_eq!(told["state"], "done");
        coupon
    }

    fn pay(&self, order_id: i64, paid_cents: i64) -> Ask {
        self.pay_by(order_id, paid_cents, &format!("wx-{order_id}"))
    }

    fn pay_by(&self, order_id: i64, paid_cents: i64, payment_id: &str) -> Ask {
        let ask = Ask::new("POST", format!("{}/pay", path(order_id))).by(&self.keys.shop("bob"));
        ask.json(&json!({ "paid_cents": paid_cents, "payment_id": payment_id }))
    }

    async fn order(&self, order_id: i64) -> Value {
        self.asks.ask(Ask::get(path(order_id)).by(&self.keys.shop("bob"))).await.good(200)
    }

    async fn coupon(&self, coupon: &Value) -> Value {
        let path = format!("/v1/coupons/{}", coupon.as_str().expect("text"));
        self.asks.ask(Ask::get(path).by(&self.keys.user(42))).await.good(200)["status"].clone()
    }

    /// Units that orders have.
    async fn issued(&self) -> Value {
        let ask = Ask::get("/v1/operator/products/1/stock").by(&self.keys.operator("ann"));
        self.asks.ask(ask).await.good(200)["issued"].clone()
    }

    /// What the log says of an order, once it does.
    async fn logged(&self, order_id: i64, action: &str) -> Value {
        let (ask, mut found) = (format!("/v1/operator/log?user_id=42&shop_id=9&order_id={order_id}"), Value::Null);
        until(action, async || {
            let told = self.asks.ask(Ask::get(&ask).by(&self.keys.operator("ann"))).await.good(200);
            let entry = told["items"].as_array().expect("a list").iter().find(|entry| entry["action"] == action);
            found = entry.cloned().unwrap_or_default();
            !found.is_null()
        })
        .await;
        found
    }
}

async fn orders_are_paid_or_closed<A: Asks>(asks: &A, keys: &Keys) {
    let mut market = Market::new(asks, keys).await;
    is_paid_once(&mut market).await;
    is_paid_at_once_when_it_costs_nothing(&mut market).await;
    is_closed_when_nobody_pays(&mut market).await;
    is_paid_or_closed_at_its_last_moment(&mut market).await;
}

/// All of it, once, by its shop.
async fn is_paid_once<A: Asks>(market: &mut Market<'_, A>) {
    let (asks, keys, coupon) = (market.asks, market.keys, market.coupons[0].clone());
    for seconds in [0, 1_209_601, -1] {
        let told = asks.ask(market.checkout(1, &coupon, Some(seconds))).await;
        let code = if seconds < 0 { "MALFORMED" } else { "INVALID" };
        assert_eq!((told.code(), told.status), (code, 400), "{told:?}");
    }
    let coupon = market.place(1, Some(600)).await;
    let again = asks.ask(market.checkout(1, &coupon, Some(600))).await.good(200);
    for other in [Some(601), None] {
        assert_eq!(asks.ask(market.checkout(1, &coupon, other)).await.code(), "KEY_REUSED");
    }
    let order = market.order(1).await;
    assert_eq!((&order["status"], &order["due_cents"]), (&json!("placed"), &json!(9_500)));
    let (pay_by_ms, created_ms) = (order["pay_by_ms"].as_i64(), again["created_ms"].as_i64());
    let within_ms = pay_by_ms.zip(created_ms).map(|(until, from)| until - from).expect("numbers");
    assert!((600_000..660_000).contains(&within_ms), "{within_ms}");

    let told = asks.ask(market.pay(1, 9_499).with("accept-language", "zh")).await;
    assert_eq!(
        (told.code(), told.status, &told.body["title"]),
        ("PAYMENT_DIFFERS", 409, &json!("订单 1 应付 95.00 元"))
    );
    assert_eq!(asks.ask(market.pay(1, -1)).await.body["arguments"]["field"], "paid_cents");
    assert_eq!(asks.ask(market.pay(99, 9_500)).await.code(), "NOT_FOUND");
    let body = json!({ "paid_cents": 9_500, "payment_id": "wx-1" });
    let pay = |by: &str, path: &str| Ask::new("POST", path).by(by).json(&body);
    let rival = keys.mint(Bearer { shop_id: Some(10), ..bearer(Role::Shop, "eve") }, Duration::from_secs(60));
    for (by, user_id, code) in
        [(&rival, 42, "NOT_FOUND"), (&keys.shop("bob"), 43, "NOT_FOUND"), (&keys.user(42), 42, "FORBIDDEN")]
    {
        let path = format!("/v1/shop/users/{user_id}/orders/1/pay");
        assert_eq!(asks.ask(pay(by, &path)).await.code(), code);
    }
    assert_eq!(market.order(1).await, order, "nothing of it was anything");
    let any = |path: &str| Ask::get(path).by(&keys.operator("ann"));
    assert_eq!(asks.ask(any("/v1/operator/shops/9/orders/1")).await.good(200), order);
    assert_eq!(asks.ask(any("/v1/operator/shops/10/orders/1")).await.code(), "NOT_FOUND");

    let paid = asks.ask(market.pay(1, 9_500)).await.good(200);
    assert_eq!((&paid["status"], &paid["pay_by_ms"]), (&json!("paid"), &order["pay_by_ms"]));
    assert_eq!(asks.ask(market.pay(1, 9_500)).await.good(200), paid, "again is the same");
    assert_eq!(asks.ask(market.pay(1, 9_501)).await.code(), "PAYMENT_DIFFERS");
    let told = asks.ask(market.pay_by(1, 9_500, "wx-2").with("accept-language", "zh")).await;
    let title = json!("订单 1 已由另一笔付款支付");
    assert_eq!((told.code(), told.status, &told.body["title"]), ("ORDER_PAID", 409, &title));
    for wrong in ["", &"x".repeat(65), "a\u{7}"] {
        let told = asks.ask(market.pay_by(1, 9_500, wrong)).await;
        assert_eq!((told.code(), &told.body["arguments"]["field"]), ("INVALID", &json!("payment_id")));
    }
    let own = "/v1/shops/9/orders/1";
    assert_eq!(asks.ask(Ask::get(own).by(&keys.user(42))).await.good(200), paid);
    assert_eq!(asks.ask(Ask::get(own).by(&keys.user(43))).await.code(), "NOT_FOUND");
    let entry = market.logged(1, "order paid").await;
    assert_eq!((&entry["operator"], &entry["before"]), (&json!("bob"), &json!(r#"{"status":"placed"}"#)));

    let refund = Ask::new("POST", format!("{}/refund", path(1))).by(&keys.shop("bob"));
    asks.ask(refund.json(&json!({ "reason": "broken" }))).await.good(200);
    let told = asks.ask(market.pay(1, 9_500)).await;
    assert_eq!((told.code(), told.status), ("ORDER_REFUNDED", 409));
    assert_eq!(market.order(1).await["status"], "refunded");
}

/// The coupon pays for all of it, so nobody waits for money, and it is taken back like any other.
async fn is_paid_at_once_when_it_costs_nothing<A: Asks>(market: &mut Market<'_, A>) {
    let (asks, shop) = (market.asks, market.keys.shop("bob"));
    let coupon = market.coupons.pop().expect("there are enough");
    let line = json!({ "product_id": "1", "category_id": "2", "shop_id": "9", "price_cents": 400, "quantity": 1 });
    let body = json!({ "order_id": "4", "lines": [line], "coupon_ids": [coupon], "pay_within_s": 1 });
    let ask = Ask::new("POST", "/v1/shop/redemptions").by(&shop).consent(&market.keys.consent(42, 9));
    asks.ask(ask.with("idempotency-key", "4").json(&body)).await.good(200);
    let order = market.order(4).await;
    assert_eq!((&order["status"], &order["due_cents"], &order["pay_by_ms"]), (&json!("paid"), &json!(0), &Value::Null));
    assert_eq!(asks.ask(market.pay(4, 0)).await.good(200), order, "that is right, though nobody has to say it");
    let entry = market.logged(4, "order paid").await;
    assert!(entry.get("operator").is_none(), "{entry}");
    // Longer than the job needs to close one that waits for money.
    let due = market.place(5, Some(1)).await;
    until("another one is closed", async || market.order(5).await["status"] == "closed").await;
    until("its coupon is back", async || market.coupon(&due).await == "available").await;
    market.coupons.push(due);
    assert_eq!((&market.order(4).await["status"], market.coupon(&coupon).await), (&json!("paid"), json!("used")));
    let refund = Ask::new("POST", format!("{}/refund", path(4))).by(&shop);
    asks.ask(refund.json(&json!({ "reason": "broken" }))).await.good(200);
    assert_eq!(market.order(4).await["status"], "refunded");
    until("it is back", async || market.coupon(&coupon).await == "available").await;
    market.coupons.push(coupon);
    until("its units are back", async || market.issued().await == 0).await;
}

/// What was paid before stays.
async fn is_closed_when_nobody_pays<A: Asks>(market: &mut Market<'_, A>) {
    let asks = market.asks;
    let over = Instant::now() + Duration::from_secs(7);
    let kept = market.place(2, Some(5)).await;
    assert_eq!(asks.ask(market.pay(2, 9_500)).await.good(200)["status"], "paid");
    let coupon = market.place(3, Some(1)).await;
    until("it is closed", async || market.order(3).await["status"] == "closed").await;
    until("its coupon is back", async || market.coupon(&coupon).await == "available").await;
    until("its units are back", async || market.issued().await == 2).await;
    let told = asks.ask(market.pay(3, 9_500).with("accept-language", "zh")).await;
    assert_eq!(
        (told.code(), told.status, &told.body["title"]),
        ("ORDER_CLOSED", 409, &json!("订单 3 已关闭，不能付款"))
    );
    // That is noted once its transaction has ended.
    let redemption = Ask::get(format!("{}/redemption", path(3))).by(&market.keys.shop("bob"));
    until("it is refunded", async || asks.ask(redemption.clone()).await.good(200)["state"] == "refunded").await;
    let entry = market.logged(3, "order closed").await;
    assert_eq!((&entry["reason"], &entry["before"]), (&json!("not paid in time"), &json!(r#"{"status":"placed"}"#)));
    assert!(entry.get("operator").is_none(), "{entry}");
    // Its time is over too.
    sleep_until(over).await;
    assert_eq!(market.order(2).await["status"], "paid");
    assert_eq!(market.coupon(&kept).await, "used");
}

/// One of both, with all that belongs to it: the first is paid long before its time is over and the last long after,
/// and the others when it is.
async fn is_paid_or_closed_at_its_last_moment<A: Asks>(market: &mut Market<'_, A>) {
    let (first, last) = (10, 10 + LATE - 1);
    let mut late = Vec::new();
    for order_id in first..=last {
        let seconds = if order_id == first { 600 } else { 2 };
        let due = Instant::now() + Duration::from_secs(if order_id == first { 0 } else { 2 });
        late.push((order_id, due, market.place(order_id, Some(seconds)).await));
    }
    let mut paid = 0;
    for (at, (order_id, due, coupon)) in late.iter().enumerate() {
        // The job looks each second: some are before it, and some are not.
        sleep_until(*due + at as u32 * Duration::from_millis(300)).await;
        if *order_id == last {
            until("it is closed", async || market.order(last).await["status"] == "closed").await;
        }
        let mut told = market.asks.ask(market.pay(*order_id, 9_500)).await;
        // What is being taken back may be what it was before yet.
        while told.status != 200 && told.code() == "SYSTEM_BUSY" {
            sleep(Duration::from_millis(50)).await;
            told = market.asks.ask(market.pay(*order_id, 9_500)).await;
        }
        let wanted = if told.status == 200 { ("paid", "used") } else { ("closed", "available") };
        if told.status == 200 {
            paid += 1;
        } else {
            assert_eq!(told.code(), "ORDER_CLOSED");
        }
        assert!(*order_id != first || told.status == 200, "{told:?}");
        assert!(*order_id != last || told.status != 200, "{told:?}");
        until("it has ended", async || market.coupon(coupon).await == wanted.1).await;
        assert_eq!(market.order(*order_id).await["status"], wanted.0);
    }
    // And the one that was paid before.
    until("the rest is in stock", async || market.issued().await == 2 * (paid + 1)).await;
}

#[tokio::test]
async fn a_shop_lists_its_own_orders_and_operators_those_of_any() {
    let platform = Platform::start(&[]).await;
    let keys = &platform.keys;
    let mut market = Market::new(&platform, keys).await;
    for order_id in 1..=3 {
        market.place(order_id, None).await;
    }
    platform.ask(market.pay(2, 9_500)).await.good(200);
    let list = async |by: &str, path: &str| {
        let told = platform.ask(Ask::get(path).by(by)).await.good(200);
        let items = told["items"].as_array().expect("a list").iter();
        let ids = items.map(|order| order["order_id"].as_str().expect("text").to_owned()).collect::<Vec<_>>().join(" ");
        (ids, told["next"].as_str().map(str::to_owned))
    };
    let (shop, ann) = (keys.shop("bob"), keys.operator("ann"));
    until("they are placed", async || list(&shop, "/v1/shop/orders?status=placed").await.0 == "3 1").await;
    assert_eq!(list(&shop, "/v1/shop/orders").await, ("3 2 1".to_owned(), None));
    assert_eq!(list(&shop, "/v1/shop/orders?status=paid").await.0, "2");
    let (first, next) = list(&shop, "/v1/shop/orders?limit=2").await;
    let next = next.expect("there is another");
    assert_eq!((first.as_str(), list(&shop, &format!("/v1/shop/orders?after={next}")).await.0), ("3 2", "1".into()));
    assert_eq!(list(&ann, "/v1/operator/shops/9/orders").await.0, "3 2 1");
    let of_10 = bearer(Role::Shop, "eve");
    let other = keys.mint(Bearer { shop_id: Some(10), ..of_10 }, Duration::from_secs(60));
    assert_eq!(list(&other, "/v1/shop/orders").await, (String::new(), None), "they are another shop's");
    for (code, by, path) in [
        ("FORBIDDEN", keys.user(42), "/v1/shop/orders".to_owned()),
        ("FORBIDDEN", shop.clone(), "/v1/operator/shops/9/orders".to_owned()),
        ("INVALID", shop.clone(), "/v1/shop/orders?status=lost".to_owned()),
        ("INVALID", other, format!("/v1/shop/orders?after={next}")),
    ] {
        assert_eq!(platform.ask(Ask::get(path).by(&by)).await.code(), code);
    }
}

#[tokio::test]
async fn orders_are_paid_or_closed_in_one_process() {
    let platform = Platform::start(&[]).await;
    orders_are_paid_or_closed(&platform, &platform.keys).await;
}

#[tokio::test]
async fn orders_are_paid_or_closed_with_every_service_apart() {
    let Some(apart) = Apart::start(SHARDS).await else { return };
    orders_are_paid_or_closed(&apart, &apart.keys).await;
}
