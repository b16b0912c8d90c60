//! Events from outbox to effects: on SQLite and on a real MariaDB, within a process and through a real Kafka.

mod broker;
mod delivery;
mod embedded;
mod letters;
mod log;
mod order;
mod program;
mod stage;

/// The same test for each way that events can go.
macro_rules! on_all {
    ($($name:ident;)*) => {
        mod within_sqlite {$(
            #[tokio::test]
            async fn $name() {
                let stage = super::Stage::<sqlx::Sqlite>::within().await.expect("a file can be made");
                super::$name(stage).await;
            }
        )*}
        mod within_mariadb {$(
            #[tokio::test]
            async fn $name() {
                let Some(stage) = super::Stage::<sqlx::MySql>::within().await else { return };
                super::$name(stage).await;
            }
        )*}
        mod through_kafka {$(
            #[tokio::test]
            async fn $name() {
                let Some(stage) = super::Stage::<sqlx::MySql>::through_kafka().await else { return };
                super::$name(stage).await;
            }
        )*}
    };
}
pub(crate) use on_all;
