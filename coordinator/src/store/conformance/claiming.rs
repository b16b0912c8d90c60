//! The rules for what is listed and claimed, and by whom.

use super::*;

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

/// What a start of a node had leased when it died is due for the next one at once, and for no other node.
pub async fn a_lease_ends_with_the_start_that_took_it<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    log(&store, &xids, |_| vec![compensation(0, "stock")]).await;
    let by = |node, epoch| ClaimCompensations { owner: Owner { node, epoch }, ..claim(&["stock"], START, 10) };
    assert_eq!(claimed(&store, by(1, 3)).await.len(), 2);
    assert_eq!(claimed(&store, by(1, 3)).await, []);
    assert_eq!(claimed(&store, by(2, 4)).await, []);
    assert_eq!(claimed(&store, by(1, 2)).await, []);
    assert_eq!(claimed(&store, by(1, 4)).await, [(xids[0], 0), (xids[1], 0)]);
    assert_eq!(claimed(&store, by(1, 4)).await, []);
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
    // Each as many as it has room for.
    let own = ClaimCompensations {
        services: vec![("stuck".to_owned(), 1), ("order".to_owned(), 0), ("coupon".to_owned(), 7)],
        ..claim(&[], START.after_ms(1_000), 0)
    };
    let mut own = claimed(&store, own).await;
    own.sort_unstable();
    assert_eq!(own, [(xids[0], 0), (xids[4], 0)]);
}

/// Whoever carries it out needs no second question.
pub async fn a_claimed_compensation_comes_with_its_transaction<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    log(&store, &xids, |_| vec![compensation(0, "stock"), compensation(1, "coupon")]).await;
    let claimed = store.claim_compensations(claim(&["stock", "coupon"], START, 10)).await.expect("the store is there");
    assert_eq!(claimed.len(), 4);
    for one in claimed {
        assert_eq!(Some(one.record), get(&store, one.compensation.xid).await);
        assert_eq!(one.compensation.lease_until, START.after_ms(1_000));
    }
}

/// Each part narrows the list, which goes on after an id.
pub async fn compensations_are_listed_by_every_part_of_the_query<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let xids = xids(2);
    let failed = || CompensationWrite { status: CompensationStatus::Failed, ..compensation(2, "order") };
    log(&store, &xids, |_| vec![compensation(0, "stock"), compensation(1, "coupon"), failed()]).await;
    let find = async |query: CompensationQuery| {
        let rows = store.list(CompensationQuery { limit: 10, ..query }).await;
        rows.expect("the store is there").iter().map(|row| (row.xid, row.branch)).collect::<Vec<_>>()
    };
    let query = CompensationQuery::default;
    let (a, b) = (xids[0], xids[1]);
    assert_eq!(find(query()).await, [(a, 0), (a, 1), (a, 2), (b, 0), (b, 1), (b, 2)]);
    assert_eq!(find(CompensationQuery { service: Some("coupon".to_owned()), ..query() }).await, [(a, 1), (b, 1)]);
    let failed = CompensationQuery { status: Some(CompensationStatus::Failed), ..query() };
    assert_eq!(find(failed.clone()).await, [(a, 2), (b, 2)]);
    assert_eq!(find(CompensationQuery { xid: Some(b), ..failed }).await, [(b, 2)]);
    let page = store.list(CompensationQuery { limit: 4, ..query() }).await.expect("it is there");
    assert_eq!(page.len(), 4);
    assert_eq!(find(CompensationQuery { after_id: page[3].id, ..query() }).await, [(b, 1), (b, 2)]);
    assert_eq!(find(CompensationQuery { after_id: u64::MAX, ..query() }).await, []);
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

/// A beat tells how much work each service has in the compensation log, whatever became of it meanwhile.
pub async fn a_beat_counts_compensations<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let started = store.beat(1, None, 1_000).await.expect("the store is there");
    assert_eq!(started.backlogs, []);
    let counts = async || {
        let beat = store.beat(1, Some(started.epoch), 1_000).await.expect("the store is there");
        let counts = beat.backlogs.into_iter().map(|one| (one.service, one.pending, one.failed));
        let mut counts: Vec<_> = counts.collect();
        counts.sort_unstable();
        counts
    };
    let [pending, done, failed] = [CompensationStatus::Pending, CompensationStatus::Done, CompensationStatus::Failed];
    let xids = xids(5);
    let of = |status, service| vec![CompensationWrite { status, ..compensation(0, service) }];
    let services = ["stock", "stock", "stock", "order", "order"];
    log(&store, &xids, |index| of([pending, failed, done][index / 2], services[index])).await;
    let named = |service: &str, pending, failed| (service.to_owned(), pending, failed);
    assert_eq!(counts().await, [named("order", 0, 1), named("stock", 2, 1)]);
    // Put back, parked, done, taken up again, and left as it was.
    let next = [pending, failed, done, failed, done];
    let writes = (0..5).map(|at| Advance { compensations: of(next[at], services[at]), ..advance(xids[at], 2) });
    write_done(&store, writes.map(Write::Advance).collect()).await;
    assert_eq!(counts().await, [named("order", 0, 1), named("stock", 1, 1)]);
    write_done(&store, vec![Write::Advance(Advance { compensations: of(pending, "order"), ..end(xids[3], 3, START) })])
        .await;
    assert_eq!(counts().await, [named("order", 1, 0), named("stock", 1, 1)]);
    assert_eq!(purge(&store, Timestamp::MAX, 0, 10).await, 1);
    assert_eq!(counts().await, [named("stock", 1, 1)]);
}

/// A beat tells since when each service's oldest compensation is pending, and when the first is due.
pub async fn a_beat_tells_the_oldest_compensation<B: Bench>(bench: &B) {
    let store = bench.open().await;
    let started = store.beat(1, None, 1_000).await.expect("the store is there");
    let times = async || {
        let beat = store.beat(1, Some(started.epoch), 1_000).await.expect("the store is there");
        beat.backlogs.into_iter().find(|one| one.service == "stock").map(|one| (one.oldest, one.due))
    };
    let xids = xids(3);
    let due = |ms| CompensationWrite { next_retry_time: START.after_ms(ms), ..compensation(0, "stock") };
    let failed = |ms| CompensationWrite { status: CompensationStatus::Failed, ..due(ms) };
    log(&store, &xids[..1], |_| vec![due(500)]).await;
    bench.clock().pass_ms(100);
    // Younger, and due before it; the one of another service is nobody's business.
    log(&store, &xids[1..2], |_| vec![due(300)]).await;
    log(&store, &xids[2..], |_| vec![CompensationWrite { service: "order".into(), ..due(1) }]).await;
    let at = |ms| Some(START.after_ms(ms));
    assert_eq!(times().await, Some((at(0), at(300))));
    let park = |xid, ms| Write::Advance(Advance { compensations: vec![failed(ms)], ..advance(xid, 2) });
    write_done(&store, vec![park(xids[0], 500)]).await;
    assert_eq!(times().await, Some((at(100), at(300))), "what is parked is not pending");
    write_done(&store, vec![park(xids[1], 300)]).await;
    assert_eq!(times().await, Some((None, None)));
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
