//! What users are offered, and what the coupons are good for that they have.

use std::sync::{Arc, PoisonError};

use tercet::participant::DbTx;
use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Offer, Release, Stopped};

use super::{Result, Templates, missing};
use crate::lifecycle::{Standing, Status};
use crate::limits::{LOOKED_AT_MAX, OFFERS_MAX, PAGE_DEFAULT};
use crate::store::{Place, Store};
use crate::template::{Template, Version};

/// What a user gets of a template.
#[derive(Clone, Debug)]
pub struct UserOffer {
    /// The template as it is.
    pub template: Template,
    /// His version.
    pub release: Release,
}

impl<Db: Store> Templates<Db> {
    /// What may be claimed now, and by whom.
    ///
    /// # Errors
    /// [`NotFound`](tercet_rules::Code::NotFound).
    pub async fn offer(&self, template_id: i64) -> Result<Arc<Offer>> {
        let mut reader = self.readers.get().await?;
        let found = self.read_offer(&mut reader, template_id).await;
        let offer = reader.done(found)?;
        Ok(offer.ok_or_else(|| missing("template", template_id.to_string()))?)
    }

    /// So many offers that this user, a member of these groups, can claim at a time, by start, end and id of their
    /// templates; and the place where the next page begins, unless this is the last.
    ///
    /// # Errors
    /// The database's.
    pub async fn offers(
        &self,
        (user_id, groups): (i64, &[String]),
        at_ms: i64,
        after: Place,
        limit: u32,
    ) -> Result<(Vec<UserOffer>, Option<Place>)> {
        let mut reader = self.readers.get().await?;
        let found = self.read_offers(&mut reader, (user_id, groups), at_ms, after, limit).await;
        Ok(reader.done(found)?)
    }

    async fn read_offers(
        &self,
        connection: &mut DbTx<Db>,
        (user_id, groups): (i64, &[String]),
        at_ms: i64,
        mut after: Place,
        limit: u32,
    ) -> sqlx::Result<(Vec<UserOffer>, Option<Place>)> {
        let (mut offers, mut looked_at) = (Vec::new(), 0);
        // Not one by one where one is wanted, of many that are not for him.
        let at_once = limit.max(PAGE_DEFAULT);
        while looked_at < LOOKED_AT_MAX {
            let templates = self.offered(connection, at_ms, after, at_once).await?;
            looked_at += at_once;
            let is_last = templates.len() < at_once as usize;
            for template in templates {
                if offers.len() == limit as usize {
                    return Ok((offers, Some(after)));
                }
                after = template.place();
                let offer = self.current(connection, &template).await?;
                let mine = offer.choose(user_id, groups).ok().filter(|mine| mine.rules.claim().contains(at_ms));
                if let Some(release) = mine.cloned() {
                    offers.push(UserOffer { template, release });
                }
            }
            if is_last {
                return Ok((offers, None));
            }
        }
        Ok((offers, Some(after)))
    }

    /// The next so many templates of which somebody may have an offer. When the version that is tried may be claimed
    /// says that version alone, so that all that are gray are looked at.
    async fn offered(
        &self,
        connection: &mut DbTx<Db>,
        at_ms: i64,
        after: Place,
        limit: u32,
    ) -> sqlx::Result<Vec<Template>> {
        let mut templates = Db::list_status(connection, Status::Published, Some(at_ms), after, limit).await?;
        templates.extend(Db::list_status(connection, Status::Gray, None, after, limit).await?);
        // The first so many of both together are among the first so many of each.
        templates.sort_unstable_by_key(Template::place);
        templates.truncate(limit as usize);
        Ok(templates)
    }

    async fn read_offer(&self, connection: &mut DbTx<Db>, template_id: i64) -> sqlx::Result<Option<Arc<Offer>>> {
        match Db::template(connection, template_id).await? {
            Some(template) => self.current(connection, &template).await.map(Some),
            None => Ok(None),
        }
    }

    /// The offer of a template that has just been read.
    async fn current(&self, connection: &mut DbTx<Db>, template: &Template) -> sqlx::Result<Arc<Offer>> {
        let template_id = template.template_id;
        let known = self.offers.lock().unwrap_or_else(PoisonError::into_inner).get(&template_id).map(Arc::clone);
        if let Some(known) = known.filter(|known| known.revision == template.revision) {
            return Ok(known);
        }
        // Versions that users have do not change, so that three statements see what one would.
        let Standing { status, live, candidate, .. } = template.standing;
        let stopped = match status {
            Status::Draft | Status::Gray | Status::Published => None,
            Status::Paused => Some(Stopped::Paused),
            Status::Ended => Some(Stopped::Ended),
        };
        let mut offer = Offer { template_id, revision: template.revision, live: None, gray: None, stopped };
        if live > 0 && matches!(status, Status::Gray | Status::Published) {
            offer.live = Some(release(live, Db::version(connection, template_id, live).await?)?);
        }
        if let Some(audience) = template.audience.as_ref().filter(|_| status == Status::Gray) {
            let release = release(candidate, Db::version(connection, template_id, candidate).await?)?;
            offer.gray = Some((release, audience.clone()));
        }
        let offer = Arc::new(offer);
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if offers.len() >= OFFERS_MAX {
            offers.clear();
        }
        offers.insert(template_id, Arc::clone(&offer));
        Ok(offer)
    }

    /// Those of these versions that users have had.
    ///
    /// # Errors
    /// The database's.
    pub async fn named(&self, versions: &[pb::VersionKey]) -> Result<Vec<pb::NamedVersion>> {
        let mut reader = self.readers.get().await?;
        let found = Db::named(&mut reader, versions).await;
        Ok(reader.done(found)?)
    }
}

/// A version that the template names.
fn release(version: u32, found: Option<Version>) -> sqlx::Result<Release> {
    found.map(|found| Release { version, rules: found.rules }).ok_or(sqlx::Error::RowNotFound)
}
