//! Batches on SQLite.

use pb::Operation::{Cancel, Confirm, Try};

use super::*;
use crate::fixture::{answers, call, done, refused, shelf, shop, shop_database};

#[tokio::test]
async fn a_batch_answers_in_order() {
    let (_folder, pool) = shop_database().await;
    let executor = shop(&pool).executor().await.unwrap();
    let calls = vec![
        call(3, Try, 4),
        call(1, Try, 7),
        call(2, Cancel, 7),
        call(1, Try, 7),
        call(1, Confirm, 7),
        call(4, Try, -1),
    ];
    let not_now = reply::Answer::NotNowMs(7);
    let expected = [refused("sold out"), done("held"), done(""), done("held"), done(""), not_now];
    assert_eq!(answers(executor.run(calls).await), expected);
    assert_eq!(shelf(&pool).await, (3, 0));
}
