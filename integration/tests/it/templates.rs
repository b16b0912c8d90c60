//! The template service over gRPC, on SQLite and on a real MariaDB: the life of templates, gray release, lists, usage,
//! and every error by its code.

mod offers;
mod paused;

use std::time::Duration;

use offers::offers_and_versions_are_told_whoever_asks;
use paused::what_is_tried_is_paused_and_goes_on_as_it_was;
use sqlx::{MySql, Sqlite};
use tempfile::TempDir;
use tercet::fence::Dialect;
use tercet_coupon_template::api::Api;
use tercet_coupon_template::store::Store;
use tercet_coupon_template::templates::Templates;
use tercet_coupon_template::{limits, service};
use tercet_events::outbox::Outbox;
use tercet_integration::processes::free_address;
use tercet_integration::servers;
use tercet_proto::coupon_template::v1 as pb;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::coupon_template::v1::coupon_templates_server::CouponTemplatesServer;
use tercet_rules::{Code, Fault, Language, Offer, Refusal};
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

type Client<Db> = CouponTemplatesClient<CouponTemplatesServer<Api<Db>>>;

const DAY_MS: i64 = 86_400_000;
const START_MS: i64 = 1_800_000_000_000;

/// A database of its own, and a client of a service on it.
struct Stage<Db: Store> {
    pool: sqlx::Pool<Db>,
    client: Client<Db>,
    _folder: Option<TempDir>,
}

async fn stage<Db: Store + Dialect>(url: &str, folder: Option<TempDir>) -> Stage<Db> {
    let pool = Db::open(url).await.expect("the database is there");
    Db::migrate(&pool).await.expect("the schema is sound");
    let api = Api::new(Templates::new(pool.clone(), Outbox::off()));
    Stage { pool, client: CouponTemplatesClient::new(CouponTemplatesServer::new(api)), _folder: folder }
}

async fn sqlite() -> Stage<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/coupon_template.db", folder.path().display());
    stage(&url, Some(folder)).await
}

/// The same test on both.
macro_rules! on_both {
    ($($name:ident;)*) => {
        mod on_sqlite {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::sqlite().await).await;
            }
        )*}
        mod on_mariadb {$(
            #[tokio::test]
            async fn $name() {
                let Some(url) = super::servers::mariadb().await.expect("the server answers") else { return };
                super::$name(super::stage::<sqlx::MySql>(&url, None).await).await;
            }
        )*}
    };
}

on_both! {
    a_template_lives_from_draft_to_end;
    a_new_version_is_tried_promoted_and_rolled_back;
    what_is_tried_is_paused_and_goes_on_as_it_was;
    offers_and_versions_are_told_whoever_asks;
    one_of_many_changes_at_once_wins;
    lists_are_whole_and_stable;
    usage_is_counted_once_and_compared;
    every_error_has_its_code;
}

/// Universal, so much off, with claims from a day on.
fn rules(off_cents: i64, start_ms: i64) -> pb::Rules {
    let universal = pb::Universal { off_cents };
    pb::Rules {
        discount: Some(pb::Discount { kind: Some(pb::discount::Kind::Universal(universal)) }),
        validity: Some(pb::Validity { utc_offset_minutes: 480, kind: Some(pb::validity::Kind::DaysFromClaim(7)) }),
        scope: Some(pb::Scope { kind: Some(pb::scope::Kind::All(pb::Everything {})) }),
        quota: Some(pb::Quota { per_user: 2, per_user_day: 1 }),
        stacking: Some(pb::Stacking { kind: Some(pb::stacking::Kind::Alone(pb::Alone {})) }),
        budget: Some(pb::Budget { coupons: 100, cents: 100 * off_cents }),
        claim: Some(pb::Period { start_ms, end_ms: start_ms + DAY_MS }),
    }
}

fn change(expected_revision: u64) -> Option<pb::Change> {
    Some(pb::Change { expected_revision, operator: "ann".into(), reason: "双十一".into() })
}

fn named(user_id: i64) -> Option<pb::Audience> {
    Some(pb::Audience { basis_points: 0, groups: vec!["staff".into()], user_ids: vec![user_id] })
}

