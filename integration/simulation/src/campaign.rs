//! Many seeds, on every processor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{Fault, Report, run};

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// How many ran.
    pub seeds: u64,
    /// Simulated time of all.
    pub simulated: Duration,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Transactions that ended confirmed, and cancelled.
    pub ended: (u64, u64),
    /// Branches that wait for a person.
    pub parked: u64,
    /// The seeds that are broken, and what they broke.
    pub broken: BTreeMap<u64, Vec<String>>,
}

impl Campaign {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        report.faults.into_iter().for_each(|(kind, count)| *self.faults.entry(kind).or_default() += count);
        self.ended = (self.ended.0 + report.ended.0, self.ended.1 + report.ended.1);
        self.parked += report.parked;
        if !report.broken.is_empty() {
            self.broken.insert(report.seed, report.broken);
        }
    }

    /// Kinds of faults that never happened: of these it proves nothing.
    pub fn missing(&self) -> Vec<&'static str> {
        Fault::ALL.iter().map(|kind| kind.name()).filter(|name| !self.faults.contains_key(name)).collect()
    }
}

/// Runs seeds, each as it would run alone. `ran` hears of each, and ends the campaign with `false`.
pub fn campaign(seeds: Range<u64>, ran: impl Fn(&Report) -> bool + Sync) -> Campaign {
    let (next, over) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let sum = Mutex::new(Campaign::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(seed);
                    if !ran(&report) {
                        over.store(true, Ordering::Relaxed);
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(report);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}
