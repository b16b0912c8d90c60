//! Templates, as operators see them, and what users are offered.

use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::Fault;

use crate::limits::TERMS_IDS_SHOWN;
use crate::schema::{Entries, Id, choices, params, records};
use crate::wire::common::{given, next, time};
use crate::wire::rules::{Period, Rules, Terms, Validity};

choices! {
    /// Where a template stands in its life.
    TemplateStatus: pb::Status {
        Draft = "draft",
        Gray = "gray",
        Published = "published",
        Paused = "paused",
        Ended = "ended",
    }
}

params! {
    /// A template.
    TemplateId {
        /// The template.
        template_id: Id,
    }

    /// A version of a template.
    TemplateVersion {
        /// The template.
        template_id: Id,
        /// Its version.
        version: u32,
    }

    /// Which templates.
    TemplateFilter {
        /// Only those that stand there.
        status: Option<TemplateStatus>,
        /// Only those that could be claimed at this time, in milliseconds since 1970 UTC; needs a status.
        claimable_at_ms: Option<i64>,
        /// Most entries, 1 to 50; 20 when left out.
        limit: Option<Entries<50>>,
        /// `next` of the page before.
        after: Option<String>,
    }

    /// Which changes.
    ChangeFilter {
        /// Only those of this template.
        template_id: Option<Id>,
        /// Only those of this operator.
        operator: Option<String>,
        /// Most entries, 1 to 50; 20 when left out.
        limit: Option<Entries<50>>,
        /// `next` of the page before.
        before: Option<Id>,
    }
}

