//! Everything that may happen to a participant's calls.
//!
//! First each script of operations runs undisturbed, one call after the other: that is what all else is compared with.

use std::collections::BTreeSet;

use tercet_proto::participant::v1::Operation;
use tercet_proto::participant::v1::reply::Answer;

use super::bench::{Bench, Fault, Run, broken};
use super::{Faults, Plan, Report};
use crate::database::{self, Database, Rows, VERBS};

/// A local transaction with more statements than this does not end.
const STATEMENTS_MAX: usize = 1_000;

/// One operation for all requests, and what it comes to.
struct Step {
    operation: Operation,
    answers: Vec<Answer>,
    /// After the first request.
    first: Rows,
    /// After the last one.
    rows: Rows,
}

/// The steps of one script, undisturbed.
type Course = Vec<Step>;

pub(super) async fn check<Db: Database>(plan: &Plan<Db>) -> Result<Report, Faults> {
    let faults = |faults: Vec<Fault>| Faults { name: plan.name.clone(), faults };
    let bench = Bench::open(plan).await.map_err(|fault| faults(vec![fault]))?;
    let courses = match undisturbed(&bench).await {
        Ok(courses) => courses,
        Err(fault) => return Err(faults(vec![format!("{fault}\n  (nothing else was tried)")])),
    };
    let mut drops = 0;
    let mut failed_writes = 0;
    let results = [
        each_call_twice(&bench, &courses).await,
        each_call_to_another_instance(&bench, &courses).await,
        all_calls_to_one_instance(&bench, &courses).await,
        one_is_cancelled_alone(&bench).await,
        all_calls_in_one_batch(&bench, &courses).await,
        dropped_after_each_statement(&bench, &courses, &mut drops).await,
        each_kind_of_write_fails_once(&bench, &courses, &mut failed_writes).await,
    ];
    let found: Vec<Fault> = results.into_iter().filter_map(Result::err).collect();
    if !found.is_empty() {
        return Err(faults(found));
    }
    Ok(Report { name: plan.name.clone(), drops, failed_writes })
}

/// Every script, one call after the other, on one instance.
async fn undisturbed<Db: Database>(bench: &Bench<'_, Db>) -> Result<Vec<Course>, Fault> {
    let mut courses = Vec::new();
    for script in bench.plan.scripts {
        let first = course(bench, script).await?;
        let second = course(bench, script).await?;
        for (one, other) in first.iter().zip(&second) {
            let context = || {
                let words = "ignore the columns that differ with ignoring(), and keep no state in the handler";
                format!("{}, twice from the same rows: the two must be equal ({words})", names(script))
            };
            compare(one, &other.answers, &other.rows, context)?;
        }
        courses.push(first);
    }
    Ok(courses)
}

async fn course<Db: Database>(bench: &Bench<'_, Db>, script: &[Operation]) -> Result<Course, Fault> {
    let run = bench.begin().await?;
    let instance = bench.instance().await?;
    let mut course = Course::new();
    for (at, operation) in script.iter().enumerate() {
        let mut answers = Vec::new();
        let mut first = None;
        let mut rows = course.last().map_or_else(|| bench.seeded.clone(), |step: &Step| step.rows.clone());
        for request in 0..bench.requests(*operation) {
            let context = || format!("{}, undisturbed: request {}", names(&script[..=at]), request + 1);
            let said = |fault: Fault| format!("  {}: {fault}", context());
            let answer =
                bench.ask(&instance, vec![bench.call(&run, *operation, request)]).await.map_err(said)?.remove(0);
            let now = bench.rows().await.map_err(said)?;
            let is_late = at > 0 && *operation == Operation::Try;
            let refused = is_late || *operation == Operation::Try && !bench.is_granted(request);
            if refused != matches!(answer, Answer::Refused(_)) || !refused && !matches!(answer, Answer::Done(_)) {
                let expected = if refused { "refused" } else { "done" };
                return Err(format!("  {}: expected {expected}, found {}", context(), shown(&answer)));
            }
            let nothing_to_do = refused || *operation == Operation::Cancel && (at == 0 || !bench.is_granted(request));
            if nothing_to_do && rows != now {
                return Err(format!("  {}: it must change nothing\n{}", context(), rows.difference(&now)));
            }
            answers.push(answer);
            first.get_or_insert_with(|| now.clone());
            rows = now;
        }
        if *operation == Operation::Cancel {
            let traces = &bench.plan.traces;
            let (before, after) = (bench.seeded.without(traces), rows.without(traces));
            if before != after {
                let context = names(&script[..=at]);
                let difference = before.difference(&after);
                return Err(format!("  {context}, undisturbed: the cancel does not undo the try\n{difference}"));
            }
        }
        let first = first.unwrap_or_else(|| rows.clone());
        course.push(Step { operation: *operation, answers, first, rows });
    }
    Ok(course)
}

