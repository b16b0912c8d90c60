//! The embedded default: one process, the same outboxes, delivered within it, and killed.

use std::path::{Path, PathBuf};

use sqlx::{Connection as _, SqliteConnection};
use tercet::client::{Client, Options, Wait};
use tercet::plan::Plan;
use tercet_integration::processes::{Process, Spec, free_address};
use tercet_platform::flows;
use tercet_proto::coupon::v1 as coupons;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::log::v1::business_log_client::BusinessLogClient;
use tercet_proto::log::v1::{Entry, SearchRequest};
use tercet_proto::order::v1::Place;
use tercet_proto::stock::v1::Supply;
use tonic::transport::Channel;

use super::stage::eventually;
use crate::issuing::world::{FROM_MS, change, rules};
use crate::templates::create_request;

struct Platform {
    process: Process,
    coordinator: String,
    template: String,
    issuing: String,
    log: String,
    data: PathBuf,
}

impl Platform {
    fn start(folder: &Path) -> Self {
        let spec = Spec::new("platform", "tercet-platform", "tercet-platform", folder).expect("it is built");
        let data = folder.join("data");
        let mut spec = spec.with("--seconds", "0").with("--data", &data);
        let mut on = |flag: &str| {
            let address = free_address().expect("there is one").to_string();
            spec = spec.clone().with(&format!("--{flag}"), &address);
            format!("http://{address}")
        };
        for flag in ["admin", "stock", "coupon", "order", "metrics", "gateway", "redemption"] {
            on(flag);
        }
        let (coordinator, template) = (on("coordinator"), on("template"));
        let (issuing, log) = (on("issuing"), on("business-log"));
        let process = spec.start().expect("it starts");
        Self { process, coordinator, template, issuing, log, data }
    }

    async fn templates(&mut self) -> CouponTemplatesClient<Channel> {
        let connect = async || {
            self.process.check().expect("it runs");
            CouponTemplatesClient::connect(self.template.clone()).await.ok()
        };
        eventually("the template service answers", connect).await
    }

    async fn issuing(&mut self) -> IssuingClient<Channel> {
        eventually("issuing answers", async || IssuingClient::connect(self.issuing.clone()).await.ok()).await
    }

    /// A template of which everyone may claim.
    async fn publish(&mut self) -> i64 {
        let mut client = self.templates().await;
        let request = templates::CreateTemplateRequest {
            name: "spring".into(),
            rules: Some(rules(100, 5, FROM_MS)),
            change: change(0),
            idempotency_key: "spring".into(),
        };
        let draft = client.create_template(request).await.expect("it is sound").into_inner().template;
        let template_id = draft.expect("a template").template_id;
        let audience = Some(templates::Audience { basis_points: 10_000, ..Default::default() });
        let request = templates::StartGrayRequest { template_id, audience, change: change(1) };
        client.start_gray(request).await.expect("it has a version");
        let request = templates::PromoteRequest { template_id, version: 1, change: change(2) };
        client.promote(request).await.expect("it is tried");
        template_id
    }

    /// Waits until a plan is confirmed.
    async fn confirm<M: Clone>(&self, plan: Plan<M>) {
        let client = Client::connect([&self.coordinator], Options::default()).expect("it is a URL");
        let view = eventually("it is decided", async || client.submit(plan.clone(), Wait::Ended).await.ok()).await;
        view.confirmed().expect("nothing is in its way");
    }

    /// What the order service was told of the coupon of an order.
    async fn coupon_use(&self, order_id: i64) -> i64 {
        let url = format!("sqlite://{}/order.db?mode=ro", self.data.display());
        let mut orders = SqliteConnection::connect(&url).await.expect("the file is there");
        let read = sqlx::query_scalar("SELECT coupon_use FROM orders WHERE order_id = $1");
        read.bind(order_id).fetch_one(&mut orders).await.expect("it is placed")
    }

    /// What is logged, oldest first.
    async fn logged(&self, request: SearchRequest) -> Vec<Entry> {
        let mut log =
            eventually("the log answers", async || BusinessLogClient::connect(self.log.clone()).await.ok()).await;
        let mut entries = log.search(request).await.expect("it is sound").into_inner().entries;
        entries.reverse();
        entries
    }
}

