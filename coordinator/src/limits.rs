//! Every limit of the coordinator, in one place. Past one of them work is refused with its name; nothing grows without
//! end.

/// Most bytes of one branch's request.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Most branches of one transaction.
pub const BRANCHES_MAX: usize = tercet_core::BRANCHES_MAX;

/// Most bytes of all requests of one transaction, and of one gRPC message.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Most bytes of an idempotency key, a business key and a label's value; a label's name has one less.
pub const KEY_BYTES_MAX: usize = 128;

/// Most labels of one transaction.
pub const LABELS_MAX: usize = 16;

/// Most bytes of a service's or an action's name.
pub const NAME_BYTES_MAX: usize = 64;

/// Most services that are known by name.
pub const SERVICES_MAX: usize = 10_000;

/// Most sessions of all services.
pub const SESSIONS_MAX: usize = 10_000;

/// Longest time from acceptance to decision, and longest delay of a retry.
pub const DEADLINE_MS_MAX: u32 = 24 * 3_600 * 1_000;

/// From acceptance to decision, when the initiator does not say.
pub const DEADLINE_MS_DEFAULT: u32 = 30_000;

/// Longest time that one call may take.
pub const CALL_TIMEOUT_MS_MAX: u32 = 600_000;

/// How long one call may take, when the initiator does not say.
pub const CALL_TIMEOUT_MS_DEFAULT: u32 = 3_000;

/// Silence of a message's sender before it is asked, when it does not say.
pub const QUERY_AFTER_MS_DEFAULT: u32 = 10_000;

/// Most attempts of a branch operation.
pub const ATTEMPTS_MAX: u32 = 1_000_000;

/// Most bytes of a result that is kept; a longer one is cut off by the SDK's fence already.
pub const RESULT_BYTES_MAX: usize = 4 << 10;

/// Most bytes of a reason that is kept.
pub const REASON_BYTES_MAX: usize = 512;

/// Most lines of a transaction's timeline; the first half stays, the second half is the newest.
pub const TIMELINE_MAX: usize = 32;

/// Inputs that wait for the driver. A client's request past it is refused, a participant's replies wait.
pub const INBOX_MAX: usize = 1 << 16;

/// Inputs that wait for the driver when new transactions are refused; what concerns accepted ones still comes in.
pub const INBOX_STARTS_MAX: usize = 1 << 14;

/// New transactions are refused while what is queued for the store, or for one of their services, waits longer.
pub const BEHIND_MS: u64 = 250;

/// Waiting branches that are woken in one go when a service has come back, and answers of a lost session that are told
/// in one go: others have their turn in between.
pub const WAKE_MAX: usize = 256;

/// A service that came, went and came again within this time is told to the driver only after it.
pub const FLAP_MS: u64 = 1_000;

/// Requests under way on one connection; a client keeps the next ones to itself.
pub const STREAMS_MAX: u32 = 2_048;

/// Requests that were given up before they were looked at, of one connection: past it the connection is closed, with
/// all that is under way on it. A client gives up many at once when it has overloaded this coordinator.
pub const RESETS_MAX: usize = 2_048;

/// Refusals that leave in [`REFUSALS_MS`] though nothing ends; else one leaves for each transaction that does.
pub const REFUSALS_MAX: usize = 64;

/// See [`REFUSALS_MAX`].
pub const REFUSALS_MS: u64 = 10;

/// Most writes of one group commit.
pub const COMMIT_ROWS_MAX: usize = 512;

/// Most bytes of the rows of one group commit; one row more may pass it.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;

/// Most calls of one batch to a participant.
pub const BATCH_CALLS_MAX: usize = 256;

/// Most bytes of the requests of one batch; one call more may pass it.
pub const BATCH_BYTES_MAX: usize = 2 << 20;

/// Most batches that a session takes before it answers one.
pub const WINDOW_MAX: u32 = 16;

/// Calls that wait in memory for one service: for one of its sessions to take them, or for one to come. Past it new
/// transactions with that service are refused, and no others.
pub const WAITING_MAX: usize = 1 << 14;

/// The same for a new transaction whose initiator waits for more than its acceptance: half of what a connection has
/// under way, because the other transactions of a client go through the same connection.
pub const WAITING_ASKED_MAX: usize = STREAMS_MAX as usize / 2;