/// A repeat gets the same answer and changes nothing; so does a repeated try after the end.
async fn each_call_twice<Db: Database>(bench: &Bench<'_, Db>, courses: &[Course]) -> Result<(), Fault> {
    for course in courses {
        let run = bench.begin().await?;
        let instance = bench.instance().await?;
        for (at, step) in course.iter().enumerate() {
            let context = || format!("each call twice: {}", steps(&course[..=at]));
            let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
            for request in 0..bench.requests(step.operation) {
                for answers in [&mut firsts, &mut seconds] {
                    answers.extend(bench.ask(&instance, vec![bench.call(&run, step.operation, request)]).await?);
                }
            }
            let rows = bench.rows().await.map_err(|fault| format!("  {}: {fault}", context()))?;
            compare(step, &firsts, &rows, context)?;
            compare(step, &seconds, &rows, || format!("{}, the second time", context()))?;
        }
        let Some(end) = course.last() else { continue };
        for step in course {
            bench.ask(&instance, bench.batch(&run, step.operation)).await?;
            let rows = bench.rows().await?;
            compare(end, &end.answers, &rows, || {
                format!("each call twice: {} once more after {}", step.operation.name(), steps(course))
            })?;
        }
    }
    Ok(())
}

/// Nothing that an instance remembers matters.
async fn each_call_to_another_instance<Db: Database>(bench: &Bench<'_, Db>, courses: &[Course]) -> Result<(), Fault> {
    for course in courses {
        let run = bench.begin().await?;
        for (at, step) in course.iter().enumerate() {
            let context = || format!("each call to another instance: {}", steps(&course[..=at]));
            let mut answers = Vec::new();
            for request in 0..bench.requests(step.operation) {
                let instance = bench.instance().await?;
                answers.extend(bench.ask(&instance, vec![bench.call(&run, step.operation, request)]).await?);
            }
            let rows = bench.rows().await.map_err(|fault| format!("  {}: {fault}", context()))?;
            compare(step, &answers, &rows, context)?;
        }
    }
    Ok(())
}

/// An instance that has seen all of it twice answers as a new one.
async fn all_calls_to_one_instance<Db: Database>(bench: &Bench<'_, Db>, courses: &[Course]) -> Result<(), Fault> {
    let instance = bench.instance().await?;
    for course in courses.iter().chain(courses) {
        let run = bench.begin().await?;
        for at in 0..course.len() {
            let context = || format!("all calls to one instance: {}", steps(&course[..=at]));
            replay(bench, &instance, &run, &course[at], context).await?;
        }
    }
    Ok(())
}

