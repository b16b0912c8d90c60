//! How long to wait before an attempt: a pure function, so that a run can be replayed.

use crate::Xid;

/// When a branch operation is tried again, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub first_delay_ms: u32,
    /// Each delay in hundredths of the one before; 200 doubles. At least 100.
    pub factor_percent: u32,
    /// No delay is longer.
    pub delay_max_ms: u32,
    /// Up to this share of a delay is taken off, at most 100.
    pub jitter_percent: u8,
    /// Attempts of confirm, cancel and ask in quick succession; the rest go through `compensation_log`.
    pub quick_attempts: u32,
    /// Attempts in all. When they are used up the branch is parked.
    pub attempts: u32,
}

impl RetryPolicy {
    /// Four quick attempts within half a second, then by the log for about a day.
    pub const DEFAULT: Self = Self {
        first_delay_ms: 50,
        factor_percent: 200,
        delay_max_ms: 60_000,
        jitter_percent: 50,
        quick_attempts: 4,
        attempts: 1_500,
    };

    /// Milliseconds to wait after `attempt` attempts of a branch have failed (1 is the first failure).
    ///
    /// Capped exponential backoff with proportional jitter. The same arguments give the same delay; different
    /// transactions do not beat in step.
    pub fn delay_ms(&self, xid: Xid, branch: u8, attempt: u32) -> u64 {
        let max = u64::from(self.delay_max_ms);
        let factor = u64::from(self.factor_percent.max(101));
        let mut base = u64::from(self.first_delay_ms).min(max);
        for _ in 1..attempt {
            if base >= max || base == 0 {
                break;
            }
            // At least one more, or a small delay would never grow.
            base = (base * factor / 100).max(base + 1).min(max);
        }
        let jitter = base * u64::from(self.jitter_percent.min(100)) / 100;
        base - jitter * u64::from(fraction(xid, branch, attempt)) / u64::from(u32::MAX)
    }
}

/// A number that looks random and depends on all its arguments: SplitMix64 (Steele, Lea, Flood 2014).
fn fraction(xid: Xid, branch: u8, attempt: u32) -> u32 {
    let (mut high, mut low) = ([0; 8], [0; 8]);
    high.copy_from_slice(&xid.0[..8]);
    low.copy_from_slice(&xid.0[8..]);
    let which = u64::from(attempt) << 8 | u64::from(branch);
    let z = [u64::from_be_bytes(high), u64::from_be_bytes(low), which].into_iter().fold(0, |z, word| mix(z ^ word));
    (z >> 32) as u32
}

fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RetryPolicy = RetryPolicy {
        first_delay_ms: 100,
        factor_percent: 200,
        delay_max_ms: 1_000,
        jitter_percent: 0,
        quick_attempts: 1,
        attempts: 1,
    };
    const XID: Xid = Xid([7; 16]);

    #[test]
    fn delays_grow_by_the_factor_up_to_the_cap() {
        let delays = [1, 2, 3, 4, 5, 6, u32::MAX].map(|attempt| PLAIN.delay_ms(XID, 0, attempt));
        assert_eq!(delays, [100, 200, 400, 800, 1_000, 1_000, 1_000]);
        let slow = RetryPolicy { first_delay_ms: 1, factor_percent: 110, ..PLAIN };
        assert_eq!([1, 2, 3, 12].map(|attempt| slow.delay_ms(XID, 0, attempt)), [1, 2, 3, 12]);
        let huge = RetryPolicy { first_delay_ms: u32::MAX, delay_max_ms: 5, ..PLAIN };
        assert_eq!(huge.delay_ms(XID, 0, 1), 5);
        assert_eq!(RetryPolicy { first_delay_ms: 0, ..PLAIN }.delay_ms(XID, 0, 9), 0);
    }

    #[test]
    fn jitter_takes_off_its_share_at_most_and_spreads() {
        let policy = RetryPolicy { jitter_percent: 50, first_delay_ms: 1_000, delay_max_ms: 1_000, ..PLAIN };
        let mut buckets = [0_u32; 5];
        for n in 0..1_000_u32 {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&n.to_be_bytes());
            let delay = policy.delay_ms(Xid(bytes), 0, 1);
            assert!((500..=1_000).contains(&delay), "{delay}");
            buckets[((delay - 500) / 101) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (120..=280).contains(count)), "{buckets:?}");
    }

    #[test]
    fn a_delay_depends_on_transaction_branch_and_attempt_and_on_nothing_else() {
        let policy =
            RetryPolicy { jitter_percent: 100, first_delay_ms: 1_000_000_000, delay_max_ms: 1_000_000_000, ..PLAIN };
        let delay = policy.delay_ms(XID, 1, 2);
        assert_eq!(delay, policy.delay_ms(XID, 1, 2));
        assert_ne!(delay, policy.delay_ms(Xid([8; 16]), 1, 2));
        assert_ne!(delay, policy.delay_ms(XID, 2, 2));
        assert_ne!(delay, policy.delay_ms(XID, 1, 3));
    }

    #[test]
    fn the_mixing_function_is_split_mix() {
        // The first two numbers of SplitMix64 from seed 0, as its authors print them.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }
}