/// Services with a label of their own in metrics though none of their instances has registered since the start.
pub const OTHERS_NAMED_MAX: usize = 100;

/// Timers of what is over that stay in memory beside as many as transactions do.
pub const TIMERS_SPARE: usize = 1 << 10;

/// Ended transactions of one service whose fence rows may be forgotten soon. Past it those that have longest to
/// wait stay in the fence.
pub const FORGET_MAX: usize = 1 << 20;

/// Xids in one message that lets a participant forget. A session gets one each second, so of a service with one session
/// no more transactions than that may end a second in the long run, or fence rows pile up.
pub const FORGET_BATCH_MAX: usize = 1 << 16;

/// Entries of one `SubmitStream` that have no answer yet; past it the stream is read no further.
pub const STREAM_OUTSTANDING_MAX: usize = 8_192;

/// Transactions that are watched at a time.
pub const WATCHES_MAX: usize = 1_000;

/// Rows of one page of a listing.
pub const PAGE_MAX: u32 = 1_000;

/// Rows of one page when the caller does not say.
pub const PAGE_DEFAULT: u32 = 50;

/// Rows of `compensation_log` that are under way at a time, of all services; each may have the same share of them. With
/// a small `--live-max` it is a quarter of that.
pub const RETRIES_MAX: usize = 4_096;

/// And of one service, unless an operator wants fewer.
pub const SCAN_ROWS_MAX: u32 = 256;

/// Rows of `compensation_log` that are claimed at a time: the next group commit waits for no more.
pub const CLAIM_ROWS_MAX: usize = 256;

/// A service that has come back takes all the retries that it can take after so long, and before that a share that
/// grows evenly.
pub const RAMP_MS: u64 = 2_000;

/// A service whose sessions have no room and that has answered nothing for so long gets no retries.
pub const STUCK_MS: u64 = 2_000;

/// A service that leaves a batch of calls without an answer for so long is slow.
pub const SLOW_MS: u64 = 2_000;

/// Transactions taken up at a time after a restart.
pub const ORPHANS_MAX: u32 = 2_000;

/// Transactions of which one listing by service looks at the branches; the next page goes on from there.
pub const LOOKED_AT_MAX: u32 = 10_000;

/// Rows of the audit log that an explanation tells of, the newest.
pub const EXPLAINED_ACTS_MAX: u32 = 20;

/// Most bytes of an operator's name.
pub const OPERATOR_BYTES_MAX: usize = 128;

/// Most transactions in memory that the limit can be set to while the coordinator runs.
pub const LIVE_MAX_MAX: u64 = 10_000_000;

/// Ended transactions deleted at a time.
pub const PURGE_ROWS_MAX: u32 = 512;

/// What a client is told to wait before it repeats what was refused for want of room.
pub const RETRY_AFTER_MS: u64 = 100;

/// The same while the coordinator's disk is full, which takes somebody to change.
pub const DISK_RETRY_AFTER_MS: u64 = 1_000;

/// How long those who wait for a write hear nothing while the store does not answer. Then they are told so, and nothing
/// new is taken until it does.
pub const STORE_SILENCE_MS: u64 = 5_000;
/// Invariants that are watched, each database counted.
pub const INVARIANTS_MAX: usize = 1_000;

/// Resources of one invariant that are alarms at a time.
pub const ALARMS_MAX: usize = 64;

/// Resources that differ, in one page of a participant's.
pub const MISFITS_SHOWN: usize = 16;

/// How often a canary goes through the driver and the store while something is under way and nothing ends, and one to
/// each session that has nothing else to answer.
pub const CANARY_MS: u64 = 500;

/// How often both do while nothing is under way: each costs a few synced commits, on a machine that may be a laptop.
pub const CANARY_QUIET_MS: u64 = 10_000;

/// Sessions that get a canary at a time, so that one row stays small: with more of them each has its turn less often.
pub const CANARIES_MAX: usize = 64;

/// Canaries for sessions that are under way at a time: more than begin before the first of them is cancelled.
pub const CANARY_ROUNDS_MAX: usize = 8;

/// A coordinator that has something under way, and in which nothing has ended for so long, not even a canary, is not
/// ready; nor is it for initiators when sessions are to be asked and none of any service has answered for so long.
pub const UNREADY_MS: u64 = 2_000;

/// A session that has not answered its canary for so long is reported.
pub const CANARY_STUCK_MS: u64 = 3_000;
