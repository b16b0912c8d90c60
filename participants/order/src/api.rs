//! Orders of shops over gRPC, after their checkout. What transactions do with them goes through the service's actions.

use sqlx::Pool;
use tercet_events::outbox::Outbox;
use tercet_proto::order::v1 as pb;
use tercet_proto::order::v1::orders_server::Orders;
use tercet_rules::{Cents, Code, Fault, Invalid, Limit, text};
use tonic::{Request, Response};

use crate::limits::{OPERATOR_BYTES_MAX, PAYMENT_BYTES_MAX};
use crate::list::page;
use crate::metrics;
use crate::payment::{Paid, PayError, Payment, pay};
use crate::store::{Key, Standing, Status, Store};

/// The service's routes.
#[derive(Debug)]
pub(crate) struct Api<Db: Store> {
    pool: Pool<Db>,
    outbox: Outbox,
}

pub(crate) fn database(error: sqlx::Error) -> Fault {
    tracing::error!(%error, "the database of orders");
    Code::SystemBusy.fault([])
}

pub(crate) fn id(field: &str, id: i64) -> Result<i64, Invalid> {
    if id >= 1 { Ok(id) } else { Err(Invalid::new(field, Limit::Between(1, i64::MAX))) }
}

fn key(shop_id: i64, order_id: i64) -> Result<Key, Invalid> {
    Ok(Key { shop_id: id("shop_id", shop_id)?, order_id: id("order_id", order_id)? })
}

fn missing(key: Key) -> Fault {
    Code::NotFound.fault([("what", "order".to_owned()), ("id", key.order_id.to_string())])
}

impl From<PayError> for Fault {
    fn from(error: PayError) -> Self {
        let of = |code: Code, key: Key| code.fault([("order_id", key.order_id.to_string())]);
        match error {
            PayError::Unknown { key, .. } => missing(key),
            // Whoever was told that it is placed may be quicker than what places it; and what is being taken back may
            // yet be what it was before.
            PayError::Frozen(_) | PayError::Refunding(_) => Code::SystemBusy.fault([]),
            PayError::Closed(key) => of(Code::OrderClosed, key),
            PayError::Refunded(key) => of(Code::OrderRefunded, key),
            PayError::Otherwise(key) => of(Code::OrderPaid, key),
            PayError::Differs { key, due_cents } => Cents::new("due_cents", due_cents).map_or_else(Self::from, |due| {
                Code::PaymentDiffers.fault([("order_id", key.order_id.to_string()), ("due", due.to_string())])
            }),
            PayError::Database(error) => database(error),
        }
    }
}

/// Where an order stands, as callers see it.
pub(crate) fn seen(order: &Standing) -> pb::OrderStatus {
    match order.status {
        Status::Frozen => pb::OrderStatus::Frozen,
        Status::Placed => pb::OrderStatus::Placed,
        Status::Paid => pb::OrderStatus::Paid,
        Status::Refunded if order.is_refunding() => pb::OrderStatus::Refunding,
        Status::Closed | Status::Refunded if order.is_closed() => pb::OrderStatus::Closed,
        Status::Closed | Status::Refunded => pb::OrderStatus::Refunded,
    }
}

pub(crate) fn view(order: &Standing) -> pb::OrderView {
    let &Standing { key: Key { shop_id, order_id }, user_id, due_cents, pay_by_ms, .. } = order;
    let pay_by_ms = pay_by_ms.unwrap_or_default();
    pb::OrderView { shop_id, order_id, user_id, status: seen(order).into(), due_cents, pay_by_ms }
}

impl<Db: Store> Api<Db> {
    pub(crate) const fn new(pool: Pool<Db>, outbox: Outbox) -> Self {
        Self { pool, outbox }
    }

    async fn find(&self, request: &pb::GetOrderRequest) -> Result<pb::OrderView, Fault> {
        let key = key(request.shop_id, request.order_id)?;
        let user_id = match request.user_id {
            0 => None,
            user_id => Some(id("user_id", user_id)?),
        };
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let found = Db::look(&mut connection, key).await.map_err(database)?;
        found
            .filter(|order| user_id.is_none_or(|own| order.user_id == own))
            .as_ref()
            .map(view)
            .ok_or_else(|| missing(key))
    }

    async fn list(&self, request: &pb::ListOrdersRequest) -> Result<pb::ListOrdersResponse, Fault> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        page::<Db>(&mut connection, request).await
    }

    async fn paid(&self, request: &pb::PayRequest) -> Result<Paid, Fault> {
        let key = key(request.shop_id, request.order_id)?;
        let user_id = id("user_id", request.user_id)?;
        let paid_cents = Cents::new("paid_cents", request.paid_cents)?.get();
        let payment_id = text("payment_id", &request.payment_id, PAYMENT_BYTES_MAX)?;
        let operator = text("operator", &request.operator, OPERATOR_BYTES_MAX)?;
        let mut db_tx = self.pool.begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        let payment = Payment { key, user_id, paid_cents, payment_id, operator };
        let paid = pay::<Db>(&mut db_tx, &self.outbox, payment).await?;
        db_tx.commit().await.map_err(database)?;
        Ok(paid)
    }
}

type Answer<T> = Result<Response<T>, tonic::Status>;

#[tonic::async_trait]
impl<Db: Store> Orders for Api<Db> {
    async fn pay(&self, request: Request<pb::PayRequest>) -> Answer<pb::PayResponse> {
        let paid = self.paid(request.get_ref()).await;
        metrics::paid(match &paid {
            Ok(Paid { is_new: true, .. }) => "OK",
            Ok(Paid { is_new: false, .. }) => "REPEATED",
            Err(fault) => fault.code.name(),
        });
        let Paid { order, .. } = paid.map_err(|fault| fault.status())?;
        Ok(Response::new(pb::PayResponse { order: Some(view(&order)) }))
    }

    async fn get_order(&self, request: Request<pb::GetOrderRequest>) -> Answer<pb::GetOrderResponse> {
        let order = self.find(request.get_ref()).await.map_err(|fault| fault.status())?;
        Ok(Response::new(pb::GetOrderResponse { order: Some(order) }))
    }

    async fn list_orders(&self, request: Request<pb::ListOrdersRequest>) -> Answer<pb::ListOrdersResponse> {
        self.list(request.get_ref()).await.map(Response::new).map_err(|fault| fault.status())
    }
}
