//! The one connection that writes: batches, and purging.
//!
//! sqlx pays for every statement with messages between two threads, so a batch is one statement: it is inserted as one
//! row into a view that holds nothing, and the view's triggers do the work. All bytes of a batch travel in one blob;
//! each kind of write is one statement that walks a JSON array of small numbers (positions in the blob, lengths,
//! versions). When fewer rows changed than should, the trigger gives up the whole batch, and only then is it found out
//! which write did not fit: that question costs nothing while all is well.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use tercet_core::{Timestamp, Xid};

use super::{RECORD, audit, decode_record};
use crate::audit::{AuditRow, Head};
use crate::store::{Advance, Create, Key, Owner, Purge, Record, Write, Written};

/// The one connection that writes.
pub(super) struct Writer {
    pub(super) connection: SqliteConnection,
    /// Transactions that have ended and are not purged yet; `None`: to be counted.
    pub(super) ended: Option<u64>,
}

/// What became of one attempt to write some of a batch.
enum Attempt {
    Done,
    /// Some write replaces a version that is not there, or its key is taken.
    Unfit,
    /// The database refuses some row's content.
    Refused(String),
}

/// Writes of a batch, by their index, that are tried together.
struct Part {
    indexes: Vec<usize>,
    /// Those that do not fit have been taken out.
    sifted: bool,
}

/// Of this connection only, and made anew by each, so that they change with this file.
pub(super) const BATCH: &str = "
    CREATE TEMP VIEW batch AS SELECT NULL AS bytes, NULL AS creates, NULL AS created, NULL AS steps, NULL AS stepped,
        NULL AS node, NULL AS epoch, NULL AS advances, NULL AS advanced, NULL AS keys, NULL AS compensations,
        NULL AS now, NULL AS audit;

    CREATE TEMP TRIGGER batch_create INSTEAD OF INSERT ON batch WHEN NEW.created > 0 BEGIN
        INSERT INTO tx (xid, version, mode, status, ended_at, node, epoch, wake_at, digest, plan, state,
            idempotency_key)
        SELECT substr(NEW.bytes, value->>'$[0]', 16), 1, value->>'$[1]', value->>'$[2]', value->>'$[3]',
            value->>'$[4]', value->>'$[5]', value->>'$[6]', value->>'$[7]',
            substr(NEW.bytes, value->>'$[8]', value->>'$[9]'), substr(NEW.bytes, value->>'$[10]', value->>'$[11]'),
            CAST(substr(NEW.bytes, value->>'$[12]', value->>'$[13]') AS TEXT)
        FROM jsonb_each(NEW.creates) WHERE true
        ON CONFLICT DO NOTHING;
        SELECT RAISE(ABORT, 'unfit') WHERE changes() <> NEW.created;
    END;

    -- A transaction that goes on under the same owner: only what no index holds.
    CREATE TEMP TRIGGER batch_step INSTEAD OF INSERT ON batch WHEN NEW.stepped > 0 BEGIN
        UPDATE tx SET version = version + 1, status = value->>'$[2]', wake_at = value->>'$[3]',
            state = substr(NEW.bytes, (value->>'$[0]') + 16, value->>'$[4]')
        FROM jsonb_each(NEW.steps)
        WHERE xid = substr(NEW.bytes, value->>'$[0]', 16) AND version = value->>'$[1]'
            AND +ended_at IS NULL AND +tx.node = NEW.node AND +tx.epoch = NEW.epoch;
        SELECT RAISE(ABORT, 'unfit') WHERE changes() <> NEW.stepped;
    END;

    CREATE TEMP TRIGGER batch_advance INSTEAD OF INSERT ON batch WHEN NEW.advanced > 0 BEGIN
        UPDATE tx SET version = version + 1, status = value->>'$[2]', wake_at = value->>'$[3]',
            state = substr(NEW.bytes, (value->>'$[0]') + 16, value->>'$[4]'), ended_at = value->>'$[5]',
            node = value->>'$[6]', epoch = value->>'$[7]'
        FROM jsonb_each(NEW.advances)
        WHERE xid = substr(NEW.bytes, value->>'$[0]', 16) AND version = value->>'$[1]';
        SELECT RAISE(ABORT, 'unfit') WHERE changes() <> NEW.advanced;
    END;

    CREATE TEMP TRIGGER batch_keys INSTEAD OF INSERT ON batch WHEN NEW.keys IS NOT NULL BEGIN
        INSERT INTO tx_key (xid, kind, text)
        SELECT substr(NEW.bytes, value->>'$[0]', 16), value->>'$[1]', value->>'$[2]'
        FROM jsonb_each(NEW.keys) WHERE true
        ON CONFLICT DO NOTHING;
    END;

    CREATE TEMP TRIGGER batch_compensations INSTEAD OF INSERT ON batch WHEN NEW.compensations IS NOT NULL BEGIN
        INSERT INTO compensation_log (xid, branch, operation, service, coupon_id, status, retry_count,
            next_retry_time, last_error, create_time, update_time)
        SELECT substr(NEW.bytes, value->>'$[0]', 16), value->>'$[1]', value->>'$[2]', value->>'$[3]', value->>'$[4]',
            value->>'$[5]', value->>'$[6]', value->>'$[7]', value->>'$[8]', NEW.now, NEW.now
        FROM jsonb_each(NEW.compensations) WHERE true
        ON CONFLICT (xid, branch, operation) DO UPDATE SET service = excluded.service,
            coupon_id = excluded.coupon_id, status = excluded.status, retry_count = excluded.retry_count,
            next_retry_time = excluded.next_retry_time, last_error = excluded.last_error,
            update_time = excluded.update_time, lease_until = 0, owner_node = NULL, owner_epoch = NULL;
    END;

    CREATE TEMP TRIGGER batch_audit INSTEAD OF INSERT ON batch WHEN NEW.audit IS NOT NULL BEGIN
        INSERT INTO audit (id, at, who, act, xid, why, before, after, previous, hash)
        SELECT value->>'$[0]', value->>'$[1]', value->>'$[2]', value->>'$[3]', unhex(value->>'$[4]', '-'),
            value->>'$[5]', value->>'$[6]', value->>'$[7]', unhex(value->>'$[8]'), unhex(value->>'$[9]')
        FROM jsonb_each(NEW.audit);
    END;";

