//! The rules by their limits, and what holds of all of them.

mod basket;

use std::collections::BTreeSet;

use tercet_proto::coupon_template::v1 as pb;

use super::*;

const DAY_MS: i64 = 86_400_000;
/// Midnight in Beijing, Monday 2026-11-23.
const MONDAY_MS: i64 = 1_795_363_200_000;

/// 满100减10, 满200减30, for everything, claimed for 10 days, valid for 7.
fn sound() -> pb::Rules {
    let step = |threshold_cents, off_cents| pb::Step { threshold_cents, off_cents };
    let steps = vec![step(10_000, 1_000), step(20_000, 3_000)];
    let together = pb::Together { group: "shop".into(), most: 2 };
    pb::Rules {
        discount: Some(pb::Discount { kind: Some(pb::discount::Kind::FullReduction(pb::FullReduction { steps })) }),
        validity: Some(days(7)),
        scope: Some(pb::Scope { kind: Some(pb::scope::Kind::All(pb::Everything {})) }),
        quota: Some(pb::Quota { per_user: 2, per_user_day: 1 }),
        stacking: Some(pb::Stacking { kind: Some(pb::stacking::Kind::Together(together)) }),
        budget: Some(pb::Budget { coupons: 100, cents: 300_000 }),
        claim: Some(pb::Period { start_ms: MONDAY_MS, end_ms: MONDAY_MS + 10 * DAY_MS }),
    }
}

fn days(days: u32) -> pb::Validity {
    pb::Validity { utc_offset_minutes: 480, kind: Some(pb::validity::Kind::DaysFromClaim(days)) }
}

fn fixed(start_ms: i64, end_ms: i64) -> pb::Validity {
    let period = pb::Period { start_ms, end_ms };
    pb::Validity { utc_offset_minutes: 480, kind: Some(pb::validity::Kind::Fixed(period)) }
}

fn steps(steps: &[(i64, i64)]) -> pb::Discount {
    let step = |&(threshold_cents, off_cents)| pb::Step { threshold_cents, off_cents };
    let steps = steps.iter().map(step).collect();
    pb::Discount { kind: Some(pb::discount::Kind::FullReduction(pb::FullReduction { steps })) }
}

fn percentage(off_basis_points: u32, cap_cents: i64, threshold_cents: i64) -> pb::Discount {
    let rule = pb::Percentage { off_basis_points, cap_cents, threshold_cents };
    pb::Discount { kind: Some(pb::discount::Kind::Percentage(rule)) }
}

fn universal(off_cents: i64) -> pb::Discount {
    pb::Discount { kind: Some(pb::discount::Kind::Universal(pb::Universal { off_cents })) }
}

fn categories(ids: &[i64]) -> pb::Scope {
    pb::Scope { kind: Some(pb::scope::Kind::Categories(pb::Ids { ids: ids.to_vec() })) }
}

fn together(group: &str, most: u32) -> pb::Stacking {
    pb::Stacking { kind: Some(pb::stacking::Kind::Together(pb::Together { group: group.into(), most })) }
}

fn rules(edit: impl FnOnce(&mut pb::Rules)) -> Rules {
    let mut wire = sound();
    edit(&mut wire);
    Rules::try_from(&wire).expect("these rules are sound")
}

fn cents(cents: i64) -> Cents {
    Cents::new("cents", cents).expect("an amount")
}

/// One unit of product 1, category 2, shop 3.
fn order(price: i64) -> Order {
    lines(&[(1, 2, 3, price, 1)])
}

fn lines(lines: &[(i64, i64, i64, i64, u32)]) -> Order {
    let line = |&(product_id, category_id, shop_id, price, quantity)| Line {
        product_id,
        category_id,
        shop_id,
        price: cents(price),
        quantity,
    };
    Order::new(lines.iter().map(line).collect()).expect("an order")
}

#[track_caller]
fn off(discount: pb::Discount, amount: i64) -> Result<i64, i64> {
    let rule = DiscountRule::try_from(&discount).expect("the rule is sound");
    match rule.evaluate(cents(amount)) {
        Outcome::Off(off) => Ok(off.get()),
        Outcome::Short(missing) => Err(missing.get()),
    }
}

