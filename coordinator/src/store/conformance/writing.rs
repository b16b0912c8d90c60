//! The rules for what is written.

use super::*;

/// Everything that was written at the creation is there.
pub async fn a_created_transaction_reads_back_whole<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    let written = Create {
        idempotency_key: Some("order 7".to_owned()),
        digest: u64::MAX - 1,
        owner: Owner { node: 1_023, epoch: 1 << 40 },
        ..create(xid)
    };
    assert_eq!(write(&store, vec![Write::Create(written)]).await, [DONE_1]);
    let expected = Record {
        xid,
        version: 1,
        mode: 1,
        status: 10,
        ended_at: None,
        owner: Some(Owner { node: 1_023, epoch: 1 << 40 }),
        wake_at: Some(START.after_ms(1_000)),
        idempotency_key: Some("order 7".to_owned()),
        digest: u64::MAX - 1,
        plan: Bytes::from_static(b"the plan"),
        state: Bytes::from_static(b"the state"),
    };
    assert_eq!(get(&store, xid).await.as_ref(), Some(&expected));
    let by_key = store.get(Lookup::IdempotencyKey("order 7".to_owned())).await.expect("the store is there");
    assert_eq!(by_key, Some(expected));
    let unknown = store.get(Lookup::IdempotencyKey("order 8".to_owned())).await.expect("the store is there");
    assert_eq!(unknown, None);
}

/// The new version has the new fields, the others stay.
pub async fn an_advance_replaces_the_version_it_names<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    create_all(&store, &[xid]).await;
    let created = get(&store, xid).await.expect("it was created");
    assert_eq!(write(&store, vec![Write::Advance(advance(xid, 1))]).await, [DONE_2]);
    let mut expected = Record {
        version: 2,
        status: 11,
        wake_at: Some(START.after_ms(2_000)),
        state: Bytes::from_static(b"the next state"),
        ..created
    };
    assert_eq!(get(&store, xid).await.as_ref(), Some(&expected));
    let other = Owner { node: 2, epoch: 3 };
    write_done(&store, vec![Write::Advance(Advance { owner: Some(other), ..advance(xid, 2) })]).await;
    expected = Record { version: 3, owner: Some(other), ..expected };
    assert_eq!(get(&store, xid).await.as_ref(), Some(&expected));
    write_done(&store, vec![Write::Advance(end(xid, 3, START.after_ms(9)))]).await;
    let ended_at = Some(START.after_ms(9));
    expected = Record { version: 4, status: 12, ended_at, owner: None, wake_at: None, ..expected };
    assert_eq!(get(&store, xid).await, Some(expected));
}

/// Only the write that is late goes undone.
pub async fn a_stale_advance_changes_nothing_and_hurts_no_other<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    create_all(&store, &xids[..3]).await;
    write_done(&store, vec![Write::Advance(advance(xids[1], 1))]).await;
    let late = Advance { status: 99, ..advance(xids[1], 1) };
    let early = Advance { status: 99, ..advance(xids[2], 2) };
    let batch = vec![
        Write::Advance(advance(xids[0], 1)),
        Write::Advance(late),
        Write::Advance(early),
        Write::Create(create(xids[3])),
    ];
    assert_eq!(write(&store, batch).await, [DONE_2, Written::Stale, Written::Stale, DONE_1]);
    let mut found = Vec::new();
    for xid in xids {
        found.push(get(&store, xid).await.map(|record| (record.version, record.status)));
    }
    assert_eq!(found, [Some((2, 11)), Some((2, 11)), Some((1, 10)), Some((1, 10))]);
}

/// A transaction that is not there can not go on, and is not made by trying.
pub async fn an_advance_of_an_unknown_transaction_is_stale<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    let writes = [advance(xid, 1), advance(xid, 0), end(xid, 1, START)];
    for write_once in writes {
        assert_eq!(write(&store, vec![Write::Advance(write_once)]).await, [Written::Stale]);
    }
    assert_eq!(get(&store, xid).await, None);
}

/// A repeated create is stale and changes nothing, whatever its key.
pub async fn a_xid_is_created_once<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    create_all(&store, &xids[..1]).await;
    let again = Create { status: 99, idempotency_key: Some("k".to_owned()), ..create(xids[0]) };
    let batch = vec![Write::Create(again), Write::Create(create(xids[1]))];
    assert_eq!(write(&store, batch).await, [Written::Stale, DONE_1]);
    assert_eq!(get(&store, xids[0]).await.map(|record| record.status), Some(10));
    assert_eq!(store.get(Lookup::IdempotencyKey("k".to_owned())).await.expect("the store is there"), None);
}

