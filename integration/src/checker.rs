//! The checker: reads what a run has left, the databases and what the clients were told, and nothing else.
//!
//! A check is a query that finds violations, one row of text each. All databases are attached to one connection, read
//! only; the clients' history is a temporary table beside them. What is in MariaDB is copied to files before, by
//! [`copy()`].

mod copy;
mod history;
mod rules;
pub mod shards;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection};

pub use self::copy::copy;
pub use self::history::{Acknowledged, Flow, History, Told, Writer};
use self::rules::{Needs, RULES};
use crate::{noop, shop};

/// Violations of one kind that are named; the others are counted only.
const NAMED_MAX: usize = 20;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A client was told an outcome that the databases do not have.
    Lost,
    /// Some branches are confirmed and others are not.
    Split,
    /// Something is still under way.
    Unfinished,
    /// Units, coupons, orders or money do not add up.
    Conservation,
}

/// One violation.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What kind it is.
    pub kind: Kind,
    /// Where, in words.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", format!("{:?}", self.kind).to_lowercase(), self.text)
    }
}

/// What a check found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Answers that the clients have written down.
    pub acknowledged: u64,
    /// Transactions that the coordinator's store holds.
    pub transactions: i64,
    /// How many of [`Kind::Lost`].
    pub lost: usize,
    /// How many of [`Kind::Split`].
    pub split: usize,
    /// How many of [`Kind::Unfinished`].
    pub unfinished: usize,
    /// How many of [`Kind::Conservation`].
    pub conservation: usize,
    /// The first of each kind.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn sound(&self) -> bool {
        self.lost + self.split + self.unfinished + self.conservation == 0
    }

    fn add(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            let count = match finding.kind {
                Kind::Lost => &mut self.lost,
                Kind::Split => &mut self.split,
                Kind::Unfinished => &mut self.unfinished,
                Kind::Conservation => &mut self.conservation,
            };
            *count += 1;
            if *count <= NAMED_MAX {
                self.findings.push(finding);
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, transactions, lost, split, unfinished, conservation, findings } = self;
        writeln!(f, "{acknowledged} acknowledged, {transactions} transactions in the store")?;
        writeln!(f, "{lost} lost, {split} split, {unfinished} unfinished, {conservation} that do not add up")?;
        findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

/// Checks everything that a run has left in `folder`: `coordinator/tercet.db`, the participants' `NAME.db`, and
/// `history.jsonl` where clients have written one.
///
/// # Errors
/// When a file can not be read, or there is no coordinator's store.
pub async fn check(folder: &Path) -> anyhow::Result<Verdict> {
    let mut databases = Databases::open(folder, true).await?;
    let history = History::read(&folder.join("history.jsonl"))?;
    let mut verdict = Verdict { acknowledged: history.len() as u64, ..Verdict::default() };
    verdict.transactions = databases.number("SELECT COUNT(*) FROM coordinator.tx").await?;
    databases.remember(&history).await?;
    verdict.add(databases.apply(|_| true).await?);
    Ok(verdict)
}

/// Checks the sums of the real services in `folder` alone, also while they run.
///
/// # Errors
/// When a database can not be read.
pub async fn conservation(folder: &Path) -> anyhow::Result<Vec<Finding>> {
    Databases::open(folder, false).await?.apply(|kind| kind == Kind::Conservation).await
}

/// What the real services have given out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Orders that are placed or paid.
    pub orders: i64,
    /// Coupons of template 1.
    pub first_coupons: i64,
    /// Coupons of template 2.
    pub second_coupons: i64,
}

/// Counts what the real services in `folder` have given out.
///
/// # Errors
/// When a database can not be read.
pub async fn counts(folder: &Path) -> anyhow::Result<Counts> {
    let mut databases = Databases::open(folder, false).await?;
    Ok(Counts {
        orders: databases.number("SELECT COUNT(*) FROM \"order\".orders WHERE status IN (1, 3)").await?,
        first_coupons: databases
            .number("SELECT COUNT(*) FROM coupon.coupon_000 WHERE template_id = 1 AND status > 0")
            .await?,
        second_coupons: databases
            .number("SELECT COUNT(*) FROM coupon.coupon_000 WHERE template_id = 2 AND status > 0")
            .await?,
    })
}

/// The databases of a run on one connection.
struct Databases {
    connection: SqliteConnection,
    has: Vec<Needs>,
}

impl Databases {
    async fn open(folder: &Path, coordinator: bool) -> anyhow::Result<Self> {
        let options: SqliteConnectOptions = "sqlite::memory:".parse()?;
        let mut connection = options.disable_statement_logging().connect().await?;
        let mut has = Vec::new();
        if coordinator {
            attach(&mut connection, &folder.join("coordinator").join("tercet.db"), "coordinator").await?;
            has.push(Needs::Coordinator);
        }
        let mut participants = BTreeMap::new();
        for name in shop::SERVICES.into_iter().chain(noop::SERVICES) {
            let path = folder.join(format!("{name}.db"));
            if path.is_file() {
                attach(&mut connection, &path, name).await?;
                participants.insert(name, path);
            }
        }
        if coordinator && !participants.is_empty() {
            has.push(Needs::Fences);
            let rows = participants
                .keys()
                .map(|name| format!("SELECT '{name}' AS service, xid, branch, state FROM \"{name}\".tercet_fence"));
            let rows: Vec<_> = rows.collect();
            let view = format!("CREATE TEMP VIEW fence AS {}", rows.join(" UNION ALL "));
            sqlx::raw_sql(AssertSqlSafe(view)).execute(&mut connection).await?;
        }
        if shop::SERVICES.iter().all(|name| participants.contains_key(name)) {
            has.push(Needs::Shop);
        }
        Ok(Self { connection, has })
    }

    async fn number(&mut self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }

    /// Makes what the clients were told a table.
    async fn remember(&mut self, history: &History) -> anyhow::Result<()> {
        sqlx::raw_sql(rules::TOLD).execute(&mut self.connection).await?;
        for rows in history.chunks() {
            sqlx::query(rules::REMEMBER).bind(rows).execute(&mut self.connection).await?;
        }
        self.has.push(Needs::History);
        Ok(())
    }

    async fn apply(&mut self, wanted: impl Fn(Kind) -> bool) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for rule in RULES.iter().filter(|rule| wanted(rule.kind)) {
            if !rule.needs.iter().all(|needed| self.has.contains(needed)) {
                continue;
            }
            let texts: Vec<String> = sqlx::query_scalar(rule.sql)
                .fetch_all(&mut self.connection)
                .await
                .with_context(|| format!("the rule {}", rule.sql.lines().next().unwrap_or_default()))?;
            findings.extend(texts.into_iter().map(|text| Finding { kind: rule.kind, text }));
        }
        Ok(findings)
    }
}

async fn attach(connection: &mut SqliteConnection, path: &Path, name: &str) -> anyhow::Result<()> {
    let uri = format!("file:{}?mode=ro", path.display());
    let sql = format!("ATTACH DATABASE $1 AS \"{name}\"");
    sqlx::query(AssertSqlSafe(sql))
        .bind(uri)
        .execute(connection)
        .await
        .with_context(|| format!("{} can not be read", path.display()))?;
    Ok(())
}