#[test]
fn a_full_reduction_takes_the_highest_step_that_is_reached() {
    let rule = || steps(&[(10_000, 1_000), (20_000, 3_000)]);
    for (amount, want) in [
        (0, Err(10_000)),
        (9_999, Err(1)),
        (10_000, Ok(1_000)),
        (19_999, Ok(1_000)),
        (20_000, Ok(3_000)),
        (limits::CENTS_MAX, Ok(3_000)),
    ] {
        assert_eq!(off(rule(), amount), want, "{amount}");
    }
}

#[test]
fn a_percentage_rounds_down_and_stops_at_its_cap() {
    // 15 % of 0.06 is 0.009: nothing. Of 0.07 it is 0.0105: one cent.
    for (amount, want) in
        [(6, 0), (7, 1), (999, 149), (10_000, 1_500), (33_333, 4_999), (40_000, 5_000), (1 << 39, 5_000)]
    {
        assert_eq!(off(percentage(1_500, 5_000, 0), amount), Ok(want), "{amount}");
    }
    assert_eq!(off(percentage(1_500, 5_000, 8_000), 7_999), Err(1));
    assert_eq!(off(percentage(1_500, 5_000, 8_000), 8_000), Ok(1_200));
    assert_eq!(off(percentage(10_000, limits::CENTS_MAX, 0), limits::CENTS_MAX), Ok(limits::CENTS_MAX));
}

#[test]
fn a_universal_coupon_needs_no_threshold_and_makes_small_orders_free() {
    assert_eq!([0, 499, 500, 9_000].map(|amount| off(universal(500), amount)), [Ok(0), Ok(499), Ok(500), Ok(500)]);
}

#[test]
fn a_larger_order_never_gets_less_nor_any_order_more_than_it_costs() {
    let mut seed = 1_u64;
    let mut random = |most: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).cast_signed() % most + 1
    };
    for round in 0..600 {
        let discount = match round % 3 {
            0 => {
                let (mut threshold, mut off) = (0, 0);
                let mut step = |_| {
                    threshold += random(5_000);
                    off = (off + random(2_000)).min(threshold);
                    (threshold, off)
                };
                let mut list: Vec<_> = (0..5).map(&mut step).collect();
                list.dedup_by_key(|(_, off)| *off);
                steps(&list)
            }
            1 => percentage(random(10_000) as u32, random(20_000), random(5_000) - 1),
            _ => universal(random(20_000)),
        };
        let rule = DiscountRule::try_from(&discount).expect("the rule is sound");
        let mut before = 0;
        for amount in (0..40_000).step_by(37) {
            let off = match rule.evaluate(cents(amount)) {
                Outcome::Off(off) => off.get(),
                Outcome::Short(missing) => {
                    assert!(missing.get() > 0);
                    let reached = rule.evaluate(cents(amount + missing.get()));
                    assert!(matches!(reached, Outcome::Off(_)), "{rule:?} at {amount}");
                    0
                }
            };
            assert!(before <= off && off <= amount && off <= rule.most().get(), "{rule:?} at {amount}: {off}");
            before = off;
        }
    }
}

type Edit = fn(&mut pb::Rules);

/// What a broken field is called, and its limit.
#[track_caller]
fn check_named(table: &[(Edit, &str)]) {
    for (edit, want) in table {
        let mut wire = sound();
        edit(&mut wire);
        let error = Rules::try_from(&wire).expect_err(want);
        assert_eq!(error.to_string(), *want);
        assert!(!error.limit.text(Language::Zh).is_ascii(), "{want}");
    }
}

