//! Coupons that are tried on one order together: what each takes off beside the others, and which are best.
//!
//! Each coupon takes off what it takes off alone, by the order as it was: no coupon moves another below its threshold.
//! They do so in turn, those for products first, then those for categories, shops and everything, by id within each;
//! none takes more than those before it have left of the lines that it is for. So no line falls below zero, and what a
//! set of coupons takes off does not hang on how it is listed.
//!
//! # The best ones
//! While no line runs out, every coupon brings what it brings alone, and the best set is exact and cheap: for each
//! group of stacking, of those that allow k of it, the k largest, for the k that brings the most; or one coupon that
//! stands alone. Where lines run out, a search over the sets that agree goes on from there: branch and bound, the
//! largest coupon first, no branch whose coupons could not bring more than the best so far. It ends after
//! [`SETS_MAX`] sets, so then, and only then, a better set may be missed. Of sets that bring the same, one without a
//! coupon that brings nothing is taken.
//!
//! Of more than [`COMBINED_MAX`] coupons those are looked at together that bring the most alone: first of each group of
//! stacking as many as it allows, and the best one that stands alone, so that nothing is missed while no line runs out.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{COMBINED_MAX, SETS_MAX};
use crate::money::Cents;
use crate::order::Order;
use crate::rules::Rules;
use crate::scope::Scope;
use crate::stacking::Stacking;

/// A coupon that applies to the order by itself.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The coupon.
    pub coupon_id: i64,
    /// Its rules.
    pub rules: &'a Rules,
    /// What it takes off alone, by [`Rules::evaluate`].
    pub off: Cents,
}

/// Some of the coupons of a basket, by their place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u32);

/// An order, and coupons that each apply to it.
#[derive(Clone, Debug)]
pub struct Basket<'a> {
    candidates: Vec<Candidate<'a>>,
    /// Places, in the order in which coupons take off.
    turns: Vec<usize>,
    /// What lines cost, by the coupons that are for them.
    lines: Vec<(Set, Cents)>,
    amount: Cents,
}

impl Set {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The first so many, at most [`COMBINED_MAX`].
    pub fn first(count: usize) -> Self {
        (0..count.min(COMBINED_MAX)).fold(Self::NONE, Self::with)
    }

    /// Whether the coupon at this place is in it.
    pub const fn has(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// With the coupon at this place.
    #[must_use]
    pub const fn with(self, at: usize) -> Self {
        Self(self.0 | 1 << at)
    }

    const fn without(self, at: usize) -> Self {
        Self(self.0 & !(1 << at))
    }
}

impl<'a> Basket<'a> {
    /// Of more than [`COMBINED_MAX`] coupons the most promising, in their order; of those that bring the same, those
    /// that are listed first.
    pub fn new(order: &Order, candidates: Vec<Candidate<'a>>) -> Self {
        let candidates = promising(candidates);
        let breadth = |at: &usize| match candidates[*at].rules.scope() {
            Scope::Products(_) => 0,
            Scope::Categories(_) => 1,
            Scope::Shops(_) => 2,
            Scope::All => 3,
        };
        let mut turns: Vec<usize> = (0..candidates.len()).collect();
        turns.sort_unstable_by_key(|at| (breadth(at), candidates[*at].coupon_id));
        let mut lines: BTreeMap<u32, Cents> = BTreeMap::new();
        for line in order.lines() {
            let covers = |at: &usize| candidates[*at].rules.scope().covers(line);
            let by = (0..candidates.len()).filter(covers).fold(Set::NONE, Set::with);
            let sum = lines.entry(by.0).or_default();
            *sum = [*sum, line.amount()].into_iter().sum();
        }
        let lines = lines.into_iter().map(|(by, amount)| (Set(by), amount)).collect();
        Self { candidates, turns, lines, amount: order.amount() }
    }

    /// The coupons, by their place.
    pub fn candidates(&self) -> &[Candidate<'a>] {
        &self.candidates
    }

    /// Whether these may be used together.
    pub fn agree(&self, set: Set) -> bool {
        let stacking: Vec<&Stacking> = self.of(set).map(|(_, own)| own.rules.stacking()).collect();
        Stacking::agree(&stacking)
    }

    /// Whether one more coupon may be used beside these.
    pub fn has_room(&self, set: Set, rules: &Rules) -> bool {
        let mut stacking: Vec<&Stacking> = self.of(set).map(|(_, own)| own.rules.stacking()).collect();
        stacking.push(rules.stacking());
        stacking.len() <= COMBINED_MAX && Stacking::agree(&stacking)
    }

    /// What each of these takes off beside the others, by its place.
    pub fn deductions(&self, set: Set) -> Vec<(usize, Cents)> {
        let mut left: Vec<Cents> = self.lines.iter().map(|(_, amount)| *amount).collect();
        let mut taken = Vec::with_capacity(self.candidates.len());
        for at in self.turns.iter().copied().filter(|at| set.has(*at)) {
            let mut wanted = self.candidates[at].off;
            for ((_, left), (by, _)) in left.iter_mut().enumerate().zip(&self.lines) {
                if by.has(at) {
                    let part = wanted.min(*left);
                    (*left, wanted) = (left.less(part), wanted.less(part));
                }
            }
            taken.push((at, self.candidates[at].off.less(wanted)));
        }
        taken.sort_unstable_by_key(|(at, _)| *at);
        taken
    }

