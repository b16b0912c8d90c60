//! Reads of many callers in one: what waits for a database goes there together.
//!
//! Under little load a read goes at once, and alone. Under much, those that came while others were read share the way
//! to the database, and what SQLite looks at again before a read once somebody has written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tercet::fence::Dialect;
use tokio::sync::oneshot;

use super::limits::{READS_AT_ONCE, READS_TOGETHER};
use crate::Shards;
use crate::store::{Ran, Statement, Store};

/// What the statements of one caller read. An error is that of all who were read for at the same moment.
type Answer = Result<Vec<Ran>, Arc<sqlx::Error>>;

struct Caller {
    statements: Vec<Statement>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    callers: VecDeque<Caller>,
    /// Tasks that read for them.
    readers: usize,
}

/// The reads of one database.
pub(super) struct Reads<Db: sqlx::Database> {
    shards: Shards<Db>,
    database: usize,
    waiting: Mutex<Waiting>,
}

impl<Db: Store + Dialect> Reads<Db> {
    /// Of the database at this place in the map.
    pub(super) fn new(shards: Shards<Db>, database: usize) -> Self {
        Self { shards, database, waiting: Mutex::default() }
    }

    /// What these statements read, which lock nothing. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the database can not be read.
    pub(super) async fn read(self: &Arc<Self>, statements: Vec<Statement>) -> Answer {
        let (answer, told) = oneshot::channel();
        if self.push(Caller { statements, answer }) {
            let own = Arc::clone(self);
            // It takes its turn after those who came at the same moment, and reads for them too.
            tokio::spawn(async move { own.keep_reading().await });
        }
        told.await.unwrap_or_else(|_| Err(Arc::new(sqlx::Error::WorkerCrashed)))
    }

    /// Whether one more task is to read.
    fn push(&self, caller: Caller) -> bool {
        let mut waiting = self.waiting();
        // Of a database that hangs, who came first has had enough first.
        while waiting.callers.front().is_some_and(|first| first.answer.is_closed()) {
            waiting.callers.pop_front();
        }
        waiting.callers.push_back(caller);
        let is_needed = waiting.readers < READS_AT_ONCE;
        waiting.readers += usize::from(is_needed);
        is_needed
    }

    async fn keep_reading(&self) {
        let mut reader = Reader(Some(self));
        while let Some(callers) = self.next(&mut reader) {
            self.read_for(callers).await;
        }
    }

    /// Those who are read for next; where there are none the reader ends, before another one can come.
    fn next(&self, reader: &mut Reader<'_, Db>) -> Option<Vec<Caller>> {
        let mut waiting = self.waiting();
        if waiting.callers.is_empty() {
            waiting.readers -= 1;
            reader.0 = None;
            return None;
        }
        let count = waiting.callers.len().min(READS_TOGETHER);
        Some(waiting.callers.drain(..count).collect())
    }

    async fn read_for(&self, mut callers: Vec<Caller>) {
        // Statements that are alike stand side by side.
        callers.sort_by_key(|caller| caller.statements.first().map(|first| (first.kind as usize, first.table)));
        let all: Vec<Statement> = callers.iter().flat_map(|caller| caller.statements.iter().cloned()).collect();
        let reading = async {
            let mut reader = self.shards.reader_of(self.database).await?;
            let ran = Db::run(&mut reader, &all).await;
            reader.done(ran)
        };
        let given_up = async {
            for caller in &mut callers {
                caller.answer.closed().await;
            }
        };
        let ran = tokio::select! {
            biased;
            ran = reading => ran.map_err(Arc::new),
            // Nobody waits for it any more; the connection is closed with what it hangs on.
            () = given_up => return,
        };
        let mut ran = ran.map(Vec::into_iter);
        for Caller { statements, answer } in callers {
            let own = match &mut ran {
                Ok(ran) => Ok(ran.take(statements.len()).collect()),
                Err(error) => Err(Arc::clone(error)),
            };
            // Who has gone needs none.
            let _ = answer.send(own);
        }
    }
}