#[test]
fn each_invalid_discount_is_named_with_its_limit() {
    check_named(&[
        (|r| r.discount = None, "discount: it has to be given"),
        (|r| r.discount = Some(pb::Discount::default()), "discount.kind: it has to be given"),
        (|r| r.discount = Some(steps(&[])), "discount.full_reduction.steps: it has 1 to 10 entries"),
        (
            |r| r.discount = Some(steps(&[(100, 101)])),
            "discount.full_reduction.steps[0].off_cents: it is at most 100, by threshold_cents",
        ),
        (
            |r| r.discount = Some(steps(&[(100, 0)])),
            "discount.full_reduction.steps[0].off_cents: it is 1 to 1000000000000",
        ),
        (
            |r| r.discount = Some(steps(&[(200, 10), (200, 20)])),
            "discount.full_reduction.steps[1].threshold_cents: it is more than in the entry before",
        ),
        (
            |r| r.discount = Some(steps(&[(200, 10), (300, 10)])),
            "discount.full_reduction.steps[1].off_cents: it is more than in the entry before",
        ),
        (|r| r.discount = Some(percentage(0, 1, 0)), "discount.percentage.off_basis_points: it is 1 to 10000"),
        (|r| r.discount = Some(percentage(10_001, 1, 0)), "discount.percentage.off_basis_points: it is 1 to 10000"),
        (|r| r.discount = Some(percentage(1, 0, 0)), "discount.percentage.cap_cents: it is 1 to 1000000000000"),
        (|r| r.discount = Some(percentage(1, 1, -1)), "discount.percentage.threshold_cents: it is 0 to 1000000000000"),
        (|r| r.discount = Some(universal(0)), "discount.universal.off_cents: it is 1 to 1000000000000"),
    ]);
}

#[test]
fn each_other_invalid_field_is_named_with_its_limit() {
    check_named(&[
        (|r| r.validity = Some(pb::Validity::default()), "validity.kind: it has to be given"),
        (|r| r.validity = Some(days(0)), "validity.days_from_claim: it is 1 to 3650"),
        (|r| r.validity = Some(fixed(5, 5)), "validity.fixed.end_ms: it is later than start_ms"),
        (|r| r.validity = Some(fixed(-1, 5)), "validity.fixed.start_ms: it is 0 to 253402300799999"),
        (
            |r| r.validity = Some(pb::Validity { utc_offset_minutes: 841, ..days(1) }),
            "validity.utc_offset_minutes: it is -720 to 840",
        ),
        (
            |r| r.validity = Some(pb::Validity { utc_offset_minutes: 481, ..days(1) }),
            "validity.utc_offset_minutes: it is a multiple of 15",
        ),
        (
            |r| r.validity = Some(fixed(MONDAY_MS, MONDAY_MS + 10 * DAY_MS - 1)),
            "validity.fixed.end_ms: it is at least 1796227200000, by claim.end_ms",
        ),
        (|r| r.scope = Some(categories(&[])), "scope.categories.ids: it has 1 to 1000 entries"),
        (|r| r.scope = Some(categories(&[4, 0])), "scope.categories.ids[1]: it is 1 to 9223372036854775807"),
        (|r| r.scope = Some(categories(&[4, 5, 4])), "scope.categories.ids[2]: it is in no other entry"),
        (|r| r.quota = Some(pb::Quota { per_user: 0, per_user_day: 1 }), "quota.per_user: it is 1 to 1000"),
        (
            |r| r.quota = Some(pb::Quota { per_user: 2, per_user_day: 3 }),
            "quota.per_user_day: it is at most 2, by per_user",
        ),
        (
            |r| r.quota = Some(pb::Quota { per_user: 101, per_user_day: 1 }),
            "quota.per_user: it is at most 100, by budget.coupons",
        ),
        (|r| r.stacking = Some(together("", 1)), "stacking.together.group: it has 1 to 32 bytes"),
        (|r| r.stacking = Some(together("Shop", 1)), "stacking.together.group: it is made of [a-z0-9_-]"),
        (|r| r.stacking = Some(together("shop", 11)), "stacking.together.most: it is 1 to 10"),
        (|r| r.budget = Some(pb::Budget { coupons: 0, cents: 1 }), "budget.coupons: it is 1 to 1000000000"),
        (
            |r| r.budget = Some(pb::Budget { coupons: 100, cents: 299_999 }),
            "budget.cents: it is at least 300000, by budget.coupons and discount",
        ),
        (|r| r.claim = None, "claim: it has to be given"),
        (|r| r.claim = Some(pb::Period { start_ms: 2, end_ms: 1 }), "claim.end_ms: it is later than start_ms"),
    ]);
}

