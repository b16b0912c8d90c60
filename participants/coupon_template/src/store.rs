//! Where templates are kept.

use tercet::participant::DbTx;
use tercet::tables;
use tercet_events::store::Store as EventStore;
use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Audience, DecodeError, Period, Rules, decode, encode};

use crate::lifecycle::{Standing, Status};
use crate::template::{Template, Version};

mod statements;

use statements::{
    CHANGES, CHANGES_OF_OPERATOR, CHANGES_OF_TEMPLATE, COMPARE, CREATE, LIST_ALL, LOG, MADE_BY, NOTE_PUBLISHED,
    NOTE_TRIED, NOTE_UNTRIED, REPLACE, TAKE_REPORT, TEMPLATE, VERSION,
};

/// How a template is made: what makes the same request again recognisable.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The caller's key.
    pub key: &'a str,
    /// A hash of the rest of the request.
    pub hash: &'a str,
}

/// One row of the business log, without its number.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The template.
    pub template_id: i64,
    /// The template's, after the change.
    pub revision: u64,
    /// When.
    pub at_ms: i64,
    /// Who.
    pub operator: String,
    /// What.
    pub action: &'static str,
    /// Why.
    pub reason: String,
    /// The template before it; nothing where it is new.
    pub before: Option<String>,
    /// The template after it.
    pub after: String,
}

/// Where a page of templates of one status begins: after this start, end and id.
pub type Place = (i64, i64, i64);

/// A database that this service can live in.
pub trait Store: EventStore {
    /// The statement of [`Store::list_status`], for looking at its plan: status, start, latest start, earliest end,
    /// start, end, end, id and limit.
    const LIST_STATUS: &'static str;