const WRITE: &str = "-- write
    INSERT INTO batch VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// What belongs to a transaction goes with it.
const BELONGINGS: &str = "
    CREATE TEMP TRIGGER purge_belongings AFTER DELETE ON tx BEGIN
        DELETE FROM tx_key WHERE xid = OLD.xid;
        DELETE FROM compensation_log WHERE xid = OLD.xid;
    END;";

pub(super) const PURGE: &str = "-- purge
    DELETE FROM tx WHERE rowid IN (SELECT rowid FROM tx WHERE ended_at < $1 ORDER BY ended_at, rowid LIMIT $2)";

const COUNT_ENDED: &str = "-- count_ended
    SELECT count(*) FROM tx WHERE ended_at IS NOT NULL";

/// A batch in the shape in which it travels.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    creates: Rows,
    steps: Rows,
    advances: Rows,
    keys: Rows,
    compensations: Rows,
    audit: Rows,
    /// The owner of all `steps`.
    owner: Option<Owner>,
    ended: u64,
}

/// A JSON array of rows.
#[derive(Default)]
struct Rows {
    json: String,
    count: i64,
}

impl Rows {
    /// Adds a row; `fields` is the inside of a JSON array.
    fn push(&mut self, fields: std::fmt::Arguments<'_>) {
        self.json.push_str(if self.count == 0 { "[[" } else { ",[" });
        self.json.write_fmt(fields).expect("a string takes everything");
        self.json.push(']');
        self.count += 1;
    }

    /// The array (`None` when it is empty) and its length.
    fn finish(mut self) -> (Option<String>, i64) {
        self.json.push(']');
        ((self.count > 0).then_some(self.json), self.count)
    }
}