records! {
    /// Why a template is changed, and what it is changed from.
    Change {
        /// The revision that the operator saw; left out for a new template, and where a version is named.
        expected_revision: Option<u64>,
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// A new template.
    NewTemplate {
        /// 1 to 128 bytes.
        name: String,
        /// Those of its first version.
        rules: Rules,
        /// Why.
        change: Change,
    }

    /// Other rules.
    NewRules {
        /// Those of the draft version; one is made when there is none.
        rules: Rules,
        /// Why.
        change: Change,
    }

    /// Who gets the version that is being tried: whoever is in one of the three.
    Audience {
        /// 0 to 10,000 of 10,000 users, chosen by a hash that stays: who is in remains in when it grows.
        basis_points: Option<u32>,
        /// Names of user groups, at most 32, each of 1 to 64 bytes.
        groups: Option<Vec<String>>,
        /// At most 1,000.
        user_ids: Option<Vec<Id>>,
    }

    /// A version that is to be tried.
    NewAudience {
        /// By whom.
        audience: Audience,
        /// Why.
        change: Change,
    }

    /// What is done with a version, or with a template as a whole.
    Reason {
        /// Why.
        change: Change,
    }

    /// A kind of coupon.
    Template {
        /// Its number.
        template_id: Id,
        /// Its name.
        name: String,
        /// Where it stands.
        status: Option<TemplateStatus>,
        /// Counts the changes: the next one has to expect it.
        revision: u64,
        /// The version that everyone has.
        live_version: Option<u32>,
        /// The version that is written or tried.
        candidate_version: Option<u32>,
        /// The version that was made last.
        newest_version: u32,
        /// What a roll back of the live version goes to.
        previous_version: Option<u32>,
        /// While it is gray.
        audience: Option<Audience>,
        /// When coupons may be claimed.
        claim: Option<Period>,
        /// When it was made.
        created_ms: i64,
        /// When it was changed last.
        updated_ms: i64,
    }

    /// A template after a change.
    Changed {
        /// As it is now.
        template: Template,
        /// False for a repeat.
        changed: bool,
    }

    /// Templates.
    Templates {
        /// By start, end and number within a status; by number over all of them.
        items: Vec<Template>,
        /// Where the next page begins; left out on the last one.
        next: Option<String>,
    }

    /// The rules of a version.
    VersionRules {
        /// What coupons of it are good for.
        rules: Rules,
        /// When everyone got it for the first time; left out where nobody has.
        published_ms: Option<i64>,
    }

    /// A row of the business log.
    LoggedChange {
        /// Its number.
        change_id: Id,
        /// What was changed.
        template_id: Id,
        /// The template's, after it.
        revision: u64,
        /// When.
        at_ms: i64,
        /// Who did it.
        operator: String,
        /// What was done.
        action: String,
        /// Why.
        reason: String,
        /// As it was, in JSON; left out for a template that is new.
        before: Option<String>,
        /// As it became, in JSON.
        after: String,
    }

    /// Rows of the business log.
    Changes {
        /// Newest first.
        items: Vec<LoggedChange>,
        /// Where the next page begins; left out on the last one.
        next: Option<Id>,
    }

    /// How a version does beside what everyone else has: of coupons that were claimed while it was tried.
    Usage {
        /// Those who tried it.
        gray: UsageTotals,
        /// Those who got something else meanwhile.
        rest: UsageTotals,
    }

    /// What was done with coupons.
    UsageTotals {
        /// Coupons that were claimed.
        claimed: i64,
        /// Coupons that were used.
        used: i64,
        /// Coupons that were given back.
        refunded: i64,
        /// What the used ones took off, less what was given back.
        discount_cents: i64,
        /// What their orders cost before, less those given back.
        order_cents: i64,
        /// Used and not given back of claimed, in 10,000.
        use_basis_points: u32,
    }

    /// What a user can have of a template.
    UserOffer {
        /// The template.
        template_id: Id,
        /// The version that the user gets.
        version: u32,
        /// What its coupons are good for.
        rules: Rules,
    }

    /// A template of which the user can claim coupons.
    OfferedTemplate {
        /// The template.
        template_id: Id,
        /// Its name.
        name: String,
        /// The version that the user gets.
        version: u32,
        /// When its coupons may be claimed.
        claim: Period,
        /// When they are valid.
        validity: Validity,
        /// What they are good for.
        terms: Terms,
    }

    /// Templates whose coupons can be claimed now.
    OfferedTemplates {
        /// Those that began first come first.
        items: Vec<OfferedTemplate>,
        /// Where the next page begins; left out on the last one. A page may be short, and even empty, and not be the
        /// last: it looks at 500 templates at most, whoever they are for.
        next: Option<String>,
    }
}

impl Change {
    /// For the service: `operator` does it.
    pub(crate) fn wire(self, operator: String) -> Option<pb::Change> {
        let expected_revision = self.expected_revision.unwrap_or_default();
        Some(pb::Change { expected_revision, operator, reason: self.reason })
    }
}

impl Audience {
    /// For the service.
    pub(crate) fn wire(self) -> Option<pb::Audience> {
        Some(pb::Audience {
            basis_points: self.basis_points.unwrap_or_default(),
            groups: self.groups.unwrap_or_default(),
            user_ids: self.user_ids.unwrap_or_default().into_iter().map(|id| id.0).collect(),
        })
    }
}

impl From<pb::Audience> for Audience {
    fn from(wire: pb::Audience) -> Self {
        Self {
            basis_points: Some(wire.basis_points),
            groups: Some(wire.groups),
            user_ids: Some(wire.user_ids.into_iter().map(Id).collect()),
        }
    }
}

impl From<pb::Template> for Template {
    fn from(wire: pb::Template) -> Self {
        let version = |number: u32| (number > 0).then_some(number);
        Self {
            template_id: Id(wire.template_id),
            name: wire.name,
            status: TemplateStatus::of(wire.status),
            revision: wire.revision,
            live_version: version(wire.live_version),
            candidate_version: version(wire.candidate_version),
            newest_version: wire.newest_version,
            previous_version: version(wire.previous_version),
            audience: wire.audience.map(Into::into),
            claim: wire.claim.map(Into::into),
            created_ms: wire.created_ms,
            updated_ms: wire.updated_ms,
        }
    }
}

impl TryFrom<pb::ChangeResponse> for Changed {
    type Error = Fault;

    fn try_from(wire: pb::ChangeResponse) -> Result<Self, Fault> {
        Ok(Self { template: given(wire.template)?.into(), changed: wire.changed })
    }
}

impl From<pb::ListTemplatesResponse> for Templates {
    fn from(wire: pb::ListTemplatesResponse) -> Self {
        Self { items: wire.templates.into_iter().map(Into::into).collect(), next: next(wire.next) }
    }
}

impl TryFrom<pb::ListOffersResponse> for OfferedTemplates {
    type Error = Fault;

    fn try_from(wire: pb::ListOffersResponse) -> Result<Self, Fault> {
        let offered = |own: pb::UserOffer| {
            let pb::Release { version, rules } = given(own.release)?;
            let rules = given(rules)?;
            let (claim, validity) = (rules.claim.unwrap_or_default(), rules.validity.unwrap_or_default());
            Ok(OfferedTemplate {
                template_id: Id(own.template_id),
                name: own.name,
                version,
                claim: claim.into(),
                validity: validity.into(),
                terms: Terms::of(rules, TERMS_IDS_SHOWN),
            })
        };
        let items = wire.offers.into_iter().map(offered).collect::<Result<_, Fault>>()?;
        Ok(Self { items, next: next(wire.next) })
    }
}

impl TryFrom<pb::GetRulesResponse> for VersionRules {
    type Error = Fault;

    fn try_from(wire: pb::GetRulesResponse) -> Result<Self, Fault> {
        Ok(Self { rules: given(wire.rules)?.into(), published_ms: time(wire.published_ms) })
    }
}

impl From<pb::LoggedChange> for LoggedChange {
    fn from(wire: pb::LoggedChange) -> Self {
        Self {
            change_id: Id(wire.change_id),
            template_id: Id(wire.template_id),
            revision: wire.revision,
            at_ms: wire.at_ms,
            operator: wire.operator,
            action: wire.action,
            reason: wire.reason,
            before: (!wire.before.is_empty()).then_some(wire.before),
            after: wire.after,
        }
    }
}

impl From<pb::ListChangesResponse> for Changes {
    fn from(wire: pb::ListChangesResponse) -> Self {
        let next = (wire.next > 0).then_some(Id(wire.next));
        Self { items: wire.changes.into_iter().map(Into::into).collect(), next }
    }
}

impl From<pb::UsageTotals> for UsageTotals {
    fn from(wire: pb::UsageTotals) -> Self {
        let pb::UsageTotals { claimed, used, refunded, discount_cents, order_cents, use_basis_points } = wire;
        Self { claimed, used, refunded, discount_cents, order_cents, use_basis_points }
    }
}

impl TryFrom<pb::CompareUsageResponse> for Usage {
    type Error = Fault;

    fn try_from(wire: pb::CompareUsageResponse) -> Result<Self, Fault> {
        Ok(Self { gray: given(wire.gray)?.into(), rest: given(wire.rest)?.into() })
    }
}
