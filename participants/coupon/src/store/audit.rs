//! All coupons of a database, summed up.

use tercet::participant::DbTx;
use tercet_shards::ShardMap;

use super::{Kind, Statement, Store, numbers, statement};

/// The coupons by status, and what must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Claims that are under way.
    pub pending: i64,
    /// Coupons that may be redeemed.
    pub issued: i64,
    /// Coupons that orders under way hold.
    pub locked: i64,
    /// Coupons that orders used.
    pub used: i64,
    /// Coupons whose time ended.
    pub expired: i64,
    /// Coupons that operators voided.
    pub voided: i64,
    /// Users and templates whose claims are not as many as their coupons.
    pub miscounted: i64,
    /// Users and templates with more claims than the highest limit under which one was made.
    pub over_limit: i64,
}

/// Sums up all tables of a database.
pub async fn totals<Db: Store>(db_tx: &mut DbTx<Db>, map: &ShardMap) -> sqlx::Result<Totals> {
    let all: Vec<Statement> = (0..map.tables()).map(|table| statement::<i64>(Kind::Totals, table, &[])).collect();
    let mut sum = Totals::default();
    for row in Db::run(db_tx, &all).await?.iter().flat_map(|ran| &ran.rows) {
        let [pending, issued, locked, used, expired, voided, miscounted, over_limit] = numbers(row)?;
        sum.add(Totals { pending, issued, locked, used, expired, voided, miscounted, over_limit });
    }
    Ok(sum)
}

/// Every used coupon of a database with its order.
pub async fn used<Db: Store>(db_tx: &mut DbTx<Db>, map: &ShardMap) -> sqlx::Result<Vec<(i64, i64)>> {
    let all: Vec<Statement> = (0..map.tables()).map(|table| statement::<i64>(Kind::Used, table, &[])).collect();
    let ran = Db::run(db_tx, &all).await?;
    let pair = |row: &Vec<Option<i64>>| numbers::<2>(row).map(|[coupon_id, order_id]| (coupon_id, order_id));
    ran.iter().flat_map(|ran| &ran.rows).map(pair).collect()
}

impl Totals {
    /// Both in one.
    pub const fn add(&mut self, other: Self) {
        self.pending += other.pending;
        self.issued += other.issued;
        self.locked += other.locked;
        self.used += other.used;
        self.expired += other.expired;
        self.voided += other.voided;
        self.miscounted += other.miscounted;
        self.over_limit += other.over_limit;
    }
}