/// A number or JSON's null.
struct OrNull<T>(Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for OrNull<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

fn ms(time: Option<Timestamp>) -> OrNull<u64> {
    OrNull(time.map(|time| time.0))
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}

impl Packed {
    /// Packs these writes. `plain`: no short cut for transactions that stay with their owner.
    fn new<'a>(writes: impl Iterator<Item = &'a Write>, plain: bool) -> Self {
        let mut packed = Self::default();
        for write in writes {
            // SQL counts from 1. What belongs to a row follows its xid.
            let at = packed.bytes.len() + 1;
            packed.bytes.extend_from_slice(write.xid().as_ref().map_or(&[], |xid| &xid.0));
            match write {
                Write::Create(create) => packed.create(at, create),
                Write::Advance(advance) => packed.advance(at, advance, plain),
                Write::Audit(_) => {}
            }
        }
        packed
    }

    /// Chains the audit rows of these writes to the head of the log.
    fn witness<'a>(&mut self, writes: impl Iterator<Item = &'a Write>, mut head: Head, now: Timestamp) {
        for audit in writes.filter_map(Write::audit) {
            let row = AuditRow::after(head, now, audit.clone());
            head = row.head().unwrap_or_default();
            self.audit.push(format_args!("{}", audit::fields(&row)));
        }
    }

    fn create(&mut self, at: usize, create: &Create) {
        let key = create.idempotency_key.as_deref();
        let plan_at = at + 16;
        let state_at = plan_at + create.plan.len();
        let key_at = state_at + create.state.len();
        self.bytes.extend_from_slice(&create.plan);
        self.bytes.extend_from_slice(&create.state);
        self.bytes.extend_from_slice(key.unwrap_or_default().as_bytes());
        self.creates.push(format_args!(
            "{at},{},{},{},{},{},{},{},{plan_at},{},{state_at},{},{key_at},{}",
            create.mode,
            create.status,
            ms(create.ended_at),
            create.owner.node,
            create.owner.epoch,
            ms(create.wake_at),
            create.digest.cast_signed(),
            create.plan.len(),
            create.state.len(),
            OrNull(key.map(str::len)),
        ));
        self.ended += u64::from(create.ended_at.is_some());
        self.keys(at, &create.keys);
    }

    fn advance(&mut self, at: usize, advance: &Advance, plain: bool) {
        self.bytes.extend_from_slice(&advance.state);
        let (version, status, wake_at) = (advance.version, advance.status, ms(advance.wake_at));
        let length = advance.state.len();
        // Work that comes out of the compensation log or goes into it mostly changes the owner.
        let stays = !plain && advance.ended_at.is_none() && advance.compensations.is_empty();
        let same = advance.owner.filter(|owner| stays && *self.owner.get_or_insert(*owner) == *owner);
        if same.is_some() {
            self.steps.push(format_args!("{at},{version},{status},{wake_at},{length}"));
        } else {
            let (node, epoch) = (advance.owner.map(|owner| owner.node), advance.owner.map(|owner| owner.epoch));
            self.advances.push(format_args!(
                "{at},{version},{status},{wake_at},{length},{},{},{}",
                ms(advance.ended_at),
                OrNull(node),
                OrNull(epoch)
            ));
        }
        self.ended += u64::from(advance.ended_at.is_some());
        self.keys(at, &advance.keys);
        for row in &advance.compensations {
            self.compensations.push(format_args!(
                "{at},{},{},{},{},{},{},{},{}",
                row.branch,
                row.operation,
                quoted(&row.service),
                OrNull(row.coupon_id),
                row.status as u8,
                row.retry_count,
                row.next_retry_time.0,
                quoted(&row.last_error),
            ));
        }
    }

    fn keys(&mut self, at: usize, keys: &[Key]) {
        for key in keys {
            let (kind, text) = super::key_parts(key);
            self.keys.push(format_args!("{at},{kind},{}", quoted(text)));
        }
    }
}

