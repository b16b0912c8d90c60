//! Coupons, as users and operators see them, and how they are issued.

use std::collections::BTreeMap;

use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Code, Fault, Language};

use crate::schema::{Entries, Id, choices, params, records};
use crate::wire::common::time;
use crate::wire::rules::Terms;

choices! {
    /// Where a coupon stands.
    CouponStatus: pb::CouponStatus {
        Claiming = "claiming",
        Available = "available",
        Locked = "locked",
        Used = "used",
        Expired = "expired",
        Voided = "voided",
    }

    /// Where a batch stands.
    BatchState: pb::BatchState {
        Running = "running",
        Done = "done",
        Stopped = "stopped",
        Ending = "ending",
        Ended = "ended",
    }
}

params! {
    /// Which of the own coupons.
    OwnCoupons {
        /// Only those that stand there.
        status: Option<CouponStatus>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        after: Option<String>,
    }

    /// Which of all coupons.
    AllCoupons {
        /// Only those of this user, and all of his by time: newest first.
        user_id: Option<Id>,
        /// Only those of this template.
        template_id: Option<Id>,
        /// Only those that stand there.
        status: Option<CouponStatus>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        after: Option<String>,
    }

    /// A coupon.
    CouponId {
        /// The coupon.
        coupon_id: Id,
    }

    /// Which batches.
    BatchFilter {
        /// Only those that stand there.
        state: Option<BatchState>,
        /// Most entries, 1 to 20; 20 when left out.
        limit: Option<Entries<20>>,
        /// `next` of the page before.
        before: Option<Id>,
    }

    /// A batch.
    BatchId {
        /// The batch.
        batch_id: String,
    }
}

records! {
    /// What a user wants.
    Claim {
        /// A coupon of this template.
        template_id: Id,
    }

    /// A coupon.
    Coupon {
        /// Its number.
        coupon_id: Id,
        /// Of which kind it is.
        template_id: Id,
        /// The version of the rules that it was claimed under.
        version: u32,
        /// What its kind is called; left out while the template service is away.
        name: Option<String>,
        /// What it is good for; left out while the template service is away.
        terms: Option<Terms>,
        /// Whose it is.
        user_id: Id,
        /// Where it stands.
        status: Option<CouponStatus>,
        /// Whose order it is that is about to use it, or has: a shop numbers its own.
        shop_id: Option<Id>,
        /// That order's number.
        order_id: Option<Id>,
        /// From when on it is valid.
        valid_from_ms: i64,
        /// The first moment when it is not any more.
        valid_until_ms: i64,
        /// When it was claimed.
        claimed_ms: i64,
        /// When it was used.
        used_ms: Option<i64>,
    }

    /// Coupons.
    Coupons {
        /// Newest first.
        items: Vec<Coupon>,
        /// Where the next page begins; left out on the last one.
        next: Option<String>,
    }

    /// Why something is not done.
    Why {
        /// For programs.
        code: String,
        /// For people, in their language.
        title: String,
        /// What the title was made with, by name.
        arguments: BTreeMap<String, String>,
    }

    /// Coupons for many users.
    NewBatch {
        /// 1 to 128 bytes, of which the first are not `occasion/`: the same again goes on where it stopped.
        batch_id: String,
        /// Of which kind they are.
        template_id: Id,
        /// 1 to 100,000, none twice.
        user_ids: Vec<Id>,
        /// For each user, 1 to 100.
        coupons_per_user: u32,
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// Why a coupon is voided.
    VoidReason {
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// Why a batch is ended.
    BatchReason {
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// Batches.
    Batches {
        /// Newest first.
        items: Vec<Batch>,
        /// Where the next page begins; left out on the last one.
        next: Option<Id>,
    }

    /// How far a batch is.
    Batch {
        /// Its name.
        batch_id: String,
        /// Of which kind its coupons are.
        template_id: Id,
        /// The version of their rules.
        version: u32,
        /// Where it stands.
        state: Option<BatchState>,
        /// How many there are to issue.
        coupons: u64,
        /// How many of them are issued.
        issued: u64,
        /// Why it has stopped.
        refusal: Option<Why>,
        /// When it began.
        started_ms: i64,
        /// When it ended.
        ended_ms: Option<i64>,
    }
}

impl Why {
    /// What a service says.
    pub(crate) fn of(wire: pb::Refusal, language: Language) -> Self {
        let title = match Code::from_name(&wire.code) {
            Some(code) => Fault::new(code, wire.arguments.clone()).text(language),
            // The service is newer.
            None => wire.code.clone(),
        };
        Self { code: wire.code, title, arguments: wire.arguments }
    }
}

impl Coupon {
    /// What a service says, with the name and the terms of its version where they are known.
    pub(crate) fn of(wire: pb::UserCoupon, name: Option<String>, terms: Option<Terms>) -> Self {
        Self {
            coupon_id: Id(wire.coupon_id),
            template_id: Id(wire.template_id),
            version: wire.version,
            name,
            terms,
            user_id: Id(wire.user_id),
            status: CouponStatus::of(wire.status),
            shop_id: (wire.shop_id > 0).then_some(Id(wire.shop_id)),
            order_id: (wire.order_id > 0).then_some(Id(wire.order_id)),
            valid_from_ms: wire.valid_from_ms,
            valid_until_ms: wire.valid_until_ms,
            claimed_ms: wire.claimed_ms,
            used_ms: time(wire.used_ms),
        }
    }
}

impl Batch {
    /// What a service says.
    pub(crate) fn of(wire: pb::Batch, language: Language) -> Self {
        Self {
            batch_id: wire.batch_id,
            template_id: Id(wire.template_id),
            version: wire.version,
            state: BatchState::of(wire.state),
            coupons: wire.coupons,
            issued: wire.issued,
            refusal: wire.refusal.map(|refusal| Why::of(refusal, language)),
            started_ms: wire.started_ms,
            ended_ms: time(wire.ended_ms),
        }
    }
}
