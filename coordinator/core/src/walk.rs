//! Every reachable state is sound: an exhaustive walk of the machine together with what surrounds it.
//!
//! A node is the coordinator's memory, its last durable state, the rows of `compensation_log`, the participants behind
//! their fences, every call ever made (each can arrive any number of times, for ever), and the clock. Answers get lost
//! or come; the coordinator crashes anywhere, also around a write whose outcome is not known. An answer that comes late
//! is the answer to a call that arrives again, except when its phase has passed: that kind is fed to every node and may
//! change nothing.

extern crate std;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};
use std::collections::{HashMap, hash_map::RandomState};
use std::println;

use crate::*;

mod state;
mod worlds;

use state::*;
use worlds::*;

const EARLY: u64 = 0;
const DEADLINE: u64 = 1;

/// One row of the fence, as in the design: what the participant knows of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fence {
    None,
    Tried,
    Confirmed,
    Cancelled,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    None,
    Pending,
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Memory {
    /// Not there: crashed, or rests.
    Empty,
    Running(Tx),
    /// A write is under way; its calls are made once it has succeeded.
    Writing(Tx, Vec<Call>, [Row; 3]),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    memory: Memory,
    durable: Option<Tx>,
    rows: [Row; 3],
    fences: [Fence; 3],
    calls: Vec<(u8, u8)>,
    clock: u64,
    /// How often a person may still act.
    acts: u8,
}

/// What the walk is about: the plan, and what the initiator may do.
struct World {
    plan: Vec<Branch>,
    manual: bool,
    /// A saga's branch comes after the one before it.
    chained: bool,
}

fn operation_number(operation: Operation) -> u8 {
    operation as u8
}

impl World {
    fn start(&self) -> Node {
        let branches = if self.manual { vec![] } else { self.plan.clone() };
        let mut tx = Tx::new(Xid([1; 16]), self.manual, Timestamp(DEADLINE), branches);
        let mut effects = Effects::default();
        step(&mut tx, Event::Woken, Timestamp(EARLY), &mut effects);
        Node {
            memory: Memory::Writing(normal(tx), effects.calls, rows_after([Row::None; 3], &effects.compensations)),
            durable: None,
            rows: [Row::None; 3],
            fences: [Fence::None; 3],
            calls: vec![],
            clock: EARLY,
            // One act, of any kind and at any moment, in the worlds that are small enough.
            acts: u8::from(self.plan.len() <= 2),
        }
    }

    /// Every node that can follow, the one that follows when nothing goes wrong first.
    fn successors(&self, node: &Node) -> Vec<Node> {
        let mut all = Vec::new();
        match &node.memory {
            Memory::Writing(tx, calls, rows) => {
                let durable = Node { durable: Some(stored(tx)), rows: *rows, ..node.clone() };
                self.check_write(node.durable.as_ref(), tx);
                self.check_fences(&durable);
                let next = Node { memory: Memory::Running(tx.clone()), ..durable.clone() };
                all.extend(self.sent(&next, tx, calls));
                all.push(Node { memory: Memory::Empty, ..durable });
                all.push(Node { memory: Memory::Empty, ..node.clone() });
                // What arrives meanwhile may as well arrive afterwards: it can not see the difference.
                return all;
            }
            Memory::Running(tx) => {
                let good = self.good_event(node, tx);
                all.extend(good.iter().flat_map(|event| self.fed(node, tx, event.clone(), node.clock)));
                all.push(Node { memory: Memory::Empty, ..node.clone() });
                for event in self.events(node, tx) {
                    all.extend(self.fed(node, tx, event, node.clock));
                }
                self.operated(node, tx, &mut all);
            }
            Memory::Empty => {
                self.load(node, &mut all);
                if let Some(durable) = node.durable.as_ref().filter(|durable| !durable.status.ended()) {
                    let mut tx = durable.clone();
                    tx.recover();
                    self.operated(node, &tx, &mut all);
                }
                if !node.durable.as_ref().is_some_and(Tx::rests) {
                    return all;
                }
            }
        }
        self.deliveries(node, &mut all);
        if node.clock == EARLY {
            all.push(Node { clock: DEADLINE, ..node.clone() });
        }
        all
    }

