//! What can be done with templates. Each change is one local transaction: the template at its next revision, the rules
//! that belong to it, the row of its log, and the event for the platform's business log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use sqlx::{Pool, Transaction};
use tercet::participant::DbTx;
use tercet::readers::Readers;
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_proto::coupon_template::v1 as pb;
use tercet_proto::events::v1::OperatorChange;
use tercet_rules::{Audience, Code, Fault, Offer, Rules, encode};

use crate::lifecycle::{Action, Standing, Status};
use crate::store::{Entry, Origin, Place, Store};
use crate::template::{Template, Version};

mod offers;

pub use offers::UserOffer;

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asks for what can not be: tell him.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It may or may not be done: ask again.
    #[error("the database of templates")]
    Database(#[from] sqlx::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// What an operator does, with what it takes.
#[derive(Clone, Debug)]
pub enum Command {
    /// Writes the draft version.
    SetRules(Rules),
    /// Gives it to an audience.
    StartGray(Audience),
    /// Gives this version to everyone.
    Promote(u32),
    /// Takes this version from its users.
    RollBack(u32),
    /// Stops claims for a while.
    Pause,
    /// Lets claims go on.
    Resume,
    /// Stops claims for ever.
    End,
}

/// Who changes something, and why.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision that the operator saw. None where he names a version instead.
    pub expected_revision: Option<u64>,
    /// Who.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// A template after a change, and whether it is one.
#[derive(Clone, Debug)]
pub struct Changed {
    /// As it is now.
    pub template: Template,
    /// False for a repeat.
    pub changed: bool,
}

/// All templates of a database.
#[derive(Debug)]
pub struct Templates<Db: Store> {
    pool: Pool<Db>,
    readers: Readers<Db>,
    outbox: Outbox,
    /// The last offer of each template that was asked for. It is what its revision says: each change has one of its
    /// own, and versions that users have do not change.
    offers: Mutex<HashMap<i64, Arc<Offer>>>,
}

impl<Db: Store> Templates<Db> {
    /// Those of this database, whose tables are there. What operators change is told there.
    pub fn new(pool: Pool<Db>, outbox: Outbox) -> Self {
        Self { readers: Readers::new(pool.clone()), pool, outbox, offers: Mutex::default() }
    }

    /// Makes a draft with its first version. The same key again gives the template that it made.
    ///
    /// # Errors
    /// [`Code::KeyReused`] when the key has made another one.
    pub async fn create(&self, name: &str, rules: &Rules, change: &Change, key: &str) -> Result<Changed> {
        let hash = hash(name, rules);
        let mut db_tx = self.begin().await?;
        let now_ms = Db::now_ms(&mut db_tx).await?;
        let mut template = Template {
            template_id: 0,
            name: name.to_owned(),
            standing: Standing::FIRST,
            revision: 1,
            audience: None,
            claim: rules.claim(),
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        template.template_id = match Db::create(&mut db_tx, &template, Origin { key, hash: &hash }).await {
            Ok(template_id) => template_id,
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                db_tx.rollback().await?;
                return self.made(key, &hash).await;
            }
            Err(error) => return Err(error.into()),
        };
        Db::put_version(&mut db_tx, template.template_id, template.standing.candidate, rules).await?;
        self.log(&mut db_tx, &entry(None, &template, "create", Some(rules), change)).await?;
        db_tx.commit().await?;
        Ok(Changed { template, changed: true })
    }

    /// What a key has made before.
    async fn made(&self, key: &str, hash: &str) -> Result<Changed> {
        let mut connection = self.pool.acquire().await?;
        match Db::made_by(&mut connection, key).await? {
            Some((template_id, own)) if own == hash => {
                let template = find(Db::template(&mut connection, template_id).await?, template_id)?;
                Ok(Changed { template, changed: false })
            }
            Some(_) => Err(Code::KeyReused.fault([]).into()),
            None => Err(sqlx::Error::RowNotFound.into()),
        }
    }

    /// Does a command.
    ///
    /// # Errors
    /// [`Code::Conflict`] when the template is at another revision than the operator saw, and those of
    /// [`Standing::after`].
    pub async fn change(&self, template_id: i64, change: &Change, command: Command) -> Result<Changed> {
        let action = command.action();
        let mut db_tx = self.begin().await?;
        let before = find(Db::template(&mut db_tx, template_id).await?, template_id)?;
        let by_version = matches!(action, Action::Promote(_) | Action::RollBack(_));
        if change.expected_revision.is_some_and(|revision| revision != before.revision) {
            // A repeat of a change that is done has seen the revision before it.
            if by_version && before.standing.after(action).is_ok_and(|after| after == before.standing) {
                return Ok(Changed { template: before, changed: false });
            }
            return Err(conflict(before.revision).into());
        }
        let standing = before.standing.after(action)?;
        if by_version && standing == before.standing {
            return Ok(Changed { template: before, changed: false });
        }
        let now_ms = Db::now_ms(&mut db_tx).await?;
        let revision = before.revision + 1;
        let mut after = Template { standing, revision, updated_ms: now_ms, ..before.clone() };
        let mut rules = None;
        match command {
            Command::SetRules(new) => {
                Db::put_version(&mut db_tx, template_id, standing.candidate, &new).await?;
                rules = Some(new);
            }
            Command::StartGray(audience) => after.audience = Some(audience),
            Command::Promote(version) => Db::note_published(&mut db_tx, template_id, version, now_ms).await?,
            Command::RollBack(_) | Command::Pause | Command::Resume | Command::End => {}
        }
        if !standing.is_tried {
            after.audience = None;
        }
        self.note_tried(&mut db_tx, &before, &after).await?;
        let shown = if standing.live > 0 { standing.live } else { standing.candidate };
        if let Some(version) = Db::version(&mut db_tx, template_id, shown).await? {
            after.claim = version.rules.claim();
        }
        if !Db::replace(&mut db_tx, &after, before.revision).await? {
            db_tx.rollback().await?;
            let now = find(Db::template(&mut *self.pool.acquire().await?, template_id).await?, template_id)?;
            return Err(conflict(now.revision).into());
        }
        self.log(&mut db_tx, &entry(Some(&before), &after, action.name(), rules.as_ref(), change)).await?;
        db_tx.commit().await?;
        Ok(Changed { template: after, changed: true })
    }

    /// One template.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn template(&self, template_id: i64) -> Result<Template> {
        let mut reader = self.readers.get().await?;
        let found = Db::template(&mut reader, template_id).await;
        find(reader.done(found)?, template_id)
    }

    /// The rules of a version.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn version(&self, template_id: i64, version: u32) -> Result<Version> {
        let mut reader = self.readers.get().await?;
        let found = Db::version(&mut reader, template_id, version).await;
        let found = reader.done(found)?;
        let what = || missing("version", format!("{template_id}/{version}"));
        Ok(found.ok_or_else(what)?)
    }

    /// So many templates of a status after a place, by start, end and id; with `at_ms` only those that may be claimed
    /// then.
    ///
    /// # Errors
    /// The database's.
    pub async fn list_status(
        &self,
        status: Status,
        at_ms: Option<i64>,
        after: Place,
        limit: u32,
    ) -> Result<Vec<Template>> {
        let mut reader = self.readers.get().await?;
        let found = Db::list_status(&mut reader, status, at_ms, after, limit).await;
        Ok(reader.done(found)?)
    }

    /// So many templates above an id.
    ///
    /// # Errors
    /// The database's.
    pub async fn list_all(&self, after: i64, limit: u32) -> Result<Vec<Template>> {
        let mut reader = self.readers.get().await?;
        let found = Db::list_all(&mut reader, after, limit).await;
        Ok(reader.done(found)?)
    }

    /// So many rows of the business log below a number, newest first; of a template unless it is 0, and of an operator
    /// unless it is empty.
    ///
    /// # Errors
    /// The database's.
    pub async fn changes(
        &self,
        template_id: i64,
        operator: &str,
        before: i64,
        limit: u32,
    ) -> Result<Vec<pb::LoggedChange>> {
        Ok(Db::changes(&mut *self.pool.acquire().await?, template_id, operator, before, limit).await?)
    }

    /// Counts a report; false when it was counted before.
    ///
    /// # Errors
    /// [`Code::NotFound`] when it names a version that there is not: nothing of it is counted.
    pub async fn record_usage(&self, source: &str, sequence: i64, usage: &[pb::Usage]) -> Result<bool> {
        let mut db_tx = self.begin().await?;
        if !Db::take_report(&mut db_tx, source, sequence).await? {
            return Ok(false);
        }
        if let Some((template_id, version)) = Db::unknown(&mut db_tx, usage).await? {
            return Err(missing("version", format!("{template_id}/{version}")).into());
        }
        Db::count(&mut db_tx, usage).await?;
        db_tx.commit().await?;
        Ok(true)
    }

    /// Of what was claimed while this version was tried: its own usage, and that of all others.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn compare_usage(&self, template_id: i64, version: u32) -> Result<[pb::UsageTotals; 2]> {
        self.version(template_id, version).await?;
        Ok(Db::compare(&mut *self.pool.acquire().await?, template_id, version).await?)
    }

    /// Writes down when a version began to be tried, and when that ended.
    async fn note_tried(&self, db_tx: &mut DbTx<Db>, before: &Template, after: &Template) -> sqlx::Result<()> {
        let (was, now) = (before.standing.tried(), after.standing.tried());
        if was == now {
            return Ok(());
        }
        for (version, is_tried) in [(was, false), (now, true)] {
            if let Some(version) = version {
                Db::note_tried(db_tx, after.template_id, version, is_tried, after.updated_ms).await?;
            }
        }
        Ok(())
    }

    /// Writes down who did it: here, and for the platform's business log.
    async fn log(&self, db_tx: &mut DbTx<Db>, entry: &Entry) -> sqlx::Result<()> {
        Db::log(db_tx, entry).await?;
        let told = || Event::new(0, Payload::OperatorChange(operator_change(entry)));
        self.outbox.append::<Db>(db_tx, std::iter::once_with(told)).await
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'static, Db>> {
        self.pool.begin_with(Db::BEGIN_WRITE).await
    }
}

