//! An order that is taken back: a saga over the order, its redemption, its units and its coupons; then it is final.
//! The redemption is being taken back until somebody knows that the saga is confirmed: whoever waited for it, whoever
//! asks again, or the job of those that were kept.

use tercet::action::Saga;
use tercet::client::{Error, Outcome, Wait};
use tercet::fence::Dialect;
use tercet::plan::{self, Plan};
use tercet::xid::Xid;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::{Refund, SettleRefund};
use tercet_proto::stock::v1::Restock;
use tercet_rules::{Code, Fault};
use tracing::{error, warn};

use super::limits::{LOOK_TIMEOUT, REFUND_DEADLINE};
use super::redeem::content;
use super::trial::{busy, database};
use super::{Redemption, fields};
use crate::store::redemptions::{Change, Redemption as Row, Redemptions, State};
use crate::store::{self, Coupon, Status};
use crate::{GIVE_BACK, TAKE_BACK, order, stock};

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Takes an order back. It is what it was, or all of it is taken back.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::NotRefundable`] where it does not stand where it could be;
    /// [`Code::SystemBusy`] where nothing is known: the same again finds it.
    pub(super) async fn refund(&self, request: &pb::RefundRequest) -> Result<pb::RefundResponse, Fault> {
        fields::refund(request)?;
        let &pb::RefundRequest { user_id, order_id, shop_id, .. } = request;
        let missing = || Code::NotFound.fault([("what", "order".to_owned()), ("id", order_id.to_string())]);
        let refused = || Code::NotRefundable.fault([("order_id", order_id.to_string())]);
        let row = self.by_order(user_id, (shop_id, order_id)).await?.ok_or_else(missing)?;
        match row.state {
            State::Refunding | State::Refunded => return self.taken_back(&row).await,
            State::Done => {}
            // Whoever was told that it is done may be quicker than what notes it.
            State::Kept | State::Submitted => return Err(busy()),
            State::Refused | State::GivenUp => return Err(refused()),
        }
        let plan = plan(&row, request).map_err(|error| {
            error!(%error, "a refund is no plan");
            busy()
        })?;
        let view = match self.client.submit(plan, Wait::Ended).await {
            Ok(view) => view,
            Err(error) => {
                warn!(%error, "a refund of which it is not known whether it has ended");
                return self.taken_back_or(&row, busy()).await;
            }
        };
        match view.outcome() {
            Some(Outcome::Confirmed) => match self.note_taken_back(&row, view.xid()).await? {
                Some(Outcome::Confirmed) => self.done(&row).await,
                Some(Outcome::Cancelled) | None => Err(busy()),
            },
            // Out of time, or stopped by a person: nobody has said no.
            Some(Outcome::Cancelled) if view.refusal().is_none() => Err(busy()),
            // Another one may have been quicker.
            Some(Outcome::Cancelled) => self.taken_back_or(&row, refused()).await,
            None => Ok(submitted()),
        }
    }

    /// As [`Self::taken_back`] where it is or was by now, and this where it is not.
    async fn taken_back_or(&self, row: &Row, fault: Fault) -> Result<pb::RefundResponse, Fault> {
        match self.by_order(row.user_id, (row.shop_id, row.order_id)).await? {
            Some(now) if matches!(now.state, State::Refunding | State::Refunded) => self.taken_back(&now).await,
            Some(_) | None => Err(fault),
        }
    }

    /// How the refund of one stands that is or was being taken back.
    async fn taken_back(&self, row: &Row) -> Result<pb::RefundResponse, Fault> {
        if row.state == State::Refunded {
            return self.done(row).await;
        }
        match self.look_back(row).await? {
            Some(Outcome::Confirmed) => self.done(row).await,
            // It is what it was, or about to be.
            Some(Outcome::Cancelled) => Err(busy()),
            None => Ok(submitted()),
        }
    }

    /// What has become of the transaction that takes one back, as far as the coordinator says, noted where it is
    /// confirmed. Only that is final: what its participants say of their parts may be undone until then.
    pub(super) async fn look_back(&self, row: &Row) -> Result<Option<Outcome>, Fault> {
        let xid = row.refund_xid.ok_or_else(busy)?;
        let outcome = match tokio::time::timeout(LOOK_TIMEOUT, self.client.get(xid)).await {
            Ok(Ok(view)) => view.outcome(),
            Ok(Err(Error::NotFound)) => self.forgotten(row).await?,
            Ok(Err(Error::Unknown { .. })) => {
                self.now_away();
                None
            }
            // It is slow, or says nothing of this one.
            Ok(Err(_)) | Err(_) => None,
        };
        match outcome {
            Some(Outcome::Confirmed) => self.note_taken_back(row, xid).await,
            outcome => Ok(outcome),
        }
    }

    /// What has become of a transaction that the coordinator does not know. It forgets what ended long ago, and only
    /// that: had this one been cancelled, the redemption would be what it was. But a coordinator that lost it says the
    /// same: while a coupon is with the order, it was not confirmed, and a person has to look.
    async fn forgotten(&self, row: &Row) -> Result<Option<Outcome>, Fault> {
        let coupons = self.coupons(row).await?;
        let of_order = |order: &store::Order| (order.shop_id, order.order_id) == (row.shop_id, row.order_id);
        if coupons.iter().any(|coupon| coupon.order.as_ref().is_some_and(of_order)) {
            error!(redemption = row.redemption_id, order = row.order_id, "a refund that the coordinator has lost");
            return Ok(None);
        }
        Ok(Some(Outcome::Confirmed))
    }

    /// Notes that nothing undoes it any more, unless somebody has: what has become of it by its row.
    async fn note_taken_back(&self, row: &Row, xid: Xid) -> Result<Option<Outcome>, Fault> {
        if self.change(row.user_id, row.redemption_id, Change::TakenBack(xid)).await? {
            return Ok(Some(Outcome::Confirmed));
        }
        let now = self.by_order(row.user_id, (row.shop_id, row.order_id)).await?;
        let now = now.filter(|now| now.redemption_id == row.redemption_id).ok_or_else(busy)?;
        Ok(match now.state {
            State::Refunded => Some(Outcome::Confirmed),
            // By another transaction.
            State::Refunding => None,
            State::Done | State::Kept | State::Submitted | State::Refused | State::GivenUp => Some(Outcome::Cancelled),
        })
    }

    /// Which of the coupons are their user's again.
    async fn done(&self, row: &Row) -> Result<pb::RefundResponse, Fault> {
        let coupons = self.coupons(row).await?;
        let back = coupons.iter().filter(|coupon| ![Status::Expired, Status::Voided].contains(&coupon.status));
        Ok(pb::RefundResponse {
            state: pb::RefundState::Done.into(),
            returned_coupon_ids: back.map(|coupon| coupon.coupon_id).collect(),
        })
    }

    /// Those that the redemption is of, as they are.
    async fn coupons(&self, row: &Row) -> Result<Vec<Coupon>, Fault> {
        let ids: Vec<i64> = deductions(&content(row)?).iter().map(|own| own.coupon_id).collect();
        let mut connection = self.connection(row.user_id).await?;
        let found = store::look::<Db>(&mut connection, self.shards.map(), row.user_id, &ids).await.map_err(database)?;
        Ok(found.into_iter().map(|(coupon, _)| coupon).collect())
    }
}

/// It is under way.
fn submitted() -> pb::RefundResponse {
    pb::RefundResponse { state: pb::RefundState::Submitted.into(), returned_coupon_ids: Vec::new() }
}

fn deductions(kept: &pb::KeptRedemption) -> &[pb::Deduction] {
    kept.combination.as_ref().map_or(&[], |combination| &combination.deductions)
}

fn plan(row: &Row, request: &pb::RefundRequest) -> anyhow::Result<Plan<Saga>> {
    let kept = content(row)?;
    let &Row { redemption_id, shop_id, order_id, .. } = row;
    let take_back =
        pb::TakeBack { redemption_id, order_id, operator: request.operator.clone(), reason: request.reason.clone() };
    let mut plan = plan::saga().deadline(REFUND_DEADLINE);
    let order_key = format!("order/{shop_id}/{order_id}");
    let (operator, reason) = (request.operator.clone(), request.reason.clone());
    let refund = Refund { order_id, operator, reason, shop_id, only_unpaid: request.only_unpaid };
    // What decides comes first: where somebody has paid, nothing else was done yet.
    plan.branch(order::REFUND.with(&refund)?.business_key(&order_key));
    plan.branch(TAKE_BACK.with(&take_back)?.business_key(format!("redemption/{redemption_id}")));
    for (item, count) in fields::units(&kept.lines) {
        plan.branch(stock::RESTOCK.with(&Restock { item, count })?.business_key(&order_key));
    }
    let amount_cents = kept.combination.as_ref().map_or(0, |combination| combination.amount_cents);
    for &pb::Deduction { coupon_id, discount_cents } in deductions(&kept) {
        let give_back = pb::GiveBack { coupon_id, order_id, discount_cents, shop_id, amount_cents };
        plan.branch(GIVE_BACK.with(&give_back)?.business_key(format!("coupon/{coupon_id}")));
    }
    // Whoever pays is told that it is too late from here on.
    let settle = SettleRefund { order_id, shop_id };
    plan.branch(order::SETTLE_REFUND.with(&settle)?.business_key(&order_key));
    Ok(plan.build()?)
}
