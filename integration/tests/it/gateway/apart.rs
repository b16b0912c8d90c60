//! The services as processes on a real MariaDB, with a real Kafka between them, and a gateway before them.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySql, Pool};
use tempfile::TempDir;
use tercet::fence::Dialect as _;
use tercet_coupon::Shards;
use tercet_events::event::Topic;
use tercet_events::settings::Kafka;
use tercet_gateway::token::Role;
use tercet_integration::processes::{Coordinator, Process, Spec, free_address};
use tercet_integration::servers;
use tercet_shards::{ShardMap, Slot};
use tokio::time::{Duration, Instant, sleep};

use super::coupons::{claim, published};
use super::stage::{Ask, Asks, Keys, Told, bearer, send};
use super::{TEMPLATES, rules};

/// Databases and tables of the coupons, where it does not matter how many.
pub(super) const SHARDS: &str = "2x4";

/// For a process, or a job, to do what it has to.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of it. Killed when it is dropped.
pub(super) struct Apart {
    pub(super) keys: Keys,
    pub(super) kafka: Kafka,
    pub(super) coordinator: Coordinator,
    pub(super) issuing: Process,
    redemption: Process,
    /// The databases of the coupons.
    coupons: Vec<String>,
    gateway: SocketAddr,
    /// Where each process shows its metrics.
    metrics: Vec<(String, SocketAddr)>,
    _others: Vec<Process>,
    _folder: TempDir,
}

impl Apart {
    /// With coupons spread so; `None` where there is no MariaDB, or no Kafka.
    pub(super) async fn start(shards: &str) -> Option<Self> {
        let (address, prefix) = servers::kafka()?;
        let map: ShardMap = shards.parse().expect("it is a map");
        let urls = databases(4 + map.databases()).await?;
        let [stock, template, order, log, of_coupons @ ..] = &urls[..] else { panic!("four") };
        // Here they may take as long as they need.
        let made = Shards::<MySql>::open(map, of_coupons).await.expect("they are there");
        made.migrate().await.expect("the schema is sound");
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        // Few, since each of them costs the broker files.
        let kafka = Kafka { prefix, partitions: Topic::ALL.map(|topic| (topic, 2)).into(), ..Kafka::at(&address) };
        let partitions: Vec<_> = Topic::ALL.iter().map(|topic| format!("{}=2", topic.name())).collect();
        let coordinator = Coordinator::start(at).await.expect("it starts");
        let port = || free_address().expect("there is one");
        let mut metrics = Vec::new();
        let mut measured = |spec: Spec| {
            let address = port();
            metrics.push((spec.name.clone(), address));
            spec.with("--metrics", address.to_string()).with("--log-filter", "warn")
        };
        let mut spec = |name: &str, database: &str| {
            let program = format!("tercet-{name}");
            let spec = Spec::new(name, &program, &program, at).expect("it is built");
            measured(spec).with("--coordinator", &coordinator.url).with("--database", database)
        };
        let told = |spec: Spec| {
            let spec = spec.with("--kafka", &address).with("--kafka-prefix", &kafka.prefix);
            // A consumer of this name has its place back at once when it was killed.
            let name = format!("group.instance.id={}", spec.name);
            spec.with("--kafka-partitions", partitions.join(",")).with("--kafka-option", name)
        };
        let of_coupons_all = of_coupons.join(",");
        let [at_template, at_issuing, at_redemption, at_log, at_stock, at_order, gateway] = [(); 7].map(|()| port());
        let listening = |spec: Spec, at: SocketAddr| spec.with("--listen", at.to_string());
        let url = |at: SocketAddr| format!("http://{at}");
        let started = |spec: Spec| spec.start().expect("it starts");
        let mut participants = vec![
            started(listening(told(spec("stock", stock)), at_stock)),
            started(told(spec("coupon", &of_coupons_all)).with("--shards", shards)),
            started(listening(told(spec("order", order)).with("--redemption", url(at_redemption)), at_order)),
        ];
        let others = [
            started(listening(told(spec("coupon-template", template)), at_template)),
            started(listening(told(spec("business-log", log)), at_log)),
        ];
        let issuing =
            told(spec("issuing", &of_coupons_all)).with("--shards", shards).with("--jobs-cron", "* * * * * *");
        let issuing = started(listening(issuing.with("--templates", url(at_template)), at_issuing));
        let redemption = spec("redemption", &of_coupons_all).with("--shards", shards);
        let redemption = started(listening(redemption.with("--templates", url(at_template)), at_redemption));
        let keys = Keys::new(at.join("jwks.json"), "first");
        let before = Spec::new("gateway", "tercet-gateway", "tercet-gateway", at).expect("it is built").word("serve");
        let before = listening(measured(before), gateway).with("--jwks", &keys.path).with("--stock", url(at_stock));
        let before = before.with("--template", url(at_template)).with("--business-log", url(at_log));
        let before = before.with("--issuing", url(at_issuing)).with("--redemption", url(at_redemption));
        let before = before.with("--order", url(at_order));
        coordinator.wait_for(&mut participants).await.expect("they have sessions");
        participants.extend(others);
        participants.push(started(before));
        let coupons = of_coupons.to_vec();
        let (_others, _folder) = (participants, folder);
        let apart = Self { keys, kafka, coordinator, issuing, redemption, coupons, gateway, metrics, _others, _folder };
        apart.ready().await;
        Some(apart)
    }

