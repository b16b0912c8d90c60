//! Users who claim, buy and return through the gateway, ask again under the same key for as long as nobody answers, and
//! remember what they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::stage::{ITEM, Market, PATIENCE, PAUSE, until};
use crate::gateway::stage::{Ask, Keys, Told, try_send};

/// How many at a time.
const SHOPPERS: i64 = 3;
/// Far from those who claim and buy otherwise. An order has the number of its user: each buys once.
const FIRST: i64 = 2_000_000_000;
/// What a status of the tables is for somebody whose order stands, and for one who returned it: of the order, of its
/// coupon, and of the redemption.
const PLACED: [i64; 3] = [1, 3, 2];
const REFUNDED: [i64; 3] = [4, 1, 4];

/// What all of them came to.
#[derive(Debug, Default)]
struct Seen {
    /// Bought so far.
    bought: AtomicI64,
    /// Answers that never came.
    lost: AtomicI64,
    /// Redemptions that were kept at first.
    kept: AtomicI64,
}

/// Each of them, by the user: the coupon, and where all of it has to stand.
type History = BTreeMap<i64, (i64, [i64; 3])>;

pub(super) struct Shoppers {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    seen: Arc<Seen>,
    all: Vec<JoinHandle<History>>,
}

/// One of them.
struct Shopper {
    gateway: SocketAddr,
    keys: Arc<Keys>,
    seen: Arc<Seen>,
    user_id: i64,
}

impl Shoppers {
    pub(super) fn start(market: &Market, template_id: i64) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let next = Arc::new(AtomicI64::new(FIRST));
        let shop = |_| {
            let (stop, seen, next) = (Arc::clone(&stop), Arc::clone(&seen), Arc::clone(&next));
            let (gateway, keys) = (market.gateway, Arc::clone(&market.keys));
            tokio::spawn(async move {
                let mut history = History::new();
                while !stop.load(Ordering::Relaxed) {
                    let user_id = next.fetch_add(1, Ordering::Relaxed);
                    let (keys, seen) = (Arc::clone(&keys), Arc::clone(&seen));
                    let shopper = Shopper { gateway, keys, seen, user_id };
                    let coupon = shopper.claim(template_id).await;
                    history.insert(user_id, shopper.buy(&coupon).await);
                }
                history
            })
        };
        let all = (0..SHOPPERS).map(shop).collect();
        Self { stop, next, seen, all }
    }

    /// One more, who has claimed, and buys when he is told to.
    pub(super) async fn hesitant(&mut self, market: &Market, template_id: i64) -> oneshot::Sender<()> {
        let user_id = self.next.fetch_add(1, Ordering::Relaxed);
        let (gateway, keys) = (market.gateway, Arc::clone(&market.keys));
        let shopper = Shopper { gateway, keys, seen: Arc::clone(&self.seen), user_id };
        let coupon = shopper.claim(template_id).await;
        let (go, told) = oneshot::channel();
        self.all.push(tokio::spawn(async move {
            told.await.expect("he is told");
            History::from([(user_id, shopper.buy(&coupon).await)])
        }));
        go
    }

    /// Waits until another redemption is kept, which is so while there is no coordinator.
    pub(super) async fn kept(&self) {
        let before = self.seen.kept.load(Ordering::Relaxed);
        until("a redemption is kept", async || (self.seen.kept.load(Ordering::Relaxed) > before).then_some(())).await;
    }

    /// Waits until some more have bought.
    pub(super) async fn progress(&self) {
        let before = self.seen.bought.load(Ordering::Relaxed);
        until("some buy", async || (self.seen.bought.load(Ordering::Relaxed) > before + SHOPPERS).then_some(())).await;
    }

    /// No more come; waits until those who are there have what they want.
    pub(super) async fn stop(self) -> Histories {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = History::new();
        for one in self.all {
            all.extend(one.await.expect("nothing is refused"));
        }
        Histories { all, lost: self.seen.lost.load(Ordering::Relaxed) }
    }
}

/// What they were told.
#[derive(Debug)]
pub(super) struct Histories {
    all: History,
    /// Answers that never came.
    pub(super) lost: i64,
}

