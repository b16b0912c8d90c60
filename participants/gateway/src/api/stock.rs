//! The stock of products, for operators.

use tercet_proto::stock::v1 as pb;
use tercet_rules::{Invalid, Limit};

use crate::route::{Answer, Call, Operator, Reply};
use crate::schema::Nothing;
use crate::services::Told as _;
use crate::wire::common::given;
use crate::wire::stock::{NewStock, ProductId, ProductStock};

pub(crate) async fn get(call: Call<Operator, ProductId, Nothing>) -> Answer<ProductStock> {
    let request = call.context.request(pb::GetStockRequest { product_id: call.params.product_id.0 });
    let found = call.context.services.stock.clone().get_stock(request).await.told()?;
    Ok(Reply::ok(given(found.stock)?.into()))
}

pub(crate) async fn set(call: Call<Operator, ProductId, NewStock>) -> Answer<ProductStock> {
    let NewStock { units, expected_revision, reason } = call.body;
    let revision = expected_revision.unwrap_or_default();
    let expected_revision =
        i64::try_from(revision).map_err(|_| Invalid::new("expected_revision", Limit::Between(0, i64::MAX)))?;
    let (product_id, operator) = (call.params.product_id.0, call.caller.name);
    let request = pb::SetStockRequest { product_id, units, expected_revision, operator, reason };
    let request = call.context.request(request);
    let set = call.context.services.stock.clone().set_stock(request).await.told()?;
    Ok(Reply::ok(given(set.stock)?.into()))
}
