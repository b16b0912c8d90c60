//! What coupons are good for: the terms of versions of templates, which never change once users have them.
//!
//! They are asked for once and kept, so that a coupon can be told whatever became of its template. While the template
//! service does not answer, coupons are shown without those that are not here yet.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tercet_proto::coupon_template::v1 as pb;

use crate::limits::{TERMS_AGAIN_MIN, TERMS_IDS_SHOWN, TERMS_KEPT_MAX, TERMS_WAIT_MAX};
use crate::services::{Context, Told as _};
use crate::wire::rules::Terms;

/// A template and its version.
pub(crate) type Key = (i64, u32);

/// What a coupon of a version is good for.
#[derive(Debug)]
pub(crate) struct Named {
    /// Its template's name.
    pub(crate) name: String,
    /// As lists show it.
    pub(crate) short: Terms,
    /// All of it.
    pub(crate) whole: Terms,
}

/// What is kept.
#[derive(Debug, Default)]
struct Kept {
    /// `None` where the template service knows no such version.
    versions: HashMap<Key, Option<Arc<Named>>>,
    /// When there was no answer.
    failed: Option<Instant>,
}

/// All versions that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Kept>);

impl Known {
    /// Those of these that can be had.
    pub(crate) async fn find(
        &self,
        keys: impl Iterator<Item = Key> + Send,
        context: &Context,
    ) -> HashMap<Key, Arc<Named>> {
        let keys: BTreeSet<Key> = keys.collect();
        let mut found = HashMap::with_capacity(keys.len());
        let mut missing = Vec::new();
        {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                match kept.versions.get(&key) {
                    Some(named) => found.extend(named.as_ref().map(|named| (key, Arc::clone(named)))),
                    None => missing.push(key),
                }
            }
            if kept.failed.is_some_and(|failed| failed.elapsed() < TERMS_AGAIN_MIN) {
                return found;
            }
        }
        if !missing.is_empty() {
            let asked = self.ask(&missing, context).await;
            found.extend(asked.into_iter().filter_map(|(key, named)| Some((key, named?))));
        }
        found
    }

    /// Asks for these, and keeps what is told.
    async fn ask(&self, keys: &[Key], context: &Context) -> Vec<(Key, Option<Arc<Named>>)> {
        let versions = keys.iter().map(|&(template_id, version)| pb::VersionKey { template_id, version }).collect();
        let request = context.request(pb::GetVersionsRequest { versions });
        let mut templates = context.services.templates.clone();
        let told = tokio::time::timeout(TERMS_WAIT_MAX, templates.get_versions(request)).await;
        let told = told.ok().and_then(|told| told.told().ok());
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = told else {
            kept.failed = Some(Instant::now());
            tracing::warn!(versions = keys.len(), "coupons are shown without their terms: nobody tells them");
            return Vec::new();
        };
        kept.failed = None;
        let mut told: HashMap<Key, Arc<Named>> = told.versions.into_iter().filter_map(named).collect();
        let asked: Vec<_> = keys.iter().map(|key| (*key, told.remove(key))).collect();
        if kept.versions.len() + asked.len() > TERMS_KEPT_MAX {
            kept.versions.clear();
        }
        // What is not there now may be later.
        kept.versions.extend(asked.iter().filter(|(_, named)| named.is_some()).cloned());
        asked
    }
}

fn named(wire: pb::NamedVersion) -> Option<(Key, Arc<Named>)> {
    let pb::Release { version, rules } = wire.release?;
    let (short, whole) = (Terms::of(rules.clone()?, TERMS_IDS_SHOWN), Terms::of(rules?, usize::MAX));
    Some(((wire.template_id, version), Arc::new(Named { name: wire.name, short, whole })))
}
