//! The rows of redemptions: which transaction carries one out, and what may become of it where it stands.

use super::*;
use crate::store::redemptions::{Change, Redemption, State};

type Honourer = HonourIt<Sqlite>;
type TakerBack = TakeItBack<Sqlite>;
type Ower = Owed<Sqlite>;

const DUE_MS: i64 = 5;

/// Those of slices are 0.
fn xid(last: u8) -> Xid {
    let mut bytes = [0; 16];
    bytes[15] = last;
    Xid::new(bytes)
}

/// User 7's first redemption, which is kept.
async fn kept(shards: &Shards<Sqlite>) {
    assert!(changed(shards, Change::Keep(&row(1, "k"), 0)).await, "it is the first");
}

/// One of an order of user 7.
fn row(number: i64, key: &str) -> Redemption {
    Redemption::kept(id(number, 7), 7, (9, 100), key.to_owned())
}

async fn changed(shards: &Shards<Sqlite>, change: Change<'_>) -> bool {
    let redemption_id = if let Change::Keep(row, _) = change { row.redemption_id } else { id(1, 7) };
    let epoch = shards.slots().view().epoch(0);
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    Sqlite::change(&mut connection, redemption_id, change, epoch).await.expect("the statements are sound")
}

/// Puts all of them there by hand.
async fn put(shards: &Shards<Sqlite>, state: State) {
    let by_hand = "UPDATE redemption SET state = $1, refunded_ms = iif($1 IN (4, 6), 1, NULL),
        refund_xid = iif($1 IN (4, 6), $2, NULL)";
    sqlx::query(by_hand)
        .bind(state as i64)
        .bind(xid(0).to_string())
        .execute(shards.home())
        .await
        .expect("the table is there");
}

async fn stands(shards: &Shards<Sqlite>) -> State {
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    let found = Sqlite::standings(&mut connection, &[id(1, 7)]).await.expect("the table is there");
    found[0].1
}

fn honour(attempt: i64) -> Vec<Op<pb::Honour>> {
    slice([pb::Honour { redemption_id: id(1, 7), attempt }])
}

#[tokio::test]
async fn a_redemption_is_carried_out_by_the_transaction_that_it_waits_for_alone() {
    let shards = coupons().await;
    kept(&shards).await;
    assert_refused(&run!(shards, Honourer.try_, honour(1))[0], "SYSTEM_BUSY");
    assert_eq!(run!(shards, Honourer.try_, honour(0)), [Answer::done()]);
    run!(shards, Honourer.cancel, honour(0));
    assert_eq!(stands(&shards).await, State::Kept);
    assert!(changed(&shards, Change::Again { attempt: 0, due_after_ms: 0 }).await);
    assert_refused(&run!(shards, Honourer.try_, honour(0))[0], "SYSTEM_BUSY");
    assert_eq!(run!(shards, Honourer.try_, honour(1)), [Answer::done()]);
    // One that comes late takes nothing from the next.
    run!(shards, Honourer.cancel, honour(0));
    assert_eq!(stands(&shards).await, State::Submitted);
    run!(shards, Honourer.confirm, honour(1));
    assert_eq!(stands(&shards).await, State::Done);
}

