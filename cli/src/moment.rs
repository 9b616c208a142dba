//! Times and durations as people write them. The source of time is the system clock, read in one place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as RFC 3339 in UTC, or the number where no calendar reaches.
#[must_use]
pub fn format_ms(at_ms: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{at_ms} ms"))
}

/// Reads a moment: RFC 3339 (`2024-12-13T07:37:58Z`) or milliseconds since 1970.
///
/// # Errors
/// What the text should have been.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| "too many milliseconds".to_owned());
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected RFC 3339 such as 2024-12-13T07:37:58Z, or milliseconds since 1970".to_owned())?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).map_err(|_| "expected a time after 1970".to_owned())
}

/// Reads a duration with its unit: `500ms`, `90s`, `30m`, `24h`, `31d`.
///
/// # Errors
/// What the text should have been.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("expected a number and a unit, one of ms, s, m, h, d: for example 24h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit: for example 24h".to_owned())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// A duration in its two largest units: `23 h 59 min`.
#[must_use]
pub fn format_duration(length_ms: u64) -> String {
    let seconds = length_ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, expected) in [
            ("1734075478960", Some(1_734_075_478_960)),
            ("2024-12-13T07:37:58.960Z", Some(1_734_075_478_960)),
            ("2024-12-13T08:37:58.960+01:00", Some(1_734_075_478_960)),
            ("1969-12-31T00:00:00Z", None),
            ("2024-12-13", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_ms(text).ok(), expected, "{text:?}");
        }
        assert_eq!(format_ms(1_734_075_478_960), "2024-12-13T07:37:58.96Z");
        assert_eq!(format_ms(u64::MAX), format!("{} ms", u64::MAX));
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("90s", Some(90_000)),
            ("30m", Some(1_800_000)),
            ("24h", Some(86_400_000)),
            ("31d", Some(2_678_400_000)),
            ("24", None),
            ("h", None),
            ("-1h", None),
            ("1w", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
        assert_eq!(format_duration(86_340_000), "23 h 59 min");
        assert_eq!(format_duration(59_999), "59 s");
    }
}
