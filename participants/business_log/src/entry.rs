//! What of an event is logged.

use serde_json::{Value, json};
use tercet::xid::Xid;
use tercet_events::event::Payload;
use tercet_proto::events::v1 as pb;

/// A row of the log, without its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// When it happened.
    pub at_ms: i64,
    /// What happened.
    pub action: String,
    /// Whose it is.
    pub user_id: Option<i64>,
    /// The coupon that it is about.
    pub coupon_id: Option<i64>,
    /// Of what happens to a coupon itself: its place in the order of that, whenever it is written.
    pub coupon_step: Option<i64>,
    /// Whose order it is that it is about; 0: one of one thing.
    pub shop_id: Option<i64>,
    /// That order's number.
    pub order_id: Option<i64>,
    /// The template that it is about.
    pub template_id: Option<i64>,
    /// Of an operator's change: which of what its action names.
    pub about_id: Option<i64>,
    /// Who did it, if it was a person of the platform or of a shop.
    pub operator: Option<String>,
    /// Why.
    pub reason: String,
    /// What it was before, as JSON; empty where there was nothing, or it is not known.
    pub before: String,
    /// What it is after.
    pub after: String,
    /// The global transaction that did it; empty where there was none.
    pub xid: String,
    /// With the sequence: the event.
    pub source: String,
    /// See the source.
    pub sequence: i64,
}

/// The rows of an event: none where it is not logged, several where it is about several coupons.
pub fn entries(event: &pb::Event) -> Vec<Entry> {
    let Some(payload) = &event.payload else { return Vec::new() };
    let common = Entry {
        at_ms: event.occurred_ms,
        user_id: (event.user_id != 0).then_some(event.user_id),
        xid: Xid::from_slice(&event.xid).map_or_else(String::new, |xid| xid.to_string()),
        source: event.source.clone(),
        sequence: i64::try_from(event.sequence).unwrap_or(i64::MAX),
        ..Entry::default()
    };
    let of_coupon = |action: &str, (coupon_id, step): (i64, i64), before: Value, after: Value| Entry {
        action: action.to_owned(),
        coupon_id: Some(coupon_id),
        coupon_step: Some(step),
        before: text(before),
        after: text(after),
        ..common.clone()
    };
    match payload {
        Payload::CouponIssued(issued) => {
            let mut after = json!({"status": "issued", "template_version": issued.template_version});
            if !issued.batch_id.is_empty() {
                after["batch_id"] = json!(issued.batch_id);
            }
            let row = of_coupon("coupon issued", (issued.coupon_id, 0), Value::Null, after);
            let operator = (!issued.operator.is_empty()).then(|| issued.operator.clone());
            vec![Entry { template_id: Some(issued.template_id), operator, reason: issued.reason.clone(), ..row }]
        }
        Payload::CouponUsed(used) => {
            let pb::CouponUsed { coupon_id, order_id, discount_cents, shop_id, operator, step, .. } = used;
            let mut after = json!({"status": "used", "order_id": order_id, "discount_cents": discount_cents});
            if *shop_id != 0 {
                after["shop_id"] = json!(shop_id);
            }
            let row = of_coupon("coupon used", (*coupon_id, *step), json!({"status": "issued"}), after);
            let operator = (!operator.is_empty()).then(|| operator.clone());
            vec![Entry { operator, ..about((*shop_id, *order_id), row) }]
        }
        Payload::CouponGivenBack(pb::CouponGivenBack { coupon_id, order_id, shop_id, step, .. }) => {
            let before = json!({"status": "used", "order_id": order_id});
            let row = of_coupon("coupon given back", (*coupon_id, *step), before, json!({"status": "issued"}));
            vec![about((*shop_id, *order_id), row)]
        }
        Payload::CouponExpired(pb::CouponExpired { coupon_id, template_id, step }) => {
            let (before, after) = (json!({"status": "issued"}), json!({"status": "expired"}));
            let row = of_coupon("coupon expired", (*coupon_id, *step), before, after);
            vec![Entry { template_id: Some(*template_id), ..row }]
        }
        Payload::CouponVoided(voided) => {
            let (before, after) = (json!({"status": "issued"}), json!({"status": "voided"}));
            let row = of_coupon("coupon voided", (voided.coupon_id, voided.step), before, after);
            let operator = Some(voided.operator.clone());
            vec![Entry { template_id: Some(voided.template_id), operator, reason: voided.reason.clone(), ..row }]
        }
        // Where a person of a shop says so, or nothing was due to it.
        Payload::OrderPaid(paid) if paid.shop_id > 0 => vec![of_payment(common, paid)],
        Payload::OrderRefunded(refunded) => of_refund(common, refunded),
        Payload::OrderRefundTakenBack(back) => {
            let pb::OrderRefundTakenBack { order_id, coupon_ids, refunded_cents, is_paid, shop_id } = back;
            let before = json!({"status": taken_back(*is_paid), "refunded_cents": refunded_cents});
            let row = about((*shop_id, *order_id), Entry { action: "order refund taken back".into(), ..common });
            of_coupons(
                &Entry { before: text(before), after: text(json!({"status": paid(*is_paid)})), ..row },
                coupon_ids,
            )
        }
        Payload::OperatorChange(change) => vec![of_change(common, change)],
        Payload::OrderPlaced(_) | Payload::OrderPaid(_) | Payload::UserRegistered(_) | Payload::CampaignStarted(_) => {
            Vec::new()
        }
    }
}

