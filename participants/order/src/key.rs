//! What an order is known by.

use std::fmt;

/// Which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(into = "(i64, i64)")]
pub struct Key {
    /// Whose it is; 0 where it is one of one thing.
    pub shop_id: i64,
    /// Its number there.
    pub order_id: i64,
}

impl Key {
    /// Of an order of one thing.
    pub const fn single(order_id: i64) -> Self {
        Self { shop_id: 0, order_id }
    }
}

impl From<Key> for (i64, i64) {
    fn from(Key { shop_id, order_id }: Key) -> Self {
        (shop_id, order_id)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { shop_id: 0, order_id } => write!(f, "order {order_id}"),
            Self { shop_id, order_id } => write!(f, "order {order_id} of shop {shop_id}"),
        }
    }
}