#[test]
fn rules_come_back_from_wire_and_store_as_they_were() {
    for edit in [
        (|_| ()) as fn(&mut pb::Rules),
        |r| r.discount = Some(percentage(1_500, 3_000, 100)),
        |r| r.discount = Some(universal(3_000)),
        |r| r.validity = Some(fixed(MONDAY_MS, MONDAY_MS + 20 * DAY_MS)),
        |r| r.scope = Some(categories(&[7, 9])),
        |r| r.scope = Some(pb::Scope { kind: Some(pb::scope::Kind::Products(pb::Ids { ids: vec![1] })) }),
        |r| r.scope = Some(pb::Scope { kind: Some(pb::scope::Kind::Shops(pb::Ids { ids: vec![1] })) }),
        |r| r.stacking = Some(pb::Stacking { kind: Some(pb::stacking::Kind::Alone(pb::Alone {})) }),
    ] {
        let mut wire = sound();
        edit(&mut wire);
        let rules = Rules::try_from(&wire).expect("sound");
        assert_eq!(pb::Rules::from(&rules), wire);
        assert_eq!(decode(&encode(&rules)).expect("own text"), rules);
    }
}

/// What is stored stays readable: this text is never changed, only joined by those of later forms.
#[test]
fn the_stored_form_is_this_one() {
    let text = concat!(
        r#"{"form":1,"rules":{"discount":{"kind":{"full_reduction":{"steps":["#,
        r#"{"threshold_cents":10000,"off_cents":1000},"#,
        r#"{"threshold_cents":20000,"off_cents":3000}]}}},"#,
        r#""validity":{"utc_offset_minutes":480,"kind":{"days_from_claim":7}},"scope":{"kind":{"all":{}}},"#,
        r#""quota":{"per_user":2,"per_user_day":1},"stacking":{"kind":{"together":{"group":"shop","most":2}}},"#,
        r#""budget":{"coupons":100,"cents":300000},"#,
        r#""claim":{"start_ms":1795363200000,"end_ms":1796227200000}}}"#,
    );
    assert_eq!(encode(&rules(|_| ())), text);
    for (text, want) in [
        (text.replace("\"form\":1", "\"form\":2"), "stored rules have form 2, and this program knows 1"),
        (text.replace("\"most\"", "\"mots\""), "stored rules are not readable: unknown field `mots`"),
        (text.replace("\"most\":2", "\"most\":0"), "not valid: stacking.together.most: it is 1 to 10"),
        ("{".to_owned(), "stored rules are not readable: EOF"),
    ] {
        let error = decode(&text).expect_err(want);
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        assert!(format!("{error}{source}").contains(want), "{error}{source}");
    }
}

#[test]
fn a_coupon_is_valid_through_whole_days_of_its_zone() {
    let hour_ms = DAY_MS / 24;
    let period = |claimed_ms| rules(|r| r.validity = Some(days(1))).validity().period(claimed_ms);
    for claimed_ms in [MONDAY_MS, MONDAY_MS + 12 * hour_ms, MONDAY_MS + DAY_MS - 1] {
        let period = period(claimed_ms);
        assert_eq!((period.start_ms(), period.end_ms()), (claimed_ms, MONDAY_MS + 2 * DAY_MS));
    }
    assert_eq!(period(MONDAY_MS - 1).end_ms(), MONDAY_MS + DAY_MS, "in Beijing it was still Sunday");
    let west = UtcOffset::new("zone", -720).expect("a zone");
    assert_eq!((west.day(0), west.day(12 * hour_ms), west.day(12 * hour_ms - 1)), (-1, 0, -1));
}

