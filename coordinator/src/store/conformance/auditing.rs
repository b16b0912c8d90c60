//! The rules for what people changed, and for finding what waits for them.

use super::*;
use crate::audit::{AuditRow, AuditWrite, Head, Verifier};
use crate::clock::Clock as _;

fn audit(number: usize, xid: Option<Xid>) -> AuditWrite {
    AuditWrite {
        who: "ann".to_owned(),
        act: "park".to_owned(),
        xid,
        why: format!("reason {number}: 'quoted', \"twice\" \\ and ä"),
        before: r#"{"status":"trying"}"#.to_owned(),
        after: r#"{"status":"cancelling"}"#.to_owned(),
    }
}

fn audited(xid: Xid, version: u64, number: usize) -> Write {
    Write::Advance(Advance { audit: Some(Box::new(audit(number, Some(xid)))), ..advance(xid, version) })
}

async fn rows<S: Store>(store: &S, query: AuditQuery) -> Vec<AuditRow> {
    store.list(AuditQuery { limit: 100, ..query }).await.expect("the store is there")
}

async fn verified<S: Store>(store: &S) -> Head {
    let mut verifier = Verifier::default();
    for row in rows(store, AuditQuery::default()).await {
        verifier.check(&row).expect("the log is sound");
    }
    verifier.end().expect("the log is sound")
}

/// In one commit: whoever loses against another write leaves no row.
pub async fn an_audit_row_is_written_with_its_change_or_not_at_all<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    create_all(&store, &xids).await;
    let bad = Advance {
        keys: vec![Key::Business("k".repeat(KEY_BYTES_MAX + 1))],
        audit: Some(Box::new(audit(2, Some(xids[2])))),
        ..advance(xids[2], 1)
    };
    let batch = vec![audited(xids[0], 1, 0), audited(xids[1], 7, 1), Write::Advance(bad)];
    let answers = write(&store, batch).await;
    assert!(matches!(answers[..], [DONE_2, Written::Stale, Written::Refused(_)]), "{answers:?}");
    let found = rows(&store, AuditQuery::default()).await;
    let [row] = &found[..] else { panic!("{found:?}") };
    assert_eq!((row.id, row.at, &row.write), (1, START, &audit(0, Some(xids[0]))));
    assert_eq!(verified(&store).await.count, 1);
}

/// Also those that are about no transaction, within one batch, over several, and over a restart.
pub async fn audit_rows_are_chained_in_the_order_of_their_writing<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    create_all(&store, &xids).await;
    let answers = write(&store, vec![Write::Audit(audit(0, None)), audited(xids[0], 1, 1), audited(xids[1], 1, 2)]);
    assert_eq!(answers.await, [Written::Done { version: 0 }, DONE_2, DONE_2]);
    drop(store);
    let store = bench.open().await;
    bench.clock().pass_ms(5);
    write(&store, vec![Write::Audit(audit(3, None))]).await;
    let found = rows(&store, AuditQuery::default()).await;
    let expected = [audit(0, None), audit(1, Some(xids[0])), audit(2, Some(xids[1])), audit(3, None)];
    assert_eq!(found.iter().map(|row| row.write.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(found[3].at, bench.clock().now());
    assert_eq!(Some(verified(&store).await), found[3].head());
}

/// Of a transaction, after an id, and the newest before one.
pub async fn audit_rows_are_listed_by_every_part_of_the_query<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    create_all(&store, &[xid]).await;
    for number in 0..5 {
        let about = if number % 2 == 1 { audited(xid, 1 + number / 2, 1) } else { Write::Audit(audit(0, None)) };
        write_done(&store, vec![about]).await;
    }
    let ids = async |query: AuditQuery| {
        let found = store.list(query).await.expect("the store is there");
        found.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = || AuditQuery { limit: 2, ..AuditQuery::default() };
    assert_eq!(ids(all()).await, [1, 2]);
    assert_eq!(ids(AuditQuery { after_id: 2, ..all() }).await, [3, 4]);
    assert_eq!(ids(AuditQuery { after_id: u64::MAX, ..all() }).await, [0; 0]);
    assert_eq!(ids(AuditQuery { before_id: Some(u64::MAX), ..all() }).await, [4, 5]);
    assert_eq!(ids(AuditQuery { before_id: Some(4), ..all() }).await, [2, 3]);
    assert_eq!(ids(AuditQuery { xid: Some(xid), limit: 9, ..all() }).await, [2, 4]);
    assert_eq!(ids(AuditQuery { xid: Some(Xid([9; 16])), ..all() }).await, [0; 0]);
}

/// A transaction with several parked branches is one; one whose parked work was done is none.
pub async fn what_is_parked_is_listed_once_and_by_age<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    let failed = |branch| CompensationWrite { status: CompensationStatus::Failed, ..compensation(branch, "stock") };
    log(&store, &xids, |index| match index {
        0 | 3 => vec![failed(0), failed(1)],
        1 => vec![compensation(0, "stock")],
        _ => vec![failed(0)],
    })
    .await;
    let done = CompensationWrite { status: CompensationStatus::Done, ..compensation(0, "stock") };
    write_done(&store, vec![Write::Advance(Advance { compensations: vec![done], ..advance(xids[2], 2) })]).await;
    let parked = || ListQuery { parked: true, ..ListQuery::default() };
    assert_eq!(list(&store, parked()).await, [xids[3], xids[0]]);
    assert_eq!(list(&store, ListQuery { before: Some(xids[3]), ..parked() }).await, [xids[0]]);
    assert_eq!(list(&store, ListQuery { from: Some(xids[1]), ..parked() }).await, [xids[3]]);
    assert_eq!(list(&store, ListQuery { status: Some(99), ..parked() }).await, []);
    let from = ListQuery { from: Some(xids[2]), ..ListQuery::default() };
    assert_eq!(list(&store, from.clone()).await, [xids[3], xids[2]]);
    assert_eq!(list(&store, ListQuery { unfinished: true, before: Some(xids[3]), ..from }).await, [xids[2]]);
}
