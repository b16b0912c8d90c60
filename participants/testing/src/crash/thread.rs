//! SQLite: work is dropped once so many statements have run on the threads that own its connections.
//!
//! sqlx sends each command to such a thread together with the span that is current. The thread enters the span before
//! it runs the command and leaves it afterwards. So a subscriber that is the default while the work is polled hears of
//! every command before it runs, on the thread that runs it, and can hold it until the poll is over: then the work can
//! not go on to the next command before it is dropped.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tracing::dispatcher::{DefaultGuard, Dispatch, WeakDispatch, get_default, set_default, with_default};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use super::Watched;

/// How sqlx names the threads.
const THREADS: &str = "sqlx-sqlite-worker";
/// Where sqlx logs statements.
const STATEMENTS: &str = "sqlx::query";
/// For one command. Nothing waits that long unless a command hangs.
const COMMAND_MAX: Duration = Duration::from_secs(20);

/// Runs the work; drops it when this many statements have run, with the answer to the last one lost.
pub(crate) async fn run<T>(work: impl Future<Output = T>, after: Option<usize>) -> Watched<T> {
    let gate = Arc::new(Gate { after, ..Gate::default() });
    let outer = get_default(Dispatch::clone);
    let dispatch = Dispatch::new(Watch { gate: Arc::clone(&gate), outer });
    let span = with_default(&dispatch, || tracing::debug_span!("watched"));
    gate.here.get_or_init(|| (dispatch.downgrade(), span.metadata()));
    let mut work = Box::pin(work);
    let result = poll_fn(|context| {
        if gate.is_reached() {
            return Poll::Ready(None);
        }
        gate.set_polling(true);
        let polled = with_default(&dispatch, || work.as_mut().poll(context));
        gate.set_polling(false);
        polled.map(Some)
    })
    .await;
    drop(work);
    Watched { result, statements: gate.finish() }
}

/// Between the work and the threads that run its statements.
#[derive(Default)]
struct Gate {
    after: Option<usize>,
    /// The watch itself, for the threads, and the span that is always current.
    here: OnceLock<(WeakDispatch, Option<&'static Metadata<'static>>)>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    polling: bool,
    running: usize,
    /// By the order in which they began; `None` for those that sqlx does not log.
    begun: Vec<Option<String>>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_polling(&self, polling: bool) {
        self.state().polling = polling;
        self.changed.notify_all();
    }

    fn is_reached(&self) -> bool {
        self.after.is_some_and(|after| self.state().begun.len() >= after)
    }

    /// Called where a statement is about to run. Returns its number.
    fn begin(&self) -> usize {
        let mut state = self.state();
        state.begun.push(None);
        state.running += 1;
        let number = state.begun.len();
        if self.after == Some(number) {
            let held = self.changed.wait_timeout_while(state, COMMAND_MAX, |state| state.polling);
            drop(held);
        }
        number
    }

    fn end(&self) {
        self.state().running -= 1;
        self.changed.notify_all();
    }

    fn name(&self, number: usize, text: String) {
        if let Some(statement) = self.state().begun.get_mut(number - 1) {
            *statement = Some(text);
        }
    }

    /// Waits for what is running, and names the statements.
    fn finish(&self) -> Vec<String> {
        let state = self.changed.wait_timeout_while(self.state(), COMMAND_MAX, |state| state.running > 0);
        let mut state = state.unwrap_or_else(PoisonError::into_inner).0;
        let begun = std::mem::take(&mut state.begun);
        let unnamed: Vec<usize> = (0..begun.len()).filter(|at| begun[*at].is_none()).collect();
        let name = |at: usize| match (unnamed.first(), unnamed.last()) {
            (Some(first), _) if *first == at => "BEGIN",
            (_, Some(last)) if *last == at => "COMMIT",
            _ => "SAVEPOINT or RELEASE",
        };
        begun.into_iter().enumerate().map(|(at, text)| text.unwrap_or_else(|| name(at).to_owned())).collect()
    }
}

thread_local! {
    /// The statement that runs on this thread, and the guard that lets the watch see it logged.
    static RUNNING: RefCell<Option<(usize, DefaultGuard)>> = const { RefCell::new(None) };
}

/// The subscriber. It has one span, which is always current; events that are not about statements go to the subscriber
/// that was there before.
struct Watch {
    gate: Arc<Gate>,
    outer: Dispatch,
}

fn is_on_a_connections_thread() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with(THREADS))
}

impl Subscriber for Watch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() || metadata.target() == STATEMENTS || self.outer.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() != STATEMENTS {
            if self.outer.enabled(event.metadata()) {
                self.outer.event(event);
            }
            return;
        }
        let number = RUNNING.with_borrow(|running| running.as_ref().map(|(number, _)| *number));
        if let Some(number) = number {
            let mut statement = Statement::default();
            event.record(&mut statement);
            self.gate.name(number, statement.text());
        }
    }

    fn enter(&self, _: &Id) {
        let watch = self.gate.here.get().and_then(|(watch, _)| watch.upgrade());
        if let Some(watch) = watch.filter(|_| is_on_a_connections_thread()) {
            let number = self.gate.begin();
            RUNNING.set(Some((number, set_default(&watch))));
        }
    }

    fn exit(&self, _: &Id) {
        if is_on_a_connections_thread() && RUNNING.take().is_some() {
            self.gate.end();
        }
    }

    fn current_span(&self) -> Current {
        match self.gate.here.get() {
            Some((_, Some(metadata))) => Current::new(Id::from_u64(1), metadata),
            Some((_, None)) | None => Current::none(),
        }
    }
}

#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Statement {
    fn text(self) -> String {
        let text = if self.whole.trim().is_empty() { self.summary } else { self.whole };
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.whole),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
