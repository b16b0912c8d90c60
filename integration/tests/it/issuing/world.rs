//! All services that issuing needs, beside the test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, MySql, Pool, Sqlite};
use tempfile::TempDir;
use tercet::client::{Client, Options};
use tercet::fence::Dialect;
use tercet_coupon::Shards;
use tercet_coupon::issuing::{self, Peers, Settings};
use tercet_coupon::store::old::Old;
use tercet_coupon::store::redemptions::Redemptions;
use tercet_events::bus::{Bus, Group};
use tercet_events::event::Topic;
use tercet_events::settings::Kafka;
use tercet_integration::processes::free_address;
use tercet_integration::servers;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_rules::Fault;
use tercet_shards::{ShardMap, node};
use tercet_testing::Coordinator;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

pub(crate) const FROM_MS: i64 = 1_600_000_000_000;
pub(crate) const TO_MS: i64 = 4_000_000_000_000;
pub(super) const EVERY_SECOND: &str = "* * * * * *";

/// All databases that one service here can live in.
pub(crate) trait Databases:
    Old + Redemptions + Dialect + node::Store + tercet_stock::store::Store + Send
{
    /// What a query of one number finds.
    async fn number(pool: &Pool<Self>, sql: String) -> i64;
}

macro_rules! databases {
    ($database:ty) => {
        impl Databases for $database {
            async fn number(pool: &Pool<Self>, sql: String) -> i64 {
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.expect("the tables are there")
            }
        }
    };
}

databases!(Sqlite);
databases!(MySql);

pub(crate) struct World<Db: Databases> {
    pub(super) coordinator: Coordinator,
    pub(super) shards: Shards<Db>,
    pub(super) stock: Pool<Db>,
    pub(super) templates: CouponTemplatesClient<Channel>,
    pub(super) issuing: IssuingClient<Channel>,
    /// Where the business log is, if there is one.
    pub(super) log: Option<Pool<Db>>,
    urls: Vec<String>,
    /// Where the issuing service is.
    pub(crate) at_issuing: SocketAddr,
    at_templates: SocketAddr,
    _folder: Option<TempDir>,
}

fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).expect("it is an address").connect_lazy()
}

/// `urls` are of the stock, of as many databases as the map has, and of the business log where there is to be one.
async fn world<Db: Databases + tercet_coupon_template::store::Store + tercet_business_log::store::Store>(
    urls: &[String],
    cron: &str,
    folder: Option<TempDir>,
    bus: Option<&Bus>,
) -> World<Db> {
    let mut world = without_stock(urls, cron, folder, bus).await;
    world.serve_stock().await;
    if let Some(url) = urls.get(3) {
        let log = <Db as Dialect>::open(url).await.expect("the database is there");
        let service = tercet_business_log::service(log.clone(), bus, tercet_business_log::Settings::default());
        world.coordinator.serve(service.await.expect("the schema is sound"));
        world.log = Some(log);
    }
    world
}

/// The same; its stock does not answer yet.
async fn without_stock<Db: Databases + tercet_coupon_template::store::Store>(
    urls: &[String],
    cron: &str,
    folder: Option<TempDir>,
    bus: Option<&Bus>,
) -> World<Db> {
    let mut coordinator = Coordinator::start().await;
    let stock = <Db as Dialect>::open(&urls[0]).await.expect("the database is there");
    let map: ShardMap = "2x4".parse().expect("it is a map");
    let shards = Shards::<Db>::open(map, &urls[1..3]).await.expect("as many databases as the map has");
    coordinator.serve(tercet_coupon::service(shards.clone(), bus).await.expect("the schema is sound"));
    let (at_templates, at_issuing) = (free_address().expect("there is one"), free_address().expect("there is one"));
    let service = tercet_coupon_template::service(stock.clone(), bus).await.expect("the schema is sound");
    coordinator.serve(service.listen(at_templates));
    let peers = Peers { client: coordinator.client(), templates: channel(at_templates) };
    let settings = Settings { jobs_cron: cron.into(), retention_days: 30 };
    let service = issuing::service(shards.clone(), peers, settings, bus).await.expect("the schema is sound");
    coordinator.serve(service.listen(at_issuing));
    let (mut templates, mut issuing) =
        (CouponTemplatesClient::new(channel(at_templates)), IssuingClient::new(channel(at_issuing)));
    until("both ports are open", async || {
        let lists = templates.list_templates(templates::ListTemplatesRequest::default()).await;
        lists.is_ok() && issuing.list_coupons(pb::ListCouponsRequest::default()).await.is_ok()
    })
    .await;
    World {
        coordinator,
        shards,
        stock,
        templates,
        issuing,
        urls: urls[1..3].to_vec(),
        at_issuing,
        at_templates,
        log: None,
        _folder: folder,
    }
}

pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn on_sqlite(cron: &str) -> World<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let urls = ["stock", "a", "b"].map(|name| format!("sqlite://{}/{name}.db", folder.path().display()));
    world(&urls, cron, Some(folder), None).await
}

/// The same; its stock does not answer yet.
pub(super) async fn without_stock_on_sqlite() -> World<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let urls = ["stock", "a", "b"].map(|name| format!("sqlite://{}/{name}.db", folder.path().display()));
    without_stock(&urls, super::CRON, Some(folder), None).await
}

/// The same, with events within the process.
pub(super) async fn told_on_sqlite() -> World<Sqlite> {
    within_sqlite(&["stock", "a", "b"], &[issuing::occasions::GROUP, tercet_coupon_template::usage::GROUP]).await
}

/// The same, and the business log.
pub(super) async fn logged_on_sqlite() -> World<Sqlite> {
    let groups = [issuing::occasions::GROUP, tercet_coupon_template::usage::GROUP, tercet_business_log::writer::GROUP];
    within_sqlite(&["stock", "a", "b", "log"], &groups).await
}

async fn within_sqlite(names: &[&str], groups: &[Group]) -> World<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = |name: &&str| format!("sqlite://{}/{name}.db", folder.path().display());
    let urls: Vec<String> = names.iter().map(url).collect();
    world(&urls, EVERY_SECOND, Some(folder), Some(&Bus::in_process(groups))).await
}

/// The same, with events through a real Kafka.
pub(super) async fn told_on_mariadb() -> Option<World<MySql>> {
    through_kafka(3).await
}

/// The same, and the business log.
pub(super) async fn logged_on_mariadb() -> Option<World<MySql>> {
    through_kafka(4).await
}

async fn through_kafka(databases: usize) -> Option<World<MySql>> {
    let (address, prefix) = servers::kafka()?;
    let mut urls = Vec::new();
    for _ in 0..databases {
        urls.push(servers::mariadb().await.expect("the server answers")?);
    }
    // Few, since each of them costs the broker files.
    let kafka = Kafka { prefix, partitions: Topic::ALL.map(|topic| (topic, 1)).into(), ..Kafka::at(&address) };
    Some(world(&urls, EVERY_SECOND, None, Some(&Bus::kafka(&kafka).expect("they are sound"))).await)
}

pub(super) async fn on_mariadb(cron: &str) -> Option<World<MySql>> {
    let mut urls = Vec::new();
    for _ in 0..3 {
        urls.push(servers::mariadb().await.expect("the server answers")?);
    }
    Some(world(&urls, cron, None, None).await)
}

/// Universal, 500 off, so many in all, so many for each user.
pub(crate) fn rules(coupons: i64, per_user: u32, start_ms: i64) -> templates::Rules {
    let kind = templates::discount::Kind::Universal(templates::Universal { off_cents: 500 });
    templates::Rules {
        discount: Some(templates::Discount { kind: Some(kind) }),
        validity: Some(templates::Validity {
            utc_offset_minutes: 480,
            kind: Some(templates::validity::Kind::DaysFromClaim(7)),
        }),
        scope: Some(templates::Scope { kind: Some(templates::scope::Kind::All(templates::Everything {})) }),
        quota: Some(templates::Quota { per_user, per_user_day: per_user }),
        stacking: Some(templates::Stacking { kind: Some(templates::stacking::Kind::Alone(templates::Alone {})) }),
        budget: Some(templates::Budget { coupons, cents: 500 * coupons }),
        claim: Some(templates::Period { start_ms, end_ms: TO_MS }),
    }
}

pub(crate) fn change(expected_revision: u64) -> Option<templates::Change> {
    Some(templates::Change { expected_revision, operator: "ann".into(), reason: "spring".into() })
}

impl World<Sqlite> {
    /// Stock that is there as long as these threads.
    pub(super) fn passing_stock(&self) -> Runtime {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let file = format!("sqlite://{}", self.stock.connect_options().get_filename().display());
        let url = self.coordinator.url();
        runtime.spawn(async move {
            let pool = <Sqlite as Dialect>::open(&file).await.expect("the database is there");
            let service = tercet_stock::service(pool, None).await.expect("the schema is sound");
            service.coordinator(url).run(std::future::pending()).await.expect("it runs");
        });
        runtime
    }
}

