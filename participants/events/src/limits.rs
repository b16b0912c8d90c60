//! Every limit of events.

use std::time::Duration;

/// Most bytes of one event: two thousand of the usual ones. Half of what a broker takes by default.
pub const EVENT_BYTES_MAX: usize = 512 << 10;

/// Most bytes of one statement that appends; a slice with more takes several.
pub const APPEND_BYTES_MAX: usize = 2 << 20;

/// Most events that are published, or consumed, at once.
pub const BATCH_ROWS_MAX: usize = 500;

/// A batch that has so many bytes takes no further event.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Most characters of the reason that a dead letter carries.
pub const REASON_BYTES_MAX: usize = 512;

/// A look at the outbox counts no further.
pub const COUNT_MAX: i64 = 10_000;

/// How often an event is tried that its consumer can not take, before it is put away.
pub const ATTEMPTS_MAX: u32 = 5;

/// Between the first attempts; doubled each time, up to [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Between attempts of whatever is tried without end: a database or a broker that does not answer.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a relay gathers events: each of its rounds is a commit.
pub const GATHER: Duration = Duration::from_millis(20);

/// How long a relay that has nothing to do waits for the word of its own process, before it looks for what other
/// processes have written.
pub const POLL: Duration = Duration::from_millis(250);

/// How long a relay whose process dies keeps others from taking over.
pub const LEASE: Duration = Duration::from_secs(10);

/// How long nothing comes to a consumer until nothing is taken to be behind; and between two looks at how old what it
/// has in hand is.
pub const LAG_LOOK: Duration = Duration::from_secs(5);

/// How long a reading of a database's clock serves a consumer, which counts on from it; and how long one may take.
pub const CLOCK: Duration = Duration::from_secs(60);

/// See [`CLOCK`].
pub const CLOCK_MAX: Duration = Duration::from_secs(1);

/// Between two looks at how much waits.
pub const LOOK: Duration = Duration::from_secs(1);

/// How long what is being published may take at the end.
pub const STOP_MAX: Duration = Duration::from_secs(2);
