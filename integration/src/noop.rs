//! Participants that do nothing, to measure everything around them.

use std::future::pending;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use sqlx::Sqlite;
use tercet::action::{Action, Message, Saga, Tcc};
use tercet::fence::Dialect as _;
use tercet::participant::{Answer, DbTx, Op, SliceCompensable, SliceParticipant, SliceReceiver};
use tercet::plan::{self, Plan};
use tercet::service::Service;
use tercet_proto::stock::v1::Reserve as Nothing;

use crate::processes::{Process, Spec};

/// Their names.
pub const SERVICES: [&str; 3] = ["a", "b", "c"];

/// With try, confirm and cancel, of each service.
pub const HOLD: [Action<Tcc, Nothing>; 3] =
    [Action::tcc("a", "hold"), Action::tcc("b", "hold"), Action::tcc("c", "hold")];
/// With try and cancel, of each service.
pub const STEP: [Action<Saga, Nothing>; 3] =
    [Action::saga("a", "step"), Action::saga("b", "step"), Action::saga("c", "step")];
/// With confirm only, of each service.
pub const TELL: [Action<Message, Nothing>; 3] =
    [Action::message("a", "tell"), Action::message("b", "tell"), Action::message("c", "tell")];

/// What every branch asks for.
pub const NOTHING: Nothing = Nothing { item: 1 << 40, count: 1 };

/// How long a participant that is told to holds transactions up.
const HOLD_UP: Duration = Duration::from_secs(600);

/// What such a participant does with its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Habit {
    /// Says "done" to everything
    #[default]
    Agrees,
    /// Says "not now" to every try
    Holds,
    /// Answers nothing, and is alive
    Hangs,
    /// Says "not now" to most confirms
    Falters,
    /// Refuses every confirm, which it may not
    Refuses,
}

/// Of so many confirms one that falters says "done" to one.
const FALTERS: u32 = 6;

/// The settings of such participants.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// A service, any number of times: all of them in this process
    #[arg(long, required = true)]
    service: Vec<String>,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Keep durable fences in SQLite files in this folder; without it there are none
    #[arg(long)]
    fences: Option<PathBuf>,
    /// Calls that each service takes at a time
    #[arg(long)]
    concurrency: Option<NonZeroU32>,
    /// What they do with their calls
    #[arg(long, value_enum, default_value_t)]
    habit: Habit,
    /// How long each call takes them, one after another
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

/// Runs them until the process is killed.
///
/// # Errors
/// When one can not start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    futures_util::future::try_join_all(config.service.iter().map(|name| serve(name, &config))).await?;
    Ok(())
}

async fn serve(name: &str, config: &Config) -> anyhow::Result<()> {
    let url = match &config.fences {
        Some(folder) => format!("sqlite://{}/{name}.db", folder.display()),
        None => "sqlite::memory:".to_owned(),
    };
    // A service has its name for as long as the process runs.
    let name: &'static str = String::leak(name.to_owned());
    let delay = Duration::from_millis(config.delay_ms);
    let noop = || NoOp { habit: config.habit, delay, confirms: AtomicU32::new(0) };
    let mut service = Service::new(name, [Sqlite::open(&url).await?])
        .tcc_slice(Action::<Tcc, Nothing>::tcc(name, HOLD[0].name()), noop())
        .saga_slice(Action::<Saga, Nothing>::saga(name, STEP[0].name()), noop())
        .receiver_slice(Action::<Message, Nothing>::message(name, TELL[0].name()), noop())
        .coordinator(&config.coordinator);
    if config.fences.is_none() {
        service = service.without_fence();
    }
    if let Some(calls) = config.concurrency {
        service = service.concurrency(calls);
    }
    Ok(service.run(pending()).await?)
}

/// How to start such services in one process: this same program again, with its word `participant`. With a fence it is
/// in `folder`.
///
/// # Errors
/// When the program was not built.
pub fn spec(program: &str, folder: &Path, coordinator: &str, services: &[&str], fence: bool) -> anyhow::Result<Spec> {
    let mut spec = Spec::new(services[0], program, "tercet-integration", folder)?
        .word("participant")
        .with("--coordinator", coordinator);
    for service in services {
        spec = spec.with("--service", *service);
    }
    Ok(if fence { spec.with("--fences", folder) } else { spec })
}

/// Starts the three of them, each in a process of its own.
///
/// # Errors
/// When the system does not start them.
pub fn start(
    program: &str,
    folder: &Path,
    coordinator: &str,
    fence: bool,
    habit: Habit,
) -> anyhow::Result<Vec<Process>> {
    let start = |service: &&str| {
        let habit = habit.to_possible_value().context("every habit has a name")?;
        spec(program, folder, coordinator, &[*service], fence)?.with("--habit", habit.get_name()).start()
    };
    SERVICES.iter().map(start).collect()
}

/// Three branches that are tried and confirmed.
///
/// # Errors
/// None: it is within every limit.
pub fn tcc(deadline: Duration) -> anyhow::Result<Plan<Tcc>> {
    let mut plan = plan::tcc().deadline(deadline);
    for action in HOLD {
        plan.branch(action.with(&NOTHING)?);
    }
    Ok(plan.build()?)
}

/// Three steps, one after another.
///
/// # Errors
/// None: it is within every limit.
pub fn saga() -> anyhow::Result<Plan<Saga>> {
    let mut plan = plan::saga();
    for action in STEP {
        plan.branch(action.with(&NOTHING)?);
    }
    Ok(plan.build()?)
}

/// A message to three receivers.
///
/// # Errors
/// None: it is within every limit.
pub fn message() -> anyhow::Result<Plan<Message>> {
    let mut plan = plan::message();
    for action in TELL {
        plan.branch(action.with(&NOTHING)?);
    }
    Ok(plan.build()?)
}

struct NoOp {
    habit: Habit,
    delay: Duration,
    confirms: AtomicU32,
}

impl NoOp {
    async fn done(&self, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        if self.habit == Habit::Hangs {
            pending::<()>().await;
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay * operations.len() as u32).await;
        }
        Ok(vec![Answer::done(); operations.len()])
    }

    async fn confirmed(&self, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        let answer = |_| match self.habit {
            Habit::Refuses => Answer::refused("the habit of this participant"),
            Habit::Falters if !self.confirms.fetch_add(1, Ordering::Relaxed).is_multiple_of(FALTERS) => {
                Answer::not_now(Duration::from_millis(1))
            }
            Habit::Agrees | Habit::Holds | Habit::Hangs | Habit::Falters => Answer::done(),
        };
        Ok(self.done(operations).await?.iter().map(answer).collect())
    }
}

impl SliceParticipant for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn try_(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        if self.habit == Habit::Holds {
            return Ok(vec![Answer::not_now(HOLD_UP); operations.len()]);
        }
        self.done(operations).await
    }

    async fn confirm(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        self.confirmed(operations).await
    }

    async fn cancel(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        self.done(operations).await
    }
}

impl SliceCompensable for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn try_(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        self.done(operations).await
    }

    async fn cancel(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        self.done(operations).await
    }
}

impl SliceReceiver for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn deliver(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        self.confirmed(operations).await
    }
}
