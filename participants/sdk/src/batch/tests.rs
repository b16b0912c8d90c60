//! Batches on SQLite.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::Sqlite;

use super::forget::FORGOTTEN_MAX;
use super::*;
use crate::action::{Action, Json, Message};
use crate::fixture::{Gate, Shop, TAKE, answers, call, done, refused, shelf, shop, shop_database};
use crate::participant::{DbTx, Op, Receiver, SliceReceiver};
use crate::service::Service;
use pb::Operation::{Cancel, Confirm, Try};

#[tokio::test]
async fn a_batch_answers_in_order() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    let calls = vec![
        call(3, Try, 4),
        call(1, Try, 7),
        call(2, Cancel, 7),
        call(1, Try, 7),
        call(1, Confirm, 7),
        call(4, Try, -1),
    ];
    let not_now = reply::Answer::NotNowMs(7);
    let expected = [refused("sold out"), done("held"), done(""), done("held"), done(""), not_now];
    assert_eq!(answers(executor.run(calls).await), expected);
    assert_eq!(shelf(&pool).await, (3, 0));
}

#[tokio::test]
async fn a_local_transaction_has_so_many_calls_and_no_more() {
    for (most, expected) in [(1, [1; 5].as_slice()), (2, &[1, 2, 2]), (5, &[5]), (256, &[5])] {
        let (_folder, pool) = shop_database().await;
        let sizes = Sizes::default();
        let service = Service::new("shop", [pool.clone()]).receiver_slice(DELIVER, sizes.clone());
        let executor = service.batch_max(most).executor().await.unwrap();
        let deliver = |number| Call { action: "deliver".into(), tried: false, ..call(number, Confirm, 0) };
        assert_eq!(answers(executor.run((1..=5).map(deliver).collect()).await), vec![done(""); 5]);
        assert_eq!(*sizes.0.lock().unwrap(), expected, "at most {most}");
    }
}

const DELIVER: Action<Message, Json<i64>> = Action::message("shop", "deliver");

/// How many operations came at a time.
#[derive(Clone, Default)]
struct Sizes(Arc<Mutex<Vec<usize>>>);

impl SliceReceiver for Sizes {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn deliver(&self, _: &mut DbTx<Sqlite>, all: &[Op<Self::Request>]) -> Result<Vec<Answer>, sqlx::Error> {
        self.0.lock().unwrap().push(all.len());
        Ok(vec![Answer::done(); all.len()])
    }
}

fn unknown(text: &str) -> reply::Answer {
    reply::Answer::Unknown(text.to_owned())
}

#[tokio::test]
async fn what_can_not_be_run_is_unknown() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    let calls = vec![
        Call { action: "give".into(), ..call(1, Try, 1) },
        Call { xid: vec![1; 15].into(), ..call(1, Try, 1) },
        Call { operation: 77, ..call(1, Try, 1) },
        call(1, pb::Operation::Ask, 1),
        call(1, Try, 1),
    ];
    let expected = [
        unknown("this instance does not know the action"),
        unknown("the xid is not 16 bytes"),
        unknown("the operation is none that this version knows"),
        unknown("the action has no such operation"),
        done("held"),
    ];
    assert_eq!(answers(executor.run(calls).await), expected);
}

#[tokio::test]
async fn a_request_that_does_not_fit_is_refused_and_its_cancel_is_empty() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    let wrong = |number, operation| Call { request: "[]".into(), ..call(number, operation, 0) };
    let replies = answers(executor.run(vec![wrong(1, Try), wrong(1, Cancel), wrong(2, Cancel)]).await);
    let [reply::Answer::Refused(reason), rest @ ..] = &replies[..] else { panic!("{replies:?}") };
    assert!(reason.starts_with("the request does not fit its type"), "{reason}");
    assert_eq!(rest, [done(""), done("")]);
}

#[tokio::test]
async fn a_handler_ends_with_the_time_of_its_call_and_leaves_nothing() {
    let (_folder, pool) = shop_database().await;
    let gate = Gate::new(0);
    let service = Service::new("shop", [pool.clone()]).tcc(TAKE, Shop(Arc::clone(&gate)));
    let executor = service.executor().await.unwrap();
    executor.hear(900);
    let run = tokio::time::timeout(Duration::from_secs(3), executor.run(vec![call(1, Try, 7)]));
    assert_eq!(answers(run.await.expect("its time is 100 ms")), [unknown("the calls' time was over")]);
    assert_eq!(gate.came.available_permits(), 1);
    gate.pass.add_permits(1);
    let again = Call { not_after_ms: 60_000, ..call(1, Try, 7) };
    assert_eq!(answers(executor.run(vec![again]).await), [done("held")]);
    assert_eq!(shelf(&pool).await, (3, 7));
}