impl Histories {
    /// Compares it with what the databases hold, when nothing is under way any more: no less, and no more.
    pub(super) async fn agrees(&self, market: &Market) {
        let told = |end| self.all.values().filter(move |(_, own)| *own == end).count();
        assert!(told(PLACED) > 0 && told(REFUNDED) > 0, "{self:?}");
        let mut stands: BTreeMap<i64, (i64, [Option<i64>; 3])> = BTreeMap::new();
        let mut orders = market.connect("orders").await;
        let sql = "SELECT o.user_id, b.coupon_id, CAST(o.status AS SIGNED)
            FROM orders o JOIN basket_coupon b ON b.order_id = o.order_id AND b.shop_id = o.shop_id
            WHERE o.status IN (0, 1, 4)";
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut orders).await.expect("they are there");
        for (user_id, coupon_id, status) in rows {
            let twice = stands.insert(user_id, (coupon_id, [Some(status), None, None]));
            assert_eq!(twice, None, "user {user_id} bought once");
        }
        for database in market.coupon_databases() {
            let mut connection = market.connect(database).await;
            let coupons = (0..4).map(|n| format!("SELECT user_id, coupon_id, status, 1 AS place FROM coupon_{n:03}"));
            let sql = format!(
                "SELECT user_id, coupon_id, CAST(status AS SIGNED), place FROM ({}
                    UNION ALL SELECT user_id, 0, state, 2 FROM redemption) AS a WHERE user_id >= {FIRST}",
                coupons.collect::<Vec<_>>().join(" UNION ALL ")
            );
            let rows: Vec<(i64, i64, i64, i64)> =
                sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("they are there");
            for (user_id, coupon_id, status, place) in rows {
                let (own, ends) = stands.get_mut(&user_id).expect("whoever has a coupon bought something");
                let place = usize::try_from(place).expect("it is 1 or 2");
                assert!(place == 2 || coupon_id == *own, "user {user_id} has another coupon: {coupon_id}");
                assert_eq!(ends[place].replace(status), None, "user {user_id} in two places");
            }
        }
        let told: BTreeMap<_, _> = self.all.iter().map(|(user, (id, own))| (*user, (*id, own.map(Some)))).collect();
        assert_eq!(stands, told);
    }
}

impl Shopper {
    /// His coupon.
    async fn claim(&self, template_id: i64) -> Value {
        let claim = json!({ "template_id": template_id.to_string() });
        self.asked("POST", "/v1/coupons", &claim).await["coupon_id"].clone()
    }

    /// Buys with it, and every third returns what he bought; what it came to.
    async fn buy(&self, coupon: &Value) -> (i64, [i64; 3]) {
        let coupon_id: i64 = coupon.as_str().and_then(|id| id.parse().ok()).expect("a number");
        let line = json!({ "product_id": ITEM.to_string(), "category_id": "2", "shop_id": "9", "price_cents": 2_000,
            "quantity": 1 });
        let order = json!({ "order_id": self.user_id.to_string(), "lines": [line], "coupon_ids": [coupon],
            "discount_cents": 500 });
        let mut told = self.asked("POST", "/v1/shop/redemptions", &order).await;
        if told["state"] == "kept" {
            self.seen.kept.fetch_add(1, Ordering::Relaxed);
        }
        let begun = Instant::now();
        while told["state"] != "done" {
            assert!(["kept", "submitted"].iter().any(|state| told["state"] == *state), "{told}");
            assert!(begun.elapsed() < PATIENCE, "it does not end: {told}");
            tokio::time::sleep(PAUSE).await;
            let path = format!("/v1/shop/users/{}/redemptions/k", self.user_id);
            told = self.asked("GET", &path, &Value::Null).await;
        }
        self.seen.bought.fetch_add(1, Ordering::Relaxed);
        if self.user_id % 3 != 0 {
            return (coupon_id, PLACED);
        }
        let path = format!("/v1/shop/users/{0}/orders/{0}/refund", self.user_id);
        while self.asked("POST", &path, &json!({ "reason": "too small" })).await["state"] != "done" {
            assert!(begun.elapsed() < PATIENCE, "it is not taken back");
            tokio::time::sleep(PAUSE).await;
        }
        (coupon_id, REFUNDED)
    }

    /// Asks under the same key until there is an answer by which it is known what became of it.
    async fn asked(&self, method: &str, path: &str, body: &Value) -> Value {
        let begun = Instant::now();
        loop {
            let ask = match path.starts_with("/v1/shop/") {
                true => Ask::new(method, path).by(&self.keys.shop("bob")).consent(&self.keys.consent(self.user_id, 9)),
                false => Ask::new(method, path).by(&self.keys.user(self.user_id)),
            };
            let ask = if body.is_null() { ask } else { ask.with("idempotency-key", "k").json(body) };
            match tokio::time::timeout(Duration::from_secs(10), try_send(self.gateway, ask)).await {
                Ok(Ok(told)) if matches!(told.status, 200..=202) => return told.body,
                Ok(Ok(told)) => assert!(is_unknown(&told), "{path}: {told:?}"),
                Ok(Err(_)) => drop(self.seen.lost.fetch_add(1, Ordering::Relaxed)),
                Err(_) => panic!("the gateway holds back what it has: {path}"),
            }
            assert!(begun.elapsed() < PATIENCE, "nobody answers: {path}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn is_unknown(told: &Told) -> bool {
    ["SYSTEM_BUSY", "TIMEOUT"].contains(&told.code())
}
