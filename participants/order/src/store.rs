//! The order service's SQL, both dialects side by side. Rows travel as one JSON parameter: a statement per slice.

use tercet::participant::DbTx;
use tercet::tables;
use tercet_events::store::Store as EventStore;

mod statements;
pub mod unpaid;

pub use crate::key::Key;
use crate::limits::AGAIN_MS;
pub use crate::status::Status;
#[cfg(feature = "mysql")]
use statements::MYSQL;
#[cfg(feature = "sqlite")]
use statements::SQLITE;
use statements::{COUPONS, TOTALS};

/// A new order. Its amounts never change.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Order {
    /// Which.
    pub key: Key,
    /// Its user.
    pub user_id: i64,
    /// What was bought.
    pub item: i64,
    /// How much of it.
    pub count: u32,
    /// The coupon it uses.
    pub coupon_id: Option<i64>,
    /// What it costs before the coupon.
    pub amount_cents: i64,
    /// What the coupon takes off.
    pub discount_cents: i64,
    /// For how many seconds from its placing it waits to be paid; without end where it is left out.
    pub pay_within_s: Option<u32>,
}

/// A coupon of an order that may have several.
#[derive(Clone, Copy, Debug)]
pub struct BasketCoupon {
    /// The order.
    pub key: Key,
    /// The coupon.
    pub coupon_id: i64,
    /// What it takes off.
    pub discount_cents: i64,
}

/// A line of an order of several things.
#[derive(Clone, Copy, Debug)]
pub struct BasketLine {
    /// The order.
    pub key: Key,
    /// Its place there, from 0.
    pub line: usize,
    /// What was bought.
    pub product_id: i64,
    /// Of one unit.
    pub price_cents: i64,
    /// Units.
    pub quantity: u32,
}

/// Where one order stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The order.
    pub key: Key,
    /// Its user.
    pub user_id: i64,
    /// What it costs after the coupon.
    pub due_cents: i64,
    /// The coupon it uses, if it is one of one thing.
    pub coupon_id: Option<i64>,
    /// It is of several things, and has its coupons elsewhere.
    pub is_basket: bool,
    /// Where it stands.
    pub status: Status,
    /// Of a refunded order: where it stood before.
    pub refunded_from: Option<Status>,
    /// Of a refunded order: when that was final; it may be taken back until then.
    pub refunded_ms: Option<i64>,
    /// Which payment it was paid by.
    pub payment_id: Option<String>,
    /// Until when it waits to be paid, once it is placed, by the database.
    pub pay_by_ms: Option<i64>,
    /// Of one that waits to be paid: when it is looked at whether it was.
    pub close_at_ms: Option<i64>,
    /// It may be paid yet: that time was ahead when this was read.
    pub is_ahead: bool,
}

impl Standing {
    /// Whether it is being taken back, and may yet be what it was before.
    pub fn is_refunding(&self) -> bool {
        self.status == Status::Refunded && self.refunded_ms.is_none()
    }

    /// Whether it came to nothing, or was taken back before it was paid.
    pub fn is_closed(&self) -> bool {
        self.status == Status::Closed || self.refunded_from == Some(Status::Placed)
    }
}

/// One order's step from a status to the next.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The order.
    pub key: Key,
    /// Where it has to stand.
    pub from: Status,
    /// Where it will stand.
    pub to: Status,
}

/// What the coupon service has said about the coupon of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It was used for it.
    Confirmed = 1,
    /// It was given back.
    GivenBack = 2,
}

/// A coupon of an order, as the coupon service tells it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// The order.
    pub key: Key,
    /// The coupon.
    pub coupon_id: i64,
    /// What became of it.
    pub now: Use,
    /// What it took off, where that is said.
    pub discount_cents: Option<i64>,
    /// Which of the coupon's steps it is.
    pub step: i64,
}

/// The orders by status, and what must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Orders whose placing is under way.
    pub frozen: i64,
    /// Orders that wait for their money.
    pub placed: i64,
    /// Orders that came to nothing.
    pub closed: i64,
    /// Paid orders.
    pub paid: i64,
    /// Refunded orders.
    pub refunded: i64,
    /// Coupons that more than one placed or paid order uses.
    pub coupons_twice: i64,
    /// Placed or paid orders of whose coupon nobody has said that it was used.
    pub unconfirmed: i64,
}

