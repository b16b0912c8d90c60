//! The conformance suite on SQLite, and what only a file can get wrong.

use super::*;
use crate::clock::ManualClock;
use crate::store::conformance::{Bench, START};

struct OnDisk {
    folder: tempfile::TempDir,
    clock: ManualClock,
}

impl OnDisk {
    async fn fresh() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: ManualClock::at(START) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data").join("coordinator.db")
    }
}

impl Bench for OnDisk {
    type Store = SqliteStore;

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), self.clock.clone()).await.unwrap()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

crate::store_conformance!(OnDisk::fresh().await);

async fn opening(path: &Path) -> Error {
    SqliteStore::open(path, ManualClock::at(START)).await.err().expect("it can not be opened")
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let bench = OnDisk::fresh().await;
    std::fs::create_dir(bench.folder.path().join("data")).unwrap();
    std::fs::write(bench.path(), [7_u8; 8_192]).unwrap();
    let error = opening(&bench.path()).await;
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("database file {} is damaged", bench.path().display()));
}

#[tokio::test]
async fn damage_in_the_middle_of_a_file_is_named_when_it_is_met() {
    let bench = OnDisk::fresh().await;
    bench.open().await.close().await.unwrap();
    let length = std::fs::metadata(bench.path()).unwrap().len() as usize;
    let mut bytes = std::fs::read(bench.path()).unwrap();
    bytes[8_192..length].fill(7);
    std::fs::write(bench.path(), bytes).unwrap();
    let error = match SqliteStore::open(&bench.path(), bench.clock.clone()).await {
        Ok(store) => store.list(ListQuery { limit: 1, ..ListQuery::default() }).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_can_not_be_made_and_a_file_that_can_not_be_written_are_named() {
    let bench = OnDisk::fresh().await;
    std::fs::write(bench.folder.path().join("data"), "in the way").unwrap();
    let error = opening(&bench.path()).await;
    assert!(matches!(error, Error::Unwritable { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("can not write {}", bench.folder.path().join("data").display()));
    let error = opening(bench.folder.path()).await;
    assert!(matches!(error, Error::Unwritable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_alone() {
    let bench = OnDisk::fresh().await;
    let store = bench.open().await;
    let sql = "PRAGMA user_version = 99";
    sqlx::query(sql).execute(&mut store.writer.lock().await.connection).await.unwrap();
    drop(store);
    let error = opening(&bench.path()).await;
    assert!(matches!(error, Error::TooNew { .. }), "{error:?}");
}

#[tokio::test]
async fn the_clock_is_raised_above_what_is_stored() {
    let bench = OnDisk::fresh().await;
    let store = bench.open().await;
    bench.clock.pass_ms(60_000);
    store.beat(1, None, 1_000).await.unwrap();
    store.close().await.unwrap();
    let clock = ManualClock::at(START);
    SqliteStore::open(&bench.path(), clock.clone()).await.unwrap();
    assert_eq!(clock.now(), START.after_ms(60_000));
}

/// How SQLite means to find the rows of a statement.
async fn plan(store: &SqliteStore, sql: &str) -> String {
    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::raw_sql(sql).fetch_all(&mut store.writer.lock().await.connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(3)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_statement_walks_or_sorts_all_transactions() {
    let bench = OnDisk::fresh().await;
    let store = bench.open().await;
    let listed = |query| list_sql(query).sql().as_str().to_owned();
    let claimed = |services: &[&str]| {
        let services = services.iter().map(|service| ((*service).to_owned(), 1)).collect();
        let claim = ClaimCompensations { now: START, lease_until: START, owner: Owner { node: 1, epoch: 1 }, services };
        claim_sql(claim).sql().as_str().to_owned()
    };
    let key = || Some("k".to_owned());
    let statements = [
        batch::PURGE.to_owned(),
        CLAIM_ORPHANS.to_owned(),
        claimed(&["a"]),
        claimed(&["a", "b"]),
        listed(ListQuery { before: Some(Xid([0; 16])), ..ListQuery::default() }),
        listed(ListQuery { business_key: key(), label: key(), unfinished: true, ..ListQuery::default() }),
        listed(ListQuery { from: Some(Xid([0; 16])), ..ListQuery::default() }),
        listed(ListQuery { parked: true, before: Some(Xid([9; 16])), ..ListQuery::default() }),
        listed(ListQuery { parked: true, label: key(), ..ListQuery::default() }),
    ];
    // What the triggers do is not part of the plan of the statement that sets them off.
    let triggered = batch::BATCH.split(';').filter_map(|part| part.find("UPDATE tx SET").map(|at| &part[at..]));
    let triggered: Vec<String> = triggered.map(|sql| sql.replace("NEW.", "$")).collect();
    assert_eq!(triggered.len(), 2);
    for sql in statements.into_iter().chain(triggered) {
        let plan = plan(&store, &sql).await;
        let walks = plan.lines().filter(|line| {
            ["SCAN tx", "SCAN compensation", "SCAN due", "SCAN named", "TEMP B-TREE"]
                .iter()
                .any(|bad| line.contains(bad))
        });
        assert_eq!(walks.collect::<Vec<_>>(), [""; 0], "{sql}\n{plan}");
    }
    // Those that have not ended are few, and the index holds no others.
    let unfinished = listed(ListQuery { unfinished: true, ..ListQuery::default() });
    assert!(plan(&store, &unfinished).await.starts_with("SCAN tx USING INDEX tx_unfinished"));
}

/// Verifies the log of an open store, as `tercet audit verify` does.
async fn verified(store: &SqliteStore) -> Result<crate::audit::Head, crate::audit::Broken> {
    let mut verifier = crate::audit::Verifier::default();
    let rows = store.list(AuditQuery { limit: 100, ..AuditQuery::default() }).await.unwrap();
    rows.iter().try_for_each(|row| verifier.check(row))?;
    verifier.end()
}

#[tokio::test]
async fn a_byte_flipped_in_any_column_of_any_audit_row_is_found_and_named() {
    let bench = OnDisk::fresh().await;
    let store = bench.open().await;
    let row = |number: u8| crate::audit::AuditWrite {
        who: format!("ann{number}"),
        act: "park".into(),
        xid: Some(Xid([number; 16])),
        why: "why".into(),
        before: "{}".into(),
        after: "{}".into(),
    };
    store.write((1..=3).map(|number| Write::Audit(row(number))).collect()).await.unwrap();
    let run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut store.writer.lock().await.connection).await.unwrap();
    };
    run("CREATE TEMP TABLE kept AS SELECT * FROM audit".into()).await;
    let sound = verified(&store).await.unwrap();
    assert_eq!(sound.count, 3);
    let text = |column: &str| format!("{column} = CAST(x'ff' AS TEXT) || substr({column}, 2)");
    let blob = |column: &str| format!("{column} = unhex(substr(hex({column}), 1, 30) || '00')");
    let mut changes = vec!["id = id + 10".to_owned(), "at = at + 1".to_owned(), "xid = NULL".to_owned()];
    changes.extend(["who", "act", "why", "before", "after"].map(text));
    changes.extend(["xid", "previous", "hash"].map(blob));
    for id in 1..=3_u64 {
        for change in &changes {
            run(format!("UPDATE audit SET {change} WHERE id = {id}")).await;
            let broken = verified(&store).await.unwrap_err();
            let named = broken.to_string();
            let moved = change.starts_with("id") && id == 3;
            assert!(named.starts_with(&format!("row {id} ")) || moved, "{change} of {id}: {named}");
            run("DELETE FROM audit; INSERT INTO audit SELECT * FROM temp.kept".into()).await;
            assert_eq!(verified(&store).await, Ok(sound));
        }
    }
    run("DELETE FROM audit WHERE id = 2".into()).await;
    assert_eq!(verified(&store).await.unwrap_err().to_string(), "row 2 is missing");
    run("DELETE FROM audit; INSERT INTO audit SELECT * FROM temp.kept".into()).await;
    run(
        "UPDATE audit SET id = CASE id WHEN 2 THEN -3 ELSE -2 END WHERE id > 1; UPDATE audit SET id = -id WHERE id < 0"
            .into(),
    )
    .await;
    assert!(verified(&store).await.unwrap_err().to_string().starts_with("row 2 has been changed"));
}