impl<Db: sqlx::Database> Reads<Db> {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who read. Where its runtime ends before it does, others may come in its place.
struct Reader<'a, Db: sqlx::Database>(Option<&'a Reads<Db>>);

impl<Db: sqlx::Database> Drop for Reader<'_, Db> {
    fn drop(&mut self) {
        if let Some(reads) = self.0 {
            reads.waiting().readers -= 1;
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use sqlx::Sqlite;
    use tempfile::TempDir;
    use tercet_shards::{ShardMap, Slot};

    use super::*;
    use crate::store::{self, Coupon, Status};
    use crate::{claim_by_hand, seed_coupons};

    /// A database with two tables, in which each of the users 1 to 60 has two coupons.
    async fn reads() -> (TempDir, Arc<Reads<Sqlite>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = Sqlite::open(&format!("sqlite://{}/a.db", folder.path().display())).await.expect("it is new");
        let map: ShardMap = "1x2".parse().expect("it is a map");
        let shards = Shards::new(map, vec![pool]).expect("it is one database");
        shards.migrate().await.expect("the schema is sound");
        let all: Vec<_> = (1..=120).map(|number| claim_by_hand(number, (number + 1) / 2, 1, 9)).collect();
        seed_coupons(&shards, &all).await.expect("they are new");
        (folder, Arc::new(Reads::new(shards, 0)))
    }

    async fn found(reads: &Arc<Reads<Sqlite>>, statements: Vec<Statement>) -> Vec<Coupon> {
        store::newest(&reads.read(statements).await.expect("it is there")).expect("they are rows of coupons")
    }

    #[tokio::test]
    async fn each_of_many_has_what_he_asked_for() {
        let (_folder, reads) = reads().await;
        let map = reads.shards.map();
        let one = async |user_id: i64| {
            let [newer, older] = [2 * user_id, 2 * user_id - 1].map(|number| Slot::of_user(user_id).id(number));
            let of = |statuses, page| store::of_user(map, user_id, statuses, page);
            let ids = |found: Vec<Coupon>| found.iter().map(|coupon| coupon.coupon_id).collect::<Vec<_>>();
            assert_eq!(ids(found(&reads, of(&Status::ALL, (i64::MAX, 5))).await), [newer, older], "{user_id}");
            assert_eq!(ids(found(&reads, of(&Status::ALL, (newer, 5))).await), [older], "{user_id}");
            let two = [Status::Used, Status::Issued];
            assert_eq!(ids(found(&reads, of(&two, (i64::MAX, 1))).await), [newer], "{user_id}");
            assert_eq!(ids(found(&reads, store::coupon(map, older)).await), [older], "{user_id}");
            assert_eq!(found(&reads, store::keyed(map, user_id, 5)).await, [], "{user_id}");
        };
        join_all((1..=60).map(one)).await;
        assert_eq!(reads.waiting().readers, 0, "nobody reads on for nobody");
    }

    #[tokio::test]
    async fn who_has_had_enough_leaves_the_next_his_place() {
        let (_folder, reads) = reads().await;
        let mut held = Vec::new();
        while let Ok(reader) = tokio::time::timeout(Duration::from_millis(50), reads.shards.reader_of(0)).await {
            held.push(reader.expect("the file is there"));
        }
        let asked = (1..=40).map(|user_id| {
            let statements = store::of_user(reads.shards.map(), user_id, &Status::ALL, (i64::MAX, 5));
            tokio::time::timeout(Duration::from_millis(50), reads.read(statements))
        });
        assert!(join_all(asked).await.iter().all(Result::is_err), "no connection is free");
        let mut looks = 0;
        while reads.waiting().readers > 0 {
            looks += 1;
            assert!(looks < 1_000, "they read on for nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(held);
        let statements = store::of_user(reads.shards.map(), 7, &Status::ALL, (i64::MAX, 5));
        assert_eq!(found(&reads, statements).await.len(), 2);
    }
}
