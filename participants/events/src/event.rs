//! What has happened, where it is published, and what keeps its order.

use prost::Message as _;
use tercet::participant::Op;
use tercet::xid::Xid;
use tercet_proto::events::v1 as pb;
pub use tercet_proto::events::v1::event::Payload;

/// The version of payloads that this program writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// Where events of a kind are published. All of one key are in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// What happens to coupons, by user.
    Coupon,
    /// What happens to orders, by user.
    Order,
    /// What operators change, by what they change.
    Operator,
    /// What happens to users, by user. Others write it.
    User,
    /// Campaigns, by campaign. Others write it.
    Campaign,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Coupon, Self::Order, Self::Operator, Self::User, Self::Campaign];

    /// Its name without the installation's prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coupon => "coupon",
            Self::Order => "order",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Campaign => "campaign",
        }
    }

    /// The topic of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// An event that is not written yet. It gets its id and its time when it is.
#[derive(Clone, Debug)]
pub struct Event {
    user_id: i64,
    xid: Option<Xid>,
    traceparent: String,
    payload: Payload,
}

impl Event {
    /// Something of this user's; 0 where it is nobody's.
    pub const fn new(user_id: i64, payload: Payload) -> Self {
        Self { user_id, xid: None, traceparent: String::new(), payload }
    }

    /// Done by this operation: it carries the transaction and the caller's trace.
    #[must_use]
    pub fn by<R>(mut self, op: &Op<R>) -> Self {
        self.xid = Some(op.context.xid);
        self.traceparent.clone_from(&op.traceparent);
        self
    }

    /// Where it is published, and what keeps its order there.
    pub(crate) fn place(&self) -> (Topic, i64) {
        match &self.payload {
            Payload::CouponIssued(_)
            | Payload::CouponUsed(_)
            | Payload::CouponGivenBack(_)
            | Payload::CouponExpired(_)
            | Payload::CouponVoided(_) => (Topic::Coupon, self.user_id),
            Payload::OrderPlaced(_)
            | Payload::OrderPaid(_)
            | Payload::OrderRefunded(_)
            | Payload::OrderRefundTakenBack(_) => (Topic::Order, self.user_id),
            Payload::OperatorChange(change) => (Topic::Operator, change.id),
            Payload::UserRegistered(_) => (Topic::User, self.user_id),
            Payload::CampaignStarted(campaign) => (Topic::Campaign, campaign.campaign_id),
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let event = pb::Event {
            version: VERSION,
            user_id: self.user_id,
            traceparent: self.traceparent,
            xid: self.xid.map_or_else(Vec::new, |xid| xid.as_bytes().to_vec()).into(),
            payload: Some(self.payload),
            ..pb::Event::default()
        };
        event.encode_to_vec()
    }
}

/// What an encoded event takes on when it is published. Of two values of a field a reader takes the later one, so that
/// the event itself is not decoded for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp<'a> {
    pub(crate) source: &'a str,
    pub(crate) sequence: u64,
    pub(crate) occurred_ms: i64,
    pub(crate) only_group: &'a str,
}

impl Stamp<'_> {
    pub(crate) fn put_on(&self, encoded: &mut Vec<u8>) {
        let stamp = pb::Event {
            source: self.source.to_owned(),
            sequence: self.sequence,
            occurred_ms: self.occurred_ms,
            only_group: self.only_group.to_owned(),
            ..pb::Event::default()
        };
        stamp.encode(encoded).expect("a vector takes as much as there is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_replaces_what_was_there_and_leaves_the_rest() {
        let issued = pb::CouponIssued { coupon_id: 5, template_id: 1, template_version: 2, ..Default::default() };
        let mut encoded = Event::new(7, Payload::CouponIssued(issued.clone())).encode();
        let stamp = Stamp { source: "a", sequence: 3, occurred_ms: 11, only_group: "" };
        stamp.put_on(&mut encoded);
        Stamp { source: "b", sequence: 4, occurred_ms: 0, only_group: "order" }.put_on(&mut encoded);
        let event = pb::Event::decode(encoded.as_slice()).expect("it is one");
        assert_eq!((event.source.as_str(), event.sequence, event.only_group.as_str()), ("b", 4, "order"));
        assert_eq!((event.version, event.user_id, event.occurred_ms), (VERSION, 7, 11));
        assert_eq!(event.payload, Some(Payload::CouponIssued(issued)));
    }

    #[test]
    fn what_happens_to_a_user_keeps_its_order_by_him_and_all_else_by_what_it_is_about() {
        for payload in [
            Payload::CouponIssued(pb::CouponIssued::default()),
            Payload::CouponUsed(pb::CouponUsed::default()),
            Payload::CouponGivenBack(pb::CouponGivenBack::default()),
            Payload::CouponExpired(pb::CouponExpired::default()),
            Payload::CouponVoided(pb::CouponVoided::default()),
        ] {
            assert_eq!(Event::new(7, payload).place(), (Topic::Coupon, 7));
        }
        for payload in [
            Payload::OrderPlaced(pb::OrderPlaced::default()),
            Payload::OrderPaid(pb::OrderPaid::default()),
            Payload::OrderRefunded(pb::OrderRefunded::default()),
            Payload::OrderRefundTakenBack(pb::OrderRefundTakenBack::default()),
        ] {
            assert_eq!(Event::new(7, payload).place(), (Topic::Order, 7));
        }
        let registered = Payload::UserRegistered(pb::UserRegistered::default());
        assert_eq!(Event::new(7, registered).place(), (Topic::User, 7));
        let change = pb::OperatorChange { id: 8, ..Default::default() };
        assert_eq!(Event::new(0, Payload::OperatorChange(change)).place(), (Topic::Operator, 8));
        let started = pb::CampaignStarted { campaign_id: 9, ..Default::default() };
        assert_eq!(Event::new(0, Payload::CampaignStarted(started)).place(), (Topic::Campaign, 9));
    }

    #[test]
    fn every_topic_is_found_by_its_name() {
        assert_eq!(Topic::ALL.map(|topic| Topic::of(topic.name())), Topic::ALL.map(Some));
        assert_eq!(Topic::of("coupons"), None);
    }
}
