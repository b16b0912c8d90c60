//! The checker of the coupon platform where two shops have orders of equal numbers: sound as long as each is, and what
//! is corrupt is named with its shop.

use std::time::Duration;

use sqlx::{MySql, Pool, Sqlite};
use tercet::fence::Dialect;
use tercet_business_log::entry::entries;
use tercet_coupon::store::{self, Move, Order, Status};
use tercet_coupon::{Shards, claim_by_hand, seed_coupons};
use tercet_integration::checker::shards::{self, Places};
use tercet_integration::servers;
use tercet_platform::flows::template_item;
use tercet_proto::events::v1 as events;
use tercet_proto::events::v1::event::Payload;
use tercet_rules::{Rules, encode};
use tercet_shards::{ShardMap, Slot};

use crate::issuing::world::{FROM_MS, rules};
use crate::redemption::world;

const TEMPLATE: i64 = 5;
const USER: i64 = 7;

/// All databases that every service here can live in.
trait Databases: world::Databases + tercet_business_log::store::Store {}

impl Databases for Sqlite {}
impl Databases for MySql {}

/// What a shop has of one user: order 1 stands with its first coupon, and order 2 was taken back with the second.
struct Shop {
    shop_id: i64,
    coupons: [i64; 2],
    amount_cents: i64,
    discount_cents: i64,
}

fn shops() -> [Shop; 2] {
    let coupons = |first| [first, first + 1].map(|number| Slot::of_user(USER).id(number));
    [
        Shop { shop_id: 9, coupons: coupons(1), amount_cents: 2_000, discount_cents: 500 },
        Shop { shop_id: 10, coupons: coupons(3), amount_cents: 4_000, discount_cents: 700 },
    ]
}

/// What the template gives each user, in all and of a day, as its version's rules.
fn version(per_user: u32, per_user_day: u32) -> String {
    let mut wire = rules(4, 4, FROM_MS);
    let quota = wire.quota.as_mut().expect("there is one");
    (quota.per_user, quota.per_user_day) = (per_user, per_user_day);
    encode(&Rules::try_from(&wire).expect("they are sound"))
}

impl Shop {
    async fn write<Db: Databases>(&self, coupons: &Shards<Db>, rest: &Pool<Db>) {
        let &Self { shop_id, coupons: [one, two], amount_cents, discount_cents } = self;
        let order = Some(Order { shop_id, order_id: 1, discount_cents });
        let mut db_tx = coupons.pools()[0].begin().await.expect("it is there");
        for (from, to) in [(Status::Issued, Status::Locked), (Status::Locked, Status::Used)] {
            let step = Move { coupon_id: one, from, to, order };
            store::advance::<Db>(&mut db_tx, coupons.map(), &[step]).await.expect("it stands there");
        }
        db_tx.commit().await.expect("nothing is in its way");
        Db::by_hand(
            rest,
            format!(
                "INSERT INTO orders(shop_id, order_id, user_id, item, count, amount_cents, discount_cents, status,
                    refunded_from) VALUES
                    ({shop_id}, 1, {USER}, 0, 1, {amount_cents}, {discount_cents}, 1, NULL),
                    ({shop_id}, 2, {USER}, 0, 1, {amount_cents}, {discount_cents}, 4, 3);
                INSERT INTO basket_coupon(shop_id, order_id, coupon_id, discount_cents, coupon_use) VALUES
                    ({shop_id}, 1, {one}, {discount_cents}, 1), ({shop_id}, 2, {two}, {discount_cents}, 2)"
            ),
        )
        .await;
        let mut db_tx = rest.begin().await.expect("it is there");
        <Db as tercet_business_log::store::Store>::write(&mut db_tx, &self.told()).await.expect("they are sound");
        db_tx.commit().await.expect("nothing is in its way");
    }

    /// What the log has of it.
    fn told(&self) -> Vec<tercet_business_log::entry::Entry> {
        let &Self { shop_id, coupons: [one, two], amount_cents, discount_cents } = self;
        let issued = |coupon_id| {
            Payload::CouponIssued(events::CouponIssued { coupon_id, template_id: TEMPLATE, ..Default::default() })
        };
        let used = |coupon_id, order_id| {
            let used =
                events::CouponUsed { coupon_id, order_id, discount_cents, shop_id, step: 2, ..Default::default() };
            Payload::CouponUsed(used)
        };
        let refunded_cents = amount_cents - discount_cents;
        let coupon_ids = vec![two];
        let refunded = events::OrderRefunded {
            order_id: 2,
            coupon_ids,
            refunded_cents,
            was_paid: true,
            shop_id,
            ..Default::default()
        };
        let back = events::CouponGivenBack { coupon_id: two, order_id: 2, shop_id, step: 3, ..Default::default() };
        let all = [
            issued(one),
            issued(two),
            used(one, 1),
            Payload::OrderRefunded(refunded),
            Payload::CouponGivenBack(back),
            // It was a dead letter, and came back when all was over.
            used(two, 2),
        ];
        let event = |payload| events::Event {
            source: "s".to_owned(),
            user_id: USER,
            occurred_ms: 1_000,
            payload: Some(payload),
            ..events::Event::default()
        };
        all.map(event).iter().flat_map(entries).collect()
    }
}

