//! The processes, and what their databases hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, MySqlConnection};
use tercet::client::{Client, Options};
use tercet_events::event::Topic;
use tercet_integration::checker::shards::{self, Places, Report};
use tercet_integration::kafka::Broker;
use tercet_integration::mariadb::Server;
use tercet_integration::processes::{Coordinator, Process, Spec, free_address};
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::stock::v1::Supply;
use tonic::transport::{Channel, Endpoint};

use super::load::submit;
use crate::gateway::stage::Keys;
use crate::issuing::world::{FROM_MS, change, rules};

/// How long what is waited for may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, and two tries.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// Databases and tables of the coupons, at first and when slots have moved.
pub(super) const SHARDS: [&str; 2] = ["2x4", "4x4"];
/// Their databases, of which the first two are there at first.
pub(super) const COUPONS: [&str; 4] = ["coupon_0", "coupon_1", "coupon_2", "coupon_3"];
/// The item that everyone buys.
pub(super) const ITEM: i64 = 3;
/// The databases of the other services.
const DATABASES: [&str; 4] = ["stock", "orders", "template", "log"];

pub(super) struct Market {
    folder: PathBuf,
    /// Whether coupons are in all of their databases.
    grown: bool,
    server: Server,
    broker: Broker,
    coordinator: Coordinator,
    services: Vec<Process>,
    templates: CouponTemplatesClient<Channel>,
    issuing: IssuingClient<Channel>,
    /// Of those who ask the gateway.
    pub(super) keys: Arc<Keys>,
    pub(super) gateway: SocketAddr,
}

fn lazy(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
    endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(10)).connect_lazy()
}

fn address() -> String {
    free_address().expect("there is one").to_string()
}