/// About an order, by its shop and its number there.
fn about((shop_id, order_id): (i64, i64), row: Entry) -> Entry {
    Entry { shop_id: Some(shop_id), order_id: Some(order_id), ..row }
}

fn of_payment(common: Entry, payment: &pb::OrderPaid) -> Entry {
    let pb::OrderPaid { order_id, paid_cents, shop_id, operator, payment_id } = payment;
    let row = about((*shop_id, *order_id), Entry { action: "order paid".into(), ..common });
    Entry {
        operator: (!operator.is_empty()).then(|| operator.clone()),
        before: text(json!({"status": paid(false)})),
        after: text(json!({"status": paid(true), "paid_cents": paid_cents, "payment_id": payment_id})),
        ..row
    }
}

fn of_refund(common: Entry, refunded: &pb::OrderRefunded) -> Vec<Entry> {
    let pb::OrderRefunded { order_id, coupon_ids, refunded_cents, was_paid, operator, reason, shop_id } = refunded;
    let status = taken_back(*was_paid);
    let row = about((*shop_id, *order_id), Entry { action: format!("order {status}"), ..common });
    let operator = (!operator.is_empty()).then(|| operator.clone());
    let (before, after) =
        (json!({"status": paid(*was_paid)}), json!({"status": status, "refunded_cents": refunded_cents}));
    let row = Entry { operator, reason: reason.clone(), before: text(before), after: text(after), ..row };
    of_coupons(&row, coupon_ids)
}

fn of_change(common: Entry, change: &pb::OperatorChange) -> Entry {
    Entry {
        action: format!("{} {}", change.what, change.action),
        template_id: (change.what == "template").then_some(change.id),
        about_id: Some(change.id),
        operator: Some(change.operator.clone()),
        reason: change.reason.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
        ..common
    }
}

/// One for each coupon, so that it is found by any of them; one where there is none.
fn of_coupons(row: &Entry, coupon_ids: &[i64]) -> Vec<Entry> {
    if coupon_ids.is_empty() {
        return vec![row.clone()];
    }
    coupon_ids.iter().map(|coupon_id| Entry { coupon_id: Some(*coupon_id), ..row.clone() }).collect()
}

const fn paid(paid: bool) -> &'static str {
    if paid { "paid" } else { "placed" }
}

/// What an order is that was taken back, as the API says it.
const fn taken_back(was_paid: bool) -> &'static str {
    if was_paid { "refunded" } else { "closed" }
}

