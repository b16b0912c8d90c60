//! Redemptions whose participants are slow, and whose coordinator has more than it can carry.

use std::convert::Infallible;
use std::future::ready;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tercet::participant::{Answer, DbTx, Op, SliceCompensable, SliceParticipant};
use tercet::service::Service;
use tercet_coupon::redemption::Settings;
use tercet_events::outbox::Outbox;
use tercet_integration::processes::free_address;
use tercet_order::store::{Key, Status as Order};
use tercet_order::{PLACE_BASKET, Payment, PlaceBasket, Refund, SettleRefund};
use tercet_proto::coupon::v1::redemption_client::RedemptionClient;
use tercet_proto::coupon::v1::{self as pb, RedemptionState as State, RefundState};
use tercet_proto::order::v1 as order;
use tercet_rules::Code;
use tercet_stock::{Reserve, Restock};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::{Channel, Server};

use super::code;
use super::world::{self, Databases, SHOP, World, line, on_mariadb, on_sqlite, refund, universal, until, wanted};

on_both! {
    another_attempt_waits_until_the_one_before_holds_nothing;
    a_refund_goes_on_until_it_is_done_or_a_person_stops_it;
    a_refund_that_has_ended_is_done_for_whoever_asks_next;
    a_refund_that_the_coordinator_does_not_know_is_done_if_its_coupons_are_back;
    nobody_knows_of_a_refund_what_its_coordinator_does_not_say;
    a_paid_order_is_not_closed_and_nothing_else_of_it_moves;
    a_redemption_that_a_person_stopped_is_not_refused_and_is_begun_again;
    what_somebody_was_told_is_kept_no_other_call_of_its_key_forgets;
    what_is_more_than_may_be_kept_is_told_at_once_to_come_again;
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

/// Does it as soon as it is let to.
struct Late<P> {
    inner: P,
    is_open: Arc<AtomicBool>,
}

impl<P> Late<P> {
    fn new(inner: P) -> (Self, Arc<AtomicBool>) {
        let is_open = Arc::new(AtomicBool::new(false));
        (Self { inner, is_open: Arc::clone(&is_open) }, is_open)
    }
}

impl<P: SliceCompensable> SliceCompensable for Late<P> {
    type Db = P::Db;
    type Request = P::Request;

    async fn try_(&self, db_tx: &mut DbTx<P::Db>, operations: &[Op<P::Request>]) -> sqlx::Result<Vec<Answer>> {
        if !self.is_open.load(Ordering::Relaxed) {
            return Ok(vec![Answer::not_now(Duration::from_millis(200)); operations.len()]);
        }
        self.inner.try_(db_tx, operations).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<P::Db>, operations: &[Op<P::Request>]) -> sqlx::Result<Vec<Answer>> {
        self.inner.cancel(db_tx, operations).await
    }
}

/// Where order 1 stands, and whether what takes it back may come to nothing yet.
async fn stands<Db: Databases>(world: &World<Db>) -> (Order, bool) {
    let mut db = world.orders.acquire().await.expect("the pool is open");
    let order = Db::look(&mut db, Key { shop_id: SHOP, order_id: 1 }).await.expect("the statement is sound");
    order.map(|order| (order.status, order.is_refunding())).expect("it is there")
}

async fn a_refund_goes_on_until_it_is_done_or_a_person_stops_it<Db: Databases>(mut world: World<Db>) {
    drop(tercet_stock::service(world.orders.clone(), None).await.expect("the schema is sound"));
    tercet_stock::seed(&world.orders, &[(1, 100)]).await.expect("it is sound");
    let (restock, may_restock) = Late::new(Restock::<Db>(PhantomData));
    let service = Service::new(tercet_stock::SERVICE, [world.orders.clone()]).tables(["stock"]);
    let service = service.tcc_slice(tercet_stock::RESERVE, Reserve(PhantomData));
    world.coordinator.serve(service.saga_slice(tercet_stock::RESTOCK, restock));
    drop(tercet_order::service(world.orders.clone(), None).await.expect("the schema is sound"));
    let (settle, may_settle) = Late::new(SettleRefund::<Db>::new());
    let service = Service::new(tercet_order::SERVICE, [world.orders.clone()]);
    let service = service.tables(["orders", "basket_coupon", "basket_line"]);
    let service = service.tcc_slice(PLACE_BASKET, PlaceBasket::<Db>::new(Outbox::off()));
    let service = service.saga_slice(tercet_order::REFUND, Refund::<Db>::new(Outbox::off()));
    world.coordinator.serve(service.saga_slice(tercet_order::SETTLE_REFUND, settle));
    let one = world.own(universal(300, 2)).await;
    assert_eq!(world.redeem(&wanted("k", 1, &[one])).await.expect("it is granted").state(), State::Done);
    world.coordinator.all_ended().await;
    let before = world.get("k").await;

    let redemption = world.redemption.clone();
    let asked = tokio::spawn(async move { redemption.clone().refund(refund(1)).await });
    until("it is under way", async || world.get("k").await.state() == State::Refunding).await;
    // Nobody is told to give money back for it while it may come to nothing.
    assert_eq!(stands(&world).await, (Order::Refunded, true));
    world::stop(&world.coordinator, "restock", "stock refused: none").await;
    let busy = asked.await.expect("no panic").expect_err("it was stopped");
    assert_eq!(world::fault(&busy).code, Code::SystemBusy, "nobody has said no");
    world.coordinator.all_ended().await;
    assert_eq!((world.units().await, world.uses().await), ((99, 0, 1), (vec![(one, 1)], vec![(one, 1)])));
    assert_eq!((stands(&world).await, world.get("k").await), ((Order::Placed, false), before));

    // Its caller waits for less than it takes; whoever asks again is not told that it is done.
    for _ in 0..2 {
        is_under_way(&world).await;
    }
    may_restock.store(true, Ordering::Relaxed);
    until("the coupon is back", async || world.uses().await.0.is_empty()).await;
    // Nor when all is back, since it may be taken away again yet.
    is_under_way(&world).await;
    assert_eq!((world.units().await, world.uses().await.0), ((100, 0, 0), vec![]));
    may_settle.store(true, Ordering::Relaxed);
    world.coordinator.all_ended().await;
    assert_eq!(stands(&world).await, (Order::Refunded, false), "it is final");
    until("that is noted though nobody asks", async || world.get("k").await.state() == State::Refunded).await;
    let told = world.refund(refund(1)).await.expect("it is refunded");
    assert_eq!((told.state(), told.returned_coupon_ids), (RefundState::Done, vec![one]));
}

async fn is_under_way<Db: Databases>(world: &World<Db>) {
    let told = world.refund(refund(1)).await.expect("it is under way");
    assert_eq!((told.state(), told.returned_coupon_ids), (RefundState::Submitted, vec![]));
    assert_eq!((stands(world).await, world.get("k").await.state()), ((Order::Refunded, true), State::Refunding));
}

/// Whoever asks again finds out by himself, before the job has looked.
async fn a_refund_that_has_ended_is_done_for_whoever_asks_next<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let one = world.own(universal(300, 2)).await;
    world.redeem(&wanted("k", 1, &[one])).await.expect("it is granted");
    world.coordinator.all_ended().await;
    assert_eq!(world.refund(refund(1)).await.expect("it is placed").state(), RefundState::Done);
    // As if whoever waited for it had died before he noted that, and the job had just looked.
    let later = world.get("k").await.updated_ms + 600_000;
    world.redemptions_by_hand(&format!("state = 6, due_ms = {later} WHERE order_id = 1")).await;
    assert_eq!(world.get("k").await.state(), State::Refunding);
    let told = world.refund(refund(1)).await.expect("it is refunded");
    assert_eq!((told.state(), told.returned_coupon_ids), (RefundState::Done, vec![one]));
    assert_eq!(world.get("k").await.state(), State::Refunded);
}

