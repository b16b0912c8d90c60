//! Times as people read them.

use tercet_core::Timestamp;

/// A point in time as ISO 8601 has it, in UTC, to the millisecond.
pub(crate) fn iso(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{}", time_of_day(ms))
}

/// The same without the day.
pub(crate) fn time_of_day(at_ms: u64) -> String {
    let ms = at_ms % 86_400_000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000)
}

/// Year, month and day of a number of days since 1970-01-01: Howard Hinnant's `civil_from_days`, for days from 1970 on.
fn civil(days: u64) -> (u64, u64, u64) {
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A length of time in the largest unit that fits.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

/// How far a point in time is away.
pub(crate) fn relative(at_ms: u64, now: Timestamp) -> String {
    if at_ms > now.0 { format!("in {}", span(at_ms - now.0)) } else { format!("{} ago", span(now.0 - at_ms)) }
}

/// A point in time, in both ways.
pub(crate) fn both(at_ms: u64, now: Timestamp) -> String {
    format!("{} ({})", iso(at_ms), relative(at_ms, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_iso_8601_in_utc() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(iso(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(iso(4_102_444_799_001), "2099-12-31T23:59:59.001Z");
    }

    #[test]
    fn ages_are_short_and_tell_before_from_after() {
        let spans = [0, 999, 1_000, 119_999, 120_000, 7_199_999, 7_200_000, 172_799_999, 172_800_000].map(span);
        assert_eq!(spans.join(" "), "0ms 999ms 1s 119s 2m 119m 2h 47h 2d");
        assert_eq!(relative(1_000, Timestamp(6_500)), "5s ago");
        assert_eq!(relative(9_000, Timestamp(6_500)), "in 2s");
    }
}
