//! What every store must do, one rule a function. A new store is finished when it passes them all.
//!
//! A store's tests implement [`Bench`] and call [`store_conformance!`](crate::store_conformance), which makes one test
//! of each rule.

use std::future::Future;

use bytes::Bytes;
use tercet_core::{Timestamp, Xid, XidSource};

use super::{
    Advance, ClaimCompensations, Compensation, CompensationQuery, CompensationStatus, CompensationWrite, Create, Error,
    IDEMPOTENCY_KEY_BYTES_MAX, Key, ListQuery, Lookup, Owner, Purge, Record, Store, Write, Written,
};
use crate::clock::ManualClock;

/// When a bench's clock starts.
pub const START: Timestamp = Timestamp(1_700_000_000_000);

/// An empty database of the kind under test, which lasts as long as this value.
pub trait Bench: Sync {
    /// The store under test.
    type Store: Store;

    /// Opens the store on the bench's clock; each time on the same data.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;

    /// The clock, which stood at [`START`].
    fn clock(&self) -> &ManualClock;
}

/// Makes a test of each rule, on the bench that the expression makes (it may await).
#[doc(hidden)]
#[macro_export]
macro_rules! store_conformance {
    ($bench:expr) => {
        $crate::store_conformance!($bench;
            a_created_transaction_reads_back_whole,
            an_advance_replaces_the_version_it_names,
            a_stale_advance_changes_nothing_and_hurts_no_other,
            an_advance_of_an_unknown_transaction_is_stale,
            a_xid_is_created_once,
            a_taken_idempotency_key_shows_its_transaction,
            a_key_twice_in_one_batch_goes_to_the_first,
            one_bad_row_is_refused_alone,
            several_bad_rows_are_refused_alone,
            a_stale_advance_writes_neither_keys_nor_compensations,
            a_write_with_compensations_is_all_or_nothing,
            a_compensation_is_one_row_for_each_operation,
            texts_come_back_as_they_were,
            bytes_come_back_as_they_were,
            a_list_is_newest_first_and_goes_on_before_a_xid,
            a_list_takes_every_part_of_the_query,
            orphans_of_an_older_epoch_are_claimed_at_once,
            orphans_of_another_node_are_claimed_when_its_lease_has_lapsed,
            orphans_are_claimed_oldest_first_in_bounded_batches,
            what_is_ended_or_waits_for_nothing_is_no_orphan,
            a_claimed_orphan_is_stale_for_its_old_owner,
            due_compensations_are_claimed_once_until_their_lease_ends,
            a_write_ends_the_lease_of_a_compensation,
            each_service_gets_its_share_of_compensations,
            compensations_are_listed_by_every_part_of_the_query,
            each_start_of_a_node_has_its_own_epoch,
            a_superseded_start_is_told_so,
            purge_by_age_takes_what_ended_before,
            purge_by_count_keeps_those_that_ended_last,
            purge_is_bounded_and_goes_on,
            purge_never_touches_unfinished_transactions,
            purge_takes_all_that_belongs_to_a_transaction,
            reopening_keeps_everything,
            an_empty_batch_is_no_error,
            a_large_batch_of_every_kind_is_written,
        );
    };
    ($bench:expr; $($rule:ident,)*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                $crate::store::conformance::$rule(&$bench).await;
            }
        )*
    };
}

/// The owner in most rules.
const OWNER: Owner = Owner { node: 1, epoch: 1 };

fn xids(count: usize) -> Vec<Xid> {
    let mut source = XidSource::new(1, 1);
    (0..count as u64).map(|ms| source.next(START.after_ms(ms))).collect()
}

fn create(xid: Xid) -> Create {
    Create {
        xid,
        mode: 1,
        status: 10,
        ended_at: None,
        owner: OWNER,
        wake_at: Some(START.after_ms(1_000)),
        idempotency_key: None,
        digest: 7,
        plan: Bytes::from_static(b"the plan"),
        state: Bytes::from_static(b"the state"),
        keys: Vec::new(),
    }
}

fn advance(xid: Xid, version: u64) -> Advance {
    Advance {
        xid,
        version,
        status: 11,
        ended_at: None,
        owner: Some(OWNER),
        wake_at: Some(START.after_ms(2_000)),
        state: Bytes::from_static(b"the next state"),
        keys: Vec::new(),
        compensations: Vec::new(),
    }
}

