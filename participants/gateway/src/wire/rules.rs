//! The rules of coupons. Names and places are those that the services' errors tell.

use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::Fault;

use crate::schema::{Id, Nothing, records};
use crate::wire::common::one_of;

records! {
    /// What a kind of coupon takes off, when and for what it is valid, and who may claim how many.
    Rules {
        /// What a coupon takes off.
        discount: Discount,
        /// When a coupon is valid.
        validity: Validity,
        /// Which products count.
        scope: Scope,
        /// How many a user may claim.
        quota: Quota,
        /// What else may be used in the same order.
        stacking: Stacking,
        /// How many there are, and what they cost at most.
        budget: Budget,
        /// When coupons may be claimed.
        claim: Period,
    }

    /// Exactly one of its parts.
    Discount {
        /// An amount for each threshold.
        full_reduction: Option<FullReduction>,
        /// A part of the order, up to a cap.
        percentage: Option<Percentage>,
        /// An amount, whatever the order costs.
        universal: Option<Universal>,
    }

    /// The highest step that the order reaches counts.
    FullReduction {
        /// 1 to 10, both amounts rising.
        steps: Vec<Step>,
    }

    /// A step of a full reduction.
    Step {
        /// What the order costs at least.
        threshold_cents: i64,
        /// What is taken off, at most the threshold.
        off_cents: i64,
    }

    /// A part of the order, rounded down to the cent.
    Percentage {
        /// 1 to 10,000: 1,500 takes 15 % off.
        off_basis_points: u32,
        /// Most that it takes off.
        cap_cents: i64,
        /// What the order costs at least; none when left out.
        threshold_cents: Option<i64>,
    }

    /// An amount without a threshold; an order that costs less is free.
    Universal {
        /// What is taken off.
        off_cents: i64,
    }

    /// Exactly one of `fixed` and `days_from_claim`.
    Validity {
        /// Whose days count, east of UTC: 480 is Beijing.
        utc_offset_minutes: i32,
        /// The same time for every coupon.
        fixed: Option<Period>,
        /// From the claim to the midnight after so many whole days.
        days_from_claim: Option<u32>,
    }

    /// A time with a beginning and an end, in milliseconds since 1970 UTC.
    Period {
        /// Its first moment.
        start_ms: i64,
        /// The first moment after it.
        end_ms: i64,
    }

    /// Exactly one of its parts.
    Scope {
        /// Everything.
        all: Option<Nothing>,
        /// Products of these categories.
        categories: Option<Ids>,
        /// These products.
        products: Option<Ids>,
        /// Products of these shops.
        shops: Option<Ids>,
    }

    /// Numbers of something.
    Ids {
        /// 1 to 1,000, none twice.
        ids: Vec<Id>,
    }

    /// How many coupons a user may claim.
    Quota {
        /// In all.
        per_user: u32,
        /// In a day of the validity's zone.
        per_user_day: u32,
    }

    /// Exactly one of its parts.
    Stacking {
        /// No other coupon in the order.
        alone: Option<Nothing>,
        /// With coupons of other groups, and some of its own.
        together: Option<Together>,
    }

    /// A group of coupons.
    Together {
        /// Its name, 1 to 32 of [a-z0-9_-].
        group: String,
        /// How many of it an order may use, 1 to 10.
        most: u32,
    }

    /// How many coupons there are, and what they cost.
    Budget {
        /// Coupons in all.
        coupons: i64,
        /// What they cost at most.
        cents: i64,
    }
}

records! {
    /// What a coupon is good for, as far as it matters to who has it.
    Terms {
        /// What it takes off.
        discount: Discount,
        /// Which products count. In lists it names 20 things at most.
        scope: Scope,
        /// How many more things the scope has than it names here.
        scope_left_out: Option<u32>,
        /// What else may be used in the same order.
        stacking: Stacking,
    }
}

impl Terms {
    /// Of these rules, with so many things of their scope by name.
    pub(crate) fn of(rules: pb::Rules, named: usize) -> Self {
        let mut scope = Scope::from(rules.scope.unwrap_or_default());
        let lists = [&mut scope.categories, &mut scope.products, &mut scope.shops];
        let left_out = lists.into_iter().flatten().map(|list| {
            let more = list.ids.len().saturating_sub(named);
            list.ids.truncate(named);
            more
        });
        let left_out = u32::try_from(left_out.sum::<usize>()).ok().filter(|more| *more > 0);
        let (discount, stacking) = (rules.discount.unwrap_or_default(), rules.stacking.unwrap_or_default());
        Self { discount: discount.into(), scope, scope_left_out: left_out, stacking: stacking.into() }
    }
}

