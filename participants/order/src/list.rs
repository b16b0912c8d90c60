//! A shop's orders, page by page: the highest number first, since a shop counts up.
//!
//! Callers see six statuses and a row has one of five: what is being refunded, is refunded, or was closed after it had
//! been placed stands at one. A page looks at so many rows at most, and says where the next one goes on.

use tercet::participant::DbTx;
use tercet_proto::order::v1 as pb;
use tercet_rules::{Fault, Invalid, Limit, opened, sealed};

use crate::api::{database, id, seen, view};
use crate::limits::{LOOK, LOOKED_AT_MAX, SHOP_PAGE_DEFAULT, SHOP_PAGE_MAX};
use crate::store::{Status, Store};

/// The statuses of rows that may be seen as this one.
fn rows(wanted: pb::OrderStatus) -> &'static [Status] {
    match wanted {
        pb::OrderStatus::Unspecified => &Status::ALL,
        pb::OrderStatus::Frozen => &[Status::Frozen],
        pb::OrderStatus::Placed => &[Status::Placed],
        pb::OrderStatus::Paid => &[Status::Paid],
        pb::OrderStatus::Closed => &[Status::Closed, Status::Refunded],
        pb::OrderStatus::Refunding | pb::OrderStatus::Refunded => &[Status::Refunded],
    }
}

fn limit(limit: u32) -> Result<u32, Invalid> {
    match limit {
        0 => Ok(SHOP_PAGE_DEFAULT),
        1..=SHOP_PAGE_MAX => Ok(limit),
        _ => Err(Invalid::new("limit", Limit::Between(1, SHOP_PAGE_MAX.into()))),
    }
}

/// A page of a shop's orders.
pub(crate) async fn page<Db: Store>(
    db_tx: &mut DbTx<Db>,
    request: &pb::ListOrdersRequest,
) -> Result<pb::ListOrdersResponse, Fault> {
    let shop_id = id("shop_id", request.shop_id)?;
    let limit = limit(request.limit)?;
    let unlisted = |_| Invalid::new("status", Limit::Listed);
    let wanted = pb::OrderStatus::try_from(request.status).map_err(unlisted)?;
    let list = format!("orders of shop {shop_id}");
    let mut before = match opened("after", &list, &request.after)? {
        "" => i64::MAX,
        after => after.parse().map_err(|_| Invalid::new("after", Limit::Page))?,
    };
    let statuses = rows(wanted);
    // Rows that are seen as nothing else are all of the page.
    let (look, mut rounds) = if statuses.contains(&Status::Refunded) && wanted != pb::OrderStatus::Unspecified {
        (LOOK, LOOKED_AT_MAX / (LOOK * statuses.len() as u32))
    } else {
        (limit, 1)
    };
    let (mut orders, mut is_more) = (Vec::new(), true);
    while is_more && rounds > 0 && orders.len() < limit as usize {
        let mut found = Db::of_shop(db_tx, shop_id, statuses, (before, look)).await.map_err(database)?;
        found.sort_unstable_by_key(|order| std::cmp::Reverse(order.key.order_id));
        is_more = found.len() >= look as usize;
        // Beyond it one of the statuses may have more than was read.
        found.truncate(look as usize);
        let mut left = found.iter();
        while orders.len() < limit as usize
            && let Some(order) = left.next()
        {
            before = order.key.order_id;
            if wanted == pb::OrderStatus::Unspecified || seen(order) == wanted {
                orders.push(view(order));
            }
        }
        is_more |= left.len() > 0;
        rounds -= 1;
    }
    let next = if is_more { sealed(&list, &before.to_string()) } else { String::new() };
    Ok(pb::ListOrdersResponse { orders, next })
}

#[cfg(test)]
mod tests {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;
    use tercet_rules::Code;

    use super::*;
    use crate::conformance::basket;
    use crate::store::{Key, Move, Order};

    const SHOP: i64 = 3;