pub(crate) fn create_request(key: &str, start_ms: i64) -> pb::CreateTemplateRequest {
    let rules = Some(rules(500, start_ms));
    pb::CreateTemplateRequest { name: "新人券".into(), rules, change: change(0), idempotency_key: key.into() }
}

async fn create<Db: Store>(client: &mut Client<Db>, key: &str, start_ms: i64) -> pb::Template {
    let made = client.create_template(create_request(key, start_ms)).await.expect("it is sound").into_inner();
    assert!(made.changed);
    made.template.expect("a template")
}

/// Draft, then gray for user 42.
async fn gray<Db: Store>(client: &mut Client<Db>, key: &str) -> pb::Template {
    let template = create(client, key, START_MS).await;
    start_gray(client, &template).await
}

async fn start_gray<Db: Store>(client: &mut Client<Db>, template: &pb::Template) -> pb::Template {
    let pb::Template { template_id, revision, .. } = *template;
    let request = pb::StartGrayRequest { template_id, audience: named(42), change: change(revision) };
    client.start_gray(request).await.expect("it has a version").into_inner().template.expect("a template")
}

/// The revision after it, and whether it changed anything.
async fn promote<Db: Store>(client: &mut Client<Db>, template_id: i64, version: u32) -> (pb::Template, bool) {
    let request = pb::PromoteRequest { template_id, version, change: change(0) };
    let done = client.promote(request).await.expect("it is tried or live").into_inner();
    (done.template.expect("a template"), done.changed)
}

async fn roll_back<Db: Store>(client: &mut Client<Db>, template_id: i64, version: u32) -> (pb::Template, bool) {
    let request = pb::RollBackRequest { template_id, version, change: change(0) };
    let done = client.roll_back(request).await.expect("it is known").into_inner();
    (done.template.expect("a template"), done.changed)
}

/// The versions that user 42 and any other get.
async fn versions<Db: Store>(client: &mut Client<Db>, template_id: i64) -> [Result<u32, Refusal>; 2] {
    let offer = client.get_offer(pb::GetOfferRequest { template_id }).await.expect("it exists").into_inner();
    let offer = Offer::try_from(&offer.offer.expect("an offer")).expect("a sound offer");
    [42, 43].map(|user| offer.choose(user, &[] as &[&str]).map(|release| release.version))
}

fn code(answer: Result<tonic::Response<impl Sized>, Status>) -> Code {
    let status = answer.err().expect("it is refused");
    Fault::from_status(&status).unwrap_or_else(|| panic!("not of the catalogue: {status}")).code
}

async fn a_template_lives_from_draft_to_end<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let draft = create(client, "a", START_MS).await;
    assert_eq!((draft.status(), draft.revision, draft.candidate_version), (pb::Status::Draft, 1, 1));
    let template_id = draft.template_id;
    assert_eq!(versions(client, template_id).await, [Err(Refusal::NotOffered); 2]);

    let again = client.create_template(create_request("a", START_MS)).await.expect("a repeat").into_inner();
    assert_eq!((again.changed, again.template.as_ref()), (false, Some(&draft)));

    let request = pb::SetRulesRequest { template_id, rules: Some(rules(700, START_MS + 5)), change: change(1) };
    let written = client.set_rules(request).await.expect("a draft").into_inner().template.expect("a template");
    assert_eq!((written.candidate_version, written.claim.expect("a period").start_ms), (1, START_MS + 5));

    let tried = start_gray(client, &written).await;
    assert_eq!(versions(client, template_id).await, [Ok(1), Err(Refusal::NotOffered)]);
    let (published, changed) = promote(client, template_id, 1).await;
    assert_eq!((published.status(), published.audience.is_none(), changed), (pb::Status::Published, true, true));
    assert_eq!(promote(client, template_id, 1).await, (published.clone(), false));
    assert_eq!(versions(client, template_id).await, [Ok(1), Ok(1)]);
    assert_eq!(tried.revision + 1, published.revision);

    let request = pb::PauseRequest { template_id, change: change(published.revision) };
    client.pause(request).await.expect("it is published");
    assert_eq!(versions(client, template_id).await, [Err(Refusal::Paused); 2]);
    client.resume(pb::ResumeRequest { template_id, change: change(5) }).await.expect("it is paused");
    let ended = client.end(pb::EndRequest { template_id, change: change(6) }).await.expect("it lives").into_inner();
    let ended = ended.template.expect("a template");
    assert_eq!((ended.status(), ended.revision), (pb::Status::Ended, 7));
    let found = client.get_template(pb::GetTemplateRequest { template_id }).await.expect("it exists").into_inner();
    assert_eq!(found.template, Some(ended));

    // One row for each revision, each beginning where the one before it ended.
    let request = pb::ListChangesRequest { template_id, ..pb::ListChangesRequest::default() };
    let log = client.list_changes(request).await.expect("a page").into_inner().changes;
    let found: Vec<_> = log.iter().map(|row| (row.revision, row.action.as_str())).collect();
    let actions = ["end", "resume", "pause", "promote", "start_gray", "set_rules", "create"];
    assert_eq!(found, (1..=7).rev().zip(actions).collect::<Vec<_>>());
    for pair in log.windows(2) {
        let after: serde_json::Value = serde_json::from_str(&pair[1].after).expect("JSON");
        let before: serde_json::Value = serde_json::from_str(&pair[0].before).expect("JSON");
        assert_eq!(before["template"], after["template"]);
        assert_eq!((pair[0].operator.as_str(), pair[0].reason.as_str()), ("ann", "双十一"));
    }
    assert!(log[6].before.is_empty() && log[5].after.contains("\"off_cents\":700"), "{log:?}");
}

