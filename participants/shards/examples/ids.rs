//! How many ids a second one process makes, over all slots, with every core: `cargo run --release --example ids`.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqlitePoolOptions;
use tercet_shards::{SLOTS, Slot, node};

const RUN: Duration = Duration::from_secs(2);

#[tokio::main]
#[allow(clippy::print_stdout, reason = "it is what the program is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let (ids, keeper) = node::lease(pool, "ids", node::LEASE).await?;
    let keeping = tokio::spawn(keeper.run(std::future::pending()));
    let threads = std::thread::available_parallelism()?.get();
    let started = Instant::now();
    let makers = (0..threads).map(|at| {
        let ids = std::sync::Arc::clone(&ids);
        tokio::spawn(async move {
            let (mut made, mut user_id) = (0_u64, at as i64);
            while started.elapsed() < RUN {
                for _ in 0..SLOTS {
                    user_id += threads as i64;
                    ids.next(Slot::of_user(user_id)).await?;
                    made += 1;
                }
            }
            Ok::<_, tercet_shards::IdError>(made)
        })
    });
    let mut made = 0;
    for maker in makers.collect::<Vec<_>>() {
        made += maker.await??;
    }
    keeping.abort();
    println!("{:.0} ids/s with {threads} threads", made as f64 / started.elapsed().as_secs_f64());
    Ok(())
}
