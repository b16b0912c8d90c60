//! Orders without coupons.

use tercet_proto::coupon::v1::{self as pb, RedemptionState as State};
use tercet_rules::Code;

use super::code;
use super::world::{Databases, World, refund, units, universal, wanted};

pub(super) async fn an_order_without_coupons_takes_its_units_and_none_of_the_coupons_of_its_user<Db: Databases>(
    mut world: World<Db>,
) {
    world.with_orders(&[(1, 3)]).await;
    world.own(universal(300, 2)).await;
    let request = pb::RedeemRequest { lines: vec![units(1, 1_000, 2)], ..wanted("k", 100, &[]) };
    let shown = pb::RedeemRequest { discount_cents: Some(300), ..request.clone() };
    assert_eq!(code(world.redeem(&shown).await), Code::AmountChanged);
    for _ in 0..2 {
        let view = world.redeem(&request).await.expect("it is granted");
        assert_eq!(view.state(), State::Done);
        let combination = view.combination.expect("what was taken off");
        assert_eq!((combination.amount_cents, combination.discount_cents, combination.deductions.len()), (2_000, 0, 0));
    }
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (1, 0, 2));
    let more = pb::RedeemRequest { lines: vec![units(1, 1_000, 2)], ..wanted("m", 101, &[]) };
    assert_eq!(code(world.redeem(&more).await), Code::OutOfStock);
    let told = world.refund(refund(100)).await.expect("it is done");
    assert_eq!((told.state(), told.returned_coupon_ids.len()), (pb::RefundState::Done, 0));
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (3, 0, 0));
    assert_eq!(world.uses().await, (vec![], vec![]));
    let orders = tercet_order::audit(&world.orders).await.expect("the tables are there");
    assert_eq!((orders.placed, orders.refunded, orders.unconfirmed), (0, 1, 0));
}