#[tokio::test]
async fn what_becomes_of_a_redemption_hangs_on_where_it_stands() {
    use State::{Done, GivenUp, Kept, Refunded, Refunding, Refused, Submitted};
    let shards = coupons().await;
    let changes: [(Change<'_>, bool, &[State]); 12] = [
        (Change::Refuse { attempt: 0, refusal: "no" }, false, &[Kept, Submitted]),
        (Change::Refuse { attempt: 1, refusal: "no" }, false, &[]),
        (Change::Again { attempt: 0, due_after_ms: 0 }, false, &[Kept, Submitted]),
        (Change::Again { attempt: 1, due_after_ms: 0 }, false, &[]),
        (Change::GiveUp("late"), false, &[Kept]),
        (Change::Promise, false, &[Kept, Submitted]),
        (Change::Forget, false, &[Kept]),
        (Change::Forget, true, &[]),
        (Change::TakenBack(xid(0)), false, &[Refunding]),
        (Change::TakenBack(xid(1)), false, &[]),
        (Change::Take { due_ms: DUE_MS, due_after_ms: 0 }, false, &[Kept, GivenUp, Refunding]),
        (Change::Take { due_ms: DUE_MS + 1, due_after_ms: 0 }, false, &[]),
    ];
    for (change, is_promised, from) in changes {
        for state in [Kept, Submitted, Done, Refused, Refunded, GivenUp, Refunding] {
            sqlx::query("DELETE FROM redemption").execute(shards.home()).await.expect("the table is there");
            kept(&shards).await;
            put(&shards, state).await;
            let by_hand = sqlx::query("UPDATE redemption SET promised = ?, due_ms = ?").bind(is_promised).bind(DUE_MS);
            by_hand.execute(shards.home()).await.expect("the table is there");
            assert_eq!(changed(&shards, change).await, from.contains(&state), "{change:?} of {state:?}");
        }
    }
}

#[tokio::test]
async fn what_was_promised_and_is_refused_is_owed() {
    let shards = coupons().await;
    for (is_promised, wanted) in [(false, State::Refused), (true, State::GivenUp)] {
        sqlx::query("DELETE FROM redemption").execute(shards.home()).await.expect("the table is there");
        kept(&shards).await;
        if is_promised {
            assert!(changed(&shards, Change::Promise).await);
        }
        assert!(changed(&shards, Change::Refuse { attempt: 0, refusal: "no" }).await);
        assert_eq!(stands(&shards).await, wanted);
        // Whoever waited for it may be quicker than the cancel.
        run!(shards, Honourer.cancel, honour(0));
        assert_eq!(stands(&shards).await, wanted);
    }
}

#[tokio::test]
async fn what_is_owed_is_taken_once_and_made_good_by_another_redemption_of_its_order() {
    let shards = coupons().await;
    kept(&shards).await;
    put(&shards, State::GivenUp).await;
    let owed = slice([pb::Owed { redemption_id: id(1, 7), user_id: 7, order_id: 100, shop_id: 9 }]);
    assert_eq!(run!(shards, Ower.try_, owed), [Answer::done()]);
    assert_refused(&run!(shards, Ower.try_, owed)[0], "is not given up");
    run!(shards, Ower.cancel, owed);
    assert_eq!(stands(&shards).await, State::GivenUp, "it is to be handed over again");
    assert_eq!(run!(shards, Ower.try_, owed), [Answer::done()]);
    assert!(matches!(run!(shards, Ower.confirm, owed)[..], [Answer::NotNow(_)]));
    assert!(changed(&shards, Change::Keep(&row(2, "l"), 0)).await);
    assert!(matches!(run!(shards, Ower.confirm, owed)[..], [Answer::NotNow(_)]), "that is under way");
    put(&shards, State::Done).await;
    assert_eq!(run!(shards, Ower.confirm, owed), [Answer::done()]);
}

#[tokio::test]
async fn an_order_is_being_taken_back_until_it_is_known_that_nothing_undoes_that() {
    let shards = coupons().await;
    kept(&shards).await;
    put(&shards, State::Done).await;
    let (operator, reason) = ("bob".to_owned(), "broken".to_owned());
    let taken_back = slice([pb::TakeBack { redemption_id: id(1, 7), order_id: 100, operator, reason }]);
    let by = async || -> (Option<String>, Option<String>) {
        let found = sqlx::query_as("SELECT refund_operator, refund_reason FROM redemption").fetch_one(shards.home());
        found.await.expect("the table is there")
    };
    for is_undone in [true, false] {
        assert_eq!(run!(shards, TakerBack.try_, taken_back), [Answer::done()]);
        assert_eq!(stands(&shards).await, State::Refunding);
        assert_eq!(by().await, (Some("bob".to_owned()), Some("broken".to_owned())));
        assert_refused(&run!(shards, TakerBack.try_, taken_back)[0], "NOT_REFUNDABLE");
        if is_undone {
            assert_eq!(run!(shards, TakerBack.cancel, taken_back), [Answer::done()]);
            assert_eq!((stands(&shards).await, by().await), (State::Done, (None, None)));
        }
    }
    assert!(changed(&shards, Change::TakenBack(xid(0))).await);
    assert_eq!(stands(&shards).await, State::Refunded);
    assert_refused(&run!(shards, TakerBack.cancel, taken_back)[0], "NOT_REFUNDABLE");
}