struct World<Db: Databases> {
    rest: Pool<Db>,
    coupons: Shards<Db>,
    places: Places,
}

impl<Db: Databases> World<Db> {
    async fn new([coupon, rest_url]: [String; 2]) -> Self {
        let map: ShardMap = "1x4".parse().expect("it is a map");
        let coupon = vec![coupon];
        let coupons = Shards::<Db>::open(map.clone(), &coupon).await.expect("it is there");
        coupons.migrate().await.expect("the schema is sound");
        let rest = <Db as Dialect>::open(&rest_url).await.expect("it is there");
        tercet_stock::service(rest.clone(), None).await.expect("the schema is sound");
        tercet_order::service(rest.clone(), None).await.expect("the schema is sound");
        tercet_coupon_template::service(rest.clone(), None).await.expect("the schema is sound");
        let settings = tercet_business_log::Settings::default();
        tercet_business_log::service(rest.clone(), None, settings).await.expect("the schema is sound");
        let claims: Vec<_> = (1..=4).map(|number| claim_by_hand(number, USER, TEMPLATE, 9)).collect();
        seed_coupons(&coupons, &claims).await.expect("they are new");
        tercet_stock::seed(&rest, &[(template_item(TEMPLATE), 4)]).await.expect("it is new");
        Db::by_hand(&rest, "UPDATE stock SET free = 0, issued = total".to_owned()).await;
        for shop in shops() {
            shop.write(&coupons, &rest).await;
        }
        let version = version(4, 4);
        let version =
            format!("INSERT INTO template_version(template_id, version, rules) VALUES ({TEMPLATE}, 1, '{version}')");
        Db::by_hand(&rest, version).await;
        let [stock, order, template, log] = [(); 4].map(|()| rest_url.clone());
        Self { rest, coupons, places: Places { map, coupon, stock, order, template, log } }
    }

    async fn findings(&self) -> Vec<String> {
        // Also what is looked at again has to be named so.
        let report = shards::check(&self.places, Duration::from_millis(600)).await.expect("they can be read");
        assert_eq!((report.coupons, report.orders), (4, 4), "{report}");
        report.findings.into_iter().map(|finding| finding.text).collect()
    }

    /// Plants a corruption, which is named, and takes it back.
    async fn names(&self, pool: &Pool<Db>, plant: &str, undo: &str, found: &[String]) {
        Db::by_hand(pool, plant.to_owned()).await;
        assert_eq!(self.findings().await, found, "{plant}");
        Db::by_hand(pool, undo.to_owned()).await;
    }
}

async fn equal_numbers_are_two_orders<Db: Databases>(world: World<Db>) {
    let [_, Shop { coupons: [one, _], .. }] = shops();
    assert_eq!(world.findings().await, Vec::<String>::new(), "each by itself is sound");
    let of_10 = "WHERE shop_id = 10 AND order_id = 1";
    world
        .names(
            &world.rest,
            &format!("UPDATE orders SET status = 2 {of_10}"),
            &format!("UPDATE orders SET status = 1 {of_10}"),
            &[
                format!("coupon {one} is used by order 1 of shop 10, which does not stand with it"),
                format!("coupon {one} is used by order 1 of shop 10, which does not stand"),
            ],
        )
        .await;
    world
        .names(
            &world.rest,
            &format!("UPDATE basket_coupon SET discount_cents = 701 {of_10}"),
            &format!("UPDATE basket_coupon SET discount_cents = 700 {of_10}"),
            &[
                format!("coupon {one} gave 700 cents and order 1 of shop 10 took 701"),
                "order 1 of shop 10 took 700 cents off, and its coupons gave 701".to_owned(),
            ],
        )
        .await;
    let log = |was: &str, now: &str| {
        format!(
            "UPDATE business_log SET state_after = REPLACE(state_after, '{was}', '{now}')
             WHERE action = 'order refunded' AND shop_id = 10 AND order_id = 2"
        )
    };
    world
        .names(
            &world.rest,
            &log("3300", "3301"),
            &log("3301", "3300"),
            &["of order 2 of shop 10 3301 cents were returned, and 3300 were due".to_owned()],
        )
        .await;
    // As if the other shop's order of the same number had it.
    let table = world.places.map.table(Slot::of_user(USER));
    let set = |shop_id: i64| format!("UPDATE coupon_{table:03} SET shop_id = {shop_id} WHERE coupon_id = {one}");
    world
        .names(
            &world.coupons.pools()[0],
            &set(9),
            &set(10),
            &[
                format!("coupon {one} is used by order 1 of shop 9, which does not exist"),
                format!("order 1 of shop 10 stands, and coupon {one} is not used by it"),
            ],
        )
        .await;
    assert_eq!(world.findings().await, Vec::<String>::new());
}

