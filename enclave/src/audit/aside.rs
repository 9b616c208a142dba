//! Records of what happened and cannot be refused, for which there was no room.
//!
//! Guarantees: nothing of what holds now is missing: of each kind the newest is kept, of each custodian's leases too, and the commands
//! of versions are kept together. So memory is bounded, and the log mends itself when the parent stores again. Refuses: records of
//! requests and of what is only counted; they have other places.

use std::collections::BTreeMap;

use holdfast_shared::audit::{Event, Record};
use holdfast_shared::ids::CustodianId;
use holdfast_shared::limits::{AUDIT_ASIDE_LEASES_MAX, PENDING_COMMANDS_MAX};

/// What of one kind takes the place of what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Setting,
    Version,
    Overlay,
    Lease(CustodianId),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside(BTreeMap<Place, Record>);

impl Aside {
    /// Whether the log has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a record until there is room.
    pub(super) fn keep(&mut self, mut record: Record) {
        let place = match &record.what {
            Event::Setting { .. } => Place::Setting,
            Event::Version { .. } => Place::Version,
            Event::Overlay { .. } => Place::Overlay,
            Event::Lease { custodian_id, .. } => Place::Lease(*custodian_id),
            Event::Request(_) | Event::Uncounted { .. } => return,
        };
        if let Some(Record { what: Event::Version { commands: before, .. }, .. }) = self.0.get(&place)
            && let Event::Version { commands, .. } = &mut record.what
        {
            let mut all = before.clone();
            all.append(commands);
            all.truncate(PENDING_COMMANDS_MAX);
            *commands = all;
        }
        self.0.insert(place, record);
        let leases = || self.0.iter().filter(|(place, _)| matches!(place, Place::Lease(_)));
        if leases().count() > AUDIT_ASIDE_LEASES_MAX
            && let Some(oldest) = leases().min_by_key(|(_, record)| record.at_ms).map(|(place, _)| *place)
        {
            self.0.remove(&oldest);
        }
    }

    /// The one that is to be written next.
    pub(super) fn first(&self) -> Option<&Record> {
        self.0.values().next()
    }

    /// It was written.
    pub(super) fn written(&mut self) {
        self.0.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::audit::{Operation, RequestRecord};
    use holdfast_shared::ids::{BlobId, CommandId};

    use super::*;

    fn version(number: u8, commands: core::ops::Range<u8>) -> Event {
        let commands = commands.map(|n| CommandId([n; 16])).collect();
        Event::Version { version: number.into(), blob_id: BlobId([number; 32]), commands }
    }

    fn lease(custodian: u8, granted: bool) -> Event {
        Event::Lease { granted, custodian_id: CustodianId([custodian; 32]), expires_in_ms: 1 }
    }

    #[test]
    fn what_holds_now_is_kept() {
        let mut aside = Aside::default();
        let request = RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap());
        let events = [
            lease(1, true),
            lease(2, true),
            version(4, 0..2),
            Event::overlay(1, true, &[]),
            lease(1, false),
            version(5, 2..4),
            Event::overlay(2, false, &[]),
            Event::Setting { settings: None },
            Event::Request(Box::new(request)),
            Event::Uncounted { refused_unauthenticated: 3 },
        ];
        for (at_ms, what) in (0..).zip(events) {
            aside.keep(Record { at_ms, what });
        }
        let mut kept = Vec::new();
        while let Some(record) = aside.first().cloned() {
            kept.push((record.at_ms, record.what));
            aside.written();
        }
        let expected = [
            (7, Event::Setting { settings: None }),
            (5, version(5, 0..4)),
            (6, Event::overlay(2, false, &[])),
            (4, lease(1, false)),
            (1, lease(2, true)),
        ];
        assert_eq!(kept, expected);
        assert!(aside.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut aside = Aside::default();
        for n in 0..=u8::MAX {
            aside.keep(Record { at_ms: n.into(), what: lease(n, true) });
            aside.keep(Record { at_ms: n.into(), what: version(n, 0..9) });
        }
        assert_eq!(aside.0.len(), AUDIT_ASIDE_LEASES_MAX + 1);
        assert!(aside.0.contains_key(&Place::Lease(CustodianId([u8::MAX; 32]))), "the oldest gave way");
        let Event::Version { commands, .. } = &aside.0[&Place::Version].what else { panic!("no version") };
        assert_eq!(commands.len(), PENDING_COMMANDS_MAX);
    }
}