impl Writer {
    pub(super) async fn new(mut connection: SqliteConnection) -> Result<Self, sqlx::Error> {
        sqlx::raw_sql(BATCH).execute(&mut connection).await?;
        sqlx::raw_sql(BELONGINGS).execute(&mut connection).await?;
        Ok(Self { connection, ended: None })
    }

    /// Writes a batch. After an error anything may have happened to any of it.
    pub(super) async fn write(&mut self, batch: &[Write], now: Timestamp) -> Result<Vec<Written>, sqlx::Error> {
        let mut answers: Vec<Option<Written>> = vec![None; batch.len()];
        let mut parts = vec![Part { indexes: (0..batch.len()).collect(), sifted: false }];
        while let Some(part) = parts.pop() {
            if part.indexes.is_empty() {
                continue;
            }
            match self.attempt(batch, &part, now).await? {
                Attempt::Done => {
                    for index in part.indexes {
                        answers[index] = Some(Written::Done { version: batch[index].version() });
                    }
                }
                Attempt::Unfit if part.sifted => {
                    return Err(sqlx::Error::Protocol("another process writes the same transactions".to_owned()));
                }
                Attempt::Unfit => parts.extend(self.sift(batch, part.indexes, &mut answers).await?),
                Attempt::Refused(why) => match part.indexes[..] {
                    [index] => answers[index] = Some(Written::Refused(why)),
                    _ => {
                        let (left, right) = part.indexes.split_at(part.indexes.len() / 2);
                        parts.extend([left, right].map(|half| Part { indexes: half.to_vec(), sifted: part.sifted }));
                    }
                },
            }
        }
        Ok(answers.into_iter().map(|answer| answer.expect("every write was in a part")).collect())
    }

    /// Deletes what has ended too long ago or is too much.
    pub(super) async fn purge(&mut self, purge: Purge) -> Result<u64, sqlx::Error> {
        let limit = u64::from(purge.limit);
        // Whatever goes wrong, the next call counts again.
        let ended = match self.ended.take() {
            Some(ended) => ended,
            None => {
                sqlx::query(COUNT_ENDED).fetch_one(&mut self.connection).await?.try_get::<i64, _>(0)?.cast_unsigned()
            }
        };
        // Both rules take from the same end of the same order.
        let too_many = ended.saturating_sub(purge.keep_max).min(limit);
        let mut gone = 0;
        for (before, most) in [(Timestamp::MAX, too_many), (purge.older_than, limit - too_many)] {
            let query = sqlx::query(PURGE).bind(before.0.cast_signed()).bind(most.cast_signed());
            gone += query.execute(&mut self.connection).await?.rows_affected();
        }
        self.ended = Some(ended.saturating_sub(gone));
        Ok(gone)
    }

    async fn attempt(&mut self, batch: &[Write], part: &Part, now: Timestamp) -> Result<Attempt, sqlx::Error> {
        let writes = || part.indexes.iter().map(|index| &batch[*index]);
        let mut packed = Packed::new(writes(), part.sifted);
        // Rare, so the log's head is looked up and never remembered wrongly.
        if writes().any(|write| write.audit().is_some()) {
            let head = audit::head(&mut self.connection).await?;
            packed.witness(writes(), head, now);
        }
        let owner = packed.owner.unwrap_or(Owner { node: 0, epoch: 0 });
        let ended = packed.ended;
        let (creates, created) = packed.creates.finish();
        let (steps, stepped) = packed.steps.finish();
        let (advances, advanced) = packed.advances.finish();
        let query = sqlx::query(WRITE)
            .bind(packed.bytes)
            .bind(creates)
            .bind(created)
            .bind(steps)
            .bind(stepped)
            .bind(i64::from(owner.node))
            .bind(owner.epoch.cast_signed())
            .bind(advances)
            .bind(advanced)
            .bind(packed.keys.finish().0)
            .bind(packed.compensations.finish().0)
            .bind(now.0.cast_signed())
            .bind(packed.audit.finish().0);
        match query.execute(&mut self.connection).await {
            Ok(_) => {
                self.ended = self.ended.map(|before| before + ended);
                Ok(Attempt::Done)
            }
            Err(sqlx::Error::Database(error)) if error.message() == "unfit" => Ok(Attempt::Unfit),
            Err(sqlx::Error::Database(error)) if is_of_content(error.code().as_deref()) => {
                Ok(Attempt::Refused(error.message().to_owned()))
            }
            Err(error) => {
                self.ended = None;
                Err(error)
            }
        }
    }

