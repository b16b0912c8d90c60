//! What a person does with slots: look where they are, move them, give a move up.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tercet::bootstrap::{LogFormat, logs};
use tercet_coupon::mover::{Group, Moved, Mover, limits};
use tercet_coupon::store::seats::{Said, State};
use tercet_shards::ShardMap;

/// Slots of the coupon platform: in which database they are, and how to move them while the services run
#[derive(Debug, Parser)]
#[command(name = "tercet-slots", version)]
struct Cli {
    /// What is logged: a level, or directives such as info,sqlx=warn
    #[arg(long, env = "TERCET_LOG_FILTER", default_value = "warn", global = true)]
    log_filter: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what each database has
    Status(Places),
    /// Moves slots to where a map says; run again, it goes on
    Move {
        #[command(flatten)]
        places: Places,
        /// Shows what would be moved, and moves nothing
        #[arg(long)]
        dry_run: bool,
        /// Milliseconds to pause after each statement that writes up to 500 rows, while slots are served
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Gives up what has begun: slots that have not come yet are served where they were
    Back(Places),
}

#[derive(Debug, Args)]
struct Places {
    /// URLs of all databases, those that are new last
    #[arg(long, env = "TERCET_DATABASE", value_delimiter = ',', required = true)]
    database: Vec<String>,
    /// Where slots are to be: DATABASESxTABLES, such as 20x100
    #[arg(long, env = "TERCET_SHARDS")]
    shards: ShardMap,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tercet-slots: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    logs(LogFormat::Text, &cli.log_filter)?;
    match cli.command {
        Command::Status(places) => {
            let mover = open(&places, 0).await?;
            show(&mover.said().await?);
            let left = mover.plan(&places.shards).await?;
            println!("{} slots are not where {} says", slots(&left), places.shards);
        }
        Command::Move { places, dry_run, pause_ms } => {
            let mover = open(&places, pause_ms).await?;
            if dry_run {
                for group in mover.plan(&places.shards).await? {
                    println!("{}", line(&group));
                }
                return Ok(());
            }
            go(&mover, &places.shards).await?;
        }
        Command::Back(places) => {
            let mover = open(&places, 0).await?;
            let deleted = mover.give_up().await?;
            println!("{deleted} rows of moves that were begun are deleted");
            show(&mover.said().await?);
        }
    }
    Ok(())
}

async fn open(places: &Places, pause_ms: u64) -> anyhow::Result<Mover> {
    let pause = Duration::from_millis(pause_ms);
    Ok(Mover::open(places.shards.tables(), &places.database, pause).await?)
}

async fn go(mover: &Mover, to: &ShardMap) -> anyhow::Result<()> {
    let deleted = mover.finish().await.context("what an earlier move left behind")?;
    if deleted > 0 {
        println!("{deleted} rows of earlier moves are deleted");
    }
    let groups = mover.plan(to).await?;
    let (count, mut done, mut rows, mut longest) = (groups.len(), 0, 0, Duration::ZERO);
    let (mut deleted, mut finished) = (0, Instant::now());
    for group in &groups {
        let moved = mover.go(group).await.with_context(|| format!("{}; run it again", line(group)))?;
        let Moved { compared, copied, frozen, took } = moved;
        (done, rows, longest) = (done + 1, rows + copied.0, longest.max(frozen));
        println!(
            "{}: {} rows copied in {} ms, {} of them under the freeze of {} ms; {compared} compared ({done}/{count})",
            line(group),
            copied.0,
            took.as_millis(),
            copied.1,
            frozen.as_millis()
        );
        if finished.elapsed() >= limits::FINISH {
            deleted += mover.finish().await.context("what was left behind; run it again")?;
            finished = Instant::now();
        }
    }
    deleted += mover.finish().await.context("what was left behind; run it again")?;
    println!(
        "{} slots moved, {rows} rows, {deleted} deleted where they were, the longest freeze was {} ms",
        slots(&groups),
        longest.as_millis()
    );
    Ok(())
}

fn slots(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.slots.len()).sum()
}

fn line(group: &Group) -> String {
    let Group { from, to, table, slots } = group;
    if from == to {
        return format!("database {from} serves what is frozen again, table {table}: {} slots", slots.len());
    }
    format!("database {from} to {to}, table {table}: {} slots", slots.len())
}

fn show(said: &[Said]) {
    println!("database  epoch  served  frozen  arriving  left  empty");
    for (at, said) in said.iter().enumerate() {
        let of = |state| said.states.iter().filter(|own| **own == Some(state)).count();
        let [arriving, served, frozen, left, empty] = State::ALL.map(of);
        println!("{at:>8}  {:>5}  {served:>6}  {frozen:>6}  {arriving:>8}  {left:>4}  {empty:>5}", said.epoch);
    }
}
