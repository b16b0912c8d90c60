//! Tells when templates run out of coupons and the warehouse of products, before users are told so. Several instances
//! do no harm: all say the same.

use std::time::Duration;

use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tokio::time::sleep;
use tracing::warn;

use crate::store::{Low, Store};
use crate::{metrics, template_item};

/// Between two looks, each of which reads what there is of every item.
const INTERVAL: Duration = Duration::from_secs(15);

/// Looks until the service stops.
pub(crate) async fn run<Db: Store>(pool: Pool<Db>, mut stop: Stop) -> Result<(), Failure> {
    while !stop.is_requested() {
        match look(&pool).await {
            Ok(low) => metrics::low(low),
            Err(error) => warn!(%error, "what runs out is not known now"),
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = stop.requested() => {}
        }
    }
    Ok(())
}

async fn look<Db: Store>(pool: &Pool<Db>) -> sqlx::Result<Low> {
    Db::low(&mut *pool.acquire().await?, template_item(0)).await
}