async fn a_new_version_is_tried_promoted_and_rolled_back<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let template_id = gray(client, "a").await.template_id;
    let (published, _) = promote(client, template_id, 1).await;
    let set = |revision, off_cents| pb::SetRulesRequest {
        template_id,
        rules: Some(rules(off_cents, START_MS)),
        change: change(revision),
    };
    let second = client.set_rules(set(published.revision, 600)).await.expect("published").into_inner();
    let second = second.template.expect("a template");
    assert_eq!((second.live_version, second.candidate_version), (1, 2));
    assert_eq!(versions(client, template_id).await, [Ok(1), Ok(1)]);
    let tried = start_gray(client, &second).await;
    assert_eq!(versions(client, template_id).await, [Ok(2), Ok(1)]);
    assert_eq!(code(client.set_rules(set(tried.revision, 1)).await), Code::NotAllowed);

    let (back, changed) = roll_back(client, template_id, 2).await;
    assert_eq!((back.status(), back.live_version, changed), (pb::Status::Published, 1, true));
    assert_eq!(roll_back(client, template_id, 2).await, (back.clone(), false));
    assert_eq!(versions(client, template_id).await, [Ok(1), Ok(1)]);

    let third = client.set_rules(set(back.revision, 800)).await.expect("published").into_inner();
    start_gray(client, &third.template.expect("a template")).await;
    promote(client, template_id, 3).await;
    assert_eq!(versions(client, template_id).await, [Ok(3), Ok(3)]);
    // A repeat that still names the revision which the first one saw.
    let request = pb::PromoteRequest { template_id, version: 3, change: change(back.revision) };
    assert!(!client.promote(request).await.expect("a repeat").into_inner().changed);
    roll_back(client, template_id, 3).await;
    assert_eq!(versions(client, template_id).await, [Ok(1), Ok(1)]);

    // Whoever claimed one of them finds its rules.
    for (version, off_cents, published) in [(1, 500, true), (2, 600, false), (3, 800, true)] {
        let request = pb::GetRulesRequest { template_id, version };
        let found = client.get_rules(request).await.expect("it exists").into_inner();
        assert_eq!(found.rules, Some(rules(off_cents, START_MS)));
        assert_eq!(found.published_ms > 0, published, "version {version}");
    }
}

async fn one_of_many_changes_at_once_wins<Db: Store>(mut stage: Stage<Db>) {
    let draft = create(&mut stage.client, "a", START_MS).await;
    let changes = (1..=8).map(|off_cents| {
        let mut client = stage.client.clone();
        let rules = Some(rules(off_cents, START_MS));
        let request = pb::SetRulesRequest { template_id: draft.template_id, rules, change: change(1) };
        async move { (off_cents, client.set_rules(request).await) }
    });
    let answers = futures_util::future::join_all(changes).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_ok());
    assert_eq!(won.len(), 1);
    for (_, answer) in lost {
        assert_eq!(code(answer), Code::Conflict);
    }
    let request = pb::GetRulesRequest { template_id: draft.template_id, version: 1 };
    let found = stage.client.get_rules(request).await.expect("it exists").into_inner();
    assert_eq!(found.rules, Some(rules(won[0].0, START_MS)));
}

