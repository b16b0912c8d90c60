//! What a request is called on its way: an id for people, and the trace that it belongs to (W3C Trace Context).

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use tercet::context::Traceparent;

use crate::limits::REQUEST_ID_BYTES_MAX;

/// The header with a request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes ids. They are no secrets: it is enough that no two are alike.
#[derive(Default)]
pub(crate) struct Ids {
    seed: RandomState,
    count: AtomicU64,
}

impl Ids {
    fn next(&self) -> u64 {
        self.seed.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// The caller's own id, or a new one where it has none that can be written anywhere.
    pub(crate) fn request(&self, own: Option<&HeaderValue>) -> Arc<str> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let own = own.and_then(|value| value.to_str().ok());
        match own.filter(|text| (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)) {
            Some(own) => own.into(),
            None => format!("{:016x}", self.next()).into(),
        }
    }

    /// The caller's span, or a new trace.
    pub(crate) fn trace(&self, headers: &HeaderMap) -> Traceparent {
        let own = headers.get("traceparent").and_then(|value| value.to_str().ok()?.parse().ok());
        own.unwrap_or_else(|| {
            // Neither id may be zero.
            let text = format!("00-{:016x}{:016x}-{:016x}-00", self.next(), self.next() | 1, self.next() | 1);
            text.parse().expect("it is written as the standard says")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_caller_s_where_they_can_be_and_else_new() {
        let ids = Ids::default();
        let of = |text: &'static str| ids.request(Some(&HeaderValue::from_static(text)));
        assert_eq!(&*of("order-42_a.b"), "order-42_a.b");
        let long: &str = "a".repeat(65).leak();
        for wrong in ["", "a b", "a\"b", long] {
            assert_eq!(of(wrong).len(), 16, "{wrong:?}");
        }
        assert_ne!(ids.request(None), ids.request(None));
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let ids = Ids::default();
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(TRACE));
        assert_eq!(ids.trace(&headers).as_str(), TRACE);
        headers.insert("traceparent", HeaderValue::from_static("00-nothing"));
        assert_ne!(ids.trace(&headers).trace_id(), ids.trace(&HeaderMap::new()).trace_id());
    }
}