    /// A restart takes up what has not ended and does not rest; the scanner what has a pending row.
    fn load(&self, node: &Node, all: &mut Vec<Node>) {
        let Some(durable) = node.durable.as_ref().filter(|durable| !durable.status.ended()) else { return };
        let mut tx = durable.clone();
        tx.recover();
        if !durable.rests() {
            all.extend(self.fed(node, &tx, Event::Woken, node.clock));
        }
        for (branch, _) in node.rows.iter().enumerate().filter(|(_, row)| **row == Row::Pending) {
            all.extend(self.fed(node, &tx, Event::Retry { branch: branch as u8 }, node.clock));
        }
        if tx.asks() {
            // The sender's commit, or its rollback, finds the transaction wherever it is.
            if node.fences[0] == Fence::Confirmed {
                all.extend(self.fed(node, &tx, Event::CommitAsked, node.clock));
            }
        }
        let found = !durable.rests() || node.rows.iter().any(|row| matches!(row, Row::Pending | Row::Failed));
        assert!(found, "unfinished, and nothing leads back to it: {node:?}");
    }

    /// What goes well: answers come, time passes, the initiator commits.
    fn good_event(&self, node: &Node, tx: &Tx) -> Option<Event> {
        for (index, branch) in tx.branches.iter().enumerate() {
            let index = index as u8;
            match branch.progress {
                Progress::Called => {
                    let operation = tx.operation(index)?;
                    let (fence, reply) = run(node.fences[usize::from(index)], operation, branch, true);
                    // The delivery comes first, the answer follows from the node after it.
                    if fence == node.fences[usize::from(index)] {
                        let attempt = branch.attempts;
                        return Some(Event::Replied { branch: index, operation, attempt, reply });
                    }
                }
                Progress::Unreachable => return Some(Event::Reachable { branch: index }),
                Progress::Due | Progress::Delayed | Progress::Done => {}
                Progress::Logged | Progress::Parked(_) | Progress::Skipped => {}
            }
        }
        Some(if commits(node, tx) { Event::CommitAsked } else { Event::Woken })
    }

    /// What else can happen to a running transaction, answers aside.
    fn events(&self, node: &Node, tx: &Tx) -> Vec<Event> {
        let mut events = vec![Event::Woken];
        let index = tx.branches.len() as u8;
        if self.manual && usize::from(index) < self.plan.len() && tx.status == Status::Trying {
            let after: &[u8] = if self.chained && index > 0 { &[index - 1] } else { &[] };
            let plan = &self.plan[usize::from(index)];
            events.push(Event::BranchAdded(Branch::new(plan.operations, after, plan.retry, 0)));
        }
        events.push(Event::RollbackAsked);
        if commits(node, tx) {
            events.push(Event::CommitAsked);
        }
        for branch in 0..tx.branches.len() as u8 {
            events.push(Event::Reachable { branch });
        }
        events
    }

    /// A person acts who knows what they do: forces only what the initiator or the sender did, and resolves a branch by
    /// doing its work by hand, in its turn. An act that does not apply changes nothing.
    fn operated(&self, node: &Node, tx: &Tx, all: &mut Vec<Node>) {
        if node.acts == 0 {
            return;
        }
        let mut spent = Node { acts: node.acts - 1, ..node.clone() };
        let policy = RetryPolicy { attempts: 3, ..RETRY };
        let mut acts = Vec::new();
        for branch in 0..tx.branches.len() as u8 {
            acts.extend([Act::Retry { branch }, Act::Park { branch }, Act::Resume { branch }]);
            acts.push(Act::SetRetry { branch, policy });
        }
        let sender = tx.asks().then_some(node.fences[0]);
        if sender.is_none_or(|fence| fence == Fence::Cancelled) {
            acts.push(Act::ForceCancel);
        }
        if sender.map_or_else(|| !tx.manual || commits(node, tx), |fence| fence == Fence::Confirmed) {
            acts.push(Act::ForceConfirm);
        }
        for act in acts {
            let fed = self.fed(&spent, tx, Event::Operator(act), node.clock);
            all.extend(fed.into_iter().filter(|next| next.memory != node.memory));
        }
        for (index, branch) in tx.branches.iter().enumerate() {
            let place = index as u8;
            if let (Progress::Parked(_), true, Some(operation)) =
                (branch.progress, tx.ready(place), tx.operation(place))
                && operation != Operation::Ask
            {
                let (fence, _) = run(node.fences[index], operation, branch, true);
                self.check_run(node, place, operation, fence);
                spent.fences[index] = fence;
                let event = Event::Operator(Act::Resolve { branch: place });
                all.extend(self.fed(&spent, tx, event, node.clock));
                spent.fences = node.fences;
            }
        }
    }

