//! How many units of a product there are.

use tercet_proto::stock::v1 as pb;

use crate::schema::{Id, params, records};

params! {
    /// A product.
    ProductId {
        /// The product, below 2^48.
        product_id: Id,
    }
}

records! {
    /// How many units of a product there shall be.
    NewStock {
        /// In all, those that orders have included: 0 to 1,000,000,000,000.
        units: i64,
        /// The revision that the operator saw; left out for a product without one.
        expected_revision: Option<u64>,
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// The units of a product.
    ProductStock {
        /// The product.
        product_id: Id,
        /// In all: the sum of the next three.
        units: i64,
        /// What can be bought.
        free: i64,
        /// In orders that are being placed.
        reserved: i64,
        /// In orders.
        issued: i64,
        /// Of the units in all; each change has the next.
        revision: i64,
    }
}

impl From<pb::ProductStock> for ProductStock {
    fn from(wire: pb::ProductStock) -> Self {
        let pb::ProductStock { product_id, units, free, reserved, issued, revision } = wire;
        Self { product_id: Id(product_id), units, free, reserved, issued, revision }
    }
}