#[test]
fn an_order_gets_the_first_reason_why_a_coupon_does_not_apply() {
    let own = rules(|r| {
        r.scope = Some(categories(&[2]));
        r.validity = Some(fixed(MONDAY_MS, MONDAY_MS + 20 * DAY_MS));
    });
    let at = |order: &Order, now_ms| own.evaluate(order, MONDAY_MS, now_ms);
    let good = order(20_000);
    assert_eq!(at(&good, MONDAY_MS - 1), Err(Refusal::NotYetValid(MONDAY_MS)));
    assert_eq!(at(&good, MONDAY_MS), Ok(cents(3_000)));
    assert_eq!(at(&good, MONDAY_MS + 20 * DAY_MS - 1), Ok(cents(3_000)));
    assert_eq!(at(&good, MONDAY_MS + 20 * DAY_MS), Err(Refusal::Expired(MONDAY_MS + 20 * DAY_MS)));
    assert_eq!(at(&lines(&[(1, 9, 3, 50_000, 1)]), MONDAY_MS), Err(Refusal::OutOfScope));
    // What is outside the scope does not help to reach the threshold.
    let mixed = lines(&[(1, 2, 3, 3_000, 3), (1, 9, 3, 50_000, 1)]);
    assert_eq!(at(&mixed, MONDAY_MS), Err(Refusal::BelowThreshold(cents(1_000))));
}

#[test]
fn scopes_look_at_their_own_field_of_a_line() {
    let order = lines(&[(1, 2, 3, 100, 2), (4, 5, 6, 1_000, 1)]);
    let ids = |id| Ids::new(&[id]).expect("ids");
    for (scope, want) in [
        (Scope::All, Some(1_200)),
        (Scope::Products(ids(1)), Some(200)),
        (Scope::Categories(ids(5)), Some(1_000)),
        (Scope::Shops(ids(3)), Some(200)),
        (Scope::Shops(ids(1)), None),
    ] {
        assert_eq!(order.amount_within(&scope).map(Cents::get), want, "{scope:?}");
    }
}

#[test]
fn an_order_that_costs_too_much_is_none() {
    let line = Line { product_id: 1, category_id: 1, shop_id: 1, price: cents(limits::CENTS_MAX), quantity: 1 };
    assert!(Order::new(vec![line]).is_ok());
    for (lines, field) in [
        (vec![], "lines"),
        (vec![line; 2], "lines"),
        (vec![Line { quantity: limits::QUANTITY_MAX, ..line }; 500], "lines"),
        (vec![Line { quantity: 0, ..line }], "lines[0].quantity"),
    ] {
        assert_eq!(Order::new(lines).expect_err(field).field, field);
    }
}

#[test]
fn a_user_claims_within_the_period_and_the_quota() {
    let own = rules(|_| ());
    let end_ms = MONDAY_MS + 10 * DAY_MS;
    for (now_ms, claimed, today, want) in [
        (MONDAY_MS - 1, 0, 0, Err(Refusal::NotStarted(MONDAY_MS))),
        (MONDAY_MS, 0, 0, Ok(())),
        (end_ms - 1, 1, 0, Ok(())),
        (end_ms, 0, 0, Err(Refusal::Over(end_ms))),
        (MONDAY_MS, 1, 1, Err(Refusal::PerUserDay(1))),
        (MONDAY_MS, 2, 0, Err(Refusal::PerUser(2))),
    ] {
        assert_eq!(own.may_claim(now_ms, claimed, today), want, "{now_ms} {claimed} {today}");
    }
}

#[test]
fn coupons_stack_by_group_in_any_order() {
    let group = |name, most| Stacking::Together(Group::new(name, most).expect("a group"));
    let (alone, shop, shop_one, post) = (Stacking::Alone, group("shop", 2), group("shop", 1), group("post", 1));
    for (coupons, agree) in [
        (vec![], true),
        (vec![&alone], true),
        (vec![&alone, &shop], false),
        (vec![&shop, &shop, &post], true),
        (vec![&shop, &shop, &shop], false),
        (vec![&shop, &shop_one], false),
        (vec![&shop_one, &post], true),
    ] {
        let mut reversed = coupons.clone();
        reversed.reverse();
        assert_eq!((Stacking::agree(&coupons), Stacking::agree(&reversed)), (agree, agree), "{coupons:?}");
    }
}

