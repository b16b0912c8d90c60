//! Who calls: tokens (JWT, RFC 7519) that are signed with HS256, RS256 or ES256.
//!
//! A key is for one algorithm, by its kind: what a token says about its own algorithm is only compared with that, so
//! that nobody can pass a public key off as a shared secret.

mod crypto;
mod keys;
mod known;
mod revoked;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, decode, decode_header, encode, get_current_timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use tercet_rules::{Code, Fault, Invalid, Language, Limit, group, text};
use tercet_secure::token::random;

pub(crate) use self::keys::Source;
pub use self::keys::new_keys;
use self::keys::{Keys, base64url};
use self::known::Known;
use self::revoked::{Revocations, Revoked};
use crate::config::Tokens;
use crate::limits::{PERSON_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_GROUPS_MAX};
use crate::schema::Id;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Has coupons, and sees only his own.
    User,
    /// Redeems coupons for its orders, and refunds them.
    Shop,
    /// Makes templates and issues coupons.
    Operator,
}

impl Role {
    /// In tokens and texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Shop => "shop",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    User {
        user_id: i64,
        groups: Vec<String>,
    },
    /// Nobody by itself: a user's word that this shop may use his coupons.
    Consent {
        user_id: i64,
        shop_id: i64,
        /// For this order alone; `None`: for any.
        order_id: Option<i64>,
    },
    Shop {
        shop_id: i64,
        name: String,
    },
    Operator {
        name: String,
    },
}

impl Identity {
    /// `None` where it is nobody's.
    pub(crate) const fn role(&self) -> Option<Role> {
        match self {
            Self::User { .. } => Some(Role::User),
            Self::Consent { .. } => None,
            Self::Shop { .. } => Some(Role::Shop),
            Self::Operator { .. } => Some(Role::Operator),
        }
    }
}

/// What a token says of its bearer; its times and parties are checked before.
#[derive(Deserialize)]
struct Said {
    sub: String,
    role: Role,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default, deserialize_with = "said")]
    shop_id: Option<Id>,
    #[serde(default, deserialize_with = "said")]
    order_id: Option<Id>,
    /// Its last second; that it is there, and not over, is checked before.
    #[serde(default)]
    exp: f64,
    /// Its own name.
    #[serde(default)]
    jti: Option<String>,
    /// Its first second.
    #[serde(default)]
    iat: Option<f64>,
}

/// What narrows a token is there or not: one that names it as null says nothing that may be gone by.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
    Id::deserialize(deserializer).map(Some)
}

/// What a token that is made here says.
#[derive(Serialize)]
struct Claims {
    sub: String,
    role: Role,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shop_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<Id>,
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
}

/// Checks tokens.
pub(crate) struct Verifier {
    keys: Source,
    revoked: Revocations,
    /// With which issuers and audiences, for each algorithm.
    validations: [(Algorithm, Validation); 3],
    leeway: u64,
    known: Known,
}

impl Verifier {
    /// With these keys.
    ///
    /// # Errors
    /// When the list of revoked tokens can not be read or used.
    pub(crate) fn new(keys: Source, settings: &Tokens) -> Result<Self, tercet_secure::Error> {
        crypto::install();
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            let mut required = vec!["exp", "sub"];
            validation.leeway = settings.leeway_seconds;
            validation.validate_nbf = true;
            validation.validate_aud = !settings.audience.is_empty();
            if !settings.audience.is_empty() {
                validation.set_audience(&settings.audience);
                required.push("aud");
            }
            if !settings.issuer.is_empty() {
                validation.set_issuer(&settings.issuer);
                required.push("iss");
            }
            validation.set_required_spec_claims(&required);
            (algorithm, validation)
        };
        let validations = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256].map(validation);
        let revoked = Revocations::open(settings.revoked.as_deref())?;
        Ok(Self { keys, revoked, validations, leeway: settings.leeway_seconds, known: Known::default() })
    }

    /// Keeps the keys fresh until it is dropped.
    pub(crate) async fn refresh(&self) {
        self.keys.refresh().await;
    }

    /// Whom this token names.
    ///
    /// # Errors
    /// One of the codes that begin with TOKEN.
    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, Fault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("it is too long", "令牌过长"));
        }
        let (keys, revoked) = (self.keys.current(), self.revoked.current());
        if let Some(identity) = self.known.find(token, (&keys, &revoked), get_current_timestamp()) {
            return Ok(identity);
        }
        let (keys, until, identity) = self.check(token, keys, &revoked).await?;
        self.known.keep(token, (keys, revoked), until, identity.clone());
        Ok(identity)
    }

    /// Whom a token names that was not verified before; with the keys that it was found by, and its last second.
    async fn check(
        &self,
        token: &str,
        keys: Arc<Keys>,
        revoked: &Revoked,
    ) -> Result<(Arc<Keys>, u64, Identity), Fault> {
        let header = decode_header(token).map_err(|error| header_fault(&error))?;
        // Parts that have to be understood, and are not, make a signature worth nothing (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(invalid("it has critical parts that are not known here", "含有未知的关键头部（crit）"));
        }
        let kid = header.kid.as_deref();
        let keys = if keys.find(kid).is_some() { keys } else { self.keys.newer().await };
        let key = keys.find(kid).ok_or_else(|| Code::TokenKey.fault([]))?;
        if key.algorithm != header.alg {
            return Err(Code::TokenAlgorithm.fault([]));
        }
        let validation = self.validations.iter().find(|(own, _)| *own == key.algorithm).map(|(_, own)| own);
        let validation = validation.ok_or_else(|| Code::TokenAlgorithm.fault([]))?;
        let said = decode::<Said>(token, &key.decoding, validation).map_err(|error| fault(&error))?.claims;
        if revoked.has(said.jti.as_deref(), said.role, &said.sub, said.iat.map(|iat| iat as u64)) {
            return Err(Code::TokenRevoked.fault([]));
        }
        // A number out of range becomes the nearest one.
        let until = (said.exp.round() as u64).saturating_add(self.leeway);
        Ok((keys, until, identity(said)?))
    }
}

