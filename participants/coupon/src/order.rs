//! The order service's actions, as far as coupons need them. A service knows no other, only what goes between them.

use tercet::action::{Action, Saga, Tcc};
use tercet_proto::order::v1::{PlaceBasket, Refund, SettleRefund};

const SERVICE: &str = "order";
pub(crate) const PLACE_BASKET: Action<Tcc, PlaceBasket> = Action::tcc(SERVICE, "place_basket");
pub(crate) const REFUND: Action<Saga, Refund> = Action::saga(SERVICE, "refund");
pub(crate) const SETTLE_REFUND: Action<Saga, SettleRefund> = Action::saga(SERVICE, "settle_refund");