/// A cancel undoes its own try and nothing of the others': they come to the same as without it.
async fn one_is_cancelled_alone<Db: Database>(bench: &Bench<'_, Db>) -> Result<(), Fault> {
    let has = |operation| bench.plan.scripts.iter().any(|script| script.contains(&operation));
    if !has(Operation::Cancel) {
        return Ok(());
    }
    let mut ends = Vec::new();
    for first in [1, 0] {
        let run = bench.begin().await?;
        let instance = bench.instance().await?;
        let granted = bench.plan.granted.len();
        let mut calls: Vec<_> = (first..granted).map(|request| bench.call(&run, Operation::Try, request)).collect();
        calls.extend((first == 0).then(|| bench.call(&run, Operation::Cancel, 0)));
        if has(Operation::Confirm) {
            calls.extend((1..granted).map(|request| bench.call(&run, Operation::Confirm, request)));
        }
        for call in calls {
            bench.ask(&instance, vec![call]).await?;
        }
        let said = |fault| format!("  try of all, cancel of request 1 alone: {fault}");
        ends.push(bench.rows().await.map_err(said)?.without(&bench.plan.traces));
    }
    let difference = ends[0].difference(&ends[1]);
    let context = "try of all, cancel of request 1 alone: the others are not as they would be without it";
    if difference.is_empty() { Ok(()) } else { Err(format!("  {context}\n{difference}")) }
}

/// Calls that come together are answered and done as one by one.
async fn all_calls_in_one_batch<Db: Database>(bench: &Bench<'_, Db>, courses: &[Course]) -> Result<(), Fault> {
    for course in courses {
        let run = bench.begin().await?;
        let instance = bench.instance().await?;
        for at in 0..course.len() {
            let context = || format!("all calls in one batch: {}", steps(&course[..=at]));
            replay(bench, &instance, &run, &course[at], context).await?;
        }
    }
    Ok(())
}

/// A local transaction that is dropped leaves all or nothing, and its repeat comes to the same.
async fn dropped_after_each_statement<Db: Database>(
    bench: &Bench<'_, Db>,
    courses: &[Course],
    drops: &mut usize,
) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    for course in courses {
        for at in 0..course.len() {
            if seen.insert(steps(&course[..=at])) {
                *drops += dropped_in(bench, course, at).await?;
            }
        }
    }
    Ok(())
}

/// Drops the batch of this step after its first statement, after its second, and so on until it has no more.
async fn dropped_in<Db: Database>(bench: &Bench<'_, Db>, course: &Course, at: usize) -> Result<usize, Fault> {
    for after in 1..STATEMENTS_MAX {
        let run = bench.begin().await?;
        let instance = bench.instance().await?;
        for step in &course[..at] {
            bench.ask(&instance, bench.batch(&run, step.operation)).await?;
        }
        let step = &course[at];
        let before = at.checked_sub(1).map_or(&bench.seeded, |before| &course[before].rows);
        let calls = bench.batch(&run, step.operation);
        let (answers, statements) = bench.ask_watched(instance, calls, Some(after)).await?;
        if answers.is_some() {
            return Ok(after - 1);
        }
        let statement = statements.last().map_or("", String::as_str);
        let context = || format!("{}: dropped after statement {after} ({statement})", steps(&course[..=at]));
        let rows = bench.rows().await.map_err(|fault| format!("  {}: {fault}", context()))?;
        if rows != *before && rows != step.rows {
            let difference = before.difference(&rows);
            return Err(format!("  {}: all or nothing is done, and this is neither\n{difference}", context()));
        }
        let instance = bench.instance().await?;
        for (position, step) in course.iter().enumerate().skip(at) {
            let then = if position == at { "called again" } else { "then " };
            let name = if position == at { "" } else { step.operation.name() };
            replay(bench, &instance, &run, step, || format!("{}, {then}{name}", context())).await?;
        }
    }
    Err(format!("  {}: over {STATEMENTS_MAX} statements", steps(&course[..=at])))
}

/// An operation one of whose writes fails is not done, and its repeat is.
async fn each_kind_of_write_fails_once<Db: Database>(
    bench: &Bench<'_, Db>,
    courses: &[Course],
    failed_writes: &mut usize,
) -> Result<(), Fault> {
    let writes: Vec<_> = bench.tables.names().flat_map(|table| VERBS.map(|verb| (table, verb))).collect();
    let mut seen = BTreeSet::new();
    for course in courses {
        for at in 0..course.len() {
            if !seen.insert(steps(&course[..=at])) {
                continue;
            }
            for (table, verb) in &writes {
                *failed_writes += usize::from(write_fails_in(bench, course, at, table, verb).await?);
            }
        }
    }
    Ok(())
}