/// The transaction that has the key comes back, so that the caller can compare digests, whichever they are.
pub async fn a_taken_idempotency_key_shows_its_transaction<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(5);
    let keyed = |xid, digest| Create { idempotency_key: Some("order 7".to_owned()), digest, ..create(xid) };
    write_done(&store, vec![Write::Create(keyed(xids[0], 7))]).await;
    write_done(&store, vec![Write::Advance(advance(xids[0], 1))]).await;
    let first = get(&store, xids[0]).await.expect("it was created");
    let batch = vec![
        Write::Create(keyed(xids[1], 7)),
        Write::Create(keyed(xids[2], 8)),
        Write::Create(create(xids[3])),
        Write::Create(Create { idempotency_key: Some("order 8".to_owned()), ..create(xids[4]) }),
    ];
    let taken = || Written::KeyTaken(Box::new(first.clone()));
    assert_eq!(write(&store, batch).await, [taken(), taken(), DONE_1, DONE_1]);
    assert_eq!((get(&store, xids[1]).await, get(&store, xids[2]).await), (None, None));
    assert_eq!((first.digest, first.version), (7, 2));
}

/// Two with the same key that arrive together are one transaction.
pub async fn a_key_twice_in_one_batch_goes_to_the_first<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    let keyed = |xid: &Xid| Write::Create(Create { idempotency_key: Some("k".to_owned()), ..create(*xid) });
    let answers = write(&store, xids.iter().map(keyed).collect()).await;
    let first = get(&store, xids[0]).await.expect("it was created");
    let taken = || Written::KeyTaken(Box::new(first.clone()));
    assert_eq!(answers, [DONE_1, taken(), taken()]);
    assert_eq!(list(&store, ListQuery::default()).await, [xids[0]]);
}

/// A row that the database does not take is found and refused; the others are written.
pub async fn one_bad_row_is_refused_alone<B: Bench>(bench: &B) {
    bad_rows_are_refused_alone(bench, &[19]).await;
}

/// The same with bad rows at the ends and beside each other.
pub async fn several_bad_rows_are_refused_alone<B: Bench>(bench: &B) {
    bad_rows_are_refused_alone(bench, &[0, 7, 8, 32]).await;
}

async fn bad_rows_are_refused_alone<B: Bench>(bench: &B, bad: &[usize]) {
    let store = bench.open().await;
    let xids = xids(33);
    let key = |length: usize| Some("k".repeat(length));
    let batch = xids.iter().enumerate().map(|(index, xid)| {
        let length = if bad.contains(&index) { IDEMPOTENCY_KEY_BYTES_MAX + 1 + index } else { 1 + index };
        Write::Create(Create { idempotency_key: key(length), ..create(*xid) })
    });
    let answers = write(&store, batch.collect()).await;
    for (index, answer) in answers.iter().enumerate() {
        let refused = matches!(answer, Written::Refused(why) if !why.is_empty());
        assert!(if bad.contains(&index) { refused } else { *answer == DONE_1 }, "{index}: {answer:?}");
        assert_eq!(get(&store, xids[index]).await.is_some(), !bad.contains(&index));
    }
}

/// What hangs on a write goes with it.
pub async fn a_stale_advance_writes_neither_keys_nor_compensations<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    create_all(&store, &xids).await;
    let hung = |xid, version| {
        let (keys, compensations) = (vec![Key::Business("coupon 1".to_owned())], vec![compensation(0, "stock")]);
        Write::Advance(Advance { keys, compensations, ..advance(xid, version) })
    };
    let batch = vec![hung(xids[0], 1), hung(xids[1], 2), hung(xids[2], 1)];
    assert_eq!(write(&store, batch).await, [DONE_2, Written::Stale, DONE_2]);
    let query = ListQuery { business_key: Some("coupon 1".to_owned()), ..ListQuery::default() };
    assert_eq!(list(&store, query).await, [xids[2], xids[0]]);
    let rows = compensations(&store).await;
    assert_eq!(rows.iter().map(|row| row.xid).collect::<Vec<_>>(), [xids[0], xids[2]]);
}

/// A compensation or key that is refused takes the advance with it, and the other way round.
pub async fn a_write_with_compensations_is_all_or_nothing<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    create_all(&store, &xids).await;
    let bad = Advance {
        keys: vec![Key::Business("k".repeat(KEY_BYTES_MAX + 1))],
        compensations: vec![compensation(0, "stock")],
        ..advance(xids[0], 1)
    };
    let good = Advance { compensations: vec![compensation(0, "stock")], ..advance(xids[1], 1) };
    let answers = write(&store, vec![Write::Advance(bad), Write::Advance(good)]).await;
    assert!(matches!(answers[..], [Written::Refused(_), DONE_2]), "{answers:?}");
    assert_eq!((version(&store, xids[0]).await, version(&store, xids[1]).await), (Some(1), Some(2)));
    assert_eq!(compensations(&store).await.iter().map(|row| row.xid).collect::<Vec<_>>(), [xids[1]]);
}