    async fn ready(&self) {
        let (ann, user) = (self.keys.operator("ann"), self.keys.user(1));
        for (path, by) in [
            (TEMPLATES, &ann),
            ("/v1/operator/coupons", &ann),
            ("/v1/operator/log", &ann),
            ("/v1/operator/products/1/stock", &ann),
            ("/v1/shops/9/orders/1/redemption", &user),
            ("/v1/shops/9/orders/1", &user),
        ] {
            let answers = async || {
                let connects = tokio::net::TcpStream::connect(self.gateway).await.is_ok();
                // That there is none is an answer too.
                connects && self.ask(Ask::get(path).by(by)).await.status < 500
            };
            until(path, answers).await;
        }
    }

    /// The first database of the coupons.
    pub(super) async fn home(&self) -> Pool<MySql> {
        MySql::open(&self.coupons[0]).await.expect("it is there")
    }

    /// What a process shows Prometheus.
    async fn shown(&self, at: SocketAddr) -> String {
        send(at, Ask::get("/metrics")).await.text
    }
}

impl Asks for Apart {
    async fn ask(&self, ask: Ask) -> Told {
        send(self.gateway, ask).await
    }
}

/// So many empty ones.
async fn databases(count: usize) -> Option<Vec<String>> {
    let mut urls = Vec::with_capacity(count);
    for _ in 0..count {
        urls.push(servers::mariadb().await.expect("the server answers")?);
    }
    Some(urls)
}

pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Two units of product 1 for 50 yuan each, and these coupons.
fn redeem(keys: &Keys, user_id: i64, order_id: &str, coupon_id: &Value) -> Ask {
    let line = json!({ "product_id": "1", "category_id": "2", "shop_id": "9", "price_cents": 5_000, "quantity": 2 });
    let body = json!({ "order_id": order_id, "lines": [line], "coupon_ids": [coupon_id] });
    let ask = Ask::new("POST", "/v1/shop/redemptions").by(&keys.shop("bob")).consent(&keys.consent(user_id, 9));
    ask.with("idempotency-key", order_id).json(&body)
}

/// A template of which a user may have nine, and so many units of product 1.
async fn shop(apart: &Apart, units: i64) -> String {
    let ann = apart.keys.operator("ann");
    let body = json!({ "units": units, "expected_revision": 0, "reason": "a delivery" });
    apart.ask(Ask::new("PUT", "/v1/operator/products/1/stock").by(&ann).json(&body)).await.good(200);
    let mut wide = rules();
    wide["quota"] = json!({ "per_user": 9, "per_user_day": 9 });
    published(apart, &ann, "wide", &wide).await
}

async fn status(apart: &Apart, by: &str, coupon_id: &Value) -> Value {
    let path = format!("/v1/coupons/{}", coupon_id.as_str().expect("text"));
    apart.ask(Ask::get(path).by(by)).await.good(200)["status"].clone()
}

