//! The testing kit on real servers: the services on MariaDB, and a participant on PostgreSQL, sound and faulty.

use sqlx::{MySql, PgConnection, Pool, Postgres};
use tercet::action::{Action, Json, Tcc};
use tercet::participant::{Answer, Participant};
use tercet::service::Service;
use tercet_integration::servers;
use tercet_testing::{Mode, Suite, conformance};

#[path = "../../../participants/stock/src"]
mod stock {
    use tercet_stock::*;

    mod conformance;
    pub(crate) use conformance::{reserve, restock, supply};
}

#[path = "../../../participants/coupon/src"]
mod coupon {
    use tercet_coupon::*;

    mod conformance;
    pub(crate) use conformance::{claim, close, give_back, honour, open, owed, paid, redeem, take_back};
}

#[path = "../../../participants/order/src"]
mod order {
    use tercet_order::*;

    mod conformance;
    pub(crate) use conformance::{
        a_shop_has_its_own_orders, an_order_is_paid_or_closed, one_has_the_job, place, place_basket, refund,
        settle_refund, what_can_not_be_closed_is_looked_at_later_and_later, what_is_not_paid_in_time_is_found,
    };
}

async fn on_mariadb<M: Mode, R: tercet::action::Request>(suite: Suite<MySql, M, R>) -> Option<Suite<MySql, M, R>> {
    let url = servers::mariadb().await.expect("the server answers")?;
    Some(suite.database(url))
}

conformance! {
    stock_reserve_conforms_on_mariadb: on_mariadb(stock::reserve()).await;
    stock_supply_conforms_on_mariadb: on_mariadb(stock::supply()).await;
    stock_restock_conforms_on_mariadb: on_mariadb(stock::restock()).await;
    coupon_claim_conforms_on_mariadb: on_mariadb(coupon::claim()).await;
    coupon_open_conforms_on_mariadb: on_mariadb(coupon::open()).await;
    coupon_close_conforms_on_mariadb: on_mariadb(coupon::close()).await;
    coupon_redeem_conforms_on_mariadb: on_mariadb(coupon::redeem()).await;
    coupon_give_back_conforms_on_mariadb: on_mariadb(coupon::give_back()).await;
    coupon_honour_conforms_on_mariadb: on_mariadb(coupon::honour()).await;
    coupon_owed_conforms_on_mariadb: on_mariadb(coupon::owed()).await;
    coupon_take_back_conforms_on_mariadb: on_mariadb(coupon::take_back()).await;
    coupon_paid_conforms_on_mariadb: on_mariadb(coupon::paid()).await;
    order_place_conforms_on_mariadb: on_mariadb(order::place()).await;
    order_place_basket_conforms_on_mariadb: on_mariadb(order::place_basket()).await;
    order_refund_conforms_on_mariadb: on_mariadb(order::refund()).await;
    order_settle_refund_conforms_on_mariadb: on_mariadb(order::settle_refund()).await;
}

#[tokio::test]
async fn orders_that_are_not_paid_in_time_are_found_on_mariadb_by_one() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let pool = <MySql as tercet::fence::Dialect>::open(&url).await.expect("the database is there");
    let watch = crate::plans::Watch::new([pool.clone()]);
    order::one_has_the_job(pool.clone()).await;
    order::what_is_not_paid_in_time_is_found(pool.clone()).await;
    order::a_shop_has_its_own_orders(pool).await;
    watch.check().await;
}

#[tokio::test]
async fn what_can_not_be_closed_is_looked_at_later_and_later_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let pool = <MySql as tercet::fence::Dialect>::open(&url).await.expect("the database is there");
    order::what_can_not_be_closed_is_looked_at_later_and_later(pool).await;
}

#[tokio::test]
async fn an_order_is_paid_or_closed_and_never_both_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let pool = <MySql as tercet::fence::Dialect>::open(&url).await.expect("the database is there");
    order::an_order_is_paid_or_closed(pool).await;
}

const BOOK: Action<Tcc, Json<i64>> = Action::tcc("rooms", "book");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Writes the guest on a connection of its own, which SQLite would not let it.
    OwnConnection,
    /// Goes on where the guest could not be written.
    SwallowsErrors,
}

/// Books rooms for a guest.
struct Rooms {
    fault: Fault,
    pool: Pool<Postgres>,
}

impl Participant for Rooms {
    type Db = Postgres;
    type Request = Json<i64>;

    async fn try_(&self, db_tx: &mut PgConnection, Json(guest): Json<i64>) -> sqlx::Result<Answer> {
        let sql = "UPDATE room SET free = free - 1 WHERE free > 0";
        if sqlx::query(sql).execute(&mut *db_tx).await?.rows_affected() == 0 {
            return Ok(Answer::refused("no room is free"));
        }
        let insert = sqlx::query("INSERT INTO guest (guest) VALUES ($1) ON CONFLICT (guest) DO NOTHING").bind(guest);
        match self.fault {
            Fault::None => insert.execute(db_tx).await.map(|_| Answer::done()),
            Fault::OwnConnection => insert.execute(&self.pool).await.map(|_| Answer::done()),
            Fault::SwallowsErrors => {
                drop(insert.execute(db_tx).await);
                Ok(Answer::done())
            }
        }
    }

    async fn confirm(&self, db_tx: &mut PgConnection, Json(guest): Json<i64>) -> sqlx::Result<Answer> {
        sqlx::query("UPDATE guest SET stays = true WHERE guest = $1").bind(guest).execute(db_tx).await?;
        Ok(Answer::done())
    }

    async fn cancel(&self, db_tx: &mut PgConnection, Json(guest): Json<i64>) -> sqlx::Result<Answer> {
        sqlx::query("UPDATE room SET free = free + 1").execute(&mut *db_tx).await?;
        sqlx::query("DELETE FROM guest WHERE guest = $1").bind(guest).execute(db_tx).await?;
        Ok(Answer::done())
    }
}

async fn rows(pool: Pool<Postgres>) -> sqlx::Result<()> {
    let sql = "CREATE TABLE room (free INT NOT NULL); INSERT INTO room VALUES (2);
        CREATE TABLE guest (guest BIGINT PRIMARY KEY, stays BOOLEAN NOT NULL DEFAULT false, note BYTEA)";
    sqlx::raw_sql(sql).execute(&pool).await.map(|_| ())
}

async fn rooms(fault: Fault) -> Option<Suite<Postgres, Tcc, Json<i64>>> {
    let url = servers::postgres().await.expect("the server answers")?;
    let make = move |pool: Pool<Postgres>| {
        let service = Service::new("rooms", [pool.clone()]).tables(["room", "guest"]);
        std::future::ready(service.tcc(BOOK, Rooms { fault, pool }))
    };
    Some(Suite::new(BOOK, make).seed(rows).granting([Json(1), Json(2)]).refusing([Json(3)]).database(url))
}

conformance! {
    a_sound_participant_conforms_on_postgres: rooms(Fault::None).await;
    // PostgreSQL lets no transaction commit in which a statement failed, and the SDK sees it.
    a_swallowed_error_is_no_answer_on_postgres: rooms(Fault::SwallowsErrors).await;
}

#[tokio::test]
async fn a_write_on_another_connection_is_found_on_postgres() {
    let Some(suite) = rooms(Fault::OwnConnection).await else { return };
    let faults = suite.check().await.expect_err("it is faulty").to_string();
    assert!(faults.contains("all or nothing is done, and this is neither"), "{faults}");
}