impl Rules {
    /// For the services.
    ///
    /// # Errors
    /// When something has more than one of its parts, or none; all else the services tell.
    pub(crate) fn wire(self) -> Result<pb::Rules, Fault> {
        Ok(pb::Rules {
            discount: Some(self.discount.wire()?),
            validity: Some(self.validity.wire()?),
            scope: Some(self.scope.wire()?),
            quota: Some(pb::Quota { per_user: self.quota.per_user, per_user_day: self.quota.per_user_day }),
            stacking: Some(self.stacking.wire()?),
            budget: Some(pb::Budget { coupons: self.budget.coupons, cents: self.budget.cents }),
            claim: Some(self.claim.wire()),
        })
    }
}

impl Discount {
    fn wire(self) -> Result<pb::Discount, Fault> {
        use pb::discount::Kind;
        let step = |Step { threshold_cents, off_cents }| pb::Step { threshold_cents, off_cents };
        let full = |own: FullReduction| pb::FullReduction { steps: own.steps.into_iter().map(step).collect() };
        let percentage = |own: Percentage| pb::Percentage {
            off_basis_points: own.off_basis_points,
            cap_cents: own.cap_cents,
            threshold_cents: own.threshold_cents.unwrap_or_default(),
        };
        let universal = |own: Universal| pb::Universal { off_cents: own.off_cents };
        let kind = one_of(
            "rules.discount",
            [
                self.full_reduction.map(|own| Kind::FullReduction(full(own))),
                self.percentage.map(|own| Kind::Percentage(percentage(own))),
                self.universal.map(|own| Kind::Universal(universal(own))),
            ],
        )?;
        Ok(pb::Discount { kind: Some(kind) })
    }
}

impl Validity {
    fn wire(self) -> Result<pb::Validity, Fault> {
        use pb::validity::Kind;
        let fixed = self.fixed.map(|period| Kind::Fixed(period.wire()));
        let kind = one_of("rules.validity", [fixed, self.days_from_claim.map(Kind::DaysFromClaim)])?;
        Ok(pb::Validity { utc_offset_minutes: self.utc_offset_minutes, kind: Some(kind) })
    }
}

impl Period {
    const fn wire(self) -> pb::Period {
        pb::Period { start_ms: self.start_ms, end_ms: self.end_ms }
    }
}

impl Scope {
    fn wire(self) -> Result<pb::Scope, Fault> {
        use pb::scope::Kind;
        let ids = |own: Ids| pb::Ids { ids: own.ids.into_iter().map(|id| id.0).collect() };
        let kind = one_of(
            "rules.scope",
            [
                self.all.map(|_| Kind::All(pb::Everything {})),
                self.categories.map(|own| Kind::Categories(ids(own))),
                self.products.map(|own| Kind::Products(ids(own))),
                self.shops.map(|own| Kind::Shops(ids(own))),
            ],
        )?;
        Ok(pb::Scope { kind: Some(kind) })
    }
}

impl Stacking {
    fn wire(self) -> Result<pb::Stacking, Fault> {
        use pb::stacking::Kind;
        let together = |Together { group, most }| pb::Together { group, most };
        let kind = one_of(
            "rules.stacking",
            [self.alone.map(|_| Kind::Alone(pb::Alone {})), self.together.map(|own| Kind::Together(together(own)))],
        )?;
        Ok(pb::Stacking { kind: Some(kind) })
    }
}

/// As a service tells them. Parts that it left out are empty: it checks what it keeps.
impl From<pb::Rules> for Rules {
    fn from(wire: pb::Rules) -> Self {
        let (quota, budget) = (wire.quota.unwrap_or_default(), wire.budget.unwrap_or_default());
        Self {
            discount: wire.discount.unwrap_or_default().into(),
            validity: wire.validity.unwrap_or_default().into(),
            scope: wire.scope.unwrap_or_default().into(),
            quota: Quota { per_user: quota.per_user, per_user_day: quota.per_user_day },
            stacking: wire.stacking.unwrap_or_default().into(),
            budget: Budget { coupons: budget.coupons, cents: budget.cents },
            claim: wire.claim.unwrap_or_default().into(),
        }
    }
}

impl From<pb::Discount> for Discount {
    fn from(wire: pb::Discount) -> Self {
        use pb::discount::Kind;
        let mut own = Self { full_reduction: None, percentage: None, universal: None };
        match wire.kind {
            Some(Kind::FullReduction(wire)) => {
                let step = |pb::Step { threshold_cents, off_cents }| Step { threshold_cents, off_cents };
                own.full_reduction = Some(FullReduction { steps: wire.steps.into_iter().map(step).collect() });
            }
            Some(Kind::Percentage(pb::Percentage { off_basis_points, cap_cents, threshold_cents })) => {
                let threshold_cents = (threshold_cents > 0).then_some(threshold_cents);
                own.percentage = Some(Percentage { off_basis_points, cap_cents, threshold_cents });
            }
            Some(Kind::Universal(wire)) => own.universal = Some(Universal { off_cents: wire.off_cents }),
            None => {}
        }
        own
    }
}

