//! The fence on real servers. On SQLite it is tested beside its code.

use sqlx::{MySql, Postgres};
use tercet::fence::conformance;
use tercet_integration::servers;

#[tokio::test]
async fn the_fence_keeps_its_promises_on_postgres() {
    let Some(url) = servers::postgres().await.expect("the server answers") else { return };
    conformance::run::<Postgres>(&url).await;
}

#[tokio::test]
async fn the_fence_keeps_its_promises_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    conformance::run::<MySql>(&url).await;
}

#[tokio::test]
async fn the_floor_rises_beside_slow_handlers_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    conformance::rises_beside_slow_handlers::<MySql>(&url).await;
}
