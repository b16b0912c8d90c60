//! Where an order stands.

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its placing is under way.
    Frozen = 0,
    /// It is placed and waits for its money.
    Placed = 1,
    /// It came to nothing.
    Closed = 2,
    /// It is paid.
    Paid = 3,
    /// It was refunded.
    Refunded = 4,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Frozen, Self::Placed, Self::Closed, Self::Paid, Self::Refunded];

    /// As in "order 5 is …".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frozen => "not placed yet",
            Self::Placed => "placed",
            Self::Closed => "closed",
            Self::Paid => "paid",
            Self::Refunded => "refunded",
        }
    }

    pub(crate) fn from_number(number: i64) -> sqlx::Result<Self> {
        Ok(match number {
            0 => Self::Frozen,
            1 => Self::Placed,
            2 => Self::Closed,
            3 => Self::Paid,
            4 => Self::Refunded,
            _ => return Err(sqlx::Error::Decode(format!("an order has the status {number}").into())),
        })
    }
}
