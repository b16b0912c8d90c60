//! The context of a call as gRPC metadata, between an initiator and the services that it calls by itself.

use std::fmt;
use std::str::FromStr;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::service::Interceptor;

use super::Context;

const XID: &str = "tercet-xid";
const BRANCH: &str = "tercet-branch";
const NOT_AFTER: &str = "tercet-not-after";
const TRACEPARENT: &str = "traceparent";

/// Metadata that does not name a branch: the caller is no initiator, or another version. As a [`tonic::Status`] it
/// tells the caller so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata {key}: {fault}")]
pub struct InvalidMetadata {
    /// The key that is not there or can not be read.
    pub key: &'static str,
    /// What is wrong with it.
    pub fault: &'static str,
}

impl From<InvalidMetadata> for tonic::Status {
    fn from(error: InvalidMetadata) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl Context {
    /// Writes `tercet-xid`, `tercet-branch` and `tercet-not-after`, replacing what was there.
    pub fn to_metadata(&self, metadata: &mut MetadataMap) {
        metadata.insert(XID, ascii(self.xid));
        metadata.insert(BRANCH, self.branch.into());
        metadata.insert(NOT_AFTER, self.not_after_ms.into());
    }

    /// The branch that this call is the try of, for the fence's guard around the service's own handler.
    ///
    /// # Errors
    /// When a key is missing or can not be read.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self, InvalidMetadata> {
        Ok(Self {
            xid: read(metadata, XID, "not an xid")?,
            branch: read(metadata, BRANCH, "not a branch's number")?,
            not_after_ms: read(metadata, NOT_AFTER, "not a time in milliseconds")?,
        })
    }
}

fn read<T: FromStr>(metadata: &MetadataMap, key: &'static str, fault: &'static str) -> Result<T, InvalidMetadata> {
    let value = metadata.get(key).ok_or(InvalidMetadata { key, fault: "missing" })?;
    let read = value.to_str().ok().and_then(|text| text.parse().ok());
    read.ok_or(InvalidMetadata { key, fault })
}

fn ascii(text: impl fmt::Display) -> AsciiMetadataValue {
    text.to_string().parse().expect("digits and hyphens are ASCII")
}

/// Names the span that a call belongs to, as W3C Trace Context (version 00) writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(String);

/// Text that is not a traceparent of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a traceparent is 00, a trace id, a span id and flags: 2, 32, 16 and 2 lower-case hexadecimal digits with hyphens"
)]
pub struct ParseTraceparentError;

impl FromStr for Traceparent {
    type Err = ParseTraceparentError;

    fn from_str(text: &str) -> Result<Self, ParseTraceparentError> {
        let hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let id = |part: &str, digits: usize| hex(part, digits) && part.bytes().any(|c| c != b'0');
        let parts: Vec<&str> = text.split('-').collect();
        let ["00", trace, span, flags] = parts[..] else { return Err(ParseTraceparentError) };
        if id(trace, 32) && id(span, 16) && hex(flags, 2) { Ok(Self(text.into())) } else { Err(ParseTraceparentError) }
    }
}

impl Traceparent {
    /// The caller's; `None` where it sent none, or one that can not be read, which starts a new trace.
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        metadata.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
    }

    /// Writes it as `traceparent`, replacing what was there.
    pub fn to_metadata(&self, metadata: &mut MetadataMap) {
        metadata.insert(TRACEPARENT, ascii(&self.0));
    }

    /// The trace that the span belongs to: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tonic interceptor that puts a branch's context, and the trace it belongs to, into every request of a client. One
/// is made for each branch: `StockClient::with_interceptor(channel.clone(), Carry::new(context, None))`.
#[derive(Clone, Debug)]
pub struct Carry {
    context: Context,
    traceparent: Option<Traceparent>,
}

impl Carry {
    /// For the requests of this branch.
    pub const fn new(context: Context, traceparent: Option<Traceparent>) -> Self {
        Self { context, traceparent }
    }
}

impl Interceptor for Carry {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        self.context.to_metadata(request.metadata_mut());
        if let Some(traceparent) = &self.traceparent {
            traceparent.to_metadata(request.metadata_mut());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xid::Xid;

    const CONTEXT: Context = Context { xid: Xid::new([0xa7; 16]), branch: 3, not_after_ms: 1_700_000_000_000 };
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn carried(traceparent: Option<Traceparent>) -> MetadataMap {
        Carry::new(CONTEXT, traceparent).call(tonic::Request::new(())).unwrap().into_parts().0
    }

    #[test]
    fn a_carried_context_is_read_on_the_other_side() {
        let metadata = carried(Some(TRACE.parse().unwrap()));
        assert_eq!(Context::from_metadata(&metadata), Ok(CONTEXT));
        assert_eq!(Traceparent::from_metadata(&metadata).unwrap().as_str(), TRACE);
        assert_eq!(TRACE.parse::<Traceparent>().unwrap().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let texts = [XID, BRANCH, NOT_AFTER].map(|key| metadata.get(key).unwrap().to_str().unwrap());
        assert_eq!(texts, ["a7a7a7a7-a7a7-a7a7-a7a7-a7a7a7a7a7a7", "3", "1700000000000"]);
        assert_eq!(Traceparent::from_metadata(&carried(None)), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let told = |key: &'static str, text: Option<&str>| {
            let mut metadata = carried(None);
            metadata.remove(key);
            if let Some(text) = text {
                metadata.insert(key, text.parse().unwrap());
            }
            let error = Context::from_metadata(&metadata).unwrap_err();
            let status = tonic::Status::from(error);
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            status.message().to_owned()
        };
        assert_eq!(told(XID, None), "metadata tercet-xid: missing");
        assert_eq!(told(BRANCH, None), "metadata tercet-branch: missing");
        assert_eq!(told(NOT_AFTER, None), "metadata tercet-not-after: missing");
        assert_eq!(told(XID, Some("a7")), "metadata tercet-xid: not an xid");
        assert_eq!(told(BRANCH, Some("-1")), "metadata tercet-branch: not a branch's number");
        assert_eq!(told(NOT_AFTER, Some("soon")), "metadata tercet-not-after: not a time in milliseconds");
    }

    #[test]
    fn a_traceparent_of_another_shape_is_refused() {
        for wrong in [
            "",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        ] {
            assert_eq!(wrong.parse::<Traceparent>(), Err(ParseTraceparentError), "{wrong}");
        }
    }
}
