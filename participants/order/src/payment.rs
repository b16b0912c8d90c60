//! Paying an order: once, for all that it costs, and never after it was taken back.

use tercet::participant::DbTx;
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_proto::events::v1::OrderPaid;
use tercet_proto::order::v1 as pb;

use crate::store::{Key, Move, Standing, Status, Store};

/// What is said to be paid.
#[derive(Clone, Copy, Debug)]
pub struct Payment<'a> {
    /// The order.
    pub key: Key,
    /// Whose it has to be.
    pub user_id: i64,
    /// All that it costs.
    pub paid_cents: i64,
    /// Its number at whoever took the money; none of an order of one thing.
    pub payment_id: &'a str,
    /// Which person of the shop says so; nobody of an order of one thing.
    pub operator: &'a str,
}

impl From<&pb::Paid> for Payment<'_> {
    fn from(&pb::Paid { order_id, user_id, paid_cents, shop_id }: &pb::Paid) -> Self {
        Self { key: Key { shop_id, order_id }, user_id, paid_cents, payment_id: "", operator: "" }
    }
}

/// An order that is paid.
#[derive(Clone, Debug)]
pub struct Paid {
    /// As it stands now.
    pub order: Standing,
    /// It was not before.
    pub is_new: bool,
}

/// Why an order can not be marked paid.
#[derive(Debug, thiserror::Error)]
pub enum PayError {
    /// There is none, or it is another user's: tell the payer.
    #[error("user {user_id} has no {key}")]
    Unknown {
        /// The order.
        key: Key,
        /// The user.
        user_id: i64,
    },
    /// Its placing is under way: ask again.
    #[error("{0} is not placed yet")]
    Frozen(Key),
    /// It is being taken back, which may come to nothing yet: ask again.
    #[error("{0} is being refunded")]
    Refunding(Key),
    /// It came to nothing, or was taken back before it was paid: give the money back.
    #[error("{0} is closed")]
    Closed(Key),
    /// It was taken back after it was paid: give the money back.
    #[error("{0} is refunded")]
    Refunded(Key),
    /// It was paid by another payment: give the money of this one back.
    #[error("{0} was paid by another payment")]
    Otherwise(Key),
    /// The sum is not what it costs: tell the payer.
    #[error("{key} costs {due_cents}")]
    Differs {
        /// The order.
        key: Key,
        /// What it costs.
        due_cents: i64,
    },
    /// The database's word: roll back and try again.
    #[error("the order's database")]
    Database(#[from] sqlx::Error),
}

/// Marks a placed order as paid, in a local transaction of the caller's, and tells of it; one that is paid already is
/// left as it is. The caller commits it, with the sender's fence row where it is about [`PAID`](crate::PAID), and rolls
/// it back on an error.
///
/// # Errors
/// Those of [`PayError`].
pub async fn pay<Db: Store>(
    db_tx: &mut DbTx<Db>,
    outbox: &Outbox,
    payment: impl Into<Payment<'_>>,
) -> Result<Paid, PayError> {
    let Payment { key, user_id, paid_cents, payment_id, operator } = payment.into();
    let found = Db::standings(db_tx, &[key]).await?;
    let Some(order) = found.into_iter().next().filter(|order| order.user_id == user_id) else {
        return Err(PayError::Unknown { key, user_id });
    };
    match order.status {
        Status::Frozen => return Err(PayError::Frozen(key)),
        Status::Refunded if order.is_refunding() => return Err(PayError::Refunding(key)),
        Status::Closed | Status::Refunded if order.is_closed() => return Err(PayError::Closed(key)),
        Status::Closed | Status::Refunded => return Err(PayError::Refunded(key)),
        // Where nothing was due there was no payment, and none is another one.
        Status::Paid if order.due_cents > 0 && order.payment_id.as_deref().unwrap_or_default() != payment_id => {
            return Err(PayError::Otherwise(key));
        }
        Status::Placed | Status::Paid if order.due_cents != paid_cents => {
            return Err(PayError::Differs { key, due_cents: order.due_cents });
        }
        Status::Paid => return Ok(Paid { order, is_new: false }),
        Status::Placed => {}
    }
    Db::advance(db_tx, &[Move { key, from: Status::Placed, to: Status::Paid }]).await?;
    if !payment_id.is_empty() {
        Db::note_payment(db_tx, key, payment_id).await?;
    }
    let told = || {
        let Key { shop_id, order_id } = key;
        let (operator, payment_id) = (operator.to_owned(), payment_id.to_owned());
        let paid = OrderPaid { order_id, paid_cents, shop_id, operator, payment_id };
        Event::new(user_id, Payload::OrderPaid(paid))
    };
    outbox.append::<Db>(db_tx, std::iter::once_with(told)).await?;
    Ok(Paid { order: Standing { status: Status::Paid, ..order }, is_new: true })
}