    /// Every call that was ever made arrives once more, and its answer gets lost, or comes at once.
    fn deliveries(&self, node: &Node, all: &mut Vec<Node>) {
        for (branch, number) in &node.calls {
            let place = usize::from(*branch);
            let operation =
                [Operation::Try, Operation::Confirm, Operation::Cancel, Operation::Ask][usize::from(*number)];
            for accepts in [true, false] {
                let (fence, reply) = run(node.fences[place], operation, &self.plan[place], accepts);
                self.check_run(node, *branch, operation, fence);
                let mut next = node.clone();
                next.fences[place] = fence;
                self.check_fences(&next);
                if let Memory::Running(tx) = &node.memory {
                    let attempt = tx.branches.get(place).map_or(0, |branch| branch.attempts);
                    let not_now = Reply::NotNow { delay_ms: 0 };
                    // A participant that refuses in the second phase is at fault, and is parked.
                    let fault = operation != Operation::Try && operation != Operation::Ask;
                    let mut answers = vec![(&next, reply), (node, not_now), (node, Reply::Unknown)];
                    answers.extend(fault.then_some((node, Reply::Refused)));
                    for (node, reply) in answers {
                        let event = Event::Replied { branch: *branch, operation, attempt, reply };
                        let fed = self.fed(node, tx, event, node.clock);
                        let stale = tx.operation(*branch) != Some(operation) && !expires(tx, node.clock);
                        let same = fed.len() == 1 && fed[0].memory == node.memory;
                        assert!(!stale || same, "an answer of a past phase changed something");
                        all.extend(fed);
                    }
                }
                all.push(next);
            }
        }
        let sender = self.plan.first().is_some_and(|branch| branch.operations.has(Operation::Ask));
        if sender && node.durable.is_some() && node.fences[0] == Fence::None {
            let mut committed = node.clone();
            committed.fences[0] = Fence::Confirmed;
            all.push(committed);
        }
        if let (true, Memory::Running(tx), Fence::Confirmed) = (sender, &node.memory, node.fences[0]) {
            all.extend(self.fed(node, tx, Event::CommitAsked, node.clock));
        }
    }

    /// What an event leads to: one node, or as many as there are ways for its calls to find their services connected.
    fn fed(&self, node: &Node, tx: &Tx, event: Event, clock: u64) -> Vec<Node> {
        let mut tx = tx.clone();
        let mut effects = Effects::default();
        let added = matches!(event, Event::BranchAdded(_)).then_some(tx.branches.len());
        step(&mut tx, event, Timestamp(clock), &mut effects);
        let mut next = node.clone();
        assert!(effects.persist || effects.compensations.is_empty(), "a row belongs to a write");
        for call in &effects.calls {
            assert_eq!(tx.operation(call.branch), Some(call.operation), "a call of another phase");
        }
        if effects.persist {
            let rows = rows_after(node.rows, &effects.compensations);
            let mut calls = effects.calls;
            if let Some(index) = added.filter(|index| tx.branches.len() > *index) {
                // Once the branch is durable the initiator calls its try itself.
                let not_after = tx.deadline;
                calls.push(Call { branch: index as u8, operation: Operation::Try, attempt: 0, not_after });
            }
            next.clock = if tx.status.decided() { DEADLINE } else { clock };
            next.memory = Memory::Writing(normal(tx), calls, rows);
            vec![next]
        } else {
            assert_eq!(tx.status, status_of(node, &tx), "a status that is not durable");
            self.sent(&next, &normal(tx), &effects.calls)
        }
    }

