//! Stock, coupon and order behind their fences, without a coordinator: any order of calls, repeats, decisions that
//! overtake tries and tries that come late. Whatever happens, nothing is sold twice, lost or left hanging.

use std::collections::{BTreeSet, VecDeque};

use sqlx::{MySql, Pool, Sqlite};
use tercet::batch::Executor;
use tercet::fence::Dialect;
use tercet_coupon::Shards;
use tercet_coupon::store::Totals as CouponTotals;
use tercet_coupon::store::batches::Batches;
use tercet_coupon::store::redemptions::Redemptions;
use tercet_integration::servers;
use tercet_proto::coupon::v1::Redeem;
use tercet_proto::order::v1::Place;
use tercet_proto::participant::v1::{Call, Operation, Reply, reply::Answer};
use tercet_proto::stock::v1::Reserve;

const SEEDS: u64 = 20;
const TRANSACTIONS: u64 = 120;
const PRICE_CENTS: i64 = 2_000;
const DISCOUNT_CENTS: i64 = 500;
/// Few of everything, so that transactions get into each other's way.
const ITEMS: [(i64, i64); 4] = [(1, 9), (2, 30), (3, 4), (4, 1_000)];
const COUPONS: u64 = 24;
const USERS: u64 = 9;

/// The same numbers for the same seed (splitmix64, Steele et al. 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    Stock,
    Coupon,
    Order,
}

struct Branch {
    service: Service,
    action: &'static str,
    request: Vec<u8>,
    tried: bool,
    ended: bool,
}

/// What a coordinator would know of one transaction.
struct Transaction {
    units: i64,
    order: bool,
    branches: Vec<Branch>,
    /// Confirm or cancel, once that is decided.
    decision: Option<Operation>,
}

impl Transaction {
    fn draw(id: u64, chance: &mut Chance) -> Self {
        use prost::Message as _;
        let branch = |service, action, request| Branch { service, action, request, tried: false, ended: false };
        let number = 1 + chance.below(COUPONS) as i64;
        let user_id = 1 + number % USERS as i64;
        let claim = tercet_coupon::claim_by_hand(number, user_id, 1, 2);
        let coupon_id = claim.coupon_id;
        let item = 1 + chance.below(ITEMS.len() as u64) as i64;
        if chance.below(2) == 0 {
            let reserve = Reserve { item, count: 1 }.encode_to_vec();
            let claim = branch(Service::Coupon, "claim", claim.encode_to_vec());
            let branches = vec![branch(Service::Stock, "reserve", reserve), claim];
            return Self { units: 1, order: false, branches, decision: None };
        }
        let (order_id, count, amount_cents) = (1 + id as i64, 1 + chance.below(3) as u32, PRICE_CENTS);
        let of = Redeem { coupon_id, user_id, order_id, ..Redeem::default() };
        let redeem = Redeem { amount_cents, discount_cents: DISCOUNT_CENTS, ..of };
        let place = Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents: DISCOUNT_CENTS };
        let branches = vec![
            branch(Service::Coupon, "redeem", redeem.encode_to_vec()),
            branch(Service::Stock, "reserve", Reserve { item, count }.encode_to_vec()),
            branch(Service::Order, "place", place.encode_to_vec()),
        ];
        Self { units: count.into(), order: true, branches, decision: None }
    }

    fn call(&self, id: u64, at: usize, operation: Operation) -> Call {
        let branch = &self.branches[at];
        let mut xid = vec![0; 16];
        xid[..8].copy_from_slice(&(1 + id).to_be_bytes());
        Call {
            xid: xid.into(),
            branch: at as u32,
            operation: operation.into(),
            tried: true,
            action: branch.action.into(),
            request: branch.request.clone().into(),
            attempt: 1,
            not_after_ms: i64::MAX as u64,
            traceparent: String::new(),
        }
    }
}

/// The services over their databases.
struct World<Db: Dialect> {
    stock: Pool<Db>,
    coupon: Shards<Db>,
    order: Pool<Db>,
    executors: [Executor<Db>; 3],
}

