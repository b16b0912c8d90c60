//! All services that redemption needs, beside the test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, MySql, Pool, Sqlite};
use tempfile::TempDir;
use tercet::client::{Client, Options, View};
use tercet::fence::Dialect;
use tercet_coupon::redemption::{self, Peers, Settings, limits};
use tercet_coupon::store::batches::Batches;
use tercet_coupon::store::redemptions::Redemptions;
use tercet_coupon::{Shards, seed_coupons};
use tercet_integration::processes::free_address;
use tercet_integration::servers;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_proto::admin::v1::{Change, ForceCancelRequest, ListCompensationsRequest};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::redemption_client::RedemptionClient;
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_rules::Fault;
use tercet_rules::limits::TIME_MS_MAX;
use tercet_shards::{ShardMap, Slot, node};
use tercet_testing::Coordinator;
use tonic::transport::Channel;

/// Whose coupons they are, if nobody else is named.
pub(crate) const USER: i64 = 7;
/// Whose products they are, and whose orders.
pub(crate) const SHOP: i64 = 3;

/// All databases that every service here can live in.
pub(crate) trait Databases:
    Batches
    + Redemptions
    + Dialect
    + node::Store
    + tercet_order::store::Store
    + tercet_coupon_template::store::Store
    + tercet_stock::store::Store
{
    /// Does by hand what nothing else does.
    async fn by_hand(pool: &Pool<Self>, sql: String);
}

macro_rules! databases {
    ($database:ty) => {
        impl Databases for $database {
            async fn by_hand(pool: &Pool<Self>, sql: String) {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.expect("the tables are there");
            }
        }
    };
}

databases!(Sqlite);
databases!(MySql);

pub(crate) struct World<Db: Databases> {
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Shards<Db>,
    pub(crate) orders: Pool<Db>,
    pub(crate) redemption: RedemptionClient<Channel>,
    /// Where the redemption service listens.
    pub(crate) address: SocketAddr,
    templates: CouponTemplatesClient<Channel>,
    at_templates: SocketAddr,
    made: i64,
    _folder: Option<TempDir>,
}

fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).expect("it is an address").connect_lazy()
}

/// `urls` are of the orders, and of as many databases as the map has.
async fn world<Db: Databases>(urls: &[String], folder: Option<TempDir>) -> World<Db> {
    let mut coordinator = Coordinator::start().await;
    let orders = <Db as Dialect>::open(&urls[0]).await.expect("the database is there");
    let map: ShardMap = "2x4".parse().expect("it is a map");
    let shards = Shards::<Db>::open(map, &urls[1..]).await.expect("as many databases as the map has");
    coordinator.serve(tercet_coupon::service(shards.clone(), None).await.expect("the schema is sound"));
    let at_templates = free_address().expect("there is one");
    let service = tercet_coupon_template::service(orders.clone(), None).await.expect("the schema is sound");
    coordinator.serve(service.listen(at_templates));
    let url = coordinator.url();
    let address = serve(&mut coordinator, &url, &shards, at_templates, Settings::default()).await;
    let templates = CouponTemplatesClient::new(channel(at_templates));
    let redemption = RedemptionClient::new(channel(address));
    until("the template service answers", async || {
        templates.clone().list_templates(templates::ListTemplatesRequest::default()).await.is_ok()
    })
    .await;
    let (made, _folder) = (0, folder);
    World { coordinator, shards, orders, redemption, address, templates, at_templates, made, _folder }
}

/// Runs the redemption service with these settings, which submits to the coordinator at this address; where it listens.
async fn serve<Db: Databases>(
    coordinator: &mut Coordinator,
    url: &str,
    shards: &Shards<Db>,
    at_templates: SocketAddr,
    settings: Settings,
) -> SocketAddr {
    let address = free_address().expect("there is one");
    // As its process has it.
    let options = Options { timeout: limits::CALL_TIMEOUT, ..Options::default() };
    let client = Client::connect([url], options).expect("it is an address");
    let peers = Peers { client, templates: channel(at_templates) };
    let service = redemption::service(shards.clone(), peers, settings).await.expect("the schema is sound");
    coordinator.serve(service.listen(address));
    let client = RedemptionClient::new(channel(address));
    until("its port is open", async || fault_of(client.clone().get_redemption(by_key("none")).await).is_some()).await;
    address
}

fn fault_of<T>(answer: Result<T, tonic::Status>) -> Option<Fault> {
    answer.err().and_then(|status| Fault::from_status(&status))
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn on_sqlite() -> World<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let urls = ["order", "a", "b"].map(|name| format!("sqlite://{}/{name}.db", folder.path().display()));
    world(&urls, Some(folder)).await
}

