//! Coupons that operators take from their users: those of a fraud, or issued by mistake.
//!
//! It is one step of one row, and so a local transaction and none of the coordinator's: the row's lock says who was
//! first, an order that locks the coupon or the operator who voids it. What an order holds or has used is its refund's
//! business. The unit of stock stays issued, and the claim counted: coupons ever issued stay within the budget that was
//! approved, and whoever lost one by fraud can not claim it once more.

use tercet::fence::{Dialect, is_conflict};
use tercet::participant::Moves as _;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Code, Fault};
use tercet_shards::Slot;
use tracing::error;

use super::claims::busy;
use super::{Issuing, fields};
use crate::redeem::unusable;
use crate::store::jobs::Jobs;
use crate::store::{self, Coupon, Status};
use crate::{metrics, told};

/// Tries where the slot is not, or not yet again, where it was, or where another was first, before the caller is told
/// to come again.
const TRIES: usize = 3;

impl<Db: Jobs + Dialect> Issuing<Db> {
    /// Voids a coupon, unless it is; returns it as it is then.
    pub(super) async fn void_coupon(&self, request: &pb::VoidCouponRequest) -> Result<pb::UserCoupon, Fault> {
        fields::id("coupon_id", request.coupon_id)?;
        fields::by(&request.operator, &request.reason)?;
        for _ in 0..TRIES {
            match self.try_void(request).await {
                Ok(Some(told)) => return told.map(|coupon| fields::shown(&coupon)),
                Ok(None) => self.shards.look().await,
                Err(error) if is_conflict::<Db>(&error) => {}
                Err(error) => {
                    error!(%error, "the database of a coupon that is to be voided");
                    return Err(busy());
                }
            }
        }
        Err(busy())
    }

    /// The same; `None` where the slot is not, or not yet again, where it was.
    async fn try_void(&self, request: &pb::VoidCouponRequest) -> sqlx::Result<Option<Result<Coupon, Fault>>> {
        let &pb::VoidCouponRequest { coupon_id, ref operator, ref reason } = request;
        let (map, slot, view) = (self.shards.map(), Slot::of_id(coupon_id), self.shards.slots().view());
        if !view.is_served(slot) {
            return Ok(None);
        }
        let at = view.database(slot);
        let Some(mut db_tx) = self.shards.begin_at(at, view.epoch(at)).await? else { return Ok(None) };
        let missing = || Code::NotFound.fault([("what", "coupon".to_owned()), ("id", coupon_id.to_string())]);
        let found = store::coupons::<Db>(&mut db_tx, map, &[coupon_id]).await?;
        let Some((coupon, now_ms)) = found.into_iter().next() else { return Ok(Some(Err(missing()))) };
        if coupon.status == Status::Voided {
            return Ok(Some(Ok(coupon)));
        }
        // What is not valid yet may be voided before it is.
        if let Some(fault) = unusable(&coupon, now_ms).filter(|fault| fault.code != Code::NotYetValid) {
            return Ok(Some(Err(fault)));
        }
        store::void::<Db>(&mut db_tx, map, coupon_id).await?;
        // With the moment of the database at which its time has ended.
        let voided = store::coupons::<Db>(&mut db_tx, map, &[coupon_id]).await?;
        self.outbox.append::<Db>(&mut db_tx, [told::voided(&coupon, operator, reason)]).await?;
        db_tx.commit().await?;
        metrics::voided();
        Ok(voided.into_iter().next().map(|(coupon, _)| Ok(coupon)))
    }
}
