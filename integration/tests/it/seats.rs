//! The checker of the coupon platform while slots move: every step of a move, made by hand, is sound, and what is
//! corrupt is named meanwhile.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Pool, Sqlite};
use tercet::fence::Dialect as _;
use tercet_coupon::{Shards, claim_by_hand, seed_coupons};
use tercet_integration::checker::shards::{self, Places};
use tercet_platform::flows::template_item;
use tercet_shards::ShardMap;

const COUPONS: i64 = 300;
const TEMPLATE: i64 = 5;

/// Two databases of coupons, of which the slots of the first table move from the first to the second.
struct World {
    old: Pool<Sqlite>,
    new: Pool<Sqlite>,
    places: Places,
}

async fn run(pool: &Pool<Sqlite>, sql: &str) -> u64 {
    let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    ran.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

impl World {
    async fn new(folder: &std::path::Path) -> Self {
        let url = |name: &str| format!("sqlite://{}/{name}.db", folder.display());
        let map: ShardMap = "2x4".parse().expect("it is a map");
        let coupon = vec![url("old"), url("new")];
        let shards = Shards::<Sqlite>::open(map.clone(), &coupon).await.expect("the folder is there");
        shards.migrate().await.expect("the schema is sound");
        let claims: Vec<_> = (1..=COUPONS).map(|number| claim_by_hand(number, number, TEMPLATE, 9)).collect();
        seed_coupons(&shards, &claims).await.expect("they are new");
        let rest = Sqlite::open(&url("rest")).await.expect("the folder is there");
        tercet_stock::service(rest.clone(), None).await.expect("the schema is sound");
        tercet_order::service(rest.clone(), None).await.expect("the schema is sound");
        tercet_coupon_template::service(rest.clone(), None).await.expect("the schema is sound");
        let settings = tercet_business_log::Settings::default();
        tercet_business_log::service(rest.clone(), None, settings).await.expect("the schema is sound");
        tercet_stock::seed(&rest, &[(template_item(TEMPLATE), COUPONS)]).await.expect("it is new");
        run(&rest, "UPDATE stock SET free = 0, issued = total").await;
        let [stock, order, template, log] = [(); 4].map(|()| url("rest"));
        let places = Places { map, coupon, stock, order, template, log };
        let [old, new] = shards.pools() else { panic!("two") };
        Self { old: old.clone(), new: new.clone(), places }
    }

    async fn is_sound(&self, when: &str) {
        let report = shards::check(&self.places, Duration::ZERO).await.expect("they can be read");
        assert!(report.sound(), "{when}: {report}");
        assert_eq!(report.coupons, COUPONS.unsigned_abs(), "{when}");
    }

    /// Plants a corruption, which is named for as long as it is there, and takes it back.
    async fn names(&self, pool: &Pool<Sqlite>, plant: &str, undo: &str, found: &str) {
        assert!(run(pool, plant).await > 0, "nothing to corrupt: {plant}");
        let report = shards::check(&self.places, Duration::from_millis(600)).await.expect("they can be read");
        let named = report.findings.iter().any(|finding| finding.text.contains(found));
        assert!(named, "{plant}: {report}");
        run(pool, undo).await;
    }

    /// Lets the second database have what the first has now.
    async fn copy(&self) {
        let old = self.places.coupon[0].trim_start_matches("sqlite://");
        let mut sql = format!("ATTACH '{old}' AS old;");
        for table in ["coupon_000", "claimed_000"] {
            sql.push_str(&format!("INSERT OR REPLACE INTO {table} SELECT * FROM old.{table};"));
        }
        sql.push_str("DETACH old");
        run(&self.new, &sql).await;
    }
}

/// A counter of a user whose slot moves.
const PLANT: [&str; 2] = [
    "UPDATE claimed_000 SET claimed = claimed + 5 WHERE user_id = (SELECT MIN(user_id) FROM coupon_000
        WHERE (coupon_id & 1023) % 2 = 0)",
    "UPDATE claimed_000 SET claimed = claimed - 5 WHERE claimed > 5",
];

#[tokio::test]
async fn what_moves_is_read_where_it_is_and_what_is_corrupt_is_named_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(folder.path()).await;
    let World { old, new, .. } = &world;
    let counts = "has claimed 6 of template 5, and has 1";
    world.is_sound("before").await;
    world.names(old, PLANT[0], PLANT[1], counts).await;

    run(
        new,
        "INSERT INTO slot(slot, state) WITH RECURSIVE n(slot) AS
        (SELECT 0 UNION ALL SELECT slot + 2 FROM n WHERE slot < 254) SELECT slot, 0 FROM n",
    )
    .await;
    world.copy().await;
    run(new, "DELETE FROM coupon_000 WHERE (coupon_id & 1023) % 4 = 0").await;
    world.is_sound("some have arrived").await;
    world.names(old, PLANT[0], PLANT[1], counts).await;
    assert!(run(new, PLANT[0]).await > 0);
    world.is_sound("what arrives is nobody's").await;

    world.copy().await;
    let moving = "slot < 256 AND slot % 2 = 0";
    run(old, &format!("UPDATE slot SET state = 2 WHERE {moving}")).await;
    world.is_sound("they are frozen").await;
    world.names(old, PLANT[0], PLANT[1], counts).await;

    run(new, "UPDATE slot SET state = 1 WHERE state = 0").await;
    for (state, when) in [(2, "they have come"), (3, "they have left")] {
        run(old, &format!("UPDATE slot SET state = {state} WHERE {moving}")).await;
        assert!(run(old, PLANT[0]).await > 0);
        world.is_sound(when).await;
        run(old, PLANT[1]).await;
        world.names(new, PLANT[0], PLANT[1], counts).await;
    }
    run(old, "DELETE FROM coupon_000 WHERE coupon_id % 3 = 0").await;
    world.is_sound("some are deleted where they were").await;
    let empty = |state: u32| format!("UPDATE slot SET state = {state} WHERE {moving}");
    world.names(old, &empty(4), &empty(3), "is in database 0, table 0").await;
    run(old, "DELETE FROM coupon_000").await;
    run(old, &empty(4)).await;
    world.is_sound("nothing is left").await;

    world.names(old, "UPDATE slot SET state = 1 WHERE slot = 0", &empty(4), "slot 0 is served by more than one").await;
    let gone = ["UPDATE slot SET state = 3 WHERE slot = 0", "UPDATE slot SET state = 1 WHERE slot = 0"];
    world.names(new, gone[0], gone[1], "no database has slot 0").await;
    world.is_sound("in the end").await;
}
