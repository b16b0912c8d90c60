//! The stock of products over gRPC, for whoever keeps the warehouse. What transactions take goes through the service's
//! actions, and the coupons of templates are set by the issuing service.

use sqlx::Pool;
use tercet::conserve::Change as Moved;
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_proto::events::v1::OperatorChange;
use tercet_proto::stock::v1 as pb;
use tercet_proto::stock::v1::stocks_server::Stocks;
use tercet_rules::{Basis, Code, Fault, Invalid, Limit, text};
use tonic::{Request, Response, Status};

use crate::store::{Level, Store};
use crate::{OPERATOR_BYTES_MAX, REASON_BYTES_MAX, TEMPLATE_ITEMS, UNITS_MAX, units};

/// The service's routes.
#[derive(Debug)]
pub(crate) struct Api<Db: Store> {
    pool: Pool<Db>,
    outbox: Outbox,
}

fn database(error: sqlx::Error) -> Fault {
    tracing::error!(%error, "the database of the stock");
    Code::SystemBusy.fault([])
}

fn within(field: &str, value: i64, least: i64, most: i64) -> Result<i64, Invalid> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(Invalid::new(field, Limit::Between(least, most))) }
}

fn product(product_id: i64) -> Result<i64, Invalid> {
    within("product_id", product_id, 1, TEMPLATE_ITEMS - 1)
}

fn shown(level: &Level) -> pb::ProductStock {
    let &Level { item, free, reserved, issued, sequence, .. } = level;
    pb::ProductStock { product_id: item, units: level.total(), free, reserved, issued, revision: sequence }
}

fn state(level: &Level) -> String {
    let &Level { free, reserved, issued, .. } = level;
    serde_json::json!({ "units": level.total(), "free": free, "reserved": reserved, "issued": issued }).to_string()
}

impl<Db: Store> Api<Db> {
    pub(crate) const fn new(pool: Pool<Db>, outbox: Outbox) -> Self {
        Self { pool, outbox }
    }

    async fn find(&self, product_id: i64) -> Result<pb::ProductStock, Fault> {
        let product_id = product(product_id)?;
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let found = Db::levels(&mut connection, &[product_id]).await.map_err(database)?;
        let missing = || Code::NotFound.fault([("what", "product".to_owned()), ("id", product_id.to_string())]);
        found.first().map(shown).ok_or_else(missing)
    }

    async fn set(&self, request: &pb::SetStockRequest) -> Result<pb::SetStockResponse, Fault> {
        let product_id = product(request.product_id)?;
        let total = within("units", request.units, 0, UNITS_MAX)?;
        let revision = within("expected_revision", request.expected_revision, 0, i64::MAX - 1)?;
        text("operator", &request.operator, OPERATOR_BYTES_MAX)?;
        text("reason", &request.reason, REASON_BYTES_MAX)?;
        let mut db_tx = self.pool.begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        // What does not exist can not be locked.
        Db::add(&mut db_tx, &[(product_id, 0)]).await.map_err(database)?;
        let found = Db::levels(&mut db_tx, &[product_id]).await.map_err(database)?;
        let Some(before) = found.first() else { return Err(database(sqlx::Error::RowNotFound)) };
        if before.sequence == revision + 1 && before.total() == total {
            return Ok(pb::SetStockResponse { stock: Some(shown(before)), changed: false });
        }
        if before.sequence != revision {
            return Err(Code::Conflict.fault([("revision", before.sequence.to_string())]));
        }
        let taken = before.reserved + before.issued;
        if total < taken {
            return Err(Invalid::new("units", Limit::AtLeast(Basis::TakenByOrders, taken)).into());
        }
        let free = total - before.total();
        let after = Level { free: before.free + free, sequence: revision + 1, ..*before };
        Db::supply(&mut db_tx, &[(product_id, free, after.sequence, 0)]).await.map_err(database)?;
        let moved = [(product_id, Moved { free, ..Moved::default() })];
        units().enter(&mut *db_tx, None, &moved).await.map_err(database)?;
        let told = || Event::new(0, Payload::OperatorChange(change(request, before, &after)));
        self.outbox.append::<Db>(&mut db_tx, std::iter::once_with(told)).await.map_err(database)?;
        db_tx.commit().await.map_err(database)?;
        Ok(pb::SetStockResponse { stock: Some(shown(&after)), changed: true })
    }
}

fn change(request: &pb::SetStockRequest, before: &Level, after: &Level) -> OperatorChange {
    OperatorChange {
        what: "product".to_owned(),
        id: after.item,
        revision: u64::try_from(after.sequence).unwrap_or_default(),
        operator: request.operator.clone(),
        action: "set_stock".to_owned(),
        reason: request.reason.clone(),
        before: if before.sequence == 0 { String::new() } else { state(before) },
        after: state(after),
    }
}

#[tonic::async_trait]
impl<Db: Store> Stocks for Api<Db> {
    async fn get_stock(&self, request: Request<pb::GetStockRequest>) -> Result<Response<pb::GetStockResponse>, Status> {
        let stock = self.find(request.into_inner().product_id).await.map_err(|fault| fault.status())?;
        Ok(Response::new(pb::GetStockResponse { stock: Some(stock) }))
    }

    async fn set_stock(&self, request: Request<pb::SetStockRequest>) -> Result<Response<pb::SetStockResponse>, Status> {
        self.set(request.get_ref()).await.map(Response::new).map_err(|fault| fault.status())
    }
}