    /// Orders 1 to 7 of a shop: frozen, placed, closed, paid, and refunded after they were placed, paid, or not yet
    /// for good; and one of another shop.
    async fn orders() -> sqlx::SqlitePool {
        let options = SqlitePoolOptions::new().max_connections(1);
        let pool = options.connect("sqlite::memory:").await.expect("memory is there");
        Sqlite::migrate(&pool).await.expect("the schema is sound");
        let key = |order_id| Key { shop_id: if order_id == 8 { 4 } else { SHOP }, order_id };
        let order = |order_id| Order { key: key(order_id), ..basket(order_id, None) };
        let step = |(order_id, from, to)| Move { key: key(order_id), from, to };
        let mut connection = pool.acquire().await.expect("the pool is open");
        Sqlite::insert(&mut connection, &[1, 2, 3, 4, 5, 6, 7, 8].map(order)).await.expect("they are new");
        use Status::{Closed, Frozen, Paid, Placed, Refunded};
        for moves in [
            &[(2, Frozen, Placed), (3, Frozen, Closed), (4, Frozen, Paid), (5, Frozen, Placed), (6, Frozen, Paid)][..],
            &[(7, Frozen, Paid), (8, Frozen, Placed)],
            &[(5, Placed, Refunded), (6, Paid, Refunded), (7, Paid, Refunded)],
        ] {
            let moves: Vec<Move> = moves.iter().copied().map(step).collect();
            Sqlite::advance(&mut connection, &moves).await.expect("they stand there");
        }
        Sqlite::end_refunds(&mut connection, &[(key(5), true), (key(6), true)]).await.expect("they are refunded");
        drop(connection);
        pool
    }

    fn request(status: pb::OrderStatus, limit: u32, after: String) -> pb::ListOrdersRequest {
        pb::ListOrdersRequest { shop_id: SHOP, status: status.into(), limit, after }
    }

    #[tokio::test]
    async fn pages_of_a_shop_are_the_whole_and_each_status_has_its_own() {
        let pool = orders().await;
        let mut connection = pool.acquire().await.expect("the pool is open");
        for (status, wanted) in [
            (pb::OrderStatus::Unspecified, &[7, 6, 5, 4, 3, 2, 1][..]),
            (pb::OrderStatus::Frozen, &[1]),
            (pb::OrderStatus::Placed, &[2]),
            (pb::OrderStatus::Closed, &[5, 3]),
            (pb::OrderStatus::Paid, &[4]),
            (pb::OrderStatus::Refunded, &[6]),
            (pb::OrderStatus::Refunding, &[7]),
        ] {
            for limit in 1..=8 {
                let (mut found, mut after) = (Vec::new(), String::new());
                loop {
                    let asked = page::<Sqlite>(&mut connection, &request(status, limit, after)).await;
                    let told = asked.expect("it is a page");
                    assert!(told.orders.len() <= limit as usize);
                    found.extend(told.orders.iter().map(|order| order.order_id));
                    after = told.next;
                    if after.is_empty() {
                        break;
                    }
                }
                assert_eq!(found, *wanted, "{status:?} by {limit}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_page_is_refused_by_field() {
        let pool = orders().await;
        let mut connection = pool.acquire().await.expect("the pool is open");
        let all = || request(pb::OrderStatus::Unspecified, 2, String::new());
        let next = page::<Sqlite>(&mut connection, &all()).await.expect("it is a page").next;
        for (field, request) in [
            ("shop_id", pb::ListOrdersRequest { shop_id: 0, ..all() }),
            ("limit", pb::ListOrdersRequest { limit: 101, ..all() }),
            ("status", pb::ListOrdersRequest { status: 77, ..all() }),
            ("after", pb::ListOrdersRequest { after: "7".to_owned(), ..all() }),
            // That of another shop.
            ("after", pb::ListOrdersRequest { after: next, shop_id: 4, ..all() }),
        ] {
            let fault = page::<Sqlite>(&mut connection, &request).await.expect_err("it is none");
            assert_eq!((fault.code, fault.argument("field")), (Code::Invalid, Some(field)));
        }
    }
}
