//! Where the next page of a list begins, as callers carry it back.

use crate::invalid::{Invalid, Limit};

/// The beginning of a page as text: with a check that belongs to it and to its list. It is against mistakes, such as
/// the place of another list, which would show an end where there is none; whoever makes one up sees nothing by it that
/// he may not see.
pub fn sealed(list: &str, place: &str) -> String {
    format!("{place}:{:08x}", check(list, place))
}

/// What was [`sealed`] for this list; the empty text, where the first page begins, is itself.
///
/// # Errors
/// When it was not, or is something else by now.
pub fn opened<'a>(field: &str, list: &str, text: &'a str) -> Result<&'a str, Invalid> {
    let whole = |place: &&str| sealed(list, place) == text;
    let place = if text.is_empty() { Some("") } else { text.rsplit_once(':').map(|(place, _)| place).filter(whole) };
    place.ok_or_else(|| Invalid::new(field, Limit::Page))
}

/// FNV-1a of 32 bits (Fowler, Noll, Vo: draft-eastlake-fnv).
fn check(list: &str, place: &str) -> u32 {
    let bytes = list.bytes().chain([0]).chain(place.bytes());
    bytes.fold(0x811c_9dc5, |sum: u32, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_good_for_its_list_alone() {
        let text = sealed("coupons", "0:3:77");
        assert_eq!(opened("after", "coupons", &text), Ok("0:3:77"));
        assert_eq!(opened("after", "coupons", ""), Ok(""));
        for (list, text) in [
            ("offers", text.as_str()),
            ("coupons", "0:3:77"),
            ("coupons", "77"),
            ("coupons", ":"),
            ("coupons", &text.replace("77", "78")),
            ("coupons", &format!("{text}0")),
        ] {
            assert_eq!(opened("after", list, text), Err(Invalid::new("after", Limit::Page)), "{list} {text}");
        }
    }
}