impl Command {
    /// What it does to the template's standing.
    pub const fn action(&self) -> Action {
        match self {
            Self::SetRules(_) => Action::SetRules,
            Self::StartGray(_) => Action::StartGray,
            Self::Promote(version) => Action::Promote(*version),
            Self::RollBack(version) => Action::RollBack(*version),
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::End => Action::End,
        }
    }
}

fn operator_change(entry: &Entry) -> OperatorChange {
    OperatorChange {
        what: "template".to_owned(),
        id: entry.template_id,
        revision: entry.revision,
        operator: entry.operator.clone(),
        action: entry.action.to_owned(),
        reason: entry.reason.clone(),
        before: entry.before.clone().unwrap_or_default(),
        after: entry.after.clone(),
    }
}

fn entry(
    before: Option<&Template>,
    after: &Template,
    action: &'static str,
    rules: Option<&Rules>,
    change: &Change,
) -> Entry {
    Entry {
        template_id: after.template_id,
        revision: after.revision,
        at_ms: after.updated_ms,
        operator: change.operator.clone(),
        action,
        reason: change.reason.clone(),
        before: before.map(|before| before.snapshot(None)),
        after: after.snapshot(rules),
    }
}

fn find(found: Option<Template>, template_id: i64) -> Result<Template> {
    Ok(found.ok_or_else(|| missing("template", template_id.to_string()))?)
}

fn missing(what: &str, id: String) -> Fault {
    Code::NotFound.fault([("what", what.to_owned()), ("id", id)])
}

fn conflict(revision: u64) -> Fault {
    Code::Conflict.fault([("revision", revision.to_string())])
}

/// Of what makes a template what it is, in hexadecimal digits.
fn hash(name: &str, rules: &Rules) -> String {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(encode(rules)).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