fn audience(basis_points: u32) -> Audience {
    Audience::new(basis_points, &["staff".to_owned()], &[42]).expect("an audience")
}

/// Every service, today's and tomorrow's, has to find these.
#[test]
fn the_hash_is_this_one() {
    let found = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1), (9_007_199_254_740_993, 7, 123_456_789_012)]
        .map(|(template, version, user)| bucket(template, version, user));
    assert_eq!(found, [5_871, 6_131, 4_987, 5_194, 1_458]);
}

#[test]
fn a_growing_part_keeps_its_users_and_has_its_size() {
    let in_it = |part: u32, version| {
        let audience = audience(part);
        let is_in = move |user: &i64| audience.includes(7, version, *user, &[] as &[&str]);
        (100..20_100).filter(is_in).collect::<BTreeSet<i64>>()
    };
    let mut before = BTreeSet::new();
    for part in [0, 100, 1_000, 5_000, 10_000] {
        let now = in_it(part, 1);
        assert!(before.is_subset(&now), "{part}");
        let want = 2 * part as usize;
        assert!(now.len().abs_diff(want) <= want / 10 + 20, "{part}: {}", now.len());
        before = now;
    }
    let on_edge = (100..).find(|user| bucket(7, 1, *user) == 100).expect("there are many");
    let is_in = |part| audience(part).includes(7, 1, on_edge, &[] as &[&str]);
    assert!(!is_in(100) && is_in(101));
    // Another version draws anew: of a tenth, a tenth again.
    let both = in_it(1_000, 1).intersection(&in_it(1_000, 2)).count();
    assert!((120..=280).contains(&both), "{both}");
}

#[test]
fn an_audience_is_a_part_groups_and_names() {
    let audience = audience(0);
    assert!(audience.includes(1, 1, 42, &[] as &[&str]));
    assert!(audience.includes(1, 1, 43, &["shop", "staff"]));
    assert!(!audience.includes(1, 1, 43, &["shop"]));
    let many = vec![1; limits::AUDIENCE_USERS_MAX + 1];
    for (made, want) in [
        (Audience::new(0, &[], &[]), "basis_points: it selects somebody"),
        (Audience::new(10_001, &[], &[]), "basis_points: it is 0 to 10000"),
        (Audience::new(1, &["\u{202e}".into()], &[]), "groups[0]: it has no control characters"),
        (Audience::new(1, &["x".repeat(65)], &[]), "groups[0]: it has 1 to 64 bytes"),
        (Audience::new(1, &["a".into(), "a".into()], &[]), "groups[1]: it is in no other entry"),
        (Audience::new(1, &[], &[5, 5]), "user_ids[1]: it is in no other entry"),
        (Audience::new(1, &[], &many), "user_ids: it has 0 to 1000 entries"),
    ] {
        assert_eq!(made.expect_err(want).to_string(), want);
    }
}

#[test]
fn an_offer_gives_the_audience_the_new_version_and_the_rest_the_old() {
    let release = |version| Release { version, rules: rules(|_| ()) };
    let version = |offer: &Offer, user| offer.choose(user, &[] as &[&str]).map(|release| release.version);
    let gray = Some((release(2), audience(0)));
    let both = Offer { template_id: 1, revision: 3, live: Some(release(1)), gray, stopped: None };
    assert_eq!((version(&both, 42), version(&both, 43)), (Ok(2), Ok(1)));
    let first = Offer { live: None, ..both.clone() };
    assert_eq!((version(&first, 42), version(&first, 43)), (Ok(2), Err(Refusal::NotOffered)));
    let published = Offer { gray: None, ..both.clone() };
    assert_eq!((version(&published, 42), version(&published, 43)), (Ok(1), Ok(1)));
    let paused = Offer { live: None, stopped: Some(Stopped::Paused), ..published.clone() };
    let ended = Offer { stopped: Some(Stopped::Ended), ..paused.clone() };
    assert_eq!((version(&paused, 42), version(&ended, 42)), (Err(Refusal::Paused), Err(Refusal::Ended)));
    for offer in [both, first, published, paused, ended] {
        assert_eq!(Offer::try_from(&pb::Offer::from(&offer)).expect("own words"), offer);
    }
}

