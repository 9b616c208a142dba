//! The rules, each of which fits into a sentence. A table of what they find and miss: docs/alarms.md.

use core::fmt::Write as _;

use super::{Alarm, AlarmKind, TalliedUse, UseHistory};
use crate::external_key::ExternalKeyId;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What is told and what is not. The defaults are those of docs/alarms.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// From the first use of a key store on, so long everybody is learned and nobody is told of as first seen; and from a principal's first
    /// use of a key on, so long, and a day at least, no rate of it is unusual. In milliseconds.
    pub learn_ms: u64,
    /// An hour has so many times the uses of the busiest hour of two weeks, or a day of the busiest day: that is unusual.
    pub factor: u32,
    /// Fewer uses in an hour than this are never unusual, nor fewer in a day than four times as many.
    pub least_uses: u32,
    /// So many refused requests of a key store in ten minutes are a burst.
    pub refused_burst: u32,
    /// Use outside of these is told of. Absent: use is told of at no time.
    pub hours: Option<Hours>,
    /// Clocks that differ by more are told of, in milliseconds.
    pub clock_drift_ms: u64,
    /// The same alarm is raised again after this time at the earliest, in milliseconds.
    pub quiet_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            learn_ms: 7 * DAY_MS,
            factor: 3,
            least_uses: 100,
            refused_burst: 50,
            hours: None,
            clock_drift_ms: 30_000,
            quiet_ms: DAY_MS / 4,
        }
    }
}

/// Hours of business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// First and last minute of the local day: from 0, to 1440.
    minutes: (u32, u32),
    /// Minutes that local time is ahead of UTC.
    ahead: i32,
    /// Whether Saturday and Sunday are as other days.
    weekends: bool,
}

/// Why something is no hours of business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hours of business are like \"Mon-Fri 08:00-18:30 +01:00\" or \"Mon-Sun 06:00-22:00 UTC\"")]
pub struct RulesError;

impl core::str::FromStr for Hours {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Self, RulesError> {
        let [days, span, zone] = words(text)?;
        let weekends = match days {
            "Mon-Fri" => false,
            "Mon-Sun" => true,
            _ => return Err(RulesError),
        };
        let (from, to) = span.split_once('-').ok_or(RulesError)?;
        let minutes = (clock(from)?, clock(to)?);
        if minutes.0 >= minutes.1 || minutes.1 > 24 * 60 {
            return Err(RulesError);
        }
        let ahead = match (zone, zone.split_at_checked(1)) {
            ("UTC" | "Z", _) => 0,
            (_, Some(("+", offset))) => i32::try_from(clock(offset)?).map_err(|_| RulesError)?,
            (_, Some(("-", offset))) => i32::try_from(clock(offset)?).map_err(|_| RulesError)?.saturating_neg(),
            _ => return Err(RulesError),
        };
        if ahead.abs() > 14 * 60 { Err(RulesError) } else { Ok(Self { minutes, ahead, weekends }) }
    }
}

fn words(text: &str) -> Result<[&str; 3], RulesError> {
    let mut words = text.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(one), Some(two), Some(three), None) => Ok([one, two, three]),
        _ => Err(RulesError),
    }
}

/// Minutes of `HH:MM`.
fn clock(text: &str) -> Result<u32, RulesError> {
    let digits = |part: &str| match part.len() {
        2 if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse::<u32>().map_err(|_| RulesError),
        _ => Err(RulesError),
    };
    let (hour, minute) = text.split_once(':').ok_or(RulesError)?;
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    if minute < 60 && (hour < 24 || (hour, minute) == (24, 0)) { Ok(hour * 60 + minute) } else { Err(RulesError) }
}

impl Hours {
    /// Whether a time lies in them, in milliseconds since 1970.
    #[must_use]
    pub fn contain(&self, now_ms: u64) -> bool {
        let local = i64::try_from(now_ms / MINUTE_MS).unwrap_or(i64::MAX).saturating_add(self.ahead.into());
        let (day, minute) = (local.div_euclid(24 * 60), local.rem_euclid(24 * 60));
        // 1970 began on a Thursday.
        let is_weekend = matches!(day.rem_euclid(7), 2 | 3);
        (self.weekends || !is_weekend) && (i64::from(self.minutes.0)..i64::from(self.minutes.1)).contains(&minute)
    }
}

