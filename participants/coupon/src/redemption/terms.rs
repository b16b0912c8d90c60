//! The rules of the templates' versions: asked for once, since a version that users have never changes.
//!
//! One call at a time asks for a version; the others wait for its answer, and for no other when there was none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tercet_proto::coupon_template::v1::GetRulesRequest;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_rules::{Code, Fault, Rules};
use tonic::Request;
use tonic::transport::Channel;
use tracing::{error, warn};

use super::limits::TERMS_MAX;

/// How long nothing is asked after there was no answer.
const PAUSE: Duration = Duration::from_millis(500);
/// For a call to the template service.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A template and a version of it.
pub(super) type Version = (i64, u32);

/// When there was no answer.
type Asking = Arc<tokio::sync::Mutex<Option<Instant>>>;

pub(super) struct Terms {
    templates: CouponTemplatesClient<Channel>,
    known: Mutex<HashMap<Version, Arc<Rules>>>,
    asking: Mutex<HashMap<Version, Asking>>,
}

impl Terms {
    pub(super) fn new(templates: Channel) -> Self {
        let templates = CouponTemplatesClient::new(templates);
        Self { templates, known: Mutex::default(), asking: Mutex::default() }
    }

    /// The rules of a version.
    ///
    /// # Errors
    /// [`Code::SystemBusy`] where they can not be had.
    pub(super) async fn get(&self, version: Version) -> Result<Arc<Rules>, Fault> {
        if let Some(rules) = self.known(version) {
            return Ok(rules);
        }
        let asking = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            if asking.len() >= TERMS_MAX && !asking.contains_key(&version) {
                asking.clear();
            }
            Arc::clone(asking.entry(version).or_default())
        };
        let mut failed = asking.lock().await;
        if let Some(rules) = self.known(version) {
            return Ok(rules);
        }
        if failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return Err(Code::SystemBusy.fault([]));
        }
        let Some(rules) = self.ask(version).await else {
            *failed = Some(Instant::now());
            return Err(Code::SystemBusy.fault([]));
        };
        let rules = Arc::new(rules);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TERMS_MAX {
            known.clear();
        }
        known.insert(version, Arc::clone(&rules));
        Ok(rules)
    }

    fn known(&self, version: Version) -> Option<Arc<Rules>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&version).map(Arc::clone)
    }

    async fn ask(&self, (template_id, version): Version) -> Option<Rules> {
        let mut request = Request::new(GetRulesRequest { template_id, version });
        request.set_timeout(TIMEOUT);
        let wire = match self.templates.clone().get_rules(request).await {
            Ok(answer) => answer.into_inner().rules?,
            Err(status) => {
                warn!(template_id, version, error = status.message(), "the template service gives no rules");
                return None;
            }
        };
        match Rules::try_from(&wire) {
            Ok(rules) => Some(rules),
            Err(error) => {
                error!(template_id, version, %error, "the template service gives rules that this version can not read");
                None
            }
        }
    }
}
