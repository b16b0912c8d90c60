//! Dead letters: what a consumer could not take, why, and the way back.
//!
//! A letter is written in the same local transaction in which its consumer passes the event over. With a broker it goes
//! through the consumer's outbox to the topic `TOPIC.GROUP.dead`, with the event as it was and headers that say why;
//! without one the consumer's database keeps it. On the way back only the group that put it away takes it.

use prost::Message as _;
use sqlx::Pool;
use tercet_proto::events::v1 as pb;

use crate::event::Stamp;
use crate::limits::REASON_BYTES_MAX;
use crate::store::{Row, Store};

/// Where an event was, and why it could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Letter {
    /// The group that could not take it.
    pub group: String,
    /// Where it was.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// With the sequence its id; empty where its offset is.
    pub source: String,
    /// See the source.
    pub sequence: i64,
    /// Why, in words.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

impl Letter {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts have a form in JSON")
    }
}

/// A reason, cut to its limit between two characters.
pub(crate) fn shortened(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

/// A dead letter that a database keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its number there.
    pub id: i64,
    /// When it was put away.
    pub at_ms: i64,
    /// What keeps its order.
    pub key: String,
    /// Where it was, and why it is here.
    pub letter: Letter,
    /// Its bytes.
    pub bytes: usize,
}

/// So many of the letters that a database keeps, above an id.
///
/// # Errors
/// The database's.
pub async fn kept<Db: Store>(pool: &Pool<Db>, after: i64, limit: u32) -> sqlx::Result<Vec<Kept>> {
    let found = Db::letters(&mut *pool.acquire().await?, after, limit).await?;
    let read = |waiting: crate::store::Waiting| {
        let Row { key, letter, payload, .. } = waiting.row;
        let letter = letter_of(letter.as_deref())?;
        Ok(Kept { id: waiting.id, at_ms: waiting.at_ms, key, letter, bytes: payload.len() })
    };
    found.into_iter().map(read).collect()
}

fn letter_of(json: Option<&str>) -> sqlx::Result<Letter> {
    serde_json::from_str(json.unwrap_or_default()).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They go back to their topic, where their group takes them.
    Back,
    /// They are given up.
    Discard,
}

/// Sends a letter that a database keeps back through the outbox of the same database, or gives it up; false when it
/// is not there any more.
///
/// # Errors
/// The database's.
pub async fn settle<Db: Store>(pool: &Pool<Db>, id: i64, fate: Fate) -> sqlx::Result<bool> {
    let mut db_tx = pool.begin_with(Db::BEGIN_WRITE).await?;
    let Some(found) = Db::letter_get(&mut db_tx, id).await? else { return Ok(false) };
    Db::letter_release(&mut db_tx, id).await?;
    if fate == Fate::Back {
        let letter = letter_of(found.row.letter.as_deref())?;
        let mut payload = found.row.payload;
        let at_ms =
            pb::Event::decode(payload.as_slice()).ok().map(|event| event.occurred_ms).filter(|at_ms| *at_ms > 0);
        Stamp { source: "", sequence: 0, occurred_ms: 0, only_group: &letter.group }.put_on(&mut payload);
        let row = Row { topic: letter.topic, key: found.row.key, at_ms, letter: None, payload };
        Db::outbox_append(&mut db_tx, &[row]).await?;
    }
    db_tx.commit().await?;
    Ok(true)
}

/// A dead letter in its topic.
#[cfg(feature = "kafka")]
#[derive(Clone, Debug)]
pub struct InTopic {
    /// When it was put away.
    pub at_ms: i64,
    /// What keeps its order.
    pub key: String,
    /// Where it was, and why it is here.
    pub letter: Letter,
    /// Its bytes.
    pub bytes: usize,
}

/// Shows what a group could not take of a topic and was not settled yet, oldest first in each partition, at most so
/// many; with a fate they are settled. Returns how many there were. Two that settle at once do it twice, which the
/// group knows for repeats.
///
/// # Errors
/// Those of the bus; [`Refused`](crate::settings::Refused) where it has no topics.
#[cfg(feature = "kafka")]
pub async fn in_topic(
    bus: &crate::bus::Bus,
    topic: &str,
    group: &str,
    fate: Option<Fate>,
    limit: usize,
    mut show: impl FnMut(&str, &InTopic),
) -> Result<usize, crate::bus::Error> {
    let mut dead = bus.dead_topic(topic, group).await?;
    let (mut count, mut found) = (0, Vec::new());
    while count < limit
        && let Some(one) = dead.next().await?
    {
        count += 1;
        show(&format!("{:>2}/{:<4}", one.partition, one.offset), &shown(&one));
        let Some(fate) = fate else { continue };
        found.push(one);
        if found.len() == crate::limits::BATCH_ROWS_MAX {
            dead.settle(std::mem::take(&mut found), fate).await?;
        }
    }
    if let Some(fate) = fate.filter(|_| !found.is_empty()) {
        dead.settle(found, fate).await?;
    }
    Ok(count)
}

/// Shows the letter at this partition and offset of what a group could not take of a topic, and sends it back where
/// that is wanted; false when it is not there or was settled. It is shown until all before it are settled too, and is
/// a repeat to its group when it is sent back again with them.
///
/// # Errors
/// As of [`in_topic`].
#[cfg(feature = "kafka")]
pub async fn one_in_topic(
    bus: &crate::bus::Bus,
    (topic, group): (&str, &str),
    (partition, offset): (i32, i64),
    back: bool,
    mut show: impl FnMut(&InTopic),
) -> Result<bool, crate::bus::Error> {
    let mut dead = bus.dead_topic(topic, group).await?;
    while let Some(one) = dead.next().await? {
        if (one.partition, one.offset) == (partition, offset) {
            show(&shown(&one));
            if back {
                dead.send_back(vec![one]).await?;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(feature = "kafka")]
fn shown(one: &crate::bus::kafka::Found) -> InTopic {
    InTopic { at_ms: one.at_ms, key: one.key.clone(), letter: one.letter.clone(), bytes: one.payload.len() }
}