#[tokio::test]
async fn what_an_operator_does_is_logged_once_whenever_the_process_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut platform = Platform::start(folder.path());
    for round in 0..4 {
        let mut client = platform.templates().await;
        for at in 0..6 {
            client.create_template(create_request(&format!("{round}/{at}"), 1_000)).await.expect("it is sound");
        }
        // Some are published by now, and some are not.
        platform.process.restart().expect("it starts");
    }
    let mut client = platform.templates().await;
    let request = templates::ListChangesRequest { operator: "ann".into(), limit: 50, ..Default::default() };
    let mut changes = client.list_changes(request).await.expect("a page").into_inner().changes;
    changes.reverse();
    assert_eq!(changes.len(), 24);
    let of_ann = SearchRequest { operator: "ann".into(), limit: 100, ..SearchRequest::default() };
    let all = async || Some(platform.logged(of_ann.clone()).await).filter(|entries| entries.len() >= changes.len());
    let entries = eventually("all are logged", all).await;
    let key = |entry: &Entry| (entry.template_id, entry.action.clone(), entry.after.clone());
    let mut found: Vec<_> = entries.iter().map(key).collect();
    found.sort();
    let mut want: Vec<_> = changes
        .iter()
        .map(|change| (change.template_id, format!("template {}", change.action), change.after.clone()))
        .collect();
    want.sort();
    assert_eq!(found, want);
}

#[tokio::test]
async fn what_becomes_of_a_coupon_is_logged_with_who_when_and_what_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut platform = Platform::start(folder.path());
    let template_id = platform.publish().await;
    let mut issuing = platform.issuing().await;
    let claim = coupons::ClaimRequest { user_id: 7, template_id, idempotency_key: "k".into(), groups: Vec::new() };
    let claimed = issuing.claim(claim).await.expect("there are some").into_inner().coupon.expect("a coupon");
    let mut plan = tercet::plan::saga();
    let supply = Supply { item: 3, units: 10, sequence: 1 };
    plan.branch(tercet_stock::SUPPLY.with(&supply).expect("it is small"));
    platform.confirm(plan.build().expect("it is sound")).await;
    let (coupon_id, order_id) = (claimed.coupon_id, 501);
    let order = Place { order_id, user_id: 7, item: 3, count: 1, coupon_id, amount_cents: 2_000, discount_cents: 500 };
    platform.confirm(flows::checkout(&order).expect("it is sound")).await;
    eventually("the order is told", async || (platform.coupon_use(order_id).await == 1).then_some(())).await;
    platform.process.restart().expect("it starts");
    platform.confirm(flows::refund(&order).expect("it is sound")).await;
    eventually("the order is told", async || (platform.coupon_use(order_id).await == 2).then_some(())).await;

    let request = SearchRequest { coupon_id, limit: 100, ..SearchRequest::default() };
    let all = async || Some(platform.logged(request.clone()).await).filter(|entries| entries.len() >= 4);
    let entries = eventually("all of it is logged", all).await;
    let text = |entry: &Entry| format!("{}: {} -> {}", entry.action, entry.before, entry.after);
    let used = r#"{"discount_cents":500,"order_id":501,"status":"used"}"#;
    assert_eq!(text(&entries[0]), r#"coupon issued:  -> {"status":"issued","template_version":1}"#);
    assert_eq!(text(&entries[1]), format!(r#"coupon used: {{"status":"issued"}} -> {used}"#));
    // Of two databases, whose events have no order among them.
    let mut last: Vec<_> = entries[2..].iter().map(text).collect();
    last.sort();
    let back = r#"coupon given back: {"order_id":501,"status":"used"} -> {"status":"issued"}"#;
    let refunded = r#"order closed: {"status":"placed"} -> {"refunded_cents":0,"status":"closed"}"#;
    assert_eq!(last, [back, refunded]);
    assert_eq!((entries[0].template_id, entries[1].order_id), (template_id, order_id));
    for entry in &entries {
        assert!((entry.user_id, entry.operator.as_str()) == (7, "") && !entry.xid.is_empty(), "{entry:?}");
        assert!((claimed.claimed_ms - 60_000..claimed.claimed_ms + 600_000).contains(&entry.at_ms), "{entry:?}");
    }

    let batch = coupons::IssueRequest {
        batch_id: "b".into(),
        template_id,
        user_ids: vec![43, 44],
        coupons_per_user: 1,
        operator: "ann".into(),
        reason: "sorry".into(),
    };
    let mut progress = platform.issuing().await.issue(batch).await.expect("it begins").into_inner();
    while let Some(batch) = progress.message().await.expect("it goes on") {
        assert_ne!(batch.state(), coupons::BatchState::Stopped);
    }
    let request = SearchRequest { user_id: 43, ..SearchRequest::default() };
    let one = async || platform.logged(request.clone()).await.pop();
    let issued = eventually("it is logged", one).await;
    let by = (issued.action.as_str(), issued.operator.as_str(), issued.reason.as_str());
    assert_eq!(by, ("coupon issued", "ann", "sorry"));
}
