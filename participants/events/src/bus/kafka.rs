//! Events through Kafka.
//!
//! A batch is sent by an idempotent producer that waits for all copies, without a time-out of its own: a record is
//! never given up and its successors sent, so that within a partition the first copies of events are in their order
//! whatever breaks. Repeats are possible; consumers know them by their ids.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};

use super::{Delivered, Error, Group, Record, dead_topic};
use crate::dead::Letter;
use crate::event::Topic;
use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};
use crate::settings::{Kafka, Refused};

mod letters;
mod topics;

pub(crate) use letters::{DeadTopic, Found};

/// What librdkafka says, with the levels that it means to us: it goes on by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                warn!(fac, message, "kafka");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => info!(fac, message, "kafka"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(fac, message, "kafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Context {}

type Producer = FutureProducer<Context>;

#[derive(Clone)]
pub(crate) struct Bus(Arc<Inner>);

struct Inner {
    base: ClientConfig,
    prefix: String,
    topics: BTreeMap<Topic, i32>,
    replication: i32,
    prepared: OnceCell<()>,
    /// Made again after an error that it can not recover from.
    producer: Mutex<Option<Producer>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("prefix", &self.0.prefix).field("topics", &self.0.topics).finish_non_exhaustive()
    }
}

fn unavailable(error: impl fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

impl Bus {
    pub(crate) fn new(settings: &Kafka) -> Result<Self, Refused> {
        let Kafka { brokers, prefix, replication, options, .. } = settings;
        let brokers = brokers.as_deref().filter(|brokers| !brokers.trim().is_empty());
        let brokers = brokers.ok_or_else(|| Refused("kafka names no broker".to_owned()))?;
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", brokers).set("client.id", "tercet").set("reconnect.backoff.max.ms", "1000");
        base.set("topic.metadata.refresh.interval.ms", "60000");
        for (name, value) in options {
            base.set(name, value);
        }
        let inner = Inner {
            base,
            prefix: prefix.clone(),
            topics: settings.topics()?,
            replication: *replication,
            prepared: OnceCell::new(),
            producer: Mutex::default(),
        };
        // It connects by itself; what is wrong with the settings is told now.
        let made = inner.producer();
        made.map(|_| Self(Arc::new(inner))).map_err(|error| Refused(format!("kafka-option: {error}")))
    }

    /// What every client begins with.
    fn config(&self) -> ClientConfig {
        self.0.base.clone()
    }

    /// The name of a topic in the broker.
    fn full(&self, topic: &str) -> String {
        format!("{}{topic}", self.0.prefix)
    }

    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let own = || self.0.topics.iter().map(|(topic, partitions)| (self.full(topic.name()), *partitions)).collect();
        self.0.prepared.get_or_try_init(async || topics::ensure(self, own(), &[]).await).await.map(drop)
    }

    pub(crate) async fn publish(&self, records: &[Record]) -> Result<(), Error> {
        self.prepare().await?;
        let producer = self.0.producer().map_err(unavailable)?;
        let mut failed = None;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let topic = self.full(&record.topic);
            let mut sent = FutureRecord::to(&topic).key(&record.key).payload(record.payload.as_ref());
            if let Some(letter) = &record.letter {
                sent = sent.headers(headers(letter, record)?);
            }
            match producer.send_result(sent) {
                Ok(delivery) => deliveries.push(delivery),
                // Those after it must not come before it.
                Err((error, _)) => {
                    failed = Some(error.to_string());
                    break;
                }
            }
        }
        for delivery in deliveries {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => failed = failed.or_else(|| Some(error.to_string())),
                Err(_) => failed = failed.or_else(|| Some("the producer has gone".to_owned())),
            }
        }
        let Some(error) = failed else { return Ok(()) };
        if let Some((code, reason)) = producer.client().fatal_error() {
            warn!(%code, reason, "the producer can not go on and is made again");
            *self.0.lock() = None;
        }
        Err(unavailable(error))
    }

    pub(crate) async fn subscribe(&self, group: &Group) -> Result<Subscription, Error> {
        self.prepare().await?;
        let dead = group.topics.iter().map(|topic| {
            let partitions = self.0.topics.get(topic).copied().unwrap_or(1);
            (self.full(&dead_topic(topic.name(), group.name)), partitions)
        });
        // Nobody knows how long a person will take.
        topics::ensure(self, dead.collect(), &[("retention.ms", "-1")]).await?;
        let consumer = self.consumer(group.name)?;
        let names: Vec<String> = group.topics.iter().map(|topic| self.full(topic.name())).collect();
        consumer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()).map_err(unavailable)?;
        Ok(Subscription { consumer, prefix: self.0.prefix.len() })
    }

    /// A consumer that begins where its group was, or at the beginning.
    fn consumer(&self, group: &str) -> Result<StreamConsumer<Context>, Error> {
        let mut config = self.config();
        for (name, value) in [
            ("group.id", self.full(group).as_str()),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "10000"),
            ("queued.max.messages.kbytes", "16384"),
        ] {
            // What the settings say counts.
            if config.get(name).is_none() {
                config.set(name, value);
            }
        }
        StreamConsumer::from_config_and_context(&config, Context).map_err(unavailable)
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Producer>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn producer(&self) -> Result<Producer, KafkaError> {
        let mut made = self.lock();
        if let Some(producer) = made.as_ref() {
            return Ok(producer.clone());
        }
        let mut config = self.base.clone();
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("enable.gapless.guarantee", "true"),
            ("message.timeout.ms", "0"),
            // As the clients of other languages do it, so that theirs put a key into the same partition.
            ("partitioner", "murmur2_random"),
            // A batch comes at once; there is nothing to wait for.
            ("linger.ms", "1"),
            ("compression.type", "lz4"),
        ] {
            config.set(name, value);
        }
        let producer = Producer::from_config_and_context(&config, Context)?;
        Ok(made.insert(producer).clone())
    }
}