fn end(xid: Xid, version: u64, ended_at: Timestamp) -> Advance {
    Advance { status: 12, ended_at: Some(ended_at), owner: None, wake_at: None, ..advance(xid, version) }
}

fn compensation(branch: u16, service: &str) -> CompensationWrite {
    CompensationWrite {
        branch,
        operation: 3,
        service: service.to_owned(),
        coupon_id: None,
        status: CompensationStatus::Pending,
        retry_count: 5,
        next_retry_time: START,
        last_error: "no answer".to_owned(),
    }
}

fn claim(services: &[&str], now: Timestamp, limit: u32) -> ClaimCompensations {
    let services = services.iter().map(|service| (*service).to_owned()).collect();
    ClaimCompensations { now, lease_until: now.after_ms(1_000), owner: OWNER, services, limit }
}

const DONE_1: Written = Written::Done { version: 1 };
const DONE_2: Written = Written::Done { version: 2 };

async fn write<S: Store>(store: &S, batch: Vec<Write>) -> Vec<Written> {
    let length = batch.len();
    let answers = store.write(batch).await.expect("the store is there");
    assert_eq!(answers.len(), length);
    answers
}

async fn write_done<S: Store>(store: &S, batch: Vec<Write>) {
    let expected: Vec<Written> = batch.iter().map(|write| Written::Done { version: write.version() }).collect();
    assert_eq!(write(store, batch).await, expected);
}

async fn create_all<S: Store>(store: &S, xids: &[Xid]) {
    write_done(store, xids.iter().map(|xid| Write::Create(create(*xid))).collect()).await;
}

async fn get<S: Store>(store: &S, xid: Xid) -> Option<Record> {
    store.get(Lookup::Xid(xid)).await.expect("the store is there")
}

async fn version<S: Store>(store: &S, xid: Xid) -> Option<u64> {
    get(store, xid).await.map(|record| record.version)
}

async fn list<S: Store>(store: &S, query: ListQuery) -> Vec<Xid> {
    let records = store.list(ListQuery { limit: 100, ..query }).await.expect("the store is there");
    records.iter().map(|record| record.xid).collect()
}

async fn compensations<S: Store>(store: &S) -> Vec<Compensation> {
    let query = CompensationQuery { limit: 10_000, ..CompensationQuery::default() };
    store.list_compensations(query).await.expect("the store is there")
}

async fn claimed<S: Store>(store: &S, claim: ClaimCompensations) -> Vec<(Xid, u16)> {
    let rows = store.claim_compensations(claim).await.expect("the store is there");
    rows.iter().map(|row| (row.xid, row.branch)).collect()
}

async fn orphans<S: Store>(store: &S, owner: Owner, limit: u32) -> Vec<Xid> {
    let records = store.claim_orphans(owner, limit).await.expect("the store is there");
    assert!(records.iter().all(|record| record.owner == Some(owner)));
    records.iter().map(|record| record.xid).collect()
}

async fn purge<S: Store>(store: &S, older_than: Timestamp, keep_max: u64, limit: u32) -> u64 {
    store.purge(Purge { older_than, keep_max, limit }).await.expect("the store is there")
}

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
        keys: vec![Key::Business("k".repeat(super::KEY_BYTES_MAX + 1))],
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

/// Page by page nothing is shown twice and nothing is left out.
pub async fn a_list_is_newest_first_and_goes_on_before_a_xid<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(5);
    create_all(&store, &xids).await;
    let mut pages = Vec::new();
    let mut before = None;
    loop {
        let page = store.list(ListQuery { before, limit: 2, ..ListQuery::default() }).await.expect("it is there");
        let Some(last) = page.last() else { break };
        before = Some(last.xid);
        pages.push(page.iter().map(|record| record.xid).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec![xids[4], xids[3]], vec![xids[2], xids[1]], vec![xids[0]]]);
}

