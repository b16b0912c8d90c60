//! The checker finds each of the corruptions that are planted in what a run has left, and nothing where nothing is
//! wrong.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tercet_integration::chaos::{self, Database, KillConfig};
use tercet_integration::checker::{self, Kind};
use tercet_integration::mariadb::Server;
use tokio::task::LocalSet;

struct Planted {
    what: &'static str,
    database: &'static str,
    sql: &'static str,
    kind: Kind,
    found: &'static str,
}

/// Mode 9 are canaries, which no client was told of.
const PLANTED: [Planted; 8] = [
    Planted {
        what: "the coordinator has lost an acknowledged transaction",
        database: "coordinator/tercet.db",
        sql: "DELETE FROM tx WHERE xid = (SELECT xid FROM tx WHERE status = 4 AND mode <> 9 LIMIT 1)",
        kind: Kind::Lost,
        found: "told confirmed, the store does not know it",
    },
    Planted {
        what: "a transaction has turned round after its answer",
        database: "coordinator/tercet.db",
        sql: "UPDATE tx SET status = 4 WHERE xid = (SELECT xid FROM tx WHERE status = 5 AND mode <> 9 LIMIT 1)",
        kind: Kind::Lost,
        found: "told cancelled, the store has it with status 4",
    },
    Planted {
        what: "one branch was cancelled, the others confirmed",
        database: "coupon.db",
        sql: "UPDATE tercet_fence SET state = 3 WHERE rowid = (SELECT rowid FROM tercet_fence WHERE state = 2 LIMIT 1)",
        kind: Kind::Split,
        found: "coupon cancelled",
    },
    Planted {
        what: "a decided transaction never ended",
        database: "coordinator/tercet.db",
        sql: "UPDATE tx SET status = 2, ended_at = NULL
              WHERE xid = (SELECT xid FROM tx WHERE status = 4 AND mode <> 9 LIMIT 1)",
        kind: Kind::Unfinished,
        found: "has not ended, status 2",
    },
    Planted {
        what: "a unit that was issued is free again",
        database: "stock.db",
        sql: "UPDATE stock SET free = free + 1, issued = issued - 1 WHERE item = (1 << 48) + 1",
        kind: Kind::Conservation,
        found: "issued from stock",
    },
    Planted {
        what: "two orders have used one coupon",
        database: "order.db",
        sql: "INSERT INTO orders(shop_id, order_id, user_id, item, count, coupon_id, amount_cents, discount_cents,
              status)
              SELECT shop_id, order_id + (1 << 40), user_id, item, count, coupon_id, amount_cents, discount_cents,
              status FROM orders WHERE status = 1 AND coupon_id IS NOT NULL LIMIT 1",
        kind: Kind::Conservation,
        found: "used by 2 orders",
    },
    Planted {
        what: "an order stands and its coupon was not used",
        database: "coupon.db",
        sql: "UPDATE coupon_000 SET status = 1, shop_id = NULL, order_id = NULL, discount_cents = NULL,
              used_ms = NULL
              WHERE coupon_id = (SELECT coupon_id FROM coupon_000 WHERE status = 3 LIMIT 1)",
        kind: Kind::Conservation,
        found: "is not used by it",
    },
    Planted {
        what: "an order took more off than its coupon gives",
        database: "order.db",
        sql: "UPDATE orders SET discount_cents = discount_cents + 1
              WHERE order_id = (SELECT order_id FROM orders WHERE status = 1 LIMIT 1)",
        kind: Kind::Conservation,
        found: "501 cents off",
    },
];

