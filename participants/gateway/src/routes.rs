//! The table of all routes.

use axum::http::Method;
use bytes::Bytes;
use tercet_rules::Code;

use crate::api::{coupons, log, occasions, offers, orders, redemptions, stock, templates};
use crate::limits::{LARGE_BODY_BYTES_MAX, ORDER_BODY_BYTES_MAX};
use crate::openapi;
use crate::route::Route;

/// The page to try it.
const PAGE: &str = include_str!("page.html");

/// Why a template is not changed.
const CHANGE: &[Code] = &[Code::NotFound, Code::Conflict, Code::NotAllowed, Code::WrongVersion];

/// Why a coupon is not claimed.
const CLAIM: &[Code] = &[
    Code::NotFound,
    Code::NotOffered,
    Code::Paused,
    Code::NotStarted,
    Code::Over,
    Code::SoldOut,
    Code::PerUserLimit,
    Code::PerUserDayLimit,
    Code::KeyReused,
];

/// Why a batch is not issued.
const BATCH: &[Code] =
    &[Code::NotFound, Code::NotOffered, Code::Paused, Code::NotStarted, Code::Over, Code::KeyReused, Code::SoldOut];

/// Why coupons are not used.
const REDEEM: &[Code] = &[
    Code::NotFound,
    Code::KeyReused,
    Code::CouponTaken,
    Code::NotYetValid,
    Code::Expired,
    Code::CouponVoided,
    Code::OutOfScope,
    Code::BelowThreshold,
    Code::NotStackable,
    Code::NoGain,
    Code::AmountChanged,
    Code::OrderExists,
    Code::OutOfStock,
    Code::NotStocked,
    Code::OtherShop,
];

/// Why an order is not taken back.
const REFUND: &[Code] = &[Code::NotFound, Code::NotRefundable];

/// Why an order is not paid.
const PAY: &[Code] = &[Code::NotFound, Code::PaymentDiffers, Code::OrderPaid, Code::OrderClosed, Code::OrderRefunded];

/// All routes.
pub(crate) fn table() -> Vec<Route> {
    let mut routes = users();
    routes.extend(customers());
    routes.extend(shops());
    routes.extend(operators());
    routes.extend(issuers());
    routes.extend(givers());
    routes.extend(helpers());
    routes.push(health());
    routes.push(page());
    routes.push(document(Bytes::new()));
    // It describes itself too.
    let text = openapi::document(&routes).to_string();
    routes.pop();
    routes.push(document(text.into()));
    routes
}

fn users() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/v1/offers", "list_offers", offers::list)
            .says("Templates of which the user can claim coupons now, in his version: by start, end and number"),
        Route::new(Method::GET, "/v1/offers/{template_id}", "get_offer", offers::get)
            .says("What the user can have of a template: the version that he gets, with its rules")
            .fails(&[Code::NotFound, Code::NotOffered, Code::Paused, Code::Over]),
        Route::new(Method::POST, "/v1/coupons", "claim", coupons::claim)
            .says("Claims a coupon of a template")
            .takes_key()
            .claim()
            .answers(&[200, 201])
            .fails(CLAIM),
        Route::new(Method::GET, "/v1/coupons", "list_own_coupons", coupons::own)
            .says("The user's coupons, newest first"),
        Route::new(Method::GET, "/v1/coupons/{coupon_id}", "get_own_coupon", coupons::get)
            .says("A coupon of the user; that of another is not found")
            .fails(&[Code::NotFound]),
    ]
}

/// What users do with their coupons.
fn customers() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/orders/validate", "validate", redemptions::validate)
            .says("What coupons take off an order, or why nothing, and which of them are best together")
            .takes(ORDER_BODY_BYTES_MAX)
            .fails(&[Code::NotFound]),
        Route::new(Method::GET, "/v1/shops/{shop_id}/orders/{order_id}", "get_own_order", orders::own)
            .says("How an order of the user stands: placed, paid, closed or refunded, and until when it can be paid")
            .fails(&[Code::NotFound]),
        Route::new(
            Method::GET,
            "/v1/shops/{shop_id}/orders/{order_id}/redemption",
            "get_order_redemption",
            redemptions::by_order,
        )
        .says("How the redemption of an order stands")
        .answers(&[200, 202])
        .fails(&[Code::NotFound]),
    ]
}