/// Each part narrows the list, alone and with the others.
pub async fn a_list_takes_every_part_of_the_query<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    let keys = |index| match index {
        0 => vec![Key::Label("area=north".to_owned()), Key::Business("coupon 1".to_owned())],
        1 => vec![Key::Label("area=north".to_owned())],
        2 => vec![Key::Label("area=south".to_owned()), Key::Business("coupon 1".to_owned())],
        _ => vec![Key::Label("coupon 1".to_owned()), Key::Business("area=north".to_owned())],
    };
    let creates = xids.iter().enumerate();
    let creates = creates.map(|(index, xid)| Write::Create(Create { keys: keys(index), ..create(*xid) }));
    write_done(&store, creates.collect()).await;
    write_done(&store, vec![Write::Advance(end(xids[1], 1, START)), Write::Advance(advance(xids[2], 1))]).await;

    let all = ListQuery::default();
    let north = || ListQuery { label: Some("area=north".to_owned()), ..ListQuery::default() };
    let coupon = || ListQuery { business_key: Some("coupon 1".to_owned()), ..ListQuery::default() };
    assert_eq!(list(&store, ListQuery { unfinished: true, ..all.clone() }).await, [xids[3], xids[2], xids[0]]);
    assert_eq!(list(&store, ListQuery { status: Some(12), ..all.clone() }).await, [xids[1]]);
    assert_eq!(list(&store, ListQuery { status: Some(12), unfinished: true, ..all }).await, []);
    assert_eq!(list(&store, north()).await, [xids[1], xids[0]]);
    assert_eq!(list(&store, coupon()).await, [xids[2], xids[0]]);
    assert_eq!(list(&store, ListQuery { unfinished: true, ..north() }).await, [xids[0]]);
    assert_eq!(list(&store, ListQuery { status: Some(11), ..coupon() }).await, [xids[2]]);
    assert_eq!(list(&store, ListQuery { before: Some(xids[1]), ..north() }).await, [xids[0]]);
    assert_eq!(list(&store, ListQuery { label: north().label, ..coupon() }).await, [xids[0]]);
    assert_eq!(list(&store, ListQuery { label: Some("area=west".to_owned()), ..coupon() }).await, []);
}

/// A node that starts again takes up what its starts before left, without waiting for a lease.
pub async fn orphans_of_an_older_epoch_are_claimed_at_once<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    let first = store.beat(1, None, 10_000).await.expect("the store is there");
    let owner = Owner { node: 1, epoch: first.epoch };
    let creates = xids.iter().map(|xid| Write::Create(Create { owner, ..create(*xid) }));
    write_done(&store, creates.collect()).await;
    assert_eq!(orphans(&store, owner, 10).await, []);
    let second = store.beat(1, None, 10_000).await.expect("the store is there");
    let owner = Owner { node: 1, epoch: second.epoch };
    let records = store.claim_orphans(owner, 10).await.expect("the store is there");
    assert_eq!(records.iter().map(|record| record.xid).collect::<Vec<_>>(), xids);
    for record in records {
        assert_eq!((record.version, record.owner, &*record.plan), (2, Some(owner), &b"the plan"[..]));
        assert_eq!(get(&store, record.xid).await, Some(record));
    }
    assert_eq!(orphans(&store, owner, 10).await, []);
}

/// Another node's transactions are left alone while it beats.
pub async fn orphans_of_another_node_are_claimed_when_its_lease_has_lapsed<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    let other = store.beat(2, None, 1_000).await.expect("the store is there");
    store.beat(3, None, 5_000).await.expect("the store is there");
    let owners = [Owner { node: 2, epoch: other.epoch }, Owner { node: 3, epoch: 1 }];
    let creates = xids.iter().zip(owners).map(|(xid, owner)| Write::Create(Create { owner, ..create(*xid) }));
    write_done(&store, creates.collect()).await;
    store.beat(1, None, 60_000).await.expect("the store is there");
    assert_eq!(orphans(&store, OWNER, 10).await, []);
    bench.clock().pass_ms(999);
    assert_eq!(orphans(&store, OWNER, 10).await, []);
    store.beat(2, Some(other.epoch), 1_000).await.expect("the store is there");
    bench.clock().pass_ms(999);
    assert_eq!(orphans(&store, OWNER, 10).await, []);
    bench.clock().pass_ms(1);
    assert_eq!(orphans(&store, OWNER, 10).await, [xids[0]]);
    assert_eq!(orphans(&store, OWNER, 10).await, []);
}

