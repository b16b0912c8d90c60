//! The coupons of all shards as rows: what the handlers read and write in a local transaction of one database, and a
//! statement for each table of a slice.
//!
//! Time is the database's: all instances of the service share it.

use std::collections::BTreeMap;

use tercet::participant::DbTx;
use tercet::tables::Error;
use tercet_proto::coupon::v1::Claim;
use tercet_shards::{ShardMap, Slot};

mod audit;
pub mod batches;
mod coupon;
pub mod jobs;
#[cfg(feature = "mysql")]
pub(crate) mod moves;
#[cfg(feature = "mysql")]
mod mysql;
pub mod occasions;
pub mod old;
pub mod redemptions;
pub mod seats;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;

pub use audit::{Totals, totals, used};
pub use coupon::{Coupon, Move, Order};
pub use jobs::{Ended, ended};
pub use seats::Seats;
pub use statements::Kind;

/// Where a coupon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Its claim is under way.
    Pending = 0,
    /// Its user may redeem it.
    Issued = 1,
    /// An order that is under way holds it.
    Locked = 2,
    /// An order used it.
    Used = 3,
    /// Its time ended before it was used.
    Expired = 4,
    /// An operator took it from its user before it was used.
    Voided = 5,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Issued, Self::Locked, Self::Used, Self::Expired, Self::Voided];

    fn from_number(number: i64) -> sqlx::Result<Self> {
        Self::ALL.into_iter().find(|status| *status as i64 == number).ok_or_else(|| broken("a coupon's status"))
    }
}

/// What stands in the way of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many of the template the user has claimed.
    pub claimed: i64,
    /// The latest day on which he did.
    pub day: i64,
    /// How many on that day.
    pub today: i64,
    /// The coupon's id is taken.
    pub exists: bool,
    /// The user's coupon with this key; 0: there is none.
    pub keyed: i64,
}

/// One statement on one table.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Which.
    pub kind: Kind,
    /// The table's number.
    pub table: usize,
    /// What it is about: whole numbers as JSON.
    pub about: String,
}

#[cfg(feature = "mysql")]
impl Statement {
    /// As MariaDB gets it, for whoever wants to have it explained.
    pub fn mysql(&self) -> String {
        let mut text = String::new();
        statements::mysql(&mut text, self.kind, self.table, &self.about);
        text
    }
}

/// What a statement did, and the rows that it returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// How many rows it changed.
    pub affected: u64,
    /// Every column is a whole number, or nothing.
    pub rows: Vec<Vec<Option<i64>>>,
}

/// An order that is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Notice {
    /// Its number at its shop.
    pub order_id: i64,
    /// Whose it is; 0 where it is one of one thing.
    pub shop_id: i64,
    /// Its user.
    pub user_id: i64,
    /// What was paid.
    pub paid_cents: i64,
    /// That of the user.
    pub slot: usize,
}

/// A database that coupons can live in.
pub trait Store: Seats {
    /// Whether a row that does not exist yet has to be made before it can be locked.
    const LOCKS_BY_ROW: bool;

    /// Creates the tables, so many of each kind, or brings them up to date.
    fn migrate(pool: &sqlx::Pool<Self>, tables: usize) -> impl Future<Output = Result<(), Error>> + Send;

    /// Runs statements one after the other.
    fn run(db_tx: &mut DbTx<Self>, statements: &[Statement]) -> impl Future<Output = sqlx::Result<Vec<Ran>>> + Send;