    /// Makes calls: all of them are sent, or some find no session. All first.
    fn sent(&self, node: &Node, tx: &Tx, calls: &[Call]) -> Vec<Node> {
        let ways = (0..1_u32 << calls.len()).map(|unreachable| {
            let (mut next, mut tx) = (node.clone(), tx.clone());
            let mut effects = Effects::default();
            for (index, call) in calls.iter().enumerate() {
                let Call { branch, operation, attempt, .. } = *call;
                if unreachable & 1 << index == 0 {
                    self.send(&mut next, call);
                } else {
                    let event = Event::Replied { branch, operation, attempt, reply: Reply::Unreachable };
                    step(&mut tx, event, Timestamp(node.clock), &mut effects);
                }
            }
            if effects.persist {
                // The deadline came first.
                next.clock = DEADLINE;
                next.memory = Memory::Writing(normal(tx), effects.calls, rows_after(node.rows, &effects.compensations));
                return next;
            }
            next.memory = Memory::Running(normal(tx));
            settle(next)
        });
        ways.collect()
    }

    fn send(&self, node: &mut Node, call: &Call) {
        let call = (call.branch, operation_number(call.operation));
        let durable = node.durable.as_ref().expect("nothing is sent before the transaction is durable");
        assert!(usize::from(call.0) < durable.branches.len(), "a branch that is not durable was called");
        let decided = match durable.status {
            Status::Trying => call.1 == 0 || call.1 == 3,
            Status::Confirming => call.1 == 1,
            Status::Cancelling => call.1 == 2,
            Status::Confirmed | Status::Cancelled => false,
        };
        assert!(decided, "a call that the durable state does not allow: {call:?} {node:?}");
        if call.1 == 0 && !durable.manual {
            for before in &self.plan[usize::from(call.0)].after {
                assert_eq!(node.fences[usize::from(*before)], Fence::Tried, "tried before what comes before it");
            }
        }
        if !node.calls.contains(&call) {
            node.calls.push(call);
            node.calls.sort_unstable();
        }
    }

    /// What the participant does is allowed by the durable decision and by the order of branches.
    fn check_run(&self, node: &Node, branch: u8, operation: Operation, after: Fence) {
        if node.fences[usize::from(branch)] == after {
            return;
        }
        let others = |of: &[u8]| of.iter().map(|other| node.fences[usize::from(*other)]).collect::<Vec<_>>();
        match operation {
            Operation::Confirm => {
                let before = others(&self.plan[usize::from(branch)].after);
                assert!(before.iter().all(|fence| *fence == Fence::Confirmed), "confirmed out of order: {node:?}");
            }
            Operation::Cancel => {
                let durable = node.durable.as_ref().expect("durable");
                let later = (0..durable.branches.len() as u8)
                    .filter(|other| durable.branches[usize::from(*other)].after.contains(&branch));
                let later = others(&later.collect::<Vec<_>>());
                assert!(later.iter().all(|fence| *fence != Fence::Tried), "cancelled out of order: {node:?}");
            }
            Operation::Try | Operation::Ask => {}
        }
    }

    /// No split, ever.
    fn check_fences(&self, node: &Node) {
        let durable = node.durable.as_ref().expect("durable");
        for (fence, branch) in node.fences.iter().zip(&self.plan) {
            let sender = branch.operations.has(Operation::Ask);
            match fence {
                Fence::Confirmed if sender => assert!(!is_cancel(durable.status), "sent, and cancelled: {node:?}"),
                Fence::Cancelled if sender => assert!(!is_confirm(durable.status), "not sent, and delivered: {node:?}"),
                Fence::Confirmed => assert!(is_confirm(durable.status), "confirmed undecided: {node:?}"),
                Fence::Cancelled => assert!(is_cancel(durable.status), "cancelled undecided: {node:?}"),
                Fence::None | Fence::Tried | Fence::Refused => {}
            }
        }
        self.check_end(node, durable);
    }

