//! What answers the routes: requests become those of the services, and their answers those of the API.

pub(crate) mod coupons;
pub(crate) mod log;
pub(crate) mod occasions;
pub(crate) mod offers;
pub(crate) mod orders;
pub(crate) mod redemptions;
pub(crate) mod stock;
pub(crate) mod templates;

use crate::route::{Answer, Anyone, Call, Reply};
use crate::schema::{Nothing, records};

records! {
    /// That it is there.
    Health {
        /// Always "serving".
        status: String,
    }
}

/// It answers as long as it takes requests: while it stops, the door before it does not let this one in.
pub(crate) async fn health(_: Call<Anyone, Nothing, Nothing>) -> Answer<Health> {
    Ok(Reply::ok(Health { status: "serving".to_owned() }))
}
