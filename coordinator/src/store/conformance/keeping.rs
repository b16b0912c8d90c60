//! The rules for what stays and what goes.

use super::*;

async fn ended<S: Store>(store: &S, xids: &[Xid], ended_at: impl Fn(usize) -> Timestamp) {
    create_all(store, xids).await;
    let ends = xids.iter().enumerate().map(|(index, xid)| Write::Advance(end(*xid, 1, ended_at(index))));
    write_done(store, ends.collect()).await;
}

/// The time of the end counts, not that of the making.
pub async fn purge_by_age_takes_what_ended_before<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    let ended_at = [START.after_ms(9), START.after_ms(5), START.after_ms(6), START.after_ms(4)];
    ended(&store, &xids, |index| ended_at[index]).await;
    assert_eq!(purge(&store, START.after_ms(6), 100, 100).await, 2);
    assert_eq!(list(&store, ListQuery::default()).await, [xids[2], xids[0]]);
    assert_eq!(purge(&store, START.after_ms(6), 100, 100).await, 0);
}

/// What ended last stays.
pub async fn purge_by_count_keeps_those_that_ended_last<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(5);
    ended(&store, &xids[..4], |index| START.after_ms(10 - index as u64)).await;
    create_all(&store, &xids[4..]).await;
    assert_eq!(purge(&store, Timestamp(0), 4, 100).await, 0);
    assert_eq!(purge(&store, Timestamp(0), 3, 100).await, 1);
    write_done(&store, vec![Write::Advance(end(xids[4], 1, START.after_ms(20)))]).await;
    assert_eq!(purge(&store, Timestamp(0), 2, 100).await, 2);
    assert_eq!(list(&store, ListQuery::default()).await, [xids[4], xids[0]]);
    // Both rules at once are not the sum of both.
    assert_eq!(purge(&store, START.after_ms(15), 1, 100).await, 1);
    assert_eq!(list(&store, ListQuery::default()).await, [xids[4]]);
}

/// No call takes longer than its caller allows.
pub async fn purge_is_bounded_and_goes_on<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(5);
    ended(&store, &xids, |_| START).await;
    let mut counts = Vec::new();
    for (older_than, keep_max) in [(Timestamp::MAX, 1), (Timestamp(0), 0), (Timestamp::MAX, 100), (Timestamp::MAX, 0)] {
        counts.push(purge(&store, older_than, keep_max, 2).await);
    }
    assert_eq!(counts, [2, 2, 1, 0]);
    assert_eq!(list(&store, ListQuery::default()).await, []);
}

/// However old and however many they are.
pub async fn purge_never_touches_unfinished_transactions<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    log(&store, &xids[..1], |_| vec![compensation(0, "stock")]).await;
    create_all(&store, &xids[1..]).await;
    let logged = Advance { owner: None, wake_at: None, ..advance(xids[1], 1) };
    write_done(&store, vec![Write::Advance(logged), Write::Advance(end(xids[2], 1, START))]).await;
    assert_eq!(purge(&store, Timestamp::MAX, 0, 100).await, 1);
    assert_eq!(list(&store, ListQuery::default()).await, [xids[3], xids[1], xids[0]]);
    assert_eq!(compensations(&store).await.len(), 1);
}

/// Its keys are free and its compensations gone.
pub async fn purge_takes_all_that_belongs_to_a_transaction<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    let keyed = |xid| Create {
        idempotency_key: Some("k".to_owned()),
        keys: vec![Key::Label("a=b".to_owned()), Key::Business("c".to_owned())],
        ..create(xid)
    };
    write_done(&store, vec![Write::Create(keyed(xids[0])), Write::Create(create(xids[1]))]).await;
    let row = |status| vec![CompensationWrite { status, ..compensation(0, "stock") }];
    let last = Advance { compensations: row(CompensationStatus::Done), ..end(xids[0], 1, START) };
    let other = Advance { compensations: row(CompensationStatus::Pending), ..advance(xids[1], 1) };
    write_done(&store, vec![Write::Advance(last), Write::Advance(other)]).await;
    assert_eq!(purge(&store, Timestamp::MAX, 0, 100).await, 1);
    assert_eq!(get(&store, xids[0]).await, None);
    assert_eq!(compensations(&store).await.iter().map(|row| row.xid).collect::<Vec<_>>(), [xids[1]]);
    // Made anew under the same xid it has none of the old keys.
    write_done(&store, vec![Write::Create(Create { keys: Vec::new(), ..keyed(xids[0]) })]).await;
    for (label, business_key) in [(Some("a=b".to_owned()), None), (None, Some("c".to_owned()))] {
        assert_eq!(list(&store, ListQuery { label, business_key, ..ListQuery::default() }).await, []);
    }
}

/// What was answered is there after the store is opened again.
pub async fn reopening_keeps_everything<B: Bench>(bench: &B) {
    let xids = xids(3);
    let store = bench.open().await;
    log(&store, &xids[..2], |index| vec![compensation(index as u16, "stock")]).await;
    let labelled =
        Create { keys: vec![Key::Label("a=b".to_owned())], idempotency_key: Some("k".to_owned()), ..create(xids[2]) };
    write_done(&store, vec![Write::Create(labelled)]).await;
    write_done(&store, vec![Write::Advance(end(xids[0], 2, START))]).await;
    store.beat(1, None, 1_000).await.expect("the store is there");
    let all = ListQuery { limit: 10, ..ListQuery::default() };
    let before = (store.list(all.clone()).await.expect("the store is there"), compensations(&store).await);
    drop(store);
    let store = bench.open().await;
    let after = (store.list(all).await.expect("the store is there"), compensations(&store).await);
    assert_eq!(before, after);
    assert_eq!((after.0.len(), after.1.len()), (3, 2));
    let labelled = ListQuery { label: Some("a=b".to_owned()), ..ListQuery::default() };
    assert_eq!(list(&store, labelled).await, [xids[2]]);
    let again = Create { idempotency_key: Some("k".to_owned()), ..create(XidSource::new(2, 1).next(START)) };
    let answers = write(&store, vec![Write::Create(again)]).await;
    assert!(matches!(&answers[..], [Written::KeyTaken(record)] if record.xid == xids[2]), "{answers:?}");
    assert_eq!(store.beat(1, None, 1_000).await.expect("the store is there").epoch, 2);
    assert_eq!(purge(&store, Timestamp::MAX, 0, 10).await, 1);
}
