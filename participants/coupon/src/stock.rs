//! The stock service's actions, as far as coupons need them. A service knows no other, only what goes between them.

use tercet::action::{Action, Saga, Tcc};
use tercet_proto::stock::v1::{Reserve, Restock, Supply};

const SERVICE: &str = "stock";
pub(crate) const RESERVE: Action<Tcc, Reserve> = Action::tcc(SERVICE, "reserve");
pub(crate) const RESTOCK: Action<Saga, Restock> = Action::saga(SERVICE, "restock");
pub(crate) const SUPPLY: Action<Saga, Supply> = Action::saga(SERVICE, "supply");

/// Stock counts a template's coupons as an item too; goods have ids below this.
const TEMPLATE_ITEMS: i64 = 1 << 48;

/// The greatest id of a product.
pub(crate) const PRODUCT_MAX: i64 = TEMPLATE_ITEMS - 1;

/// The item under which stock counts the coupons of a template.
pub(crate) const fn template_item(template_id: i64) -> i64 {
    TEMPLATE_ITEMS + template_id
}

/// And the budget of a version that is tried beside another: of so many versions for each template.
const CANDIDATE_ITEMS: i64 = 1 << 62;
const CANDIDATE_VERSIONS: i64 = 1 << 20;

/// The item under which stock counts what is claimed of a version while another is live.
pub(crate) const fn candidate_item(template_id: i64, version: u32) -> i64 {
    CANDIDATE_ITEMS + template_id * CANDIDATE_VERSIONS + version as i64
}

/// The sequence of the supply that a revision of a template brings.
pub(crate) fn supplied(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX / 2).saturating_mul(2)
}

/// The sequence of the supply that takes what nobody claimed, once the template has ended at this revision: odd, by
/// which stock knows that there is nothing to run out of any more.
pub(crate) fn returned(revision: u64) -> i64 {
    supplied(revision).saturating_add(1)
}
