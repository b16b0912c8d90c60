//! Why a transaction stands where it stands: what happened, why it waits, what a person can do, and what comes next.
//!
//! A pure function of the transaction, its rows of `compensation_log`, what people did to it, and who is connected. The
//! last line is the machine's own word ([`tercet_core::next`]), not a guess of this module.

use tercet_core::{Branch, Next, Operation, Parked, Progress, Status, Timestamp, What, next};
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::next::Kind;

use crate::audit::AuditRow;
use crate::live::Live;
use crate::names;
use crate::session::{Health, State};
use crate::store::{Compensation, CompensationStatus};
use crate::text::{both, iso, relative};

/// What an explanation stands on.
pub struct Facts<'a> {
    /// The transaction.
    pub live: Live,
    /// Its rows of `compensation_log`.
    pub rows: &'a [Compensation],
    /// What people did to it, oldest first.
    pub acts: &'a [AuditRow],
    /// How each service is doing that has registered since the start.
    pub services: &'a [Health],
    /// The coordinator's time.
    pub now: Timestamp,
    /// The first time from this one on at which the scanner looks, if there is one.
    pub looks: &'a dyn Fn(Timestamp) -> Option<Timestamp>,
}

impl Facts<'_> {
    fn name(&self, branch: u8) -> String {
        let plan = self.live.plan.branches.get(usize::from(branch));
        plan.map_or_else(String::new, |plan| format!("branch {branch} ({}/{})", plan.service, plan.action))
    }

    fn health(&self, service: &str) -> Option<&Health> {
        self.services.iter().find(|health| health.service == service)
    }

    /// Whether an instance of a service is connected.
    fn connected(&self, service: &str) -> bool {
        self.health(service).is_some_and(|health| health.sessions > 0)
    }

    /// Whether the scanner gives a service anything.
    fn takes_retries(&self, service: &str) -> bool {
        self.health(service).is_some_and(|health| health.sessions > 0 && health.state != State::Stuck)
    }

    /// Whether a branch is a sender that may still have the word: nobody has asked it yet.
    fn at_work(&self, branch: u8) -> bool {
        let may_wait = |progress| matches!(progress, Progress::Delayed | Progress::Parked(_) | Progress::Logged);
        let unasked = |of: &Branch| may_wait(of.progress) && of.attempts == 0;
        self.live.tx.operation(branch) == Some(Operation::Ask)
            && self.live.tx.branches.get(usize::from(branch)).is_some_and(unasked)
    }

    fn service(&self, branch: u8) -> &str {
        self.live.plan.branches.get(usize::from(branch)).map_or("", |plan| &plan.service)
    }

    /// The row of the operation that a branch is at.
    fn row(&self, branch: u8) -> Option<&Compensation> {
        let operation = names::operation_number(self.live.tx.operation(branch)?);
        self.rows.iter().find(|row| (row.branch, row.operation) == (branch.into(), operation))
    }

    fn xid(&self) -> String {
        self.live.tx.xid.to_string()
    }
}

/// Explains it.
pub fn explain(mut facts: Facts<'_>) -> pb::ExplainResponse {
    // The scanner's times stand in its rows; a row that it has taken is taken again when its lease ends.
    for index in 0..facts.live.tx.branches.len() {
        let logged = facts.live.tx.branches[index].progress == Progress::Logged;
        let due = facts.row(index as u8).filter(|row| logged && row.status == CompensationStatus::Pending);
        if let Some(due) = due.map(|row| row.next_retry_time.max(row.lease_until)) {
            facts.live.tx.branches[index].wake_at = due;
        }
    }
    let (waits, next, remedies) = (waits(&facts), told(&facts), remedies(&facts));
    let lines = lines(&facts, &waits, &next, &remedies);
    pb::ExplainResponse {
        transaction: Some(facts.live.view()),
        now_ms: facts.now.0,
        waits,
        next: Some(next),
        remedies,
        lines,
    }
}

fn waits(facts: &Facts<'_>) -> Vec<pb::WaitsFor> {
    let tx = &facts.live.tx;
    if tx.status.ended() {
        return Vec::new();
    }
    let open = tx.branches.iter().enumerate().filter(|(_, branch)| !branch.finished());
    let mut waits: Vec<pb::WaitsFor> = open.map(|(index, branch)| branch_waits(facts, index as u8, branch)).collect();
    if tx.status == Status::Trying && tx.manual {
        let text = format!("its initiator has the word: commit or roll back until {}", both(tx.deadline.0, facts.now));
        waits.push(pb::WaitsFor { state: "begun".into(), until_ms: tx.deadline.0, text, ..pb::WaitsFor::default() });
    }
    waits
}