pub(crate) async fn on_mariadb() -> Option<World<MySql>> {
    let mut urls = Vec::new();
    for _ in 0..3 {
        urls.push(servers::mariadb().await.expect("the server answers")?);
    }
    Some(world(&urls, None).await)
}

/// Cancels by hand a transaction with a branch of this action, as soon as there is one.
pub(crate) async fn stop(coordinator: &Coordinator, action: &str, reason: &str) {
    let mut admin = AdminClient::connect(coordinator.admin_url()).await.expect("it listens");
    let begun = Instant::now();
    let view = loop {
        let has_it = |view: &View| view.details().branches.iter().any(|branch| branch.action == action);
        if let Some(view) = coordinator.unfinished().await.into_iter().find(has_it) {
            break view;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no {action} is under way");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let change = Some(Change { reason: reason.into(), ..Change::default() });
    let request = ForceCancelRequest { xid: view.details().xid.clone(), change };
    admin.force_cancel(request).await.expect("it is undecided");
}

/// Takes so much off, of everything, beside so many of its group; 0: alone.
pub(crate) fn universal(off_cents: i64, most: u32) -> templates::Rules {
    let discount = templates::discount::Kind::Universal(templates::Universal { off_cents });
    let stacking = match most {
        0 => templates::stacking::Kind::Alone(templates::Alone {}),
        most => templates::stacking::Kind::Together(templates::Together { group: "shop".into(), most }),
    };
    templates::Rules {
        discount: Some(templates::Discount { kind: Some(discount) }),
        validity: Some(templates::Validity {
            utc_offset_minutes: 480,
            kind: Some(templates::validity::Kind::Fixed(templates::Period { start_ms: 1, end_ms: TIME_MS_MAX })),
        }),
        scope: Some(templates::Scope { kind: Some(templates::scope::Kind::All(templates::Everything {})) }),
        quota: Some(templates::Quota { per_user: 9, per_user_day: 9 }),
        stacking: Some(templates::Stacking { kind: Some(stacking) }),
        budget: Some(templates::Budget { coupons: 100, cents: 100 * off_cents }),
        claim: Some(templates::Period { start_ms: 1, end_ms: TIME_MS_MAX }),
    }
}

/// One unit of product 1, category 2, of the shop.
pub(crate) fn line(price_cents: i64) -> pb::OrderLine {
    units(1, price_cents, 1)
}

/// So many units of a product.
pub(crate) fn units(product_id: i64, price_cents: i64, quantity: u32) -> pb::OrderLine {
    pb::OrderLine { product_id, category_id: 2, shop_id: SHOP, price_cents, quantity }
}

/// These coupons of [`USER`] for an order of 100 yuan.
pub(crate) fn wanted(key: &str, order_id: i64, coupon_ids: &[i64]) -> pb::RedeemRequest {
    pb::RedeemRequest {
        idempotency_key: key.into(),
        user_id: USER,
        order_id,
        lines: vec![line(10_000)],
        coupon_ids: coupon_ids.to_vec(),
        discount_cents: None,
        shop_id: SHOP,
        operator: "bob".into(),
        pay_within_s: None,
    }
}

pub(crate) fn by_key(key: &str) -> pb::GetRedemptionRequest {
    let by = Some(pb::get_redemption_request::By::IdempotencyKey(key.into()));
    pb::GetRedemptionRequest { user_id: USER, by, shop_id: SHOP }
}

pub(crate) fn refund(order_id: i64) -> pb::RefundRequest {
    let (operator, reason) = ("ann".to_owned(), "broken".to_owned());
    pb::RefundRequest { user_id: USER, order_id, shop_id: SHOP, operator, reason, only_unpaid: false }
}

impl<Db: Databases> World<Db> {
    /// A template with these rules, whose first version coupons have.
    pub(crate) async fn template(&mut self, rules: templates::Rules) -> i64 {
        self.made += 1;
        let change = templates::Change { expected_revision: 0, operator: "ann".into(), reason: "spring".into() };
        let request = templates::CreateTemplateRequest {
            name: "spring".into(),
            rules: Some(rules),
            change: Some(change),
            idempotency_key: self.made.to_string(),
        };
        let made = self.templates.create_template(request).await.expect("it is sound").into_inner();
        made.template.expect("a template").template_id
    }

    /// A user's coupon of this template, and what else it is.
    pub(crate) async fn coupon(&mut self, user_id: i64, template_id: i64, edit: impl FnOnce(&mut pb::Claim)) -> i64 {
        self.made += 1;
        let mut claim = tercet_coupon::claim_by_hand(self.made, user_id, template_id, 99);
        edit(&mut claim);
        seed_coupons(&self.shards, &[claim]).await.expect("it is new");
        claim.coupon_id
    }

    /// A coupon of [`USER`] with these rules.
    pub(crate) async fn own(&mut self, rules: templates::Rules) -> i64 {
        let template_id = self.template(rules).await;
        self.coupon(USER, template_id, |_| {}).await
    }

    /// Places orders from now on, of so many units of each product.
    pub(crate) async fn with_orders(&mut self, products: &[(i64, i64)]) {
        let service = tercet_order::service(self.orders.clone(), None).await.expect("the schema is sound");
        self.coordinator.serve(service);
        self.with_stock(products).await;
    }

    /// Has so many units of each product from now on.
    pub(crate) async fn with_stock(&mut self, products: &[(i64, i64)]) {
        let service = tercet_stock::service(self.orders.clone(), None).await.expect("the schema is sound");
        tercet_stock::seed(&self.orders, products).await.expect("they are sound");
        self.coordinator.serve(service);
    }

    /// Units of all products together: free, reserved and issued.
    pub(crate) async fn units(&self) -> (i64, i64, i64) {
        let totals = tercet_stock::audit(&self.orders).await.expect("the table is there");
        assert_eq!(totals.broken, 0, "{totals:?}");
        (totals.free, totals.reserved, totals.issued)
    }

    /// Another process of the redemption service, with these settings.
    pub(crate) async fn another(&mut self, settings: Settings) -> RedemptionClient<Channel> {
        let url = self.coordinator.url();
        self.submitting_to(&url, settings).await
    }

    /// Another process of the redemption service, with a coordinator at this address and these settings.
    pub(crate) async fn submitting_to(&mut self, url: &str, settings: Settings) -> RedemptionClient<Channel> {
        let address = serve(&mut self.coordinator, url, &self.shards, self.at_templates, settings).await;
        RedemptionClient::new(channel(address))
    }

    /// The coupon and the status of each row of `compensation_log`.
    pub(crate) async fn compensations(&self) -> Vec<(Option<i64>, u32)> {
        let mut admin = AdminClient::connect(self.coordinator.admin_url()).await.expect("it listens");
        let listed = admin.list_compensations(ListCompensationsRequest::default()).await.expect("it lists");
        listed.into_inner().compensations.iter().map(|row| (row.coupon_id, row.status)).collect()
    }

    pub(crate) async fn redeem(&self, request: &pb::RedeemRequest) -> Result<pb::RedemptionView, Fault> {
        let answer = self.redemption.clone().redeem(request.clone()).await.map_err(|status| fault(&status))?;
        Ok(answer.into_inner().redemption.expect("a redemption"))
    }

    pub(crate) async fn get(&self, key: &str) -> pb::RedemptionView {
        let answer = self.redemption.clone().get_redemption(by_key(key)).await.expect("it is there");
        answer.into_inner().redemption.expect("a redemption")
    }

    pub(crate) async fn refund(&self, request: pb::RefundRequest) -> Result<pb::RefundResponse, Fault> {
        let answer = self.redemption.clone().refund(request).await.map_err(|status| fault(&status))?;
        Ok(answer.into_inner())
    }

    /// Used coupons with their orders, and what placed orders say; both by coupon.
    pub(crate) async fn uses(&self) -> (Vec<(i64, i64)>, Vec<(i64, i64)>) {
        let mut used = tercet_coupon::used(&self.shards).await.expect("the tables are there");
        used.sort_unstable();
        (used, tercet_order::coupons(&self.orders).await.expect("the tables are there"))
    }

    /// Does this to the user's redemptions, by hand.
    pub(crate) async fn redemptions_by_hand(&self, set: &str) {
        let pool = &self.shards.pools()[self.shards.map().database(Slot::of_user(USER))];
        Db::by_hand(pool, format!("UPDATE redemption SET {set}")).await;
    }

    /// Ends the time of the user's coupons.
    pub(crate) async fn end_coupons(&self) {
        let slot = Slot::of_user(USER);
        let (pool, table) = (&self.shards.pools()[self.shards.map().database(slot)], self.shards.map().table(slot));
        Db::by_hand(pool, format!("UPDATE coupon_{table:03} SET valid_until_ms = 1")).await;
    }
}

#[track_caller]
pub(crate) fn fault(status: &tonic::Status) -> Fault {
    Fault::from_status(status).unwrap_or_else(|| panic!("no code of the catalogue: {status:?}"))
}
