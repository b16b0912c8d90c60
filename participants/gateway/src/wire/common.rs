//! Values of many routes.

use tercet_rules::{Fault, Invalid, Limit};

use crate::schema::{Entries, params};

params! {
    /// A page of a list.
    Page {
        /// Most entries, 1 to 50; 20 when left out.
        limit: Option<Entries<50>>,
        /// `next` of the page before.
        after: Option<String>,
    }
}

/// The one of its parts that a value is made of.
///
/// # Errors
/// When it is none or more than one.
pub(crate) fn one_of<T, const N: usize>(field: &str, parts: [Option<T>; N]) -> Result<T, Fault> {
    let mut given = parts.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(part), None) => Ok(part),
        (None, _) | (Some(_), Some(_)) => Err(Invalid::new(field, Limit::OneOf).into()),
    }
}

/// What a service left out of an answer that has it.
///
/// # Errors
/// When it did: it is no service of ours.
pub(crate) fn given<T>(part: Option<T>) -> Result<T, Fault> {
    part.ok_or_else(|| {
        tracing::error!("an answer lacks what it is for");
        tercet_rules::Code::Internal.fault([])
    })
}

/// What the next page begins with; `None` on the last.
pub(crate) fn next(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A time that may not have come.
pub(crate) const fn time(ms: i64) -> Option<i64> {
    if ms == 0 { None } else { Some(ms) }
}