fn branch_waits(facts: &Facts<'_>, index: u8, branch: &Branch) -> pb::WaitsFor {
    let service = facts.service(index).to_owned();
    let operation = facts.live.tx.operation(index).map_or("nothing", names::operation_name);
    let connected = facts.connected(&service);
    let at = |at: Timestamp| both(at.0, facts.now);
    let why = match branch.progress {
        Progress::Due => "comes after other branches, which are not finished".to_owned(),
        Progress::Called => {
            let queue = facts.health(&service).filter(|health| health.queued > 0 && connected).map(queue);
            let queue = queue.unwrap_or_default();
            format!("is under way{queue}; without an answer by {} it is unknown", at(branch.wake_at))
        }
        Progress::Delayed if facts.at_work(index) => {
            format!("waits for its sender to commit or roll back until {}, then it is asked", at(branch.wake_at))
        }
        Progress::Delayed => {
            format!("failed {} times in a row; again {}", branch.attempts, at(branch.wake_at))
        }
        Progress::Unreachable => "waits for its service".to_owned(),
        Progress::Logged => {
            format!("failed {} times and is in compensation_log, due {}", branch.attempts, at(branch.wake_at))
        }
        Progress::Parked(Parked::Refused) => "is parked: the participant refused it, which it may not".to_owned(),
        Progress::Parked(Parked::Exhausted) => format!("is parked: all {} attempts failed", branch.attempts),
        Progress::Parked(Parked::ByPerson) => "is parked by a person".to_owned(),
        Progress::Done | Progress::Skipped => "has nothing left to do".to_owned(),
    };
    let away = if connected { "" } else { "; no instance of the service is connected" };
    let until_ms = match branch.progress {
        Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Logged
            if branch.wake_at < Timestamp::MAX =>
        {
            branch.wake_at.0
        }
        Progress::Due
        | Progress::Called
        | Progress::Delayed
        | Progress::Unreachable
        | Progress::Logged
        | Progress::Parked(_)
        | Progress::Done
        | Progress::Skipped => 0,
    };
    pb::WaitsFor {
        branch: Some(index.into()),
        text: format!("{}: its {operation} {why}{away}", facts.name(index)),
        service,
        operation: operation.into(),
        state: names::progress_name(branch.progress).into(),
        connected,
        until_ms,
        said: facts.live.said(index).to_owned(),
    }
}

/// That a call may still be here, because its service takes no more.
fn queue(health: &Health) -> String {
    let Health { service, queued, state, in_flight, .. } = health;
    let state = state.name();
    format!(", or still here: {service} is {state}, {queued} calls wait for it to take them, it has {in_flight}")
}

/// The machine's next move, in numbers and in a sentence.
fn told(facts: &Facts<'_>) -> pb::Next {
    let time = |at: Timestamp| {
        let relative = if at <= facts.now { "now".to_owned() } else { relative(at.0, facts.now) };
        format!("{} ({relative})", iso(at.0))
    };
    let scan = |branch, due| (facts.looks)(due).filter(|_| facts.takes_retries(facts.service(branch)));
    let reaches = |branch| facts.connected(facts.service(branch));
    let (at, what, scanner) = match next(&facts.live.tx, facts.now, scan, reaches) {
        Next::Ended => {
            let text = format!("nothing: it has ended, {}", names::status_name(facts.live.tx.status));
            return pb::Next { kind: Kind::Nothing.into(), text, ..pb::Next::default() };
        }
        Next::Person { branch } => {
            let text = format!("nothing by itself: {} waits for a person", facts.name(branch));
            return pb::Next { kind: Kind::Person.into(), branch: branch.into(), text, ..pb::Next::default() };
        }
        Next::Woken { at, what } => (at, what, false),
        Next::Scanned { at, what, .. } => (at, what, true),
        Next::Service { branch, what } => return away(facts, branch, what),
    };
    let told = |kind: Kind, operation: Option<Operation>, branch: u8, again: Timestamp, text: String| pb::Next {
        kind: kind.into(),
        at_ms: at.0,
        branch: branch.into(),
        operation: operation.map_or("", names::operation_name).into(),
        again_ms: again.0,
        scanner,
        text,
    };
    let (when, never) = (time(at), Timestamp(0));
    match what {
        What::Decide(Status::Confirming | Status::Confirmed) => {
            told(Kind::Confirm, None, 0, never, format!("{when}: it is decided: confirm"))
        }
        What::Decide(Status::Trying | Status::Cancelling | Status::Cancelled) => {
            let text = format!("{when}: the deadline passes, and it is decided: cancel");
            told(Kind::Cancel, None, 0, never, text)
        }
        What::Call(operation, branch) => {
            let (name, operation_name) = (facts.name(branch), names::operation_name(operation));
            let who = if scanner { "the scanner has" } else { "the coordinator has" };
            told(
                Kind::Call,
                Some(operation),
                branch,
                never,
                format!("{when}: {who} the {operation_name} of {name} called"),
            )
        }
        What::AskAgain(operation, branch, again) => {
            let (name, operation_name) = (facts.name(branch), names::operation_name(operation));
            let text =
                format!("{when}: without an answer the {operation_name} of {name} is unknown; again {}", time(again));
            told(Kind::AskAgain, Some(operation), branch, again, text)
        }
        What::Log(operation, branch, again) => {
            let (name, operation_name) = (facts.name(branch), names::operation_name(operation));
            let text =
                format!("{when}: the {operation_name} of {name} goes into compensation_log; again {}", time(again));
            told(Kind::Log, Some(operation), branch, again, text)
        }
        What::Park(operation, branch) => {
            let (name, operation_name) = (facts.name(branch), names::operation_name(operation));
            let text = format!("{when}: without an answer the {operation_name} of {name} is parked");
            told(Kind::Park, Some(operation), branch, never, text)
        }
        What::Nothing => told(Kind::Nothing, None, 0, never, format!("{when}: nothing that could be seen")),
    }
}

