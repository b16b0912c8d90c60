//! What users and operators look at.

use std::fmt;

use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Code, Fault, Invalid, Limit, opened, sealed};
use tercet_shards::Slot;
use tracing::error;

use super::claims::busy;
use super::limits::LOOKED_AT_MAX;
use super::{Issuing, fields};
use crate::store::jobs::Jobs;
use crate::store::{self, Coupon, Statement};

/// Rows of one statement of an operator's page.
const LOOK: u32 = 200;
/// Most tables that are looked into for one page of an operator.
const TABLES_MAX: usize = 50;

/// The list of all coupons, in what says where its pages begin.
const LIST: &str = "coupons";

/// Where an operator's page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    database: usize,
    /// The table, by its place among those of the database.
    table: usize,
    /// Below this id.
    before: i64,
}

impl Place {
    const FIRST: Self = Self { database: 0, table: 0, before: i64::MAX };

    fn parse(text: &str) -> Result<Self, Invalid> {
        let text = opened("after", LIST, text)?;
        if text.is_empty() {
            return Ok(Self::FIRST);
        }
        let parts: Vec<&str> = text.split(':').collect();
        let place = |parts: &[&str]| match parts {
            [database, table, before] => Some(Self {
                database: database.parse().ok()?,
                table: table.parse().ok()?,
                before: before.parse().ok()?,
            }),
            _ => None,
        };
        place(&parts).ok_or_else(|| Invalid::new("after", Limit::Page))
    }

    fn text(self) -> String {
        sealed(LIST, &format!("{}:{}:{}", self.database, self.table, self.before))
    }
}

fn database(error: impl fmt::Display) -> Fault {
    error!(%error, "the database of coupons");
    busy()
}

impl<Db: Jobs + Dialect> Issuing<Db> {
    /// A coupon as it is.
    pub(super) async fn coupon(&self, coupon_id: i64) -> Result<Option<Coupon>, Fault> {
        let found = self.read(Slot::of_id(coupon_id), store::coupon(self.shards.map(), coupon_id)).await?;
        Ok(found.into_iter().next())
    }

    /// A user's coupon by the key of its claim.
    pub(super) async fn keyed(&self, user_id: i64, key: i64) -> Result<Option<Coupon>, Fault> {
        let found = self.read(Slot::of_user(user_id), store::keyed(self.shards.map(), user_id, key)).await?;
        Ok(found.into_iter().next())
    }

    /// The coupons that these statements find, newest first.
    async fn read(&self, slot: Slot, statements: Vec<Statement>) -> Result<Vec<Coupon>, Fault> {
        let at = self.shards.reads(slot).map_err(database)?;
        let ran = self.reads[at].read(statements).await.map_err(database)?;
        store::newest(&ran).map_err(database)
    }

    /// A coupon that there is, of this user where one is named.
    pub(super) async fn get_coupon(&self, request: pb::GetCouponRequest) -> Result<pb::UserCoupon, Fault> {
        let coupon_id = fields::id("coupon_id", request.coupon_id)?;
        let found = self.coupon(coupon_id).await?;
        let own = |coupon: &Coupon| request.user_id == 0 || coupon.user_id == request.user_id;
        let missing = || Code::NotFound.fault([("what", "coupon".to_owned()), ("id", coupon_id.to_string())]);
        found.filter(own).map(|coupon| fields::shown(&coupon)).ok_or_else(missing)
    }

    pub(super) async fn list_user(
        &self,
        request: &pb::ListUserCouponsRequest,
    ) -> Result<pb::ListUserCouponsResponse, Fault> {
        let user_id = fields::id("user_id", request.user_id)?;
        let (limit, statuses) = (fields::page(request.limit)?, fields::statuses(request.status)?);
        let list = format!("coupons of user {user_id}");
        let before = match opened("after", &list, &request.after)? {
            "" => i64::MAX,
            after => after.parse().map_err(|_| Invalid::new("after", Limit::Page))?,
        };
        let own = store::of_user(self.shards.map(), user_id, &statuses, (before, limit));
        let mut found = self.read(Slot::of_user(user_id), own).await?;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| found.len() == limit as usize);
        let next = next.map(|coupon| sealed(&list, &coupon.coupon_id.to_string())).unwrap_or_default();
        Ok(pb::ListUserCouponsResponse { coupons: found.iter().map(fields::shown).collect(), next })
    }

    /// A page over all shards: one table after the other, each with its newest first.
    pub(super) async fn list(&self, request: &pb::ListCouponsRequest) -> Result<pb::ListCouponsResponse, Fault> {
        let limit = fields::page(request.limit)? as usize;
        let status = match request.status {
            0 => None,
            number => fields::statuses(number)?.first().copied(),
        };
        let mut place = Place::parse(&request.after)?;
        let view = self.shards.slots().view();
        let (mut coupons, mut looked_at, mut tables) = (Vec::new(), 0, 0);
        while place.database < self.shards.pools().len() {
            let own = self.shards.tables_in(&view, place.database);
            let Some(table) = own.get(place.table) else {
                place = Place { database: place.database + 1, ..Place::FIRST };
                continue;
            };
            if coupons.len() == limit || looked_at >= LOOKED_AT_MAX || tables >= TABLES_MAX {
                return Ok(pb::ListCouponsResponse { coupons, next: place.text() });
            }
            let mut reader = self.shards.reader_of(place.database).await.map_err(database)?;
            let wanted = (request.template_id, status);
            let rows = store::page::<Db>(&mut reader, *table, wanted, (place.before, LOOK)).await;
            let rows = reader.done(rows).map_err(database)?;
            let ended = rows.len() < LOOK as usize;
            (looked_at, tables) = (looked_at + LOOK, tables + 1);
            for (coupon, is_wanted) in &rows {
                if coupons.len() == limit {
                    return Ok(pb::ListCouponsResponse { coupons, next: place.text() });
                }
                place.before = coupon.coupon_id;
                // What a slot has left behind is not there any more.
                if *is_wanted && view.database(Slot::of_id(coupon.coupon_id)) == place.database {
                    coupons.push(fields::shown(coupon));
                }
            }
            if ended {
                place = Place { table: place.table + 1, before: i64::MAX, ..place };
            }
        }
        Ok(pb::ListCouponsResponse { coupons, next: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_its_text_says() {
        let place = Place { database: 3, table: 14, before: 159 };
        assert_eq!(Place::parse(&place.text()), Ok(place));
        assert_eq!(Place::parse(""), Ok(Place::FIRST));
        for text in ["1:2", "1:2:x", "1:2:3:4", "::"] {
            assert!(Place::parse(&sealed(LIST, text)).is_err(), "{text}");
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