/// A batch is never larger than asked, and the next goes on.
pub async fn orphans_are_claimed_oldest_first_in_bounded_batches<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(5);
    create_all(&store, &xids).await;
    let owner = Owner { node: 1, epoch: 2 };
    assert_eq!(orphans(&store, owner, 2).await, xids[..2]);
    assert_eq!(orphans(&store, owner, 2).await, xids[2..4]);
    assert_eq!(orphans(&store, owner, 2).await, xids[4..]);
    assert_eq!(orphans(&store, owner, 2).await, []);
}

/// Nothing is read at a start but what has work to do now or later.
pub async fn what_is_ended_or_waits_for_nothing_is_no_orphan<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(4);
    create_all(&store, &xids).await;
    let logged = Advance { owner: None, wake_at: None, ..advance(xids[1], 1) };
    let asleep = Advance { wake_at: None, ..advance(xids[2], 1) };
    let writes = vec![Write::Advance(end(xids[0], 1, START)), Write::Advance(logged), Write::Advance(asleep)];
    write_done(&store, writes).await;
    assert_eq!(orphans(&store, Owner { node: 1, epoch: 2 }, 10).await, [xids[3]]);
    let woken = Advance { owner: Some(OWNER), ..advance(xids[1], 2) };
    write_done(&store, vec![Write::Advance(woken)]).await;
    assert_eq!(orphans(&store, Owner { node: 1, epoch: 2 }, 10).await, [xids[1]]);
}

/// Whoever claims owns it from then on.
pub async fn a_claimed_orphan_is_stale_for_its_old_owner<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xid = xids(1)[0];
    create_all(&store, &[xid]).await;
    let owner = Owner { node: 1, epoch: 2 };
    assert_eq!(orphans(&store, owner, 10).await, [xid]);
    assert_eq!(write(&store, vec![Write::Advance(advance(xid, 1))]).await, [Written::Stale]);
    write_done(&store, vec![Write::Advance(Advance { owner: Some(owner), ..advance(xid, 2) })]).await;
    assert_eq!(get(&store, xid).await.and_then(|record| record.owner), Some(owner));
}

async fn log<S: Store>(store: &S, xids: &[Xid], rows: impl Fn(usize) -> Vec<CompensationWrite>) {
    create_all(store, xids).await;
    let advances = xids.iter().enumerate();
    let advances = advances.map(|(index, xid)| Advance { compensations: rows(index), ..advance(*xid, 1) });
    write_done(store, advances.map(Write::Advance).collect()).await;
}

/// Two scanners never get the same one, and a scanner that dies does not keep it.
pub async fn due_compensations_are_claimed_once_until_their_lease_ends<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    // The last is due first, and one is not due yet.
    let due = [START.after_ms(1), START.after_ms(500), START];
    log(&store, &xids, |index| vec![CompensationWrite { next_retry_time: due[index], ..compensation(0, "stock") }])
        .await;
    let at = |ms| claim(&["stock"], START.after_ms(ms), 10);
    assert_eq!(claimed(&store, at(1)).await, [(xids[2], 0), (xids[0], 0)]);
    assert_eq!(claimed(&store, at(1)).await, []);
    assert_eq!(claimed(&store, at(500)).await, [(xids[1], 0)]);
    assert_eq!(claimed(&store, at(1_000)).await, []);
    assert_eq!(claimed(&store, at(1_001)).await, [(xids[2], 0), (xids[0], 0)]);
    assert_eq!(compensations(&store).await[0].lease_until, START.after_ms(2_001));
}

/// What is put back is free again when it is due; what is done or parked is not claimed any more.
pub async fn a_write_ends_the_lease_of_a_compensation<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(3);
    log(&store, &xids, |_| vec![compensation(0, "stock")]).await;
    assert_eq!(claimed(&store, claim(&["stock"], START, 10)).await.len(), 3);
    let status = [CompensationStatus::Pending, CompensationStatus::Done, CompensationStatus::Failed];
    let writes = xids.iter().zip(status).map(|(xid, status)| {
        let row = CompensationWrite { status, next_retry_time: START.after_ms(5), ..compensation(0, "stock") };
        Write::Advance(Advance { compensations: vec![row], ..advance(*xid, 2) })
    });
    write_done(&store, writes.collect()).await;
    assert_eq!(claimed(&store, claim(&["stock"], START.after_ms(4), 10)).await, []);
    assert_eq!(claimed(&store, claim(&["stock"], START.after_ms(5), 10)).await, [(xids[0], 0)]);
    assert_eq!(claimed(&store, claim(&["stock"], START.after_ms(60_000), 10)).await, [(xids[0], 0)]);
}

