//! What carries events from outboxes to consumers: a broker, or the process itself.

use bytes::Bytes;

use crate::event::Topic;
use crate::settings::Refused;

mod in_process;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;

/// Consumers that share the events of some topics among them. Each event comes to every group.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Its name: 1 to 64 of `[a-z0-9_-]`.
    pub name: &'static str,
    /// What it is told.
    pub topics: &'static [Topic],
}

impl Group {
    /// The topic of what this group could not take of another one.
    pub fn dead_topic(&self, topic: &str) -> String {
        dead_topic(topic, self.name)
    }
}

/// The topic of what a group could not take of another one.
pub fn dead_topic(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dead")
}

/// Why nothing was published, or nothing comes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker does not answer, or not as it should: try again.
    #[error("the broker: {0}")]
    Unavailable(String),
    /// A consumer of this process has gone before it took everything: try again.
    #[error("a consumer has gone")]
    Gone,
    /// The topics are not as the settings say. Change the settings, or the topics; nothing else helps.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// An event on its way out.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic's name without the prefix.
    pub topic: String,
    /// What keeps its order.
    pub key: String,
    /// The outbox.
    pub source: String,
    /// Its number there.
    pub sequence: i64,
    /// Of a dead letter: where it was and why it could not be taken, as JSON.
    pub letter: Option<String>,
    /// The event.
    pub payload: Bytes,
}

/// An event on its way in.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The topic's name without the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What keeps its order.
    pub key: String,
    /// Its id where it does not carry one.
    pub place: (String, i64),
    /// The event.
    pub payload: Bytes,
}

/// Carries events. Clones share it.
#[derive(Clone, Debug)]
pub struct Bus(Kind);

#[derive(Clone, Debug)]
enum Kind {
    InProcess(in_process::Bus),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Bus),
}

impl Bus {
    /// Within this process, to these groups: an event is published when each of them has taken it. What no group is
    /// told is dropped.
    pub fn in_process(groups: &[Group]) -> Self {
        Self(Kind::InProcess(in_process::Bus::new(groups)))
    }

    /// A broker's. It is not asked for anything yet.
    ///
    /// # Errors
    /// [`Refused`] where the settings make no sense.
    #[cfg(feature = "kafka")]
    pub fn kafka(settings: &crate::settings::Kafka) -> Result<Self, Refused> {
        Ok(Self(Kind::Kafka(kafka::Bus::new(settings)?)))
    }

    /// Makes the topics where they are missing.
    ///
    /// # Errors
    /// [`Error::Refused`] when one has another number of partitions than the settings say: then keys would lie where
    /// nobody expects them. [`Error::Unavailable`] when the broker does not answer.
    pub async fn prepare(&self) -> Result<(), Error> {
        match &self.0 {
            Kind::InProcess(_) => Ok(()),
            #[cfg(feature = "kafka")]
            Kind::Kafka(bus) => bus.prepare().await,
        }
    }

    /// Whether dead letters have topics; else their consumer's database keeps them.
    pub(crate) const fn keeps_letters(&self) -> bool {
        match &self.0 {
            Kind::InProcess(_) => false,
            #[cfg(feature = "kafka")]
            Kind::Kafka(_) => true,
        }
    }

    /// Whether only this process can relay what it has written.
    pub(crate) const fn is_alone(&self) -> bool {
        !self.keeps_letters()
    }

    /// Publishes these in their order, and returns when all of them are where no crash loses them. After an error any
    /// of them may have been published.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn publish(&self, records: &[Record]) -> Result<(), Error> {
        match &self.0 {
            Kind::InProcess(bus) => bus.publish(records).await,
            #[cfg(feature = "kafka")]
            Kind::Kafka(bus) => bus.publish(records).await,
        }
    }

    /// What a group could not take of a topic.
    #[cfg(feature = "kafka")]
    pub(crate) async fn dead_topic(&self, topic: &str, group: &str) -> Result<kafka::DeadTopic, Error> {
        match &self.0 {
            Kind::InProcess(_) => Err(Refused("dead letters are in the consumer's database".to_owned()).into()),
            Kind::Kafka(bus) => kafka::DeadTopic::open(bus, topic, group).await,
        }
    }

    /// What is published for a group. Several share it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a group that this bus was not made for; those of [`Bus::prepare`].
    pub async fn subscribe(&self, group: &Group) -> Result<Subscription, Error> {
        match &self.0 {
            Kind::InProcess(bus) => Ok(Subscription(Source::InProcess(bus.subscribe(group)?))),
            #[cfg(feature = "kafka")]
            Kind::Kafka(bus) => Ok(Subscription(Source::Kafka(bus.subscribe(group).await?))),
        }
    }
}

/// What is published for a group.
pub struct Subscription(Source);

enum Source {
    InProcess(in_process::Subscription),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Subscription),
}

/// Events of a group, and the way to say that they were taken.
pub struct Batch {
    /// In their order within each partition.
    pub events: Vec<Delivered>,
    receipt: Receipt,
}

enum Receipt {
    InProcess(in_process::Receipt),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Receipt),
}

impl Subscription {
    /// The next events, at least one and at most about 500. Those of a batch that was dropped come again: at once
    /// within a process, and after the next start of a consumer from a broker.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn next(&mut self) -> Result<Batch, Error> {
        match &mut self.0 {
            Source::InProcess(source) => {
                let (events, receipt) = source.next().await?;
                Ok(Batch { events, receipt: Receipt::InProcess(receipt) })
            }
            #[cfg(feature = "kafka")]
            Source::Kafka(source) => {
                let (events, receipt) = source.next().await?;
                Ok(Batch { events, receipt: Receipt::Kafka(receipt) })
            }
        }
    }

    /// Says that these were taken: their effects are committed.
    ///
    /// # Errors
    /// Those of [`Error`]: they come again.
    pub fn done(&self, batch: Batch) -> Result<(), Error> {
        match (&self.0, batch.receipt) {
            (Source::InProcess(_), Receipt::InProcess(receipt)) => {
                receipt.done();
                Ok(())
            }
            #[cfg(feature = "kafka")]
            (Source::Kafka(source), Receipt::Kafka(receipt)) => source.done(&receipt),
            #[cfg(feature = "kafka")]
            (Source::InProcess(_), Receipt::Kafka(_)) | (Source::Kafka(_), Receipt::InProcess(_)) => Err(Error::Gone),
        }
    }
}