/// What is remembered of the user whom a tally names, and of the key store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each by itself")]
pub struct Known {
    /// The principal's use of the key.
    pub history: UseHistory,
    /// Whether the principal was seen before, at any key.
    pub principal: bool,
    /// Whether it used this key before.
    pub pair: bool,
    /// Whether the service was seen before.
    pub service: bool,
    /// Whether the VPC was seen before.
    pub vpc: bool,
    /// When the key store was used first, milliseconds since 1970.
    pub since_ms: u64,
}

/// A tally that was counted in a longer time was held back, and says little about this hour.
const PROMPT_MS: u64 = 2 * MINUTE_MS;

/// Counts what a user did in `span_ms`, and finds what is worth an alarm. Whoever calls leaves out what was raised a short time ago.
#[must_use]
pub fn judge(tallied: &TalliedUse, known: &mut Known, span_ms: u64, now_ms: u64, rules: &Rules) -> Vec<Alarm> {
    let (user, count) = (&tallied.user, tallied.count);
    let principal = user.principal.as_deref().unwrap_or(NOBODY);
    let mut alarms = Vec::new();
    if now_ms.saturating_sub(known.since_ms) >= rules.learn_ms {
        alarms = first_seen(tallied, known);
    }
    if count.used == 0 {
        return alarms;
    }
    known.history.add(now_ms, count.within(HOUR_MS, span_ms).used, count.within(DAY_MS, span_ms).used);
    if span_ms > PROMPT_MS {
        return alarms;
    }
    if let Some(text) = unusual(&known.history, now_ms, rules) {
        let text = format!("{} used key {} {text}", shown(principal), user.key);
        alarms.push(alarm(AlarmKind::UnusualRate, Some(&user.key), principal, text));
    }
    if rules.hours.is_some_and(|hours| !hours.contain(now_ms)) {
        let text = format!("{} used key {} outside of the hours of business", shown(principal), user.key);
        alarms.push(alarm(AlarmKind::OffHours, Some(&user.key), principal, text));
    }
    alarms
}

fn first_seen(tallied: &TalliedUse, known: &Known) -> Vec<Alarm> {
    let user = &tallied.user;
    let mut alarms = Vec::new();
    for (is_known, what, who) in [
        (known.principal, "principal", user.principal.as_deref()),
        (known.service, "service", user.service.as_deref()),
        (known.vpc, "VPC", user.vpc.as_deref()),
    ] {
        if let (false, Some(who)) = (is_known, who) {
            let text = format!("{what} {} was seen for the first time, at key {}", shown(who), user.key);
            alarms.push(alarm(AlarmKind::FirstSeen, None, who, text));
        }
    }
    // Whoever is new was told of.
    if let (true, false, 1.., Some(who)) = (known.principal, known.pair, tallied.count.used, user.principal.as_deref())
    {
        let text = format!("principal {} used key {} for the first time", shown(who), user.key);
        alarms.push(alarm(AlarmKind::FirstSeen, Some(&user.key), who, text));
    }
    alarms
}

/// How the text of an alarm calls a principal that KMS does not name.
const NOBODY: &str = "AWS Internal";

fn unusual(history: &UseHistory, now_ms: u64, rules: &Rules) -> Option<String> {
    if now_ms.saturating_sub(history.first_ms) < rules.learn_ms.max(DAY_MS) {
        return None;
    }
    let is_far_above =
        |count: u32, usual: u32, least: u32| count >= least && count > usual.saturating_mul(rules.factor);
    let hour = history.busiest_hour();
    if is_far_above(history.in_hour, hour, rules.least_uses) {
        return Some(format!("{} times in this hour, in the busiest of two weeks {hour} times", history.in_hour));
    }
    let day = history.busiest_day()?;
    is_far_above(history.in_day, day, rules.least_uses.saturating_mul(4))
        .then(|| format!("{} times in this day, in the busiest of two weeks {day} times", history.in_day))
}

fn alarm(kind: AlarmKind, key: Option<&ExternalKeyId>, who: &str, text: String) -> Alarm {
    Alarm { kind, key: key.cloned(), who: who.to_owned(), text }
}

