//! What has to hold of one coupon and of one order: pure.

use tercet_order::store::Key;

/// Where a coupon stands, as its table says it.
pub(super) const PENDING: i64 = 0;
pub(super) const LOCKED: i64 = 2;
pub(super) const USED: i64 = 3;
pub(super) const EXPIRED: i64 = 4;
pub(super) const VOIDED: i64 = 5;

/// In place of an order that is not named.
pub(super) const NO_ORDER: Key = Key::single(0);

/// Where an order stands.
const FROZEN: i64 = 0;
const PLACED: i64 = 1;
const PAID: i64 = 3;
const REFUNDED: i64 = 4;

/// A coupon's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coupon {
    pub(super) coupon_id: i64,
    pub(super) user_id: i64,
    pub(super) status: i64,
    pub(super) order: Option<Key>,
    pub(super) discount_cents: Option<i64>,
    pub(super) claimed_ms: i64,
}

/// An order with one of its coupons.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) user_id: i64,
    pub(super) coupon_id: i64,
    pub(super) amount_cents: i64,
    /// By this coupon.
    pub(super) discount_cents: i64,
    /// By all of its coupons.
    pub(super) off_cents: i64,
    pub(super) status: i64,
    pub(super) coupon_use: i64,
    /// What it was before it was taken back.
    pub(super) refunded_from: i64,
}

/// What the log says that happened to a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Issued,
    Used { order: Key, discount_cents: i64 },
    GivenBack,
    Expired,
    Voided,
}

/// What is wrong with a coupon, its order and its log, if anything is. Entries from before `log_begin_ms` may be gone.
pub(super) fn coupon(
    coupon: &Coupon,
    order: Option<&Order>,
    log: &[Step],
    log_begin_ms: Option<i64>,
) -> Option<String> {
    let Coupon { coupon_id, status, order: own, discount_cents, .. } = *coupon;
    if status == LOCKED {
        // By what places it, as long as that is under way.
        let key = own.unwrap_or(NO_ORDER);
        match order {
            None => return Some(format!("coupon {coupon_id} is locked for {key}, which does not exist")),
            Some(order) if ![FROZEN, PLACED, PAID].contains(&order.status) || order.user_id != coupon.user_id => {
                return Some(format!("coupon {coupon_id} is locked for {key}, which does not stand with it"));
            }
            Some(_) => {}
        }
    }
    if status == USED {
        let (key, discount_cents) = (own.unwrap_or(NO_ORDER), discount_cents.unwrap_or(0));
        let Some(order) = order else {
            return Some(format!("coupon {coupon_id} is used by {key}, which does not exist"));
        };
        if ![PLACED, PAID].contains(&order.status) || order.coupon_id != coupon_id || order.user_id != coupon.user_id {
            return Some(format!("coupon {coupon_id} is used by {key}, which does not stand with it"));
        }
        if order.discount_cents != discount_cents {
            let took = order.discount_cents;
            return Some(format!("coupon {coupon_id} gave {discount_cents} cents and {key} took {took}"));
        }
    }
    let purged = log_begin_ms.is_none_or(|begin_ms| coupon.claimed_ms < begin_ms);
    if let Some(at) = broken(log, purged) {
        return Some(format!("the log of coupon {coupon_id} says {:?} after {:?}", log[at], &log[..at]));
    }
    let said = match (status, log.last()) {
        (PENDING, None) => true,
        (PENDING, Some(_)) => false,
        // As old as the log, or older.
        (_, None) => purged,
        (USED, Some(last)) => {
            let used = own.zip(discount_cents);
            used.is_some_and(|(order, discount_cents)| *last == Step::Used { order, discount_cents })
        }
        (EXPIRED, Some(last)) => *last == Step::Expired,
        (VOIDED, Some(last)) => *last == Step::Voided,
        (_, Some(last)) => matches!(last, Step::Issued | Step::GivenBack),
    };
    (!said).then(|| format!("coupon {coupon_id} has status {status} and its log ends with {:?}", log.last()))
}

/// The first entry that can not follow the one before it.
fn broken(log: &[Step], purged: bool) -> Option<usize> {
    let follows = |at: usize| match (at.checked_sub(1).map(|before| log[before]), log[at]) {
        (None, Step::Issued)
        | (Some(Step::Issued | Step::GivenBack), Step::Used { .. } | Step::Expired | Step::Voided)
        // By an order whose refund came to nothing.
        | (Some(Step::Expired | Step::Voided), Step::Used { .. })
        | (Some(Step::Used { .. }), Step::GivenBack) => true,
        (None, Step::Used { .. } | Step::GivenBack | Step::Expired | Step::Voided) => purged,
        (Some(_), _) => false,
    };
    (0..log.len()).find(|at| !follows(*at))
}