    /// Creates the tables, or brings them up to date.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// The database's clock, in milliseconds.
    fn now_ms(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<i64>> + Send;

    /// Writes a new template, whose id is set here. A unique violation where the key is taken.
    fn create(
        db_tx: &mut DbTx<Self>,
        template: &Template,
        origin: Origin<'_>,
    ) -> impl Future<Output = sqlx::Result<i64>> + Send;

    /// The template that this key has made, and its hash.
    fn made_by(db_tx: &mut DbTx<Self>, key: &str) -> impl Future<Output = sqlx::Result<Option<(i64, String)>>> + Send;

    /// One template.
    fn template(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
    ) -> impl Future<Output = sqlx::Result<Option<Template>>> + Send;

    /// Replaces the template of revision `before`; false when it is at another one by now.
    fn replace(
        db_tx: &mut DbTx<Self>,
        template: &Template,
        before: u64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The rules of a version.
    fn version(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        version: u32,
    ) -> impl Future<Output = sqlx::Result<Option<Version>>> + Send;

    /// Those of these versions that there are.
    fn named(
        db_tx: &mut DbTx<Self>,
        versions: &[pb::VersionKey],
    ) -> impl Future<Output = sqlx::Result<Vec<pb::NamedVersion>>> + Send;

    /// Writes the rules of a version that nobody has had.
    fn put_version(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        version: u32,
        rules: &Rules,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes that everyone has this version, if it is the first time.
    fn note_published(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        version: u32,
        at_ms: i64,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes that this version is tried from now on, or no more.
    fn note_tried(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        version: u32,
        is_tried: bool,
        at_ms: i64,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Writes a row of the business log.
    fn log(db_tx: &mut DbTx<Self>, entry: &Entry) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// So many templates of a status after a place, by start, end and id; with `at_ms` only those that may be claimed
    /// then.
    fn list_status(
        db_tx: &mut DbTx<Self>,
        status: Status,
        at_ms: Option<i64>,
        after: Place,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<Template>>> + Send;

    /// So many templates above an id.
    fn list_all(
        db_tx: &mut DbTx<Self>,
        after: i64,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<Template>>> + Send;

    /// So many rows of the business log below a number, newest first; of a template unless it is 0, and of an operator
    /// unless it is empty.
    fn changes(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        operator: &str,
        before: i64,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<pb::LoggedChange>>> + Send;

    /// Takes this number as the last of its source; false when it is not above the one before.
    fn take_report(
        db_tx: &mut DbTx<Self>,
        source: &str,
        sequence: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The first of these that is no version of a template, if there is one.
    fn unknown(
        db_tx: &mut DbTx<Self>,
        usage: &[pb::Usage],
    ) -> impl Future<Output = sqlx::Result<Option<(i64, i64)>>> + Send;

    /// Adds these up, under the version that its template was trying when each was claimed.
    fn count(db_tx: &mut DbTx<Self>, usage: &[pb::Usage]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Of what was claimed while this version was tried: its own usage, and that of all others.
    fn compare(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        version: u32,
    ) -> impl Future<Output = sqlx::Result<[pb::UsageTotals; 2]>> + Send;
}

macro_rules! store {
    ($database:ty, $words:expr, $migration:literal) => {
        impl Store for $database {
            const LIST_STATUS: &'static str = $words.list_status;

            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), tables::Error> {
                tables::make(pool, "coupon_template", tables::versions([include_str!($migration)])).await
            }

            async fn now_ms(db_tx: &mut DbTx<Self>) -> sqlx::Result<i64> {
                sqlx::query_scalar($words.now_ms).fetch_one(db_tx).await
            }

            async fn create(db_tx: &mut DbTx<Self>, template: &Template, origin: Origin<'_>) -> sqlx::Result<i64> {
                let Standing { status, live, candidate, newest, previous, .. } = template.standing;
                sqlx::query(CREATE)
                    .bind(&template.name)
                    .bind(status as i64)
                    .bind(signed(template.revision))
                    .bind(i64::from(live))
                    .bind(i64::from(candidate))
                    .bind(i64::from(newest))
                    .bind(i64::from(previous))
                    .bind(audience_text(template))
                    .bind(template.claim.start_ms())
                    .bind(template.claim.end_ms())
                    .bind(template.created_ms)
                    .bind(template.updated_ms)
                    .bind(origin.key)
                    .bind(origin.hash)
                    .execute(&mut *db_tx)
                    .await?;
                let made = Self::made_by(db_tx, origin.key).await?;
                made.map(|(template_id, _)| template_id).ok_or(sqlx::Error::RowNotFound)
            }

            async fn made_by(db_tx: &mut DbTx<Self>, key: &str) -> sqlx::Result<Option<(i64, String)>> {
                sqlx::query_as(MADE_BY).bind(key).fetch_optional(db_tx).await
            }

            async fn template(db_tx: &mut DbTx<Self>, template_id: i64) -> sqlx::Result<Option<Template>> {
                let row: Option<Row> = sqlx::query_as(TEMPLATE).bind(template_id).fetch_optional(db_tx).await?;
                row.map(template).transpose()
            }

            async fn replace(db_tx: &mut DbTx<Self>, template: &Template, before: u64) -> sqlx::Result<bool> {
                let Standing { status, live, candidate, newest, previous, .. } = template.standing;
                let done = sqlx::query(REPLACE)
                    .bind(status as i64)
                    .bind(signed(template.revision))
                    .bind(i64::from(live))
                    .bind(i64::from(candidate))
                    .bind(i64::from(newest))
                    .bind(i64::from(previous))
                    .bind(audience_text(template))
                    .bind(template.claim.start_ms())
                    .bind(template.claim.end_ms())
                    .bind(template.updated_ms)
                    .bind(template.template_id)
                    .bind(signed(before))
                    .execute(db_tx)
                    .await?;
                Ok(done.rows_affected() == 1)
            }

            async fn version(db_tx: &mut DbTx<Self>, template_id: i64, version: u32) -> sqlx::Result<Option<Version>> {
                let query = sqlx::query_as(VERSION).bind(template_id).bind(i64::from(version));
                let row: Option<(String, Option<i64>)> = query.fetch_optional(db_tx).await?;
                let read = |(text, published_ms): (String, Option<i64>)| {
                    let rules = decode(&text).map_err(|error: DecodeError| broken(error))?;
                    Ok(Version { rules, published_ms })
                };
                row.map(read).transpose()
            }

            async fn named(db_tx: &mut DbTx<Self>, versions: &[pb::VersionKey]) -> sqlx::Result<Vec<pb::NamedVersion>> {
                let keys: Vec<_> = versions.iter().map(|key| (key.template_id, key.version)).collect();
                let keys = serde_json::to_string(&keys).expect("numbers have a form in JSON");
                let rows: Vec<NamedRow> = sqlx::query_as($words.named).bind(keys).fetch_all(db_tx).await?;
                rows.into_iter().map(named).collect()
            }

            async fn put_version(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                version: u32,
                rules: &Rules,
            ) -> sqlx::Result<()> {
                let query = sqlx::query($words.put_version).bind(template_id).bind(i64::from(version));
                query.bind(encode(rules)).execute(db_tx).await.map(drop)
            }

            async fn note_published(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                version: u32,
                at_ms: i64,
            ) -> sqlx::Result<()> {
                let query = sqlx::query(NOTE_PUBLISHED).bind(at_ms).bind(template_id).bind(i64::from(version));
                query.execute(db_tx).await.map(drop)
            }

            async fn note_tried(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                version: u32,
                is_tried: bool,
                at_ms: i64,
            ) -> sqlx::Result<()> {
                let query = sqlx::query(if is_tried { NOTE_TRIED } else { NOTE_UNTRIED });
                query.bind(at_ms).bind(template_id).bind(i64::from(version)).execute(db_tx).await.map(drop)
            }

            async fn log(db_tx: &mut DbTx<Self>, entry: &Entry) -> sqlx::Result<()> {
                sqlx::query(LOG)
                    .bind(entry.template_id)
                    .bind(signed(entry.revision))
                    .bind(entry.at_ms)
                    .bind(&entry.operator)
                    .bind(entry.action)
                    .bind(&entry.reason)
                    .bind(&entry.before)
                    .bind(&entry.after)
                    .execute(db_tx)
                    .await
                    .map(drop)
            }

            async fn list_status(
                db_tx: &mut DbTx<Self>,
                status: Status,
                at_ms: Option<i64>,
                (start_ms, end_ms, template_id): Place,
                limit: u32,
            ) -> sqlx::Result<Vec<Template>> {
                let rows: Vec<Row> = sqlx::query_as(Self::LIST_STATUS)
                    .bind(status as i64)
                    .bind(start_ms)
                    .bind(at_ms.unwrap_or(i64::MAX))
                    .bind(at_ms.unwrap_or(-1))
                    .bind(start_ms)
                    .bind(end_ms)
                    .bind(end_ms)
                    .bind(template_id)
                    .bind(i64::from(limit))
                    .fetch_all(db_tx)
                    .await?;
                rows.into_iter().map(template).collect()
            }

            async fn list_all(db_tx: &mut DbTx<Self>, after: i64, limit: u32) -> sqlx::Result<Vec<Template>> {
                let query = sqlx::query_as(LIST_ALL).bind(after).bind(i64::from(limit));
                let rows: Vec<Row> = query.fetch_all(db_tx).await?;
                rows.into_iter().map(template).collect()
            }

            async fn changes(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                operator: &str,
                before: i64,
                limit: u32,
            ) -> sqlx::Result<Vec<pb::LoggedChange>> {
                let query = match (template_id, operator) {
                    (0, "") => sqlx::query_as(CHANGES),
                    (0, operator) => sqlx::query_as(CHANGES_OF_OPERATOR).bind(operator),
                    (template_id, operator) => {
                        sqlx::query_as(CHANGES_OF_TEMPLATE).bind(template_id).bind(operator).bind(operator)
                    }
                };
                let rows: Vec<LogRow> = query.bind(before).bind(i64::from(limit)).fetch_all(db_tx).await?;
                Ok(rows.into_iter().map(logged).collect())
            }

            async fn take_report(db_tx: &mut DbTx<Self>, source: &str, sequence: i64) -> sqlx::Result<bool> {
                sqlx::query($words.first_report).bind(source).execute(&mut *db_tx).await?;
                let query = sqlx::query(TAKE_REPORT).bind(sequence).bind(source).bind(sequence);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn unknown(db_tx: &mut DbTx<Self>, usage: &[pb::Usage]) -> sqlx::Result<Option<(i64, i64)>> {
                sqlx::query_as($words.unknown).bind(usage_text(usage)).fetch_optional(db_tx).await
            }

            async fn count(db_tx: &mut DbTx<Self>, usage: &[pb::Usage]) -> sqlx::Result<()> {
                sqlx::query($words.count).bind(usage_text(usage)).execute(db_tx).await.map(drop)
            }

            async fn compare(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                version: u32,
            ) -> sqlx::Result<[pb::UsageTotals; 2]> {
                let mut both = [pb::UsageTotals::default(); 2];
                for (own, totals) in [1_i64, 0].into_iter().zip(&mut both) {
                    let query = sqlx::query_as(COMPARE).bind(template_id).bind(i64::from(version));
                    let sums = query.bind(i64::from(version)).bind(own).fetch_one(&mut *db_tx).await?;
                    *totals = usage_totals(sums);
                }
                Ok(both)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, statements::SQLITE, "../../../sql/coupon_template/sqlite/0001_coupon_template.sql");
#[cfg(feature = "mysql")]
store!(sqlx::MySql, statements::MYSQL, "../../../sql/coupon_template/mysql/0001_coupon_template.sql");

type Row = (i64, String, i64, i64, i64, i64, i64, i64, Option<String>, i64, i64, i64, i64);

fn template(row: Row) -> sqlx::Result<Template> {
    let (
        template_id,
        name,
        status,
        revision,
        live,
        candidate,
        newest,
        previous,
        audience,
        start,
        end,
        created_ms,
        updated_ms,
    ) = row;
    let version = |number: i64| u32::try_from(number).map_err(broken);
    let audience = audience.map(|text| {
        let wire: pb::Audience = serde_json::from_str(&text).map_err(broken)?;
        Audience::try_from(&wire).map_err(broken)
    });
    let audience = audience.transpose()?;
    Ok(Template {
        template_id,
        name,
        standing: Standing {
            status: Status::from_number(status).ok_or_else(|| broken("a template's status is 1 to 5"))?,
            live: version(live)?,
            candidate: version(candidate)?,
            newest: version(newest)?,
            previous: version(previous)?,
            is_tried: audience.is_some(),
        },
        revision: revision.unsigned_abs(),
        audience,
        claim: Period::new(start, end).map_err(broken)?,
        created_ms,
        updated_ms,
    })
}

type NamedRow = (i64, String, i64, String);

fn named((template_id, name, version, rules): NamedRow) -> sqlx::Result<pb::NamedVersion> {
    let rules = decode(&rules).map_err(|error: DecodeError| broken(error))?;
    let release = pb::Release { version: u32::try_from(version).map_err(broken)?, rules: Some((&rules).into()) };
    Ok(pb::NamedVersion { template_id, name, release: Some(release) })
}

type LogRow = (i64, i64, i64, i64, String, String, String, Option<String>, String);

fn logged(row: LogRow) -> pb::LoggedChange {
    let (change_id, template_id, revision, at_ms, operator, action, reason, before, after) = row;
    let (revision, before) = (revision.unsigned_abs(), before.unwrap_or_default());
    pb::LoggedChange { change_id, template_id, revision, at_ms, operator, action, reason, before, after }
}

fn usage_totals((claimed, used, refunded, discount_cents, order_cents): (i64, i64, i64, i64, i64)) -> pb::UsageTotals {
    let part = i128::from((used - refunded).max(0)) * 10_000 / i128::from(claimed.max(1));
    let use_basis_points = if claimed > 0 { u32::try_from(part).unwrap_or(u32::MAX) } else { 0 };
    pb::UsageTotals { claimed, used, refunded, discount_cents, order_cents, use_basis_points }
}

/// Sorted by key, so that two transactions lock in the same order.
fn usage_text(usage: &[pb::Usage]) -> String {
    let row = |one: &pb::Usage| {
        let &pb::Usage { template_id, version, claimed_ms, claimed, used, refunded, .. } = one;
        (template_id, version, claimed_ms, claimed, used, refunded, one.discount_cents, one.order_cents)
    };
    let mut rows: Vec<_> = usage.iter().map(row).collect();
    rows.sort_unstable();
    serde_json::to_string(&rows).expect("numbers have a form in JSON")
}

fn audience_text(template: &Template) -> Option<String> {
    let text = |audience: &Audience| {
        serde_json::to_string(&pb::Audience::from(audience)).expect("numbers and texts have a form in JSON")
    };
    template.audience.as_ref().map(text)
}

/// A revision as databases hold it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
