//! The job on SQLite, against a redemption service that does as it is told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::Sqlite;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use tercet_proto::coupon::v1::redemption_server::{Redemption, RedemptionServer};
use tercet_proto::coupon::v1::{
    GetRedemptionRequest, GetRedemptionResponse, RedeemRequest, RedeemResponse, RefundResponse, ValidateRequest,
    ValidateResponse,
};
use tokio::net::TcpListener;
use tonic::Response;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::conformance::{basket, key};
use crate::store::{Move, Order, Status as At, Store as _};

/// More than two pages.
const ORDERS: i64 = 70;

/// What the redemption service says, and what it was asked for.
struct Script {
    pool: SqlitePool,
    is_away: AtomicBool,
    /// Orders of which it does not know now.
    busy: Mutex<BTreeSet<i64>>,
    /// Orders that it refuses to take back.
    refused: BTreeSet<i64>,
    asked: Mutex<Vec<i64>>,
}

struct Scripted(Arc<Script>);

#[tonic::async_trait]
impl Redemption for Scripted {
    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        let RefundRequest { order_id, shop_id, user_id, only_unpaid, .. } = request.into_inner();
        assert_eq!((shop_id, user_id, only_unpaid), (3, 7, true));
        self.0.asked.lock().expect("no test panics").push(order_id);
        if self.0.is_away.load(Ordering::Relaxed) {
            return Err(Status::unavailable("nobody is there"));
        }
        if self.0.busy.lock().expect("no test panics").contains(&order_id) {
            return Err(Code::SystemBusy.fault([]).status());
        }
        if self.0.refused.contains(&order_id) {
            return Err(Code::NotRefundable.fault([("order_id", order_id.to_string())]).status());
        }
        let mut db = self.0.pool.acquire().await.expect("the pool is open");
        let step = Move { key: key(order_id), from: At::Placed, to: At::Refunded };
        Sqlite::advance(&mut db, &[step]).await.expect("it is placed");
        let state = RefundState::Done.into();
        Ok(Response::new(RefundResponse { state, ..RefundResponse::default() }))
    }

    async fn validate(&self, _: Request<ValidateRequest>) -> Result<Response<ValidateResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn redeem(&self, _: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_redemption(
        &self,
        _: Request<GetRedemptionRequest>,
    ) -> Result<Response<GetRedemptionResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// So many orders that are due at once, and whom it is asked of.
async fn stage(busy: &[i64], refused: &[i64]) -> (Arc<Script>, Channel) {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.expect("memory is there");
    Sqlite::migrate(&pool).await.expect("the schema is sound");
    let orders: Vec<Order> = (1..=ORDERS).map(|order_id| basket(order_id, Some(0))).collect();
    let step = |order: &Order| Move { key: order.key, from: At::Frozen, to: At::Placed };
    let placed: Vec<Move> = orders.iter().map(step).collect();
    let mut db = pool.acquire().await.expect("the pool is open");
    Sqlite::insert(&mut db, &orders).await.expect("they are new");
    Sqlite::advance(&mut db, &placed).await.expect("they are frozen");
    drop(db);
    let script = Arc::new(Script {
        pool,
        is_away: AtomicBool::new(false),
        busy: Mutex::new(busy.iter().copied().collect()),
        refused: refused.iter().copied().collect(),
        asked: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = Server::builder().add_service(RedemptionServer::new(Scripted(Arc::clone(&script))));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (script, Endpoint::from_shared(url).expect("it is one").connect_lazy())
}

impl Script {
    /// What was asked for since the last time, by order.
    fn asked(&self) -> Vec<i64> {
        let mut asked = std::mem::take(&mut *self.asked.lock().expect("no test panics"));
        asked.sort_unstable();
        asked
    }

    /// As if the time until these are looked at again were over.
    async fn wait(&self, order_ids: impl IntoIterator<Item = i64>) {
        let keys: Vec<Key> = order_ids.into_iter().map(key).collect();
        let mut db = self.pool.acquire().await.expect("the pool is open");
        Sqlite::look_later(&mut db, &keys, 0).await.expect("the statement is sound");
    }

    /// Where an order stands, and how long after its time it is looked at.
    async fn stands(&self, order_id: i64) -> (At, Option<i64>) {
        let mut db = self.pool.acquire().await.expect("the pool is open");
        let order = Sqlite::look(&mut db, key(order_id)).await.expect("the statement is sound").expect("it is there");
        (order.status, order.close_at_ms.zip(order.pay_by_ms).map(|(at_ms, due_ms)| at_ms - due_ms))
    }
}

#[tokio::test]
async fn each_order_is_closed_but_those_that_have_to_wait() {
    let (script, redemption) = stage(&[1, 40, ORDERS], &[5]).await;
    let job = Closing::<Sqlite>::new(script.pool.clone(), redemption);
    assert_eq!(job.all().await.expect("the database is there"), Some(ORDERS as usize - 4));
    assert_eq!(script.asked(), (1..=ORDERS).collect::<Vec<_>>(), "each once");
    assert_eq!(job.all().await.expect("the database is there"), Some(0), "the others wait");
    assert!(script.asked().is_empty());

    script.busy.lock().expect("no test panics").clear();
    script.wait([1, 5, 40, ORDERS]).await;
    assert_eq!(job.all().await.expect("the database is there"), Some(3));
    assert_eq!(script.asked(), [1, 5, 40, ORDERS]);
    // It can not be closed: it is asked for later and later.
    let (status, after_ms) = script.stands(5).await;
    assert_eq!(status, At::Placed);
    assert!(after_ms.is_some_and(|after_ms| after_ms >= 2 * AGAIN_MS), "{after_ms:?}");
}

#[tokio::test]
async fn while_the_redemption_service_is_away_a_round_asks_for_one_page() {
    let (script, redemption) = stage(&[], &[]).await;
    let job = Closing::<Sqlite>::new(script.pool.clone(), redemption);
    script.is_away.store(true, Ordering::Relaxed);
    assert_eq!(job.all().await.expect("the database is there"), Some(0));
    let asked = script.asked();
    assert_eq!(asked.len(), PAGE as usize);
    script.is_away.store(false, Ordering::Relaxed);
    assert_eq!(job.all().await.expect("the database is there"), Some(ORDERS as usize - asked.len()));
    script.wait(asked.iter().copied()).await;
    assert_eq!(job.all().await.expect("the database is there"), Some(asked.len()));
    for order_id in 1..=ORDERS {
        assert_eq!(script.stands(order_id).await, (At::Refunded, None));
    }
}

#[tokio::test]
async fn of_two_processes_one_has_the_job_until_it_leaves_it() {
    let (script, redemption) = stage(&[], &[]).await;
    let [first, second] =
        [redemption.clone(), redemption].map(|channel| Closing::<Sqlite>::new(script.pool.clone(), channel));
    assert_eq!(first.all().await.expect("the database is there"), Some(ORDERS as usize));
    assert_eq!(second.all().await.expect("the database is there"), None);
    first.leave().await.expect("the database is there");
    assert_eq!(second.all().await.expect("the database is there"), Some(0));
    assert_eq!(first.all().await.expect("the database is there"), None);
}