/// A database that all three services can live in.
trait Stores: Dialect + tercet_stock::store::Store + Batches + Redemptions + tercet_order::store::Store {}
impl Stores for Sqlite {}
impl Stores for MySql {}

/// `urls` are of stock, order and the databases of coupons.
async fn world<Db: Stores>(urls: &[String], map: &str) -> World<Db> {
    let open = async |url: &String| Db::open(url).await.expect("the database is there");
    let (stock, order) = (open(&urls[0]).await, open(&urls[1]).await);
    let map = map.parse().expect("it is a map");
    let coupon = Shards::open(map, &urls[2..]).await.expect("as many databases as the map has");
    let services = [
        tercet_stock::service(stock.clone(), None).await.expect("the schema is sound"),
        tercet_coupon::service(coupon.clone(), None).await.expect("the schema is sound"),
        tercet_order::service(order.clone(), None).await.expect("the schema is sound"),
    ];
    tercet_stock::seed(&stock, &ITEMS).await.expect("the items are sound");
    let [stock_service, coupon_service, order_service] = services;
    let executors = [
        stock_service.executor().await.expect("the fence is sound"),
        coupon_service.executor().await.expect("the fence is sound"),
        order_service.executor().await.expect("the fence is sound"),
    ];
    World { stock, coupon, order, executors }
}

impl<Db: Stores> World<Db> {
    /// Drives them all to their ends, in batches that run side by side where the database can.
    async fn drive(&self, transactions: &mut [Transaction], chance: &mut Chance) {
        let mut open: VecDeque<(usize, usize, Operation)> = VecDeque::new();
        for (id, tx) in transactions.iter().enumerate() {
            open.extend((0..tx.branches.len()).map(|at| (id, at, Operation::Try)));
        }
        while !open.is_empty() {
            // A batch for one service, taken from anywhere in the queue; a branch is in it once.
            let wanted = [Service::Stock, Service::Coupon, Service::Order][chance.below(3) as usize];
            let (mut batch, mut keys) = (Vec::new(), BTreeSet::new());
            let size = 1 + chance.below(32) as usize;
            for _ in 0..open.len() {
                let Some(at) = open.len().checked_sub(1).map(|last| chance.below(last as u64 + 1) as usize) else {
                    break;
                };
                let key @ (id, branch, _) = open[at];
                if transactions[id].branches[branch].service != wanted || !keys.insert((id, branch)) {
                    continue;
                }
                batch.push(key);
                // Now and then it is delivered, and stays on its way all the same.
                if chance.below(5) > 0 {
                    open.remove(at);
                }
                if batch.len() == size {
                    break;
                }
            }
            let executor = &self.executors[wanted as usize];
            let call =
                |&(id, at, operation): &(usize, usize, Operation)| transactions[id].call(id as u64, at, operation);
            let runs = batch.chunks(8).map(|part| executor.run(part.iter().map(call).collect()));
            let replies = futures_util::future::join_all(runs).await;
            for ((id, at, operation), reply) in batch.into_iter().zip(replies.into_iter().flatten()) {
                let next = learn(&mut transactions[id], at, operation, reply, chance);
                open.extend(next.into_iter().map(|(at, operation)| (id, at, operation)));
            }
        }
    }
}

