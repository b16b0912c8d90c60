//! Who gets which version: gray release.
//!
//! Any service that has an [`Offer`] decides for a user without asking anyone.

use std::collections::BTreeSet;

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Invalid, Limit, between, entries, given, group};
use crate::limits::{AUDIENCE_GROUPS_MAX, AUDIENCE_USERS_MAX, WHOLE};
use crate::rules::{Refusal, Rules};
use crate::scope::unique;

/// Who gets the version that is being tried: a part of all users, the members of some groups, and some by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    basis_points: u32,
    groups: BTreeSet<String>,
    user_ids: BTreeSet<i64>,
}

impl Audience {
    /// # Errors
    /// When it selects nobody, or a field is past its limit.
    pub fn new(basis_points: u32, groups: &[String], user_ids: &[i64]) -> Result<Self, Invalid> {
        between("basis_points", basis_points, 0, WHOLE.into())?;
        entries("groups", groups, 0, AUDIENCE_GROUPS_MAX)?;
        entries("user_ids", user_ids, 0, AUDIENCE_USERS_MAX)?;
        let mut names = BTreeSet::new();
        for (at, name) in groups.iter().enumerate() {
            let named = |error: Invalid| error.within(&format!("groups[{at}]"));
            group("", name).map_err(named)?;
            if !names.insert(name.clone()) {
                return Err(named(Invalid::new("", Limit::Unique)));
            }
        }
        let user_ids = unique("user_ids", user_ids)?;
        if basis_points == 0 && names.is_empty() && user_ids.is_empty() {
            return Err(Invalid::new("basis_points", Limit::Somebody));
        }
        Ok(Self { basis_points, groups: names, user_ids })
    }

    /// Whether this user, a member of these groups, is in it. Who is in by the hash stays in when the part grows.
    pub fn includes<G: AsRef<str>>(&self, template_id: i64, version: u32, user_id: i64, groups: &[G]) -> bool {
        self.user_ids.contains(&user_id)
            || groups.iter().any(|group| self.groups.contains(group.as_ref()))
            || bucket(template_id, version, user_id) < self.basis_points
    }
}

/// Where a user stands in a release, 0 to 9,999: the hash of template, version and user. Each release draws anew, so
/// that it is not always the same users who try first.
///
/// The hash is the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// 2014), once for each of the three numbers, and then the remainder by 10,000. It is part of the contract: every
/// service has to decide alike, today and after the next update.
pub const fn bucket(template_id: i64, version: u32, user_id: i64) -> u32 {
    let seed = mix(template_id.cast_unsigned());
    let release = mix(seed.wrapping_add(version as u64));
    (mix(release.wrapping_add(user_id.cast_unsigned())) % WHOLE as u64) as u32
}

const fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A version that users get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub version: u32,
    /// Its rules.
    pub rules: Rules,
}

/// Why nobody may claim from a template that users had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// For a while.
    Paused,
    /// For ever.
    Ended,
}

/// What may be claimed of a template, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The template.
    pub template_id: i64,
    /// The template's, so that a newer offer can be told from an older.
    pub revision: u64,
    /// What everyone gets.
    pub live: Option<Release>,
    /// What the audience gets instead.
    pub gray: Option<(Release, Audience)>,
    /// Why nobody gets it, where claims are stopped.
    pub stopped: Option<Stopped>,
}

impl Offer {
    /// The version that this user, a member of these groups, gets.
    ///
    /// # Errors
    /// When there is none for him: [`Refusal::Paused`] and [`Refusal::Ended`] where there is none for anyone any more,
    /// [`Refusal::NotOffered`] else.
    pub fn choose<G: AsRef<str>>(&self, user_id: i64, groups: &[G]) -> Result<&Release, Refusal> {
        match &self.gray {
            Some((release, audience)) if audience.includes(self.template_id, release.version, user_id, groups) => {
                Ok(release)
            }
            Some(_) | None => self.for_all(),
        }
    }

    /// The version that everyone gets who is in no audience.
    ///
    /// # Errors
    /// Those of [`Offer::choose`].
    pub fn for_all(&self) -> Result<&Release, Refusal> {
        self.live.as_ref().ok_or(match self.stopped {
            Some(Stopped::Paused) => Refusal::Paused,
            Some(Stopped::Ended) => Refusal::Ended,
            None => Refusal::NotOffered,
        })
    }

    /// The version that is tried while another is live: what is claimed of it has its own budget, within the other's.
    pub fn beside(&self) -> Option<&Release> {
        self.gray.as_ref().filter(|_| self.live.is_some()).map(|(release, _)| release)
    }
}

impl TryFrom<&pb::Audience> for Audience {
    type Error = Invalid;

    fn try_from(wire: &pb::Audience) -> Result<Self, Invalid> {
        Self::new(wire.basis_points, &wire.groups, &wire.user_ids)
    }
}

impl From<&Audience> for pb::Audience {
    fn from(audience: &Audience) -> Self {
        Self {
            basis_points: audience.basis_points,
            groups: audience.groups.iter().cloned().collect(),
            user_ids: audience.user_ids.iter().copied().collect(),
        }
    }
}

impl TryFrom<&pb::Release> for Release {
    type Error = Invalid;

    fn try_from(wire: &pb::Release) -> Result<Self, Invalid> {
        let rules = given("rules", wire.rules.as_ref())?;
        let rules = Rules::try_from(rules).map_err(|error| error.within("rules"))?;
        Ok(Self { version: between("version", wire.version, 1, u32::MAX.into())?, rules })
    }
}

impl From<&Release> for pb::Release {
    fn from(release: &Release) -> Self {
        Self { version: release.version, rules: Some((&release.rules).into()) }
    }
}

impl TryFrom<&pb::Offer> for Offer {
    type Error = Invalid;

    fn try_from(wire: &pb::Offer) -> Result<Self, Invalid> {
        let live = wire.live.as_ref().map(|live| Release::try_from(live).map_err(|error| error.within("live")));
        let gray = wire.gray.as_ref().map(|gray| {
            let release = Release::try_from(gray).map_err(|error| error.within("gray"))?;
            let audience = given("audience", wire.audience.as_ref())?;
            let audience = Audience::try_from(audience).map_err(|error| error.within("audience"))?;
            Ok((release, audience))
        });
        Ok(Self {
            template_id: between("template_id", wire.template_id, 1, i64::MAX)?,
            revision: wire.revision,
            live: live.transpose()?,
            gray: gray.transpose()?,
            stopped: match wire.stopped() {
                pb::Status::Paused => Some(Stopped::Paused),
                pb::Status::Ended => Some(Stopped::Ended),
                pb::Status::Unspecified | pb::Status::Draft | pb::Status::Gray | pb::Status::Published => None,
            },
        })
    }
}

impl From<&Offer> for pb::Offer {
    fn from(offer: &Offer) -> Self {
        Self {
            template_id: offer.template_id,
            revision: offer.revision,
            live: offer.live.as_ref().map(Into::into),
            gray: offer.gray.as_ref().map(|(release, _)| release.into()),
            audience: offer.gray.as_ref().map(|(_, audience)| audience.into()),
            stopped: match offer.stopped {
                Some(Stopped::Paused) => pb::Status::Paused.into(),
                Some(Stopped::Ended) => pb::Status::Ended.into(),
                None => pb::Status::Unspecified.into(),
            },
        }
    }
}