#[tokio::test]
async fn without_a_fence_every_call_runs() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).without_fence().executor().await.unwrap();
    let calls = vec![call(1, Try, 2), call(1, Try, 2), call(2, Cancel, 1)];
    assert_eq!(answers(executor.run(calls).await), [done("held"), done("held"), done("")]);
    assert_eq!(shelf(&pool).await, (7, 3));
}

/// Answers as its request says: so many answers too few, or a result of that size.
struct Careless;

impl SliceReceiver for Careless {
    type Db = Sqlite;
    type Request = Json<(usize, usize)>;

    async fn deliver(&self, db_tx: &mut DbTx<Sqlite>, all: &[Op<Self::Request>]) -> Result<Vec<Answer>, sqlx::Error> {
        sqlx::query("UPDATE shop SET held = held + $1").bind(all.len() as i64).execute(&mut *db_tx).await?;
        let fewer: usize = all.iter().map(|op| op.request.0.0).sum();
        Ok(all.iter().skip(fewer).map(|op| Answer::done_with(vec![7; op.request.0.1])).collect())
    }
}

#[tokio::test]
async fn a_handler_that_breaks_its_contract_harms_its_own_operations_alone() {
    let (_folder, pool) = shop_database().await;
    let deliver = Action::message("shop", "deliver");
    let executor = Service::new("shop", [pool.clone()]).receiver_slice(deliver, Careless).executor().await.unwrap();
    let call = |number: u8, fewer: usize, size: usize| Call {
        action: "deliver".into(),
        tried: false,
        request: format!("[{fewer},{size}]").into(),
        ..call(number, Confirm, 0)
    };
    let calls = vec![call(1, 0, 0), call(2, 1, 0), call(3, 0, 4_097), call(4, 0, 4_096), call(5, 0, 0)];
    let expected = [
        done(""),
        unknown("the handler gave 0 answers to 1 operations"),
        unknown("the handler's result has 4097 bytes, over the limit of 4096"),
        reply::Answer::Done(vec![7; 4_096].into()),
        done(""),
    ];
    for _ in 0..2 {
        assert_eq!(answers(executor.run(calls.clone()).await), expected);
        assert_eq!(shelf(&pool).await, (10, 3));
    }
}

#[tokio::test]
async fn an_operation_that_failed_once_is_sent_alone() {
    let (_folder, pool) = shop_database().await;
    let gate = Gate::new(100);
    let service = Service::new("shop", [pool.clone()]).tcc(TAKE, Shop(Arc::clone(&gate)));
    let executor = service.executor().await.unwrap();
    let mut ran = Vec::new();
    for batch in 0..2 {
        let good = [1, 2, 3, 4].map(|number| call(10 * batch + number, Try, 1));
        let replies = executor.run([vec![call(0, Try, -2)], good.to_vec()].concat()).await;
        assert_eq!(answers(replies)[1..], [done("held"), done("held"), done("held"), done("held")]);
        ran.push(gate.came.available_permits());
        gate.came.forget_permits(usize::MAX);
    }
    assert!(ran[0] > 5, "the first batch is halved, and some run again: {ran:?}");
    assert_eq!(ran[1], 5, "in the second each runs once");
}

/// Lives in two databases, by the request's last bit.
struct Spread;

impl Receiver for Spread {
    type Db = Sqlite;
    type Request = Json<usize>;

    fn place(&self, request: &Json<usize>) -> Option<Place> {
        Some(Place::in_database(request.0))
    }

    async fn deliver(&self, db_tx: &mut DbTx<Sqlite>, request: Json<usize>) -> Result<Answer, sqlx::Error> {
        sqlx::query("UPDATE shop SET held = held + 1").execute(&mut *db_tx).await?;
        Ok(Answer::done_with(request.0.to_string()))
    }
}

/// Its rows are in the first database, by the epoch that it knows, until it looks and finds them to be in the second.
struct Wandering(Arc<Mutex<(Option<Place>, Option<Place>)>>);

impl Receiver for Wandering {
    type Db = Sqlite;
    type Request = Json<usize>;

