//! The test run's own servers answer, and hand out databases that are empty.

use sqlx::Connection;
use tercet_integration::servers;

#[tokio::test]
async fn every_caller_gets_an_empty_postgres_database_of_its_own() {
    let Some(first) = servers::postgres().await.expect("the server answers") else { return };
    let second = servers::postgres().await.expect("the server answers").expect("it was there before");
    assert_ne!(first, second);
    let mut connection = sqlx::PgConnection::connect(&first).await.expect("the database is there");
    sqlx::raw_sql("CREATE TABLE one(id INT)").execute(&mut connection).await.expect("it is empty");
    let mut connection = sqlx::PgConnection::connect(&second).await.expect("the database is there");
    sqlx::raw_sql("CREATE TABLE one(id INT)").execute(&mut connection).await.expect("it is empty");
}

#[tokio::test]
async fn every_caller_gets_an_empty_mariadb_database_of_its_own() {
    let Some(first) = servers::mariadb().await.expect("the server answers") else { return };
    let second = servers::mariadb().await.expect("the server answers").expect("it was there before");
    assert_ne!(first, second);
    let mut connection = sqlx::MySqlConnection::connect(&first).await.expect("the database is there");
    sqlx::raw_sql("CREATE TABLE one(id INT)").execute(&mut connection).await.expect("it is empty");
    let mut connection = sqlx::MySqlConnection::connect(&second).await.expect("the database is there");
    sqlx::raw_sql("CREATE TABLE one(id INT)").execute(&mut connection).await.expect("it is empty");
}