impl Market {
    /// Everything, each part on its own; `None` where there is no Kafka.
    pub(super) async fn start(folder: &Path) -> Option<Self> {
        let broker = Broker::start(folder).await.expect("it starts")?;
        let mut server = Server::start(folder, "market").await.expect("it starts");
        let mut root = server.wait_ready().await.expect("it has started");
        for database in DATABASES.into_iter().chain(COUPONS) {
            let sql = format!("CREATE DATABASE `{database}`");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut root).await.expect("it is new");
        }
        let coordinator = Coordinator::start(folder).await.expect("it starts");
        let (at_templates, at_issuing, at_redemption, at_gateway) = (address(), address(), address(), address());
        let url = |database: &str| database_url(&server, database);
        let partitions: Vec<_> = Topic::ALL.iter().map(|topic| format!("{}=2", topic.name())).collect();
        let spec = |name: &str, program: &str, databases: String| {
            Spec::new(name, program, program, folder)
                .expect("it is built")
                .with("--coordinator", &coordinator.url)
                .with("--database", databases)
                .with("--log-filter", "warn")
        };
        let told = |spec: Spec, group: &str| {
            spec.with("--kafka", &broker.address)
                .with("--kafka-partitions", partitions.join(","))
                .with("--kafka-option", format!("group.instance.id={group}-1"))
        };
        let shards = format!("{},{}", url("coupon_0"), url("coupon_1"));
        let of_coupons = |name: &str, at: &str| {
            let own = spec(name, &format!("tercet-{name}"), shards.clone()).with("--shards", SHARDS[0]);
            own.with("--templates", format!("http://{at_templates}")).with("--listen", at)
        };
        let keys = Keys::new(folder.join("jwks.json"), "first");
        let gateway = Spec::new("gateway", "tercet-gateway", "tercet-gateway", folder).expect("it is built");
        let gateway = gateway.word("serve").with("--listen", &at_gateway).with("--jwks", &keys.path);
        let gateway = gateway
            .with("--template", format!("http://{at_templates}"))
            .with("--issuing", format!("http://{at_issuing}"))
            .with("--redemption", format!("http://{at_redemption}"))
            .with("--claims-per-minute", "0")
            .with("--log-filter", "warn");
        let template = spec("coupon_template", "tercet-coupon-template", url("template"));
        let specs = [
            spec("stock", "tercet-stock", url("stock")),
            told(spec("coupon", "tercet-coupon", shards.clone()).with("--shards", SHARDS[0]), "coupon"),
            told(spec("order", "tercet-order", url("orders")), "order"),
            told(template.with("--listen", &at_templates), "template"),
            told(of_coupons("issuing", &at_issuing), "issuing"),
            told(spec("business_log", "tercet-business-log", url("log")), "log"),
            of_coupons("redemption", &at_redemption),
            gateway,
        ];
        let mut services: Vec<Process> = specs.iter().map(|spec| spec.start().expect("it starts")).collect();
        coordinator.wait_for(&mut services[..3]).await.expect("they have sessions");
        let (templates, issuing) =
            (CouponTemplatesClient::new(lazy(&at_templates)), IssuingClient::new(lazy(&at_issuing)));
        Some(Self {
            folder: folder.to_owned(),
            grown: false,
            server,
            broker,
            coordinator,
            services,
            templates,
            issuing,
            keys: Arc::new(keys),
            gateway: at_gateway.parse().expect("an address"),
        })
    }

    /// Tells the services of the new databases, as an operator does before slots move.
    pub(super) async fn grow(&mut self) {
        self.grown = true;
        let databases = self.coupon_urls().join(",");
        for name in ["coupon", "issuing", "redemption"] {
            let service = self.services.iter_mut().find(|service| service.name() == name).expect("there is one");
            service.change("--database", &databases);
            service.change("--shards", SHARDS[1]);
            service.restart().expect("it starts");
        }
        self.coordinator.wait_for(&mut self.services[..3]).await.expect("they have sessions");
    }

    /// A second instance of the coupon service.
    pub(super) fn twin(&self) -> Process {
        let coupon = self.services.iter().find(|service| service.name() == "coupon").expect("there is one");
        coupon.twin().expect("it starts")
    }

    /// The program that moves slots to all databases.
    pub(super) fn mover(&self) -> Process {
        let spec = Spec::new("slots", "tercet-slots", "tercet-coupon", &self.folder).expect("it is built").word("move");
        let spec = spec.with("--database", self.coupon_urls().join(",")).with("--shards", SHARDS[1]);
        spec.with("--pause-ms", "100").with("--log-filter", "info").start().expect("it starts")
    }

    /// The databases that coupons are in.
    pub(super) fn coupon_databases(&self) -> &'static [&'static str] {
        if self.grown { &COUPONS } else { &COUPONS[..2] }
    }

    fn coupon_urls(&self) -> Vec<String> {
        self.coupon_databases().iter().map(|database| self.url(database)).collect()
    }

    /// A database, by its name.
    pub(super) fn url(&self, database: &str) -> String {
        database_url(&self.server, database)
    }

    pub(super) async fn connect(&self, database: &str) -> MySqlConnection {
        until("the database answers", async || MySqlConnection::connect(&self.url(database)).await.ok()).await
    }

    pub(super) fn issuing(&self) -> IssuingClient<Channel> {
        self.issuing.clone()
    }

    pub(super) fn client(&self) -> Client {
        Client::connect([&self.coordinator.url], Options::default()).expect("it is a URL")
    }

    /// A template of which everyone may claim as many as he likes, and units of what is bought.
    pub(super) async fn publish(&self) -> i64 {
        let template_id = self.template("spring", rules(1_000_000, 1_000, FROM_MS)).await;
        let mut plan = tercet::plan::saga();
        let supply = Supply { item: ITEM, units: 1_000_000, sequence: 1 };
        plan.branch(tercet_stock::SUPPLY.with(&supply).expect("it is small"));
        assert!(submit(&self.client(), plan.build().expect("it is sound")).await);
        template_id
    }

    /// A template that everyone may claim from.
    pub(super) async fn template(&self, name: &str, rules: templates::Rules) -> i64 {
        let mut client = self.templates.clone();
        let request = templates::CreateTemplateRequest {
            name: name.into(),
            rules: Some(rules),
            change: change(0),
            idempotency_key: name.into(),
        };
        let draft =
            until("the template service answers", async || client.create_template(request.clone()).await.ok()).await;
        let template_id = draft.into_inner().template.expect("a template").template_id;
        let audience = Some(templates::Audience { basis_points: 10_000, ..Default::default() });
        let request = templates::StartGrayRequest { template_id, audience, change: change(1) };
        client.start_gray(request).await.expect("it has a version");
        let request = templates::PromoteRequest { template_id, version: 1, change: change(2) };
        client.promote(request).await.expect("it is tried");
        template_id
    }

    /// Kills a part, and starts it again.
    pub(super) async fn kill(&mut self, name: &str) {
        self.process(name).kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.process(name).restart().expect("it starts");
    }

    /// A part, by its name.
    pub(super) fn process(&mut self, name: &str) -> &mut Process {
        match name {
            "kafka" => &mut self.broker.process,
            "mariadb" => &mut self.server.process,
            "coordinator" => self.coordinator.process.as_mut().expect("it is its own"),
            name => self.services.iter_mut().find(|service| service.name() == name).expect("there is one"),
        }
    }

    /// Waits until what is done now has come to orders and to the log.
    pub(super) async fn progress(&mut self) {
        let mut counts = async || {
            let mut orders = self.connect("orders").await;
            let placed = "SELECT (SELECT COUNT(*) FROM orders WHERE coupon_use > 0),
                (SELECT COUNT(*) FROM basket_coupon WHERE coupon_use > 0)";
            let (placed, baskets): (i64, i64) = sqlx::query_as(placed).fetch_one(&mut orders).await.ok()?;
            let mut log = self.connect("log").await;
            let logged = sqlx::query_scalar("SELECT COUNT(*) FROM business_log");
            let logged: i64 = logged.fetch_one(&mut log).await.ok()?;
            Some((placed, baskets, logged))
        };
        let before = until("they can be counted", &mut counts).await;
        until("something goes on", async || {
            let is_more = |now: &(i64, i64, i64)| now.0 > before.0 + 5 && now.1 > before.1 + 2 && now.2 > before.2 + 20;
            counts().await.filter(is_more).map(drop)
        })
        .await;
        for service in &mut self.services {
            service.check().expect("it runs");
        }
    }

    /// Waits until nothing is kept and nothing is under way any more, and every event is where it belongs.
    pub(super) async fn settle(&self) {
        for database in self.coupon_databases() {
            let mut connection = self.connect(database).await;
            until("all redemptions have ended", async || {
                let open = sqlx::query_scalar("SELECT COUNT(*) FROM redemption WHERE state IN (0, 1, 5, 6)");
                open.fetch_one(&mut connection).await.ok().filter(|open: &i64| *open == 0).map(drop)
            })
            .await;
        }
        self.coordinator.wait_idle(PATIENCE).await.expect("all of them end");
        for database in self.coupon_databases().iter().chain(&["orders", "template", "log"]) {
            let mut connection = self.connect(database).await;
            until("the outbox is empty", async || {
                let rows = sqlx::query_scalar("SELECT COUNT(*) FROM tercet_outbox").fetch_one(&mut connection).await;
                rows.ok().filter(|rows: &i64| *rows == 0).map(drop)
            })
            .await;
        }
        let counted = until("all are consumed", async || {
            let (logged, untold) = (self.logged().await.len(), self.orders_untold().await);
            let events = self.events().await;
            (logged >= events && untold == 0).then_some((logged, events))
        });
        let (logged, events) = counted.await;
        assert_eq!(logged, events);
    }

    /// How many events of coupons there have been: every claim is one, every use, and every return.
    async fn events(&self) -> usize {
        let issued = self.coupons().await.len();
        let mut orders = self.connect("orders").await;
        let sql = "SELECT CAST(SUM(CASE o.status WHEN 4 THEN 2 ELSE 1 END) AS SIGNED)
            FROM orders o LEFT JOIN basket_coupon b ON b.order_id = o.order_id AND b.shop_id = o.shop_id
            WHERE o.status IN (1, 4)";
        let of_orders: i64 = sqlx::query_scalar(sql).fetch_one(&mut orders).await.expect("the table is there");
        issued + of_orders as usize
    }

    /// Checks everything, looking again at what looks wrong for so long.
    pub(super) async fn check(&self, patience: Duration) -> Report {
        let url = |database: &str| self.url(database);
        let places = Places {
            map: SHARDS[usize::from(self.grown)].parse().expect("it is a map"),
            coupon: self.coupon_urls(),
            stock: url("stock"),
            order: url("orders"),
            template: url("template"),
            log: url("log"),
        };
        shards::check(&places, patience).await.expect("all of them can be read")
    }

    /// Where each coupon stands, which is in one database.
    pub(super) async fn coupons(&self) -> BTreeMap<i64, i64> {
        let mut all = BTreeMap::new();
        for database in self.coupon_databases() {
            let mut connection = self.connect(database).await;
            for table in 0..4 {
                let sql = format!("SELECT coupon_id, CAST(status AS SIGNED) FROM coupon_{table:03}");
                let rows: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                    .fetch_all(&mut connection)
                    .await
                    .expect("the table is there");
                for (coupon_id, status) in rows {
                    assert_eq!(all.insert(coupon_id, status), None, "coupon {coupon_id} is in two places");
                }
            }
        }
        all
    }

    /// What the log says of coupons, each in its order.
    pub(super) async fn logged(&self) -> Vec<(i64, String)> {
        let mut log = self.connect("log").await;
        let sql = "SELECT coupon_id, action FROM business_log WHERE action LIKE 'coupon %' ORDER BY log_id";
        sqlx::query_as(sql).fetch_all(&mut log).await.expect("the table is there")
    }

    /// Orders that stand or were returned, and do not know of it.
    pub(super) async fn orders_untold(&self) -> i64 {
        let mut orders = self.connect("orders").await;
        let sql = "SELECT COUNT(*) FROM orders o
            LEFT JOIN basket_coupon b ON b.order_id = o.order_id AND b.shop_id = o.shop_id
            WHERE COALESCE(b.coupon_use, o.coupon_use) <> CASE o.status WHEN 4 THEN 2 WHEN 1 THEN 1 ELSE 0 END";
        sqlx::query_scalar(sql).fetch_one(&mut orders).await.expect("the table is there")
    }
}

fn database_url(server: &Server, database: &str) -> String {
    let root = server.url.rsplit_once('/').expect("it ends with a database").0;
    format!("{root}/{database}")
}

/// Waits for a condition.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