    fn place(&self, _request: &Json<usize>) -> Option<Place> {
        self.0.lock().unwrap().0
    }

    async fn deliver(&self, db_tx: &mut DbTx<Sqlite>, _request: Json<usize>) -> Result<Answer, sqlx::Error> {
        sqlx::query("UPDATE shop SET held = held + 1").execute(&mut *db_tx).await?;
        Ok(Answer::done())
    }
}

/// What is known afterwards.
struct Looks(Arc<Mutex<(Option<Place>, Option<Place>)>>);

impl Moves for Looks {
    fn look(&self) -> BoxFuture<'_, ()> {
        let mut known = self.0.lock().unwrap();
        known.0 = known.1;
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn a_database_past_the_epoch_of_a_call_is_not_touched() {
    let ((_one, one), (_two, two)) = (shop_database().await, shop_database().await);
    let at = |database, epoch| Some(Place { database, part: Some(7), epoch: Some(epoch) });
    let known = Arc::new(Mutex::new((at(0, 0), at(0, 0))));
    let deliver = Action::message("shop", "deliver");
    let service = Service::new("shop", [one.clone(), two.clone()]).receiver(deliver, Wandering(Arc::clone(&known)));
    let executor = service.moves(Arc::new(Looks(Arc::clone(&known)))).executor().await.unwrap();
    let mut number = 0;
    let mut deliver_one = async || {
        number += 1;
        let call = Call { action: "deliver".into(), tried: false, request: "1".into(), ..call(number, Confirm, 0) };
        answers(executor.run(vec![call]).await).pop().unwrap()
    };
    let (done, not_now) = (done(""), reply::Answer::NotNowMs(150));
    assert_eq!(deliver_one().await, done);
    let part: i64 = sqlx::query_scalar("SELECT part FROM tercet_fence").fetch_one(&one).await.unwrap();
    assert_eq!(part, 7, "the fence's row says to which part it belongs");
    // The first freezes it.
    sqlx::query("UPDATE tercet_fence_meta SET epoch = 1").execute(&one).await.unwrap();
    known.lock().unwrap().1 = None;
    for _ in 0..2 {
        assert_eq!(deliver_one().await, not_now);
    }
    // The second serves it.
    sqlx::query("UPDATE tercet_fence_meta SET epoch = 5").execute(&two).await.unwrap();
    known.lock().unwrap().1 = at(1, 5);
    assert_eq!(deliver_one().await, done, "one that has no place is placed as soon as it has");
    // It does something else with others, and goes on serving this one.
    sqlx::query("UPDATE tercet_fence_meta SET epoch = 6").execute(&two).await.unwrap();
    known.lock().unwrap().1 = at(1, 6);
    assert_eq!(deliver_one().await, done);
    // An instance that was frozen meanwhile, and does not get to know anything.
    *known.lock().unwrap() = (at(0, 0), at(0, 0));
    assert_eq!(deliver_one().await, reply::Answer::NotNowMs(0));
    assert_eq!((shelf(&one).await, shelf(&two).await), ((10, 1), (10, 2)));
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tercet_fence").fetch_one(&one).await.unwrap();
    assert_eq!(rows, 1, "what was not done left no trace");
}

/// A service that lives in two databases.
async fn spread(pools: [&Pool<Sqlite>; 2]) -> Executor<Sqlite> {
    let deliver = Action::message("shop", "deliver");
    let service = Service::new("shop", pools.map(Pool::clone)).tables(["shop"]).receiver(deliver, Spread);
    service.executor().await.unwrap()
}

/// A message to it.
fn delivery(number: u8, request: &'static str) -> Call {
    Call { action: "deliver".into(), tried: false, request: request.into(), ..call(number, Confirm, 0) }
}

#[tokio::test]
async fn each_call_runs_in_the_database_of_its_request() {
    let ((_one, one), (_two, two)) = (shop_database().await, shop_database().await);
    let executor = spread([&one, &two]).await;
    let calls = [(1, "1"), (2, "0"), (3, "1"), (4, "2"), (5, "x"), (1, "1")];
    let calls = calls.into_iter().map(|(number, request)| delivery(number, request)).collect();
    let replies = answers(executor.run(calls).await);
    assert_eq!(replies[..3], [done("1"), done("0"), done("1")]);
    assert_eq!(replies[3], unknown("place() names a database that is not there"));
    assert!(matches!(replies[4], reply::Answer::Unknown(_)), "where a request that does not fit belongs is not known");
    assert_eq!(replies[5], done("1"));
    assert_eq!((shelf(&one).await, shelf(&two).await), ((10, 1), (10, 2)));
}

#[tokio::test]
async fn a_database_that_hangs_keeps_no_other_from_its_answers() {
    let ((_one, one), (_two, two)) = (shop_database().await, shop_database().await);
    let executor = spread([&one, &two]).await;
    let call = |number, request| Call { not_after_ms: 600_000, ..delivery(number, request) };
    let (late, again) = (unknown("its database does not answer in time"), reply::Answer::NotNowMs(250));
    let slow = executor.places[1].writers.acquire().await.unwrap();
    let (replies, first) = executor.run_in_time(vec![call(1, "1"), call(2, "0")]).await;
    assert_eq!(answers(replies), [late.clone(), done("0")]);
    // A few find out whether it answers again; beside these nothing else is begun there.
    let mut rests = vec![first];
    for number in 0..late::PROBES_MAX as u8 {
        let run = executor.run_in_time(vec![call(10 + number, "1")]);
        let (replies, probe) = tokio::time::timeout(late::PATIENCE, run).await.expect("it is late, so not for as long");
        assert_eq!(answers(replies), std::slice::from_ref(&late));
        rests.push(probe);
    }
    let (replies, none) = executor.run_in_time(vec![call(3, "0"), call(4, "1"), call(5, "1")]).await;
    assert_eq!((answers(replies), none.len()), (vec![done("0"), again.clone(), again], 0));
    drop(slow);
    for rest in &mut rests {
        assert_eq!(rest.next().await.map(|(_, ended)| ended.len()), Some(1));
    }
    assert_eq!((shelf(&one).await, shelf(&two).await), ((10, 2), (10, 5)));
    // It has answered: it is waited for again, and the fence knows what was not known.
    let slow = executor.places[1].writers.acquire().await.unwrap();
    let run = executor.run_in_time(vec![call(1, "1"), call(6, "0")]);
    let soon = async {
        tokio::time::sleep(2 * late::PROBE).await;
        drop(slow);
    };
    let ((replies, none), ()) = tokio::join!(run, soon);
    assert_eq!((answers(replies), none.len()), (vec![done("1"), done("0")], 0));
    assert_eq!(shelf(&two).await, (10, 5));
    // A session that ends takes with it what is under way.
    let slow = executor.places[1].writers.acquire().await.unwrap();
    drop(executor.run_in_time(vec![call(7, "1")]).await);
    let probes: Vec<_> = join_all((0..late::PROBES_MAX as u8).map(|number| {
        let call = call(20 + number, "1");
        async { executor.run_in_time(vec![call]).await }
    }))
    .await;
    drop((probes, slow));
    assert_eq!(answers(executor.run(vec![call(8, "1"), call(9, "1")]).await), [done("1"), done("1")]);
    assert_eq!(shelf(&two).await, (10, 7), "what was under way is rolled back");
}

/// Fence rows, and the floor.
async fn fence(pool: &Pool<Sqlite>) -> (i64, i64) {
    const SQL: &str = "SELECT (SELECT COUNT(*) FROM tercet_fence), floor_ms FROM tercet_fence_meta";
    sqlx::query_as(SQL).fetch_one(pool).await.unwrap()
}

fn xids(numbers: std::ops::Range<usize>) -> Vec<Xid> {
    numbers.map(|number| Xid::new((number as u128).to_be_bytes())).collect()
}

#[tokio::test]
async fn a_slow_database_holds_one_round_of_forgetting_and_no_other_database() {
    let ((_one, one), (_two, two)) = (shop_database().await, shop_database().await);
    let deliver = Action::message("shop", "deliver");
    let service = Service::new("shop", [one.clone(), two.clone()]).receiver(deliver, Spread);
    let executor = service.executor().await.unwrap();
    let calls = (1..=40).map(|number| Call {
        action: "deliver".into(),
        tried: false,
        request: (number % 2).to_string().into(),
        ..call(number, Confirm, 0)
    });
    executor.run(calls.collect()).await;
    let slow = executor.places[1].writers.acquire().await.unwrap();
    let xid = |number: u16| Xid::new([number as u8; 16]);
    let mut rounds = FuturesUnordered::new();
    for number in 1..=1_000 {
        rounds.push(executor.forget(u64::from(number), vec![xid(number)]));
        while rounds.next().now_or_never().flatten().is_some() {}
    }
    let patience = async {
        while fence(&one).await != (0, 1_000) {
            rounds.push(executor.forget(0, Vec::new()));
            while rounds.next().now_or_never().flatten().is_some() {}
            assert!(rounds.len() <= 8, "one for each database is under way, and none waits: {}", rounds.len());
        }
    };
    tokio::time::timeout(Duration::from_secs(5), patience).await.expect("the other database forgets");
    assert_eq!(fence(&two).await, (20, 0));
    drop(slow);
    while rounds.next().await.is_some() {}
    assert_eq!(fence(&two).await, (20, 1_000));
    executor.forget(0, Vec::new()).await;
    assert_eq!(fence(&two).await, (0, 1_000), "a row goes when a floor above its calls has been there for a round");
}

#[tokio::test]
async fn a_bounded_number_of_transactions_waits_to_be_forgotten() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    let _slow = executor.places[0].writers.acquire().await.unwrap();
    let waiting = || executor.places[0].forgotten.named().transactions;
    for (more, expected) in [(1, 1), (FORGOTTEN_MAX, 1), (FORGOTTEN_MAX - 1, FORGOTTEN_MAX), (1, FORGOTTEN_MAX)] {
        assert!(executor.forget(10, xids(0..more)).now_or_never().is_none_or(|()| waiting() > 1));
        assert_eq!(waiting(), expected);
    }
}