    /// The coupons that take off the most together; see above.
    pub fn best(&self) -> Set {
        let mut search = Search { basket: self, best: Set::NONE, most: Cents::ZERO, sets: 0 };
        for at in 0..self.candidates.len() {
            search.look(Set::NONE.with(at));
        }
        let grouped = self.grouped();
        search.look(grouped);
        if search.most < self.amount.min(self.alone(grouped)) {
            let mut by_size: Vec<usize> = (0..self.candidates.len()).collect();
            by_size.sort_unstable_by_key(|at| (std::cmp::Reverse(self.candidates[*at].off), *at));
            search.branch(Set::NONE, Cents::ZERO, &by_size);
        }
        self.needed(search.best)
    }

    /// Without those that bring nothing beside the others, the smallest first.
    fn needed(&self, mut set: Set) -> Set {
        let mut by_size: Vec<usize> = self.of(set).map(|(at, _)| at).collect();
        by_size.sort_unstable_by_key(|at| self.candidates[*at].off);
        for at in by_size {
            if self.total(set.without(at)) == self.total(set) {
                set = set.without(at);
            }
        }
        set
    }

    /// The best of each group, as if every coupon brought what it brings alone.
    fn grouped(&self) -> Set {
        let mut groups: BTreeMap<&str, Vec<(usize, u32)>> = BTreeMap::new();
        for (at, candidate) in self.candidates.iter().enumerate() {
            if let Stacking::Together(group) = candidate.rules.stacking() {
                groups.entry(group.name()).or_default().push((at, group.most()));
            }
        }
        let best_of = |mut group: Vec<(usize, u32)>| {
            group.sort_unstable_by_key(|(at, _)| (std::cmp::Reverse(self.candidates[*at].off), *at));
            let most = group.iter().map(|(_, most)| *most).max().unwrap_or(0);
            let of = |count: u32| {
                let allow = group.iter().filter(|(_, most)| *most >= count).map(|(at, _)| *at);
                allow.take(count as usize).fold(Set::NONE, Set::with)
            };
            // The smallest of those that bring the same.
            (1..=most).rev().map(of).max_by_key(|set| self.alone(*set)).unwrap_or_default()
        };
        groups.into_values().map(best_of).fold(Set::NONE, |all, group| Set(all.0 | group.0))
    }

    fn of(&self, set: Set) -> impl Iterator<Item = (usize, &Candidate<'a>)> {
        self.candidates.iter().enumerate().filter(move |(at, _)| set.has(*at))
    }

    /// What these bring where no line runs out.
    fn alone(&self, set: Set) -> Cents {
        self.of(set).map(|(_, candidate)| candidate.off).sum()
    }

    fn total(&self, set: Set) -> Cents {
        self.deductions(set).into_iter().map(|(_, off)| off).sum()
    }
}

/// See [above](self): as many as a basket holds.
fn promising(candidates: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    if candidates.len() <= COMBINED_MAX {
        return candidates;
    }
    let mut by_size: Vec<usize> = (0..candidates.len()).collect();
    by_size.sort_by_key(|at| std::cmp::Reverse(candidates[*at].off));
    // By group and number: how many that allow so many of it, this one included, bring no less.
    let mut before: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    let mut alone = 0;
    let mut is_first = |at: &usize| match candidates[*at].rules.stacking() {
        Stacking::Alone => {
            alone += 1;
            alone == 1
        }
        Stacking::Together(group) => (1..=group.most()).fold(false, |found, count| {
            let so_far = before.entry((group.name(), count)).or_default();
            *so_far += 1;
            found || *so_far <= count
        }),
    };
    let (first, rest): (Vec<usize>, Vec<usize>) = by_size.into_iter().partition(&mut is_first);
    let kept: BTreeSet<usize> = first.into_iter().chain(rest).take(COMBINED_MAX).collect();
    kept.into_iter().map(|at| candidates[at]).collect()
}

struct Search<'a> {
    basket: &'a Basket<'a>,
    best: Set,
    most: Cents,
    sets: usize,
}

impl Search<'_> {
    fn look(&mut self, set: Set) {
        self.sets += 1;
        let total = self.basket.total(set);
        if total > self.most {
            (self.best, self.most) = (set, total);
        }
    }

    /// All sets that agree and have `set` and some of `rest`.
    fn branch(&mut self, set: Set, alone: Cents, rest: &[usize]) {
        for (taken, at) in rest.iter().copied().enumerate() {
            let left: Cents = rest[taken..].iter().map(|at| self.basket.candidates[*at].off).sum();
            let bound = [alone, left].into_iter().sum::<Cents>().min(self.basket.amount);
            if self.sets >= SETS_MAX || bound <= self.most {
                return;
            }
            let with = set.with(at);
            if self.basket.agree(with) {
                self.look(with);
                let alone = [alone, self.basket.candidates[at].off].into_iter().sum();
                self.branch(with, alone, &rest[taken + 1..]);
            }
        }
    }
}
