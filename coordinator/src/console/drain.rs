//! `tercet drain`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use tercet_proto::admin::v1 as pb;

use super::Error;
use super::change::{Difference, Why, lines};
use super::client::{Client, request};
use super::show::{Screen, count, short};
use super::stats::{EVERY, look};
use crate::limits;
use crate::store::CompensationStatus;

/// What `drain` can be told.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Take new transactions again
    #[arg(long)]
    undo: bool,
    /// Wait until nothing is in memory any more, whoever began to drain it, and tell what the log still holds
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    wait: bool,
    #[command(flatten)]
    why: Why,
}

/// What draining did, for programs.
#[derive(Serialize)]
struct Drained {
    dry_run: bool,
    /// Nothing when it drained already.
    difference: Option<Difference>,
    live: u64,
    /// What the log holds, by service, once nothing is in memory; only where that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Vec<Left>>,
}

/// Rows of the log that outlast a drain.
#[derive(Serialize)]
struct Left {
    service: String,
    pending: u64,
    parked: u64,
}

/// Does it.
pub(super) async fn run(options: Options, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let asked = client.named(pb::DrainRequest { undo: options.undo, change: options.why.change() })?;
    let drained = match client.admin.drain(asked).await {
        Ok(drained) => drained.into_inner(),
        Err(status) => {
            let error = client.blame("like that", &status);
            // Where somebody else drains it, what is waited for is the same.
            if !(options.wait && matches!(error, Error::Unfit(_))) {
                return Err(error);
            }
            pb::DrainResponse::default()
        }
    };
    let dry_run = options.why.is_dry_run();
    let difference = drained.difference.as_ref().map(Difference::from);
    let mut told = Drained { dry_run, difference, live: drained.live, log: None };
    if !screen.json {
        match &drained.difference {
            Some(difference) => {
                screen.text(&format!("{}\n{}", options.why.title(), lines(difference, screen.now())))?
            }
            None => screen.text("It drains already")?,
        }
        if drained.difference.is_some() {
            let left = count(drained.live, "transaction is", "transactions are");
            screen.text(&format!("  {left} in memory; see `tercet stats`"))?;
        }
    }
    if options.wait {
        empty(&mut client, screen).await?;
        let left = left(&mut client).await?;
        if !screen.json {
            screen.text(&held(&left))?;
        }
        (told.live, told.log) = (0, Some(left));
    }
    if screen.json { screen.document(&told) } else { Ok(()) }
}

/// Waits until nothing is in memory.
async fn empty(client: &mut Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    loop {
        let seen = look(client).await?.statistics;
        if !seen.draining {
            return Err(Error::Undrained(seen.live));
        }
        if seen.live == 0 {
            return Ok(());
        }
        if !screen.json {
            screen.text(&format!("  {} left", seen.live))?;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Counts what the log holds as the store says it, since statistics are as old as the last beat.
async fn left(client: &mut Client) -> Result<Vec<Left>, Error> {
    let mut services = BTreeMap::<String, (u64, u64)>::new();
    for status in [CompensationStatus::Pending, CompensationStatus::Failed] {
        let mut after_id = 0;
        loop {
            let (status, limit) = (Some(status as u32), limits::PAGE_MAX);
            let asked = pb::ListCompensationsRequest { status, limit, after_id, ..Default::default() };
            let rows = client.admin.list_compensations(request(asked)).await;
            let rows = rows.map_err(|status| client.blame("like that", &status))?.into_inner().compensations;
            let Some(last) = rows.last().map(|row| row.id) else { break };
            after_id = last;
            let full = rows.len() == limit as usize;
            for row in rows {
                let (pending, parked) = services.entry(row.service).or_default();
                *if status == Some(CompensationStatus::Pending as u32) { pending } else { parked } += 1;
            }
            if !full {
                break;
            }
        }
    }
    Ok(services.into_iter().map(|(service, (pending, parked))| Left { service, pending, parked }).collect())
}

/// What outlasts a drain, for people.
fn held(left: &[Left]) -> String {
    if left.is_empty() {
        return "Nothing is in memory, and nothing waits in compensation_log".into();
    }
    let each = left.iter().map(|one| {
        let pending = count(one.pending, "row is retried", "rows are retried");
        let parked = count(one.parked, "waits for a person", "wait for a person");
        format!("  {}: {pending}, {parked}", short(&one.service, 64))
    });
    let told = "Nothing is in memory. What compensation_log holds is due at any later start:".to_owned();
    std::iter::once(told).chain(each).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_outlasts_a_drain_is_named_by_service() {
        assert_eq!(held(&[]), "Nothing is in memory, and nothing waits in compensation_log");
        let left = |service: &str, pending, parked| Left { service: service.into(), pending, parked };
        let told = "\
Nothing is in memory. What compensation_log holds is due at any later start:
  coupon: 1 row is retried, 0 wait for a person
  stock: 2 rows are retried, 1 waits for a person";
        assert_eq!(held(&[left("coupon", 1, 0), left("stock", 2, 1)]), told);
    }
}