    /// Notes orders that are paid. A second notice of an order changes nothing.
    fn note_paid(db_tx: &mut DbTx<Self>, notices: &[Notice]) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// The names of all tables of a database that has so many of each kind.
pub fn tables(count: usize) -> Vec<String> {
    let mut names = ["paid_notice", "issue_batch", "issue_chunk", "redemption", "slot"].map(str::to_owned).to_vec();
    names.extend((0..count).flat_map(statements::tables));
    names
}

/// A claim as its table is asked about it: its place among all, coupon, template, user and key.
type Asked = (usize, i64, i64, i64, Option<i64>);

/// What stands in the way of these claims, in their order; the counters are locked until the local transaction ends.
pub async fn standings<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    claims: &[Claim],
) -> sqlx::Result<Vec<Standing>> {
    let mut tables: BTreeMap<usize, Vec<Asked>> = BTreeMap::new();
    for (at, claim) in claims.iter().enumerate() {
        let table = map.table(Slot::of_id(claim.coupon_id));
        let &Claim { coupon_id, template_id, user_id, .. } = claim;
        tables.entry(table).or_default().push((at, coupon_id, template_id, user_id, claim_key(claim)));
    }
    let statements = |kind| tables.iter().map(move |(table, rows)| statement(kind, *table, rows));
    let mut all: Vec<Statement> = Vec::new();
    if Db::LOCKS_BY_ROW {
        // All locks come first: what is read afterwards has seen whatever they waited for.
        all.extend(statements(Kind::LockCounts));
    }
    all.extend(statements(Kind::Standings));
    let mut found = vec![Standing::default(); claims.len()];
    for row in Db::run(db_tx, &all).await?.iter().flat_map(|ran| &ran.rows) {
        let [at, claimed, day, today, exists, keyed] = numbers(row)?;
        let standing = usize::try_from(at).ok().and_then(|at| found.get_mut(at));
        *standing.ok_or_else(|| broken("a claim's place"))? =
            Standing { claimed, day, today, exists: exists != 0, keyed };
    }
    Ok(found)
}

/// Writes coupons with this status, and counts their claims.
///
/// # Errors
/// Besides the database's own: a coupon that exists.
pub async fn insert<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    claims: &[Claim],
    status: Status,
) -> sqlx::Result<()> {
    let mut all = inserts(map, claims, status, 0);
    all.extend(counts(map, claims).into_iter().map(|(table, counts)| {
        let row = |((user_id, template_id), count): (&(i64, i64), &Counted)| {
            (*user_id, *template_id, count.n, count.per_user, count.day)
        };
        statement(Kind::Count, table, &counts.iter().map(row).collect::<Vec<_>>())
    }));
    Db::run(db_tx, &all).await.map(drop)
}

/// The statements that write coupons of this batch, one for each table; their users' claims are not counted.
pub fn inserts(map: &ShardMap, claims: &[Claim], status: Status, batch: i64) -> Vec<Statement> {
    let mut tables: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for claim in claims {
        let row = (
            claim.coupon_id,
            claim.user_id,
            claim.template_id,
            claim.version,
            status as i64,
            claim.claimed_ms,
            claim.valid_from_ms,
            claim.valid_until_ms,
            batch,
            claim_key(claim),
        );
        tables.entry(map.table(Slot::of_id(claim.coupon_id))).or_default().push(row);
    }
    tables.into_iter().map(|(table, rows)| statement(Kind::Insert, table, &rows)).collect()
}

fn claim_key(claim: &Claim) -> Option<i64> {
    (claim.key != 0).then_some(claim.key)
}

/// Claims of one user and template.
#[derive(Default)]
struct Counted {
    n: i64,
    per_user: u32,
    /// The latest of their days.
    day: i64,
    of_day: i64,
}

fn counts(map: &ShardMap, claims: &[Claim]) -> BTreeMap<usize, BTreeMap<(i64, i64), Counted>> {
    let mut tables: BTreeMap<usize, BTreeMap<(i64, i64), Counted>> = BTreeMap::new();
    for claim in claims {
        let table = tables.entry(map.table(Slot::of_id(claim.coupon_id))).or_default();
        let count = table.entry((claim.user_id, claim.template_id)).or_default();
        count.n += 1;
        count.per_user = count.per_user.max(claim.per_user);
        if count.n == 1 || claim.day > count.day {
            (count.day, count.of_day) = (claim.day, 0);
        }
        count.of_day += i64::from(claim.day == count.day);
    }
    tables
}

/// Deletes pending coupons, and takes their claims back.
///
/// # Errors
/// Besides the database's own: `RowNotFound` when one of them is not pending.
pub async fn delete<Db: Store>(db_tx: &mut DbTx<Db>, map: &ShardMap, claims: &[Claim]) -> sqlx::Result<()> {
    let mut ids: Vec<i64> = claims.iter().map(|claim| claim.coupon_id).collect();
    ids.sort_unstable();
    let mut all: Vec<Statement> =
        by_table(map, &ids, |id| *id).iter().map(|(table, ids)| statement(Kind::Delete, *table, ids)).collect();
    let deletes = all.len();
    all.extend(counts(map, claims).into_iter().map(|(table, counts)| {
        let row = |((user_id, template_id), count): (&(i64, i64), &Counted)| {
            (*user_id, *template_id, count.n, count.day, count.of_day)
        };
        statement(Kind::Uncount, table, &counts.iter().map(row).collect::<Vec<_>>())
    }));
    let ran = Db::run(db_tx, &all).await?;
    affected(&ran[..deletes], claims.len())
}