/// Written again it is the same row: same id, same time of making.
pub async fn a_compensation_is_one_row_for_each_operation<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    create_all(&store, &[xid]).await;
    let other = CompensationWrite { operation: 4, ..compensation(0, "stock") };
    let first = vec![compensation(0, "stock"), other, compensation(1, "coupon")];
    write_done(&store, vec![Write::Advance(Advance { compensations: first, ..advance(xid, 1) })]).await;
    let before = compensations(&store).await;
    assert_eq!(before.len(), 3);
    let expected = Compensation {
        id: before[0].id,
        xid,
        branch: 0,
        operation: 3,
        service: "stock".to_owned(),
        coupon_id: None,
        status: CompensationStatus::Pending,
        retry_count: 5,
        create_time: START,
        update_time: START,
        next_retry_time: START,
        lease_until: Timestamp(0),
        last_error: "no answer".to_owned(),
    };
    assert_eq!(before[0], expected);
    bench.clock().pass_ms(10);
    let again = CompensationWrite {
        coupon_id: Some(-5),
        status: CompensationStatus::Failed,
        retry_count: 6,
        next_retry_time: START.after_ms(7),
        last_error: "refused".to_owned(),
        ..compensation(0, "stock")
    };
    write_done(&store, vec![Write::Advance(Advance { compensations: vec![again], ..advance(xid, 2) })]).await;
    let after = compensations(&store).await;
    let expected = Compensation {
        coupon_id: Some(-5),
        status: CompensationStatus::Failed,
        retry_count: 6,
        update_time: START.after_ms(10),
        next_retry_time: START.after_ms(7),
        last_error: "refused".to_owned(),
        ..expected
    };
    assert_eq!(after, [expected, before[1].clone(), before[2].clone()]);
}

/// Quotes, backslashes, line breaks and other scripts are not special.
pub async fn texts_come_back_as_they_were<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    let text = "it's \"quoted\" \\ {[,]} \n\t 订单 é 🎟";
    let created = Create {
        idempotency_key: Some(text.to_owned()),
        keys: vec![Key::Label(text.to_owned()), Key::Business(text.to_owned())],
        ..create(xid)
    };
    write_done(&store, vec![Write::Create(created)]).await;
    let row = CompensationWrite { last_error: text.to_owned(), ..compensation(0, text) };
    write_done(&store, vec![Write::Advance(Advance { compensations: vec![row], ..advance(xid, 1) })]).await;
    let found = store.get(Lookup::IdempotencyKey(text.to_owned())).await.expect("the store is there");
    assert_eq!(found.and_then(|record| record.idempotency_key).as_deref(), Some(text));
    let (label, business_key) = (Some(text.to_owned()), Some(text.to_owned()));
    assert_eq!(list(&store, ListQuery { label, business_key, ..ListQuery::default() }).await, [xid]);
    let rows = store.claim_compensations(claim(&[text], START, 1)).await.expect("the store is there");
    let rows: Vec<Compensation> = rows.into_iter().map(|row| row.compensation).collect();
    assert_eq!(rows.iter().map(|row| (&*row.service, &*row.last_error)).collect::<Vec<_>>(), [(text, text)]);
}

/// Nothing, every byte, and much.
pub async fn bytes_come_back_as_they_were<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    let every: Bytes = (0..=255).collect();
    let much: Bytes = (0..1_u32 << 20).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let bytes = [Bytes::new(), every, much];
    let creates = xids
        .iter()
        .zip(&bytes)
        .map(|(xid, bytes)| Write::Create(Create { plan: bytes.clone(), state: bytes.clone(), ..create(*xid) }));
    write_done(&store, creates.collect()).await;
    let advances = xids.iter().zip(bytes.iter().rev());
    let advances = advances.map(|(xid, bytes)| Write::Advance(Advance { state: bytes.clone(), ..advance(*xid, 1) }));
    write_done(&store, advances.collect()).await;
    for (index, xid) in xids.iter().enumerate() {
        let record = get(&store, *xid).await.expect("it was created");
        assert!(record.plan == bytes[index] && record.state == bytes[2 - index], "{index}");
    }
}

/// Nothing to do is done.
pub async fn an_empty_batch_is_no_error<B: Bench>(bench: &B) {
    let store = bench.open().await;
    assert_eq!(write(&store, Vec::new()).await, []);
}

/// Creates, advances, ends and what hangs on them, all in one batch and a thousand of it.
pub async fn a_large_batch_of_every_kind_is_written<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(1_200);
    create_all(&store, &xids[..900]).await;
    let batch: Vec<Write> = xids
        .iter()
        .enumerate()
        .map(|(index, xid)| match index {
            0..300 => Write::Advance(advance(*xid, 1)),
            300..600 => Write::Advance(end(*xid, 1, START)),
            600..900 => {
                let (owner, compensations) = (None, vec![compensation(0, "stock"), compensation(1, "coupon")]);
                Write::Advance(Advance { owner, wake_at: None, compensations, ..advance(*xid, 1) })
            }
            _ => Write::Create(Create { keys: vec![Key::Label(format!("n={}", index % 3))], ..create(*xid) }),
        })
        .collect();
    write_done(&store, batch).await;
    assert_eq!(compensations(&store).await.len(), 600);
    let query = ListQuery { unfinished: true, limit: 2_000, ..ListQuery::default() };
    assert_eq!(store.list(query).await.expect("the store is there").len(), 900);
    let labelled = ListQuery { label: Some("n=1".to_owned()), ..ListQuery::default() };
    assert_eq!(list(&store, labelled).await.len(), 100);
    assert_eq!(orphans(&store, Owner { node: 1, epoch: 2 }, 2_000).await.len(), 600);
}
