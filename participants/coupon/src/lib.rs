//! The coupon service: who may have a coupon, and what becomes of it.
//!
//! A coupon goes from pending (its claim is under way) to issued, from there to locked by an order, and to used by it;
//! or to expired, when its time ends first. Its terms come with its claim: the service that issues it reads them from
//! the template, and here the limits are held, beside the rows that they count. Money is in cents.
//!
//! Rows are in [`Shards`]: all of a user's are in one table of one database, and so is the fence of what happens to
//! them.
//!
//! It declares no invariant: it keeps no levels. How many coupons of a template are reserved, issued and free stands in
//! the stock service, as an item of that template, and is watched there. A coupon here is one row whose every step asks
//! for the status before it, so a book of it would repeat the row, once for each coupon ever claimed.

use std::marker::PhantomData;
use std::sync::Arc;

use sqlx::Pool;
use tercet::action::{Action, Message, Saga, Tcc};
use tercet::fence::Dialect;
use tercet::service::Service;
use tercet_events::bus::Bus;
use tercet_events::relayed;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::Paid as PaidNotice;
use tercet_shards::Slot;

mod claim;
mod honour;
pub mod issuing;
mod metrics;
#[cfg(feature = "mysql")]
pub mod mover;
mod open;
mod order;
mod owed;
mod paid;
mod redeem;
pub mod redemption;
mod schema;
pub mod shards;
pub mod slots;
mod stock;
pub mod store;
mod told;

pub use claim::Claim;
pub use honour::{HonourIt, TakeItBack};
pub use open::{Close, Open};
pub use owed::Owed;
pub use paid::Paid;
pub use redeem::{GiveBack, Redeem};
pub use shards::Shards;

use store::batches::Batches;
use store::redemptions::Redemptions;
use store::{Status, Store, Totals};

/// The service's name.
pub const SERVICE: &str = "coupon";
/// A coupon for a user, within the limits that come with it.
pub const CLAIM: Action<Tcc, pb::Claim> = Action::tcc(SERVICE, "claim");
/// Writes a batch of coupons down.
pub const OPEN: Action<Tcc, pb::OpenBatch> = Action::tcc(SERVICE, "issue");
/// Ends a batch of which not all is issued.
pub const CLOSE: Action<Saga, pb::CloseBatch> = Action::saga(SERVICE, "close_batch");
/// Uses a coupon for an order.
pub const REDEEM: Action<Tcc, pb::Redeem> = Action::tcc(SERVICE, "redeem");
/// Gives a used coupon back to its user, as the last step of a refund.
pub const GIVE_BACK: Action<Saga, pb::GiveBack> = Action::saga(SERVICE, "give_back");
/// Carries out a redemption that is kept.
pub const HONOUR: Action<Tcc, pb::Honour> = Action::tcc(SERVICE, "honour");
/// Stands for a redemption that was promised and came to nothing, until it is made good.
pub const OWED: Action<Tcc, pb::Owed> = Action::tcc(SERVICE, "owed");
/// Begins to take a redemption back, in a refund; that it is taken back is noted once that is decided.
pub const TAKE_BACK: Action<Saga, pb::TakeBack> = Action::saga(SERVICE, "take_back");
/// Is told that an order was paid.
pub const PAID: Action<Message, PaidNotice> = Action::message(SERVICE, "paid");

/// The service over these databases, whose tables are made where they are missing. With a bus it tells what happens to
/// coupons by claim, order and refund, and publishes what others wrote to the outboxes here.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Batches + Redemptions + Dialect>(
    shards: Shards<Db>,
    bus: Option<&Bus>,
) -> Result<Service<Db>, shards::Error> {
    shards.migrate().await?;
    let slots = shards.slots();
    let outbox = shards.outbox(bus).await?;
    let service = Service::new(SERVICE, shards.pools().to_vec())
        .tables(shards.tables())
        .moves(Arc::new(shards.clone()))
        .tcc_slice(CLAIM, Claim::new(slots).telling(outbox.clone()))
        .tcc(OPEN, Open::telling(outbox.clone()))
        .saga(CLOSE, Close(PhantomData))
        .tcc_slice(REDEEM, Redeem::new(slots).telling(outbox.clone()))
        .tcc_slice(HONOUR, HonourIt::new(slots))
        .tcc_slice(OWED, Owed::new(slots))
        .saga_slice(TAKE_BACK, TakeItBack::new(slots))
        .saga_slice(GIVE_BACK, GiveBack::new(slots).telling(outbox.clone()))
        .receiver_slice(PAID, Paid::new(slots));
    Ok(match bus {
        Some(bus) => relayed(service, SERVICE, shards.pools(), &outbox, bus),
        None => service,
    })
}

/// Issues coupons to their users, past all limits.
///
/// # Errors
/// The database's.
pub async fn seed_coupons<Db: Store>(shards: &Shards<Db>, coupons: &[pb::Claim]) -> sqlx::Result<()> {
    let view = shards.slots().view();
    for (at, pool) in shards.pools().iter().enumerate() {
        let here = |claim: &&pb::Claim| view.database(Slot::of_id(claim.coupon_id)) == at;
        let claims: Vec<pb::Claim> = coupons.iter().filter(here).copied().collect();
        let mut db_tx = pool.begin().await?;
        store::insert::<Db>(&mut db_tx, shards.map(), &claims, Status::Issued).await?;
        db_tx.commit().await?;
    }
    Ok(())
}

/// The coupons by status. `miscounted` and `over_limit` are 0 at any time, but for coupons that were seeded.
///
/// # Errors
/// The database's.
pub async fn audit<Db: Store>(shards: &Shards<Db>) -> sqlx::Result<Totals> {
    let mut sum = Totals::default();
    for pool in shards.pools() {
        sum.add(store::totals::<Db>(&mut *connection(pool).await?, shards.map()).await?);
    }
    Ok(sum)
}

/// Every used coupon with its order, by database, table and coupon.
///
/// # Errors
/// The database's.
pub async fn used<Db: Store>(shards: &Shards<Db>) -> sqlx::Result<Vec<(i64, i64)>> {
    let mut all = Vec::new();
    for pool in shards.pools() {
        all.extend(store::used::<Db>(&mut *connection(pool).await?, shards.map()).await?);
    }
    Ok(all)
}

async fn connection<Db: Store>(pool: &Pool<Db>) -> sqlx::Result<sqlx::pool::PoolConnection<Db>> {
    pool.acquire().await
}

/// The claim of the user's coupon of this number, by the limits of a template of which a user may have so many, valid
/// for ever: for rows that are made by hand, such as those of a load. See [`Slot::id`].
pub const fn claim_by_hand(number: i64, user_id: i64, template_id: i64, per_user: u32) -> pb::Claim {
    pb::Claim {
        coupon_id: Slot::of_user(user_id).id(number),
        template_id,
        user_id,
        version: 1,
        claimed_ms: 0,
        valid_from_ms: 0,
        valid_until_ms: tercet_rules::limits::TIME_MS_MAX,
        per_user,
        per_user_day: per_user,
        day: 0,
        key: 0,
    }
}

/// The first of these fields that is below its least value, in words.
fn fault<const N: usize>(fields: [(&str, i64, i64); N]) -> Option<String> {
    let (name, value, least) = fields.into_iter().find(|(_, value, least)| value < least)?;
    Some(format!("{name} is {value}: it is at least {least}"))
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
