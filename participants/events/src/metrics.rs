//! Every metric of events. Labels are services, topics and groups, which code names.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::store::Look;

/// Events that were published, by topic.
pub(crate) fn published(service: &'static str, topic: &str, count: u64) {
    counter!("tercet_outbox_published_total", "service" => service, "topic" => topic.to_owned()).increment(count);
}

/// A batch that was published, from the first event of it to the last that the broker acknowledged.
pub(crate) fn batch_published(service: &'static str, took: Duration) {
    histogram!("tercet_outbox_publish_seconds", "service" => service).record(took.as_secs_f64());
}

/// An attempt to publish that came to nothing.
pub(crate) fn publish_failed(service: &'static str) {
    counter!("tercet_outbox_failures_total", "service" => service).increment(1);
}

/// What waits in a database whose relay this process is: zero once another one is.
pub(crate) fn looked(service: &'static str, place: usize, look: &Look) {
    let place = place.to_string();
    let label = |name: &'static str| gauge!(name, "service" => service, "place" => place.clone());
    label("tercet_outbox_oldest_seconds").set(look.oldest_ms as f64 / 1_000.0);
    label("tercet_outbox_rows").set(look.rows as f64);
    label("tercet_dead_letters").set(look.dead as f64);
}

/// What became of events that came to a group: `done`, `repeat` or `other` (for another group, or of no kind that it
/// knows).
pub(crate) fn consumed(group: &'static str, what: &'static str, count: usize) {
    counter!("tercet_consumer_events_total", "group" => group, "what" => what).increment(count as u64);
}

/// Events that a group could not take and has put away. None makes the series known, so that the first one is a rise.
pub(crate) fn died(group: &'static str, topic: &str, count: u64) {
    counter!("tercet_consumer_dead_total", "group" => group, "topic" => topic.to_owned()).increment(count);
}

/// An attempt to take events that came to nothing.
pub(crate) fn consume_failed(group: &'static str) {
    counter!("tercet_consumer_failures_total", "group" => group).increment(1);
}

/// How old the oldest event is that a group has in hand, or has just taken; none when nothing comes.
pub(crate) fn lags(group: &'static str, age: Duration) {
    gauge!("tercet_consumer_lag_seconds", "group" => group).set(age.as_secs_f64());
}

/// A batch from its arrival to its last commit.
pub(crate) fn batch_consumed(group: &'static str, took: Duration) {
    histogram!("tercet_consumer_batch_seconds", "group" => group).record(took.as_secs_f64());
}
