//! The invariants of the coupon platform over all shards, read from its databases alone, also while it runs.
//!
//! Nothing is written, and nothing is copied: coupons, orders and log entries are read by pages of their keys, and
//! what belongs to a page is looked up by index. Databases have no moment in common, so what a transaction is just
//! changing looks wrong. Whatever does is looked at again, by its id, until it is right or `patience` is over; what is
//! summed up is compared with bounds that hold at any time, and leave no room where nothing is under way. Slots may
//! move meanwhile: their rows are read where they are.

mod goods;
mod limits;
mod look;
mod occasions;
mod reader;
mod redemptions;
mod rules;
mod seats;
mod sums;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tercet_order::store::Key;
use tercet_shards::ShardMap;

use self::reader::Reader;
use self::seats::Seats;

/// Findings that are named; the others are counted only.
const NAMED_MAX: usize = 50;
/// Between two looks at the same.
const PAUSE: Duration = Duration::from_millis(500);

/// Where everything is: URLs of SQLite or MariaDB, and the map of the coupons' databases.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of the coupons: how many databases and tables. Where slots are, the databases say.
    pub map: ShardMap,
    /// The coupons' databases, in the map's order.
    pub coupon: Vec<String>,
    /// The stock service's.
    pub stock: String,
    /// The order service's.
    pub order: String,
    /// The template service's.
    pub template: String,
    /// The business log's.
    pub log: String,
}

/// What may be wrong, by the key under which it is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspect {
    /// A coupon, with its order and its log.
    Coupon(i64),
    /// A coupon that is in this database and this table, where nobody would find it.
    Misplaced(i64, usize, usize),
    /// A slot, by its number.
    Slot(usize),
    /// An order, by its shop and its number there, with its coupon and its log.
    Order(Key),
    /// A coupon that the log knows.
    Logged(i64),
    /// The units of a template, its budget and its limits.
    Template(i64),
    /// The units of a product, and the orders that have them.
    Product(i64),
    /// What users of a table have claimed: the database and the table.
    Table(usize, usize),
    /// An occasion, with its runs.
    Occasion(i64),
    /// A redemption that is done, with its order.
    Redemption(i64),
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub suspect: Suspect,
    /// In words.
    pub text: String,
}

/// What was found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Coupons that were looked at.
    pub coupons: u64,
    /// Orders with a coupon.
    pub orders: u64,
    /// Entries of the log that say that a coupon was issued.
    pub entries: u64,
    /// What used coupons took off, in cents.
    pub discount_cents: i64,
    /// How much is wrong.
    pub violations: usize,
    /// The first of it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is wrong.
    pub const fn sound(&self) -> bool {
        self.violations == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { coupons, orders, entries, discount_cents, violations, findings } = self;
        writeln!(f, "{coupons} coupons, {orders} orders with one, {entries} log entries of issued ones")?;
        writeln!(f, "{discount_cents} cents taken off, {violations} violations")?;
        findings.iter().try_for_each(|finding| writeln!(f, "  {}", finding.text))
    }
}

/// All databases, each on one connection that can only read.
struct Books {
    map: ShardMap,
    coupon: Vec<Reader>,
    /// What the coupons' databases said last.
    seats: Vec<Seats>,
    stock: Reader,
    order: Reader,
    template: Reader,
    log: Reader,
}

/// Checks all of it. What looks wrong is looked at again for as long as `patience`.
///
/// # Errors
/// When a database can not be read.
pub async fn check(places: &Places, patience: Duration) -> anyhow::Result<Report> {
    let mut books = Books::open(places).await?;
    let mut report = Report::default();
    let mut findings = books.all(&mut report).await?;
    let begun = Instant::now();
    while !findings.is_empty() && begun.elapsed() < patience {
        tokio::time::sleep(PAUSE).await;
        let suspects: BTreeSet<Suspect> = findings.iter().map(|finding| finding.suspect).collect();
        findings = books.again(&suspects).await?;
    }
    report.violations = findings.len();
    findings.truncate(NAMED_MAX);
    report.findings = findings;
    Ok(report)
}

impl Books {
    async fn open(places: &Places) -> anyhow::Result<Self> {
        let Places { map, coupon, stock, order, template, log } = places;
        let count = map.databases();
        ensure!(coupon.len() == count, "the shard map has {count} databases and {} are named", coupon.len());
        let mut coupons = Vec::with_capacity(coupon.len());
        for (at, url) in coupon.iter().enumerate() {
            coupons.push(Reader::open(url).await.with_context(|| format!("the coupons' database {at}"))?);
        }
        Ok(Self {
            map: map.clone(),
            coupon: coupons,
            seats: Vec::new(),
            stock: Reader::open(stock).await.context("the stock's database")?,
            order: Reader::open(order).await.context("the orders' database")?,
            template: Reader::open(template).await.context("the templates' database")?,
            log: Reader::open(log).await.context("the log's database")?,
        })
    }

    async fn all(&mut self, report: &mut Report) -> anyhow::Result<Vec<Finding>> {
        let mut findings = self.all_seats().await?;
        findings.extend(self.templates(None).await?);
        findings.extend(self.goods(None).await?);
        findings.extend(self.all_coupons(report).await?);
        findings.extend(self.all_orders(report).await?);
        findings.extend(self.all_logged(report).await?);
        findings.extend(self.all_redemptions().await?);
        for table in 0..self.map.tables() {
            findings.extend(self.counters(table).await?);
        }
        findings.extend(self.occasions(None).await?);
        Ok(findings)
    }

    /// What is still wrong of these.
    async fn again(&mut self, suspects: &BTreeSet<Suspect>) -> anyhow::Result<Vec<Finding>> {
        let (mut coupons, mut orders, mut logged, mut redemptions) = (vec![], vec![], vec![], vec![]);
        let (mut templates, mut products, mut tables) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut findings = self.all_seats().await?;
        for suspect in suspects {
            match *suspect {
                Suspect::Coupon(id) => coupons.push(id),
                Suspect::Misplaced(id, database, table) => {
                    findings.extend(self.still_misplaced(id, database, table).await?);
                }
                Suspect::Slot(_) => {}
                Suspect::Order(key) => orders.push(key),
                Suspect::Logged(id) => logged.push(id),
                Suspect::Template(id) => drop(templates.insert(id)),
                Suspect::Product(id) => drop(products.insert(id)),
                Suspect::Table(_, table) => drop(tables.insert(table)),
                Suspect::Occasion(id) => findings.extend(self.occasions(Some(id)).await?),
                Suspect::Redemption(id) => redemptions.push(id),
            }
        }
        for table in tables {
            findings.extend(self.counters(table).await?);
        }
        if !templates.is_empty() {
            findings.extend(self.templates(Some(&templates)).await?);
        }
        if !products.is_empty() {
            findings.extend(self.goods(Some(&products)).await?);
        }
        findings.extend(self.these_coupons(&coupons).await?);
        findings.extend(self.these_orders(&orders).await?);
        findings.extend(self.these_logged(&logged).await?);
        findings.extend(self.these_redemptions(&redemptions).await?);
        Ok(findings)
    }
}