/// What shops do for users, by their consent where it uses their coupons.
fn shops() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/shop/orders/validate", "validate_for_user", redemptions::validate_for)
            .says("What coupons of a user take off an order of the shop")
            .takes(ORDER_BODY_BYTES_MAX)
            .fails(&[Code::NotFound, Code::OtherShop]),
        Route::new(Method::POST, "/v1/shop/redemptions", "redeem", redemptions::redeem)
            .says("Uses coupons of a user for an order of the shop: all or none; 202 where it is kept and done later")
            .takes(ORDER_BODY_BYTES_MAX)
            .keyed()
            .answers(&[200, 202])
            .fails(REDEEM),
        Route::new(Method::GET, "/v1/shop/users/{user_id}/redemptions/{key}", "get_redemption", redemptions::by_key)
            .says("How the redemption that the shop asked for with this idempotency key stands")
            .answers(&[200, 202])
            .fails(&[Code::NotFound]),
        Route::new(
            Method::GET,
            "/v1/shop/users/{user_id}/orders/{order_id}/redemption",
            "get_shop_redemption",
            redemptions::of_shop,
        )
        .says("How the redemption of an order of the shop stands")
        .answers(&[200, 202])
        .fails(&[Code::NotFound]),
        Route::new(Method::GET, "/v1/shop/orders", "list_orders", orders::list_of_shop)
            .says("Orders of the shop, the highest number first: of one status a short page need not be the last"),
        Route::new(Method::GET, "/v1/shop/users/{user_id}/orders/{order_id}", "get_order", orders::of_shop)
            .says("How an order of the shop stands: placed, paid, closed or refunded, and until when it can be paid")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/shop/users/{user_id}/orders/{order_id}/pay", "pay", orders::pay)
            .says("Notes that an order of the shop is paid, for all that it costs; the same again changes nothing")
            .fails(PAY),
        Route::new(
            Method::POST,
            "/v1/shop/users/{user_id}/orders/{order_id}/refund",
            "refund_by_shop",
            redemptions::refund_by_shop,
        )
        .says("Takes an order of the shop back; its coupons return as their rules allow")
        .answers(&[200, 202])
        .fails(REFUND),
    ]
}

/// Redemptions and the stock of products, for operators.
fn helpers() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/v1/operator/products/{product_id}/stock", "get_stock", stock::get)
            .says("How many units of a product there are, and where")
            .fails(&[Code::NotFound]),
        Route::new(Method::PUT, "/v1/operator/products/{product_id}/stock", "set_stock", stock::set)
            .says("Sets how many units of a product there are in all; the same again changes nothing")
            .fails(&[Code::Conflict]),
        Route::new(Method::GET, "/v1/operator/shops/{shop_id}/orders", "list_shop_orders", orders::list_of_any)
            .says("Orders of a shop, the highest number first: of one status a short page need not be the last"),
        Route::new(Method::GET, "/v1/operator/shops/{shop_id}/orders/{order_id}", "get_any_order", orders::of_any)
            .says("How an order of a shop stands, whose it is, and until when it can be paid")
            .fails(&[Code::NotFound]),
        Route::new(
            Method::GET,
            "/v1/operator/shops/{shop_id}/users/{user_id}/orders/{order_id}/redemption",
            "get_user_redemption",
            redemptions::by_user_and_order,
        )
        .says("How the redemption of a user's order stands")
        .answers(&[200, 202])
        .fails(&[Code::NotFound]),
        Route::new(
            Method::POST,
            "/v1/operator/shops/{shop_id}/users/{user_id}/orders/{order_id}/refund",
            "refund_by_operator",
            redemptions::refund_by_operator,
        )
        .says("Takes an order back for a user")
        .answers(&[200, 202])
        .fails(REFUND),
    ]
}

/// Coupons and batches of them, for operators.
fn issuers() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/v1/operator/coupons", "list_coupons", coupons::list)
            .says("Coupons of all users, newest first within each shard, or of one: a short page need not be the last"),
        Route::new(Method::GET, "/v1/operator/coupons/{coupon_id}", "get_coupon", coupons::get_any)
            .says("A coupon, whoever has it")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/operator/coupons/{coupon_id}/void", "void_coupon", coupons::void)
            .says("Takes an unused coupon from its user for good; again: changes nothing. Its stock does not come back")
            .fails(&[Code::NotFound, Code::CouponTaken, Code::Expired]),
        Route::lines(Method::POST, "/v1/operator/batches", "issue", coupons::issue)
            .says("Issues coupons to many users; each line tells how far it is, and the same batch again goes on")
            .takes(LARGE_BODY_BYTES_MAX)
            .fails(BATCH),
        Route::new(Method::GET, "/v1/operator/batches", "list_batches", coupons::batches)
            .says("Batches, newest first, those of occasions among them"),
        Route::new(Method::GET, "/v1/operator/batches/{batch_id}", "get_batch", coupons::progress)
            .says("How far a batch is")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/operator/batches/{batch_id}/end", "end_batch", coupons::end)
            .says("Ends a batch: what is issued stays, and the rest of its stock is free again within seconds")
            .fails(&[Code::NotFound]),
    ]
}