fn text(value: Value) -> String {
    if value.is_null() { String::new() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: Payload) -> pb::Event {
        let xid = vec![1; 16].into();
        let (source, payload) = ("s".to_owned(), Some(payload));
        pb::Event { source, sequence: 9, user_id: 7, occurred_ms: 5, xid, payload, ..pb::Event::default() }
    }

    #[test]
    fn a_refund_is_found_by_each_of_its_coupons_and_by_its_order() {
        let refund = |coupon_ids: &[i64]| pb::OrderRefunded {
            order_id: 3,
            coupon_ids: coupon_ids.to_vec(),
            refunded_cents: 100,
            was_paid: true,
            operator: "ann".into(),
            reason: "broken".into(),
            shop_id: 9,
        };
        for (coupon_ids, found) in [(&[][..], vec![None]), (&[4, 5], vec![Some(4), Some(5)])] {
            let rows = entries(&event(Payload::OrderRefunded(refund(coupon_ids))));
            assert_eq!(rows.iter().map(|row| row.coupon_id).collect::<Vec<_>>(), found);
            assert!(
                rows.iter().all(
                    |row| (row.shop_id, row.order_id) == (Some(9), Some(3)) && row.before == r#"{"status":"paid"}"#
                ),
                "{rows:?}"
            );
            let by_ann = |row: &Entry| (row.operator.as_deref(), &*row.reason) == (Some("ann"), "broken");
            assert!(rows.iter().all(by_ann), "{rows:?}");
            assert!(rows.iter().all(|row| row.after == r#"{"refunded_cents":100,"status":"refunded"}"#), "{rows:?}");
        }
    }

    #[test]
    fn an_order_that_nobody_paid_is_closed_and_nothing_is_returned() {
        let refunded = pb::OrderRefunded { order_id: 3, ..Default::default() };
        let rows = entries(&event(Payload::OrderRefunded(refunded)));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.action.as_str(), row.before.as_str()), ("order closed", r#"{"status":"placed"}"#));
        assert_eq!(row.after, r#"{"refunded_cents":0,"status":"closed"}"#);
        let back = pb::OrderRefundTakenBack { order_id: 3, ..Default::default() };
        let rows = entries(&event(Payload::OrderRefundTakenBack(back)));
        assert_eq!(rows[0].before, r#"{"refunded_cents":0,"status":"closed"}"#);
        assert_eq!(rows[0].after, r#"{"status":"placed"}"#);
    }

    #[test]
    fn an_operator_s_change_keeps_who_what_and_why() {
        let change = pb::OperatorChange {
            what: "template".into(),
            id: 11,
            revision: 2,
            operator: "ann".into(),
            action: "promote".into(),
            reason: "双十一".into(),
            before: r#"{"a":0}"#.into(),
            after: r#"{"a":1}"#.into(),
        };
        let rows = entries(&pb::Event { user_id: 0, ..event(Payload::OperatorChange(change)) });
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(
            (row.action.as_str(), row.operator.as_deref(), row.user_id),
            ("template promote", Some("ann"), None)
        );
        assert_eq!((row.template_id, row.reason.as_str()), (Some(11), "双十一"));
        assert_eq!((row.before.as_str(), row.after.as_str()), (r#"{"a":0}"#, r#"{"a":1}"#));
        assert_eq!(row.about_id, Some(11));
        assert_eq!((row.at_ms, row.xid.as_str()), (5, "01010101-0101-0101-0101-010101010101"));
    }

    #[test]
    fn what_an_operator_changed_is_named_whatever_it_is() {
        for (what, template_id) in [("template", Some(11)), ("product", None), ("campaign", None), ("batch", None)] {
            let change = pb::OperatorChange { what: what.into(), id: 11, ..Default::default() };
            let rows = entries(&event(Payload::OperatorChange(change)));
            let [row] = &rows[..] else { panic!("{rows:?}") };
            assert_eq!((row.about_id, row.template_id), (Some(11), template_id), "{what}");
        }
    }

    #[test]
    fn a_coupon_of_a_batch_names_it() {
        let issued = pb::CouponIssued { batch_id: "spring".into(), ..Default::default() };
        let rows = entries(&event(Payload::CouponIssued(issued)));
        assert_eq!(rows[0].after, r#"{"batch_id":"spring","status":"issued","template_version":0}"#);
    }

    #[test]
    fn a_void_is_logged_with_who_did_it_and_why() {
        let (operator, reason) = ("bob".to_owned(), "a stolen account".to_owned());
        let voided = pb::CouponVoided { coupon_id: 4, template_id: 11, step: 3, operator, reason };
        let rows = entries(&event(Payload::CouponVoided(voided)));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.action.as_str(), row.operator.as_deref()), ("coupon voided", Some("bob")));
        assert_eq!((row.coupon_id, row.coupon_step, row.template_id), (Some(4), Some(3), Some(11)));
        assert_eq!((row.before.as_str(), row.after.as_str()), (r#"{"status":"issued"}"#, r#"{"status":"voided"}"#));
        assert_eq!((row.user_id, row.reason.as_str()), (Some(7), "a stolen account"));
    }

    #[test]
    fn a_payment_is_logged_with_whoever_says_so() {
        let payment =
            pb::OrderPaid { order_id: 3, paid_cents: 100, shop_id: 9, operator: "ann".into(), payment_id: "p1".into() };
        let rows = entries(&event(Payload::OrderPaid(payment)));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.action.as_str(), row.order_id, row.operator.as_deref()), ("order paid", Some(3), Some("ann")));
        assert_eq!((row.shop_id, row.before.as_str()), (Some(9), r#"{"status":"placed"}"#));
        assert_eq!(row.after, r#"{"paid_cents":100,"payment_id":"p1","status":"paid"}"#);
        let free = pb::OrderPaid { order_id: 3, shop_id: 9, ..pb::OrderPaid::default() };
        let rows = entries(&event(Payload::OrderPaid(free)));
        assert!(rows.len() == 1 && rows[0].operator.is_none(), "where nothing was due nobody does: {rows:?}");
    }

    #[test]
    fn every_step_is_kept_with_what_it_was_before_and_after() {
        let used = pb::CouponUsed {
            coupon_id: 4,
            order_id: 3,
            discount_cents: 50,
            shop_id: 9,
            operator: "bob".into(),
            ..Default::default()
        };
        let issued = pb::CouponIssued {
            template_id: 11,
            template_version: 2,
            operator: "bob".into(),
            reason: "sorry".into(),
            ..Default::default()
        };
        let back = pb::OrderRefundTakenBack { order_id: 3, refunded_cents: 100, is_paid: true, ..Default::default() };
        for (payload, action, before, after) in [
            (Payload::CouponIssued(issued), "coupon issued", "", r#"{"status":"issued","template_version":2}"#),
            (
                Payload::CouponUsed(used),
                "coupon used",
                r#"{"status":"issued"}"#,
                r#"{"discount_cents":50,"order_id":3,"shop_id":9,"status":"used"}"#,
            ),
            (
                Payload::CouponGivenBack(pb::CouponGivenBack { order_id: 3, ..Default::default() }),
                "coupon given back",
                r#"{"order_id":3,"status":"used"}"#,
                r#"{"status":"issued"}"#,
            ),
            (
                Payload::CouponExpired(pb::CouponExpired { template_id: 11, ..Default::default() }),
                "coupon expired",
                r#"{"status":"issued"}"#,
                r#"{"status":"expired"}"#,
            ),
            (
                Payload::OrderRefundTakenBack(back),
                "order refund taken back",
                r#"{"refunded_cents":100,"status":"refunded"}"#,
                r#"{"status":"paid"}"#,
            ),
        ] {
            let rows = entries(&event(payload));
            let [row] = &rows[..] else { panic!("{rows:?}") };
            assert_eq!((row.action.as_str(), row.before.as_str(), row.after.as_str()), (action, before, after));
            assert_eq!((row.user_id, row.source.as_str(), row.sequence), (Some(7), "s", 9));
            assert_eq!((row.at_ms, row.xid.as_str()), (5, "01010101-0101-0101-0101-010101010101"));
            let is_issued = action == "coupon issued";
            assert_eq!(row.template_id, (is_issued || action == "coupon expired").then_some(11));
            assert_eq!(row.operator.as_deref(), (is_issued || action == "coupon used").then_some("bob"));
            assert_eq!(row.reason, if is_issued { "sorry" } else { "" });
        }
    }

    #[test]
    fn what_is_no_deed_of_anybody_s_is_not_logged() {
        assert!(entries(&event(Payload::OrderPaid(pb::OrderPaid::default()))).is_empty());
        assert!(entries(&pb::Event::default()).is_empty());
    }
}
