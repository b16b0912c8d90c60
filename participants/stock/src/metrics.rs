//! Every metric of the stock service.

use metrics::gauge;

/// Templates that have coupons left, but less than a tenth of them.
pub(crate) fn low(templates: i64) {
    gauge!("tercet_stock_low_templates").set(templates as f64);
}
