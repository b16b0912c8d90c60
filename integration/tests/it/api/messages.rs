//! Messages: they go out if, and only if, the sender's own local transaction commits.

use sqlx::Connection as _;
use std::time::Duration;
use tercet::context::Context;
use tercet::fence;
use tercet::xid::Xid;
use tercet_proto::coordinator::v1 as pb;

use super::party::{Party, agrees};
use super::world::{Coordinator, branch, until};

fn message(number: i64) -> pb::Branch {
    pb::Branch { action: "hear".into(), ..branch("shop", number) }
}

fn sender() -> Option<pb::Branch> {
    Some(pb::Branch { action: "send".into(), ..branch("desk", 0) })
}

struct World {
    coordinator: Coordinator,
    desk: Party,
    shop: Party,
}

impl World {
    async fn start() -> Self {
        let coordinator = Coordinator::start().await;
        let desk = Party::join(&coordinator, "desk", agrees).await;
        let shop = Party::join(&coordinator, "shop", agrees).await;
        Self { coordinator, desk, shop }
    }

    async fn prepare(&self, number: i64, query_after: Duration) -> Context {
        let query_after_ms = query_after.as_millis() as u32;
        let receivers = vec![message(number), message(number + 100)];
        let request = pb::PrepareRequest { sender: sender(), receivers, query_after_ms, ..Default::default() };
        let answer = self.coordinator.client().prepare(request).await.expect("it is sound").into_inner();
        let xid = Xid::from_slice(&answer.xid).expect("16 bytes");
        assert_eq!(self.coordinator.get(&answer.xid).await.expect("it is durable").status(), pb::Status::Trying);
        Context { xid, branch: answer.branch, not_after_ms: answer.not_after_ms }
    }

    /// The sender's local transaction, with its fence row.
    async fn commit_locally(&self, context: &Context) -> Result<(), fence::CommitError> {
        let mut connection = self.desk.pool.acquire().await.expect("the pool is open");
        let mut db_tx = connection.begin_with("BEGIN IMMEDIATE").await.expect("nobody holds it for long");
        fence::commit_sender(&mut *db_tx, context).await?;
        sqlx::query("INSERT INTO effect VALUES ('sent', 0)").execute(&mut *db_tx).await.expect("the table is there");
        db_tx.commit().await.map_err(fence::CommitError::Database)
    }

    async fn ends(&self, context: &Context, status: pb::Status) -> pb::TransactionView {
        self.coordinator.reaches(context.xid.as_bytes(), status).await
    }

    async fn rollback(&self, context: &Context) -> pb::TransactionView {
        let xid = bytes::Bytes::copy_from_slice(context.xid.as_bytes());
        let request = pb::RollbackRequest { xid, wait: pb::Wait::Ended.into(), reason: "no".into() };
        let answer = self.coordinator.client().rollback(request).await.expect("it is there");
        answer.into_inner().transaction.expect("an answer has a transaction")
    }
}

const LATER: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_message_whose_sender_commits_is_delivered_to_every_receiver_once() {
    let world = World::start().await;
    let context = world.prepare(1, LATER).await;
    assert!(world.shop.heard().is_empty(), "nothing goes out before the sender has committed");
    world.commit_locally(&context).await.expect("nobody asked");
    let view = world.coordinator.sdk().commit(context.xid, tercet::client::Wait::Ended).await.expect("it is there");
    assert!(view.confirmed().is_ok());
    let mut heard = world.shop.effects().await;
    heard.sort_unstable();
    assert_eq!(heard, [("deliver".to_owned(), 1), ("deliver".to_owned(), 101)]);
    // A second commit of the sender is none.
    let again = world.coordinator.sdk().commit(context.xid, tercet::client::Wait::Ended).await.expect("it is there");
    assert!(again.ended() && world.shop.heard().len() == 2);
}

#[tokio::test]
async fn a_sender_that_never_commits_is_asked_and_can_not_commit_afterwards() {
    let world = World::start().await;
    let context = world.prepare(1, Duration::from_millis(50)).await;
    let view = world.ends(&context, pb::Status::Cancelled).await;
    assert_eq!(view.reason, "desk refused: the local transaction did not commit");
    let refused = world.commit_locally(&context).await;
    assert!(matches!(refused, Err(fence::CommitError::RolledBack(_))), "{refused:?}");
    assert!(world.shop.heard().is_empty() && world.desk.effects().await.is_empty());
    // The word that comes too late is told the truth.
    let view = world.coordinator.sdk().commit(context.xid, tercet::client::Wait::Ended).await.expect("it is there");
    assert!(view.confirmed().is_err());
    assert!(world.shop.heard().is_empty());
}

#[tokio::test]
async fn a_sender_whose_commit_was_lost_is_asked_and_the_message_is_delivered() {
    let world = World::start().await;
    let context = world.prepare(1, Duration::from_millis(300)).await;
    world.commit_locally(&context).await.expect("nobody asked yet");
    world.ends(&context, pb::Status::Confirmed).await;
    assert_eq!(world.shop.effects().await.len(), 2);
}

#[tokio::test]
async fn a_rollback_asks_the_sender_and_does_not_trust_the_word_alone() {
    let world = World::start().await;
    let committed = world.prepare(1, LATER).await;
    world.commit_locally(&committed).await.expect("nobody asked");
    let view = world.rollback(&committed).await;
    assert_eq!(view.status(), pb::Status::Confirmed, "it has committed, whatever the word");
    assert_eq!(world.shop.effects().await.len(), 2);

    let not = world.prepare(2, LATER).await;
    assert_eq!(world.rollback(&not).await.status(), pb::Status::Cancelled);
    let refused = world.commit_locally(&not).await;
    assert!(matches!(refused, Err(fence::CommitError::RolledBack(_))), "{refused:?}");
    assert_eq!(world.shop.effects().await.len(), 2);
}

#[tokio::test]
async fn a_sender_that_is_away_is_asked_when_it_comes_and_after_a_restart() {
    let mut world = World::start().await;
    let lost = world.prepare(1, Duration::from_millis(100)).await;
    world.commit_locally(&lost).await.expect("nobody asked yet");
    world.desk.die().await;
    let never = world.prepare(2, Duration::from_millis(100)).await;
    world.coordinator.kill().await;
    world.coordinator.start_again().await;
    until("the question to be due", async || {
        let view = world.coordinator.get(never.xid.as_bytes()).await.expect("it is there");
        (world.coordinator.statistics().await.now_ms > view.deadline_at_ms).then_some(())
    })
    .await;
    assert_eq!(world.coordinator.get(never.xid.as_bytes()).await.expect("it is there").status(), pb::Status::Trying);
    world.desk.come(&world.coordinator).await;
    world.ends(&lost, pb::Status::Confirmed).await;
    world.ends(&never, pb::Status::Cancelled).await;
    assert_eq!(world.shop.effects().await.len(), 2);
}
