//! `x-amz-date`: `YYYYMMDD'T'HHMMSS'Z'` in UTC, and nothing else.

/// A date that exists.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestDate<'a> {
    text: &'a str,
    day: &'a str,
    epoch_ms: u64,
}

impl<'a> RequestDate<'a> {
    pub(super) fn parse(header: &'a [u8]) -> Option<Self> {
        let text = core::str::from_utf8(header).ok()?;
        let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
        if day.len() != 8 || time.len() != 6 || !day.bytes().chain(time.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = |text: &str, range: core::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
        let (year, month, of_month) = (number(day, 0..4)?, number(day, 4..6)?, number(day, 6..8)?);
        let (hour, minute, second) = (number(time, 0..2)?, number(time, 2..4)?, number(time, 4..6)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = days_since_1970(year, month, of_month)? * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Self { text, day, epoch_ms: seconds * 1000 })
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.text
    }

    /// `YYYYMMDD`.
    pub(super) fn day(&self) -> &'a str {
        self.day
    }

    pub(super) fn epoch_ms(&self) -> u64 {
        self.epoch_ms
    }
}

/// Days from 1970-01-01 to a day that exists in the Gregorian calendar.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 {
        return None;
    }
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Days of the year before each month, and the days of the month.
    let (before, length) = match month {
        1 => (0, 31),
        2 => (31, if leap(year) { 29 } else { 28 }),
        3 => (59, 31),
        4 => (90, 30),
        5 => (120, 31),
        6 => (151, 30),
        7 => (181, 31),
        8 => (212, 31),
        9 => (243, 30),
        10 => (273, 31),
        11 => (304, 30),
        12 => (334, 31),
        _ => return None,
    };
    if day == 0 || day > length {
        return None;
    }
    let past = year - 1;
    let leap_days = (past / 4 - past / 100 + past / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let this_leap_day = u64::from(month > 2 && leap(year));
    Some((year - 1970) * 365 + leap_days + before + this_leap_day + day - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        let cases = [
            ("19700101T000000Z", Some(0)),
            ("20150830T123600Z", Some(1_440_938_160)),
            ("20000229T235959Z", Some(951_868_799)),
            ("20240301T000000Z", Some(1_709_251_200)),
            ("21000301T000000Z", Some(4_107_542_400)),
            ("99991231T235959Z", Some(253_402_300_799)),
            ("21000229T000000Z", None),
            ("20230229T000000Z", None),
            ("20240431T000000Z", None),
            ("20241301T000000Z", None),
            ("20240001T000000Z", None),
            ("20240100T000000Z", None),
            ("20240101T240000Z", None),
            ("20240101T006000Z", None),
            ("20240101T000060Z", None),
            ("19691231T235959Z", None),
            ("20240101T000000", None),
            ("20240101T000000z", None),
            ("20240101t000000Z", None),
            ("2024-01-01T00:00:00Z", None),
            ("20240101T000000ZZ", None),
            (" 20240101T000000Z", None),
            ("+0240101T000000Z", None),
            ("20240101T+00000Z", None),
            ("2024010T0000000Z", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let actual = RequestDate::parse(text.as_bytes()).map(|date| date.epoch_ms() / 1000);
            assert_eq!(actual, expected, "{text:?}");
        }
        assert!(RequestDate::parse("2024010\u{661}T000000Z".as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_the_time_crate(seconds in 0_i64..253_402_300_800) {
            let date = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let text = format!(
                "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
                date.year(), u8::from(date.month()), date.day(), date.hour(), date.minute(), date.second(),
            );
            let parsed = RequestDate::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(i64::try_from(parsed.epoch_ms()).unwrap(), seconds * 1000);
        }
    }
}
