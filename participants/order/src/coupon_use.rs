//! What the coupon service says about the coupons of orders, noted at each order.
//!
//! An order takes its discount when it is placed, and the coupon is used in the same global transaction. That both
//! happened is what this confirms: an order whose coupon was never used keeps `coupon_use` 0, and a coupon that was
//! used for an order that does not say so becomes a dead letter, which a person looks into. So no deduction is lost or
//! doubled in silence.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use tercet::participant::DbTx;
use tercet_events::bus::Group;
use tercet_events::consumer::{Consumer, Trouble};
use tercet_events::event::{Payload, Topic};
use tercet_proto::events::v1 as pb;

use crate::store::{Key, Store, Use, Used};

/// This consumer.
pub const GROUP: Group = Group { name: "order", topics: &[Topic::Coupon] };

/// Notes the uses of coupons in this kind of database.
#[derive(Debug)]
pub struct CouponUse<Db>(PhantomData<fn() -> Db>);

impl<Db> Default for CouponUse<Db> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Db: Store> Consumer for CouponUse<Db> {
    type Db = Db;
    const GROUP: Group = GROUP;

    async fn consume(&self, db_tx: &mut DbTx<Db>, events: &[pb::Event]) -> Result<(), Trouble> {
        let mut uses = BTreeMap::new();
        for event in events {
            let used = match &event.payload {
                Some(Payload::CouponUsed(used)) => Used {
                    key: Key { shop_id: used.shop_id, order_id: used.order_id },
                    coupon_id: used.coupon_id,
                    now: Use::Confirmed,
                    discount_cents: Some(used.discount_cents),
                    step: used.step,
                },
                Some(Payload::CouponGivenBack(back)) => Used {
                    key: Key { shop_id: back.shop_id, order_id: back.order_id },
                    coupon_id: back.coupon_id,
                    now: Use::GivenBack,
                    discount_cents: None,
                    step: back.step,
                },
                Some(_) | None => continue,
            };
            // What came back from the dead letters comes after what has happened since.
            let latest = uses.entry((used.key, used.coupon_id)).or_insert(used);
            if used.step >= latest.step {
                *latest = used;
            }
        }
        let uses: Vec<Used> = uses.into_values().collect();
        if Db::note_uses(db_tx, &uses).await? {
            return Ok(());
        }
        let Used { key, coupon_id, .. } = uses[0];
        Err(Trouble::Refused(format!("{key} is not there with coupon {coupon_id} and its discount")))
    }
}