/// Locks these coupons, in their order, and reads them, with the database's clock; those that do not exist are left
/// out.
pub async fn coupons<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    coupon_ids: &[i64],
) -> sqlx::Result<Vec<(Coupon, i64)>> {
    let tables = by_table(map, coupon_ids, |id| *id);
    let all: Vec<Statement> = tables.iter().map(|(table, ids)| statement(Kind::Coupons, *table, ids)).collect();
    let ran = Db::run(db_tx, &all).await?;
    ran.iter().flat_map(|ran| &ran.rows).map(|row| Ok((Coupon::from_row(row)?, last(row)?))).collect()
}

/// Of these coupons, which were moved to issued just now, those that are expired instead.
pub async fn expired_instead<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    coupon_ids: &[i64],
) -> sqlx::Result<Vec<Coupon>> {
    let mut ids = coupon_ids.to_vec();
    ids.sort_unstable();
    let found = coupons::<Db>(db_tx, map, &ids).await?;
    Ok(found.into_iter().map(|(coupon, _)| coupon).filter(|coupon| coupon.status == Status::Expired).collect())
}

/// Moves each coupon once.
///
/// # Errors
/// Besides the database's own: `RowNotFound` when one of them does not stand where it has to.
pub async fn advance<Db: Store>(db_tx: &mut DbTx<Db>, map: &ShardMap, moves: &[Move]) -> sqlx::Result<()> {
    let mut moves: Vec<&Move> = moves.iter().collect();
    moves.sort_unstable_by_key(|step| step.coupon_id);
    let row = |step: &&&Move| {
        let Move { coupon_id, from, to, order } = ***step;
        let (shop_id, order_id) = (order.map(|of| of.shop_id), order.map(|of| of.order_id));
        (coupon_id, from as i64, to as i64, shop_id, order_id, order.map(|of| of.discount_cents))
    };
    let tables = by_table(map, &moves, |step| step.coupon_id);
    let statements = tables
        .iter()
        .map(|(table, moves)| statement(Kind::Advance, *table, &moves.iter().map(row).collect::<Vec<_>>()));
    let all: Vec<Statement> = statements.collect();
    affected(&Db::run(db_tx, &all).await?, moves.len())
}

/// Voids a coupon for good. Its time ends with it: where an order whose refund came to nothing uses it again, the next
/// refund makes it expired, and no refund makes it usable.
///
/// # Errors
/// Besides the database's own: `RowNotFound` when it is not issued.
pub async fn void<Db: Store>(db_tx: &mut DbTx<Db>, map: &ShardMap, coupon_id: i64) -> sqlx::Result<()> {
    let one = statement(Kind::Void, map.table(Slot::of_id(coupon_id)), &[coupon_id]);
    affected(&Db::run(db_tx, &[one]).await?, 1)
}

/// Of these users, those who have claims of a template under way.
pub async fn pending<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    user_ids: &[i64],
) -> sqlx::Result<Vec<(i64, i64)>> {
    let mut tables: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for user_id in user_ids {
        tables.entry(map.table(Slot::of_user(*user_id))).or_default().push(*user_id);
    }
    let all: Vec<Statement> = tables.iter().map(|(table, ids)| statement(Kind::Pending, *table, ids)).collect();
    let ran = Db::run(db_tx, &all).await?;
    let pair = |row: &Vec<Option<i64>>| numbers::<2>(row).map(|[user_id, template_id]| (user_id, template_id));
    ran.iter().flat_map(|ran| &ran.rows).map(pair).collect()
}

/// Asks for a coupon as it is; it is not locked.
pub fn coupon(map: &ShardMap, coupon_id: i64) -> Vec<Statement> {
    vec![statement(Kind::Coupon, map.table(Slot::of_id(coupon_id)), &[coupon_id])]
}

/// Asks for a user's coupon by the key of its claim, as it is; it is not locked.
pub fn keyed(map: &ShardMap, user_id: i64, key: i64) -> Vec<Statement> {
    vec![statement(Kind::Keyed, map.table(Slot::of_user(user_id)), &[user_id, key])]
}

