//! Many transactions on one stream: whatever waits while the one before is being sent goes out as one batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::submit_stream_request::Entry;
use tercet_proto::coordinator::v1::submit_stream_response::entry::Result as Told;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::error::retry_after;
use super::link::{Link, is_lost};
use super::{Error, Options, View, Wait};
use crate::plan::Plan;
use crate::retry::{overload_delays, reconnect_delays};

/// Entries in one message on the stream.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// Bytes of a batch that one more entry is still added to: the coordinator takes messages of a few MiB.
const BATCH_BYTES_FULL: usize = 1 << 20;
/// Submits that wait for a place among the outstanding ones, before their tasks are made to wait as well.
const QUEUE: usize = 256;
/// How often places are taken back from callers that gave up.
const SWEEP: Duration = Duration::from_secs(1);

type Answer = Result<pb::TransactionView, Refused>;

/// An entry that was not accepted, back for another try.
struct Refused {
    status: Status,
    entry: Box<Entry>,
}

struct Job {
    entry: Entry,
    answer: oneshot::Sender<Answer>,
}

/// Submits many transactions on one stream. Cheap to clone; clones share the stream, which closes with the last of
/// them.
#[derive(Clone, Debug)]
pub struct Batching {
    queue: mpsc::Sender<Job>,
    timeout: Duration,
}

impl Batching {
    pub(super) fn new(link: Arc<Link>, options: &Options) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(link, jobs, options.outstanding_max.max(1)));
        Self { queue, timeout: options.timeout }
    }

    /// As [`Client::submit`](super::Client::submit), but a plan without an idempotency key gets none: after a lost
    /// connection only plans with one are sent again, the others are answered with [`Error::Unknown`].
    ///
    /// # Errors
    /// As [`Client::submit`](super::Client::submit).
    pub async fn submit<M>(&self, plan: Plan<M>, wait: Wait) -> Result<View, Error> {
        let deadline = Instant::now() + self.timeout;
        let (transaction, traceparent) = plan.into_wire();
        let key = transaction.idempotency_key.clone();
        let mut entry = Entry {
            // Given by the stream's task.
            id: 0,
            request: Some(pb::SubmitRequest { transaction: Some(transaction), wait: wait.to_wire() }),
            traceparent: traceparent.map_or_else(String::new, |traceparent| traceparent.as_str().to_owned()),
        };
        let mut overloads = overload_delays();
        let late = || Status::deadline_exceeded("no answer within the time-out");
        loop {
            let (answer, answered) = oneshot::channel();
            let answered = async {
                self.queue.send(Job { entry, answer }).await.ok()?;
                answered.await.ok()
            };
            let refused = match tokio::time::timeout_at(deadline, answered).await {
                Ok(Some(Ok(transaction))) => return View::from_answer(Some(transaction)),
                Ok(Some(Err(refused))) => refused,
                Ok(None) => return Err(Error::from_status(Status::unavailable("the stream's task has ended"), key)),
                Err(_) => return Err(Error::from_status(late(), key)),
            };
            let delay = retry_after(&refused.status).map(|asked| asked + overloads.next().unwrap_or_default());
            let again_at = delay.map(|delay| Instant::now() + delay);
            let Some(again_at) = again_at.filter(|at| *at < deadline) else {
                return Err(Error::from_status(refused.status, key));
            };
            tokio::time::sleep_until(again_at).await;
            entry = *refused.entry;
        }
    }
}

fn has_key(entry: &Entry) -> bool {
    let transaction = entry.request.as_ref().and_then(|request| request.transaction.as_ref());
    transaction.is_some_and(|transaction| !transaction.idempotency_key.is_empty())
}

/// What was taken from the queue and has no answer yet.
#[derive(Default)]
struct Outstanding {
    jobs: HashMap<u64, Job>,
    /// Those of `jobs` that this stream has not sent.
    unsent: VecDeque<u64>,
    last_id: u64,
}

impl Outstanding {
    fn add(&mut self, mut job: Job) {
        self.last_id += 1;
        job.entry.id = self.last_id;
        self.jobs.insert(self.last_id, job);
        self.unsent.push_back(self.last_id);
    }

    /// The next message of the stream; callers that gave up before are left out.
    fn batch(&mut self) -> pb::SubmitStreamRequest {
        let mut entries = Vec::new();
        let mut bytes = 0;
        while entries.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_FULL {
            let Some(id) = self.unsent.pop_front() else { break };
            let Some(job) = self.jobs.get(&id) else { continue };
            if job.answer.is_closed() {
                self.jobs.remove(&id);
                continue;
            }
            bytes += job.entry.encoded_len();
            entries.push(job.entry.clone());
        }
        pb::SubmitStreamRequest { entries }
    }