/// What a user has of a template, what is locked, and what is redeemed.
async fn what_nobody_else_would_see_is_named<Db: Databases>(world: World<Db>) {
    let [_, Shop { coupons: [_, two], .. }] = shops();
    // Of shop 10's order 1.
    let (coupons, redemption_id) = (&world.coupons.pools()[0], Slot::of_user(USER).id(9));
    let table = world.places.map.table(Slot::of_user(USER));
    let redemption = format!(
        "INSERT INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content, state,
            due_ms, created_ms) VALUES ({redemption_id}, {USER}, 10, 1, 'k', '', X'00', 2, 0, 0)"
    );
    Db::by_hand(coupons, redemption).await;
    assert_eq!(world.findings().await, Vec::<String>::new());
    // One more of the same day would be given.
    let today = |today: i64| format!("UPDATE claimed_{table:03} SET today = {today}");
    let found = format!("user {USER} has claimed 2 of template {TEMPLATE} on the latest day, and has 4");
    world.names(coupons, &today(2), &today(4), &[found]).await;
    let limit = |most, most_of_day| format!("UPDATE template_version SET rules = '{}'", version(most, most_of_day));
    let above = |when: &str| format!("a user has claimed 4 of template {TEMPLATE}{when}, which gives 3 to each");
    let of_day = [above(" on a day, by its count"), above(" on a day")];
    world.names(&world.rest, &limit(4, 3), &limit(4, 4), &of_day).await;
    let all = [&[above("")], &of_day[..]].concat();
    world.names(&world.rest, &limit(3, 3), &limit(4, 4), &all).await;
    let order = |number: i64| format!("UPDATE redemption SET order_id = {number}");
    let found = format!("redemption {redemption_id} is done, and order 3 of shop 10 does not exist");
    world.names(coupons, &order(3), &order(1), &[found]).await;
    let found =
        format!("redemption {redemption_id} of user {USER} is done, and order 2 of shop 10 does not stand with it");
    world.names(coupons, &order(2), &order(1), &[found]).await;
    let user = |id: i64| format!("UPDATE redemption SET user_id = {id}");
    let found = format!("redemption {redemption_id} of user 99 is done, and order 1 of shop 10 does not stand with it");
    world.names(coupons, &user(99), &user(USER), &[found]).await;
    let lock = |set: &str| format!("UPDATE coupon_{table:03} SET {set} WHERE coupon_id = {two}");
    let free = lock("status = 1, shop_id = NULL, order_id = NULL, discount_cents = NULL");
    for (number, why) in [(3, "does not exist"), (2, "does not stand with it")] {
        let locked = lock(&format!("status = 2, shop_id = 10, order_id = {number}, discount_cents = 700"));
        let found = format!("coupon {two} is locked for order {number} of shop 10, which {why}");
        world.names(coupons, &locked, &free, &[found]).await;
    }
    assert_eq!(world.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_nobody_else_would_see_is_named_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let urls = ["coupon", "rest"].map(|name| format!("sqlite://{}/{name}.db", folder.path().display()));
    what_nobody_else_would_see_is_named(World::<Sqlite>::new(urls).await).await;
}

#[tokio::test]
async fn what_nobody_else_would_see_is_named_on_mariadb() {
    let Some(coupon) = servers::mariadb().await.expect("the server answers") else { return };
    let rest = servers::mariadb().await.expect("the server answers").expect("it was there");
    what_nobody_else_would_see_is_named(World::<MySql>::new([coupon, rest]).await).await;
}

#[tokio::test]
async fn equal_numbers_are_two_orders_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let urls = ["coupon", "rest"].map(|name| format!("sqlite://{}/{name}.db", folder.path().display()));
    equal_numbers_are_two_orders(World::<Sqlite>::new(urls).await).await;
}

#[tokio::test]
async fn equal_numbers_are_two_orders_on_mariadb() {
    let Some(coupon) = servers::mariadb().await.expect("the server answers") else { return };
    let rest = servers::mariadb().await.expect("the server answers").expect("it was there");
    equal_numbers_are_two_orders(World::<MySql>::new([coupon, rest]).await).await;
}
