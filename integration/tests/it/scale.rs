//! Much to do and one that does not do it: what a coordinator does with a long log and a service in trouble, each a
//! smaller run of the program that measures it. What is asserted is a ratio, and on a machine that has other work a
//! ratio may be off: then it is measured again, three times in all.

use std::fmt::Display;

use tercet_integration::load::{bulkhead, overload, recover};
use tokio::task::LocalSet;

async fn measured<R: Display>(run: impl AsyncFn() -> anyhow::Result<R>, broken: impl Fn(&R) -> bool) {
    for _ in 0..3 {
        let report = LocalSet::new().run_until(run()).await.expect("the servers run");
        eprintln!("{report}");
        if !broken(&report) {
            return;
        }
    }
    panic!("it is broken each time");
}

#[tokio::test]
async fn a_long_log_goes_evenly_and_within_what_each_service_takes_and_a_dead_one_keeps_its_rows() {
    let config = recover::Config { rows: 20_000, services: 10, dead: 1, concurrency: 64, drain_min: 0.0, json: false };
    measured(async || recover::run(&config).await, |report| !report.broken.is_empty()).await;
}

#[tokio::test]
async fn a_service_in_any_trouble_costs_the_others_nothing() {
    let config = bulkhead::Config { trouble: None, clients: 16, seconds: 2, rate: None, p99_max: 5.0, json: false };
    measured(async || bulkhead::run(&config).await, |report| !report.broken.is_empty()).await;
}

#[tokio::test]
async fn five_times_what_services_can_do_is_refused_by_name_and_costs_what_they_can_do_little() {
    let config = overload::Config {
        factor: 5.0,
        seconds: 20,
        clients: 64,
        sdk: false,
        delay_ms: 5,
        concurrency: 10,
        json: false,
    };
    measured(async || overload::run(&config).await, |report| !report.broken.is_empty()).await;
}
