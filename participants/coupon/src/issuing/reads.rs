//! Reads of many callers in one: what waits for a database goes there together.
//!
//! Under little load a read goes at once, and alone. Under much, those that came while others were read share the way
//! to the database, and what SQLite looks at again before a read once somebody has written.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tercet::fence::Dialect;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::limits::{READ_MAX, READ_SLOW, READS_AT_ONCE, READS_TOGETHER};
use crate::Shards;
use crate::store::{Ran, Statement, Store};

/// What the statements of one caller read. An error may be shared with others who were read for at the same moment.
type Answer = Result<Vec<Ran>, Arc<sqlx::Error>>;

struct Caller {
    statements: Vec<Statement>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    callers: VecDeque<Caller>,
    /// With more than so many it is looked who of them has had enough.
    sweep_at: usize,
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
    /// When the database can not be read, or not within [`READ_MAX`].
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
        if waiting.callers.len() >= waiting.sweep_at.max(READS_TOGETHER) {
            waiting.callers.retain(|caller| !caller.answer.is_closed());
            waiting.sweep_at = 2 * waiting.callers.len();
        }
        waiting.callers.push_back(caller);
        let is_needed = waiting.readers < READS_AT_ONCE;
        waiting.readers += usize::from(is_needed);
        is_needed
    }

    async fn keep_reading(self: Arc<Self>) {
        let mut reader = Reader(Some(&self));
        while let Some(callers) = self.next(&mut reader) {
            let mut reading = Box::pin(Arc::clone(&self).read_for(callers));
            if timeout(READ_SLOW, &mut reading).await.is_err() {
                // What it hangs on may be its connection alone: the others do not wait for it.
                tokio::spawn(reading);
            }
        }
    }

    /// Those who are read for next; where there are none the reader ends, before another one can come.
    fn next(&self, reader: &mut Reader<'_, Db>) -> Option<Vec<Caller>> {
        let mut waiting = self.waiting();
        let mut callers = Vec::new();
        while callers.len() < READS_TOGETHER
            && let Some(caller) = waiting.callers.pop_front()
        {
            if !caller.answer.is_closed() {
                callers.push(caller);
            }
        }
        if callers.is_empty() {
            waiting.readers -= 1;
            reader.0 = None;
            return None;
        }
        Some(callers)
    }

    async fn read_for(self: Arc<Self>, mut callers: Vec<Caller>) {
        // Statements that are alike stand side by side.
        callers.sort_by_key(|caller| caller.statements.first().map(|first| (first.kind as usize, first.table)));
        let split = |Caller { statements, answer }| (statements, answer);
        let (statements, mut answers): (Vec<_>, Vec<_>) = callers.into_iter().map(split).unzip();
        let given_up = async {
            for answer in &mut answers {
                answer.closed().await;
            }
        };
        let read = tokio::select! {
            biased;
            read = timeout(READ_MAX, self.read_each(&statements)) => read,
            // Nobody waits for it any more; the connection is closed with what it hangs on.
            () = given_up => return,
        };
        let read = read.unwrap_or_else(|_| {
            let late = io::Error::new(ErrorKind::TimedOut, format!("not read within {READ_MAX:?}"));
            same(sqlx::Error::Io(late), answers.len())
        });
        for (answer, read) in answers.into_iter().zip(read) {
            // Who has gone needs none.
            let _ = answer.send(read);
        }
    }

    /// What each of these reads, all in one; where the database refuses one of them, each by itself.
    async fn read_each(&self, callers: &[Vec<Statement>]) -> Vec<Answer> {
        match self.run(&callers.concat()).await {
            Ok(ran) => {
                let mut ran = ran.into_iter();
                callers.iter().map(|own| Ok(ran.by_ref().take(own.len()).collect())).collect()
            }
            Err(sqlx::Error::Database(_)) if callers.len() > 1 => {
                let mut read = Vec::with_capacity(callers.len());
                for own in callers {
                    read.push(self.run(own).await.map_err(Arc::new));
                }
                read
            }
            Err(error) => same(error, callers.len()),
        }
    }

    async fn run(&self, statements: &[Statement]) -> sqlx::Result<Vec<Ran>> {
        let mut reader = self.shards.reader_of(self.database).await?;
        let ran = Db::run(&mut reader, statements).await;
        reader.done(ran)
    }
}