    /// When it has ended, every branch has, and no call under way can change that.
    fn check_end(&self, node: &Node, durable: &Tx) {
        for (index, (fence, branch)) in node.fences.iter().zip(&durable.branches).enumerate() {
            match durable.status {
                Status::Confirmed if branch.operations.has(Operation::Confirm) => {
                    assert_eq!(*fence, Fence::Confirmed, "confirmed, but not everywhere: {node:?}");
                }
                Status::Cancelled => {
                    let called = node.calls.contains(&(index as u8, 0));
                    let safe = *fence != Fence::Tried && (!called || *fence != Fence::None);
                    assert!(safe, "cancelled, but held or still to be held: {node:?}");
                }
                Status::Trying | Status::Confirming | Status::Cancelling | Status::Confirmed => {}
            }
        }
    }

    fn check_write(&self, before: Option<&Tx>, after: &Tx) {
        let Some(before) = before else { return };
        let same_way = before.status == after.status
            || before.status == Status::Trying
            || (before.status == Status::Confirming && after.status == Status::Confirmed)
            || (before.status == Status::Cancelling && after.status == Status::Cancelled);
        assert!(same_way, "went back from {:?} to {:?}", before.status, after.status);
        assert_eq!(is_cancel(after.status), after.cause.is_some(), "cancelled without a cause");
    }

    /// Walks everything. Answers how many states and edges there are.
    fn walk(&self) -> (usize, usize) {
        let keys = (RandomState::new(), RandomState::new());
        let key = |node: &Node| (hash(&keys.0, node), hash(&keys.1, node));
        let mut good: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
        let mut queue = VecDeque::from([self.start()]);
        good.insert(key(&queue[0]), (0, 0));
        let mut edges = 0;
        while let Some(node) = queue.pop_front() {
            let from = key(&node);
            let next: Vec<Node> = self.successors(&node).into_iter().map(|next| self.canonical(next)).collect();
            let best = self.best(&node, &next);
            edges += next.len();
            good.insert(from, best.map_or((0, 0), key));
            for node in next {
                good.entry(key(&node)).or_insert_with(|| {
                    queue.push_back(node);
                    (0, 0)
                });
            }
        }
        check_live(&good);
        (good.len(), edges)
    }

    /// Branches that nothing tells apart are sorted, so that a state and its mirror images count once.
    fn canonical(&self, mut node: Node) -> Node {
        let alike = !self.chained && self.plan.iter().all(|branch| *branch == self.plan[0] && branch.after.is_empty());
        let Some(durable) = node.durable.as_mut().filter(|_| alike) else { return node };
        let count = durable.branches.len();
        let (tx, pending, rows) = match &mut node.memory {
            Memory::Empty => (None, None, None),
            Memory::Running(tx) => (Some(tx), None, None),
            Memory::Writing(tx, calls, rows) => (Some(tx), Some(calls), Some(rows)),
        };
        if tx.as_ref().is_some_and(|tx| tx.branches.len() != count) {
            return node;
        }
        let key = |index: &u8| {
            let at = usize::from(*index);
            let calls = |list: &[Call]| list.iter().any(|call| call.branch == *index);
            (
                node.fences[at] as u8,
                node.rows[at] as u8,
                [0, 1, 2].map(|operation| node.calls.contains(&(*index, operation))),
                tx.as_ref().map(|tx| small(&tx.branches[at])),
                pending.as_ref().map(|list| calls(list)),
                rows.as_ref().map(|rows| rows[at] as u8),
                small(&durable.branches[at]),
            )
        };
        let mut order: Vec<u8> = (0..count as u8).collect();
        order.sort_by_key(key);
        let old = |new: usize| order.get(new).map_or(new, |index| usize::from(*index));
        let new = |index: u8| order.iter().position(|other| *other == index).map_or(index, |at| at as u8);
        node.fences = core::array::from_fn(|at| node.fences[old(at)]);
        node.rows = core::array::from_fn(|at| node.rows[old(at)]);
        node.calls.iter_mut().for_each(|call| call.0 = new(call.0));
        node.calls.sort_unstable();
        durable.branches = (0..count).map(|at| durable.branches[old(at)].clone()).collect();
        if let Some(tx) = tx {
            tx.branches = (0..count).map(|at| tx.branches[old(at)].clone()).collect();
        }
        if let Some(rows) = rows {
            *rows = core::array::from_fn(|at| rows[old(at)]);
        }
        if let Some(calls) = pending {
            calls.iter_mut().for_each(|call| call.branch = new(call.branch));
            calls.sort_by_key(|call| call.branch);
        }
        node
    }

