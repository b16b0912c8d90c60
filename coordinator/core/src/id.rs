//! Names of transactions, and points in time.

use core::fmt;
use core::str::FromStr;

/// Milliseconds since 1970 on the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than every other.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// This point `ms` milliseconds later, at most [`Timestamp::MAX`].
    pub const fn after_ms(self, ms: u64) -> Self {
        let sum = self.0.saturating_add(ms);
        if sum > Self::MAX.0 { Self::MAX } else { Self(sum) }
    }

    /// Milliseconds from `earlier` to this, 0 when it is not earlier.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Names a global transaction: 16 bytes in UUIDv7 layout (RFC 9562), so that newer ones sort later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub [u8; 16]);

impl Xid {
    /// The xid in these bytes; `None` unless there are 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// When it was made.
    pub fn created_at(self) -> Timestamp {
        let b = self.0;
        Timestamp(u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]]))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseXidError;

impl fmt::Display for ParseXidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an xid is 32 hexadecimal digits, with or without the hyphens of a UUID")
    }
}

impl core::error::Error for ParseXidError {}

impl FromStr for Xid {
    type Err = ParseXidError;

    fn from_str(text: &str) -> Result<Self, ParseXidError> {
        let mut bytes = [0_u8; 16];
        let mut digits = 0;
        for c in text.chars().filter(|c| *c != '-') {
            let digit = c.to_digit(16).ok_or(ParseXidError)? as u8;
            let byte = bytes.get_mut(digits / 2).ok_or(ParseXidError)?;
            *byte = *byte << 4 | digit;
            digits += 1;
        }
        if digits == 32 { Ok(Self(bytes)) } else { Err(ParseXidError) }
    }
}

/// Makes the xids of one start of one node: never the same twice, and sorted by time made.
///
/// The random part of UUIDv7 holds the node (10 bits), its start epoch (24 bits) and a counter (40 bits), so that a
/// clock that moved back, or two nodes in one millisecond, can not make a duplicate.
#[derive(Debug)]
pub struct XidSource {
    node: u16,
    epoch: u32,
    counter: u64,
    latest: Timestamp,
}

impl XidSource {
    /// For a node (0 to 1,023) in its `epoch`th start (kept modulo 2^24).
    pub fn new(node: u16, epoch: u64) -> Self {
        Self { node: node & 0x3ff, epoch: (epoch & 0xff_ffff) as u32, counter: 0, latest: Timestamp(0) }
    }

    /// The next one. A `now` that is earlier than one before is taken for that one.
    pub fn next(&mut self, now: Timestamp) -> Xid {
        self.latest = self.latest.max(now);
        self.counter += 1;
        // 74 bits behind the time, most significant first: counter's high 12 (after the version), then, after the
        // variant's two bits, counter's low 28, node 10, epoch 24.
        let high = self.latest.0 << 16 | 0x7000 | (self.counter >> 28 & 0xfff);
        let low = 0x8000_0000_0000_0000
            | (self.counter & 0xfff_ffff) << 34
            | u64::from(self.node) << 24
            | u64::from(self.epoch);
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Xid(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn xids_are_sorted_distinct_and_version_7_even_when_the_clock_moves_back() {
        let mut source = XidSource::new(1023, 7);
        let times = [5_000, 5_000, 4_000, 5_001, 1, 6_000];
        let xids = times.map(|ms| source.next(Timestamp(ms)));
        assert!(xids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(xids.iter().all(|xid| xid.0[6] >> 4 == 7 && xid.0[8] >> 6 == 2));
        assert_eq!(xids.map(|xid| xid.created_at().0), [5_000, 5_000, 5_000, 5_001, 5_001, 6_000]);
    }

    #[test]
    fn nodes_and_epochs_never_make_the_same_xid() {
        let first = |node, epoch| XidSource::new(node, epoch).next(Timestamp(9));
        assert_ne!(first(1, 1), first(2, 1));
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(1, 0));
    }

    #[test]
    fn an_xid_reads_back_from_its_text() {
        let xid = XidSource::new(3, 9).next(Timestamp(1_700_000_000_000));
        assert_eq!(xid.to_string().parse(), Ok(xid));
        assert_eq!(xid.to_string().replace('-', "").parse(), Ok(xid));
        assert_eq!("12".parse::<Xid>(), Err(ParseXidError));
        assert_eq!("zz".parse::<Xid>(), Err(ParseXidError));
        assert_eq!("0".repeat(33).parse::<Xid>(), Err(ParseXidError));
    }

    #[test]
    fn each_part_of_an_xid_has_its_place() {
        let mut source = XidSource::new(0x2a5, 0xab_cdef);
        source.counter = 0x12_3456_789a;
        let xid = source.next(Timestamp(0x0123_4567_89ab));
        // Time, version and counter; then variant, counter, node, epoch.
        let counter = 0x12_3456_789b_u64;
        let high = 0x0123_4567_89ab_7000_u64 + (counter >> 28);
        let low = (2 << 62) + ((counter & 0xfff_ffff) << 34) + (0x2a5 << 24) + 0xab_cdef;
        assert_eq!(xid.0[..8], high.to_be_bytes());
        assert_eq!(xid.0[8..], u64::to_be_bytes(low));
        assert_eq!(alloc::format!("{xid:?}"), xid.to_string());
        assert_eq!(Xid::from_slice(&xid.0), Some(xid));
        assert_eq!(Xid::from_slice(&xid.0[1..]), None);
        assert!(ParseXidError.to_string().contains("32 hexadecimal digits"));
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Timestamp::MAX.after_ms(1), Timestamp::MAX);
        assert_eq!(Timestamp(5).ms_since(Timestamp(7)), 0);
        assert_eq!(Timestamp(7).ms_since(Timestamp(5)), 2);
    }
}