/// Those that are in a participant's database, as MariaDB has to be told them. `database` is the server.
const PLANTED_IN_MARIADB: [Planted; 5] = [
    Planted {
        what: "one branch was cancelled, the others confirmed",
        database: "coupon",
        sql: "UPDATE tercet_fence SET state = 3 WHERE state = 2 LIMIT 1",
        kind: Kind::Split,
        found: "coupon cancelled",
    },
    Planted {
        what: "a unit that was issued is free again",
        database: "stock",
        sql: "UPDATE stock SET free = free + 1, issued = issued - 1 WHERE item = (1 << 48) + 1",
        kind: Kind::Conservation,
        found: "issued from stock",
    },
    Planted {
        what: "a confirmed order is gone",
        database: "order",
        sql: "DELETE FROM orders WHERE status = 1 LIMIT 1",
        kind: Kind::Lost,
        found: "told confirmed, there is no such order",
    },
    Planted {
        what: "a unit stays reserved",
        database: "stock",
        sql: "UPDATE stock SET reserved = reserved + 1, issued = issued - 1 WHERE item = (1 << 48) + 1",
        kind: Kind::Unfinished,
        found: "1 reserved",
    },
    Planted {
        what: "an order stands and its coupon was not used",
        database: "coupon",
        sql: "UPDATE coupon_000 SET status = 1, shop_id = NULL, order_id = NULL, discount_cents = NULL,
              used_ms = NULL
              WHERE status = 3 LIMIT 1",
        kind: Kind::Conservation,
        found: "is not used by it",
    },
];

#[tokio::test]
async fn every_planted_corruption_is_named() {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let run = folder.path().join("run");
    small_run(&run, Database::Sqlite).await;
    for (at, planted) in PLANTED.iter().enumerate() {
        let copy = folder.path().join(format!("copy-{at}"));
        copy_all(&run, &copy);
        assert!(checker::check(&copy).await.expect("the files are whole").sound(), "a copy is as sound as the run");
        plant(&copy.join(planted.database), planted.sql).await;
        find(planted, &copy).await;
    }
}

#[tokio::test]
async fn every_planted_corruption_in_mariadb_is_named() {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let run = folder.path().join("run");
    small_run(&run, Database::Mariadb).await;
    for service in ["stock", "coupon", "order"] {
        let mut server = Server::start(&run, service).await.expect("it starts on what the run has left");
        let mut connection = server.wait_ready().await.expect("it has started");
        for planted in PLANTED_IN_MARIADB.iter().filter(|planted| planted.database == service) {
            // Seen by this connection only, and gone afterwards.
            let mut db_tx = connection.begin().await.expect("it has started");
            let changed = sqlx::query(planted.sql).execute(&mut *db_tx).await.expect("the statement is sound");
            assert_eq!(changed.rows_affected(), 1, "nothing to corrupt: {}", planted.sql);
            checker::copy(&mut db_tx, &run, service).await.expect("both can be reached");
            find(planted, &run).await;
            db_tx.rollback().await.expect("it has started");
        }
        checker::copy(&mut connection, &run, service).await.expect("both can be reached");
        assert!(checker::check(&run).await.expect("the files are whole").sound(), "nothing is left of it");
    }
}

async fn small_run(folder: &Path, database: Database) {
    let config = KillConfig {
        rounds: 1,
        in_doubt: 50,
        database,
        freeze_percent: 0,
        seed: 7,
        keep: Some(folder.into()),
        ..KillConfig::default()
    };
    let report = LocalSet::new().run_until(chaos::kill(&config)).await.expect("the servers run");
    assert!(report.broken.is_empty(), "{report}");
}

async fn find(planted: &Planted, folder: &Path) {
    let verdict = checker::check(folder).await.expect("the files are whole");
    let found = verdict.findings.iter().any(|one| one.kind == planted.kind && one.text.contains(planted.found));
    assert!(found, "{}: {verdict}", planted.what);
}

async fn plant(database: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(database);
    let mut connection = options.connect().await.expect("the database is there");
    let changed = sqlx::query(sql).execute(&mut connection).await.expect("the statement is sound").rows_affected();
    assert_eq!(changed, 1, "nothing to corrupt: {sql}");
    connection.close().await.expect("it was open");
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("it is new");
    for entry in std::fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("the entry is there");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("the entry is there").is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the file can be read");
        }
    }
}