/// True when the step has such a write.
async fn write_fails_in<Db: Database>(
    bench: &Bench<'_, Db>,
    course: &Course,
    at: usize,
    table: &str,
    verb: &str,
) -> Result<bool, Fault> {
    let context = || format!("{}: {verb} of {table} fails", steps(&course[..=at]));
    let run = bench.begin().await?;
    let instance = bench.instance().await?;
    for step in &course[..at] {
        bench.ask(&instance, bench.batch(&run, step.operation)).await?;
    }
    let step = &course[at];
    let before = bench.rows().await?;
    database::fail(&bench.pool, table, verb).await.map_err(broken)?;
    let answer = bench.ask(&instance, vec![bench.call(&run, step.operation, 0)]).await;
    database::heal(&bench.pool).await.map_err(broken)?;
    let answer = answer?.remove(0);
    let failed = matches!(answer, Answer::Unknown(_));
    if !failed && answer != step.answers[0] {
        let text = "an SQL error is no answer of the participant's: return it";
        return Err(format!("  {}: expected no answer, found {} ({text})", context(), shown(&answer)));
    }
    let rows = bench.rows().await.map_err(|fault| format!("  {}: {fault}", context()))?;
    if failed && rows != before {
        return Err(format!("  {}: it must change nothing\n{}", context(), before.difference(&rows)));
    }
    if !failed && rows != step.first {
        let difference = step.first.difference(&rows);
        return Err(format!("  {}, and the answer is {} all the same\n{difference}", context(), shown(&answer)));
    }
    // One after the other: an operation that failed is sent alone, after those that came with it.
    let then = || format!("{}, the answer is {}, then all again without failures", context(), shown(&answer));
    let mut answers = Vec::new();
    for request in 0..bench.requests(step.operation) {
        answers.extend(bench.ask(&instance, vec![bench.call(&run, step.operation, request)]).await?);
    }
    let rows = bench.rows().await.map_err(|fault| format!("  {}: {fault}", then()))?;
    compare(step, &answers, &rows, then)?;
    Ok(failed)
}

/// Calls the step's batch and compares.
async fn replay<Db: Database>(
    bench: &Bench<'_, Db>,
    instance: &tercet::batch::Executor<Db>,
    run: &Run,
    step: &Step,
    context: impl Fn() -> String,
) -> Result<(), Fault> {
    let said = |fault: Fault| format!("  {}: {fault}", context());
    let answers = bench.ask(instance, bench.batch(run, step.operation)).await.map_err(said)?;
    let rows = bench.rows().await.map_err(said)?;
    compare(step, &answers, &rows, context)
}

fn compare(step: &Step, answers: &[Answer], rows: &Rows, context: impl Fn() -> String) -> Result<(), Fault> {
    for (at, (expected, found)) in step.answers.iter().zip(answers).enumerate() {
        if expected != found {
            let (request, expected, found) = (at + 1, shown(expected), shown(found));
            return Err(format!("  {}: request {request}: expected {expected}, found {found}", context()));
        }
    }
    let difference = step.rows.difference(rows);
    if difference.is_empty() { Ok(()) } else { Err(format!("  {}:\n{difference}", context())) }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Done(result) if result.is_empty() => "done".to_owned(),
        Answer::Done(result) => format!("done with {result:?}"),
        Answer::Refused(reason) => format!("refused: {reason}"),
        Answer::NotNowMs(delay) => format!("not now, in {delay} ms"),
        Answer::Unknown(text) => format!("no answer: {text}"),
    }
}

trait Named {
    fn name(self) -> &'static str;
}

impl Named for Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Ask | Self::Unspecified => "ask",
        }
    }
}

fn names(script: &[Operation]) -> String {
    script.iter().map(|operation| operation.name()).collect::<Vec<_>>().join(", ")
}

fn steps(course: &[Step]) -> String {
    course.iter().map(|step| step.operation.name()).collect::<Vec<_>>().join(", ")
}
