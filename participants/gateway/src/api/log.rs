//! Who did what, for operators.

use tercet_proto::log::v1 as pb;

use crate::route::{Answer, Call, Operator, Reply};
use crate::schema::{Entries, Nothing};
use crate::services::Told as _;
use crate::wire::log::{Log, LogFilter};

pub(crate) async fn search(call: Call<Operator, LogFilter, Nothing>) -> Answer<Log> {
    let LogFilter { user_id, coupon_id, shop_id, order_id, operator, from_ms, before_ms, limit, after } = call.params;
    let request = pb::SearchRequest {
        user_id: user_id.map_or(0, |id| id.0),
        coupon_id: coupon_id.map_or(0, |id| id.0),
        shop_id: shop_id.map(|shop| shop.0),
        order_id: order_id.map_or(0, |id| id.0),
        operator: operator.unwrap_or_default(),
        from_ms: from_ms.unwrap_or_default(),
        before_ms: before_ms.unwrap_or_default(),
        limit: Entries::number(limit),
        after: after.unwrap_or_default(),
    };
    let request = call.context.request(request);
    let found = call.context.services.log.clone().search(request).await.told()?;
    Ok(Reply::ok(found.into()))
}
