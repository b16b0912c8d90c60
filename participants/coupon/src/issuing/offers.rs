//! What may be claimed of each template, at most [`FRESH`] old, and its stock.
//!
//! One call at a time asks for a template; the others wait for its answer. While the template service does not answer,
//! an offer is good for [`STALE_MAX`], to grant by: what is refused by it may be wrong, so nothing is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Pool;
use tercet::client::{Client, Wait};
use tercet::plan;
use tercet_proto::coupon_template::v1::GetOfferRequest;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::stock::v1::Supply;
use tercet_rules::{Code, Fault, Offer};
use tonic::Request;
use tonic::transport::Channel;
use tracing::{debug, error, warn};

use super::FRESH;
use super::limits::{CALL_TIMEOUT, OFFERS_MAX};
use crate::stock;
use crate::store::jobs::Jobs;

/// How old an offer may be while there is no newer to be had.
const STALE_MAX: Duration = Duration::from_secs(10);

/// How long nothing is asked after there was no answer.
const PAUSE: Duration = Duration::from_millis(500);

/// For a call to the template service.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An offer, and whether it is fresh enough to refuse by.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) offer: Arc<Offer>,
    pub(super) fresh: bool,
}

/// What is known of one template.
#[derive(Default)]
struct Entry {
    /// The answer, and when it was asked for.
    known: Option<(Result<Arc<Offer>, Fault>, Instant)>,
    /// The revision whose stock is set.
    supplied: u64,
    /// When there was no answer.
    failed: Option<Instant>,
}

/// All templates that were asked for.
pub(super) struct Offers<Db: Jobs> {
    /// Where it is written which stock was set.
    home: Pool<Db>,
    templates: CouponTemplatesClient<Channel>,
    client: Client,
    entries: Mutex<HashMap<i64, Arc<tokio::sync::Mutex<Entry>>>>,
}

impl<Db: Jobs> Offers<Db> {
    pub(super) fn new(home: Pool<Db>, templates: CouponTemplatesClient<Channel>, client: Client) -> Self {
        Self { home, templates, client, entries: Mutex::default() }
    }

    /// The offer of a template.
    ///
    /// # Errors
    /// [`Code::NotFound`], and [`Code::SystemBusy`] where neither it nor its stock can be had.
    pub(super) async fn get(&self, template_id: i64) -> Result<Current, Fault> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.len() >= OFFERS_MAX && !entries.contains_key(&template_id) {
                entries.clear();
            }
            Arc::clone(entries.entry(template_id).or_default())
        };
        let mut entry = entry.lock().await;
        if let Some((known, asked)) = &entry.known
            && asked.elapsed() < FRESH
        {
            return known.clone().map(|offer| Current { offer, fresh: true });
        }
        // Those who waited for an answer that did not come wait for no other.
        if entry.failed.is_none_or(|failed| failed.elapsed() >= PAUSE) {
            let asked = Instant::now();
            if let Some(answer) = self.ask(template_id, &mut entry.supplied).await {
                (entry.known, entry.failed) = (Some((answer.clone(), asked)), None);
                return answer.map(|offer| Current { offer, fresh: true });
            }
            entry.failed = Some(Instant::now());
        }
        match &entry.known {
            Some((Ok(offer), asked)) if asked.elapsed() < STALE_MAX => {
                Ok(Current { offer: Arc::clone(offer), fresh: false })
            }
            Some(_) | None => Err(Code::SystemBusy.fault([])),
        }
    }

    /// `None` where there is no answer, or the stock can not be set.
    async fn ask(&self, template_id: i64, supplied: &mut u64) -> Option<Result<Arc<Offer>, Fault>> {
        let mut request = Request::new(GetOfferRequest { template_id });
        request.set_timeout(TIMEOUT);
        let wire = match self.templates.clone().get_offer(request).await {
            Ok(answer) => answer.into_inner().offer?,
            Err(status) => {
                let fault = Fault::from_status(&status).filter(|fault| fault.code == Code::NotFound);
                if fault.is_none() {
                    warn!(template_id, error = status.message(), "the template service gives no offer");
                }
                return fault.map(Err);
            }
        };
        let offer = match Offer::try_from(&wire) {
            Ok(offer) => Arc::new(offer),
            Err(error) => {
                error!(template_id, %error, "the template service gives an offer that this version can not read");
                return None;
            }
        };
        if offer.revision != *supplied {
            self.supply(&offer).await?;
            *supplied = offer.revision;
        }
        Some(Ok(offer))
    }

    /// Makes the stock what the offer's budget says: that of the version that everyone gets, or of the one that is
    /// tried where there is none. One that is tried beside a live one has a budget of its own within it. An offer
    /// without either leaves the stock as it is.
    async fn supply(&self, offer: &Offer) -> Option<()> {
        let gray = offer.gray.as_ref().map(|(release, _)| release);
        let Some(release) = offer.live.as_ref().or(gray) else { return Some(()) };
        let template_id = offer.template_id;
        let (sequence, candidate) =
            (stock::supplied(offer.revision), offer.beside().map_or(0, |release| release.version));
        let failed = |error: &sqlx::Error| warn!(template_id, %error, "it is not known which stock is set");
        let before = self.candidate(template_id).await.inspect_err(failed).ok()?;
        if before != 0 && before != candidate {
            // Nobody claims from it any more.
            let item = stock::candidate_item(template_id, before);
            set_stock(&self.client, item, 0, sequence).await.then_some(())?;
        }
        // Written down first, so that what is set is found again when the template has ended.
        let revision = i64::try_from(offer.revision).unwrap_or(i64::MAX);
        self.note(template_id, revision, candidate).await.inspect_err(failed).ok()?;
        let mut supplies = vec![(stock::template_item(template_id), release)];
        if let Some(release) = offer.beside() {
            supplies.push((stock::candidate_item(template_id, release.version), release));
        }
        for (item, release) in supplies {
            if !set_stock(&self.client, item, release.rules.budget().coupons(), sequence).await {
                return None;
            }
        }
        Some(())
    }

    async fn candidate(&self, template_id: i64) -> sqlx::Result<u32> {
        Db::candidate(&mut *self.home.acquire().await?, template_id).await
    }

    async fn note(&self, template_id: i64, revision: i64, candidate: u32) -> sqlx::Result<()> {
        Db::supplied(&mut *self.home.acquire().await?, template_id, revision, candidate).await
    }
}

/// Sets how many units of an item there are in all; whether it is done.
pub(crate) async fn set_stock(client: &Client, item: i64, units: i64, sequence: i64) -> bool {
    let supply = Supply { item, units, sequence };
    let plan = || -> anyhow::Result<_> {
        // Without a key: a supply that was cancelled, since stock was away, is to be tried again, and one that was not
        // is no harm twice.
        let mut plan = plan::saga().deadline(CALL_TIMEOUT);
        plan.branch(stock::SUPPLY.with(&supply)?.business_key(format!("item/{item}")));
        Ok(plan.build()?)
    };
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            error!(item, %error, "a supply is no plan");
            return false;
        }
    };
    match client.submit(plan, Wait::Ended).await.map(tercet::client::View::confirmed) {
        Ok(Ok(_)) => {
            debug!(item, units, sequence, "stock set");
            true
        }
        Ok(Err(undone)) => {
            warn!(item, %undone, "the stock of an item is not set");
            false
        }
        Err(error) => {
            warn!(item, %error, "the stock of an item may not be set");
            false
        }
    }
}