fn identity(said: Said) -> Result<Identity, Fault> {
    // What is meant for one order is never taken for more.
    if said.order_id.is_some() && (said.role != Role::User || said.shop_id.is_none()) {
        let detail = "an order_id is of a user's consent, which has a shop_id";
        return Err(invalid(detail, "order_id 只能用于带 shop_id 的用户授权"));
    }
    match said.role {
        Role::User => {
            let user_id = said.sub.parse().ok().filter(|id| *id > 0);
            let user_id =
                user_id.ok_or_else(|| invalid("a user's sub is a number from 1 on", "用户的 sub 须为正整数"))?;
            Ok(match said.shop_id {
                Some(Id(shop_id)) => Identity::Consent { user_id, shop_id, order_id: said.order_id.map(|id| id.0) },
                None => Identity::User { user_id, groups: groups(said.groups)? },
            })
        }
        Role::Shop => {
            let missing = || invalid("the token of a shop has a shop_id", "商家令牌须有 shop_id");
            let Id(shop_id) = said.shop_id.ok_or_else(missing)?;
            Ok(Identity::Shop { shop_id, name: person(said.sub)? })
        }
        Role::Operator => Ok(Identity::Operator { name: person(said.sub)? }),
    }
}

/// The name of a person, as the services take one and the business log keeps it.
fn person(sub: String) -> Result<String, Fault> {
    text("sub", &sub, PERSON_BYTES_MAX).map(drop).map_err(wrong)?;
    Ok(sub)
}

fn groups(groups: Vec<String>) -> Result<Vec<String>, Fault> {
    if groups.len() > TOKEN_GROUPS_MAX {
        return Err(wrong(Invalid::new("groups", Limit::Entries(0, TOKEN_GROUPS_MAX))));
    }
    for (at, name) in groups.iter().enumerate() {
        group(&format!("groups[{at}]"), name).map_err(wrong)?;
    }
    Ok(groups)
}

/// A part of the token that is not as it has to be.
fn wrong(Invalid { field, limit }: Invalid) -> Fault {
    let said = |joint: &str, language| format!("{field}{joint}{}", limit.text(language));
    invalid(&said(": ", Language::En), &said("：", Language::Zh))
}

fn invalid(detail: &str, detail_zh: &str) -> Fault {
    Code::TokenInvalid.fault([("detail", detail.to_owned()), ("detail_zh", detail_zh.to_owned())])
}

#[allow(clippy::wildcard_enum_match_arm, reason = "all others are told as ever")]
fn header_fault(error: &Error) -> Fault {
    match error.kind() {
        // An algorithm that nobody knows, such as none, is a word that the header can not have.
        ErrorKind::Json(inner) if inner.to_string().contains("unknown variant") => Code::TokenAlgorithm.fault([]),
        _ => fault(error),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "it may get further kinds, and all of these are one to us")]
fn fault(error: &Error) -> Fault {
    let code = match error.kind() {
        ErrorKind::InvalidSignature => Code::TokenSignature,
        ErrorKind::ExpiredSignature => Code::TokenExpired,
        ErrorKind::ImmatureSignature => Code::TokenEarly,
        ErrorKind::InvalidIssuer => Code::TokenIssuer,
        ErrorKind::InvalidAudience => Code::TokenAudience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => Code::TokenAlgorithm,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Code::TokenAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Code::TokenIssuer,
        _ => return invalid(&error.to_string(), "格式不正确"),
    };
    code.fault([])
}

/// Whom a token is made for.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// What he may do.
    pub role: Role,
    /// A user's number, or the name of a person of a shop or of the platform.
    pub subject: String,
    /// The shop of a person of a shop; of a user: the shop that may use his coupons, and nothing else is it good for.
    pub shop_id: Option<i64>,
    /// Of such a user: the order of that shop that it is good for alone; `None`: any.
    pub order_id: Option<i64>,
    /// The user groups that a user is a member of.
    pub groups: Vec<String>,
    /// Who says so.
    pub issuer: Option<String>,
    /// To whom.
    pub audience: Option<String>,
}

/// Why no token is made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The set of keys can not be read.
    #[error("the set of keys {0}")]
    Keys(String),
    /// The set has only public keys.
    #[error("the set has no secret to sign with")]
    NoSecret,
    /// The system gives no random bytes.
    #[error("the token gets no name of its own")]
    NoName(#[source] std::io::Error),
    /// The signature can not be made.
    #[error("the token can not be signed")]
    Signing(#[source] Error),
}

/// A token for as long as this from now on, signed with the last secret of this JWK set.
///
/// # Errors
/// When the set has none.
pub fn mint(keys: &[u8], bearer: Bearer, lasts: Duration) -> Result<String, MintError> {
    crypto::install();
    let keys = Keys::parse(keys, false).map_err(MintError::Keys)?;
    let (kid, secret) = keys.secret().ok_or(MintError::NoSecret)?;
    let (name, now) = (random::<16>().map_err(MintError::NoName)?, get_current_timestamp());
    let claims = Claims {
        sub: bearer.subject,
        role: bearer.role,
        groups: bearer.groups,
        shop_id: bearer.shop_id.map(Id),
        order_id: bearer.order_id.map(Id),
        jti: base64url(&name),
        iat: now,
        exp: now + lasts.as_secs(),
        iss: bearer.issuer,
        aud: bearer.audience,
    };
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(secret)).map_err(MintError::Signing)
}

#[cfg(test)]
mod tests;
