//! The floor of a database that is in use.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep, sleep_until};

use super::*;
use crate::action::Message;
use crate::participant::Receiver;

/// Takes so many milliseconds.
const WAIT: Action<Message, Json<u64>> = Action::message("waits", "wait");

struct Waits<Db>(PhantomData<fn() -> Db>);

impl<Db: Probe> Receiver for Waits<Db> {
    type Db = Db;
    type Request = Json<u64>;

    async fn deliver(&self, _db_tx: &mut DbTx<Db>, Json(ms): Json<u64>) -> Result<Answer, sqlx::Error> {
        sleep(Duration::from_millis(ms)).await;
        Ok(Answer::done())
    }
}

async fn wait<Db: Probe>(executor: &Executor<Db>, key: i64, ms: u64) -> Duration {
    let call = Call {
        xid: xid(key).as_bytes().to_vec().into(),
        operation: Confirm.into(),
        action: WAIT.name().to_owned(),
        request: ms.to_string().into(),
        not_after_ms: 1_000_000,
        ..Call::default()
    };
    let begun = Instant::now();
    assert_eq!(said(executor.run(vec![call]).await), [Said::Done("".into())]);
    begun.elapsed()
}

/// While handlers that overlap take seconds, quick ones are hardly kept waiting for the floor, which rises in the end.
///
/// # Panics
/// Where it is otherwise.
pub async fn rises_beside_slow_handlers<Db: Probe>(url: &str) {
    let pool = Db::open(url).await.expect("the database is there");
    let service = Service::new("waits", [pool.clone()]).receiver(WAIT, Waits::<Db>(PhantomData));
    let executor = &service.executor().await.expect("the service is ready");
    let begun = Instant::now();
    let at = &|ms| sleep_until(begun + Duration::from_millis(ms));
    let slow = join_all([(1, 0), (2, 1_000)].map(|(key, begins)| async move {
        at(begins).await;
        wait(executor, key, 2_000).await
    }));
    let over = &AtomicBool::new(false);
    let quick = join_all((0..320).zip(1_000..).map(|(turn, key)| async move {
        at(200 + turn * 10).await;
        wait(executor, key, 0).await
    }));
    let forgets = async {
        at(300).await;
        for floor_ms in 1.. {
            executor.forget(floor_ms, vec![xid(1_000_000)]).await;
            if over.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let calls = async {
        let (_, mut took) = join(slow, quick).await;
        took.sort_unstable();
        let mut connection = pool.acquire().await.expect("a connection");
        let risen = async {
            while Db::number(&mut connection, "(SELECT floor_ms FROM tercet_fence_meta)".to_owned()).await.ok()
                < Some(1)
            {
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), risen).await.expect("the floor rises");
        over.store(true, Ordering::Relaxed);
        took
    };
    let (took, ()) = join(calls, forgets).await;
    let most = took[took.len() * 99 / 100];
    assert!(most < Duration::from_millis(500), "of quick calls 99 in 100 took up to {most:?}");
}