    /// Where a world without faults goes from here; `None` at an end, or where a person has to act.
    fn best<'a>(&self, node: &Node, next: &'a [Node]) -> Option<&'a Node> {
        match &node.memory {
            Memory::Writing(..) => next.first(),
            Memory::Empty => {
                let durable = node.durable.as_ref()?;
                let rests = durable.rests() && !node.rows.contains(&Row::Pending);
                if durable.status.ended() || rests { None } else { next.first() }
            }
            Memory::Running(tx) => {
                let waiting = tx.branches.iter().position(|branch| branch.progress == Progress::Called);
                let call = waiting.and_then(|branch| Some((branch, tx.operation(branch as u8)?)));
                if let Some((branch, operation)) = call {
                    let (fence, _) = run(node.fences[branch], operation, &self.plan[branch], true);
                    if fence != node.fences[branch] {
                        // It arrives: same memory, the participant one further.
                        let mut fences = node.fences;
                        fences[branch] = fence;
                        return next.iter().find(|other| other.fences == fences && other.memory == node.memory);
                    }
                }
                let moved = next.first().filter(|other| *other != node);
                moved.or_else(|| next.iter().find(|other| other.clock > node.clock))
            }
        }
    }
}

/// Without further faults every state reaches an end, or a person.
fn check_live(good: &HashMap<(u64, u64), (u64, u64)>) {
    let mut fine: HashMap<(u64, u64), bool> = HashMap::new();
    for start in good.keys() {
        let mut path = Vec::new();
        let mut at = *start;
        while at != (0, 0) && fine.get(&at) != Some(&true) {
            assert!(fine.insert(at, false).is_none(), "a state that goes round for ever");
            path.push(at);
            at = good[&at];
        }
        for node in path {
            fine.insert(node, true);
        }
    }
}

fn check(name: &str, worlds: impl Iterator<Item = World>) {
    let (mut states, mut edges) = (0, 0);
    for world in worlds {
        let (more_states, more_edges) = world.walk();
        states += more_states;
        edges += more_edges;
    }
    println!("walk of {name}: {states} states, {edges} edges");
    assert!(states > 100, "a walk that went nowhere");
}

#[test]
fn every_reachable_state_of_up_to_two_branches_is_sound() {
    check("tcc", declared(Operations::TCC, 1..=2));
    check("saga", declared(Operations::SAGA, 1..=2));
    check("submitted message", declared(Operations::RECEIVER, 1..=2));
    check("prepared message", prepared(1..=2));
    check("begun tcc", begun(Operations::TCC, false, 2));
    check("begun saga", begun(Operations::SAGA, true, 2));
}

#[test]
fn every_reachable_state_of_a_tcc_with_three_branches_is_sound() {
    check("tcc of three", declared(Operations::TCC, 3..=3));
}

#[test]
fn every_reachable_state_of_a_saga_with_three_branches_is_sound() {
    check("saga of three", declared(Operations::SAGA, 3..=3));
}

#[test]
fn every_reachable_state_of_three_receivers_or_added_branches_is_sound() {
    check("submitted message of three", declared(Operations::RECEIVER, 3..=3));
    check("begun tcc of three", begun(Operations::TCC, false, 3));
    check("begun saga of three", begun(Operations::SAGA, true, 3));
}