/// That a branch is called once its service can be.
fn away(facts: &Facts<'_>, branch: u8, what: What) -> pb::Next {
    let (name, service) = (facts.name(branch), facts.service(branch));
    let operation = match what {
        What::Call(operation, _)
        | What::AskAgain(operation, ..)
        | What::Log(operation, ..)
        | What::Park(operation, _) => names::operation_name(operation),
        What::Decide(_) | What::Nothing => "",
    };
    let until = match facts.connected(service) {
        true => format!("{service}, which is stuck, answers something"),
        false => format!("an instance of {service} is connected"),
    };
    pb::Next {
        kind: Kind::Service.into(),
        branch: branch.into(),
        operation: operation.into(),
        text: format!("nothing until {until}: then the {operation} of {name} is called"),
        ..pb::Next::default()
    }
}

/// What a person can do, what is safe first.
fn remedies(facts: &Facts<'_>) -> Vec<pb::Remedy> {
    let (tx, xid) = (&facts.live.tx, facts.xid());
    if tx.status.ended() {
        return Vec::new();
    }
    let remedy = |safe: bool, command: String, text: &str| pb::Remedy { command, text: text.into(), safe };
    let mut all = Vec::new();
    for (index, branch) in tx.branches.iter().enumerate().filter(|(_, branch)| !branch.finished()) {
        let on = format!("{xid} --branch {index}");
        let parkable = tx.operation(index as u8) != Some(Operation::Try);
        match branch.progress {
            Progress::Delayed | Progress::Parked(_) | Progress::Logged if facts.at_work(index as u8) => {
                let text = "only when its sender will not commit any more: asked before it has, it may not";
                all.push(remedy(false, format!("tercet tx retry {on}"), text));
                if matches!(branch.progress, Progress::Parked(_)) {
                    all.push(remedy(false, format!("tercet tx resume {on}"), text));
                }
            }
            Progress::Delayed | Progress::Unreachable | Progress::Logged => {
                all.push(remedy(true, format!("tercet tx retry {on}"), "call it now instead"));
                if parkable {
                    all.push(remedy(true, format!("tercet tx park {on}"), "stop calling it until a person says so"));
                }
            }
            Progress::Parked(_) => {
                all.push(remedy(true, format!("tercet tx retry {on}"), "call it now, once its participant is mended"));
                all.push(remedy(true, format!("tercet tx resume {on}"), "hand it back to the scanner"));
                if let Some(row) = facts.row(index as u8).filter(|_| tx.status.decided()) {
                    let command = format!("tercet compensation resolve {} --reason TEXT", row.id);
                    let text = "only when its work was done by hand: nobody calls it any more";
                    all.push(remedy(false, command, text));
                }
            }
            Progress::Due | Progress::Called | Progress::Done | Progress::Skipped => {}
        }
    }
    if tx.status == Status::Trying {
        let (confirm, cancel) = (
            format!("tercet tx force-confirm {xid} --reason TEXT"),
            format!("tercet tx force-cancel {xid} --reason TEXT"),
        );
        if tx.asks() {
            all.push(remedy(false, confirm, "only when the sender's own transaction did commit"));
            all.push(remedy(false, cancel, "only when the sender's own transaction did not commit and will not"));
        } else {
            all.push(remedy(true, cancel, "cancel what was tried, before its deadline does"));
            if tx.manual {
                all.push(remedy(false, confirm, "only when every call of the initiator has succeeded"));
            }
        }
    }
    // What is safe comes first.
    all.sort_by_key(|remedy| !remedy.safe);
    all
}

