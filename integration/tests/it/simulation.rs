//! Seeds of the simulation. A broken one prints its seed: `sim --from SEED --seeds 1` runs it again.

use tercet_integration::sim::{self, Planted};

#[test]
fn seeds_0_to_500_end_well() {
    let mut crashes = 0;
    for seed in 0..500 {
        let report = sim::run(seed, None);
        assert!(report.broken.is_empty(), "seed {seed}: {:#?}", report.broken);
        assert!(report.ended.0 + report.ended.1 > 10, "seed {seed}: a run in which nothing happened");
        crashes += report.faults.get("coordinator crashed").copied().unwrap_or_default();
    }
    assert!(crashes > 1_000, "only {crashes} crashes in all runs");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 77, 123_456_789] {
        let (first, again) = (sim::run(seed, None), sim::run(seed, None));
        assert_eq!((first.digest, first.simulated), (again.digest, again.simulated), "seed {seed}");
        assert_ne!(first.digest, sim::run(seed + 1, None).digest);
    }
}

#[test]
fn each_planted_fault_is_found() {
    for planted in [Planted::ActBeforePersist, Planted::UnknownIsRefused, Planted::NoFence] {
        let found = (0..500).find(|seed| !sim::run(*seed, Some(planted)).broken.is_empty());
        assert!(found.is_some(), "{planted:?} went unseen in 500 seeds");
    }
}
