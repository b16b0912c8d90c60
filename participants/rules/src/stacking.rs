//! Which coupons may be used together.

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Invalid, between, given, name};
use crate::limits::{STACKED_MAX, STACKING_GROUP_BYTES_MAX};

/// What else may be used in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stacking {
    /// Nothing.
    Alone,
    /// Coupons of other groups, and some of its own.
    Together(Group),
}

/// A group of coupons, and how many of it an order may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    name: String,
    most: u32,
}

impl Group {
    /// # Errors
    /// When the name is not 1 to 32 of `[a-z0-9_-]`, or the number not 1 to [`STACKED_MAX`].
    pub fn new(group: &str, most: u32) -> Result<Self, Invalid> {
        name("group", group, STACKING_GROUP_BYTES_MAX)?;
        Ok(Self { name: group.to_owned(), most: between("most", most, 1, STACKED_MAX.into())? })
    }

    /// What coupons of it have in common.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many of it an order may use.
    pub const fn most(&self) -> u32 {
        self.most
    }
}

impl Stacking {
    /// Whether these may be used in one order, in whatever order they come. Where coupons of a group say different
    /// numbers, the smallest counts.
    pub fn agree(coupons: &[&Self]) -> bool {
        coupons.len() < 2
            || coupons.iter().all(|own| match own {
                Self::Alone => false,
                Self::Together(group) => {
                    let same = |other: &&&Self| matches!(other, Self::Together(other) if other.name == group.name);
                    coupons.iter().filter(same).count() <= group.most as usize
                }
            })
    }
}

impl TryFrom<&pb::Stacking> for Stacking {
    type Error = Invalid;

    fn try_from(wire: &pb::Stacking) -> Result<Self, Invalid> {
        match given("kind", wire.kind.as_ref())? {
            pb::stacking::Kind::Alone(pb::Alone {}) => Ok(Self::Alone),
            pb::stacking::Kind::Together(wire) => {
                Group::new(&wire.group, wire.most).map(Self::Together).map_err(|error| error.within("together"))
            }
        }
    }
}

impl From<&Stacking> for pb::Stacking {
    fn from(stacking: &Stacking) -> Self {
        let kind = match stacking {
            Stacking::Alone => pb::stacking::Kind::Alone(pb::Alone {}),
            Stacking::Together(group) => {
                pb::stacking::Kind::Together(pb::Together { group: group.name.clone(), most: group.most })
            }
        };
        Self { kind: Some(kind) }
    }
}
