//! Instead of chance: one transaction of each kind, and a crash at every point between two durable writes of the
//! coordinator and of each participant, one after the other, until no crash happens any more.

use std::collections::BTreeMap;
use std::thread;

use tercet_proto::coordinator::v1::Mode;

use crate::database::Manner::{self, *};
use crate::initiator::{Ends, Kind, Scenario, Script};
use crate::{Report, Setup, Victim, simulate};

/// The services of these runs, an instance each.
const INSTANCES: [&str; 3] = ["a", "b", "c"];

const VICTIMS: [Victim; 4] =
    [Victim::Coordinator, Victim::Participant(0), Victim::Participant(1), Victim::Participant(2)];

/// Who crashes starts again at once, or after every deadline of the scenarios.
const RESTARTS_MS: [u64; 2] = [20, 10_000];

/// More points than any scenario has: one that passes so many does not end.
const POINTS_MAX: u64 = 2_000;

/// How a transaction without a crash ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Confirmed,
    Cancelled,
    Parked,
}

const fn one(kind: Kind, branches: &'static [(&'static str, Manner)], ending: Ending) -> Case {
    Case { kind, branches, deadline_ms: 2_000, late_ms: 0, ending }
}

struct Case {
    kind: Kind,
    branches: &'static [(&'static str, Manner)],
    deadline_ms: u32,
    late_ms: u64,
    ending: Ending,
}

const TCC: Kind = Kind::Declared(Mode::Tcc);
const SAGA: Kind = Kind::Declared(Mode::Saga);
const MESSAGE: Kind = Kind::Declared(Mode::Message);
const SENDER: Kind = Kind::Prepared { commits: true, tells: true };
const QUIET_SENDER: Kind = Kind::Prepared { commits: true, tells: false };
const NO_SENDER: Kind = Kind::Prepared { commits: false, tells: false };

/// Every mode, with what participants may answer and what initiators may do.
const CASES: [(&str, Case); 21] = [
    ("tcc", one(TCC, &[("a", Well), ("b", Well)], Ending::Confirmed)),
    ("tcc, refused", one(TCC, &[("a", Well), ("b", RefusesTry)], Ending::Cancelled)),
    ("tcc, not now", one(TCC, &[("a", NotNowAtFirst), ("b", Well)], Ending::Confirmed)),
    ("tcc, timed out", one(TCC, &[("a", Well), ("b", FailsTry)], Ending::Cancelled)),
    ("tcc, confirmed by the log", one(TCC, &[("a", FailsEndAtFirst), ("b", Well)], Ending::Confirmed)),
    ("tcc, confirm refused", one(TCC, &[("b", RefusesEnd), ("c", Well)], Ending::Parked)),
    ("tcc, confirm exhausted", one(TCC, &[("b", FailsEnd), ("c", Well)], Ending::Parked)),
    ("tcc, confirm never possible", one(TCC, &[("b", NotNowEnd)], Ending::Parked)),
    ("tcc, twice at one service", one(TCC, &[("a", Well), ("a", Well)], Ending::Confirmed)),
    (
        "tcc, a service comes late",
        Case { deadline_ms: 9_000, late_ms: 7_000, ..one(TCC, &[("a", Well)], Ending::Confirmed) },
    ),
    ("saga", one(SAGA, &[("a", Well), ("b", Well), ("c", Well)], Ending::Confirmed)),
    ("saga, refused", one(SAGA, &[("a", Well), ("b", Well), ("c", RefusesTry)], Ending::Cancelled)),
    ("saga, compensated by the log", one(SAGA, &[("b", FailsEndAtFirst), ("c", RefusesTry)], Ending::Cancelled)),
    ("message", one(MESSAGE, &[("a", Well), ("b", Well)], Ending::Confirmed)),
    ("message, by the log", one(MESSAGE, &[("b", FailsEndAtFirst)], Ending::Confirmed)),
    ("message, committed", one(SENDER, &[("b", Well)], Ending::Confirmed)),
    ("message, asked and committed", one(QUIET_SENDER, &[("b", Well)], Ending::Confirmed)),
    ("message, asked and not committed", one(NO_SENDER, &[("b", Well)], Ending::Cancelled)),
    ("begun, committed", one(Kind::Begun(Ends::Commits), &[("a", Well), ("b", Well)], Ending::Confirmed)),
    ("begun, rolled back", one(Kind::Begun(Ends::RollsBack), &[("a", Well), ("b", Well)], Ending::Cancelled)),
    ("begun, given up", one(Kind::Begun(Ends::Vanishes), &[("a", Well)], Ending::Cancelled)),
];

