//! The log over gRPC.

use sqlx::Pool;
use tercet_proto::log::v1 as pb;
use tercet_proto::log::v1::business_log_server::BusinessLog;
use tercet_rules::{Code, Fault, Invalid, Limit};
use tonic::{Request, Response, Status};

use crate::limits::{OPERATOR_BYTES_MAX, PAGE_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::store::{Search, Store};

/// The service's routes.
#[derive(Debug)]
pub struct Api<Db: Store> {
    pool: Pool<Db>,
}

impl<Db: Store> Api<Db> {
    /// Over the log of this database.
    pub const fn new(pool: Pool<Db>) -> Self {
        Self { pool }
    }

    async fn find(&self, search: &Search) -> sqlx::Result<Vec<pb::Entry>> {
        Db::search(&mut *self.pool.acquire().await?, search).await
    }
}

#[tonic::async_trait]
impl<Db: Store> BusinessLog for Api<Db> {
    async fn search(&self, request: Request<pb::SearchRequest>) -> Result<Response<pb::SearchResponse>, Status> {
        let search = search(request.into_inner()).map_err(|error| Fault::from(error).status())?;
        let mut entries = self.find(&search).await.map_err(|error| {
            tracing::error!(%error, "the database of the business log");
            Code::SystemBusy.fault([]).status()
        })?;
        let mut whole = entries.len() < search.limit as usize;
        let mut bytes = 0;
        let too_large = entries.iter().position(|entry| {
            let full = bytes >= PAGE_BYTES_MAX;
            bytes += entry.before.len() + entry.after.len();
            full
        });
        if let Some(at) = too_large {
            entries.truncate(at);
            whole = false;
        }
        let next = entries.last().filter(|_| !whole).map(|last| format!("{}:{}", last.at_ms, last.log_id));
        Ok(Response::new(pb::SearchResponse { entries, next: next.unwrap_or_default() }))
    }
}

fn search(request: pb::SearchRequest) -> Result<Search, Invalid> {
    let pb::SearchRequest { user_id, coupon_id, shop_id, order_id, operator, from_ms, before_ms, limit, after } =
        request;
    let order = match (shop_id, order_id) {
        (None, 0) => None,
        (Some(shop_id), 1..) => Some((shop_id, order_id)),
        (None, _) => return Err(Invalid::new("shop_id", Limit::Given)),
        (Some(_), _) => return Err(Invalid::new("order_id", Limit::Given)),
    };
    if operator.len() > OPERATOR_BYTES_MAX {
        return Err(Invalid::new("operator", Limit::Bytes(0, OPERATOR_BYTES_MAX)));
    }
    let limit = match limit {
        0 => PAGE_DEFAULT,
        1..=PAGE_MAX => limit,
        _ => return Err(Invalid::new("limit", Limit::Between(1, PAGE_MAX.into()))),
    };
    let page = || Invalid::new("after", Limit::Page);
    let mut before = (if before_ms > 0 { before_ms - 1 } else { i64::MAX }, i64::MAX);
    if !after.is_empty() {
        let (at_ms, log_id) = after.split_once(':').ok_or_else(page)?;
        let place = (at_ms.parse().map_err(|_| page())?, log_id.parse().map_err(|_| page())?);
        before = before.min(place);
    }
    Ok(Search { user_id, coupon_id, order, operator, from_ms, before, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_where_the_one_before_ended_and_within_the_bounds() {
        let request =
            |before_ms, after: &str| pb::SearchRequest { before_ms, after: after.into(), ..Default::default() };
        let found = |before_ms, after| search(request(before_ms, after)).map(|search| search.before);
        assert_eq!(found(0, ""), Ok((i64::MAX, i64::MAX)));
        assert_eq!(found(10, ""), Ok((9, i64::MAX)));
        assert_eq!(found(10, "5:3"), Ok((5, 3)));
        assert_eq!(found(10, "10:3"), Ok((9, i64::MAX)), "a page of a wider search does not widen this one");
        for wrong in ["5", "5:", "x:3", "5:3:1"] {
            assert_eq!(found(0, wrong), Err(Invalid::new("after", Limit::Page)), "{wrong}");
        }
    }

    #[test]
    fn an_order_is_asked_for_by_its_shop_and_its_number() {
        let asked = |shop_id, order_id| {
            let request = pb::SearchRequest { shop_id, order_id, ..Default::default() };
            search(request).map(|search| search.order)
        };
        assert_eq!((asked(None, 0), asked(Some(9), 7)), (Ok(None), Ok(Some((9, 7)))));
        assert_eq!(asked(Some(0), 7), Ok(Some((0, 7))), "one of one thing");
        assert_eq!(asked(None, 7), Err(Invalid::new("shop_id", Limit::Given)));
        assert_eq!(asked(Some(9), 0), Err(Invalid::new("order_id", Limit::Given)));
    }

    #[test]
    fn a_request_past_a_limit_is_named() {
        let limit = search(pb::SearchRequest { limit: PAGE_MAX + 1, ..Default::default() });
        assert_eq!(limit, Err(Invalid::new("limit", Limit::Between(1, PAGE_MAX.into()))));
        let operator = search(pb::SearchRequest { operator: "x".repeat(65), ..Default::default() });
        assert_eq!(operator, Err(Invalid::new("operator", Limit::Bytes(0, OPERATOR_BYTES_MAX))));
    }
}
