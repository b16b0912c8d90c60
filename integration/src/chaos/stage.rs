//! The servers of a run: the coordinator, the participants, and the databases that are processes of their own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::acts::Act;
use super::clients::{ITEMS, World};
use super::kill::Database;
use super::{InDoubt, Store};
use crate::checker;
use crate::mariadb::Server;
use crate::processes::{Coordinator, Process, Spec};
use crate::shop::{self, Filling, SERVICES};

/// For anything that a run waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A page of the auditor's takes no longer than this by far.
const AUDIT_MAX: Duration = Duration::from_secs(1);

/// Coupons of the template that is sold out soon.
const FEW: i64 = 300;

/// The servers, by number: 0 is the coordinator, then come the participants, then their databases.
pub(super) struct Stage {
    coordinator: Coordinator,
    participants: Vec<Process>,
    databases: Vec<Server>,
    store: Store,
    folder: PathBuf,
}

impl Stage {
    /// Starts them all, with goods and coupons; the coordinator as `adapt` leaves it.
    pub(super) async fn start(
        folder: &Path,
        database: Database,
        adapt: impl FnOnce(Spec) -> Spec,
    ) -> anyhow::Result<Self> {
        let filling = Filling { items: ITEMS, units: 1 << 40, first_coupons: 1 << 40, second_coupons: FEW, issued: 0 };
        let mut databases = Vec::new();
        let mut urls = shop::files(folder);
        if database == Database::Mariadb {
            for (service, url) in SERVICES.iter().zip(&mut urls) {
                let server = Server::start(folder, service).await?;
                url.clone_from(&server.url);
                databases.push(server);
            }
        }
        shop::fill(&urls, filling).await?;
        let coordinator = Coordinator::start_as(folder, adapt).await?;
        let participants = shop::start(folder, &urls, &coordinator.url)?;
        let mut stage = Self { coordinator, participants, databases, store: Store::of(folder), folder: folder.into() };
        stage.wait_sessions().await?;
        Ok(stage)
    }

    /// The coordinator's address.
    pub(super) fn url(&self) -> &str {
        &self.coordinator.url
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        1 + self.participants.len() + self.databases.len()
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let databases = self.databases.iter_mut().map(|server| &mut server.process);
        self.coordinator.process.iter_mut().chain(&mut self.participants).chain(databases)
    }

    /// The server with this number.
    pub(super) fn server(&mut self, at: usize) -> anyhow::Result<&mut Process> {
        self.processes().nth(at).with_context(|| format!("there is no server {at}"))
    }

    /// An error when one of them has ended by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        self.processes().try_for_each(Process::check)
    }

    /// Waits for what the clients bring about.
    pub(super) async fn until(&mut self, what: &str, world: &World, reached: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !reached() {
            self.check()?;
            if let Some(fault) = world.faults.borrow().first() {
                bail!("a client was told {fault}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("{PATIENCE:?} without enough {what}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until a little more than so many are in doubt.
    pub(super) async fn wait_in_doubt(&mut self, wanted: i64, world: &World) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let InDoubt { count, .. } = self.store.in_doubt().await?;
            // Until the signal arrives some of them end.
            if count >= wanted + wanted / 5 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("no more than {count} are in doubt");
            }
            self.until("time", world, || true).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the coordinator's store holds of transactions that have not ended.
    pub(super) async fn in_doubt(&self) -> anyhow::Result<InDoubt> {
        self.store.in_doubt().await
    }

    /// From now to the end of the last one of those that were in doubt.
    pub(super) async fn last_ended(&self, in_doubt: &InDoubt) -> anyhow::Result<Duration> {
        self.store.last_ended(in_doubt).await
    }

    /// Makes everything run again, in an order in which each finds what it needs: who is frozen goes on, then
    /// databases, the coordinator and participants start.
    pub(super) async fn restore(&mut self, acts: &[(usize, Act)]) -> anyhow::Result<()> {
        let killed = |at: usize| acts.contains(&(at, Act::Kill));
        for (at, _) in acts.iter().filter(|(at, _)| !killed(*at)) {
            self.server(*at)?.thaw()?;
        }
        let first = 1 + self.participants.len();
        for (_, server) in self.databases.iter_mut().enumerate().filter(|(at, _)| killed(first + at)) {
            server.process.restart()?;
            drop(server.wait_ready().await?);
        }
        if killed(0) {
            self.server(0)?.restart()?;
            self.coordinator.wait_ready().await?;
        }
        for (_, participant) in self.participants.iter_mut().enumerate().filter(|(at, _)| killed(1 + at)) {
            participant.restart()?;
        }
        Ok(())
    }

    /// Waits until every participant has a session.
    pub(super) async fn wait_sessions(&mut self) -> anyhow::Result<()> {
        self.coordinator.wait_for(&mut self.participants).await
    }

    /// Waits until nothing is under way. What still is then, the checker names.
    pub(super) async fn wait_ended(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.store.in_doubt().await.is_ok_and(|in_doubt| in_doubt.count == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the auditor has looked at what has ended. Says how many alarms it has raised, all starts of the
    /// coordinator together, and how many operations it has looked at.
    pub(super) async fn audited(&mut self) -> anyhow::Result<(usize, u64)> {
        let begun = Instant::now();
        let invariants = loop {
            let all = self.coordinator.statistics().await?.invariants;
            // A page that was under way before is not younger than this.
            let since = begun.elapsed().saturating_sub(AUDIT_MAX).as_millis() as u64;
            if !all.is_empty() && all.iter().all(|one| one.age_ms < since) {
                break all;
            }
            self.check()?;
            if begun.elapsed() > PATIENCE {
                bail!("the auditor has heard nothing for {PATIENCE:?}: {all:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let log = std::fs::read_to_string(self.folder.join("coordinator.log")).unwrap_or_default();
        let told = log.lines().filter(|line| line.contains("not conserved")).count();
        // One that an instance told a coordinator that was killed at that moment is told to the next one too.
        let standing: usize = invariants.iter().filter(|one| !one.holds).map(|one| one.broken.len().max(1)).sum();
        Ok((told.max(standing), invariants.iter().map(|one| one.watermark).sum()))
    }

    /// Ends them all, and leaves what the checker reads.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.check()?;
        for (server, service) in self.databases.iter_mut().zip(SERVICES) {
            checker::copy(&mut server.wait_ready().await?, &self.folder, service).await?;
        }
        Ok(())
    }
}