/// What ended long ago the coordinator forgets; what it has lost is not taken for that.
async fn a_refund_that_the_coordinator_does_not_know_is_done_if_its_coupons_are_back<Db: Databases>(
    mut world: World<Db>,
) {
    world.with_orders(&[(1, 100)]).await;
    let (back, used) = (world.own(universal(300, 2)).await, world.own(universal(300, 2)).await);
    for (key, order_id, coupon) in [("back", 1, back), ("used", 2, used)] {
        world.redeem(&wanted(key, order_id, &[coupon])).await.expect("it is granted");
    }
    world.coordinator.all_ended().await;
    assert_eq!(world.refund(refund(1)).await.expect("it is placed").state(), RefundState::Done);
    // What has come back is with an order of that number again, of another shop.
    let shop_id = SHOP + 1;
    let lines = vec![pb::OrderLine { shop_id, ..line(10_000) }];
    let elsewhere = pb::RedeemRequest { shop_id, lines, ..wanted("elsewhere", 1, &[back]) };
    assert_eq!(world.redeem(&elsewhere).await.expect("it is granted").state(), State::Done);
    world.coordinator.all_ended().await;
    let lost = format!("state = 6, refunded_ms = 1, refund_xid = '{LOST}', due_ms = 1 WHERE shop_id = {SHOP}");
    world.redemptions_by_hand(&lost).await;
    until("the job has found out", async || world.get("back").await.state() == State::Refunded).await;
    for (order_id, state, coupons) in [(1, RefundState::Done, vec![back]), (2, RefundState::Submitted, vec![])] {
        let told = world.refund(refund(order_id)).await.expect("it is or is being refunded");
        assert_eq!((told.state(), told.returned_coupon_ids), (state, coupons), "order {order_id}");
    }
    assert_eq!(world.get("used").await.state(), State::Refunding, "nobody knows");
}

/// A transaction that no coordinator has ever had.
const LOST: &str = "00000000-0000-0000-0000-000000000001";