/// Why it died and where, and the dead letter's own id.
fn headers(letter: &str, record: &Record) -> Result<OwnedHeaders, Error> {
    let Letter { group, topic, partition, source, sequence, reason, attempts } =
        serde_json::from_str(letter).map_err(unavailable)?;
    let values = [
        ("tercet-reason", reason),
        ("tercet-group", group),
        ("tercet-topic", topic),
        ("tercet-partition", partition.to_string()),
        ("tercet-source", source),
        ("tercet-sequence", sequence.to_string()),
        ("tercet-attempts", attempts.to_string()),
        ("tercet-letter-source", record.source.clone()),
        ("tercet-letter-sequence", record.sequence.to_string()),
    ];
    let headers = OwnedHeaders::new_with_capacity(values.len());
    let add = |headers: OwnedHeaders, (key, value): &(&str, String)| headers.insert(Header { key, value: Some(value) });
    Ok(values.iter().fold(headers, add))
}

pub(crate) struct Subscription {
    consumer: StreamConsumer<Context>,
    /// How many bytes of a topic's name are the prefix.
    prefix: usize,
}

/// By topic and partition: the offset after the last event.
#[derive(Debug, Default)]
pub(crate) struct Receipt(BTreeMap<(String, i32), i64>);

impl Subscription {
    pub(crate) async fn next(&mut self) -> Result<(Vec<Delivered>, Receipt), Error> {
        let (mut events, mut receipt) = (Vec::new(), Receipt::default());
        let mut bytes = self.take(&self.consumer.recv().await.map_err(unavailable)?, &mut events, &mut receipt);
        while events.len() < BATCH_ROWS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Some(Ok(more)) = self.consumer.recv().now_or_never()
        {
            bytes += self.take(&more, &mut events, &mut receipt);
        }
        Ok((events, receipt))
    }

    fn take(&self, message: &BorrowedMessage<'_>, events: &mut Vec<Delivered>, receipt: &mut Receipt) -> usize {
        let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        let bytes = payload.len();
        receipt.0.insert((message.topic().to_owned(), message.partition()), message.offset() + 1);
        events.push(Delivered {
            topic: message.topic().get(self.prefix..).unwrap_or_default().to_owned(),
            partition: message.partition(),
            key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
            place: (String::new(), message.offset()),
            payload,
        });
        bytes
    }

    pub(crate) fn done(&self, receipt: &Receipt) -> Result<(), Error> {
        let mut offsets = TopicPartitionList::with_capacity(receipt.0.len());
        for ((topic, partition), offset) in &receipt.0 {
            let added = offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset));
            added.map_err(unavailable)?;
        }
        self.consumer.commit(&offsets, CommitMode::Async).map_err(unavailable)
    }
}

/// How long the broker may take to answer a question about its topics.
const ANSWER_MAX: Duration = Duration::from_secs(5);
