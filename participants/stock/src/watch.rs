//! Tells when templates run out of coupons and the warehouse of products, before users are told so. Several instances
//! do no harm: all say the same.

use std::time::Duration;

use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tokio::time::sleep;
use tracing::warn;

use crate::store::Store;
use crate::{metrics, named_template, template_item};

/// Between two looks, each of which reads what there is of every item.
const INTERVAL: Duration = Duration::from_secs(15);
/// How many of each are named: the rest is counted.
pub(crate) const NAMED: usize = 5;

/// Looks until the service stops.
pub(crate) async fn run<Db: Store>(pool: Pool<Db>, mut stop: Stop) -> Result<(), Failure> {
    while !stop.is_requested() {
        match look(&pool).await {
            Ok(()) => {}
            Err(error) => warn!(%error, "what runs out is not known now"),
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = stop.requested() => {}
        }
    }
    Ok(())
}

async fn look<Db: Store>(pool: &Pool<Db>) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    let first = template_item(0);
    let low = Db::low(&mut connection, first).await?;
    let (mut templates, mut products) = (Vec::new(), Vec::new());
    if low.templates > 0 {
        // A template that is tried in another version has an item of its own for that.
        templates = Db::lowest(&mut connection, first..=i64::MAX, first, 2 * NAMED).await?;
    }
    if low.products > 0 {
        products = Db::lowest(&mut connection, 1..=first - 1, first, NAMED).await?;
    }
    metrics::low(low);
    metrics::lowest("templates", &named(&templates));
    metrics::lowest("products", &products);
    Ok(())
}

/// The templates that these items are of, each once and at most [`NAMED`], in their order.
pub(crate) fn named(items: &[i64]) -> Vec<i64> {
    let mut templates = Vec::with_capacity(NAMED);
    for template_id in items.iter().copied().map(named_template) {
        if templates.len() < NAMED && !templates.contains(&template_id) {
            templates.push(template_id);
        }
    }
    templates
}
