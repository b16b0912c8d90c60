//! Every metric of the stock service.

use metrics::gauge;

use crate::store::Low;
use crate::watch::NAMED;

/// What has less than a tenth of its units left, or none: products, and templates whose coupons can be claimed.
pub(crate) fn low(low: Low) {
    let Low { templates, products } = low;
    for (what, count) in [("templates", templates), ("products", products)] {
        gauge!("tercet_stock_low", "what" => what).set(count as f64);
    }
}

/// Which those are, the one with the fewest units first: the number of a template or a product by its place, 0 where
/// there are not so many. The labels are places, so that there are as many series whatever runs out.
pub(crate) fn lowest(what: &'static str, ids: &[i64]) {
    for place in 0..NAMED {
        let id = ids.get(place).copied().unwrap_or(0);
        gauge!("tercet_stock_low_id", "what" => what, "place" => (place + 1).to_string()).set(id as f64);
    }
}
