//! Calls and replies as they go over a session.

use bytes::Bytes;
use prost::Message as _;
use tercet_core::{Operation, Reply};
use tercet_proto::participant::v1 as pb;
use tercet_proto::participant::v1::open_response::Message;
use tercet_secure::sign::Session as Signing;

use crate::caller::Outgoing;
use crate::live::Words;
use crate::names;
use crate::plan::has;

/// What goes down, signed where the session is. Under the lock of all sessions, so that numbers go out in their order.
pub(super) fn sealed(signing: &mut Option<Signing>, message: Message) -> pb::OpenResponse {
    let plain = pb::OpenResponse { message: Some(message) };
    let Some(signing) = signing else { return plain };
    let message = plain.encode_to_vec();
    let (number, signature) = signing.sign(&message);
    let signed = pb::Signed { number, message: message.into(), signature: signature.into() };
    pb::OpenResponse { message: Some(Message::Signed(signed)) }
}

pub(super) fn encode(outgoing: &Outgoing) -> pb::Call {
    let call = &outgoing.call;
    let branch = &outgoing.plan.branches[usize::from(call.branch)];
    pb::Call {
        xid: Bytes::copy_from_slice(&outgoing.xid.0),
        branch: call.branch.into(),
        operation: names::operation_number(call.operation).into(),
        tried: has(branch, Operation::Try),
        action: branch.action.clone(),
        request: branch.request.clone(),
        attempt: call.attempt,
        not_after_ms: call.not_after.0,
        traceparent: outgoing.plan.traceparent.clone(),
    }
}

/// Only the participant's own words make a reply; nothing at all is unknown.
pub(super) fn parse(reply: Option<pb::Reply>) -> (Reply, Words) {
    let words = |reason: String| Words { reason, ..Words::default() };
    match reply.and_then(|reply| reply.answer) {
        Some(pb::reply::Answer::Done(result)) => (Reply::Done, Words { result, reason: String::new() }),
        Some(pb::reply::Answer::Refused(reason)) => (Reply::Refused, words(reason)),
        Some(pb::reply::Answer::NotNowMs(delay_ms)) => (Reply::NotNow { delay_ms }, Words::default()),
        Some(pb::reply::Answer::Unknown(reason)) => (Reply::Unknown, words(reason)),
        None => (Reply::Unknown, words("the participant did not answer".into())),
    }
}
