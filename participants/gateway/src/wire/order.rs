//! Orders as they stand after their checkout.

use tercet_proto::order::v1 as pb;

use crate::schema::{Entries, Id, choices, params, records};
use crate::wire::common::next;

choices! {
    /// Where an order stands: closed is what came to nothing, or was taken back before it was paid, and refunding what
    /// may yet be what it was before.
    OrderStatus: pb::OrderStatus {
        Frozen = "frozen",
        Placed = "placed",
        Paid = "paid",
        Closed = "closed",
        Refunding = "refunding",
        Refunded = "refunded",
    }
}

params! {
    /// Which orders of the shop.
    ShopOrders {
        /// Only those that stand there.
        status: Option<OrderStatus>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        after: Option<String>,
    }

    /// Which orders of a shop.
    OrdersOfShop {
        /// Whose orders they are.
        shop_id: Id,
        /// Only those that stand there.
        status: Option<OrderStatus>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        after: Option<String>,
    }
}

records! {
    /// That an order is paid.
    Payment {
        /// What was paid: all that the order costs.
        paid_cents: i64,
        /// Which payment: its number at whoever took the money, 1 to 64 bytes. Another one of a paid order is refused.
        payment_id: String,
    }

    /// An order.
    Order {
        /// Whose order it is, who numbers them.
        shop_id: Id,
        /// The order.
        order_id: Id,
        /// The user.
        user_id: Id,
        /// Where it stands.
        status: Option<OrderStatus>,
        /// What it costs after its coupons.
        due_cents: i64,
        /// When it is closed if it is not paid by then; left out where that is never.
        pay_by_ms: Option<i64>,
    }

    /// Orders.
    Orders {
        /// The highest number first.
        items: Vec<Order>,
        /// Where the next page begins; left out on the last one.
        next: Option<String>,
    }
}

impl From<pb::ListOrdersResponse> for Orders {
    fn from(wire: pb::ListOrdersResponse) -> Self {
        Self { items: wire.orders.into_iter().map(Order::from).collect(), next: next(wire.next) }
    }
}

impl From<pb::OrderView> for Order {
    fn from(wire: pb::OrderView) -> Self {
        let pb::OrderView { shop_id, order_id, user_id, status, due_cents, pay_by_ms } = wire;
        let (shop_id, order_id, user_id) = (Id(shop_id), Id(order_id), Id(user_id));
        let (status, pay_by_ms) = (OrderStatus::of(status), (pay_by_ms != 0).then_some(pay_by_ms));
        Self { shop_id, order_id, user_id, status, due_cents, pay_by_ms }
    }
}
