//! Which lines of an order a coupon is for.

use std::collections::BTreeSet;

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Invalid, Limit, between, entries, given};
use crate::limits::SCOPE_IDS_MAX;
use crate::order::Line;

/// Which lines of an order count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of these categories.
    Categories(Ids),
    /// Those of these products.
    Products(Ids),
    /// Those of these shops.
    Shops(Ids),
}

/// 1 to [`SCOPE_IDS_MAX`] ids, each at least 1 and none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids(BTreeSet<i64>);

impl Scope {
    /// Whether this line counts.
    pub fn covers(&self, line: &Line) -> bool {
        match self {
            Self::All => true,
            Self::Categories(ids) => ids.0.contains(&line.category_id),
            Self::Products(ids) => ids.0.contains(&line.product_id),
            Self::Shops(ids) => ids.0.contains(&line.shop_id),
        }
    }
}

impl Ids {
    /// # Errors
    /// When there are too few or too many, one is below 1, or one comes twice.
    pub fn new(ids: &[i64]) -> Result<Self, Invalid> {
        entries("ids", ids, 1, SCOPE_IDS_MAX)?;
        unique("ids", ids).map(Self)
    }
}

/// Ids that are at least 1, none twice.
pub(crate) fn unique(field: &str, ids: &[i64]) -> Result<BTreeSet<i64>, Invalid> {
    let mut set = BTreeSet::new();
    for (at, id) in ids.iter().enumerate() {
        let named = |error: Invalid| error.within(&format!("{field}[{at}]"));
        between("", *id, 1, i64::MAX).map_err(named)?;
        if !set.insert(*id) {
            return Err(named(Invalid::new("", Limit::Unique)));
        }
    }
    Ok(set)
}

impl TryFrom<&pb::Scope> for Scope {
    type Error = Invalid;

    fn try_from(wire: &pb::Scope) -> Result<Self, Invalid> {
        let ids = |name, ids: &pb::Ids| Ids::new(&ids.ids).map_err(|error| error.within(name));
        Ok(match given("kind", wire.kind.as_ref())? {
            pb::scope::Kind::All(pb::Everything {}) => Self::All,
            pb::scope::Kind::Categories(wire) => Self::Categories(ids("categories", wire)?),
            pb::scope::Kind::Products(wire) => Self::Products(ids("products", wire)?),
            pb::scope::Kind::Shops(wire) => Self::Shops(ids("shops", wire)?),
        })
    }
}

impl From<&Scope> for pb::Scope {
    fn from(scope: &Scope) -> Self {
        let ids = |ids: &Ids| pb::Ids { ids: ids.0.iter().copied().collect() };
        let kind = match scope {
            Scope::All => pb::scope::Kind::All(pb::Everything {}),
            Scope::Categories(own) => pb::scope::Kind::Categories(ids(own)),
            Scope::Products(own) => pb::scope::Kind::Products(ids(own)),
            Scope::Shops(own) => pb::scope::Kind::Shops(ids(own)),
        };
        Self { kind: Some(kind) }
    }
}