impl From<pb::Validity> for Validity {
    fn from(wire: pb::Validity) -> Self {
        use pb::validity::Kind;
        let utc_offset_minutes = wire.utc_offset_minutes;
        let (fixed, days_from_claim) = match wire.kind {
            Some(Kind::Fixed(period)) => (Some(period.into()), None),
            Some(Kind::DaysFromClaim(days)) => (None, Some(days)),
            None => (None, None),
        };
        Self { utc_offset_minutes, fixed, days_from_claim }
    }
}

impl From<pb::Period> for Period {
    fn from(pb::Period { start_ms, end_ms }: pb::Period) -> Self {
        Self { start_ms, end_ms }
    }
}

impl From<pb::Scope> for Scope {
    fn from(wire: pb::Scope) -> Self {
        use pb::scope::Kind;
        let ids = |wire: pb::Ids| Some(Ids { ids: wire.ids.into_iter().map(Id).collect() });
        let mut own = Self { all: None, categories: None, products: None, shops: None };
        match wire.kind {
            Some(Kind::All(pb::Everything {})) => own.all = Some(Nothing {}),
            Some(Kind::Categories(wire)) => own.categories = ids(wire),
            Some(Kind::Products(wire)) => own.products = ids(wire),
            Some(Kind::Shops(wire)) => own.shops = ids(wire),
            None => {}
        }
        own
    }
}

impl From<pb::Stacking> for Stacking {
    fn from(wire: pb::Stacking) -> Self {
        use pb::stacking::Kind;
        match wire.kind {
            Some(Kind::Alone(pb::Alone {})) => Self { alone: Some(Nothing {}), together: None },
            Some(Kind::Together(pb::Together { group, most })) => {
                Self { alone: None, together: Some(Together { group, most }) }
            }
            None => Self { alone: None, together: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_rules::{Code, Limit};

    use super::*;
    use crate::schema::Body as _;

    const EVERY_KIND: [&str; 4] = [
        r#"{"discount":{"universal":{"off_cents":500}},"validity":{"utc_offset_minutes":480,"days_from_claim":7},
            "scope":{"all":{}},"quota":{"per_user":2,"per_user_day":1},"stacking":{"alone":{}},
            "budget":{"coupons":10,"cents":5000},"claim":{"start_ms":1,"end_ms":2}}"#,
        r#"{"discount":{"full_reduction":{"steps":[{"threshold_cents":300,"off_cents":30}]}},
            "validity":{"utc_offset_minutes":-60,"fixed":{"start_ms":1,"end_ms":9}},
            "scope":{"categories":{"ids":["1","9223372036854775807"]}},"quota":{"per_user":2,"per_user_day":1},
            "stacking":{"together":{"group":"g","most":2}},
            "budget":{"coupons":10,"cents":5000},"claim":{"start_ms":1,"end_ms":2}}"#,
        r#"{"discount":{"percentage":{"off_basis_points":1500,"cap_cents":900}},
            "validity":{"utc_offset_minutes":0,"days_from_claim":1},
            "scope":{"products":{"ids":["1"]}},"quota":{"per_user":2,"per_user_day":1},"stacking":{"alone":{}},
            "budget":{"coupons":10,"cents":9000},"claim":{"start_ms":1,"end_ms":2}}"#,
        r#"{"discount":{"percentage":{"off_basis_points":1500,"cap_cents":900,"threshold_cents":10}},
            "validity":{"utc_offset_minutes":0,"days_from_claim":1},
            "scope":{"shops":{"ids":["1"]}},"quota":{"per_user":2,"per_user_day":1},"stacking":{"alone":{}},
            "budget":{"coupons":10,"cents":9000},"claim":{"start_ms":1,"end_ms":2}}"#,
    ];

    #[test]
    fn every_kind_comes_back_as_it_went() {
        for text in EVERY_KIND {
            let wire = Rules::read(text.as_bytes()).expect("it is JSON").wire().expect("each has one part");
            tercet_rules::Rules::try_from(&wire).expect("they make sense");
            let back = serde_json::to_value(Rules::from(wire)).expect("it has a form");
            assert_eq!(back, serde_json::from_str::<serde_json::Value>(text).expect("it is JSON"));
        }
    }

    #[test]
    fn more_than_one_part_or_none_is_told_by_its_field() {
        for (part, wrong, field) in [
            (r#"{"universal":{"off_cents":500}}"#, "{}", "rules.discount"),
            (r#"{"alone":{}}"#, r#"{"alone":{},"together":{"group":"g","most":2}}"#, "rules.stacking"),
            (r#"{"all":{}}"#, r#"{"all":{},"shops":{"ids":["1"]}}"#, "rules.scope"),
            (r#","days_from_claim":7"#, "", "rules.validity"),
        ] {
            let text = EVERY_KIND[0].replacen(part, wrong, 1);
            let fault = Rules::read(text.as_bytes()).expect("it is JSON").wire().expect_err("it is ambiguous");
            assert_eq!(fault, tercet_rules::Invalid::new(field, Limit::OneOf).into());
            assert_eq!(fault.code, Code::Invalid);
        }
    }
}
