//! What the clients were told: a file of lines, each synced before its client makes its next call.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Rows of one statement when they are read into a table.
pub(super) const CHUNK: usize = 10_000;
/// Lines that are synced together.
const BATCH_MAX: usize = 4_096;
/// Lines are left waiting for at most this before they are synced.
const GATHER: Duration = Duration::from_millis(1);

/// An outcome, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Every branch takes effect.
    Confirmed,
    /// None does.
    Cancelled,
}

/// What the transaction was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "flow")]
pub enum Flow {
    /// A user gets a coupon.
    Claim {
        /// The coupon.
        coupon_id: i64,
        /// Its template.
        template_id: i64,
        /// The user.
        user_id: i64,
    },
    /// A user buys.
    Checkout {
        /// The order.
        order_id: i64,
        /// The user.
        user_id: i64,
        /// What is bought.
        item: i64,
        /// How much of it.
        count: u32,
        /// 0: none.
        coupon_id: i64,
        /// What it costs before the coupon.
        amount_cents: i64,
        /// What the coupon takes off.
        discount_cents: i64,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The transaction, 32 hexadecimal digits.
    pub xid: String,
    /// Its idempotency key.
    pub key: String,
    /// How it ends.
    pub told: Told,
    /// What it was for.
    #[serde(flatten)]
    pub flow: Flow,
}

/// All answers of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: Vec<String>,
}

impl History {
    /// Reads a file; one that is not there has no lines. A last line without its end was never synced, and no client
    /// went on after it.
    ///
    /// # Errors
    /// When a line can not be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = Vec::new();
        for (at, line) in whole.lines().enumerate() {
            let read: Result<Acknowledged, _> = serde_json::from_str(line);
            read.with_context(|| format!("{}:{}", path.display(), at + 1))?;
            lines.push(line.to_owned());
        }
        Ok(Self { lines })
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// JSON arrays of them.
    pub(super) fn chunks(&self) -> impl Iterator<Item = String> {
        self.lines.chunks(CHUNK).map(|lines| format!("[{}]", lines.join(",")))
    }
}

/// Writes a history. Cheap to clone; many clients share a sync.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: mpsc::UnboundedSender<(String, oneshot::Sender<()>)>,
}

impl Writer {
    /// Begins a file, on a thread of its own.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
        let (queue, lines) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("history".into()).spawn(move || write(file, lines))?;
        Ok(Self { queue })
    }

    /// Returns once the answer is on the disk.
    ///
    /// # Errors
    /// When it can not be written.
    pub async fn acknowledge(&self, answer: &Acknowledged) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(answer)?;
        line.push('\n');
        let (done, synced) = oneshot::channel();
        let gone = || anyhow::anyhow!("the history can not be written");
        self.queue.send((line, done)).map_err(|_| gone())?;
        synced.await.map_err(|_| gone())
    }
}

fn write(mut file: File, mut queue: mpsc::UnboundedReceiver<(String, oneshot::Sender<()>)>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        if batch.len() < BATCH_MAX {
            std::thread::sleep(GATHER);
            while let Ok(more) = queue.try_recv() {
                batch.push(more);
            }
        }
        let text: String = batch.iter().map(|(line, _)| line.as_str()).collect();
        if file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).is_err() {
            // Whoever waits sees the end of the channel.
            return;
        }
        for (_, done) in batch.drain(..) {
            // A client that was stopped does not listen.
            let _ = done.send(());
        }
    }
}
