//! Orders, what coupons take off them, and what became of using them.

use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Fault, Language};

use crate::schema::{Id, choices, params, records};
use crate::wire::common::given;
use crate::wire::coupon::Why;

choices! {
    /// Where a redemption stands: refunding is what is being taken back, and may yet be done again.
    RedemptionState: pb::RedemptionState {
        Kept = "kept",
        Submitted = "submitted",
        Done = "done",
        Refused = "refused",
        Refunding = "refunding",
        Refunded = "refunded",
    }

    /// Where a refund stands.
    RefundState: pb::RefundState {
        Submitted = "submitted",
        Done = "done",
    }
}

params! {
    /// An order.
    OrderId {
        /// Whose order it is, who numbers them.
        shop_id: Id,
        /// The order.
        order_id: Id,
    }

    /// An order of a user.
    UserOrderId {
        /// The user.
        user_id: Id,
        /// The order.
        order_id: Id,
    }

    /// An order of a user, at any shop.
    ShopUserOrderId {
        /// Whose order it is, who numbers them.
        shop_id: Id,
        /// The user.
        user_id: Id,
        /// The order.
        order_id: Id,
    }

    /// A redemption.
    RedemptionKey {
        /// The user.
        user_id: Id,
        /// The idempotency key that it was asked for with.
        key: String,
    }
}

records! {
    /// So many units of a product.
    OrderLine {
        /// What is bought.
        product_id: Id,
        /// Its category.
        category_id: Id,
        /// Who sells it.
        shop_id: Id,
        /// Of one unit.
        price_cents: i64,
        /// 1 to 1,000,000.
        quantity: u32,
    }

    /// An order that coupons are tried on.
    Trial {
        /// 1 to 500.
        lines: Vec<OrderLine>,
        /// At most 20; when left out all that could be used, the 200 that end first where there are more.
        coupon_ids: Option<Vec<Id>>,
    }

    /// An order of a shop that coupons of a user are tried on.
    ShopTrial {
        /// Its number; needed where the user's consent names an order, which has to be this one.
        order_id: Option<Id>,
        /// 1 to 500.
        lines: Vec<OrderLine>,
        /// At most 20; when left out all that could be used, the 200 that end first where there are more.
        coupon_ids: Option<Vec<Id>>,
    }

    /// What coupons take off an order.
    Verdict {
        /// Each by itself.
        coupons: Vec<CouponVerdict>,
        /// The best of them together, at most 20; left out where none applies.
        best: Option<Combination>,
        /// There are more that could be used, which were not looked at.
        more: bool,
    }

    /// What a coupon takes off an order.
    CouponVerdict {
        /// The coupon.
        coupon_id: Id,
        /// What it takes off when it is the only one.
        discount_cents: i64,
        /// Why it does not apply.
        refusal: Option<Why>,
        /// Why the best combination does without it, though it applies.
        left_out: Option<Why>,
    }

    /// Coupons that are used together.
    Combination {
        /// What each takes off beside the others.
        deductions: Vec<Deduction>,
        /// What the order costs before.
        amount_cents: i64,
        /// What they take off in all.
        discount_cents: i64,
    }

    /// What a coupon takes off beside others.
    Deduction {
        /// The coupon.
        coupon_id: Id,
        /// What it takes off.
        discount_cents: i64,
    }

    /// An order of a user, and his coupons for it.
    Redeem {
        /// The order.
        order_id: Id,
        /// 1 to 500.
        lines: Vec<OrderLine>,
        /// At most 20, none twice; an order without coupons when left out.
        coupon_ids: Option<Vec<Id>>,
        /// What the user was shown: refused when they take off another amount.
        discount_cents: Option<i64>,
        /// Seconds that the order waits to be paid before it is closed, at most 1,209,600; without end when left out.
        pay_within_s: Option<u32>,
    }

    /// What became of using coupons for an order.
    Redemption {
        /// The key that it was asked for with.
        key: String,
        /// Whose coupons.
        user_id: Id,
        /// The order.
        order_id: Id,
        /// Where it stands.
        state: Option<RedemptionState>,
        /// Why it is refused.
        refusal: Option<Why>,
        /// What the coupons take off.
        combination: Option<Combination>,
        /// When it was asked for.
        created_ms: i64,
        /// When it changed last.
        updated_ms: i64,
    }

    /// Why an order is taken back.
    RefundReason {
        /// 1 to 512 bytes.
        reason: String,
    }

    /// What became of taking an order back.
    Refund {
        /// Where it stands.
        state: Option<RefundState>,
        /// Coupons that can be used again.
        returned_coupon_ids: Vec<Id>,
    }
}

impl OrderLine {
    const fn wire(&self) -> pb::OrderLine {
        pb::OrderLine {
            product_id: self.product_id.0,
            category_id: self.category_id.0,
            shop_id: self.shop_id.0,
            price_cents: self.price_cents,
            quantity: self.quantity,
        }
    }
}

/// For a service.
pub(crate) fn wire_lines(lines: &[OrderLine]) -> Vec<pb::OrderLine> {
    lines.iter().map(OrderLine::wire).collect()
}

/// For a service.
pub(crate) fn numbers(ids: &[Id]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

impl Verdict {
    /// What a service says.
    pub(crate) fn of(wire: pb::ValidateResponse, language: Language) -> Self {
        let why = |refusal: Option<pb::Refusal>| refusal.map(|refusal| Why::of(refusal, language));
        let verdict = |own: pb::Validation| CouponVerdict {
            coupon_id: Id(own.coupon_id),
            discount_cents: own.discount_cents,
            refusal: why(own.refusal),
            left_out: why(own.left_out),
        };
        let best = wire.best.filter(|best| !best.deductions.is_empty()).map(Into::into);
        Self { coupons: wire.coupons.into_iter().map(verdict).collect(), best, more: wire.more }
    }
}

impl From<pb::Combination> for Combination {
    fn from(wire: pb::Combination) -> Self {
        let deduction =
            |own: pb::Deduction| Deduction { coupon_id: Id(own.coupon_id), discount_cents: own.discount_cents };
        Self {
            deductions: wire.deductions.into_iter().map(deduction).collect(),
            amount_cents: wire.amount_cents,
            discount_cents: wire.discount_cents,
        }
    }
}

impl Redemption {
    /// What a service says.
    ///
    /// # Errors
    /// When it says nothing.
    pub(crate) fn of(wire: Option<pb::RedemptionView>, language: Language) -> Result<Self, Fault> {
        let wire = given(wire)?;
        Ok(Self {
            key: wire.idempotency_key,
            user_id: Id(wire.user_id),
            order_id: Id(wire.order_id),
            state: RedemptionState::of(wire.state),
            refusal: wire.refusal.map(|refusal| Why::of(refusal, language)),
            combination: wire.combination.map(Into::into),
            created_ms: wire.created_ms,
            updated_ms: wire.updated_ms,
        })
    }
}

impl From<pb::RefundResponse> for Refund {
    fn from(wire: pb::RefundResponse) -> Self {
        let returned_coupon_ids = wire.returned_coupon_ids.iter().copied().map(Id).collect();
        Self { state: RefundState::of(wire.state), returned_coupon_ids }
    }
}
