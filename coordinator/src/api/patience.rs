//! How long a caller waits for its answer.

use std::time::Duration;

use tonic::Request;

use crate::request::Error;

/// The answer needs some of the caller's time to arrive: a tenth, and no more than this.
const WAY_MAX: Duration = Duration::from_millis(100);

/// How long the answer to this request may take; `None` when its caller does not say how long it waits.
pub(super) fn patience<T>(request: &Request<T>) -> Option<Duration> {
    let patience = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse)?;
    Some(patience.saturating_sub(WAY_MAX.min(patience / 10)))
}

/// What the work brings, or that its caller waits no longer. The work of whoever has begun it goes on.
///
/// # Errors
/// Those of the work, and [`Error::Late`].
pub(super) async fn within<T>(
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(patience) = patience else { return work.await };
    tokio::time::timeout(patience, work).await.unwrap_or(Err(Error::Late))
}

/// As gRPC writes it (PROTOCOL-HTTP2, Timeout): at most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_digits_and_a_unit() {
        let units = [("2H", 7_200_000), ("3M", 180_000), ("4S", 4_000), ("5m", 5), ("6000u", 6), ("7000000n", 7)];
        for (text, ms) in units {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse("99999999H").map(|time| time.as_secs()), Some(99_999_999 * 3_600));
        for text in ["", "S", "1", "123456789S", "-1S", "1.5S", "1x", "1 S", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