#[tokio::test]
async fn what_is_left_of_a_round_comes_again() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    executor.run((1..=3).map(|number| call(number, Try, 0)).collect()).await;
    executor.forget(10, (1..=3).map(|number| Xid::new([number; 16])).collect()).await;
    let slow = executor.places[0].writers.acquire().await.unwrap();
    assert!(executor.forget(20, Vec::new()).now_or_never().is_none(), "dropped, as at the end of a session");
    drop(slow);
    assert_eq!(fence(&pool).await, (3, 10));
    executor.forget(0, Vec::new()).await;
    assert_eq!(fence(&pool).await, (0, 20));
}

#[tokio::test]
async fn no_row_goes_before_the_floor_is_above_its_own_calls() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    executor.run((1..=2).map(|number| Call { not_after_ms: 100_000, ..call(number, Try, 0) }).collect()).await;
    let xid = |number: u8| vec![Xid::new([number; 16])];
    sqlx::raw_sql("CREATE TRIGGER no BEFORE UPDATE ON tercet_fence_meta BEGIN SELECT RAISE(ABORT, 'no'); END")
        .execute(&pool)
        .await
        .unwrap();
    executor.forget(100_000, xid(1)).await;
    assert_eq!(fence(&pool).await, (2, 0), "it did not rise");
    sqlx::raw_sql("DROP TRIGGER no").execute(&pool).await.unwrap();
    let mut seen = Vec::new();
    for floor_ms in 93_000.. {
        executor.forget(floor_ms, xid(2)).await;
        seen.push(fence(&pool).await);
        if seen.last().is_some_and(|(rows, _)| *rows == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen.iter().all(|(rows, floor_ms)| *rows == 2 || *floor_ms == 100_000), "{seen:?}");
}

