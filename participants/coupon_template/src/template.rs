//! A template as it is stored and as it goes over the wire.

use serde::Serialize;
use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Audience, Period, Rules};

use crate::lifecycle::{Standing, Status};
use crate::store::Place;

/// A kind of coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its number.
    pub template_id: i64,
    /// For people.
    pub name: String,
    /// Status and versions.
    pub standing: Standing,
    /// Counts its changes.
    pub revision: u64,
    /// Who has the candidate, while it is tried; nobody for as long as that is paused.
    pub audience: Option<Audience>,
    /// When coupons of the live version may be claimed, or of the candidate where there is none.
    pub claim: Period,
    /// When it was made.
    pub created_ms: i64,
    /// When it was changed last.
    pub updated_ms: i64,
}

/// The rules of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its rules.
    pub rules: Rules,
    /// When everyone got it for the first time.
    pub published_ms: Option<i64>,
}

/// What the business log keeps of a template before and after a change: all of it, and the rules where they are what
/// was changed.
#[derive(Serialize)]
struct Snapshot {
    template: pb::Template,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<pb::Rules>,
}

impl Template {
    /// Where it stands among others in lists by status.
    pub const fn place(&self) -> Place {
        (self.claim.start_ms(), self.claim.end_ms(), self.template_id)
    }

    /// For the business log, as JSON.
    pub fn snapshot(&self, rules: Option<&Rules>) -> String {
        let snapshot = Snapshot { template: self.into(), rules: rules.map(Into::into) };
        let mut shown = serde_json::to_value(&snapshot).expect("numbers and texts have a form in JSON");
        // For people, who know it by its name.
        shown["template"]["status"] = self.standing.status.name().into();
        shown.to_string()
    }
}

impl From<&Template> for pb::Template {
    fn from(template: &Template) -> Self {
        let Standing { status, live, candidate, newest, previous, .. } = template.standing;
        Self {
            template_id: template.template_id,
            name: template.name.clone(),
            status: status as i32,
            revision: template.revision,
            live_version: live,
            candidate_version: candidate,
            newest_version: newest,
            previous_version: previous,
            audience: template.audience.as_ref().map(Into::into),
            claim: Some(template.claim.into()),
            created_ms: template.created_ms,
            updated_ms: template.updated_ms,
        }
    }
}

impl Status {
    /// The one of this number, on the wire and in the database.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as i64 == number)
    }
}