/// A database that this service can live in.
pub trait Store: EventStore {
    /// Creates the tables, or brings them up to date.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Which of these are taken. Locks nothing: of two that insert the same one, the later one fails and asks again.
    fn taken(db_tx: &mut DbTx<Self>, keys: &[Key]) -> impl Future<Output = sqlx::Result<Vec<Key>>> + Send;

    /// Deletes these orders of several things, all of which came to nothing.
    fn drop_closed(db_tx: &mut DbTx<Self>, keys: &[Key]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Writes new orders, frozen.
    fn insert(db_tx: &mut DbTx<Self>, orders: &[Order]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Writes the coupons of new baskets.
    fn insert_coupons(
        db_tx: &mut DbTx<Self>,
        coupons: &[BasketCoupon],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Writes the lines of new baskets.
    fn insert_lines(db_tx: &mut DbTx<Self>, lines: &[BasketLine]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The lines of a basket, in their order.
    fn lines_of(db_tx: &mut DbTx<Self>, key: Key) -> impl Future<Output = sqlx::Result<Vec<BasketLine>>> + Send;

    /// The orders and coupons of these baskets.
    fn coupons_of(db_tx: &mut DbTx<Self>, keys: &[Key]) -> impl Future<Output = sqlx::Result<Vec<(Key, i64)>>> + Send;

    /// Locks these orders, in their order, and reads them; those that do not exist are left out.
    fn standings(db_tx: &mut DbTx<Self>, keys: &[Key]) -> impl Future<Output = sqlx::Result<Vec<Standing>>> + Send;

    /// How an order stands; locks nothing.
    fn look(db_tx: &mut DbTx<Self>, key: Key) -> impl Future<Output = sqlx::Result<Option<Standing>>> + Send;

    /// Orders of a shop at these statuses with numbers below `before`, of each status the highest, at most `limit`, as
    /// they are at one moment; they are not locked.
    fn of_shop(
        db_tx: &mut DbTx<Self>,
        shop_id: i64,
        statuses: &[Status],
        page: (i64, u32),
    ) -> impl Future<Output = sqlx::Result<Vec<Standing>>> + Send;

    /// Moves each order once. A step to refunded keeps where it came from; with one from frozen to placed its time to
    /// be paid begins, and where a refund is taken back it is looked at when that is over, and not at once.
    ///
    /// # Errors
    /// Besides the database's own: `RowNotFound` when one of them does not stand where it has to.
    fn advance(db_tx: &mut DbTx<Self>, moves: &[Move]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes which payment an order was paid by.
    fn note_payment(
        db_tx: &mut DbTx<Self>,
        key: Key,
        payment_id: &str,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Says of each of these refunded orders, at most once, whether its refund is final.
    ///
    /// # Errors
    /// Besides the database's own: `RowNotFound` when one of them is not refunded.
    fn end_refunds(db_tx: &mut DbTx<Self>, orders: &[(Key, bool)]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes what is said about coupons, at most once for each of an order, where nothing of a later step was noted;
    /// false when one of the orders is not there with this coupon and discount, or came to nothing.
    fn note_uses(db_tx: &mut DbTx<Self>, uses: &[Used]) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Sums everything up.
    fn totals(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Totals>> + Send;

    /// The coupon of every placed or paid order, with the order, by coupon.
    fn coupons(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Vec<(i64, i64)>>> + Send;
}

macro_rules! store {
    ($database:ty, $sql:ident, $folder:literal) => {
        impl Store for $database {
            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), tables::Error> {
                let schema = [
                    include_str!(concat!($folder, "0001_order.sql")),
                    include_str!(concat!($folder, "0002_basket.sql")),
                ];
                tables::make(pool, "order", tables::versions(schema)).await
            }

            async fn taken(db_tx: &mut DbTx<Self>, keys: &[Key]) -> sqlx::Result<Vec<Key>> {
                let rows: Vec<(i64, i64)> = sqlx::query_as($sql.taken).bind(json(keys)).fetch_all(db_tx).await?;
                Ok(rows.into_iter().map(|(shop_id, order_id)| Key { shop_id, order_id }).collect())
            }

            async fn drop_closed(db_tx: &mut DbTx<Self>, keys: &[Key]) -> sqlx::Result<()> {
                for statement in $sql.drop_closed {
                    sqlx::query(*statement).bind(json(keys)).execute(&mut *db_tx).await?;
                }
                Ok(())
            }

            async fn insert(db_tx: &mut DbTx<Self>, orders: &[Order]) -> sqlx::Result<()> {
                if orders.is_empty() {
                    return Ok(());
                }
                sqlx::query($sql.insert).bind(json(orders)).execute(db_tx).await.map(drop)
            }

            async fn insert_coupons(db_tx: &mut DbTx<Self>, coupons: &[BasketCoupon]) -> sqlx::Result<()> {
                if coupons.is_empty() {
                    return Ok(());
                }
                let row = |own: &BasketCoupon| (own.key.shop_id, own.key.order_id, own.coupon_id, own.discount_cents);
                let rows: Vec<_> = coupons.iter().map(row).collect();
                sqlx::query($sql.insert_coupons).bind(json(&rows)).execute(db_tx).await.map(drop)
            }

            async fn insert_lines(db_tx: &mut DbTx<Self>, lines: &[BasketLine]) -> sqlx::Result<()> {
                if lines.is_empty() {
                    return Ok(());
                }
                let row = |&BasketLine { key, line, product_id, price_cents, quantity }: &BasketLine| {
                    (key.shop_id, key.order_id, line, product_id, price_cents, quantity)
                };
                let rows: Vec<_> = lines.iter().map(row).collect();
                sqlx::query($sql.insert_lines).bind(json(&rows)).execute(db_tx).await.map(drop)
            }

            async fn lines_of(db_tx: &mut DbTx<Self>, key: Key) -> sqlx::Result<Vec<BasketLine>> {
                let query = sqlx::query_as($sql.lines_of).bind(key.shop_id).bind(key.order_id);
                let rows: Vec<LineRow> = query.fetch_all(db_tx).await?;
                rows.into_iter().map(|row| BasketLine::from_row(key, row)).collect()
            }

            async fn coupons_of(db_tx: &mut DbTx<Self>, keys: &[Key]) -> sqlx::Result<Vec<(Key, i64)>> {
                let rows: Vec<(i64, i64, i64)> =
                    sqlx::query_as($sql.coupons_of).bind(json(keys)).fetch_all(db_tx).await?;
                let row = |(shop_id, order_id, coupon_id)| (Key { shop_id, order_id }, coupon_id);
                Ok(rows.into_iter().map(row).collect())
            }

            async fn standings(db_tx: &mut DbTx<Self>, keys: &[Key]) -> sqlx::Result<Vec<Standing>> {
                let rows: Vec<StandingRow> = sqlx::query_as($sql.standings).bind(json(keys)).fetch_all(db_tx).await?;
                rows.into_iter().map(Standing::from_row).collect()
            }

            async fn look(db_tx: &mut DbTx<Self>, key: Key) -> sqlx::Result<Option<Standing>> {
                let query = sqlx::query_as($sql.look).bind(key.shop_id).bind(key.order_id);
                let row: Option<StandingRow> = query.fetch_optional(db_tx).await?;
                row.map(Standing::from_row).transpose()
            }

            async fn of_shop(
                db_tx: &mut DbTx<Self>,
                shop_id: i64,
                statuses: &[Status],
                (before, limit): (i64, u32),
            ) -> sqlx::Result<Vec<Standing>> {
                let mut query = sqlx::query_as($sql.of_shop);
                for part in Status::ALL {
                    // No order stands at -1.
                    let status = if statuses.contains(&part) { part as i64 } else { -1 };
                    query = query.bind(shop_id).bind(status).bind(before).bind(i64::from(limit));
                }
                let rows: Vec<StandingRow> = query.fetch_all(db_tx).await?;
                rows.into_iter().map(Standing::from_row).collect()
            }

            async fn advance(db_tx: &mut DbTx<Self>, moves: &[Move]) -> sqlx::Result<()> {
                if moves.is_empty() {
                    return Ok(());
                }
                let row = |step: &Move| (step.key.shop_id, step.key.order_id, step.from as i64, step.to as i64);
                let mut rows: Vec<_> = moves.iter().map(row).collect();
                rows.sort_unstable();
                let done = sqlx::query($sql.advance).bind(json(&rows)).bind(AGAIN_MS).execute(db_tx).await?;
                if done.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn note_payment(db_tx: &mut DbTx<Self>, key: Key, payment_id: &str) -> sqlx::Result<()> {
                let query = sqlx::query($sql.note_payment).bind(payment_id).bind(key.shop_id).bind(key.order_id);
                query.execute(db_tx).await.map(drop)
            }

            async fn end_refunds(db_tx: &mut DbTx<Self>, orders: &[(Key, bool)]) -> sqlx::Result<()> {
                if orders.is_empty() {
                    return Ok(());
                }
                let row = |(key, is_final): &(Key, bool)| (key.shop_id, key.order_id, i64::from(*is_final));
                let mut rows: Vec<_> = orders.iter().map(row).collect();
                rows.sort_unstable();
                let done = sqlx::query($sql.settle).bind(json(&rows)).execute(db_tx).await?;
                if done.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn note_uses(db_tx: &mut DbTx<Self>, uses: &[Used]) -> sqlx::Result<bool> {
                if uses.is_empty() {
                    return Ok(true);
                }
                let row = |&Used { key, coupon_id, now, discount_cents, step }: &Used| {
                    (key.shop_id, key.order_id, coupon_id, now as i64, discount_cents, step)
                };
                let mut rows: Vec<_> = uses.iter().map(row).collect();
                rows.sort_unstable();
                let rows_wanted = rows.len() as u64;
                let rows = json(&rows);
                let noted = sqlx::query($sql.note_uses).bind(&rows).execute(&mut *db_tx).await?.rows_affected();
                if noted == rows_wanted {
                    return Ok(true);
                }
                // The others are of baskets: an order is one or the other.
                let more = sqlx::query($sql.note_basket_uses).bind(&rows).execute(db_tx).await?.rows_affected();
                Ok(noted + more == rows_wanted)
            }

            async fn totals(db_tx: &mut DbTx<Self>) -> sqlx::Result<Totals> {
                let (frozen, placed, closed, paid, refunded, coupons_twice, unconfirmed) =
                    sqlx::query_as(TOTALS).fetch_one(db_tx).await?;
                Ok(Totals { frozen, placed, closed, paid, refunded, coupons_twice, unconfirmed })
            }

            async fn coupons(db_tx: &mut DbTx<Self>) -> sqlx::Result<Vec<(i64, i64)>> {
                sqlx::query_as(COUPONS).fetch_all(db_tx).await
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, "../../../sql/order/sqlite/");
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, "../../../sql/order/mysql/");

impl BasketLine {
    fn from_row(key: Key, (line, product_id, price_cents, quantity): LineRow) -> sqlx::Result<Self> {
        let (line, quantity) = (usize::try_from(line).ok(), u32::try_from(quantity).ok());
        let broken = || sqlx::Error::Decode("a line has a number that is none of its own".into());
        let (line, quantity) = line.zip(quantity).ok_or_else(broken)?;
        Ok(Self { key, line, product_id, price_cents, quantity })
    }
}

type LineRow = (i64, i64, i64, i64);

type StandingRow = (
    i64,
    i64,
    i64,
    i64,
    Option<i64>,
    bool,
    i64,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    bool,
);

impl Standing {
    fn from_row(row: StandingRow) -> sqlx::Result<Self> {
        let (shop_id, order_id, user_id, due_cents, coupon_id, is_basket, status, from, ..) = row;
        let (.., refunded_ms, payment_id, pay_by_ms, close_at_ms, is_ahead) = row;
        let (status, refunded_from) = (Status::from_number(status)?, from.map(Status::from_number).transpose()?);
        Ok(Self {
            key: Key { shop_id, order_id },
            user_id,
            due_cents,
            coupon_id,
            is_basket,
            status,
            refunded_from,
            refunded_ms,
            payment_id,
            pay_by_ms,
            close_at_ms,
            is_ahead,
        })
    }
}

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers have a form in JSON")
}
