//! Seeds, crashes and replays. What breaks prints how to run it again.

use super::*;

#[test]
fn seeds_0_to_2000_end_well() {
    let campaign = campaign(0..2_000, |_| true);
    let (seed, what) = campaign.broken.first_key_value().unzip();
    assert!(
        seed.is_none(),
        "{} seeds are broken; sim --seed {} --trace: {what:#?}",
        campaign.broken.len(),
        seed.unwrap()
    );
    assert_eq!(campaign.missing(), Vec::<&str>::new(), "faults that never happened");
    assert!(campaign.ended.0 > 20_000 && campaign.ended.1 > 10_000, "{:?} ended", campaign.ended);
    assert!(campaign.parked > 100, "{} parked", campaign.parked);
}

#[test]
fn a_crash_at_any_point_breaks_nothing() {
    let points = crash::everywhere(false);
    assert!(points.broken.is_empty(), "{} broken: {:#?}", points.broken.len(), points.broken.first());
    assert!(points.coordinator > 300 && points.participants > 500, "{points:?}");
}

#[test]
fn every_planted_bug_is_found_within_500_seeds() {
    let hunted = mutants::hunt(&[], 500, |one| println!("{one:?}")).unwrap();
    assert!(hunted.len() >= 8, "{hunted:?}");
    let unseen: Vec<_> = hunted.iter().filter(|one| one.found.is_none()).map(|one| &one.bug).collect();
    assert!(unseen.is_empty(), "{unseen:?} went unseen: {hunted:#?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 77, 123_456_789] {
        let (first, again) = (run_watched(seed, true, None), run_watched(seed, true, None));
        let differ = first.trace.iter().zip(&again.trace).find(|(first, again)| first != again);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!((first.digest, first.simulated), (again.digest, again.simulated), "seed {seed}");
        assert_ne!(first.digest, run(seed + 1).digest);
    }
}
