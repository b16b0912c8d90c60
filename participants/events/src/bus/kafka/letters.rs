//! The topics of dead letters, read from where the last look that changed something stopped, to their present ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::{ANSWER_MAX, Bus, Context, Error, Record, dead_topic, unavailable};
use crate::dead::{Fate, Letter};
use crate::event::Stamp;

/// A letter in its topic.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) at_ms: i64,
    pub(crate) key: String,
    pub(crate) letter: Letter,
    /// The letter's own id, which a repeat of it shares.
    id: (String, i64),
    pub(crate) payload: Vec<u8>,
}

/// What one group could not take of one topic.
pub(crate) struct DeadTopic {
    bus: Bus,
    name: String,
    consumer: Arc<StreamConsumer<Context>>,
    /// By partition: the next offset, and where it ends.
    left: BTreeMap<i32, (i64, i64)>,
}

impl DeadTopic {
    /// All that are there now and were not settled.
    pub(crate) async fn open(bus: &Bus, topic: &str, group: &str) -> Result<Self, Error> {
        let name = bus.full(&dead_topic(topic, group));
        let consumer = Arc::new(bus.consumer(&format!("{group}.letters"))?);
        let asking = (consumer.clone(), name.clone());
        let left = tokio::task::spawn_blocking(move || left(&asking.0, &asking.1)).await.map_err(unavailable)??;
        let mut offsets = TopicPartitionList::new();
        for (partition, (next, _)) in &left {
            offsets.add_partition_offset(&name, *partition, Offset::Offset(*next)).map_err(unavailable)?;
        }
        consumer.assign(&offsets).map_err(unavailable)?;
        Ok(Self { bus: bus.clone(), name, consumer, left })
    }

    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Found>, Error> {
        while self.left.values().any(|(next, end)| next < end) {
            let message = self.consumer.recv().await.map_err(unavailable)?;
            let Some((next, end)) = self.left.get_mut(&message.partition()) else { continue };
            *next = message.offset() + 1;
            if message.offset() < *end {
                return Ok(Some(found(&message)));
            }
        }
        Ok(None)
    }

    /// Sends these, in the order of [`DeadTopic::next`], back to their topics or gives them up, and does not show them
    /// again.
    pub(crate) async fn settle(&self, found: Vec<Found>, fate: Fate) -> Result<(), Error> {
        let mut offsets = BTreeMap::new();
        for one in &found {
            offsets.insert(one.partition, one.offset + 1);
        }
        if fate == Fate::Back {
            self.send_back(found).await?;
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).map_err(unavailable)?;
        }
        let consumer = self.consumer.clone();
        let committed = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync));
        committed.await.map_err(unavailable)?.map_err(unavailable)
    }

    /// Sends these back to their topics, in any order. They are shown until they are settled.
    pub(crate) async fn send_back(&self, found: Vec<Found>) -> Result<(), Error> {
        let records: Vec<Record> = found.into_iter().map(back).collect();
        self.bus.publish(&records).await
    }
}

/// By partition: where to begin, and the end.
fn left(consumer: &StreamConsumer<Context>, name: &str) -> Result<BTreeMap<i32, (i64, i64)>, Error> {
    let metadata = consumer.fetch_metadata(None, ANSWER_MAX).map_err(unavailable)?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let topic = topic.ok_or_else(|| unavailable(format!("there is no topic {name}")))?;
    let mut offsets = TopicPartitionList::new();
    for partition in topic.partitions() {
        offsets.add_partition(name, partition.id());
    }
    let committed = consumer.committed_offsets(offsets, ANSWER_MAX).map_err(unavailable)?;
    let mut left = BTreeMap::new();
    for element in committed.elements() {
        let (low, high) = consumer.fetch_watermarks(name, element.partition(), ANSWER_MAX).map_err(unavailable)?;
        let next = element.offset().to_raw().filter(|offset| *offset >= low).unwrap_or(low);
        left.insert(element.partition(), (next, high));
    }
    Ok(left)
}

fn found(message: &BorrowedMessage<'_>) -> Found {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        headers.insert(header.key, String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned());
    }
    let mut text = |name: &str| headers.remove(name).unwrap_or_default();
    let number = |text: String| text.parse().unwrap_or_default();
    let letter = Letter {
        group: text("tercet-group"),
        topic: text("tercet-topic"),
        partition: text("tercet-partition").parse().unwrap_or_default(),
        source: text("tercet-source"),
        sequence: number(text("tercet-sequence")),
        reason: text("tercet-reason"),
        attempts: text("tercet-attempts").parse().unwrap_or_default(),
    };
    Found {
        partition: message.partition(),
        offset: message.offset(),
        at_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        letter,
        id: (text("tercet-letter-source"), number(text("tercet-letter-sequence"))),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}

/// On its way back it has the letter's id: that of the event is behind its group already. Each is a source of its own,
/// so that one may go before others that are older, and is a repeat when it goes with them once more.
fn back(found: Found) -> Record {
    let Found { key, letter, id: (source, letter_sequence), mut payload, .. } = found;
    let (source, sequence) = (format!("{source}.dead.{letter_sequence}"), 1);
    let stamp = Stamp { source: &source, sequence: 1, occurred_ms: 0, only_group: &letter.group };
    stamp.put_on(&mut payload);
    Record { topic: letter.topic, key, source, sequence, letter: None, payload: Bytes::from(payload) }
}