#[tokio::test]
async fn coupons_are_used_given_back_kept_and_expire_with_every_service_apart() {
    let Some(mut apart) = Apart::start(SHARDS).await else { return };
    let template = shop(&apart, 100).await;
    // They outlast the processes that are killed.
    let token = |role, subject| apart.keys.mint(bearer(role, subject), PATIENCE * 10);
    let (ann, user) = (token(Role::Operator, "ann"), token(Role::User, "42"));
    let mut coupons = Vec::new();
    for key in ["a", "b"] {
        coupons.push(apart.ask(claim(&user, &template, key)).await.good(201)["coupon_id"].clone());
    }

    // Used, and given back.
    let done = apart.ask(redeem(&apart.keys, 42, "7", &coupons[0])).await.good(200);
    assert_eq!((&done["state"], &done["combination"]["discount_cents"]), (&json!("done"), &json!(500)));
    assert_eq!(status(&apart, &user, &coupons[0]).await, "used");
    let refund = Ask::new("POST", "/v1/shop/users/42/orders/7/refund")
        .by(&apart.keys.shop("bob"))
        .json(&json!({ "reason": "broken" }));
    assert_eq!(apart.ask(refund).await.good(200)["returned_coupon_ids"], json!([coupons[0]]));
    assert_eq!(status(&apart, &user, &coupons[0]).await, "available");
    until("the log has both", async || {
        let told = apart.ask(Ask::get("/v1/operator/log?shop_id=9&order_id=7&user_id=42").by(&ann)).await.good(200);
        let actions: Vec<_> = told["items"].as_array().expect("a list").iter().map(|one| &one["action"]).collect();
        actions.contains(&&json!("coupon used")) && actions.contains(&&json!("order closed"))
    })
    .await;

    // Kept while there is no coordinator, and done later.
    apart.coordinator.process.as_mut().expect("it is ours").kill();
    assert_eq!(apart.ask(redeem(&apart.keys, 42, "8", &coupons[1])).await.good(202)["state"], "kept");
    apart.coordinator.process.as_mut().expect("it is ours").restart().expect("it starts");
    until("it is done", async || {
        apart.ask(Ask::get("/v1/shops/9/orders/8/redemption").by(&user)).await.body["state"] == "done"
    })
    .await;
    assert_eq!(status(&apart, &user, &coupons[1]).await, "used");

    // With no redemption service everything else goes on.
    apart.redemption.kill();
    let told = apart.ask(redeem(&apart.keys, 42, "9", &coupons[0]).with("accept-language", "zh")).await;
    assert_eq!((told.code(), &told.body["title"]), ("SYSTEM_BUSY", &json!("系统繁忙，请稍后重试")));
    apart.ask(claim(&user, &template, "c")).await.good(201);
    apart.redemption.restart().expect("it starts");
    until("it is done", async || apart.ask(redeem(&apart.keys, 42, "9", &coupons[0])).await.status == 200).await;

    // What was not used in time expires.
    let coupon = apart.ask(claim(&user, &template, "d")).await.good(201)["coupon_id"].clone();
    let (map, slot): (ShardMap, _) = (SHARDS.parse().expect("it is a map"), Slot::of_user(42));
    let (table, id) = (map.table(slot), coupon.as_str().expect("text"));
    let end = format!("UPDATE coupon_{table:03} SET valid_until_ms = 1 WHERE coupon_id = {id}");
    let pool = MySql::open(&apart.coupons[map.database(slot)]).await.expect("it is there");
    sqlx::query(AssertSqlSafe(end)).execute(&pool).await.expect("the table is there");
    until("it expires", async || status(&apart, &user, &coupon).await == "expired").await;
    assert_eq!(apart.ask(redeem(&apart.keys, 42, "10", &coupon)).await.code(), "EXPIRED");

    every_process_shows_what_it_was_asked(&apart).await;
}

/// Those that have routes count their calls, by method; and each has metrics of its own.
async fn every_process_shows_what_it_was_asked(apart: &Apart) {
    for (name, at) in &apart.metrics {
        let shown = apart.shown(*at).await;
        let wanted: &[&str] = match name.as_str() {
            "gateway" => &["tercet_gateway_request_seconds_count{route=\"redeem\",method=\"POST\""],
            "issuing" => &["{service=\"issuing\",method=\"Issuing/Claim\",code=\"OK\"} "],
            "redemption" => &["{service=\"redemption\",method=\"Redemption/Redeem\",code=\"OK\"} ", "given_up_total"],
            "coupon-template" => {
                &["{service=\"coupon_template\",method=\"CouponTemplates/CreateTemplate\",code=\"OK\"} 1"]
            }
            "business-log" => &["{service=\"business_log\",method=\"BusinessLog/"],
            "stock" => &["{service=\"stock\",method=\"Stocks/SetStock\",code=\"OK\"} 1", "tercet_stock_low{"],
            "coupon" => &["tercet_participant_operations_total{"],
            "order" => &["tercet_participant_operations_total{", "{service=\"order\",method=\"Orders/GetOrder\""],
            other => panic!("{other}"),
        };
        for text in wanted {
            assert!(shown.contains(text), "{name} has no {text}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_coupon_is_claimed_listed_and_used_on_ten_databases_of_a_hundred_tables() {
    let Some(apart) = Apart::start("10x100").await else { return };
    let template = shop(&apart, 100).await;
    for user_id in [42, 43, 1_000_000_007] {
        let user = apart.keys.user(user_id);
        let coupon = apart.ask(claim(&user, &template, "a")).await.good(201)["coupon_id"].clone();
        let own = apart.ask(Ask::get("/v1/coupons").by(&user)).await.good(200);
        assert_eq!((&own["items"][0]["coupon_id"], own["items"].as_array().map(Vec::len)), (&coupon, Some(1)));
        let order_id = user_id.to_string();
        assert_eq!(apart.ask(redeem(&apart.keys, user_id, &order_id, &coupon)).await.good(200)["state"], "done");
        assert_eq!(status(&apart, &user, &coupon).await, "used");
    }
    let ann = apart.keys.operator("ann");
    let mut found = 0;
    let mut after = String::new();
    loop {
        let path = format!("/v1/operator/coupons?template_id={template}&after={after}");
        let page = apart.ask(Ask::get(path).by(&ann)).await.good(200);
        found += page["items"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(found, 3, "an operator sees all of them");
}
