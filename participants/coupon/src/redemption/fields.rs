//! What requests say, checked field by field, and what is kept of them.

use std::collections::{BTreeMap, HashSet};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tercet_proto::coupon::v1 as pb;
use tercet_rules::limits::LINES_MAX;
use tercet_rules::{Basis, Cents, Code, Fault, Invalid, Limit, Line, Order, text};

use super::limits::{
    COUPONS_MAX, KEY_BYTES_MAX, OPERATOR_BYTES_MAX, PAY_WITHIN_S_MAX, PRODUCTS_MAX, REASON_BYTES_MAX, UNITS_MAX,
};
use crate::stock::PRODUCT_MAX;

pub(super) use crate::issuing::id;

/// The order that coupons are tried on.
pub(super) fn order(lines: &[pb::OrderLine]) -> Result<Order, Invalid> {
    // Before they are looked at: the list may be of any length.
    if !(1..=LINES_MAX).contains(&lines.len()) {
        return Err(Invalid::new("lines", Limit::Entries(1, LINES_MAX)));
    }
    let line = |(at, line): (usize, &pb::OrderLine)| {
        let checked = || {
            Ok(Line {
                product_id: id("product_id", line.product_id)?,
                category_id: id("category_id", line.category_id)?,
                shop_id: id("shop_id", line.shop_id)?,
                price: Cents::new("price_cents", line.price_cents)?,
                quantity: line.quantity,
            })
        };
        checked().map_err(|error: Invalid| error.within(&format!("lines[{at}]")))
    };
    Order::new(lines.iter().enumerate().map(line).collect::<Result<_, _>>()?)
}

/// At most [`COUPONS_MAX`], none twice.
pub(super) fn coupons(coupon_ids: &[i64]) -> Result<(), Invalid> {
    if coupon_ids.len() > COUPONS_MAX {
        return Err(Invalid::new("coupon_ids", Limit::Entries(0, COUPONS_MAX)));
    }
    let mut seen = HashSet::new();
    for (at, coupon_id) in coupon_ids.iter().enumerate() {
        let field = format!("coupon_ids[{at}]");
        id(&field, *coupon_id)?;
        if !seen.insert(coupon_id) {
            return Err(Invalid::new(&field, Limit::Unique));
        }
    }
    Ok(())
}

pub(super) fn redeem(request: &pb::RedeemRequest) -> Result<Order, Fault> {
    key(&request.idempotency_key)?;
    id("user_id", request.user_id)?;
    id("shop_id", request.shop_id)?;
    id("order_id", request.order_id)?;
    text("operator", &request.operator, OPERATOR_BYTES_MAX)?;
    coupons(&request.coupon_ids)?;
    if let Some(seconds) = request.pay_within_s
        && !(1..=PAY_WITHIN_S_MAX).contains(&seconds)
    {
        return Err(Invalid::new("pay_within_s", Limit::Between(1, PAY_WITHIN_S_MAX.into())).into());
    }
    let order = order(&request.lines)?;
    products(&request.lines)?;
    of_shop(request.shop_id, &request.lines)?;
    Ok(order)
}

/// A shop says prices of its own products alone.
pub(super) fn of_shop(shop_id: i64, lines: &[pb::OrderLine]) -> Result<(), Fault> {
    if lines.iter().all(|line| line.shop_id == shop_id) { Ok(()) } else { Err(Code::OtherShop.fault([])) }
}

/// Lines whose units can be taken out of stock.
fn products(lines: &[pb::OrderLine]) -> Result<(), Invalid> {
    if let Some(at) = lines.iter().position(|line| line.product_id > PRODUCT_MAX) {
        return Err(Invalid::new(&format!("lines[{at}].product_id"), Limit::Between(1, PRODUCT_MAX)));
    }
    let units = units(lines);
    if units.len() > PRODUCTS_MAX {
        return Err(Invalid::new("lines", Limit::Products(PRODUCTS_MAX)));
    }
    match units.values().max() {
        Some(most) if *most > UNITS_MAX => {
            Err(Invalid::new("lines", Limit::AtMost(Basis::UnitsOfProduct, UNITS_MAX.into())))
        }
        Some(_) | None => Ok(()),
    }
}

/// So many units of each product, over all lines, of which there are few enough for the sum.
pub(super) fn units(lines: &[pb::OrderLine]) -> BTreeMap<i64, u32> {
    let mut units = BTreeMap::new();
    for line in lines {
        *units.entry(line.product_id).or_default() += line.quantity;
    }
    units
}

pub(super) fn key(key: &str) -> Result<&str, Invalid> {
    text("idempotency_key", key, KEY_BYTES_MAX)
}

pub(super) fn refund(request: &pb::RefundRequest) -> Result<(), Invalid> {
    id("user_id", request.user_id)?;
    id("shop_id", request.shop_id)?;
    id("order_id", request.order_id)?;
    // Nobody takes back what is not paid in time.
    if !request.only_unpaid {
        text("operator", &request.operator, OPERATOR_BYTES_MAX)?;
    }
    text("reason", &request.reason, REASON_BYTES_MAX).map(drop)
}

/// Of what a redemption is about: whichever person of the shop asks.
pub(super) fn digest(request: &pb::RedeemRequest) -> String {
    let about = pb::RedeemRequest { idempotency_key: String::new(), operator: String::new(), ..request.clone() };
    Sha256::digest(about.encode_to_vec()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fault as a value.
pub(super) fn refusal(fault: &Fault) -> pb::Refusal {
    pb::Refusal { code: fault.code.name().to_owned(), arguments: fault.arguments().clone() }
}
