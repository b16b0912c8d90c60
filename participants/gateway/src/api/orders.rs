//! Orders after their checkout: paid, and looked at.

use tercet_proto::order::v1 as pb;

use crate::route::{Answer, Call, Operator, Reply, Shop, User};
use crate::schema::{Entries, Id, Nothing};
use crate::services::{Context, Told as _};
use crate::wire::common::given;
use crate::wire::order::{Order, OrderStatus, Orders, OrdersOfShop, Payment, ShopOrders};
use crate::wire::redemption::{OrderId, UserOrderId};

pub(crate) async fn pay(call: Call<Shop, UserOrderId, Payment>) -> Answer<Order> {
    let UserOrderId { user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    let (shop_id, operator) = (call.caller.id, call.caller.name);
    let Payment { paid_cents, payment_id } = call.body;
    let request = pb::PayRequest { shop_id, order_id, user_id, paid_cents, operator, payment_id };
    let request = call.context.request(request);
    let told = call.context.services.orders.clone().pay(request).await.told()?;
    Ok(Reply::ok(given(told.order)?.into()))
}

pub(crate) async fn of_shop(call: Call<Shop, UserOrderId, Nothing>) -> Answer<Order> {
    let UserOrderId { user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    find(pb::GetOrderRequest { shop_id: call.caller.id, order_id, user_id }, &call.context).await
}

pub(crate) async fn own(call: Call<User, OrderId, Nothing>) -> Answer<Order> {
    let OrderId { shop_id: Id(shop_id), order_id: Id(order_id) } = call.params;
    find(pb::GetOrderRequest { shop_id, order_id, user_id: call.caller.id }, &call.context).await
}

pub(crate) async fn of_any(call: Call<Operator, OrderId, Nothing>) -> Answer<Order> {
    let OrderId { shop_id: Id(shop_id), order_id: Id(order_id) } = call.params;
    find(pb::GetOrderRequest { shop_id, order_id, user_id: 0 }, &call.context).await
}

pub(crate) async fn list_of_shop(call: Call<Shop, ShopOrders, Nothing>) -> Answer<Orders> {
    let ShopOrders { status, limit, after } = call.params;
    list(call.caller.id, status, (limit, after), &call.context).await
}

pub(crate) async fn list_of_any(call: Call<Operator, OrdersOfShop, Nothing>) -> Answer<Orders> {
    let OrdersOfShop { shop_id: Id(shop_id), status, limit, after } = call.params;
    list(shop_id, status, (limit, after), &call.context).await
}

async fn list(
    shop_id: i64,
    status: Option<OrderStatus>,
    (limit, after): (Option<Entries<100>>, Option<String>),
    context: &Context,
) -> Answer<Orders> {
    let (status, limit) = (status.map_or(0, OrderStatus::number), Entries::number(limit));
    let request = pb::ListOrdersRequest { shop_id, status, limit, after: after.unwrap_or_default() };
    let found = context.services.orders.clone().list_orders(context.request(request)).await.told()?;
    Ok(Reply::ok(found.into()))
}

async fn find(request: pb::GetOrderRequest, context: &Context) -> Answer<Order> {
    let told = context.services.orders.clone().get_order(context.request(request)).await.told()?;
    Ok(Reply::ok(given(told.order)?.into()))
}
