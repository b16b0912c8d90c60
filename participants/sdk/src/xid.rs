//! The name of a global transaction, as every request and log line carries it.

use std::fmt;
use std::str::FromStr;

/// Names a global transaction: 16 bytes that the coordinator made, newer ones sort later. Written as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid([u8; 16]);

impl Xid {
    /// The xid of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The xid in these bytes; `None` unless there are 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes, as a fence row and the wire hold them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an xid is 32 hexadecimal digits, with or without the hyphens of a UUID")]
pub struct ParseXidError;

impl FromStr for Xid {
    type Err = ParseXidError;

    fn from_str(text: &str) -> Result<Self, ParseXidError> {
        let mut bytes = [0_u8; 16];
        let mut digits = 0;
        for c in text.chars().filter(|c| *c != '-') {
            let digit = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(ParseXidError)?;
            let byte = bytes.get_mut(digits / 2).ok_or(ParseXidError)?;
            *byte = *byte << 4 | digit;
            digits += 1;
        }
        if digits == 32 { Ok(Self(bytes)) } else { Err(ParseXidError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_reads_back_from_its_text() {
        let xid = Xid::new(*b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xff\x0c\x0d\x0e\x0f\x10");
        assert_eq!(xid.to_string(), "01020304-0506-0708-090a-ff0c0d0e0f10");
        assert_eq!(xid.to_string().parse(), Ok(xid));
        assert_eq!(xid.to_string().replace('-', "").parse(), Ok(xid));
        assert_eq!(Xid::from_slice(xid.as_bytes()), Some(xid));
    }

    #[test]
    fn other_text_is_not_an_xid() {
        for text in ["", "12", "zz", &"0".repeat(31), &"0".repeat(33)] {
            assert_eq!(text.parse::<Xid>(), Err(ParseXidError), "{text}");
        }
        assert_eq!(Xid::from_slice(&[0; 15]), None);
    }
}
