//! Refusals alike: the first has a record of its own, and those that follow until the next tick have one together.
//!
//! Guarantees: none goes uncounted; memory is bounded, and what has no room here is recorded one by one. So somebody whom the policy
//! denies, and who asks all the same, fills neither the log nor the memory that it has.

use holdfast_shared::audit::RequestRecord;
use holdfast_shared::limits::AUDIT_REPEATS_MAX;

/// A refusal, and how often it was repeated.
#[derive(Debug)]
pub(super) struct Repeat {
    /// What is alike, and the longest latency.
    of: RequestRecord,
    count: u32,
}

impl Repeat {
    /// Of a refusal that has a record.
    pub(super) fn of(record: &RequestRecord) -> Self {
        let of = RequestRecord {
            key: record.key.clone(),
            error: record.error,
            rule: record.rule.clone(),
            principal: record.principal.clone(),
            ..RequestRecord::new(record.operation, record.access_key_id.clone())
        };
        Self { of, count: 0 }
    }

    fn is_like(&self, other: &RequestRecord) -> bool {
        self.of.operation == other.operation
            && self.of.error == other.error
            && self.of.access_key_id == other.access_key_id
            && self.of.key == other.key
            && self.of.rule == other.rule
            && self.of.principal == other.principal
    }

    /// The record of the repetitions.
    pub(super) fn record(&self) -> RequestRecord {
        RequestRecord { count: (self.count > 1).then_some(self.count), ..self.of.clone() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Repeats(Vec<Repeat>);

impl Repeats {
    /// Counts a refusal if it is like one that has a record. Returns whether it is.
    pub(super) fn count(&mut self, record: &RequestRecord) -> bool {
        let Some(known) = self.0.iter_mut().find(|known| known.is_like(record)) else { return false };
        known.count = known.count.saturating_add(1);
        known.of.latency_us = known.of.latency_us.max(record.latency_us);
        true
    }

    /// Those like this one are counted from now on, where there is room.
    pub(super) fn add(&mut self, repeat: Repeat) {
        if self.0.len() < AUDIT_REPEATS_MAX {
            self.0.push(repeat);
        }
    }

    /// Those that happened, which are to have a record. All begin anew.
    pub(super) fn take(&mut self) -> Vec<Repeat> {
        let mut repeats = core::mem::take(&mut self.0);
        repeats.retain(|repeat| repeat.count > 0);
        repeats
    }

    /// Whether some are to have a record.
    pub(super) fn is_owed(&self) -> bool {
        self.0.iter().any(|repeat| repeat.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::audit::Operation;
    use holdfast_shared::xks::ErrorName;

    use super::*;

    fn refusal() -> RequestRecord {
        RequestRecord {
            key: Some("k".parse().unwrap()),
            error: Some(ErrorName::AccessDeniedException),
            rule: Some("r".to_owned()),
            principal: Some("p".to_owned()),
            latency_us: 3,
            kms_request_id: Some("1".to_owned()),
            ..RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap())
        }
    }

    #[test]
    fn only_what_is_alike_is_counted() {
        let mut repeats = Repeats::default();
        assert!(!repeats.count(&refusal()), "there is none yet");
        repeats.add(Repeat::of(&refusal()));
        assert!(!repeats.is_owed());
        let others = [
            RequestRecord { operation: Operation::Decrypt, ..refusal() },
            RequestRecord { key: None, ..refusal() },
            RequestRecord { error: Some(ErrorName::ThrottlingException), ..refusal() },
            RequestRecord { rule: None, ..refusal() },
            RequestRecord { principal: Some("q".to_owned()), ..refusal() },
            RequestRecord { access_key_id: "B".repeat(20).parse().unwrap(), ..refusal() },
        ];
        for other in others {
            assert!(!repeats.count(&other), "{other:?}");
        }
        for latency_us in [2, 9, 4] {
            let again = RequestRecord { latency_us, kms_request_id: Some("2".to_owned()), ..refusal() };
            assert!(repeats.count(&again));
        }
        let [repeat] = &repeats.take()[..] else { panic!("one") };
        let expected = RequestRecord { latency_us: 9, kms_request_id: None, count: Some(3), ..refusal() };
        assert_eq!(repeat.record(), expected);
        assert!(!repeats.is_owed() && !repeats.count(&refusal()), "they begin anew");
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..=AUDIT_REPEATS_MAX {
            repeats.add(Repeat::of(&RequestRecord { principal: Some(n.to_string()), ..refusal() }));
        }
        assert_eq!(repeats.0.len(), AUDIT_REPEATS_MAX);
    }
}
