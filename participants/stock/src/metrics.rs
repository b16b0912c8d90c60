//! Every metric of the stock service.

use metrics::gauge;

use crate::store::Low;

/// What has less than a tenth of its units left, or none: products, and templates whose coupons can be claimed.
pub(crate) fn low(low: Low) {
    let Low { templates, products } = low;
    for (what, count) in [("templates", templates), ("products", products)] {
        gauge!("tercet_stock_low", "what" => what).set(count as f64);
    }
}