/// Texts of callers are KMS's, and may hold anything: nothing of them moves a terminal's cursor or begins a line of a log.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars().take(SHOWN_MAX) {
        if character.is_control() || is_invisible(character) {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Characters of a caller's text in an alarm's text; the whole is in [`Alarm::who`].
const SHOWN_MAX: usize = 256;

/// Characters that reorder or hide others.
const fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::{UseCount, User};

    /// A Monday.
    const START: u64 = 20_780 * DAY_MS;

    fn tallied(used: u32) -> TalliedUse {
        TalliedUse {
            user: User {
                key: "a".parse().unwrap(),
                principal: Some("app".to_owned()),
                service: Some("s3".to_owned()),
                vpc: None,
            },
            count: UseCount { used, refused: 0 },
        }
    }

    fn known(now_ms: u64) -> Known {
        Known {
            history: UseHistory::new(now_ms),
            principal: true,
            pair: true,
            service: true,
            vpc: true,
            since_ms: START,
        }
    }

    /// Told in time.
    fn judged(tallied: &TalliedUse, known: &mut Known, now_ms: u64, rules: &Rules) -> Vec<Alarm> {
        judge(tallied, known, 10_000, now_ms, rules)
    }

    fn kinds(alarms: &[Alarm]) -> Vec<AlarmKind> {
        alarms.iter().map(|alarm| alarm.kind).collect()
    }

    #[test]
    fn those_who_are_new_are_told_of_after_the_time_of_learning() {
        let rules = Rules::default();
        let judge = |now_ms, principal, service| {
            judged(&tallied(1), &mut Known { principal, service, ..known(now_ms) }, now_ms, &rules)
        };
        assert!(judge(START + 6 * DAY_MS, false, false).is_empty());
        let alarms = judge(START + 7 * DAY_MS, false, false);
        assert_eq!(kinds(&alarms), [AlarmKind::FirstSeen, AlarmKind::FirstSeen]);
        assert_eq!((alarms[0].who.as_str(), alarms[1].who.as_str()), ("app", "s3"));
        assert_eq!(alarms[0].text, "principal app was seen for the first time, at key a");
        assert_eq!(kinds(&judge(START + 7 * DAY_MS, true, false)), [AlarmKind::FirstSeen]);
        assert!(judge(START + 7 * DAY_MS, true, true).is_empty());
    }

    #[test]
    fn whoever_is_refused_is_new_as_well() {
        let now_ms = START + 8 * DAY_MS;
        let mut known = Known { principal: false, ..known(now_ms) };
        let before = known.history.clone();
        let refused = TalliedUse { count: UseCount { used: 0, refused: 1 }, ..tallied(0) };
        assert_eq!(kinds(&judged(&refused, &mut known, now_ms, &Rules::default())), [AlarmKind::FirstSeen]);
        assert_eq!(known.history, before);
    }

    #[test]
    fn a_known_principal_at_a_key_that_is_new_to_it_is_told_of() {
        let rules = Rules::default();
        let now_ms = START + 7 * DAY_MS;
        let alarms = judged(&tallied(1), &mut Known { pair: false, ..known(now_ms) }, now_ms, &rules);
        assert_eq!(kinds(&alarms), [AlarmKind::FirstSeen]);
        assert_eq!(alarms[0].key, Some("a".parse().unwrap()));
        let new = Known { principal: false, pair: false, ..known(now_ms) };
        assert_eq!(judged(&tallied(1), &mut new.clone(), now_ms, &rules).len(), 1, "once");
        assert!(judged(&tallied(1), &mut new.clone(), now_ms - DAY_MS, &rules).is_empty(), "while learning");
    }

    #[test]
    fn an_hour_and_a_day_are_held_against_the_busiest_of_two_weeks() {
        let rules = Rules { learn_ms: 0, ..Rules::default() };
        let mut usual = known(START);
        for hour in 0..72 {
            assert!(judged(&tallied(50), &mut usual, START + hour * HOUR_MS, &rules).is_empty(), "{hour}");
        }
        let now_ms = START + 72 * HOUR_MS;
        for (used, expected) in [(150, &[][..]), (151, &[AlarmKind::UnusualRate][..])] {
            assert_eq!(kinds(&judged(&tallied(used), &mut usual.clone(), now_ms, &rules)), expected);
        }
        let learning = Rules { learn_ms: 4 * DAY_MS, ..rules.clone() };
        let mut learned = Known { since_ms: now_ms, ..usual.clone() };
        assert!(judged(&tallied(100_000), &mut learned, now_ms, &learning).is_empty(), "it is learned");
        // 1,200 in each day before: 148 in an hour are not unusual, but more than 3,600 in a day are.
        let mut alarms = Vec::new();
        for hour in 0..24_u64 {
            alarms = judged(&tallied(148), &mut usual, now_ms + hour * HOUR_MS, &rules);
            assert!(alarms.is_empty(), "{hour}: {alarms:?}");
        }
        usual.history.in_day += 48;
        assert!(judged(&tallied(0), &mut usual, now_ms + 23 * HOUR_MS, &rules).is_empty(), "3,600, and no use");
        alarms.extend(judged(&tallied(1), &mut usual, now_ms + 23 * HOUR_MS, &rules));
        assert_eq!(alarms[0].text, "app used key a 3601 times in this day, in the busiest of two weeks 1200 times");
    }

    #[test]
    fn what_was_held_back_is_counted_evenly_and_says_nothing_of_this_hour() {
        let rules = Rules { learn_ms: 0, hours: Some("Mon-Fri 08:00-18:00 UTC".parse().unwrap()), ..Rules::default() };
        let mut usual = known(START);
        let now_ms = START + 2 * DAY_MS;
        assert!(judge(&tallied(12_000), &mut usual, 12 * HOUR_MS, now_ms, &rules).is_empty());
        assert_eq!((usual.history.in_hour, usual.history.in_day), (1_000, 12_000));
    }

    #[test]
    fn little_use_and_the_first_day_are_never_unusual() {
        let rules = Rules { learn_ms: 0, ..Rules::default() };
        let mut seldom = known(START);
        assert!(judged(&tallied(1), &mut seldom, START, &rules).is_empty());
        assert!(judged(&tallied(99), &mut seldom.clone(), START + 2 * DAY_MS, &rules).is_empty());
        assert!(judged(&tallied(100_000), &mut seldom.clone(), START + DAY_MS - 1, &rules).is_empty());
        assert_eq!(kinds(&judged(&tallied(100), &mut seldom, START + 2 * DAY_MS, &rules)), [AlarmKind::UnusualRate]);
    }

    #[test]
    fn use_outside_of_business_hours_is_told_of() {
        let rules = Rules { hours: Some("Mon-Fri 08:00-18:00 UTC".parse().unwrap()), ..Rules::default() };
        for (hour, expected) in
            [(7, true), (8, false), (17, false), (18, true), (5 * 24 + 12, true), (7 * 24 + 12, false)]
        {
            let now_ms = START + hour * HOUR_MS;
            assert_eq!(
                kinds(&judged(&tallied(1), &mut known(now_ms), now_ms, &rules)).contains(&AlarmKind::OffHours),
                expected
            );
        }
    }

    #[test]
    fn hours_are_local() {
        let contain = |hours: &str, now_ms| hours.parse::<Hours>().unwrap().contain(now_ms);
        // Monday, 23:30 UTC.
        let late = START + 23 * HOUR_MS + 30 * MINUTE_MS;
        assert!(contain("Mon-Fri 00:00-01:00 +01:00", late));
        assert!(!contain("Mon-Fri 00:00-01:00 UTC", late));
        assert!(contain("Mon-Sun 18:30-24:00 -05:00", late));
        // Sunday, 23:30 UTC is Monday in Berlin.
        assert!(contain("Mon-Fri 00:00-01:00 +01:00", late - DAY_MS));
        assert!(!contain("Mon-Fri 00:00-24:00 UTC", late - DAY_MS));
        assert!(contain("Mon-Sun 00:00-24:00 -14:00", 0));
        for wrong in [
            "",
            "Mon-Fri",
            "Mon-Fri 08:00-18:00",
            "Mon-Fri 18:00-08:00 UTC",
            "Mon-Fri 8:00-18:00 UTC",
            "Mon-Fri 08:60-18:00 UTC",
            "Mon-Fri 08:00-24:01 UTC",
            "Mon-Fri 08:00-25:00 UTC",
            "Sat-Sun 08:00-18:00 UTC",
            "Mon-Fri 08:00-18:00 +15:00",
            "Mon-Fri 08:00-18:00 CET",
            "Mon-Fri  08:00-18:00 UTC",
            "Mon-Fri 08:00-18:00 UTC ",
        ] {
            assert_eq!(wrong.parse::<Hours>(), Err(RulesError), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_of_a_caller_moves_a_cursor() {
        assert_eq!(shown("a\u{1b}[2J\n\u{202e}b"), "a\\u{1b}[2J\\u{a}\\u{202e}b");
        assert_eq!(shown(&"\u{1b}".repeat(1_000)).len(), SHOWN_MAX * 6);
    }
}
