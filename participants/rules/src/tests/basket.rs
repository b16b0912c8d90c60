//! Coupons that are tried on one order together.

use super::{cents, lines, rules, together, universal};
use crate::{Basket, Candidate, Cents, Order, Rules, Set};
use tercet_proto::coupon_template::v1 as pb;

fn scope(kind: pb::scope::Kind) -> Option<pb::Scope> {
    Some(pb::Scope { kind: Some(kind) })
}

fn products(ids: &[i64]) -> Option<pb::Scope> {
    scope(pb::scope::Kind::Products(pb::Ids { ids: ids.to_vec() }))
}

/// Takes so much off, beside `most` of its group; 0: alone.
fn coupon(off: i64, group: &str, most: u32, scope: Option<pb::Scope>) -> Rules {
    rules(|wire| {
        wire.discount = Some(universal(off));
        wire.budget = Some(pb::Budget { coupons: 100, cents: off * 100 });
        let alone = pb::Stacking { kind: Some(pb::stacking::Kind::Alone(pb::Alone {})) };
        wire.stacking = Some(if most == 0 { alone } else { together(group, most) });
        wire.scope = scope;
    })
}

fn everything() -> Option<pb::Scope> {
    scope(pb::scope::Kind::All(pb::Everything {}))
}

fn basket<'a>(order: &Order, coupons: &'a [Rules]) -> Basket<'a> {
    let candidate = |(coupon_id, rules): (i64, &'a Rules)| {
        let amount = order.amount_within(rules.scope())?;
        Some(Candidate { coupon_id, rules, off: rules.discount().most().min(amount) })
    };
    Basket::new(order, (1..).zip(coupons).filter_map(candidate).collect())
}

#[test]
fn of_more_coupons_than_are_combined_none_is_missed_that_makes_the_best_set() {
    let order = lines(&[(1, 2, 3, 1_000_000, 1)]);
    let of = |off, group, most| coupon(off, group, most, everything());
    let small = |count| (0..count).map(|_| of(100, "a", 2)).collect::<Vec<_>>();
    // One that comes after twenty others, by what it takes off; and of another group, though all others take off more.
    for (last, all) in [(of(5_000, "a", 2), 5_100), (of(10, "b", 1), 210), (of(300, "", 0), 300)] {
        let coupons = [small(40), vec![last]].concat();
        let basket = basket(&order, &coupons);
        assert_eq!(basket.candidates().len(), 20);
        assert!(basket.candidates().iter().map(|own| own.coupon_id).is_sorted());
        assert_eq!(total(&basket, basket.best()), Cents::new("off", all).expect("it is within its limits"));
        // Another of the group is one too many beside two.
        let own = &coupons[39];
        assert!(!basket.has_room(basket.best(), own), "{all}");
    }
    // The first of those that bring the same.
    let ids: Vec<i64> = basket(&order, &small(30)).candidates().iter().map(|own| own.coupon_id).collect();
    assert_eq!(ids, (1..=20).collect::<Vec<i64>>());
}

#[test]
fn beside_twenty_groups_one_that_is_used_alone_is_not_missed_and_a_further_group_has_no_room() {
    let order = lines(&[(1, 2, 3, 1_000_000, 1)]);
    let group = |n: usize| coupon(100, &format!("g{n}"), 1, everything());
    let mut coupons: Vec<Rules> = (0..20).map(group).collect();
    assert!(basket(&order, &coupons[..19]).has_room(Set::first(19), &group(20)));
    assert!(!basket(&order, &coupons).has_room(Set::first(20), &group(20)));
    coupons.push(coupon(2_100, "", 0, everything()));
    let all = basket(&order, &coupons);
    assert_eq!(total(&all, all.best()), cents(2_100));
}

fn total(basket: &Basket<'_>, set: Set) -> Cents {
    basket.deductions(set).into_iter().map(|(_, off)| off).sum()
}

/// The best set and what each of it takes off, by place.
fn best(order: &Order, coupons: &[Rules]) -> Vec<(usize, i64)> {
    let basket = basket(order, coupons);
    basket.deductions(basket.best()).into_iter().map(|(at, off)| (at, off.get())).collect()
}

