//! Errors as gRPC says them: a code for programs, a sentence for people, and google.rpc details for what to do.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tercet_proto::coordinator::v1 as pb;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::limits;
use crate::names::status_name;
use crate::plan::Invalid;
use crate::request::Error;

/// Who says so, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "tercet";

/// Refusals for want of room that are kept.
const SAID_MAX: usize = 8;

thread_local! {
    /// What was refused last, and how that was said: when there is no room it is the same few, over and over.
    static SAID: RefCell<VecDeque<(Error, Status)>> = const { RefCell::new(VecDeque::new()) };
}

/// The status that a caller gets.
pub fn status(error: &Error) -> Status {
    if !matches!(error, Error::Overloaded { .. } | Error::ServiceOverloaded { .. }) {
        return say(error);
    }
    SAID.with_borrow_mut(|said| {
        if let Some((_, status)) = said.iter().find(|(one, _)| one == error) {
            return status.clone();
        }
        let status = say(error);
        said.truncate(SAID_MAX - 1);
        said.push_front((error.clone(), status.clone()));
        status
    })
}

fn say(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    let (code, reason) = kind(error);
    if let Error::Invalid(Invalid { field, limit }) = error {
        details.add_bad_request_violation(field, limit);
    } else {
        let named = metadata(error).into_iter().map(|(name, value)| (name.to_owned(), value));
        details.set_error_info(reason, DOMAIN, named.collect::<HashMap<_, _>>());
    }
    if let Some(ms) = retry_after_ms(error) {
        details.set_retry_info(Some(Duration::from_millis(ms)));
    }
    Status::with_error_details(code, error.to_string(), details)
}

/// The code, and the reason in `google.rpc.ErrorInfo`.
fn kind(error: &Error) -> (Code, &'static str) {
    match error {
        Error::Invalid(_) => (Code::InvalidArgument, "INVALID"),
        Error::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED"),
        Error::ServiceOverloaded { .. } => (Code::ResourceExhausted, "SERVICE_OVERLOADED"),
        Error::DiskFull => (Code::ResourceExhausted, "DISK_FULL"),
        Error::KeyReused { .. } => (Code::AlreadyExists, "KEY_REUSED"),
        Error::BranchDiffers { .. } => (Code::AlreadyExists, "BRANCH_DIFFERS"),
        // Another coordinator has taken it over. Where it stands is in the store.
        Error::NotHere => (Code::Unavailable, "MOVED"),
        Error::NotFound => (Code::NotFound, "NOT_FOUND"),
        Error::AlreadyDecided { .. } => (Code::FailedPrecondition, "ALREADY_DECIDED"),
        Error::NothingToDo { .. } => (Code::FailedPrecondition, "NOTHING_TO_DO"),
        Error::Declared => (Code::FailedPrecondition, "DECLARED"),
        Error::Draining => (Code::Unavailable, "DRAINING"),
        Error::Unavailable { .. } => (Code::Unavailable, "STORE_UNAVAILABLE"),
        Error::Late => (Code::DeadlineExceeded, "LATE"),
        Error::Stopping => (Code::Unavailable, "STOPPING"),
        Error::Unstored { .. } => (Code::Internal, "UNSTORED"),
    }
}

fn metadata(error: &Error) -> Vec<(&'static str, String)> {
    match error {
        Error::Overloaded { what, limit } => vec![("what", (*what).to_owned()), ("limit", limit.to_string())],
        Error::ServiceOverloaded { service, what, limit } => {
            vec![("service", service.clone()), ("what", (*what).to_owned()), ("limit", limit.to_string())]
        }
        Error::KeyReused { xid } => vec![("field", "idempotency_key".to_owned()), ("xid", xid.to_string())],
        Error::BranchDiffers { .. } => vec![("field", "index".to_owned())],
        Error::AlreadyDecided { status } => vec![("status", status_name(*status).to_owned())],
        Error::Invalid(_)
        | Error::DiskFull
        | Error::NotHere
        | Error::NotFound
        | Error::NothingToDo { .. }
        | Error::Declared
        | Error::Draining
        | Error::Unavailable { .. }
        | Error::Late
        | Error::Stopping
        | Error::Unstored { .. } => Vec::new(),
    }
}

/// When the same may be tried again, where trying again helps.
fn retry_after_ms(error: &Error) -> Option<u64> {
    match error {
        Error::Overloaded { .. }
        | Error::ServiceOverloaded { .. }
        | Error::Draining
        | Error::Unavailable { .. }
        | Error::Stopping => Some(limits::RETRY_AFTER_MS),
        Error::DiskFull => Some(limits::DISK_RETRY_AFTER_MS),
        Error::Invalid(_)
        | Error::KeyReused { .. }
        | Error::BranchDiffers { .. }
        | Error::NotHere
        | Error::NotFound
        | Error::AlreadyDecided { .. }
        | Error::NothingToDo { .. }
        | Error::Declared
        | Error::Late
        | Error::Unstored { .. } => None,
    }
}

/// This caller may not do this.
pub fn denied(name: &str, why: &str) -> Status {
    let metadata = HashMap::from([("name".to_owned(), name.to_owned())]);
    let details = ErrorDetails::with_error_info("DENIED", DOMAIN, metadata);
    Status::with_error_details(Code::PermissionDenied, format!("{name} may not: {why}"), details)
}

/// The same, for an entry of a stream.
pub fn entry(error: &Error) -> pb::Error {
    let status = status(error);
    pb::Error {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: status.details().to_vec().into(),
    }
}
