//! Rules as databases keep them: JSON with the version of its form.

use serde::{Deserialize, Serialize};
use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::Invalid;
use crate::rules::Rules;

/// The form that is written.
const FORM: u32 = 1;

/// Why stored rules can not be read. Whoever stored them is newer, or something else wrote there.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer program wrote it: update this one.
    #[error("stored rules have form {0}, and this program knows {FORM}")]
    Form(u32),
    /// It is not what [`encode`] writes.
    #[error("stored rules are not readable")]
    Syntax(#[source] serde_json::Error),
    /// It says what no rules can say.
    #[error("stored rules are not valid")]
    Invalid(#[source] Invalid),
}

#[derive(Deserialize)]
struct Head {
    form: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    form: u32,
    rules: pb::Rules,
}

/// As text.
pub fn encode(rules: &Rules) -> String {
    let stored = Stored { form: FORM, rules: rules.into() };
    serde_json::to_string(&stored).expect("numbers and texts have a form in JSON")
}

/// What [`encode`] has written.
///
/// # Errors
/// When it was written by a newer program, or by nobody of ours.
pub fn decode(text: &str) -> Result<Rules, DecodeError> {
    // The form first: the rest may be anything in another one.
    let Head { form } = serde_json::from_str(text).map_err(DecodeError::Syntax)?;
    if form != FORM {
        return Err(DecodeError::Form(form));
    }
    let stored: Stored = serde_json::from_str(text).map_err(DecodeError::Syntax)?;
    Rules::try_from(&stored.rules).map_err(DecodeError::Invalid)
}
