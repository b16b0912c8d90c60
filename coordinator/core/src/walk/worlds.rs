//! Where walks begin: every shape of branches in every mode.

use super::*;

pub(super) const RETRY: RetryPolicy = RetryPolicy {
    first_delay_ms: 0,
    factor_percent: 100,
    delay_max_ms: 0,
    jitter_percent: 0,
    quick_attempts: 1,
    attempts: 2,
};

/// Every shape of up to three branches; others are the same with the branches in another order.
pub(super) const SHAPES: [&[&[u8]]; 11] = [
    &[&[]],
    &[&[], &[]],
    &[&[], &[0]],
    &[&[], &[], &[]],
    &[&[], &[0], &[]],
    &[&[], &[], &[0]],
    &[&[], &[], &[1]],
    &[&[], &[0], &[0]],
    &[&[], &[0], &[1]],
    &[&[], &[], &[0, 1]],
    &[&[], &[0], &[0, 1]],
];

pub(super) fn plan(shape: &[&[u8]], operations: Operations) -> Vec<Branch> {
    shape.iter().map(|after| Branch::new(operations, after, RETRY, 0)).collect()
}

/// The shapes with so many branches.
pub(super) fn shapes(
    counts: core::ops::RangeInclusive<usize>,
) -> impl Iterator<Item = &'static &'static [&'static [u8]]> {
    SHAPES.iter().filter(move |shape| counts.contains(&shape.len()))
}

pub(super) fn declared(
    operations: Operations,
    counts: core::ops::RangeInclusive<usize>,
) -> impl Iterator<Item = World> {
    shapes(counts).map(move |shape| World { plan: plan(shape, operations), manual: false, chained: false })
}

/// A sender, and receivers in one of the shapes.
pub(super) fn prepared(counts: core::ops::RangeInclusive<usize>) -> impl Iterator<Item = World> {
    shapes(counts).map(|shape| {
        let mut branches = vec![Branch::new(Operations::SENDER, &[], RETRY, 0)];
        let receivers = plan(shape, Operations::RECEIVER);
        branches.extend(receivers.into_iter().map(|mut branch| {
            branch.after = branch.after.iter().map(|index| index + 1).collect();
            branch
        }));
        World { plan: branches, manual: false, chained: false }
    })
}

/// An initiator that adds up to so many branches, one after the other.
pub(super) fn begun(operations: Operations, chained: bool, count: usize) -> impl Iterator<Item = World> {
    let shape: &[&[u8]] = &[&[], &[], &[]];
    core::iter::once(World { plan: plan(&shape[..count], operations), manual: true, chained })
}
