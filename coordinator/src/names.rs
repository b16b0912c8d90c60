//! Numbers and words for the machine's states: what is stored, what is on the wire, what labels metrics.

use tercet_core::{Note, Operation, Parked, Progress, Reply, Status};

/// As stored and on the wire.
pub const fn status_number(status: Status) -> u8 {
    match status {
        Status::Trying => 1,
        Status::Confirming => 2,
        Status::Cancelling => 3,
        Status::Confirmed => 4,
        Status::Cancelled => 5,
    }
}

/// The status with this number.
pub const fn status_from(number: u32) -> Option<Status> {
    match number {
        1 => Some(Status::Trying),
        2 => Some(Status::Confirming),
        3 => Some(Status::Cancelling),
        4 => Some(Status::Confirmed),
        5 => Some(Status::Cancelled),
        _ => None,
    }
}

/// As people read it.
pub const fn status_name(status: Status) -> &'static str {
    match status {
        Status::Trying => "trying",
        Status::Confirming => "confirming",
        Status::Cancelling => "cancelling",
        Status::Confirmed => "confirmed",
        Status::Cancelled => "cancelled",
    }
}

/// As stored and on the wire.
pub const fn operation_number(operation: Operation) -> u8 {
    match operation {
        Operation::Try => 1,
        Operation::Confirm => 2,
        Operation::Cancel => 3,
        Operation::Ask => 4,
    }
}

/// The operation with this number.
pub const fn operation_from(number: u8) -> Option<Operation> {
    match number {
        1 => Some(Operation::Try),
        2 => Some(Operation::Confirm),
        3 => Some(Operation::Cancel),
        4 => Some(Operation::Ask),
        _ => None,
    }
}

/// As people read it.
pub const fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Try => "try",
        Operation::Confirm => "confirm",
        Operation::Cancel => "cancel",
        Operation::Ask => "ask",
    }
}

/// As people and programs read it.
pub const fn progress_name(progress: Progress) -> &'static str {
    match progress {
        Progress::Due => "due",
        Progress::Called => "called",
        Progress::Delayed => "delayed",
        Progress::Unreachable => "unreachable",
        Progress::Done => "done",
        Progress::Logged => "logged",
        Progress::Parked(Parked::Refused) => "parked: refused",
        Progress::Parked(Parked::Exhausted) => "parked: attempts used up",
        Progress::Parked(Parked::ByPerson) => "parked: by a person",
        Progress::Skipped => "skipped",
    }
}

/// As metrics are labelled.
pub const fn reply_name(reply: Reply) -> &'static str {
    match reply {
        Reply::Done => "done",
        Reply::Refused => "refused",
        Reply::NotNow { .. } => "not_now",
        Reply::Unknown => "unknown",
        Reply::Unreachable => "unreachable",
    }
}

/// As metrics are labelled: the mode with this number.
pub const fn mode_name(mode: u32) -> &'static str {
    match mode {
        1 => "tcc",
        2 => "saga",
        3 => "message",
        9 => "canary",
        _ => "unknown",
    }
}

/// As stored: kind, with the operation in its last digit, and branch.
pub const fn note_number(note: Note) -> (u32, u8) {
    let (kind, operation, branch) = match note {
        Note::Refused(operation, branch) => (1, operation, branch),
        Note::NotNow(operation, branch) => (2, operation, branch),
        Note::Unknown(operation, branch) => (3, operation, branch),
        Note::Unreachable(operation, branch) => (4, operation, branch),
        Note::Logged(operation, branch) => (5, operation, branch),
        Note::Parked(operation, branch) => (6, operation, branch),
        Note::Retried(operation, branch) => (9, operation, branch),
        Note::Held(operation, branch) => (10, operation, branch),
        Note::Resumed(operation, branch) => (11, operation, branch),
        Note::Resolved(operation, branch) => (12, operation, branch),
        Note::PolicySet(operation, branch) => (13, operation, branch),
        Note::Confirming => return (70, 0),
        Note::Cancelling => return (80, 0),
    };
    (kind * 10 + operation_number(operation) as u32, branch)
}

/// Whether a stored note tells of what a person did.
pub const fn is_act(kind: u32) -> bool {
    matches!(kind / 10, 9..=13)
}

/// A stored note as people read it. `name` is the branch's service and action.
pub fn note_text(kind: u32, name: &str, branch: u32, attempt: u32) -> String {
    let operation = operation_from((kind % 10) as u8).map_or("", operation_name);
    match kind / 10 {
        1 => format!("branch {branch} ({name}) refused its {operation}"),
        2 => format!("branch {branch} ({name}) said not now to its {operation}, attempt {attempt}"),
        3 => format!("branch {branch} ({name}): the outcome of its {operation} is unknown, attempt {attempt}"),
        4 => format!(
            "branch {branch} ({name}): its {operation} was not sent: no instance is connected, or it came too late"
        ),
        5 => format!("branch {branch} ({name}): its {operation} goes on through compensation_log"),
        6 => format!("branch {branch} ({name}): its {operation} is parked and waits for a person"),
        7 => "decided: confirm".into(),
        8 => "decided: cancel".into(),
        9 => format!("branch {branch} ({name}): a person had its {operation} called at once"),
        10 => format!("branch {branch} ({name}): a person parked its {operation}"),
        11 => format!("branch {branch} ({name}): a person handed its {operation} back to the scanner"),
        12 => format!("branch {branch} ({name}): a person did its {operation} by hand"),
        13 => format!("branch {branch} ({name}): a person gave its {operation} another retry policy"),
        _ => format!("something that this version does not know ({kind})"),
    }
}