    fn answer(&mut self, entry: pb::submit_stream_response::Entry) {
        let Some(job) = self.jobs.remove(&entry.id) else { return };
        let answer = match entry.result {
            Some(Told::Transaction(transaction)) => Ok(transaction),
            Some(Told::Error(error)) => Err(Status::with_details(Code::from(error.code), error.message, error.details)),
            None => Err(Status::internal("an entry without a result")),
        };
        job.finish(answer);
    }

    /// After a lost stream: what was sent and may be repeated is sent again, in its old order; what may not is
    /// answered.
    fn resend(&mut self, status: &Status) {
        let unsent: HashSet<u64> = self.unsent.drain(..).collect();
        let (again, unknown): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut self.jobs)
            .into_iter()
            .filter(|(_, job)| !job.answer.is_closed())
            .partition(|(id, job)| unsent.contains(id) || has_key(&job.entry));
        self.jobs = again;
        let mut ids: Vec<u64> = self.jobs.keys().copied().collect();
        ids.sort_unstable();
        self.unsent = ids.into();
        for job in unknown.into_values() {
            job.finish(Err(status.clone()));
        }
    }

    fn refuse_all(&mut self, status: &Status) {
        self.unsent.clear();
        for (_, job) in self.jobs.drain() {
            job.finish(Err(status.clone()));
        }
    }
}

impl Job {
    fn finish(self, answer: Result<pb::TransactionView, Status>) {
        let entry = Box::new(self.entry);
        // A caller that gave up has dropped its end.
        let _ = self.answer.send(answer.map_err(|status| Refused { status, entry }));
    }
}

async fn run(link: Arc<Link>, mut queue: mpsc::Receiver<Job>, outstanding_max: usize) {
    let mut outstanding = Outstanding::default();
    let mut delays = reconnect_delays();
    loop {
        // Without work there is no need for a stream.
        if outstanding.jobs.is_empty() {
            let Some(job) = queue.recv().await else { return };
            outstanding.add(job);
        }
        let (at, mut coordinator) = link.pick();
        let (up, batches) = mpsc::channel(1);
        let opened = coordinator.submit_stream(link.request(ReceiverStream::new(batches))).await;
        let end = match opened {
            Ok(answers) => {
                let mut answered = false;
                let answers = answers.into_inner();
                let end = exchange(&mut queue, &mut outstanding, outstanding_max, &up, answers, &mut answered).await;
                if answered {
                    delays = reconnect_delays();
                }
                end
            }
            Err(status) => Some(status),
        };
        // All handles are gone, and with them everyone who could hear an answer.
        let Some(status) = end else { return };
        if is_lost(&status) {
            link.leave(at);
            outstanding.resend(&status);
        } else {
            outstanding.refuse_all(&status);
        }
        if let Some(delay) = delays.next() {
            tokio::time::sleep(delay).await;
        }
    }
}

/// Runs one stream to its end. `None` when nobody can submit any more, else why it ended.
async fn exchange(
    queue: &mut mpsc::Receiver<Job>,
    outstanding: &mut Outstanding,
    outstanding_max: usize,
    up: &mpsc::Sender<pb::SubmitStreamRequest>,
    mut answers: Streaming<pb::SubmitStreamResponse>,
    answered: &mut bool,
) -> Option<Status> {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut jobs = Vec::new();
    loop {
        let free = outstanding_max.saturating_sub(outstanding.jobs.len());
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    *answered = true;
                    answer.entries.into_iter().for_each(|entry| outstanding.answer(entry));
                }
                // A coordinator that stops ends its streams.
                Ok(None) => return Some(Status::unavailable("the stream ended before the answer")),
                Err(status) => return Some(status),
            },
            // What waits is taken before a batch leaves, so that it leaves together.
            count = queue.recv_many(&mut jobs, free), if free > 0 => {
                if count == 0 {
                    return None;
                }
                jobs.drain(..).for_each(|job| outstanding.add(job));
            }
            permit = up.reserve(), if !outstanding.unsent.is_empty() => match permit {
                Ok(permit) => {
                    let batch = outstanding.batch();
                    if !batch.entries.is_empty() {
                        permit.send(batch);
                    }
                }
                Err(_) => return Some(Status::unavailable("the stream ended before the answer")),
            },
            _ = sweep.tick() => outstanding.jobs.retain(|_, job| !job.answer.is_closed()),
        }
    }
}