/// What was tried, and what broke.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Points of the coordinator in all scenarios, at each of which it crashed.
    pub coordinator: u64,
    /// The same of all participants.
    pub participants: u64,
    /// A point of the coordinator and one of a participant, in one run.
    pub pairs: u64,
    /// Runs in all.
    pub runs: u64,
    /// What is broken, with the scenario and the crashes.
    pub broken: Vec<String>,
}

impl Points {
    fn add(&mut self, other: Self) {
        self.coordinator += other.coordinator;
        self.participants += other.participants;
        self.pairs += other.pairs;
        self.runs += other.runs;
        self.broken.extend(other.broken);
    }
}

/// Crashes everyone everywhere; with `pairs`, the coordinator and each participant in one run besides. Takes as many
/// threads as there are processors, for at most two.
pub fn everywhere(pairs: bool) -> Points {
    let halves = thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            scope.spawn(move || {
                let mut points = Points::default();
                CASES.iter().skip(half).step_by(2).for_each(|(name, case)| points.add(crash(name, case, pairs)));
                points
            })
        });
        halves.map(|half| half.join().expect("a run does not panic"))
    });
    let mut points = Points::default();
    halves.into_iter().for_each(|half| points.add(half));
    points
}

/// The names of the scenarios, in their order.
pub fn scenarios() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name)
}

/// Runs one scenario with crashes at these points, and keeps what happened. `None`: there is no such scenario.
pub fn trace(scenario: &str, fuses: &BTreeMap<Victim, u64>, restart_ms: u64) -> Option<Report> {
    let (_, case) = CASES.iter().find(|(name, _)| *name == scenario)?;
    Some(run(case, fuses, restart_ms, true))
}

fn crash(name: &str, case: &Case, pairs: bool) -> Points {
    let mut points = Points::default();
    let without = run(case, &BTreeMap::new(), 0, false);
    points.runs += 1;
    let ended = match without.ended {
        (1, 0) => Some(Ending::Confirmed),
        (0, 1) => Some(Ending::Cancelled),
        _ => (without.parked == 1).then_some(Ending::Parked),
    };
    if ended != Some(case.ending) || !without.broken.is_empty() {
        points.broken.push(format!("{name}: ends {ended:?} without a crash; {:?}", without.broken));
    }
    for restart_ms in RESTARTS_MS {
        for victim in VICTIMS {
            let mut found = 0;
            while found < POINTS_MAX {
                if points.look(name, case, BTreeMap::from([(victim, found)]), restart_ms) {
                    break;
                }
                found += 1;
            }
            match victim {
                Victim::Coordinator => points.coordinator += found,
                Victim::Participant(_) => points.participants += found,
            }
        }
    }
    if pairs {
        points.pair(name, case, &without);
    }
    points
}

impl Points {
    /// Runs a scenario with these crashes. `true`: one of them did not happen any more.
    fn look(&mut self, name: &str, case: &Case, fuses: BTreeMap<Victim, u64>, restart_ms: u64) -> bool {
        let report = run(case, &fuses, restart_ms, false);
        self.runs += 1;
        for what in &report.broken {
            self.broken.push(format!("{name}, crashes {fuses:?}, restarts after {restart_ms} ms: {what}"));
        }
        !report.unspent.is_empty()
    }

    /// The coordinator at each point that it passes without a crash, and a participant at each of its own.
    fn pair(&mut self, name: &str, case: &Case, without: &Report) {
        let count = |victim| without.passed.get(&victim).copied().unwrap_or_default();
        for victim in VICTIMS.into_iter().filter(|victim| *victim != Victim::Coordinator) {
            for (at, other) in
                (0..count(Victim::Coordinator)).flat_map(|at| (0..count(victim)).map(move |other| (at, other)))
            {
                self.look(name, case, BTreeMap::from([(Victim::Coordinator, at), (victim, other)]), RESTARTS_MS[0]);
                self.pairs += 1;
            }
        }
    }
}

fn run(case: &Case, fuses: &BTreeMap<Victim, u64>, restart_ms: u64, trace: bool) -> Report {
    let setup = Setup { seed: 0, random: false, fuses: fuses.clone(), restart_ms, trace, watch: None };
    let (kind, branches) = (case.kind, case.branches.to_vec());
    let scenario = Scenario { kind, branches, deadline_ms: case.deadline_ms, late_ms: case.late_ms };
    simulate(setup, &INSTANCES, Script::One(scenario))
}
