//! How many alarms of each kind were raised: all that the parent hears of them.

use core::sync::atomic::{AtomicU64, Ordering};

use holdfast_shared::alarm::AlarmKind;

/// See the module. By the place in [`AlarmKind::ALL`].
#[derive(Debug, Default)]
pub(crate) struct AlarmCounts([AtomicU64; AlarmKind::ALL.len()]);

impl AlarmCounts {
    /// Counts an alarm.
    pub(crate) fn raise(&self, kind: AlarmKind) {
        if let Some(counter) = self.0.get(kind.number()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts alarms that the home custodian raised. Returns a line for the parent's log; nothing where there were none.
    pub(crate) fn raise_all(&self, kinds: &[AlarmKind]) -> Option<String> {
        for kind in kinds {
            self.raise(*kind);
        }
        let count = |kind: AlarmKind| kinds.iter().filter(|other| **other == kind).count();
        let counted = AlarmKind::ALL.into_iter().map(|kind| (kind, count(kind))).filter(|(_, count)| *count > 0);
        let told: Vec<_> = counted.map(|(kind, count)| format!("{} ({count})", kind.name())).collect();
        (!told.is_empty()).then(|| format!("alarm raised: {}", told.join(", ")))
    }

    /// In this boot, by the place in [`AlarmKind::ALL`].
    pub(crate) fn counts(&self) -> [u64; AlarmKind::ALL.len()] {
        self.0.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_and_told_in_their_order() {
        let counts = AlarmCounts::default();
        assert_eq!(counts.raise_all(&[]), None);
        let kinds = [AlarmKind::RefusedBurst, AlarmKind::FirstSeen, AlarmKind::FirstSeen];
        assert_eq!(counts.raise_all(&kinds).unwrap(), "alarm raised: first-seen (2), refused-burst (1)");
        counts.raise(AlarmKind::Budget);
        assert_eq!(counts.counts(), [2, 0, 0, 1, 0, 0, 1]);
    }
}
