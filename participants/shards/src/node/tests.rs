//! Leases and ids over any order of starts, freezes, renewals and jumps of the clock.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::id::Parts;
use crate::slot::Slot;

const LENGTH: Duration = Duration::from_millis(300);

/// The table, and time: the database's clock may jump, real time only goes on.
struct World {
    nodes: Nodes,
    start: Instant,
    real_ms: u64,
    made: HashSet<i64>,
    greatest: i64,
}

struct Process {
    ids: Ids,
    held: Option<Held>,
    /// The greatest id that there was when it started.
    floor: i64,
    last: i64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    Beat(usize),
    /// So many ids of this slot, by a process that may have been frozen for long.
    Make(usize, u16, u8),
    GiveUp(usize),
    Pass(u64),
    Jump(i64),
}

impl World {
    fn at(&self) -> Instant {
        self.start + Duration::from_millis(self.real_ms)
    }

    fn write(&mut self, row: Row) {
        self.nodes.rows[usize::from(row.node)] = row;
    }

    fn start(&mut self, process: &mut Process) {
        let ids = Ids::new();
        let held = take(&self.nodes, LENGTH, self.at());
        if let Some(held) = held {
            self.write(held.row);
            ids.set(Some(held.window));
        }
        *process = Process { ids, held, floor: self.greatest, last: 0 };
    }

    fn beat(&mut self, process: &mut Process) {
        let at = self.at();
        let prolonged = process.held.and_then(|held| prolong(&self.nodes, &held, process.ids.unused_ms(), LENGTH, at));
        process.held = prolonged.or_else(|| take(&self.nodes, LENGTH, at));
        if let Some(held) = process.held {
            self.write(held.row);
        }
        process.ids.set(process.held.map(|held| held.window));
    }

    fn make(&mut self, process: &mut Process, slot: u16, count: u8) -> Result<(), TestCaseError> {
        let slot = Slot::new(slot).expect("it is below 1,024");
        for _ in 0..count {
            let Ok(id) = process.ids.try_next(slot, self.at()) else { break };
            prop_assert!(self.made.insert(id), "{:?} twice", Parts::of(id));
            prop_assert_eq!(Parts::of(id).slot, slot);
            prop_assert!(Parts::of(id).time_ms > Parts::of(process.floor).time_ms, "it is not above a start before");
            prop_assert!(slot.number() > 0 || id > process.last, "the ids of one slot rise");
            if slot.number() == 0 {
                process.last = id;
            }
            self.greatest = self.greatest.max(id);
        }
        Ok(())
    }

    fn give_up(&mut self, process: &mut Process) {
        let Some(held) = process.held.take() else { return };
        process.ids.set(None);
        let row = self.nodes.rows[usize::from(held.row.node)];
        if row.epoch == held.row.epoch {
            let until_ms = process.ids.unused_ms().max(held.window.floor_ms).min(row.until_ms);
            self.write(Row { until_ms, ..row });
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let process = 0..4_usize;
    let step = prop_oneof![
        1 => process.clone().prop_map(Step::Start),
        4 => process.clone().prop_map(Step::Beat),
        6 => (process.clone(), 0..3_u16, 1..80_u8).prop_map(|(process, slot, count)| Step::Make(process, slot, count)),
        1 => process.prop_map(Step::GiveUp),
        4 => (0..200_u64).prop_map(Step::Pass),
        1 => (300..2_000_u64).prop_map(Step::Pass),
        1 => (-3_000..3_000_i64).prop_map(Step::Jump),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn no_id_is_made_twice_and_ids_rise_over_starts_freezes_and_clocks_set_back(steps in steps(), nodes in 1..5_u8) {
        let rows = (0..nodes).map(|node| Row { node, epoch: 0, until_ms: 0 }).collect();
        let nodes = Nodes { now_ms: 1_800_000_000_000, rows };
        let mut world = World { nodes, start: Instant::now(), real_ms: 0, made: HashSet::new(), greatest: 0 };
        let mut processes: Vec<Process> = (0..4)
            .map(|_| Process { ids: Ids::new(), held: None, floor: 0, last: 0 })
            .collect();
        for step in steps {
            match step {
                Step::Start(at) => world.start(&mut processes[at]),
                Step::Beat(at) => world.beat(&mut processes[at]),
                Step::Make(at, slot, count) => world.make(&mut processes[at], slot, count)?,
                Step::GiveUp(at) => world.give_up(&mut processes[at]),
                Step::Pass(ms) => {
                    world.real_ms += ms;
                    world.nodes.now_ms += ms.cast_signed();
                }
                Step::Jump(ms) => world.nodes.now_ms += ms,
            }
        }
    }
}

fn three() -> Nodes {
    let row = |(node, until_ms)| Row { node, epoch: 7, until_ms };
    Nodes { now_ms: 2_000_000_000_000, rows: [(0, 5), (1, 2_000_000_000_001), (2, 4)].map(row).to_vec() }
}

#[test]
fn the_node_that_was_free_for_longest_is_taken_and_begins_after_all_leases() {
    let held = take(&three(), LENGTH, Instant::now()).expect("two are free");
    assert_eq!(held.row, Row { node: 2, epoch: 8, until_ms: 2_000_000_000_301 });
    assert_eq!(held.window.floor_ms, 2_000_000_000_001);
}

#[test]
fn a_node_that_was_taken_is_not_renewed_and_one_that_ended_alone_is() {
    let (nodes, at) = (three(), Instant::now());
    let held = take(&nodes, LENGTH, at).expect("two are free");
    let with = |row: Row| Nodes { rows: vec![row], now_ms: held.row.until_ms + 10 };
    let taken = with(Row { epoch: 9, ..held.row });
    assert!(prolong(&taken, &held, 0, LENGTH, at).is_none());
    let ended = prolong(&with(held.row), &held, 0, LENGTH, at).expect("nobody took it");
    assert_eq!(ended.row.until_ms, held.row.until_ms + 310);
}

#[test]
fn when_all_are_held_there_is_none() {
    let nodes = Nodes { now_ms: 3, ..three() };
    assert!(take(&nodes, LENGTH, Instant::now()).is_none());
}