#[tokio::test]
async fn a_call_whose_time_is_over_costs_its_batch_no_other() {
    let (_folder, pool) = shop_database().await;
    let gate = Gate::new(0);
    let service = Service::new("shop", [pool.clone()]).tcc(TAKE, Shop(Arc::clone(&gate)));
    let executor = service.executor().await.unwrap();
    executor.hear(900);
    let calls = [(1, 1_000), (2, 60_000), (3, 1_050), (4, 61_000)];
    let calls = calls.map(|(number, not_after_ms)| Call { not_after_ms, ..call(number, Try, 1) });
    let batch = async {
        let replies = executor.run(calls.to_vec()).await;
        answers(replies)
    };
    let opens = async {
        // Those with most time are the last to come to the gate, alone.
        gate.came.acquire_many(3).await.unwrap().forget();
        gate.pass.add_permits(100);
    };
    let (answers, ()) = tokio::join!(batch, opens);
    let over = unknown("the calls' time was over");
    assert_eq!(answers, [over.clone(), done("held"), over, done("held")]);
    assert_eq!(shelf(&pool).await, (8, 2));
}

#[test]
fn a_bounded_number_of_suspects_is_remembered() {
    let mut suspects = Suspects::default();
    let key = |number: usize| (Xid::new((number as u128).to_be_bytes()), 0);
    (0..SUSPECTS_MAX + 2).for_each(|number| suspects.add(key(number)));
    assert_eq!(suspects.0.len(), SUSPECTS_MAX);
    assert!(!suspects.take(key(1)));
    assert!(suspects.take(key(2)));
    assert!(!suspects.take(key(2)));
}