/// Takes in a reply, and returns what is to be sent because of it.
fn learn(
    tx: &mut Transaction,
    at: usize,
    operation: Operation,
    reply: Reply,
    chance: &mut Chance,
) -> Vec<(usize, Operation)> {
    let answer = reply.answer.expect("every call is answered");
    if operation != Operation::Try {
        assert!(matches!(answer, Answer::Done(_)), "{} {operation:?}: {answer:?}", tx.branches[at].action);
        tx.branches[at].ended = true;
        return Vec::new();
    }
    let refused = match answer {
        Answer::Done(_) => false,
        Answer::Refused(_) => true,
        Answer::NotNowMs(_) | Answer::Unknown(_) => panic!("{}: {answer:?}", tx.branches[at].action),
    };
    tx.branches[at].tried |= !refused;
    if tx.decision.is_some() {
        return Vec::new();
    }
    // Some run out of time with tries still on their way.
    let decision = if refused || chance.below(12) == 0 {
        Operation::Cancel
    } else if tx.branches.iter().all(|branch| branch.tried) {
        Operation::Confirm
    } else {
        return Vec::new();
    };
    tx.decision = Some(decision);
    (0..tx.branches.len()).map(|at| (at, decision)).collect()
}

/// Runs one seed and returns how many orders were placed and how many transactions were cancelled.
async fn run<Db: Stores>(world: &World<Db>, seed: u64) -> (i64, i64) {
    let mut chance = Chance(seed);
    let mut transactions: Vec<_> = (0..TRANSACTIONS).map(|id| Transaction::draw(id, &mut chance)).collect();
    world.drive(&mut transactions, &mut chance).await;
    assert!(transactions.iter().flat_map(|tx| &tx.branches).all(|branch| branch.ended), "seed {seed}");

    let confirmed = || transactions.iter().filter(|tx| tx.decision == Some(Operation::Confirm));
    let orders = confirmed().filter(|tx| tx.order).count() as i64;
    let claims = confirmed().count() as i64 - orders;
    let World { stock, coupon, order, .. } = world;
    let units = tercet_stock::audit(stock).await.expect("the table is there");
    let issued = confirmed().map(|tx| tx.units).sum::<i64>();
    assert_eq!((units.reserved, units.issued, units.broken), (0, issued, 0), "seed {seed}");
    assert_eq!(units.free + units.issued, ITEMS.iter().map(|(_, units)| units).sum::<i64>(), "seed {seed}");
    let coupons = tercet_coupon::audit(coupon).await.expect("the tables are there");
    let expected = CouponTotals { issued: claims - orders, used: orders, ..CouponTotals::default() };
    assert_eq!(coupons, expected, "seed {seed}");
    let placed = tercet_order::audit(order).await.expect("the table is there");
    assert_eq!((placed.frozen, placed.placed, placed.coupons_twice), (0, orders, 0), "seed {seed}");
    let mut by_coupon = tercet_coupon::used(coupon).await.expect("the tables are there");
    by_coupon.sort_unstable();
    assert_eq!(by_coupon, tercet_order::coupons(order).await.expect("the table is there"), "seed {seed}");
    (orders, TRANSACTIONS as i64 - orders - claims)
}

#[tokio::test]
async fn nothing_is_sold_twice_lost_or_left_hanging_on_sqlite() {
    let (mut orders, mut cancelled) = (0, 0);
    for seed in 0..SEEDS {
        let folder = tempfile::tempdir().expect("a folder");
        let url = |name| format!("sqlite://{}/{name}.db", folder.path().display());
        // Every other one on shards.
        let (urls, map) = if seed % 2 == 0 { (vec!["a", "b", "c"], "1x1") } else { (vec!["a", "b", "c", "d"], "2x4") };
        let urls: Vec<String> = urls.into_iter().map(url).collect();
        let world = world::<Sqlite>(&urls, map).await;
        let (placed, undone) = run(&world, seed).await;
        (orders, cancelled) = (orders + placed, cancelled + undone);
    }
    // Or the runs would say little.
    assert!(orders > 40 && cancelled > 400, "{orders} orders, {cancelled} cancelled");
}

#[tokio::test]
async fn nothing_is_sold_twice_lost_or_left_hanging_on_mariadb() {
    for (seed, (databases, map)) in (0..).zip([(3, "1x1"), (4, "2x4"), (12, "10x100")]) {
        let mut urls = Vec::new();
        for _ in 0..databases {
            let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
            urls.push(url);
        }
        let world = world::<MySql>(&urls, map).await;
        run(&world, seed).await;
    }
}
