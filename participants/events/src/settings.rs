//! How a service's events are carried, as flags or environment variables.

#[cfg(any(test, feature = "kafka"))]
use std::collections::BTreeMap;

use tracing::warn;

use crate::bus::{Bus, Error};
use crate::event::Topic;

/// Settings, or topics, that can not be used: mend what the text names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Partitions of a topic that the settings do not name.
pub const PARTITIONS: i32 = 12;

/// Where the broker is, and what its topics are like.
#[derive(Clone, Debug, clap::Args)]
pub struct Kafka {
    /// Brokers of Kafka that events go through, such as kafka-1:9092,kafka-2:9092; without them no events are written
    #[arg(id = "kafka", long = "kafka", env = "TERCET_KAFKA")]
    pub brokers: Option<String>,
    /// What the names of topics begin with
    #[arg(long = "kafka-prefix", env = "TERCET_KAFKA_PREFIX", default_value = "tercet.")]
    pub prefix: String,
    /// Partitions of topics, such as coupon=48,order=48; 12 for one that is not named. A topic that has another number
    /// is an error
    #[arg(
        long = "kafka-partitions",
        env = "TERCET_KAFKA_PARTITIONS",
        value_delimiter = ',',
        value_parser = partitions
    )]
    pub partitions: Vec<(Topic, i32)>,
    /// Copies of each partition; the broker's default when left out
    #[arg(
        long = "kafka-replication",
        env = "TERCET_KAFKA_REPLICATION",
        default_value_t = -1,
        hide_default_value = true
    )]
    pub replication: i32,
    /// Further settings of librdkafka, such as security.protocol=SSL
    #[arg(long = "kafka-option", env = "TERCET_KAFKA_OPTIONS", value_delimiter = ',', value_parser = option)]
    pub options: Vec<(String, String)>,
}

impl Kafka {
    /// A broker with everything else as it is by default.
    pub fn at(brokers: &str) -> Self {
        let (brokers, prefix) = (Some(brokers.to_owned()), "tercet.".to_owned());
        Self { brokers, prefix, partitions: Vec::new(), replication: -1, options: Vec::new() }
    }

    /// The bus of these settings; none where they name no broker, and then no events are written. A broker that does
    /// not answer is no error: events wait in their outboxes.
    ///
    /// # Errors
    /// [`Error::Refused`] when the settings make no sense, or the topics are not as they say.
    pub async fn connect(&self) -> Result<Option<Bus>, Error> {
        if self.brokers.is_none() {
            return Ok(None);
        }
        let bus = self.bus()?;
        match bus.prepare().await {
            Ok(()) => {}
            Err(error @ Error::Refused(_)) => return Err(error),
            Err(error @ (Error::Unavailable(_) | Error::Gone)) => warn!(%error, "events wait until it is there"),
        }
        Ok(Some(bus))
    }

    #[cfg(feature = "kafka")]
    fn bus(&self) -> Result<Bus, Refused> {
        Bus::kafka(self)
    }

    #[cfg(not(feature = "kafka"))]
    fn bus(&self) -> Result<Bus, Refused> {
        Err(Refused("no broker is built into this program: build it with the feature kafka".to_owned()))
    }

    /// The partitions of each topic.
    ///
    /// # Errors
    /// When one is named twice.
    #[cfg(any(test, feature = "kafka"))]
    pub(crate) fn topics(&self) -> Result<BTreeMap<Topic, i32>, Refused> {
        let mut topics = BTreeMap::new();
        for &(topic, partitions) in &self.partitions {
            if topics.insert(topic, partitions).is_some() {
                return Err(Refused(format!("kafka-partitions names the topic {} twice", topic.name())));
            }
        }
        for topic in Topic::ALL {
            topics.entry(topic).or_insert(PARTITIONS);
        }
        Ok(topics)
    }
}

fn partitions(text: &str) -> Result<(Topic, i32), String> {
    let (name, number) = option(text)?;
    let topic = Topic::of(&name).ok_or_else(|| {
        let names = Topic::ALL.map(Topic::name).join(", ");
        format!("{name:?} is no topic: {names}")
    })?;
    match number.parse() {
        Ok(number @ 1..=10_000) => Ok((topic, number)),
        Ok(_) | Err(_) => Err(format!("{number:?} is not 1 to 10000 partitions")),
    }
}

fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form name=value"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        kafka: Kafka,
    }

    fn parse(arguments: &str) -> Result<Kafka, String> {
        let words = std::iter::once("x").chain(arguments.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.kafka).map_err(|error| error.to_string())
    }

    #[test]
    fn partitions_are_those_of_the_settings_and_twelve_else() {
        let kafka = parse("--kafka k:9092 --kafka-partitions coupon=48,order=1").expect("they are sound");
        let topics = kafka.topics().expect("each is named once");
        assert_eq!((topics[&Topic::Coupon], topics[&Topic::Order], topics[&Topic::User]), (48, 1, PARTITIONS));
        assert_eq!(topics.len(), Topic::ALL.len());
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        for (arguments, text) in [
            ("--kafka-partitions coupons=4", "\"coupons\" is no topic"),
            ("--kafka-partitions coupon=0", "\"0\" is not 1 to 10000 partitions"),
            ("--kafka-partitions coupon", "\"coupon\" is not of the form name=value"),
        ] {
            let error = parse(arguments).expect_err("it is refused");
            assert!(error.contains(text), "{error}");
        }
        let twice = parse("--kafka-partitions coupon=4,coupon=5").expect("each is sound").topics();
        assert_eq!(twice.map(drop), Err(Refused("kafka-partitions names the topic coupon twice".into())));
    }
}
