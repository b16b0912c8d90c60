//! The processes, and those who claim, buy and return meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, MySqlConnection};
use tercet::client::{Client, Options, Outcome, Wait};
use tercet::plan::Plan;
use tercet_events::event::Topic;
use tercet_integration::checker::shards::{self, Places, Report};
use tercet_integration::kafka::Broker;
use tercet_integration::mariadb::Server;
use tercet_integration::processes::{Coordinator, Process, Spec, free_port};
use tercet_platform::flows;
use tercet_proto::coupon::v1 as coupons;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::order::v1::Place;
use tercet_proto::stock::v1::Supply;
use tercet_rules::{Code, Fault};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::issuing::world::{FROM_MS, change, rules};

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, and two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Databases and tables of the coupons, at first and when slots have moved.
pub(super) const SHARDS: [&str; 2] = ["2x4", "4x4"];
/// Their databases, of which the first two are there at first.
pub(super) const COUPONS: [&str; 4] = ["coupon_0", "coupon_1", "coupon_2", "coupon_3"];
/// The item that everyone buys.
pub(super) const ITEM: i64 = 3;
/// Who claim and buy.
const CLIENTS: i64 = 6;

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
}

fn lazy(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
    endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(10)).connect_lazy()
}

fn address() -> String {
    format!("127.0.0.1:{}", free_port().expect("there is one"))
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
        let (at_templates, at_issuing) = (address(), address());
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
        let issuing = spec("issuing", "tercet-issuing", shards.clone()).with("--shards", SHARDS[0]);
        let issuing = issuing.with("--templates", format!("http://{at_templates}")).with("--listen", &at_issuing);
        let template = spec("coupon_template", "tercet-coupon-template", url("template"));
        let specs = [
            spec("stock", "tercet-stock", url("stock")),
            told(spec("coupon", "tercet-coupon", shards).with("--shards", SHARDS[0]), "coupon"),
            told(spec("order", "tercet-order", url("orders")), "order"),
            told(template.with("--listen", &at_templates), "template"),
            told(issuing, "issuing"),
            told(spec("business_log", "tercet-business-log", url("log")), "log"),
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
        })
    }

    /// Tells the services of the new databases, as an operator does before slots move.
    pub(super) async fn grow(&mut self) {
        self.grown = true;
        let databases = self.coupon_urls().join(",");
        for name in ["coupon", "issuing"] {
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

    fn client(&self) -> Client {
        Client::connect([&self.coordinator.url], Options::default()).expect("it is a URL")
    }

    /// A template of which everyone may claim as many as he likes, and units of what is bought.
    pub(super) async fn publish(&mut self) -> i64 {
        let request = templates::CreateTemplateRequest {
            name: "spring".into(),
            rules: Some(rules(1_000_000, 1_000, FROM_MS)),
            change: change(0),
            idempotency_key: "spring".into(),
        };
        let draft =
            until("the template service answers", async || self.templates.create_template(request.clone()).await.ok());
        let template_id = draft.await.into_inner().template.expect("a template").template_id;
        let audience = Some(templates::Audience { basis_points: 10_000, ..Default::default() });
        let request = templates::StartGrayRequest { template_id, audience, change: change(1) };
        self.templates.start_gray(request).await.expect("it has a version");
        let request = templates::PromoteRequest { template_id, version: 1, change: change(2) };
        self.templates.promote(request).await.expect("it is tried");
        let mut plan = tercet::plan::saga();
        let supply = Supply { item: ITEM, units: 1_000_000, sequence: 1 };
        plan.branch(tercet_stock::SUPPLY.with(&supply).expect("it is small"));
        assert!(submit(&self.client(), plan.build().expect("it is sound")).await);
        template_id
    }

    /// Kills a part, and starts it again.
    pub(super) async fn kill(&mut self, name: &str) {
        let process = match name {
            "kafka" => &mut self.broker.process,
            "mariadb" => &mut self.server.process,
            "coordinator" => self.coordinator.process.as_mut().expect("it is its own"),
            name => self.services.iter_mut().find(|service| service.name() == name).expect("there is one"),
        };
        process.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        process.restart().expect("it starts");
    }

    /// Waits until what is done now has come to orders and to the log.
    pub(super) async fn progress(&mut self) {
        let mut counts = async || {
            let mut orders = self.connect("orders").await;
            let placed = sqlx::query_scalar("SELECT COUNT(*) FROM orders WHERE coupon_use > 0");
            let placed: i64 = placed.fetch_one(&mut orders).await.ok()?;
            let mut log = self.connect("log").await;
            let logged = sqlx::query_scalar("SELECT COUNT(*) FROM business_log");
            let logged: i64 = logged.fetch_one(&mut log).await.ok()?;
            Some((placed, logged))
        };
        let (placed, logged) = until("they can be counted", &mut counts).await;
        until("something goes on", async || {
            counts().await.filter(|now| now.0 > placed + 5 && now.1 > logged + 20).map(drop)
        })
        .await;
        for service in &mut self.services {
            service.check().expect("it runs");
        }
    }

    /// Waits until nothing is under way any more, and every event is where it belongs.
    pub(super) async fn settle(&self) {
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
        let sql = "SELECT CAST(SUM(CASE status WHEN 4 THEN 2 ELSE 1 END) AS SIGNED) FROM orders WHERE status IN (1, 4)";
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
        let sql = "SELECT COUNT(*) FROM orders WHERE coupon_use <> CASE status WHEN 4 THEN 2 WHEN 1 THEN 1 ELSE 0 END";
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

/// Asks until the outcome is known: whether it is confirmed.
async fn submit<M: Clone>(client: &Client, plan: Plan<M>) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let view = client.submit(plan.clone(), Wait::Ended).await;
        if let Some(outcome) = view.ok().and_then(|view| view.outcome()) {
            return outcome == Outcome::Confirmed;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("in vain: it ends");
}

/// What clients have done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The coupons that they were told they have.
    pub(super) claimed: Vec<i64>,
    pub(super) orders: i64,
    pub(super) refunds: i64,
}

/// Clients that claim, buy with what they have claimed, and return every third order, until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Done>>,
}

impl Load {
    pub(super) fn start(market: &Market, template_id: i64) -> Self {
        let (stop, orders) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let client = |user_id: i64| {
            let (stop, orders) = (Arc::clone(&stop), Arc::clone(&orders));
            let (mut issuing, coordinator) = (market.issuing.clone(), market.client());
            tokio::spawn(async move {
                let mut done = Done::default();
                while !stop.load(Ordering::Relaxed) {
                    let order_id = orders.fetch_add(1, Ordering::Relaxed) + 1;
                    let coupon_id = claim(&mut issuing, user_id + order_id * CLIENTS, template_id).await;
                    done.claimed.push(coupon_id);
                    let order = Place {
                        order_id,
                        user_id: user_id + order_id * CLIENTS,
                        item: ITEM,
                        count: 1,
                        coupon_id,
                        amount_cents: 2_000,
                        discount_cents: 500,
                    };
                    // While a service is away, its time may run out.
                    if !submit(&coordinator, flows::checkout(&order).expect("it is sound")).await {
                        continue;
                    }
                    done.orders += 1;
                    if order_id % 3 == 0 {
                        // Without a key: where it is not known how it ended, the same again may find it done.
                        done.refunds +=
                            i64::from(submit(&coordinator, flows::refund(&order).expect("it is sound")).await);
                    }
                }
                done
            })
        };
        let clients = (1..=CLIENTS).map(client).collect();
        Self { stop, clients }
    }

    pub(super) async fn stop(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        for client in self.clients {
            let done = client.await.expect("nothing is refused");
            all.claimed.extend(done.claimed);
            (all.orders, all.refunds) = (all.orders + done.orders, all.refunds + done.refunds);
        }
        all
    }
}

async fn claim(issuing: &mut IssuingClient<Channel>, user_id: i64, template_id: i64) -> i64 {
    let request = coupons::ClaimRequest { user_id, template_id, idempotency_key: "k".into(), groups: Vec::new() };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match issuing.claim(request.clone()).await {
            Ok(answer) => return answer.into_inner().coupon.expect("a coupon").coupon_id,
            Err(status) => {
                let fault = Fault::from_status(&status);
                assert!(fault.is_none_or(|fault| fault.code == Code::SystemBusy), "{status:?}");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("in vain: a claim is answered");
}