/// Asks for a user's coupons of these statuses with ids below `before`, at most `limit` of each.
pub fn of_user(map: &ShardMap, user_id: i64, statuses: &[Status], (before, limit): (i64, u32)) -> Vec<Statement> {
    let table = map.table(Slot::of_user(user_id));
    // The index has them by status, each newest first: no more than `limit` rows of a status are read.
    let one = |status: &Status| statement(Kind::OfUser, table, &[user_id, *status as i64, before, limit.into()]);
    if statuses == Status::ALL {
        vec![statement(Kind::OfUserAll, table, &[user_id, before, limit.into()])]
    } else {
        statuses.iter().map(one).collect()
    }
}

/// The coupons that were found by [`coupon`], [`keyed`] or [`of_user`], newest first.
pub fn newest(ran: &[Ran]) -> sqlx::Result<Vec<Coupon>> {
    let rows = ran.iter().flat_map(|ran| &ran.rows);
    let mut found: Vec<Coupon> = rows.map(|row| Coupon::from_row(row)).collect::<sqlx::Result<_>>()?;
    found.sort_unstable_by_key(|coupon| std::cmp::Reverse(coupon.coupon_id));
    Ok(found)
}

/// These coupons as they are, with the database's clock; they are not locked, and are all of one user.
pub async fn look<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    user_id: i64,
    coupon_ids: &[i64],
) -> sqlx::Result<Vec<(Coupon, i64)>> {
    let one = statement(Kind::Look, map.table(Slot::of_user(user_id)), coupon_ids);
    let ran = Db::run(db_tx, &[one]).await?;
    ran.iter().flat_map(|ran| &ran.rows).map(|row| Ok((Coupon::from_row(row)?, last(row)?))).collect()
}

/// The coupons that a user may use by their status and end, those that end first, with the database's clock.
pub async fn usable<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    user_id: i64,
    limit: usize,
) -> sqlx::Result<Vec<(Coupon, i64)>> {
    let one = statement(Kind::Usable, map.table(Slot::of_user(user_id)), &[user_id, limit as i64]);
    let ran = Db::run(db_tx, &[one]).await?;
    ran.iter().flat_map(|ran| &ran.rows).map(|row| Ok((Coupon::from_row(row)?, last(row)?))).collect()
}

/// Looks at so many coupons of a table with ids below `before`, newest first: each with whether it is of this template
/// and status.
pub async fn page<Db: Store>(
    db_tx: &mut DbTx<Db>,
    table: usize,
    (template_id, status): (i64, Option<Status>),
    (before, limit): (i64, u32),
) -> sqlx::Result<Vec<(Coupon, bool)>> {
    let status = status.map_or(-1, |status| status as i64);
    let ran = Db::run(db_tx, &[statement(Kind::Page, table, &[before, template_id, status, limit.into()])]).await?;
    ran.iter().flat_map(|ran| &ran.rows).map(|row| Ok((Coupon::from_row(row)?, last(row)? != 0))).collect()
}

fn statement<T: serde::Serialize>(kind: Kind, table: usize, about: &[T]) -> Statement {
    let about = serde_json::to_string(about).expect("numbers have a form in JSON");
    Statement { kind, table, about }
}

fn by_table<'a, T>(map: &ShardMap, rows: &'a [T], id: fn(&T) -> i64) -> BTreeMap<usize, Vec<&'a T>> {
    let mut tables: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
    for row in rows {
        tables.entry(map.table(Slot::of_id(id(row)))).or_default().push(row);
    }
    tables
}

fn numbers<const N: usize>(row: &[Option<i64>]) -> sqlx::Result<[i64; N]> {
    let numbers: Option<Vec<i64>> = row.iter().copied().collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| broken("a row of numbers"))
}

fn last(row: &[Option<i64>]) -> sqlx::Result<i64> {
    row.last().copied().flatten().ok_or_else(|| broken("a row's last number"))
}

/// A statement that missed some of its rows found the database in a state that the rule excludes.
fn affected(ran: &[Ran], rows: usize) -> sqlx::Result<()> {
    let affected: u64 = ran.iter().map(|ran| ran.affected).sum();
    if affected == rows as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

fn broken(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{what} is not what this version writes").into())
}
