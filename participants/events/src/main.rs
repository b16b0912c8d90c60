//! What a person does with dead letters: look at them, send them back, give them up.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sqlx::Pool;
use tercet_events::by_database;
use tercet_events::dead::{self, Fate, Letter};
use tercet_events::store::Store;

/// Letters of one look into a database.
const PAGE: u32 = 100;

/// Events of the coupon platform: what consumers could not take, and the way back
#[derive(Debug, Parser)]
#[command(name = "tercet-events", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows dead letters, oldest first
    List(Place),
    /// Sends dead letters back to their topics, for the group that could not take them
    Back(Place),
    /// Gives dead letters up
    Discard(Place),
}

#[derive(Debug, Args)]
struct Place {
    /// URL of the consumer's database, where there is no broker
    #[arg(long, env = "TERCET_DATABASE", conflicts_with = "kafka", required_unless_present = "kafka")]
    database: Option<String>,
    /// The broker
    #[command(flatten)]
    kafka: tercet_events::settings::Kafka,
    /// With a broker: the topic whose events could not be taken, such as coupon
    #[arg(long, requires = "kafka")]
    topic: Option<String>,
    /// With a broker: the group that could not take them, such as order
    #[arg(long, requires = "kafka")]
    group: Option<String>,
    /// So many, from the oldest on; all when left out
    #[arg(long)]
    limit: Option<usize>,
    /// The one that is listed with this number; with a broker PARTITION/OFFSET, which stays listed, and can not be
    /// given up alone
    #[arg(long, conflicts_with = "limit")]
    only: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (place, fate) = match Cli::parse().command {
        Command::List(place) => (place, None),
        Command::Back(place) => (place, Some(Fate::Back)),
        Command::Discard(place) => (place, Some(Fate::Discard)),
    };
    match run(place, fate).await {
        Ok(count) => {
            let done = match fate {
                None => "dead letters",
                Some(Fate::Back) => "dead letters sent back",
                Some(Fate::Discard) => "dead letters given up",
            };
            println!("{count} {done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tercet-events: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(place: Place, fate: Option<Fate>) -> anyhow::Result<usize> {
    let limit = place.limit.unwrap_or(usize::MAX);
    let Some(url) = &place.database else { return broker(place, fate, limit).await };
    by_database!(url.split(':').next().unwrap_or_default(), database(url, fate, limit, place.only.as_deref()))
}

async fn database<Db: Store>(url: &str, fate: Option<Fate>, limit: usize, only: Option<&str>) -> anyhow::Result<usize> {
    let pool = Db::open(url).await?;
    if let Some(id) = only {
        let id: i64 = id.parse().context("the number of a letter is a whole one")?;
        let kept = dead::kept(&pool, id.saturating_sub(1), 1).await?.pop().filter(|kept| kept.id == id);
        settle(&pool, &kept.with_context(|| format!("there is no dead letter {id}"))?, fate).await?;
        return Ok(1);
    }
    let (mut count, mut after) = (0, 0);
    loop {
        let page = dead::kept(&pool, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = last.id;
        for kept in page {
            if count == limit {
                return Ok(count);
            }
            settle(&pool, &kept, fate).await?;
            count += 1;
        }
    }
}

/// Shows a letter that a database keeps, and does with it what is wanted.
async fn settle<Db: Store>(pool: &Pool<Db>, kept: &dead::Kept, fate: Option<Fate>) -> anyhow::Result<()> {
    show(&format!("{:>6}", kept.id), kept.at_ms, &kept.key, &kept.letter, kept.bytes);
    if let Some(fate) = fate {
        dead::settle(pool, kept.id, fate).await?;
    }
    Ok(())
}

#[cfg(feature = "kafka")]
async fn broker(place: Place, fate: Option<Fate>, limit: usize) -> anyhow::Result<usize> {
    let (Some(topic), Some(group)) = (&place.topic, &place.group) else {
        anyhow::bail!("--kafka needs --topic and --group");
    };
    let bus = tercet_events::bus::Bus::kafka(&place.kafka)?;
    if let Some(only) = &place.only {
        anyhow::ensure!(fate != Some(Fate::Discard), "with a broker letters are given up from the oldest on");
        let at = only.split_once('/').and_then(|(partition, offset)| partition.parse().ok().zip(offset.parse().ok()));
        let at = at.context("a letter of a broker is named PARTITION/OFFSET")?;
        let show = |one: &dead::InTopic| show(only, one.at_ms, &one.key, &one.letter, one.bytes);
        let found = dead::one_in_topic(&bus, (topic, group), at, fate.is_some(), show).await?;
        anyhow::ensure!(found, "there is no dead letter at {only}");
        return Ok(1);
    }
    let show = |at: &str, one: &dead::InTopic| show(at, one.at_ms, &one.key, &one.letter, one.bytes);
    Ok(dead::in_topic(&bus, topic, group, fate, limit, show).await?)
}

#[cfg(not(feature = "kafka"))]
async fn broker(_: Place, _: Option<Fate>, _: usize) -> anyhow::Result<usize> {
    anyhow::bail!("no broker is built into this program")
}

fn show(at: &str, at_ms: i64, key: &str, letter: &Letter, bytes: usize) {
    let Letter { group, topic, partition, source, sequence, reason, attempts } = letter;
    println!(
        "{at}  {at_ms}  {topic}/{partition} {source}:{sequence} key {key}, {bytes} bytes\n        \
         {group} tried {attempts} times: {reason}"
    );
}