    /// Answers the writes that do not fit what is stored, and returns the others: those that can go together, and
    /// those that must wait for one of them because they name the same transaction or key.
    async fn sift(
        &mut self,
        batch: &[Write],
        indexes: Vec<usize>,
        answers: &mut [Option<Written>],
    ) -> Result<[Part; 2], sqlx::Error> {
        let writes = || indexes.iter().map(|index| &batch[*index]);
        let versions = self.versions(writes().filter_map(Write::xid)).await?;
        let taken = self.taken(writes().filter_map(idempotency_key)).await?;
        let (mut fit, mut later) = (Vec::new(), Vec::new());
        let (mut xids, mut keys) = (HashSet::new(), HashSet::new());
        for index in indexes {
            let write = &batch[index];
            let key = idempotency_key(write);
            let replaces = match write {
                Write::Create(_) => None,
                Write::Advance(advance) => Some(advance.version),
                Write::Audit(_) => {
                    fit.push(index);
                    continue;
                }
            };
            if !xids.insert(write.xid()) || key.is_some_and(|key| !keys.insert(key)) {
                later.push(index);
            } else if write.xid().and_then(|xid| versions.get(&xid).copied()) != replaces {
                answers[index] = Some(Written::Stale);
            } else if let Some(record) = key.and_then(|key| taken.get(key)) {
                answers[index] = Some(Written::KeyTaken(Box::new(record.clone())));
            } else {
                fit.push(index);
            }
        }
        // The last one is tried first.
        Ok([Part { indexes: later, sifted: false }, Part { indexes: fit, sifted: true }])
    }

    async fn versions(&mut self, xids: impl Iterator<Item = Xid>) -> Result<HashMap<Xid, u64>, sqlx::Error> {
        const SQL: &str = "-- versions
            SELECT xid, version FROM tx WHERE xid IN (SELECT unhex(value, '-') FROM json_each($1))";
        let xids: Vec<String> = xids.map(|xid| xid.to_string()).collect();
        let rows = sqlx::query(SQL).bind(json(&xids)).fetch_all(&mut self.connection).await?;
        rows.iter().map(|row| Ok((super::decode_xid(row, 0)?, row.try_get::<i64, _>(1)?.cast_unsigned()))).collect()
    }

    async fn taken<'a>(&mut self, keys: impl Iterator<Item = &'a str>) -> Result<HashMap<String, Record>, sqlx::Error> {
        let sql = format!(
            "-- taken
            SELECT {RECORD} FROM tx WHERE idempotency_key IN (SELECT value FROM json_each($1))"
        );
        let keys: Vec<&str> = keys.collect();
        let rows: Vec<SqliteRow> =
            sqlx::query(AssertSqlSafe(sql)).bind(json(&keys)).fetch_all(&mut self.connection).await?;
        let records = rows.iter().map(decode_record).collect::<Result<Vec<_>, _>>()?;
        Ok(records.into_iter().filter_map(|record| Some((record.idempotency_key.clone()?, record))).collect())
    }
}

fn json<T: serde::Serialize>(texts: &[T]) -> String {
    serde_json::to_string(texts).expect("a list of texts is JSON")
}

fn idempotency_key(write: &Write) -> Option<&str> {
    match write {
        Write::Create(create) => create.idempotency_key.as_deref(),
        Write::Advance(_) | Write::Audit(_) => None,
    }
}

/// Whether SQLite (by its extended result code) blames a row's content: too big, a constraint, a wrong type.
fn is_of_content(code: Option<&str>) -> bool {
    let code = code.and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 18..=20))
}
