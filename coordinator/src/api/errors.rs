//! Errors as gRPC says them: a code for programs, a sentence for people, and google.rpc details for what to do.

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

/// The status that a caller gets.
pub fn status(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    let message = error.to_string();
    let mut info = |reason: &str, metadata: &[(&str, String)]| {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        details.set_error_info(reason, DOMAIN, metadata.collect::<std::collections::HashMap<_, _>>());
    };
    let code = match error {
        Error::Invalid(Invalid { field, limit }) => {
            details.add_bad_request_violation(field, limit);
            Code::InvalidArgument
        }
        Error::Overloaded { what, limit } => {
            info("OVERLOADED", &[("what", (*what).to_owned()), ("limit", limit.to_string())]);
            details.set_retry_info(Some(Duration::from_millis(limits::RETRY_AFTER_MS)));
            Code::ResourceExhausted
        }
        Error::KeyReused { xid } => {
            info("KEY_REUSED", &[("field", "idempotency_key".into()), ("xid", xid.to_string())]);
            Code::AlreadyExists
        }
        Error::BranchDiffers { .. } => {
            info("BRANCH_DIFFERS", &[("field", "index".into())]);
            Code::AlreadyExists
        }
        Error::NotHere => {
            // Another coordinator has taken it over. Where it stands is in the store.
            info("MOVED", &[]);
            Code::Unavailable
        }
        Error::NotFound => {
            info("NOT_FOUND", &[]);
            Code::NotFound
        }
        Error::AlreadyDecided { status } => {
            info("ALREADY_DECIDED", &[("status", status_name(*status).into())]);
            Code::FailedPrecondition
        }
        Error::NothingToDo { .. } => {
            info("NOTHING_TO_DO", &[]);
            Code::FailedPrecondition
        }
        Error::Draining => {
            info("DRAINING", &[]);
            details.set_retry_info(Some(Duration::from_millis(limits::RETRY_AFTER_MS)));
            Code::Unavailable
        }
        Error::Declared => {
            info("DECLARED", &[]);
            Code::FailedPrecondition
        }
        Error::Unstored { .. } => {
            info("UNSTORED", &[]);
            Code::Internal
        }
        Error::DiskFull => {
            info("DISK_FULL", &[]);
            details.set_retry_info(Some(Duration::from_millis(limits::DISK_RETRY_AFTER_MS)));
            Code::ResourceExhausted
        }
        Error::Unavailable { .. } => {
            info("STORE_UNAVAILABLE", &[]);
            details.set_retry_info(Some(Duration::from_millis(limits::RETRY_AFTER_MS)));
            Code::Unavailable
        }
        Error::Stopping => {
            info("STOPPING", &[]);
            details.set_retry_info(Some(Duration::from_millis(limits::RETRY_AFTER_MS)));
            Code::Unavailable
        }
    };
    Status::with_error_details(code, message, details)
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