#[test]
fn what_a_limit_comes_from_reads_in_both_languages() {
    for (limit, en, zh) in [
        (Limit::AtMost(Basis::Field("per_user"), 2), "it is at most 2, by per_user", "按 per_user 不能超过 2"),
        (
            Limit::AtLeast(Basis::TakenByOrders, 2),
            "it is at least 2, by what orders have",
            "按订单已占用的件数不能小于 2",
        ),
        (
            Limit::AtLeast(Basis::BudgetAndDiscount, 2),
            "it is at least 2, by budget.coupons and discount",
            "按 budget.coupons 与 discount 不能小于 2",
        ),
        (
            Limit::AtMost(Basis::SumOfAmounts, 2),
            "it is at most 2, by the sum of their amounts",
            "按各项金额之和不能超过 2",
        ),
        (
            Limit::AtMost(Basis::UnitsOfProduct, 2),
            "it is at most 2, by the units of one product",
            "按同一商品的件数不能超过 2",
        ),
    ] {
        assert_eq!((limit.text(Language::En), limit.text(Language::Zh)), (en.to_owned(), zh.to_owned()));
    }
}

#[test]
fn every_fault_travels_and_reads_in_both_languages() {
    let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), Code::ALL.len());
    let all = [
        "field",
        "limit",
        "limit_zh",
        "what",
        "id",
        "revision",
        "status",
        "action",
        "version",
        "missing",
        "coupon_id",
        "detail",
        "detail_zh",
        "method",
        "path",
        "request_id",
        "role",
        "seconds",
        "discount",
        "order_id",
        "product_id",
        "due",
    ];
    for code in Code::ALL {
        let fault = code.fault(all.map(|name| (name, format!("<{name}>"))));
        let (en, zh) = (fault.text(Language::En), fault.text(Language::Zh));
        assert!(!zh.is_ascii() && en.is_ascii() && !en.is_empty(), "{en} {zh}");
        for text in [&en, &zh] {
            assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
        }
        let argument = |name: &&str| en.contains(&format!("<{name}>"));
        let in_zh = |name: &&str| zh.contains(&format!("<{name}>")) || zh.contains(&format!("<{name}_zh>"));
        assert!(all.iter().filter(|name| argument(name)).all(in_zh), "{zh} lacks what {en} has");
        let status = fault.status();
        assert_eq!((status.code(), status.message()), (code.grpc(), en.as_str()));
        assert_eq!(Fault::from_status(&status).as_ref(), Some(&fault));
        let cancelled = format!("coupon refused: {}", fault.reason());
        assert_eq!(Fault::from_reason(&fault.reason()).as_ref(), Some(&fault));
        assert_eq!(Fault::from_reason(&cancelled), Some(fault));
    }
    let limit = Code::PerUserLimit.fault([("limit", "2".to_owned()), ("final", "a,b=(c)".to_owned())]);
    assert_eq!(limit.reason(), "PER_USER_LIMIT(limit=2): Each user may claim 2");
    for reason in ["", "the deadline has passed", "coupon refused: coupon 5 exists", "SOLD_OUTER: it is"] {
        assert_eq!(Fault::from_reason(reason), None, "{reason}");
    }
    let busy = Code::SystemBusy.fault([]);
    assert_eq!(busy.text(Language::Zh), "系统繁忙，请稍后重试");
    assert_eq!(busy.text(Language::En), "The system is busy, please try again later");
    assert_eq!(Fault::from_status(&tonic::Status::not_found("a proxy says so")), None);
    let missing = Fault::from(Refusal::BelowThreshold(cents(1_205)));
    assert_eq!(missing.text(Language::Zh), "还差 12.05 元可用");
    let gone = Code::NotFound.fault([("what", "template".to_owned()), ("id", "7".to_owned())]);
    assert_eq!(gone.text(Language::Zh), "优惠券模板 7 不存在");
    assert_eq!(gone.text(Language::En), "template 7 does not exist");
}
