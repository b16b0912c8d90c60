//! The best combination of all that a user has.

use tercet_proto::coupon::v1 as pb;
use tercet_rules::limits::TIME_MS_MAX;

use super::world::{Databases, USER, World, line, universal};

/// Without a list: all that user 7 could use, also where more of them than an order may have end first.
pub(super) async fn of_all_it_is_the_best<Db: Databases>(mut world: World<Db>, template_id: i64, large: i64) {
    let request = pb::ValidateRequest { user_id: USER, lines: vec![line(10_000)], ..pb::ValidateRequest::default() };
    let ends_at = |until_ms| move |claim: &mut pb::Claim| claim.valid_until_ms = until_ms;
    for _ in 0..20 {
        world.coupon(USER, template_id, ends_at(TIME_MS_MAX - 1)).await;
    }
    let all = world.redemption.validate(request.clone()).await.expect("it is answered").into_inner();
    assert_eq!((all.coupons.len(), all.more), (27, false), "but for the one that has ended");
    assert!(all.coupons[..20].iter().all(|own| own.discount_cents == 400), "those that end first");
    let best = all.best.expect("some apply");
    assert_eq!((best.deductions.len(), best.discount_cents), (2, 900));
    assert!(best.deductions.iter().any(|own| own.coupon_id == large), "{best:?}");
    let left_out = all.coupons.iter().filter(|own| own.left_out.is_some()).count();
    assert_eq!(left_out, 22, "each that applies says why not");

    // And where there are more than are looked at, that is said.
    for _ in 0..3 {
        let template_id = world.template(universal(100, 2)).await;
        for _ in 0..60 {
            world.coupon(USER, template_id, ends_at(TIME_MS_MAX - 2)).await;
        }
    }
    let all = world.redemption.validate(request).await.expect("it is answered").into_inner();
    assert_eq!((all.coupons.len(), all.more), (200, true));
    assert!(all.coupons[..180].iter().all(|own| own.discount_cents == 100), "those that end first");
    assert_eq!(all.best.map(|best| best.discount_cents), Some(800), "of those that are looked at");
}
