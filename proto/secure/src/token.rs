//! Secrets: what a client keeps in a file, and what a coordinator keeps of it.
//!
//! A secret is 32 random bytes in hexadecimal digits and is sent as a bearer token; a coordinator keeps its SHA-256. A
//! participant's has a second part behind a dot: the key of signed messages, which is never sent and which the
//! coordinator keeps as it is.

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::sign::Key;

/// Bytes of each part.
pub const PART_BYTES: usize = 32;

/// What a client keeps.
#[derive(Clone)]
pub struct Secret {
    /// What it sends.
    pub bearer: String,
    /// What it checks signatures with.
    pub key: Option<Key>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads what a file holds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is not a secret as `tercet token` writes it: 64 hexadecimal digits, and for a participant \
                            a dot and 64 more";
        let text = text.trim();
        let (bearer, key) = text.split_once('.').map_or((text, None), |(bearer, key)| (bearer, Some(key)));
        part(bearer).ok_or(FORM)?;
        let key = key.map(|key| part(key).ok_or(FORM)).transpose()?;
        Ok(Self { bearer: bearer.to_owned(), key: key.map(Key::new) })
    }
}

/// The SHA-256 of a bearer token.
pub fn hash(bearer: &str) -> [u8; PART_BYTES] {
    let mut hash = [0; PART_BYTES];
    hash.copy_from_slice(digest(&SHA256, bearer.as_bytes()).as_ref());
    hash
}

/// Reads 64 hexadecimal digits.
pub fn part(text: &str) -> Option<[u8; PART_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * PART_BYTES || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; PART_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(digits.chunks(2)) {
        let value = |digit: u8| (digit as char).to_digit(16);
        *byte = (value(digits[0])? << 4 | value(digits[1])?) as u8;
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that nobody can guess.
///
/// # Errors
/// When the system gives none.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_in_one_form_only() {
        let (one, two) = (hex(&random::<32>().unwrap()), hex(&random::<32>().unwrap()));
        assert_ne!(one, two);
        let secret = Secret::parse(&format!(" {one}.{two}\n")).unwrap();
        assert_eq!((secret.bearer, secret.key.is_some()), (one.clone(), true));
        assert!(Secret::parse(&one).unwrap().key.is_none());
        for wrong in ["", ".", "ab", &one[1..], &format!("{one}."), &format!("{one}.{two}0"), &"é".repeat(32)] {
            assert!(Secret::parse(wrong).is_err(), "{wrong:?}");
        }
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), part(known).unwrap());
    }
}