#[test]
fn of_each_group_as_many_as_all_of_them_allow_are_best() {
    let order = lines(&[(1, 2, 3, 100_000, 1)]);
    let of = |off, group, most| coupon(off, group, most, everything());
    // Two of 500 and 400 that allow two bring more than the one of 800 that allows none beside it.
    let coupons = [of(800, "a", 1), of(500, "a", 2), of(400, "a", 2), of(300, "a", 3), of(50, "b", 1)];
    assert_eq!(best(&order, &coupons), [(1, 500), (2, 400), (4, 50)]);
    // One that stands alone is used where it brings more than all others together.
    let with_alone = [&coupons[..], &[of(951, "", 0)]].concat();
    assert_eq!(best(&order, &with_alone), [(5, 951)]);
    let with_less = [&coupons[..], &[of(949, "", 0)]].concat();
    assert_eq!(best(&order, &with_less).len(), 3);
}

#[test]
fn no_line_falls_below_zero_and_none_is_used_that_brings_nothing() {
    let order = lines(&[(1, 2, 3, 600, 1), (2, 2, 3, 500, 1)]);
    let first = |off| coupon(off, "a", 5, products(&[1]));
    // The product costs 600, whatever its coupons say; the wide one takes what is left of both.
    let coupons = [first(400), first(300), coupon(900, "b", 1, everything())];
    let all = basket(&order, &coupons).deductions(Set::first(3));
    assert_eq!(all.iter().map(|(_, off)| off.get()).collect::<Vec<_>>(), [400, 200, 500]);
    // 300 and 900 are enough to make the order free, or 400 and 900: one of the three is not needed.
    let chosen = best(&order, &coupons);
    assert_eq!(chosen.iter().map(|(_, off)| off).sum::<i64>(), 1_100);
    assert_eq!(chosen.len(), 2, "{chosen:?}");
}

#[test]
fn the_order_in_which_coupons_are_listed_changes_nothing() {
    let order = lines(&[(1, 2, 3, 600, 1), (2, 2, 3, 500, 1)]);
    let own =
        [coupon(900, "b", 2, everything()), coupon(400, "a", 2, products(&[2])), coupon(500, "c", 1, products(&[1]))];
    let candidates = |ids: [usize; 3]| {
        let candidate = |id: usize| Candidate { coupon_id: id as i64, rules: &own[id], off: own[id].discount().most() };
        let basket = Basket::new(&order, ids.map(candidate).to_vec());
        let mut taken: Vec<(i64, i64)> = basket
            .deductions(Set::first(3))
            .into_iter()
            .map(|(at, off)| (basket.candidates()[at].coupon_id, off.get()))
            .collect();
        taken.sort_unstable();
        taken
    };
    assert_eq!(candidates([0, 1, 2]), [(0, 200), (1, 400), (2, 500)]);
    assert_eq!(candidates([2, 1, 0]), candidates([0, 1, 2]));
    assert_eq!(candidates([1, 2, 0]), candidates([0, 1, 2]));
}

#[test]
fn nothing_brings_more_than_the_best() {
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..300 {
        let order = lines(&[(1, 2, 3, 300, 1), (2, 2, 3, 200, 1), (3, 2, 3, 400, 1)]);
        let coupons: Vec<Rules> = (0..8)
            .map(|_| {
                let off = 20 + draw(280).cast_signed();
                let scope = if draw(2) == 0 { everything() } else { products(&[1 + draw(3).cast_signed()]) };
                coupon(off, ["a", "b"][draw(2) as usize], draw(4) as u32, scope)
            })
            .collect();
        let basket = basket(&order, &coupons);
        let all = (1..256_u32).map(|bits| (0..8).filter(|at| bits >> at & 1 == 1).fold(Set::NONE, Set::with));
        let most = all.filter(|set| basket.agree(*set)).map(|set| total(&basket, set)).max();
        let best = basket.best();
        assert!(basket.agree(best), "round {round}");
        assert_eq!(Some(total(&basket, best)), most, "round {round}: {coupons:?}");
    }
}

#[test]
fn twenty_coupons_and_five_hundred_lines_are_soon_decided() {
    // Every line runs out, so that the search is as long as it can be.
    let many: Vec<_> = (1..=500).map(|id| (id, 1 + id % 7, 1 + id % 5, 10, 1)).collect();
    let order = lines(&many);
    let coupons: Vec<Rules> = (0..20_i64)
        .map(|n| {
            let ids: Vec<i64> = (1..=500).filter(|id| (id + n) % (2 + n % 3) == 0).collect();
            coupon(700 + 13 * n, ["a", "b", "c"][n as usize % 3], 4, products(&ids))
        })
        .collect();
    let basket = basket(&order, &coupons);
    let best = basket.best();
    assert!(basket.agree(best) && total(&basket, best) <= order.amount());
    assert!(total(&basket, best) >= total(&basket, Set::NONE.with(19)));
    assert_eq!(total(&basket, Set::NONE), cents(0));
}