/// A service with a million due rows leaves the others their places.
pub async fn each_service_gets_its_share_of_compensations<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(6);
    let service = |index| ["stuck", "stuck", "stuck", "stuck", "coupon", "order"][index];
    log(&store, &xids, |index| vec![compensation(0, service(index))]).await;
    let mut first = claimed(&store, claim(&["stuck", "coupon"], START, 2)).await;
    first.sort_unstable();
    assert_eq!(first, [(xids[0], 0), (xids[1], 0), (xids[4], 0)]);
    assert_eq!(claimed(&store, claim(&["stuck", "coupon"], START, 2)).await, [(xids[2], 0), (xids[3], 0)]);
    assert_eq!(claimed(&store, claim(&["stuck", "coupon"], START, 2)).await, []);
    assert_eq!(claimed(&store, claim(&[], START, 2)).await, []);
    assert_eq!(claimed(&store, claim(&["order"], START, 2)).await, [(xids[5], 0)]);
}

/// Each part narrows the list, which goes on after an id.
pub async fn compensations_are_listed_by_every_part_of_the_query<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    let failed = || CompensationWrite { status: CompensationStatus::Failed, ..compensation(2, "order") };
    log(&store, &xids, |_| vec![compensation(0, "stock"), compensation(1, "coupon"), failed()]).await;
    let find = async |query: CompensationQuery| {
        let rows = store.list_compensations(CompensationQuery { limit: 10, ..query }).await;
        rows.expect("the store is there").iter().map(|row| (row.xid, row.branch)).collect::<Vec<_>>()
    };
    let query = CompensationQuery::default;
    let (a, b) = (xids[0], xids[1]);
    assert_eq!(find(query()).await, [(a, 0), (a, 1), (a, 2), (b, 0), (b, 1), (b, 2)]);
    assert_eq!(find(CompensationQuery { service: Some("coupon".to_owned()), ..query() }).await, [(a, 1), (b, 1)]);
    let failed = CompensationQuery { status: Some(CompensationStatus::Failed), ..query() };
    assert_eq!(find(failed.clone()).await, [(a, 2), (b, 2)]);
    assert_eq!(find(CompensationQuery { xid: Some(b), ..failed }).await, [(b, 2)]);
    let page = store.list_compensations(CompensationQuery { limit: 4, ..query() }).await.expect("it is there");
    assert_eq!(page.len(), 4);
    assert_eq!(find(CompensationQuery { after_id: page[3].id, ..query() }).await, [(b, 1), (b, 2)]);
}

/// Epochs count the starts of a node, and each beat tells the store's time.
pub async fn each_start_of_a_node_has_its_own_epoch<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let mut epochs = Vec::new();
    for node in [1, 1, 2, 1] {
        epochs.push(store.beat(node, None, 1_000).await.expect("the store is there").epoch);
    }
    assert_eq!(epochs, [1, 2, 1, 3]);
    bench.clock().pass_ms(5);
    let beat = store.beat(1, Some(3), 1_000).await.expect("the store is there");
    assert_eq!((beat.epoch, beat.now), (3, START.after_ms(5)));
}

/// An old start that comes back from a long sleep learns that it is over, and its beat renews nothing.
pub async fn a_superseded_start_is_told_so<B: Bench>(bench: &B) {
    let store = bench.open().await;
    store.beat(2, None, 1_000).await.expect("the store is there");
    store.beat(2, None, 1_000).await.expect("the store is there");
    let xid = xids(1)[0];
    write_done(&store, vec![Write::Create(Create { owner: Owner { node: 2, epoch: 2 }, ..create(xid) })]).await;
    let old = store.beat(2, Some(1), 60_000).await;
    assert!(matches!(old, Err(Error::Superseded { node: 2, epoch: 1 })), "{old:?}");
    bench.clock().pass_ms(1_000);
    assert_eq!(orphans(&store, OWNER, 10).await, [xid]);
    assert!(store.beat(2, Some(2), 1_000).await.is_ok());
}

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