async fn lists_are_whole_and_stable<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let mut all = Vec::new();
    for at in 0..10 {
        // Three share each start.
        all.push(create(client, &format!("key {at}"), START_MS + at / 3).await);
    }
    let ended = all.pop().expect("ten");
    let request = pb::EndRequest { template_id: ended.template_id, change: change(1) };
    client.end(request).await.expect("a draft can end");
    for status in [pb::Status::Draft, pb::Status::Unspecified] {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let request = pb::ListTemplatesRequest { status: status.into(), limit: 2, after, claimable_at_ms: 0 };
            let page = client.list_templates(request).await.expect("a page").into_inner();
            assert!(page.templates.len() <= 2);
            found.extend(page.templates.iter().map(|template| template.template_id));
            if page.next.is_empty() {
                break;
            }
            after = page.next;
        }
        let drafts = all.iter().map(|template| template.template_id);
        let want: Vec<_> = drafts.chain((status == pb::Status::Unspecified).then_some(ended.template_id)).collect();
        assert_eq!(found, want, "{status:?}");
    }
    for (at_ms, want) in [(START_MS - 1, 0), (START_MS, 3), (START_MS + 2, 9), (START_MS + DAY_MS, 6)] {
        let status = pb::Status::Draft.into();
        let request = pb::ListTemplatesRequest { status, claimable_at_ms: at_ms, ..Default::default() };
        let page = client.list_templates(request).await.expect("a page").into_inner();
        assert_eq!(page.templates.len(), want, "{at_ms}");
    }
    let operator = |operator: &str, before| pb::ListChangesRequest {
        operator: operator.into(),
        limit: 7,
        before,
        ..pb::ListChangesRequest::default()
    };
    let first = client.list_changes(operator("ann", 0)).await.expect("a page").into_inner();
    let second = client.list_changes(operator("ann", first.next)).await.expect("a page").into_inner();
    assert_eq!((first.changes.len(), second.changes.len(), second.next), (7, 4, 0));
    let nobody = client.list_changes(operator("bob", 0)).await.expect("a page").into_inner();
    assert!(nobody.changes.is_empty());
}

/// Gives a published template a second version.
async fn second<Db: Store>(client: &mut Client<Db>, published: &pb::Template) -> pb::Template {
    let (template_id, revision) = (published.template_id, published.revision);
    let request = pb::SetRulesRequest { template_id, rules: Some(rules(600, START_MS)), change: change(revision) };
    client.set_rules(request).await.expect("published").into_inner().template.expect("a template")
}

