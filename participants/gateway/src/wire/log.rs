//! The business log.

use serde_json::{Value, json};
use tercet_proto::log::v1 as pb;
use tercet_rules::Limit;

use crate::schema::{Entries, FromText, Id, Schema, Schemas, params, records};
use crate::wire::common::next;

/// The number of a shop; 0: no shop's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShopOrNone(pub(crate) i64);

impl FromText for ShopOrNone {
    fn from_text(text: &str) -> Result<Self, Limit> {
        let shop = if text == "0" { Ok(0) } else { Id::from_text(text).map(|id| id.0) };
        shop.map(Self).map_err(|_| Limit::Between(0, i64::MAX))
    }
}

impl Schema for ShopOrNone {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$" })
    }
}

params! {
    /// What is looked for. All that is given has to be so.
    LogFilter {
        /// Whose it is.
        user_id: Option<Id>,
        /// The coupon that it is about.
        coupon_id: Option<Id>,
        /// Whose order it is that it is about: to be given with `order_id`, since each shop numbers its own, and only
        /// there; 0 for an order of one thing, which is no shop's.
        shop_id: Option<ShopOrNone>,
        /// That order's number.
        order_id: Option<Id>,
        /// Who did it: the sub of an operator's token.
        operator: Option<String>,
        /// From this time on.
        from_ms: Option<i64>,
        /// Before this time.
        before_ms: Option<i64>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        after: Option<String>,
    }
}

records! {
    /// What somebody did, or what happened by itself.
    LogEntry {
        /// Its number.
        log_id: Id,
        /// When it happened.
        at_ms: i64,
        /// What: coupon issued, order refunded, order closed, template promote, ….
        action: String,
        /// Whose it is; left out where it is nobody's.
        user_id: Option<Id>,
        /// The coupon that it is about.
        coupon_id: Option<Id>,
        /// Whose order it is that it is about.
        shop_id: Option<Id>,
        /// That order's number.
        order_id: Option<Id>,
        /// The template that it is about.
        template_id: Option<Id>,
        /// Of an operator's action: which template, product, campaign, batch, occasion or user, as its first word says.
        about_id: Option<Id>,
        /// Who did it, if it was an operator.
        operator: Option<String>,
        /// Why.
        reason: Option<String>,
        /// What it was before, in JSON; left out where there was nothing, or it is not known.
        before: Option<String>,
        /// What it is after, in JSON.
        after: Option<String>,
        /// The transaction that did it.
        xid: Option<String>,
        /// The event that told of it.
        event: String,
    }

    /// Entries of the business log.
    Log {
        /// Newest first.
        items: Vec<LogEntry>,
        /// Where the next page begins; left out on the last one.
        next: Option<String>,
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<pb::Entry> for LogEntry {
    fn from(wire: pb::Entry) -> Self {
        let id = |number: i64| (number != 0).then_some(Id(number));
        Self {
            log_id: Id(wire.log_id),
            at_ms: wire.at_ms,
            action: wire.action,
            user_id: id(wire.user_id),
            coupon_id: id(wire.coupon_id),
            shop_id: id(wire.shop_id),
            order_id: id(wire.order_id),
            template_id: id(wire.template_id),
            about_id: id(wire.about_id),
            operator: some(wire.operator),
            reason: some(wire.reason),
            before: some(wire.before),
            after: some(wire.after),
            xid: some(wire.xid),
            event: format!("{}/{}", wire.source, wire.sequence),
        }
    }
}

impl From<pb::SearchResponse> for Log {
    fn from(wire: pb::SearchResponse) -> Self {
        Self { items: wire.entries.into_iter().map(Into::into).collect(), next: next(wire.next) }
    }
}
