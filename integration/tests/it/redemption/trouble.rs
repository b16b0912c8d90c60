//! Redemptions whose participants are slow, and whose coordinator has more than it can carry.

use std::convert::Infallible;
use std::future::ready;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tercet::participant::{Answer, DbTx, Op, SliceParticipant};
use tercet::service::Service;
use tercet_coupon::redemption::Settings;
use tercet_events::outbox::Outbox;
use tercet_order::{PLACE_BASKET, PlaceBasket};
use tercet_proto::coupon::v1::RedemptionState as State;
use tercet_proto::order::v1 as order;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::Server;

use super::world::{self, Databases, World, on_mariadb, on_sqlite, universal, until, wanted};

on_both! {
    another_attempt_waits_until_the_one_before_holds_nothing;
    what_somebody_was_told_is_kept_no_other_call_of_its_key_forgets;
}

/// Places orders; once it is asked to cancel, it does not for so long.
struct SlowCancel<Db> {
    inner: PlaceBasket<Db>,
    asked: OnceLock<Instant>,
    holds: Duration,
}

impl<Db: tercet_order::store::Store> SliceParticipant for SlowCancel<Db> {
    type Db = Db;
    type Request = order::PlaceBasket;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<order::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        self.inner.try_(db_tx, operations).await
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<order::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        self.inner.confirm(db_tx, operations).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<order::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        if self.asked.get_or_init(Instant::now).elapsed() < self.holds {
            return Ok(vec![Answer::not_now(Duration::from_millis(500)); operations.len()]);
        }
        self.inner.cancel(db_tx, operations).await
    }
}

async fn another_attempt_waits_until_the_one_before_holds_nothing<Db: Databases>(mut world: World<Db>) {
    let one = world.own(universal(300, 2)).await;
    drop(tercet_order::service(world.orders.clone(), None).await.expect("the schema is sound"));
    let (inner, holds) = (PlaceBasket::<Db>::new(Outbox::off()), Duration::from_secs(8));
    let slow = SlowCancel { inner, asked: OnceLock::new(), holds };
    let service = Service::new(tercet_order::SERVICE, [world.orders.clone()]);
    let service = service.tables(["orders", "basket_coupon", "basket_line"]).tcc_slice(PLACE_BASKET, slow);
    world.coordinator.serve(service);
    // Nobody has units yet: it comes to nothing in time, and its order is held all the same.
    let kept = world.redeem(&wanted("k", 1, &[one])).await.expect("it is kept");
    assert!(matches!(kept.state(), State::Kept | State::Submitted), "{kept:?}");
    assert_eq!(tercet_order::audit(&world.orders).await.expect("the tables are there").frozen, 1);
    world.with_stock(&[(1, 100)]).await;
    until("it is done", async || {
        let view = world.get("k").await;
        assert_ne!(view.state(), State::Refused, "{view:?}");
        view.state() == State::Done
    })
    .await;
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1)], vec![(one, 1)]));
    assert!(world.compensations().await.iter().all(|(_, status)| *status == 1), "nothing is owed");
}

/// A coordinator that takes nothing on.
#[derive(Clone)]
struct Overloaded;

impl NamedService for Overloaded {
    const NAME: &'static str = "tercet.coordinator.v1.Coordinator";
}

impl tonic::codegen::Service<Request<Body>> for Overloaded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Status::resource_exhausted("it has enough").into_http()))
    }
}

async fn what_somebody_was_told_is_kept_no_other_call_of_its_key_forgets<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(Overloaded).serve_with_incoming(incoming));
    let redemption = world.submitting_to(&url, Settings::default()).await;
    let redeem = |key: &str, order_id, coupon_id| {
        let (mut client, request) = (redemption.clone(), wanted(key, order_id, &[coupon_id]));
        tokio::spawn(async move { client.redeem(request).await.map(|answer| answer.into_inner().redemption) })
    };
    // Alone it is forgotten when it finds no place.
    let alone = redeem("alone", 1, one).await.expect("no panic").expect_err("it finds no place");
    assert_eq!(world::fault(&alone).code, tercet_rules::Code::SystemBusy);
    let missing = world.redemption.get_redemption(world::by_key("alone")).await.expect_err("it is forgotten");
    assert_eq!(world::fault(&missing).code, tercet_rules::Code::NotFound);

    // Which of them comes first nobody knows: whoever finds the row of another is told that it is kept.
    let end = Instant::now() + Duration::from_secs(20);
    let mut told = Vec::new();
    while !told.iter().any(Result::is_ok) {
        assert!(Instant::now() < end, "none finds another: {told:?}");
        let all: Vec<_> = (0..8).map(|_| redeem("k", 2, two)).collect();
        told.clear();
        for one in all {
            told.push(one.await.expect("no panic"));
        }
    }
    assert_eq!(world.get("k").await.state(), State::Kept, "{told:?}");
}
