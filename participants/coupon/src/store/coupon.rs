//! A coupon's row, and its steps.

use super::{Status, broken};

/// The order that holds or used a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose it is, who numbers them; 0: one of one thing.
    pub shop_id: i64,
    /// Its number there.
    pub order_id: i64,
    /// What it was promised.
    pub discount_cents: i64,
}

/// A coupon's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coupon {
    /// Its id.
    pub coupon_id: i64,
    /// Its user.
    pub user_id: i64,
    /// Its template.
    pub template_id: i64,
    /// The version of the rules that it was claimed under.
    pub version: u32,
    /// Where it stands.
    pub status: Status,
    /// Of a locked or used one only.
    pub order: Option<Order>,
    /// When it was claimed.
    pub claimed_ms: i64,
    /// When it is valid from.
    pub valid_from_ms: i64,
    /// When it is not valid any more.
    pub valid_until_ms: i64,
    /// When it was used.
    pub used_ms: Option<i64>,
    /// Its place in the order of what happens to the coupon: each move adds two, since one may be told as two events.
    pub step: i64,
}

/// One coupon's step from a status to the next. One that would be issued and whose time has ended is expired instead.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The coupon.
    pub coupon_id: i64,
    /// Where it has to stand.
    pub from: Status,
    /// Where it will stand.
    pub to: Status,
    /// The order that holds or used it from then on: of a locked or used one only.
    pub order: Option<Order>,
}

impl Coupon {
    pub(super) fn from_row(row: &[Option<i64>]) -> sqlx::Result<Self> {
        let &[
            Some(coupon_id),
            Some(user_id),
            Some(template_id),
            Some(version),
            Some(status),
            shop_id,
            order_id,
            discount_cents,
            Some(claimed_ms),
            Some(valid_from_ms),
            Some(valid_until_ms),
            used_ms,
            Some(step),
            ..,
        ] = row
        else {
            return Err(broken("a coupon's row"));
        };
        let version = u32::try_from(version).map_err(|_| broken("a coupon's version"))?;
        let status = Status::from_number(status)?;
        let order = match (shop_id, order_id, discount_cents) {
            (Some(shop_id), Some(order_id), Some(discount_cents)) => Some(Order { shop_id, order_id, discount_cents }),
            (None, None, None) => None,
            (_, _, _) => return Err(broken("a coupon's order")),
        };
        Ok(Self {
            coupon_id,
            user_id,
            template_id,
            version,
            status,
            order,
            claimed_ms,
            valid_from_ms,
            valid_until_ms,
            used_ms,
            step,
        })
    }
}
