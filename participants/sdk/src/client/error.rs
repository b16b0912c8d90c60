//! What can go wrong between an initiator and the coordinator, a variant per reaction.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::view::Status;
use crate::action::FormatError;
use crate::plan::InvalidField;

/// Why there is no answer, and so what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is beyond a limit. It is refused every time: change the program.
    #[error("refused: {0}")]
    Refused(#[from] InvalidField),
    /// The request can not be written in its format. Change the program.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Another transaction with other content has this idempotency key. Nothing was started.
    #[error("idempotency key {idempotency_key:?} belongs to a transaction with other content")]
    KeyReused {
        /// The key that was sent.
        idempotency_key: String,
    },
    /// The coordinator takes no more for now, and was asked again until the time-out. Nothing was started: try later.
    #[error("the coordinator is overloaded, try again after {retry_after:?}")]
    Overloaded {
        /// How long it wants to be left alone.
        retry_after: Duration,
    },
    /// The transaction takes no more branches, because its outcome stands. Do not call the service.
    #[error("the transaction is already {status}")]
    AlreadyDecided {
        /// Where it stands.
        status: Status,
    },
    /// There is no such transaction, or it ended so long ago that the coordinator forgot it.
    #[error("no such transaction")]
    NotFound,
    /// The coordinator does not let this caller in, or does not know this call. A repeat will not help.
    #[error("not allowed: {status}")]
    Denied {
        /// What it said.
        #[source]
        status: Box<tonic::Status>,
    },
    /// Anything may have happened. Ask by xid or by idempotency key, or repeat the call with the same key.
    #[error("outcome unknown (idempotency key {idempotency_key:?}): {}", status.message())]
    Unknown {
        /// Asks for it with `Client::find`; empty where the call had none.
        idempotency_key: String,
        /// The last that was heard.
        #[source]
        status: Box<tonic::Status>,
    },
}

impl Error {
    /// What a status means for the caller of a request with this key.
    pub(super) fn from_status(status: tonic::Status, idempotency_key: String) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Refused(invalid_field(&status)),
            Code::AlreadyExists => Self::KeyReused { idempotency_key },
            Code::ResourceExhausted => {
                Self::Overloaded { retry_after: retry_after(&status).unwrap_or(Duration::from_secs(1)) }
            }
            Code::NotFound => Self::NotFound,
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
                Self::Denied { status: Box::new(status) }
            }
            Code::FailedPrecondition => match decided_status(&status) {
                Some(status) => Self::AlreadyDecided { status },
                None => Self::Denied { status: Box::new(status) },
            },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Unknown { idempotency_key, status: Box::new(status) },
        }
    }

    /// The answer came, and can not be read: the coordinator is newer, or something else.
    pub(super) fn unreadable(what: &str) -> Self {
        let status = tonic::Status::internal(format!("the coordinator answered with {what}"));
        Self::Unknown { idempotency_key: String::new(), status: Box::new(status) }
    }
}

/// When the coordinator wants to be asked again; it says so where nothing has happened yet.
pub(super) fn retry_after(status: &tonic::Status) -> Option<Duration> {
    if status.code() == Code::ResourceExhausted { status.get_details_retry_info()?.retry_delay } else { None }
}

fn invalid_field(status: &tonic::Status) -> InvalidField {
    let violation = status.get_details_bad_request().and_then(|request| request.field_violations.into_iter().next());
    match violation {
        Some(violation) => InvalidField { field: violation.field, limit: violation.description },
        None => InvalidField { field: "request".into(), limit: status.message().into() },
    }
}

/// `google.rpc.ErrorInfo` with reason `ALREADY_DECIDED` holds where the transaction stands under `status`.
fn decided_status(status: &tonic::Status) -> Option<Status> {
    let info = status.get_details_error_info().filter(|info| info.reason == "ALREADY_DECIDED")?;
    Status::from_name(info.metadata.get("status")?)
}
