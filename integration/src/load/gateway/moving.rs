//! Slots that move to more databases while users claim coupons: for how long they are frozen.

use std::cell::Cell;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;

use super::report::{Frozen, Report, Used};
use super::site::{Place, Site};
use super::traffic::{Claims, End, Mix, Pace, Traffic, unexpected};
use super::{MANY, MANY_PER_USER, on, sums};
use crate::load::report::round;

/// Coupons of each user before slots move.
const OWNED: u64 = 4;

/// Slots move to more databases while users claim coupons.
#[derive(Args, Clone, Debug)]
pub struct MoveConfig {
    /// A MariaDB server, such as mysql://root@127.0.0.1:3306/mysql
    #[arg(long)]
    pub mariadb: String,
    /// The broker that events go through, host:port
    #[arg(long)]
    pub kafka: String,
    /// Databases that slots are in at first
    #[arg(long, default_value_t = 2)]
    pub databases: usize,
    /// Databases that they move to
    #[arg(long, default_value_t = 4)]
    pub to: usize,
    /// Tables of users' coupons in each of them
    #[arg(long, default_value_t = 4)]
    pub tables: usize,
    /// Coupons that users have before
    #[arg(long, default_value_t = 1_000_000)]
    pub coupons: u64,
    /// Rows of transactions that ended, in all fences
    #[arg(long, default_value_t = 1_000_000)]
    pub fence: u64,
    /// Claims a second meanwhile
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Slots move to more databases while users claim coupons.
///
/// # Errors
/// When a server does not start or ends by itself, or slots do not move.
pub async fn moving(config: &MoveConfig) -> anyhow::Result<Report> {
    let place = Place {
        mariadb: Some(config.mariadb.clone()),
        kafka: Some(config.kafka.clone()),
        databases: config.databases,
        tables: config.tables,
        grow_to: Some(config.to),
        ..Place::default()
    };
    on(&place, async |site, bar, report| run(config, site, bar, report).await).await
}

async fn run(config: &MoveConfig, site: &Site, bar: &ProgressBar, report: &mut Report) -> anyhow::Result<()> {
    let sharded = site.sharded().context("the services are processes of their own")?;
    bar.set_message("giving the users coupons");
    let template = site.publish("move", MANY, MANY_PER_USER).await?;
    let users = (config.coupons / OWNED).max(1);
    site.issue(&template, users, OWNED).await?;
    bar.set_message("filling the fences");
    sharded.fill_fences(config.fence, config.databases).await?;
    bar.set_message("signing tokens");
    let traffic = Traffic::new(site, Mix::Claims, &template, users.min(20_000))?;
    let (moved, before) = (Cell::new(false), Used::take(site));
    let moving = async {
        let lines = sharded.move_slots().await;
        moved.set(true);
        lines
    };
    let (took, lines) = tokio::join!(traffic.run(Pace::Rate(config.rate), End::Set(&moved), bar), moving);
    let (took, lines, after) = (took?, lines?, Used::take(site));
    let tallies = traffic.tallies();
    let mut claims = Claims::default();
    claims.add(&tallies);
    report.load = "move";
    report.offered_per_s = Some(config.rate);
    report.answers(took, &tallies);
    report.coupons_per_s = round(claims.made as f64 / took.as_secs_f64(), 1);
    report.costs(site, &before, &after, report.requests);
    report.broken.extend(unexpected(&tallies, &[]));
    report.frozen = frozen(&lines);
    if report.frozen.is_none() {
        report.broken.push(format!("nothing moved: {lines:?}"));
    }
    if let Some(held) = site.held().await? {
        report.broken.extend(sums(&held, users * OWNED, claims));
    }
    Ok(())
}

/// What the mover has said.
fn frozen(lines: &[String]) -> Option<Frozen> {
    let of_line = |line: &String| line.split_once("under the freeze of ")?.1.split_once(" ms")?.0.parse().ok();
    let mut all: Vec<u64> = lines.iter().filter_map(of_line).collect();
    all.sort_unstable();
    let (min_ms, max_ms) = (*all.first()?, *all.last()?);
    let summary = lines.last().cloned().unwrap_or_default();
    Some(Frozen { freezes: all.len(), min_ms, median_ms: all[all.len() / 2], max_ms, summary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_freezes_of_all_lines_are_read() {
        let line = |ms: u64| {
            format!(
                "database 0 to 2, table 0: 128 slots: 9 rows copied in 7 ms, 1 of them under the freeze of {ms} ms; \
                 9 compared (1/4)"
            )
        };
        let lines = [line(30), line(10), line(20), "384 slots moved, the longest freeze was 30 ms".to_owned()];
        let Frozen { freezes, min_ms, median_ms, max_ms, summary } = frozen(&lines).expect("they are there");
        assert_eq!((freezes, min_ms, median_ms, max_ms), (3, 10, 20, 30));
        assert!(summary.starts_with("384 slots"));
        assert!(frozen(&[]).is_none());
    }
}
