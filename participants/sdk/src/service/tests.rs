//! What is refused at the start, and what an instance says of itself.

use super::*;
use crate::action::Json;
use crate::fixture::{Gate, Shop, TAKE, shop, shop_database};

async fn mistake(service: Service<sqlx::Sqlite>) -> String {
    service.executor().await.err().expect("it is refused").to_string()
}

#[tokio::test]
async fn an_author_s_mistakes_are_told_at_the_start() {
    let (_folder, pool) = shop_database().await;
    let handler = || Shop(Gate::new(0));
    let foreign: Action<Tcc, Json<i64>> = Action::tcc("bakery", "take");
    for (service, text) in [
        (shop(&pool).tcc(TAKE, handler()), "action take is registered twice"),
        (shop(&pool).tcc(foreign, handler()), "action take belongs to service bakery, not to shop"),
        (shop(&pool).window(17), "the window is not 1 to 16 batches"),
        (shop(&pool).batch_max(0), "batch_max is 0, not 1 to 256 calls"),
        (shop(&pool).batch_max(257), "batch_max is 257, not 1 to 256 calls"),
        (shop(&pool).tables(["shop; DROP"]), "\"shop; DROP\" is not the name of a table"),
        (Service::new("Shop", [pool.clone()]), "the name \"Shop\" is not 1 to 64 of [a-z0-9_.-]"),
        (Service::new("shop", [pool.clone()]), "service shop has neither actions nor routes"),
        (Service::new("shop", []).tcc(TAKE, handler()), "service shop has no database"),
    ] {
        assert_eq!(mistake(service).await, text);
    }
    let elsewhere = "table shelf is not visible to the fence in database 0, so the two could not share a transaction";
    assert_eq!(mistake(shop(&pool).tables(["shelf"])).await, elsewhere);
}

#[tokio::test]
async fn instances_of_one_database_have_its_fence_id_and_others_have_others() {
    let ((_one, one), (_two, two)) = (shop_database().await, shop_database().await);
    let fence_id = async |pools: &[&Pool<sqlx::Sqlite>]| {
        let service = Service::new("shop", pools.iter().copied().cloned()).tcc(TAKE, Shop(Gate::new(0)));
        service.executor().await.unwrap().register().fence_id
    };
    assert_eq!(fence_id(&[&one]).await, fence_id(&[&one]).await);
    assert_ne!(fence_id(&[&one]).await, fence_id(&[&two]).await);
    assert_eq!(fence_id(&[&one, &two]).await, fence_id(&[&one, &two]).await);
    assert_ne!(fence_id(&[&one, &two]).await, fence_id(&[&two, &one]).await);
    assert_eq!(shop(&one).without_fence().executor().await.unwrap().register().fence_id, vec![0; 16]);
}