fn lines(facts: &Facts<'_>, waits: &[pb::WaitsFor], next: &pb::Next, remedies: &[pb::Remedy]) -> Vec<String> {
    let tx = &facts.live.tx;
    let created = both(tx.xid.created_at().0, facts.now);
    let mut lines = vec![format!("{} is {}", tx.xid, names::status_name(tx.status))];
    lines.push(format!("Happened: {created}: accepted"));
    let people = facts.acts.iter().map(|row| {
        let why = if row.write.why.is_empty() { String::new() } else { format!(": {}", row.write.why) };
        (row.at.0, format!("{} did {}{why}", row.write.who, row.write.act))
    });
    let mut happened: Vec<_> = facts.live.history().map(|entry| (entry.at_ms, entry.text)).chain(people).collect();
    happened.sort_by_key(|(at_ms, _)| *at_ms);
    lines.extend(happened.into_iter().map(|(at_ms, text)| format!("Happened: {}: {text}", both(at_ms, facts.now))));
    for wait in waits {
        let said = if wait.said.is_empty() { String::new() } else { format!("; it said: {}", wait.said) };
        lines.push(format!("Waits: {}{said}", wait.text));
    }
    lines.extend(remedies.iter().map(|remedy| {
        let safe = if remedy.safe { "safe" } else { "careful" };
        format!("Can be done ({safe}): {}: {}", remedy.command, remedy.text)
    }));
    lines.push(format!("Next: {}", next.text));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tercet_core::{Act, Effects, Event, Reply, Xid, step};
    use tercet_proto::coordinator::v1 as coordinator;

    use super::*;
    use crate::plan::Plan;

    /// A confirm that its participant refused, one second after it was accepted.
    fn refused() -> Live {
        let branch = coordinator::Branch { service: "coupon".into(), action: "redeem".into(), ..Default::default() };
        let mode = coordinator::Mode::Tcc.into();
        let transaction = coordinator::Transaction { mode, branches: vec![branch], ..Default::default() };
        let plan = Plan::declared(transaction).expect("it is sound");
        let mut live = Live::new(Xid([0; 16]), plan, Timestamp(0));
        let mut effects = Effects::default();
        step(&mut live.tx, Event::Woken, Timestamp(0), &mut effects);
        for (operation, reply) in [(Operation::Try, Reply::Done), (Operation::Confirm, Reply::Refused)] {
            let words = crate::live::Words { reason: "I will not".into(), ..Default::default() };
            live.hear(0, operation, reply, words);
            let event = Event::Replied { branch: 0, operation, attempt: 0, reply };
            effects.clear();
            step(&mut live.tx, event, Timestamp(1_000), &mut effects);
            live.note(&effects.notes, Timestamp(1_000));
        }
        live
    }

    fn explained(live: Live, connected: bool) -> pb::ExplainResponse {
        explained_as(live, if connected { State::Stuck } else { State::Absent })
    }

    fn explained_as(live: Live, state: State) -> pb::ExplainResponse {
        let connected = state != State::Absent;
        let coupon = Health {
            service: "coupon".into(),
            state,
            sessions: connected.into(),
            queued: 7,
            in_flight: 2,
            oldest_batch: Duration::ZERO,
            replies: [0; 4],
            failure: None,
        };
        let looks = &|from: Timestamp| Some(from.after_ms(500));
        explain(Facts { live, rows: &[], acts: &[], services: &[coupon], now: Timestamp(3_000), looks })
    }

    #[test]
    fn a_sender_at_work_is_not_asked_before_its_time_as_if_that_were_safe() {
        let branch = |action: &str| coordinator::Branch {
            service: "coupon".into(),
            action: action.into(),
            ..coordinator::Branch::default()
        };
        let request = coordinator::PrepareRequest {
            sender: Some(branch("send")),
            receivers: vec![branch("receive")],
            query_after_ms: 10_000,
            ..coordinator::PrepareRequest::default()
        };
        let plan = Plan::prepared(request).expect("it is sound");
        let mut live = Live::new(Xid([0; 16]), plan, Timestamp(0));
        step(&mut live.tx, Event::Woken, Timestamp(0), &mut Effects::default());
        let told = explained(live.clone(), true);
        let expected = "branch 0 (coupon/send): its ask waits for its sender to commit or roll back until \
            1970-01-01T00:00:10.000Z (in 7s), then it is asked";
        assert_eq!(told.waits[0].text, expected);
        assert!(told.remedies.iter().all(|remedy| !remedy.safe), "{:?}", told.remedies);
        for act in [Act::Park { branch: 0 }, Act::Resume { branch: 0 }] {
            step(&mut live.tx, Event::Operator(act), Timestamp(2_000), &mut Effects::default());
            let told = explained(live.clone(), true);
            let asks: Vec<_> = told.remedies.iter().filter(|one| one.command.contains("tx re")).collect();
            assert!(!asks.is_empty() && asks.iter().all(|one| !one.safe), "after {act:?}: {asks:?}");
        }
    }

    #[test]
    fn a_call_that_its_service_does_not_take_is_told_with_the_queue_that_it_is_in() {
        let mut live = refused();
        step(&mut live.tx, Event::Operator(Act::Retry { branch: 0 }), Timestamp(2_000), &mut Effects::default());
        let told = explained(live, true);
        let expected = "its confirm is under way, or still here: coupon is stuck, 7 calls wait for it to take them, it \
            has 2; without an answer by";
        assert!(told.waits[0].text.contains(expected), "{}", told.waits[0].text);
    }

    #[test]
    fn a_parked_branch_is_told_with_its_words_and_what_can_be_done() {
        let told = explained(refused(), true);
        let zero = "00000000-0000-0000-0000-000000000000";
        let expected = [
            format!("{zero} is confirming"),
            "Happened: 1970-01-01T00:00:00.000Z (3s ago): accepted".into(),
            "Happened: 1970-01-01T00:00:01.000Z (2s ago): decided: confirm".into(),
            "Happened: 1970-01-01T00:00:01.000Z (2s ago): branch 0 (coupon/redeem) refused its confirm".into(),
            "Happened: 1970-01-01T00:00:01.000Z (2s ago): branch 0 (coupon/redeem): its confirm is parked and waits \
             for a person"
                .into(),
            "Waits: branch 0 (coupon/redeem): its confirm is parked: the participant refused it, which it may not; it \
             said: I will not"
                .into(),
            format!(
                "Can be done (safe): tercet tx retry {zero} --branch 0: call it now, once its participant is mended"
            ),
            format!("Can be done (safe): tercet tx resume {zero} --branch 0: hand it back to the scanner"),
            "Next: nothing by itself: branch 0 (coupon/redeem) waits for a person".into(),
        ];
        assert_eq!(told.lines, expected);
        assert_eq!(told.next.map(|next| next.kind()), Some(Kind::Person));
    }

    #[test]
    fn who_is_not_connected_is_named_where_it_is_waited_for() {
        let mut live = refused();
        let resume = Event::Operator(Act::Resume { branch: 0 });
        step(&mut live.tx, resume, Timestamp(2_000), &mut Effects::default());
        let told = explained(live.clone(), false);
        let wait = &told.waits[0];
        assert!(!wait.connected && wait.text.ends_with("no instance of the service is connected"), "{}", wait.text);
        let expected = "Next: nothing until an instance of coupon is connected: then the confirm of branch 0 \
            (coupon/redeem) is called";
        assert_eq!(told.lines.last().map(String::as_str), Some(expected));
        assert_eq!(told.next.map(|next| next.kind()), Some(Kind::Service));
        // The scanner gives nothing to who is stuck either, and takes what is due when it looks.
        let told = explained_as(live.clone(), State::Stuck);
        let expected = "Next: nothing until coupon, which is stuck, answers something: then the confirm of branch 0 \
            (coupon/redeem) is called";
        assert_eq!(told.lines.last().map(String::as_str), Some(expected));
        let told = explained_as(live, State::Behind);
        let expected = "Next: 1970-01-01T00:00:03.500Z (in 500ms): the scanner has the confirm of branch 0 \
            (coupon/redeem) called";
        assert_eq!(told.lines.last().map(String::as_str), Some(expected));
    }
}