#[tokio::test]
async fn a_call_that_is_late_already_touches_nothing_and_costs_the_others_nothing() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    executor.hear(1_001);
    let in_time = Call { not_after_ms: 60_000, ..call(2, Try, 7) };
    let replies = answers(executor.run(vec![call(1, Try, 7), in_time]).await);
    assert_eq!(replies, [reply::Answer::NotNowMs(0), done("held")]);
}

/// Says that it was asked.
struct Talker;

impl SliceReceiver for Talker {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn deliver(&self, _db_tx: &mut DbTx<Sqlite>, all: &[Op<Json<i64>>]) -> Result<Vec<Answer>, sqlx::Error> {
        tracing::info!("told");
        Ok(vec![Answer::done(); all.len()])
    }
}

impl Receiver for Talker {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn deliver(&self, _db_tx: &mut DbTx<Sqlite>, _request: Json<i64>) -> Result<Answer, sqlx::Error> {
        tracing::info!("told");
        Ok(Answer::done())
    }
}

/// What is logged meanwhile.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// On this thread.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// The lines since the last time that have this text.
    fn with(&self, text: &str) -> Vec<String> {
        let all = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_handler_logs_carries_its_transaction_and_its_caller_s_trace() {
    let (_folder, pool) = shop_database().await;
    let service = Service::new("shop", [pool]).receiver(Action::message("shop", "one"), Talker);
    let executor = service.receiver_slice(Action::message("shop", "slice"), Talker).executor().await.unwrap();
    let log = Log::default();
    let _guard = log.listen();
    let told = async |action: &str, numbers: &[u8]| {
        let calls = numbers.iter().map(|number| Call {
            action: action.to_owned(),
            tried: false,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            ..call(*number, Confirm, 0)
        });
        executor.run(calls.collect()).await;
        log.with("told")
    };
    let operation = |number: &str| {
        let xid = [&number.repeat(4), &number.repeat(2), &number.repeat(2), &number.repeat(2), &number.repeat(6)]
            .map(String::as_str)
            .join("-");
        format!("operation{{xid={xid} branch=1 trace_id=\"0af7651916cd43dd8448eb211c80319c\"}}")
    };
    // Tests beside this one may have been the first to meet the same spans, with nobody who listens.
    told("one", &[9]).await;
    tracing::callsite::rebuild_interest_cache();
    let one = told("one", &[1, 2]).await;
    assert!(one[0].contains("handler{service=\"shop\" action=\"one\" operation=\"confirm\"}"), "{one:?}");
    assert!(one[0].contains(&operation("01")) && one[1].contains(&operation("02")), "{one:?}");
    let alone = told("slice", &[3]).await;
    assert!(alone[0].contains(&operation("03")), "{alone:?}");
    let several = told("slice", &[4, 5]).await;
    assert!(several[0].contains("operations{count=2}"), "{several:?}");
}

#[tokio::test]
async fn little_time_is_the_initiator_s_affair_and_a_handler_that_hangs_is_said() {
    const SAID: &str = "operations of unknown outcome";
    let (_folder, pool) = shop_database().await;
    let executor = Service::new("shop", [pool]).tcc(TAKE, Shop(Gate::new(0))).executor().await.unwrap();
    let log = Log::default();
    let _guard = log.listen();
    let within = |ms: u64| Call { not_after_ms: 10_000 + ms, ..call(1, Try, 7) };
    for ms in [1, 1_100, 10] {
        executor.greet(10_000);
        let replies = answers(executor.run(vec![within(ms), Call { branch: 2, ..within(ms) }]).await);
        assert!(replies.iter().all(|reply| *reply == unknown("the calls' time was over")), "{replies:?}");
        // Tests beside this one may have been the first to come here, with nobody who listens.
        tracing::callsite::rebuild_interest_cache();
        let said = log.with(SAID);
        assert_eq!(said.len(), usize::from(ms == 1_100), "{ms} ms: {said:?}");
        assert!(said.iter().all(|line| line.contains("WARN") && line.contains("operations=4")), "{said:?}");
    }
}