/// One that is not there, and one that takes connections and says nothing.
async fn nobody_knows_of_a_refund_what_its_coordinator_does_not_say<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let one = world.own(universal(300, 2)).await;
    world.redeem(&wanted("k", 1, &[one])).await.expect("it is granted");
    world.coordinator.all_ended().await;
    // So late that the job does not look.
    let later = world.get("k").await.updated_ms + 600_000;
    world.redemptions_by_hand(&format!("state = 6, refunded_ms = 1, refund_xid = '{LOST}', due_ms = {later}")).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    for address in [free_address().expect("a port"), silent.local_addr().expect("it is bound")] {
        let settings = Settings::default();
        let mut redemption = world.submitting_to(&format!("http://{address}"), settings).await;
        let told = redemption.refund(refund(1)).await.expect("it is under way").into_inner();
        assert_eq!((told.state(), world.get("k").await.state()), (RefundState::Submitted, State::Refunding));
    }
}

/// Its own row says no before anything else is taken back: nobody is told that it is being refunded.
async fn a_paid_order_is_not_closed_and_nothing_else_of_it_moves<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let one = world.own(universal(300, 2)).await;
    let done = world.redeem(&wanted("k", 1, &[one])).await.expect("it is granted");
    assert_eq!(done.state(), State::Done);
    world.coordinator.all_ended().await;
    let before = world.get("k").await;
    let key = Key { shop_id: SHOP, order_id: 1 };
    let mut db_tx = world.orders.begin_with(Db::BEGIN_WRITE).await.expect("the pool is open");
    let order = Db::look(&mut db_tx, key).await.expect("the statement is sound").expect("it is there");
    let (user_id, paid_cents) = (order.user_id, order.due_cents);
    let payment = Payment { key, user_id, paid_cents, payment_id: "p", operator: "bob" };
    tercet_order::pay::<Db>(&mut db_tx, &Outbox::off(), payment).await.expect("it is placed");
    db_tx.commit().await.expect("the constraints hold");

    let unpaid = pb::RefundRequest { only_unpaid: true, ..refund(1) };
    assert_eq!(code(world.refund(unpaid).await), Code::NotRefundable);
    world.coordinator.all_ended().await;
    assert_eq!(stands(&world).await, (Order::Paid, false));
    assert_eq!(world.get("k").await, before, "not even for a moment");
    assert_eq!((world.units().await, world.uses().await), ((99, 0, 1), (vec![(one, 1)], vec![(one, 1)])));
}

async fn a_redemption_that_a_person_stopped_is_not_refused_and_is_begun_again<Db: Databases>(mut world: World<Db>) {
    let one = world.own(universal(300, 2)).await;
    let (redemption, request) = (world.redemption.clone(), wanted("k", 1, &[one]));
    // There is nobody to place it.
    let asked = tokio::spawn(async move { redemption.clone().redeem(request).await });
    world::stop(&world.coordinator, "honour", "its shop refused: OUT_OF_STOCK(product_id=1): none").await;
    let kept = asked.await.expect("no panic").expect("nobody has said no").into_inner().redemption;
    assert_eq!(kept.map(|kept| kept.state()), Some(State::Kept));
    world.with_orders(&[(1, 100)]).await;
    until("it is done", async || world.get("k").await.state() == State::Done).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1)], vec![(one, 1)]));
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
    assert_eq!(world::fault(&alone).code, Code::SystemBusy);
    let missing = world.redemption.get_redemption(world::by_key("alone")).await.expect_err("it is forgotten");
    assert_eq!(world::fault(&missing).code, Code::NotFound);

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

async fn what_is_more_than_may_be_kept_is_told_at_once_to_come_again<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let few = world.another(Settings { kept_max: 1, ..Settings::default() }).await;
    let none = world.another(Settings { kept_max: 0, ..Settings::default() }).await;
    let redeem_by = async |client: &RedemptionClient<Channel>, request: pb::RedeemRequest| {
        let answer = client.clone().redeem(request).await;
        let state = answer.map(|answer| answer.into_inner().redemption.expect("a redemption").state());
        state.map_err(|status| world::fault(&status))
    };
    let redeem = async |request: pb::RedeemRequest| redeem_by(&few, request).await;
    world.coordinator.crash().await;
    // Before it knows that the coordinator is away, and after.
    for _ in 0..2 {
        assert_eq!(code(redeem_by(&none, wanted("m", 3, &[one])).await), Code::SystemBusy);
    }
    assert_eq!(redeem(wanted("k", 1, &[one])).await, Ok(State::Kept));
    for _ in 0..2 {
        assert_eq!(code(redeem(wanted("l", 2, &[two])).await), Code::SystemBusy);
    }
    for key in ["l", "m"] {
        let missing = few.clone().get_redemption(world::by_key(key)).await.expect_err("nothing was kept");
        assert_eq!(world::fault(&missing).code, Code::NotFound, "{key}");
    }
    world.coordinator.start_again().await;
    until("it is done", async || world.get("k").await.state() == State::Done).await;
    until("there is room again", async || redeem(wanted("l", 2, &[two])).await == Ok(State::Done)).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.compensations().await, [], "what was promised was done");
}