impl<Db: Databases> World<Db> {
    /// Another issuing service over the same databases, on threads of its own, with which it dies.
    pub(super) async fn second(&self) -> (Runtime, IssuingClient<Channel>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let (urls, at, map) = (self.urls.clone(), free_address().expect("there is one"), self.shards.map().clone());
        let (url, at_templates) = (self.coordinator.url(), self.at_templates);
        runtime.spawn(async move {
            let shards = Shards::<Db>::open(map, &urls).await.expect("the databases are there");
            let client = Client::connect([&url], Options::default()).expect("it is an address");
            let peers = Peers { client, templates: channel(at_templates) };
            let settings = Settings { jobs_cron: super::CRON.into(), retention_days: 30 };
            let service = issuing::service(shards, peers, settings, None).await.expect("the schema is sound");
            service.listen(at).coordinator(url).run(std::future::pending()).await.expect("it runs");
        });
        let client = IssuingClient::new(channel(at));
        let mut asked = client.clone();
        until("it answers", async || asked.list_coupons(pb::ListCouponsRequest::default()).await.is_ok()).await;
        (runtime, client)
    }

    pub(super) async fn serve_stock(&mut self) {
        let service = tercet_stock::service(self.stock.clone(), None).await.expect("the schema is sound");
        self.coordinator.serve(service);
    }

    pub(super) async fn draft(&mut self, key: &str, rules: templates::Rules) -> templates::Template {
        let request = templates::CreateTemplateRequest {
            name: "spring".into(),
            rules: Some(rules),
            change: change(0),
            idempotency_key: key.into(),
        };
        let made = self.templates.create_template(request).await.expect("it is sound").into_inner();
        made.template.expect("a template")
    }

    pub(super) async fn gray(&mut self, template: &templates::Template, user_id: i64) -> templates::Template {
        let audience = templates::Audience { basis_points: 0, groups: Vec::new(), user_ids: vec![user_id] };
        let request = templates::StartGrayRequest {
            template_id: template.template_id,
            audience: Some(audience),
            change: change(template.revision),
        };
        let made = self.templates.start_gray(request).await.expect("it has a version").into_inner();
        made.template.expect("a template")
    }

    /// Tries these rules beside those that are live, with the group "gray".
    pub(super) async fn beside(&mut self, template_id: i64, rules: templates::Rules) -> templates::Template {
        let get = templates::GetTemplateRequest { template_id };
        let found = self.templates.get_template(get).await.expect("it is there").into_inner().template;
        let change_of = |template: Option<templates::Template>| change(template.expect("a template").revision);
        let request = templates::SetRulesRequest { template_id, rules: Some(rules), change: change_of(found) };
        let written = self.templates.set_rules(request).await.expect("it is sound").into_inner().template;
        let audience = templates::Audience { basis_points: 0, groups: vec!["gray".into()], user_ids: Vec::new() };
        let request = templates::StartGrayRequest { template_id, audience: Some(audience), change: change_of(written) };
        let made = self.templates.start_gray(request).await.expect("it has a version").into_inner();
        made.template.expect("a template")
    }

    /// The id of a template that everyone may claim.
    pub(super) async fn publish(&mut self, key: &str, rules: templates::Rules) -> i64 {
        let template = self.draft(key, rules).await;
        let gray = self.gray(&template, 1).await;
        let (template_id, version) = (gray.template_id, gray.candidate_version);
        let request = templates::PromoteRequest { template_id, version, change: change(gray.revision) };
        self.templates.promote(request).await.expect("it is tried");
        template_id
    }

    pub(super) async fn claim(
        &mut self,
        user_id: i64,
        template_id: i64,
        key: &str,
    ) -> Result<pb::ClaimResponse, Fault> {
        let request = pb::ClaimRequest { user_id, template_id, idempotency_key: key.into(), groups: Vec::new() };
        let answer = self.issuing.claim(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| fault(&status))
    }

    pub(super) async fn issue(&mut self, request: &pb::IssueRequest) -> Result<Vec<pb::Batch>, Fault> {
        let mut stream = match self.issuing.issue(request.clone()).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Err(fault(&status)),
        };
        let mut told = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(batch)) => told.push(batch),
                Ok(None) => return Ok(told),
                Err(status) => return Err(fault(&status)),
            }
        }
    }

    /// Free, reserved and issued of all templates.
    pub(super) async fn units(&self) -> (i64, i64, i64) {
        let totals = tercet_stock::audit(&self.stock).await.expect("the table is there");
        assert_eq!(totals.broken, 0, "{totals:?}");
        (totals.free, totals.reserved, totals.issued)
    }
}

#[track_caller]
pub(super) fn fault(status: &tonic::Status) -> Fault {
    Fault::from_status(status).unwrap_or_else(|| panic!("no code of the catalogue: {status:?}"))
}