/// Occasions to give coupons, for operators, and what they are told.
fn givers() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/operator/occasions", "create_occasion", occasions::create)
            .says("From now on gives coupons to each user who registers, or to those of a campaign that starts, once")
            .keyed()
            .answers(&[200, 201])
            .fails(&[Code::NotFound, Code::KeyReused, Code::NoEvents]),
        Route::new(Method::GET, "/v1/operator/occasions", "list_occasions", occasions::list)
            .says("Occasions, newest first"),
        Route::new(Method::GET, "/v1/operator/occasions/{occasion_id}", "get_occasion", occasions::get)
            .says("An occasion, and how many users have their coupons by it")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/operator/occasions/{occasion_id}/stop", "stop_occasion", occasions::stop)
            .says("Ends an occasion: what happens from now on finds it no more; again: changes nothing")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/operator/occasions/{occasion_id}/retry", "retry_occasion", occasions::retry)
            .says("Tries again what was refused, such as for want of stock: 1,000 runs at a time")
            .fails(&[Code::NotFound]),
        Route::new(Method::GET, "/v1/operator/occasions/{occasion_id}/runs", "list_occasion_runs", occasions::runs)
            .says("What came of an occasion, newest first, and why not")
            .fails(&[Code::NotFound]),
        Route::new(Method::POST, "/v1/operator/users/{user_id}/registered", "tell_registered", occasions::registered)
            .says("Tells that a user has registered, for whoever has no way to the broker; again: gives nothing twice")
            .answers(&[202])
            .fails(&[Code::NoEvents]),
        Route::new(Method::POST, "/v1/operator/campaigns/{campaign_id}/start", "start_campaign", occasions::start)
            .says("Tells that a campaign has started for these users; again: gives nobody anything twice")
            .takes(LARGE_BODY_BYTES_MAX)
            .answers(&[202])
            .fails(&[Code::NoEvents]),
    ]
}

fn operators() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/operator/templates", "create_template", templates::create)
            .says("Makes a draft with its first version")
            .takes(LARGE_BODY_BYTES_MAX)
            .keyed()
            .answers(&[200, 201])
            .fails(&[Code::KeyReused]),
        Route::new(Method::GET, "/v1/operator/templates", "list_templates", templates::list)
            .says("Lists templates: by start, end and number within a status, by number over all of them"),
        Route::new(Method::GET, "/v1/operator/templates/{template_id}", "get_template", templates::get)
            .says("A template as it is now")
            .fails(&[Code::NotFound]),
        Route::new(
            Method::GET,
            "/v1/operator/templates/{template_id}/versions/{version}",
            "get_rules",
            templates::rules,
        )
        .says("The rules of a version, however old")
        .fails(&[Code::NotFound]),
        Route::new(Method::PUT, "/v1/operator/templates/{template_id}/rules", "set_rules", templates::set_rules)
            .says("Writes the draft version; one is made when there is none")
            .takes(LARGE_BODY_BYTES_MAX)
            .fails(CHANGE),
        Route::new(Method::POST, "/v1/operator/templates/{template_id}/gray", "start_gray", templates::start_gray)
            .says("Gives the draft version to an audience, or another audience to the version that is being tried")
            .takes(LARGE_BODY_BYTES_MAX)
            .fails(CHANGE),
        Route::new(
            Method::POST,
            "/v1/operator/templates/{template_id}/versions/{version}/promote",
            "promote",
            templates::promote,
        )
        .says("Gives the version that is being tried to everyone; again: changes nothing")
        .fails(CHANGE),
        Route::new(
            Method::POST,
            "/v1/operator/templates/{template_id}/versions/{version}/roll-back",
            "roll_back",
            templates::roll_back,
        )
        .says("Takes a version from its users, who get the one before it; again: changes nothing")
        .fails(CHANGE),
        Route::new(Method::POST, "/v1/operator/templates/{template_id}/pause", "pause", templates::pause)
            .says("Stops claims for a while")
            .fails(CHANGE),
        Route::new(Method::POST, "/v1/operator/templates/{template_id}/resume", "resume", templates::resume)
            .says("Lets claims go on")
            .fails(CHANGE),
        Route::new(Method::POST, "/v1/operator/templates/{template_id}/end", "end", templates::end)
            .says("Stops claims for ever")
            .fails(CHANGE),
        Route::new(
            Method::GET,
            "/v1/operator/templates/{template_id}/versions/{version}/usage",
            "compare_usage",
            templates::usage,
        )
        .says("How a version does, or did, beside what everyone else had at the same time")
        .fails(&[Code::NotFound]),
        Route::new(Method::GET, "/v1/operator/changes", "list_changes", templates::changes)
            .says("What operators have done with templates, newest first"),
        Route::new(Method::GET, "/v1/operator/log", "search_log", log::search)
            .says("Who did what to coupons, orders and templates: by user, coupon, order and operator, newest first"),
    ]
}

fn health() -> Route {
    Route::new(Method::GET, "/health", "health", crate::api::health)
        .says("Whether the gateway takes requests; not while it stops")
        .vital()
}

fn page() -> Route {
    let page = Bytes::from_static(PAGE.as_bytes());
    Route::document("/", "page", "text/html; charset=utf-8", page).says("A page to try it")
}

fn document(text: Bytes) -> Route {
    Route::document("/openapi.json", "document", "application/json", text).says("This document")
}
