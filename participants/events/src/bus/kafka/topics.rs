//! Topics as the settings say: made where they are missing, and looked at where they are there.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use super::{ANSWER_MAX, Bus, Context, Error, unavailable};
use crate::settings::Refused;

/// Between two looks whether a new topic is known by now.
const POLL: Duration = Duration::from_millis(50);

/// Makes topics with so many partitions each.
pub(super) async fn ensure(bus: &Bus, topics: Vec<(String, i32)>, settings: &[(&str, &str)]) -> Result<(), Error> {
    let admin = AdminClient::from_config_and_context(&bus.config(), Context).map_err(unavailable)?;
    let admin = std::sync::Arc::new(admin);
    let deadline = Instant::now() + ANSWER_MAX;
    let mut asked = false;
    loop {
        let asking = admin.clone();
        // All topics: asking for one by name might make it, with the broker's number of partitions.
        let found = tokio::task::spawn_blocking(move || asking.inner().fetch_metadata(None, ANSWER_MAX));
        let found = found.await.map_err(unavailable)?.map_err(unavailable)?;
        let found: BTreeMap<&str, usize> =
            found.topics().iter().map(|topic| (topic.name(), topic.partitions().len())).collect();
        let mut missing = Vec::new();
        for (name, partitions) in &topics {
            match found.get(name.as_str()) {
                // It is being made.
                None | Some(0) => missing.push((name, *partitions)),
                Some(&own) if i32::try_from(own) == Ok(*partitions) => {}
                Some(own) => {
                    let text = format!("the topic {name} has {own} partitions, and kafka-partitions says {partitions}");
                    return Err(Refused(text).into());
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(unavailable(format!("the topic {} does not get ready", missing[0].0)));
        }
        if !asked {
            make(bus, &admin, &missing, settings).await?;
            asked = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn make(
    bus: &Bus,
    admin: &AdminClient<Context>,
    missing: &[(&String, i32)],
    settings: &[(&str, &str)],
) -> Result<(), Error> {
    let new = missing.iter().map(|(name, partitions)| {
        let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(bus.0.replication));
        settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    });
    let new: Vec<_> = new.collect();
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
    for made in admin.create_topics(&new, &options).await.map_err(unavailable)? {
        match made {
            // Somebody else was quicker.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(unavailable(format!("the topic {name} can not be made: {code}"))),
        }
    }
    Ok(())
}