async fn usage_is_counted_once_and_compared<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let template_id = gray(client, "a").await.template_id;
    let (published, _) = promote(client, template_id, 1).await;
    let usage = |claimed_ms, version, claimed, used, discount_cents| pb::Usage {
        template_id,
        version,
        claimed_ms,
        claimed,
        used,
        refunded: 0,
        discount_cents,
        order_cents: 10 * discount_cents,
    };
    let report = |sequence, usage| pb::RecordUsageRequest { source: "coupons/0".into(), sequence, usage };
    // Before the new version is tried: no part of the comparison.
    let before_ms = published.updated_ms;
    client.record_usage(report(1, vec![usage(before_ms, 1, 1_000, 900, 5)])).await.expect("it is known");
    let written = second(client, &published).await;
    let tried_ms = start_gray(client, &written).await.updated_ms;
    // Another source counts its own reports, and another template its own usage.
    let other = gray(client, "b").await.template_id;
    let (published, _) = promote(client, other, 1).await;
    let written = second(client, &published).await;
    let of_ms = start_gray(client, &written).await.updated_ms;
    let of_other =
        [usage(of_ms, 1, 6, 3, 9), usage(of_ms, 2, 7, 6, 9)].map(|usage| pb::Usage { template_id: other, ..usage });
    let request = pb::RecordUsageRequest { source: "coupons/1".into(), sequence: 5, usage: of_other.into() };
    assert!(client.record_usage(request).await.expect("it is known").into_inner().counted);
    for (sequence, counted) in [(2, true), (2, false), (1, false), (7, true)] {
        let request = report(sequence, vec![usage(tried_ms, 2, 10, 3, 1_800), usage(tried_ms, 1, 200, 30, 15_000)]);
        let answer = client.record_usage(request).await.expect("it is known").into_inner();
        assert_eq!(answer.counted, counted, "{sequence}");
    }
    let unknown = vec![usage(tried_ms, 1, 1, 0, 0), usage(tried_ms, 3, 1, 0, 0)];
    assert_eq!(code(client.record_usage(report(8, unknown)).await), Code::NotFound);
    assert_eq!(code(client.record_usage(report(8, vec![usage(0, 1, 1, 0, 0)])).await), Code::Invalid);
    // What a refused report has said is not counted, and its number is free.
    let back = pb::Usage { refunded: 2, ..usage(tried_ms, 1, 0, 0, -500) };
    assert!(client.record_usage(report(8, vec![back])).await.expect("known").into_inner().counted);
    // Claimed before, and used now: no part of it either.
    client.record_usage(report(9, vec![usage(before_ms, 1, 0, 100, 9)])).await.expect("it is known");
    let (second, _) = promote(client, template_id, 2).await;
    client.record_usage(report(10, vec![usage(second.updated_ms, 2, 500, 400, 7)])).await.expect("it is known");
    // Claimed while it was tried, and used later.
    client.record_usage(report(11, vec![usage(tried_ms, 2, 0, 1, 100)])).await.expect("it is known");
    let request = pb::CompareUsageRequest { template_id, version: 2 };
    let found = client.compare_usage(request).await.expect("it exists").into_inner();
    let totals = |claimed, used, refunded, discount_cents, use_basis_points| {
        let order_cents = 10 * discount_cents;
        Some(pb::UsageTotals { claimed, used, refunded, discount_cents, order_cents, use_basis_points })
    };
    assert_eq!(found.gray, totals(20, 7, 0, 3_700, 3_500));
    assert_eq!(found.rest, totals(400, 60, 2, 29_500, 1_450));
}

async fn every_error_has_its_code<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let template_id = create(client, "a", START_MS).await.template_id;
    let other = pb::CreateTemplateRequest { name: "老客券".into(), ..create_request("a", START_MS) };
    assert_eq!(code(client.create_template(other).await), Code::KeyReused);
    assert_eq!(code(client.get_template(pb::GetTemplateRequest { template_id: 99 }).await), Code::NotFound);
    assert_eq!(code(client.get_offer(pb::GetOfferRequest { template_id: 99 }).await), Code::NotFound);
    let request = pb::GetRulesRequest { template_id, version: 2 };
    assert_eq!(code(client.get_rules(request).await), Code::NotFound);
    let request = pb::PauseRequest { template_id, change: change(2) };
    assert_eq!(code(client.pause(request).await), Code::Conflict);
    let request = pb::PauseRequest { template_id, change: change(1) };
    let status = client.pause(request).await.expect_err("it is a draft");
    let fault = Fault::from_status(&status).expect("of the catalogue");
    assert_eq!(fault.text(Language::Zh), "模板处于 草稿 状态，不能执行 暂停");
    let request = pb::RollBackRequest { template_id, version: 2, change: change(0) };
    assert_eq!(code(client.roll_back(request).await), Code::WrongVersion);

    let create = |edit: fn(&mut pb::CreateTemplateRequest)| {
        let mut request = create_request("b", START_MS);
        edit(&mut request);
        request
    };
    for (request, field) in [
        (create(|r| r.name = String::new()), "name"),
        (create(|r| r.name = "x".repeat(limits::NAME_BYTES_MAX + 1)), "name"),
        (create(|r| r.idempotency_key = String::new()), "idempotency_key"),
        (create(|r| r.rules = None), "rules"),
        (create(|r| r.rules = Some(rules(0, START_MS))), "rules.discount.universal.off_cents"),
        (create(|r| r.change = None), "change"),
        (create(|r| r.change = Some(pb::Change { reason: "a".into(), ..Default::default() })), "change.operator"),
        (create(|r| r.change = change(0).map(|own| pb::Change { reason: "a\nb".into(), ..own })), "change.reason"),
    ] {
        let status = client.create_template(request).await.expect_err(field);
        let violation = status.get_details_bad_request().expect("a field").field_violations.remove(0);
        assert_eq!(violation.field, field, "{status}");
    }
    let field = |status: Result<tonic::Response<pb::ListTemplatesResponse>, Status>| {
        let fault = Fault::from_status(&status.expect_err("refused")).expect("of the catalogue");
        fault.argument("field").expect("a field").to_owned()
    };
    let list = pb::ListTemplatesRequest::default;
    let request = pb::ListTemplatesRequest { limit: limits::PAGE_MAX + 1, ..list() };
    assert_eq!(field(client.list_templates(request).await), "limit");
    let request = pb::ListTemplatesRequest { after: "1:2".into(), ..list() };
    assert_eq!(field(client.list_templates(request).await), "after");
    let request = pb::ListTemplatesRequest { status: 9, ..list() };
    assert_eq!(field(client.list_templates(request).await), "status");
    let request = pb::ListTemplatesRequest { claimable_at_ms: 1, ..list() };
    assert_eq!(field(client.list_templates(request).await), "status");

    // A database that is gone: come again.
    stage.pool.close().await;
    let status = client.get_template(pb::GetTemplateRequest { template_id }).await.expect_err("it is gone");
    assert_eq!(Fault::from_status(&status).map(|fault| fault.code), Some(Code::SystemBusy));
    assert!(status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{status}");
}

