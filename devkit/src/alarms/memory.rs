//! What a custodian remembers of one key store, in memory: the same as `custodian/src/store/tallies.rs` does with its tables.
//!
//! Guarantees: judged by the product's rules alone. Assumes: fewer users than are remembered, so nobody is forgotten; clocks agree and
//! no lease is overdue.

use std::collections::{HashMap, HashSet};

use holdfast_shared::alarm::{Alarm, AlarmKind, Known, Rules, TalliedUse, Tally, UseHistory, judge};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::limits;

/// In which refused requests are counted.
const TEN_MINUTES_MS: u64 = 600_000;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    since_ms: Option<u64>,
    histories: HashMap<(ExternalKeyId, Option<String>), UseHistory>,
    seen: HashSet<(What, String)>,
    /// Ten minutes, by their number, and what was refused in them.
    refused: (u64, u64),
    raised: HashMap<Name, u64>,
}

/// By what an alarm is the same as another.
type Name = (AlarmKind, Option<ExternalKeyId>, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Principal,
    Service,
    Vpc,
}

impl Memory {
    /// Counts a tally: the alarms that are raised because of it.
    pub(super) fn take(&mut self, tally: &Tally, rules: &Rules) -> Vec<Alarm> {
        let now_ms = tally.at_ms;
        if tally.uses.is_empty() && tally.others.is_zero() {
            return Vec::new();
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let mut alarms: Vec<Alarm> = tally
            .uses
            .iter()
            .flat_map(|tallied| self.judge(tallied, tally.span_ms(), since_ms, now_ms, rules))
            .collect();
        if !tally.others.is_zero() {
            alarms.push(of_key_store(AlarmKind::UnusualRate));
        }
        if self.is_burst(tally, rules) {
            alarms.push(of_key_store(AlarmKind::RefusedBurst));
        }
        alarms.truncate(limits::TALLY_ALARMS_MAX);
        alarms.retain(|alarm| self.raise(alarm, now_ms, rules.quiet_ms));
        alarms
    }

    fn judge(&mut self, tallied: &TalliedUse, span_ms: u64, since_ms: u64, now_ms: u64, rules: &Rules) -> Vec<Alarm> {
        let user = &tallied.user;
        let place = (user.key.clone(), user.principal.clone());
        let history = self.histories.remove(&place);
        let was_there = history.is_some();
        let mut known = Known {
            history: history.unwrap_or_else(|| UseHistory::new(now_ms)),
            principal: self.was_seen(What::Principal, user.principal.as_deref()),
            pair: was_there,
            service: self.was_seen(What::Service, user.service.as_deref()),
            vpc: self.was_seen(What::Vpc, user.vpc.as_deref()),
            since_ms,
        };
        let alarms = judge(tallied, &mut known, span_ms, now_ms, rules);
        if was_there || tallied.count.used > 0 {
            self.histories.insert(place, known.history);
        }
        alarms
    }

    fn was_seen(&mut self, what: What, who: Option<&str>) -> bool {
        who.is_none_or(|who| !self.seen.insert((what, who.to_owned())))
    }

    fn is_burst(&mut self, tally: &Tally, rules: &Rules) -> bool {
        let of_users: u64 = tally.uses.iter().map(|tallied| u64::from(tallied.count.refused)).sum();
        let added = of_users.saturating_add(tally.others.refused.into());
        let window = tally.at_ms / TEN_MINUTES_MS;
        let before = if self.refused.0 == window { self.refused.1 } else { 0 };
        self.refused = (window, before.saturating_add(added));
        added > 0 && self.refused.1 >= u64::from(rules.refused_burst)
    }

    /// Whether an alarm is recorded: the same was not a short time ago.
    fn raise(&mut self, alarm: &Alarm, now_ms: u64, quiet_ms: u64) -> bool {
        let name = (alarm.kind, alarm.key.clone(), alarm.who.clone());
        let is_quiet = self.raised.get(&name).is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) < quiet_ms);
        if !is_quiet {
            self.raised.insert(name, now_ms);
        }
        !is_quiet
    }
}

const fn of_key_store(kind: AlarmKind) -> Alarm {
    Alarm { kind, key: None, who: String::new(), text: String::new() }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::alarm::{UseCount, User};

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn tally(at_ms: u64, principal: &str, times: u32, refused: u32) -> Tally {
        let user = User { key: "a".parse().unwrap(), principal: Some(principal.to_owned()), service: None, vpc: None };
        let tallied = vec![TalliedUse { user, count: UseCount { used: times, refused } }];
        Tally { at_ms, since_ms: at_ms, uses: tallied, ..Tally::default() }
    }

    #[test]
    fn the_same_is_raised_again_after_the_quiet_time() {
        let (mut memory, rules) = (Memory::default(), Rules::default());
        let start = 20_777 * DAY_MS;
        let burst = [AlarmKind::RefusedBurst];
        for (after_ms, refused, expected) in [
            (0, 49, &[][..]),
            (1, 1, &burst),
            (2, 1, &[]),
            (rules.quiet_ms, 60, &[]),
            (rules.quiet_ms + 1, 1, &burst),
            (2 * DAY_MS, 49, &[]),
        ] {
            let kinds: Vec<_> =
                memory.take(&tally(start + after_ms, "app", 0, refused), &rules).iter().map(|it| it.kind).collect();
            assert_eq!(kinds, expected, "{after_ms}");
        }
        let alarms = memory.take(&tally(start + 8 * DAY_MS, "other", 1, 0), &rules);
        assert_eq!((alarms.len(), alarms[0].who.as_str()), (1, "other"));
        assert!(memory.take(&tally(start + 9 * DAY_MS, "other", 1, 0), &rules).is_empty());
    }
}