/// What is wrong with a redemption of a user's that is done, whose order has this user and status.
pub(super) fn redemption((redemption_id, user_id): (i64, i64), key: Key, order: Option<(i64, i64)>) -> Option<String> {
    match order {
        None => Some(format!("redemption {redemption_id} is done, and {key} does not exist")),
        Some((owner, status)) if owner != user_id || ![PLACED, PAID].contains(&status) => {
            Some(format!("redemption {redemption_id} of user {user_id} is done, and {key} does not stand with it"))
        }
        Some(_) => None,
    }
}

/// What is wrong with the money of an order, given with each of its coupons.
pub(super) fn money(coupons: &[Order]) -> Option<String> {
    let first = coupons.first()?;
    let off: i64 = coupons.iter().map(|order| order.discount_cents).sum();
    let Order { key, off_cents, .. } = *first;
    (off != off_cents).then(|| format!("{key} took {off_cents} cents off, and its coupons gave {off}"))
}

/// What the log says of an order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// Its coupon was used.
    pub(super) used: bool,
    /// It was given back.
    pub(super) given_back: bool,
    /// So many cents were returned.
    pub(super) refunded: Option<i64>,
}

/// What is wrong with an order, its coupon and its log, if anything is.
pub(super) fn order(order: &Order, coupon: Option<&Coupon>, told: Told) -> Option<String> {
    let Order { key, coupon_id, amount_cents, off_cents, status, coupon_use, refunded_from, .. } = *order;
    // Nobody had paid the others.
    let due = if refunded_from == PAID { amount_cents - off_cents } else { 0 };
    let Some(coupon) = coupon else {
        let stands = [PLACED, PAID, REFUNDED].contains(&status);
        return stands.then(|| format!("{key} has coupon {coupon_id}, which does not exist"));
    };
    let used = coupon.status == USED && coupon.order == Some(key);
    match status {
        PLACED | PAID if !used => Some(format!("{key} stands, and coupon {coupon_id} is not used by it")),
        PLACED | PAID if told.used && coupon_use != 1 => {
            Some(format!("{key} was not told that coupon {coupon_id} is used"))
        }
        PLACED | PAID => None,
        _ if used => Some(format!("coupon {coupon_id} is used by {key}, which does not stand")),
        REFUNDED if told.given_back && coupon_use != 2 => {
            Some(format!("{key} was not told that coupon {coupon_id} was given back"))
        }
        REFUNDED => match told.refunded {
            Some(cents) if cents != due => Some(format!("of {key} {cents} cents were returned, and {due} were due")),
            Some(_) | None => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { shop_id: 3, order_id: 9 };
    const COUPON: Coupon =
        Coupon { coupon_id: 5, user_id: 7, status: USED, order: Some(KEY), discount_cents: Some(500), claimed_ms: 100 };
    const ORDER: Order = Order {
        key: KEY,
        user_id: 7,
        coupon_id: 5,
        amount_cents: 2_000,
        discount_cents: 500,
        off_cents: 500,
        status: PLACED,
        coupon_use: 1,
        refunded_from: 0,
    };
    const TOOK: Step = Step::Used { order: KEY, discount_cents: 500 };

    #[test]
    fn a_used_coupon_has_its_order_its_money_and_its_log() {
        let log = [Step::Issued, TOOK];
        assert_eq!(coupon(&COUPON, Some(&ORDER), &log, Some(0)), None);
        for order in [
            None,
            Some(Order { status: REFUNDED, ..ORDER }),
            Some(Order { coupon_id: 6, ..ORDER }),
            Some(Order { discount_cents: 501, ..ORDER }),
        ] {
            assert!(coupon(&COUPON, order.as_ref(), &log, Some(0)).is_some(), "{order:?}");
        }
        for log in [
            &[][..],
            &[Step::Issued],
            &[TOOK],
            &[Step::Issued, TOOK, TOOK],
            &[Step::Issued, Step::Issued, TOOK],
            &[Step::Issued, Step::Used { order: KEY, discount_cents: 499 }],
            &[Step::Issued, Step::Used { order: Key { shop_id: 4, ..KEY }, discount_cents: 500 }],
        ] {
            assert!(coupon(&COUPON, Some(&ORDER), log, Some(0)).is_some(), "{log:?}");
        }
    }

    #[test]
    fn a_coupon_is_locked_for_an_order_that_is_being_placed() {
        let locked = Coupon { status: LOCKED, ..COUPON };
        let frozen = Order { status: FROZEN, coupon_use: 0, ..ORDER };
        assert_eq!(coupon(&locked, Some(&frozen), &[Step::Issued], Some(0)), None);
        let closed = Order { status: 2, ..frozen };
        for order in [None, Some(closed), Some(Order { user_id: 8, ..frozen })] {
            assert!(coupon(&locked, order.as_ref(), &[Step::Issued], Some(0)).is_some(), "{order:?}");
        }
    }

    #[test]
    fn a_redemption_that_is_done_has_its_order() {
        for status in [PLACED, PAID] {
            assert_eq!(redemption((4, 7), KEY, Some((7, status))), None);
        }
        for order in [None, Some((8, PLACED)), Some((7, FROZEN)), Some((7, REFUNDED))] {
            assert!(redemption((4, 7), KEY, order).is_some(), "{order:?}");
        }
    }

    #[test]
    fn what_the_log_has_forgotten_is_not_held_against_anybody() {
        for log in [&[][..], &[TOOK], &[Step::GivenBack, TOOK]] {
            assert_eq!(coupon(&COUPON, Some(&ORDER), log, Some(101)), None, "{log:?}");
        }
        let expired = Coupon { status: EXPIRED, order: None, discount_cents: None, ..COUPON };
        assert_eq!(coupon(&expired, None, &[Step::Issued, Step::Expired], Some(0)), None);
        assert!(coupon(&expired, None, &[Step::Issued], Some(101)).is_some());
        let voided = Coupon { status: VOIDED, ..expired };
        assert_eq!(coupon(&voided, None, &[Step::Issued, Step::Voided], Some(0)), None);
        for log in [&[Step::Issued][..], &[Step::Issued, Step::Expired], &[Step::Issued, TOOK, Step::Voided]] {
            assert!(coupon(&voided, None, log, Some(0)).is_some(), "{log:?}");
        }
        assert!(coupon(&expired, None, &[Step::Issued, Step::Voided], Some(0)).is_some());
    }

    #[test]
    fn an_order_has_its_coupon_or_has_given_it_back_with_the_money() {
        let used = Told { used: true, ..Told::default() };
        assert_eq!(order(&ORDER, Some(&COUPON), used), None);
        let free = Coupon { status: 1, order: None, discount_cents: None, ..COUPON };
        assert!(order(&ORDER, Some(&free), used).is_some());
        assert!(order(&ORDER, None, used).is_some());
        let untold = Order { coupon_use: 0, ..ORDER };
        assert!(order(&untold, Some(&COUPON), used).is_some());
        assert_eq!(order(&untold, Some(&COUPON), Told::default()), None, "nobody tells it without events");
        let refunded = Order { status: REFUNDED, coupon_use: 2, refunded_from: PAID, ..ORDER };
        let back = |cents| Told { used: true, given_back: true, refunded: Some(cents) };
        assert_eq!(order(&refunded, Some(&free), back(1_500)), None);
        assert!(order(&refunded, Some(&free), back(1_501)).is_some());
        let closed = Order { refunded_from: PLACED, ..refunded };
        assert_eq!(order(&closed, Some(&free), back(0)), None);
        assert!(order(&closed, Some(&free), back(1_500)).is_some(), "nobody had paid it");
        assert!(order(&refunded, Some(&COUPON), back(1_500)).is_some());
        let others = Coupon { order: Some(Key { shop_id: 4, ..KEY }), ..COUPON };
        assert_eq!(order(&refunded, Some(&others), back(1_500)), None, "another shop's order has it");
        let text = order(&ORDER, Some(&others), used).expect("it is not used by this one");
        assert!(text.contains("order 9 of shop 3"), "{text}");
        assert_eq!(money(&[ORDER]), None);
        let both = Order { off_cents: 800, ..ORDER };
        assert_eq!(money(&[both, Order { discount_cents: 300, ..both }]), None);
        assert!(money(&[both]).is_some());
    }
}
