//! Participants that do nothing, to measure everything around them.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
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

/// The settings of one such participant.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Its service: a, b or c
    #[arg(long)]
    service: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Keep a durable fence in this SQLite file; without it there is no fence
    #[arg(long)]
    database: Option<PathBuf>,
    /// Answer every try with "not now"
    #[arg(long)]
    hold: bool,
}

/// Runs one until the process is killed.
///
/// # Errors
/// When it can not start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let url = match &config.database {
        Some(file) => format!("sqlite://{}", file.display()),
        None => "sqlite::memory:".to_owned(),
    };
    let at = SERVICES.iter().position(|name| *name == config.service);
    let at = at.ok_or_else(|| anyhow::anyhow!("the service {:?} is none of {SERVICES:?}", config.service))?;
    let noop = || NoOp { hold: config.hold };
    let mut service = Service::new(SERVICES[at], [Sqlite::open(&url).await?])
        .tcc_slice(HOLD[at], noop())
        .saga_slice(STEP[at], noop())
        .receiver_slice(TELL[at], noop())
        .coordinator(config.coordinator);
    if config.database.is_none() {
        service = service.without_fence();
    }
    Ok(service.run(pending()).await?)
}

/// Starts the three of them: this same program again, with its word `participant`. With a fence it is in `folder`.
///
/// # Errors
/// When the system does not start them.
pub fn start(program: &str, folder: &Path, coordinator: &str, fence: bool, hold: bool) -> anyhow::Result<Vec<Process>> {
    let start = |service: &&str| {
        let mut spec = Spec::new(service, program, "tercet-integration", folder)?
            .word("participant")
            .with("--service", *service)
            .with("--coordinator", coordinator);
        if fence {
            spec = spec.with("--database", folder.join(format!("{service}.db")));
        }
        if hold { spec.word("--hold").start() } else { spec.start() }
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
    hold: bool,
}

fn done(operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
    Ok(vec![Answer::done(); operations.len()])
}

impl SliceParticipant for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn try_(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        if self.hold { Ok(vec![Answer::not_now(HOLD_UP); operations.len()]) } else { done(operations) }
    }

    async fn confirm(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        done(operations)
    }

    async fn cancel(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        done(operations)
    }
}

impl SliceCompensable for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn try_(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        done(operations)
    }

    async fn cancel(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        done(operations)
    }
}

impl SliceReceiver for NoOp {
    type Db = Sqlite;
    type Request = Nothing;

    async fn deliver(&self, _: &mut DbTx<Sqlite>, operations: &[Op<Nothing>]) -> sqlx::Result<Vec<Answer>> {
        done(operations)
    }
}
