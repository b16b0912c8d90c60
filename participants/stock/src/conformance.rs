//! Each action for the conformance suite: on SQLite in this crate's tests, on MariaDB in `integration`.

use std::collections::BTreeMap;

use sqlx::Pool;
use tercet::action::{Action, Request, Saga, Tcc};
use tercet_proto::stock::v1 as pb;
use tercet_testing::{Database, Mode, Suite};

use super::store::{Change, Store};
use super::{RESERVE, RESTOCK, SUPPLY, audit, seed, service};

/// Item 1 with 10 units, of which 6 are issued.
async fn rows<Db: Store + Database>(pool: Pool<Db>) -> sqlx::Result<()> {
    seed(&pool, &[(1, 10)]).await?;
    let mut db_tx = pool.begin().await?;
    Db::change(&mut db_tx, &BTreeMap::from([(1, Change { free: -6, issued: 6, ..Change::default() })])).await?;
    db_tx.commit().await
}

async fn conserved<Db: Store>(pool: Pool<Db>) -> Result<(), String> {
    let totals = audit(&pool).await.map_err(|error| error.to_string())?;
    if totals.broken == 0 && totals.total == 10 { Ok(()) } else { Err(format!("{totals:?}")) }
}

fn suite<Db: Store + Database, M: Mode, R: Request>(action: Action<M, R>) -> Suite<Db, M, R> {
    Suite::new(action, |pool| service::<Db>(pool, None)).seed(rows::<Db>).invariant(conserved::<Db>)
}

pub(crate) fn reserve<Db: Store + Database>() -> Suite<Db, Tcc, pb::Reserve> {
    let reserve = |item, count| pb::Reserve { item, count };
    suite(RESERVE).granting([reserve(1, 2), reserve(1, 1)]).refusing([reserve(1, 2), reserve(9, 1), reserve(1, 0)])
}

/// A supply stays when it is cancelled: the next one sets the next level.
pub(crate) fn supply<Db: Store + Database>() -> Suite<Db, Saga, pb::Supply> {
    let sound = async |pool: Pool<Db>| {
        let totals = audit(&pool).await.map_err(|error| error.to_string())?;
        if totals.broken == 0 { Ok(()) } else { Err(format!("{totals:?}")) }
    };
    let supply = |item, units, sequence| pb::Supply { item, units, sequence };
    Suite::new(SUPPLY, |pool| service::<Db>(pool, None))
        .seed(rows::<Db>)
        .invariant(sound)
        .granting([supply(1, 12, 1), supply(1, 5, 2), supply(2, 7, 1)])
        .refusing([supply(0, 5, 1), supply(1, -1, 3), supply(1, 5, 0)])
        .cancel_leaves_traces_in(&["stock"])
}

pub(crate) fn restock<Db: Store + Database>() -> Suite<Db, Saga, pb::Restock> {
    let restock = |item, count| pb::Restock { item, count };
    suite(RESTOCK).granting([restock(1, 4), restock(1, 1)]).refusing([restock(1, 2), restock(9, 1)])
}
