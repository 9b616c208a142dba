//! Hours in which shares are released.
//!
//! Guarantees: a window is a function of the time alone, in UTC; one that passed the manifest's rules opens at least once a week.

/// Hours of the week, in UTC, in which shares are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseWindow {
    /// Bit 0 is Monday, bit 6 Sunday: the days on which it opens.
    #[n(0)]
    pub days: u8,
    /// Minute of the day at which it opens, 0–1439.
    #[n(1)]
    pub opens: u16,
    /// Minutes for which it stays open, 1–1440; it may reach into the next day.
    #[n(2)]
    pub minutes: u16,
}

impl ReleaseWindow {
    const MINUTES_OF_DAY: u64 = 24 * 60;

    /// Whether it is open at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn is_open(self, now_ms: u64) -> bool {
        let minute = now_ms / 60_000;
        // The first day of 1970 was a Thursday: 3 days after a Monday.
        let day = minute / Self::MINUTES_OF_DAY + 3;
        let of_day = minute % Self::MINUTES_OF_DAY;
        let (opens, minutes) = (u64::from(self.opens), u64::from(self.minutes));
        let opened_today = self.opens_on(day) && of_day >= opens;
        let since_today = of_day.saturating_sub(opens);
        let since_yesterday = (of_day + Self::MINUTES_OF_DAY).saturating_sub(opens);
        (opened_today && since_today < minutes) || (self.opens_on(day + 6) && since_yesterday < minutes)
    }

    /// When it opens next, at or after `now_ms`, milliseconds since 1970; `now_ms` itself while it is open.
    #[must_use]
    pub fn next_opening_ms(self, now_ms: u64) -> u64 {
        if self.is_open(now_ms) {
            return now_ms;
        }
        let today = now_ms / 60_000 / Self::MINUTES_OF_DAY;
        let openings = (today..=today.saturating_add(7)).filter(|day| self.opens_on(day.saturating_add(3)));
        let minutes = openings.map(|day| day.saturating_mul(Self::MINUTES_OF_DAY).saturating_add(self.opens.into()));
        // A valid window opens on one day of the week at least.
        minutes.map(|minute| minute.saturating_mul(60_000)).find(|opens_ms| *opens_ms >= now_ms).unwrap_or(u64::MAX)
    }

    const fn opens_on(self, day: u64) -> bool {
        self.days >> (day % 7) & 1 == 1
    }

    pub(super) fn is_valid(self) -> bool {
        self.days != 0
            && self.days < 1 << 7
            && u64::from(self.opens) < Self::MINUTES_OF_DAY
            && self.minutes >= 1
            && u64::from(self.minutes) <= Self::MINUTES_OF_DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;
    const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
    /// 2024-01-01, a Monday, at midnight.
    const MONDAY_MS: u64 = 19_723 * DAY_MS;

    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        MONDAY_MS + day * DAY_MS + (hour * 60 + minute) * MINUTE_MS
    }

    #[test]
    fn a_window_opens_on_its_days_and_may_reach_into_the_next() {
        let working_days = ReleaseWindow { days: 0b001_1111, opens: 8 * 60, minutes: 600 };
        let sunday_night = ReleaseWindow { days: 0b100_0000, opens: 22 * 60, minutes: 240 };
        let always = ReleaseWindow { days: 0b111_1111, opens: 0, minutes: 1440 };
        let table = [
            (working_days, at(0, 7, 59), Some(at(0, 8, 0))),
            (working_days, at(0, 8, 0), None),
            (working_days, at(0, 17, 59), None),
            (working_days, at(0, 18, 0), Some(at(1, 8, 0))),
            (working_days, at(4, 18, 0), Some(at(7, 8, 0))),
            (working_days, at(5, 12, 0), Some(at(7, 8, 0))),
            (sunday_night, at(0, 0, 0), None),
            (sunday_night, at(0, 1, 59), None),
            (sunday_night, at(0, 2, 0), Some(at(6, 22, 0))),
            (sunday_night, at(6, 21, 59), Some(at(6, 22, 0))),
            (sunday_night, at(6, 22, 0), None),
            (always, at(3, 23, 59), None),
        ];
        for (window, now_ms, opens_ms) in table {
            assert!(window.is_valid());
            assert_eq!(window.is_open(now_ms), opens_ms.is_none(), "{window:?} {now_ms}");
            assert_eq!(window.next_opening_ms(now_ms), opens_ms.unwrap_or(now_ms), "{window:?} {now_ms}");
        }
    }

    #[test]
    fn a_window_that_never_opens_or_has_no_such_time_is_not_valid() {
        let table = [(0, 0, 1), (1 << 7, 0, 1), (1, 1440, 1), (1, 0, 0), (1, 0, 1441)];
        for (days, opens, minutes) in table {
            assert!(!ReleaseWindow { days, opens, minutes }.is_valid(), "{days} {opens} {minutes}");
        }
    }
}
