//! What is remembered of one principal's use of one key: two weeks of days, each by its busiest hour and its sum.
//!
//! Guarantees: some 200 bytes, whatever happens; time that goes back counts for the newest hour that was seen.

use crate::cbor::message;
use crate::limits;

const HOUR_MS: u64 = 3_600_000;
const HOURS: u32 = 24;

/// A day that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct DayPast {
    /// Days since 1970, of UTC.
    #[n(0)]
    pub day: u32,
    /// Uses in its busiest hour.
    #[n(1)]
    pub busiest_hour: u32,
    /// Uses.
    #[n(2)]
    pub uses: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct UseHistory {
    /// When the first use was seen, milliseconds since 1970.
    #[n(0)]
    pub first_ms: u64,
    /// The newest hour, since 1970, of UTC.
    #[n(1)]
    pub hour: u32,
    /// Uses in it.
    #[n(2)]
    pub in_hour: u32,
    /// Uses in its day.
    #[n(3)]
    pub in_day: u32,
    /// Uses in the busiest hour of its day before it.
    #[n(4)]
    pub busiest_today: u32,
    /// Days before it in which there was use, oldest first.
    #[n(5)]
    pub past: Vec<DayPast>,
}

message!(UseHistory, 512, "history of use", |history| {
    if history.past.len() > limits::ALARM_DAYS_MAX || !history.past.is_sorted_by(|a, b| a.day < b.day) {
        Err("a history of use has at most 14 days, oldest first")
    } else {
        Ok(())
    }
});

impl UseHistory {
    /// Of somebody who was never seen before.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { first_ms: now_ms, hour: hour_of(now_ms), in_hour: 0, in_day: 0, busiest_today: 0, past: Vec::new() }
    }

    /// Counts uses of this hour, and of this day.
    pub fn add(&mut self, now_ms: u64, in_hour: u32, in_day: u32) {
        let hour = hour_of(now_ms);
        if self.hour > hour.saturating_add(HOURS) {
            // The clock was far ahead: what was remembered then is worth nothing.
            *self = Self::new(now_ms);
        }
        self.advance(hour);
        self.in_hour = self.in_hour.saturating_add(in_hour);
        self.in_day = self.in_day.saturating_add(in_day);
    }

    fn advance(&mut self, hour: u32) {
        if hour <= self.hour {
            return;
        }
        self.busiest_today = self.busiest_today.max(self.in_hour);
        self.in_hour = 0;
        let (before, day) = (self.hour / HOURS, hour / HOURS);
        self.hour = hour;
        if day == before {
            return;
        }
        self.past.push(DayPast { day: before, busiest_hour: self.busiest_today, uses: self.in_day });
        (self.busiest_today, self.in_day) = (0, 0);
        let oldest = day.saturating_sub(u32::try_from(limits::ALARM_DAYS_MAX).unwrap_or(u32::MAX));
        self.past.retain(|past| past.day >= oldest);
    }

    /// The busiest hour of the last two weeks, this one aside.
    #[must_use]
    pub fn busiest_hour(&self) -> u32 {
        self.past.iter().map(|past| past.busiest_hour).max().unwrap_or(0).max(self.busiest_today)
    }

    /// The busiest whole day of the last two weeks: this one aside, and that of the first use. Nothing before there was one.
    #[must_use]
    pub fn busiest_day(&self) -> Option<u32> {
        let first = hour_of(self.first_ms) / HOURS;
        self.past.iter().filter(|past| past.day > first).map(|past| past.uses).max()
    }
}

fn hour_of(now_ms: u64) -> u32 {
    u32::try_from(now_ms / HOUR_MS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    const DAY_MS: u64 = 24 * HOUR_MS;

    #[test]
    fn two_weeks_are_remembered_by_their_busiest_hours_and_sums() {
        let start = 20_000 * DAY_MS;
        let mut history = UseHistory::new(start);
        for day in 0..20_u64 {
            for (hour, used) in [(8, 10), (9, 30), (9, 1), (17, 5)] {
                let used = used + u32::try_from(day).unwrap();
                history.add(start + day * DAY_MS + hour * HOUR_MS, used, used);
            }
        }
        assert_eq!(history.in_hour, 5 + 19);
        assert_eq!(history.in_day, 46 + 4 * 19);
        assert_eq!(history.past.len(), 14);
        assert_eq!(history.past[0], DayPast { day: 20_005, busiest_hour: 31 + 2 * 5, uses: 46 + 4 * 5 });
        assert_eq!(history.busiest_hour(), 31 + 2 * 19, "an hour of today as well");
        assert_eq!(history.busiest_day(), Some(46 + 4 * 18));
        assert_eq!(cbor::decode::<UseHistory>(&cbor::encode(&history)), Ok(history.clone()));
        // Three weeks of silence.
        history.add(start + 41 * DAY_MS, 1, 1);
        assert_eq!((history.past.len(), history.busiest_hour(), history.in_day), (0, 0, 1));
    }

    #[test]
    fn time_that_goes_back_counts_for_the_newest_hour() {
        let mut history = UseHistory::new(100 * DAY_MS);
        history.add(100 * DAY_MS, 5, 5);
        history.add(99 * DAY_MS, 7, 9);
        assert_eq!((history.in_hour, history.in_day, history.past.len()), (12, 14, 0));
        history.add(u64::MAX, u32::MAX, u32::MAX);
        history.add(u64::MAX, u32::MAX, u32::MAX);
        assert_eq!(history.in_hour, u32::MAX);
        // A clock that was far ahead.
        history.add(101 * DAY_MS, 1, 1);
        assert_eq!(history, UseHistory { in_hour: 1, in_day: 1, ..UseHistory::new(101 * DAY_MS) });
    }

    #[test]
    fn the_day_of_the_first_use_is_no_whole_day() {
        let evening = 100 * DAY_MS + 20 * HOUR_MS;
        let mut history = UseHistory::new(evening);
        history.add(evening, 50, 50);
        history.add(evening + DAY_MS, 900, 900);
        assert_eq!((history.busiest_hour(), history.busiest_day()), (50, None));
        history.add(evening + 2 * DAY_MS, 1, 1);
        assert_eq!(history.busiest_day(), Some(900));
    }
}