/// So many answers with this error.
fn same(error: sqlx::Error, count: usize) -> Vec<Answer> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(Arc::clone(&error))).collect()
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

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

    /// All of its connections for reads.
    async fn all_readers(reads: &Reads<Sqlite>) -> Vec<tercet::readers::Reader<'_, Sqlite>> {
        let mut held = Vec::new();
        for _ in 0..reads.shards.pools()[0].options().get_max_connections() {
            held.push(reads.shards.reader_of(0).await.expect("the file is there"));
        }
        held
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
        let held = all_readers(&reads).await;
        let asked = (1..=40).map(|user_id| {
            let statements = store::of_user(reads.shards.map(), user_id, &Status::ALL, (i64::MAX, 5));
            timeout(Duration::from_millis(50), reads.read(statements))
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

    #[tokio::test]
    async fn two_connections_that_hang_cost_the_others_little_and_their_own_callers_an_error() {
        let (_folder, reads) = reads().await;
        let hangs = Arc::new(AtomicBool::new(true));
        let mut hanging = [reads.shards.reader_of(0).await, reads.shards.reader_of(0).await];
        for reader in &mut hanging {
            let hangs = Arc::clone(&hangs);
            let mut handle = reader.as_mut().expect("the file is there").lock_handle().await.expect("it is sound");
            handle.set_progress_handler(1, move || {
                while hangs.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                true
            });
        }
        for reader in hanging {
            reader.expect("the file is there").done(Ok(())).expect("nothing was read");
        }
        let begun = Instant::now();
        let of = |user_id| store::of_user(reads.shards.map(), user_id, &Status::ALL, (i64::MAX, 5));
        let mut stuck = Vec::new();
        for user_id in 1..=2 {
            let (own, statements) = (Arc::clone(&reads), of(user_id));
            stuck.push(tokio::spawn(async move { own.read(statements).await }));
            // Each by a reader of its own.
            tokio::time::sleep(READ_SLOW / 10).await;
        }
        assert_eq!(found(&reads, of(3)).await.len(), 2);
        assert!(begun.elapsed() < READ_MAX, "{:?}", begun.elapsed());
        for one in stuck {
            let error = one.await.expect("no panic").expect_err("it hangs");
            assert!(matches!(&*error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut), "{error}");
        }
        hangs.store(false, Ordering::Relaxed);
        assert_eq!(found(&reads, of(1)).await.len(), 2);
    }

    #[tokio::test]
    async fn what_the_database_refuses_is_an_error_for_its_caller_alone() {
        let (_folder, reads) = reads().await;
        let asked = (1..=12).map(async |user_id| {
            let mut statements = store::of_user(reads.shards.map(), user_id, &Status::ALL, (i64::MAX, 5));
            if user_id == 5 {
                statements[0].table = 9;
            }
            reads.read(statements).await.is_ok()
        });
        let answered = join_all(asked).await;
        let expected: Vec<_> = (1..=12).map(|user_id| user_id != 5).collect();
        assert_eq!(answered, expected);
    }

    #[tokio::test]
    async fn who_has_had_enough_does_not_wait_on_behind_one_who_has_not() {
        let (_folder, reads) = reads().await;
        let mut kept = Vec::new();
        for at in 0..100 * READS_TOGETHER {
            let (answer, told) = oneshot::channel();
            reads.push(Caller { statements: Vec::new(), answer });
            kept.extend((at == 0).then_some(told));
        }
        let left = reads.waiting().callers.len();
        assert!(left <= 2 * READS_TOGETHER, "{left}");
        let callers = reads.next(&mut Reader(Some(&reads))).expect("one waits");
        assert_eq!(callers.len(), 1);
    }
}
