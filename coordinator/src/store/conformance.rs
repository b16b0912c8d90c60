//! What every store must do, one rule a function. A new store is finished when it passes them all.
//!
//! A store's tests implement [`Bench`] and call [`store_conformance!`](crate::store_conformance), which makes one test
//! of each rule.

mod auditing;
mod claiming;
mod keeping;
mod writing;

use std::future::Future;

use bytes::Bytes;
use tercet_core::{Timestamp, Xid, XidSource};

use super::{
    Advance, AuditQuery, ClaimCompensations, Compensation, CompensationQuery, CompensationStatus, CompensationWrite,
    Create, Error, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, Key, ListQuery, Lookup, Owner, Purge, Record, Store,
    Write, Written,
};
use crate::clock::ManualClock;

pub use auditing::*;
pub use claiming::*;
pub use keeping::*;
pub use writing::*;

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
            a_lease_ends_with_the_start_that_took_it,
            a_write_ends_the_lease_of_a_compensation,
            each_service_gets_its_share_of_compensations,
            a_claimed_compensation_comes_with_its_transaction,
            compensations_are_listed_by_every_part_of_the_query,
            what_is_parked_is_listed_once_and_by_age,
            an_audit_row_is_written_with_its_change_or_not_at_all,
            audit_rows_are_chained_in_the_order_of_their_writing,
            audit_rows_are_listed_by_every_part_of_the_query,
            each_start_of_a_node_has_its_own_epoch,
            a_beat_counts_compensations,
            a_beat_tells_the_oldest_compensation,
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
        audit: None,
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
    let services = services.iter().map(|service| ((*service).to_owned(), limit)).collect();
    ClaimCompensations { now, lease_until: now.after_ms(1_000), owner: OWNER, services }
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
    store.list(query).await.expect("the store is there")
}

async fn claimed<S: Store>(store: &S, claim: ClaimCompensations) -> Vec<(Xid, u16)> {
    let rows = store.claim_compensations(claim).await.expect("the store is there");
    assert!(rows.iter().all(|row| row.record.xid == row.compensation.xid));
    rows.iter().map(|row| (row.compensation.xid, row.compensation.branch)).collect()
}

async fn orphans<S: Store>(store: &S, owner: Owner, limit: u32) -> Vec<Xid> {
    let records = store.claim_orphans(owner, limit).await.expect("the store is there");
    assert!(records.iter().all(|record| record.owner == Some(owner)));
    records.iter().map(|record| record.xid).collect()
}

async fn purge<S: Store>(store: &S, older_than: Timestamp, keep_max: u64, limit: u32) -> u64 {
    store.purge(Purge { older_than, keep_max, limit }).await.expect("the store is there")
}

async fn log<S: Store>(store: &S, xids: &[Xid], rows: impl Fn(usize) -> Vec<CompensationWrite>) {
    create_all(store, xids).await;
    let advances = xids.iter().enumerate();
    let advances = advances.map(|(index, xid)| Advance { compensations: rows(index), ..advance(*xid, 1) });
    write_done(store, advances.map(Write::Advance).collect()).await;
}