/// The parameters of the list of a status, from its beginning.
macro_rules! bind_list {
    ($query:expr) => {
        [1, START_MS, i64::MAX, -1, START_MS, 0, 0, 0, 20]
            .into_iter()
            .fold($query, |query, number: i64| query.bind(number))
    };
}

/// The list of a status walks its index in order: it reads what it returns, and sorts nothing.
#[tokio::test]
async fn the_list_of_a_status_uses_its_index() {
    let stage = sqlite().await;
    let sql = format!("EXPLAIN QUERY PLAN {}", Sqlite::LIST_STATUS);
    let plan: Vec<(i64, i64, i64, String)> =
        bind_list!(sqlx::query_as(sqlx::AssertSqlSafe(sql))).fetch_all(&stage.pool).await.expect("a plan");
    let plan: Vec<_> = plan.into_iter().map(|(.., detail)| detail).collect();
    assert_eq!(plan.len(), 1, "{plan:?}");
    assert!(plan[0].contains("USING INDEX template_listed (status=? AND start_time>? AND start_time<?)"), "{plan:?}");

    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let mut stage = self::stage::<MySql>(&url, None).await;
    for at in 0..20 {
        create(&mut stage.client, &format!("key {at}"), START_MS + at).await;
    }
    let sql = format!("EXPLAIN FORMAT=JSON {}", MySql::LIST_STATUS);
    let plan: String =
        bind_list!(sqlx::query_scalar(sqlx::AssertSqlSafe(sql))).fetch_one(&stage.pool).await.expect("a plan");
    assert!(plan.contains("\"key\": \"template_listed\"") && plan.contains("\"access_type\": \"range\""), "{plan}");
    assert!(!plan.contains("filesort") && !plan.contains("temporary"), "{plan}");
}

/// It needs no coordinator: health says SERVING as soon as the port is open.
#[tokio::test]
async fn the_service_serves_without_a_coordinator() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = Sqlite::open(&format!("sqlite://{}/a.db", folder.path().display())).await.expect("a database");
    let address = free_address().expect("there is one");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = service(pool, None).await.expect("the schema is sound").listen(address);
    let running = tokio::spawn(service.run(async move { drop(stopped.await) }));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        assert!(!running.is_finished(), "{:?}", running.await);
    };
    let mut changes =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.expect("health").into_inner();
    loop {
        let status = changes.message().await.expect("health goes on").expect("health goes on").status();
        if status == tonic_health::pb::health_check_response::ServingStatus::Serving {
            break;
        }
    }
    let mut client = CouponTemplatesClient::new(channel);
    let huge = pb::CreateTemplateRequest { name: "x".repeat(limits::MESSAGE_BYTES_MAX), ..Default::default() };
    let status = client.create_template(huge).await.expect_err("it is too large");
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    client.create_template(create_request("a", START_MS)).await.expect("it is sound");
    drop((client, changes));
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("it stops");
}
