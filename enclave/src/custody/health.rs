//! What `GetHealthStatus` says about custodians and the fleet of enclaves (ADR 0016).
//!
//! | last word of the custodian | its lease | `healthStatus` |
//! |---|---|---|
//! | an answer to a request sent at most a minute ago | live | `ACTIVE` |
//! | an answer to an older request | live | `DEGRADED` |
//! | none came, or none that is worth anything | live | `DEGRADED` |
//! | it refuses this enclave | live or not | `UNAVAILABLE` |
//! | any | over, or none was granted | `UNAVAILABLE` |
//!
//! Where fewer than all custodians must answer, and only just enough do, those that do are `DEGRADED` as well: with one more failure
//! nothing is renewed.
//!
//! Guarantees: a look takes no lock; what is said is at most [`HEALTH_AGE_MAX_MS`] old, however long a parent held an answer
//! back, because it counts from when the question was sent. Assumes: whoever tells that a custodian answered had that proven.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_shared::alarm::OverdueLease;
use holdfast_shared::ids::CustodianId;
use holdfast_shared::limits::{EKM_FLEET_MAX, HEALTH_AGE_MAX_MS};
use holdfast_shared::manifest::Custodian;
use holdfast_shared::release::PROTOCOL;
use holdfast_shared::xks::{EkmHealth, EkmStatus};

/// What a custodian did last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Answered { sent_ms: u64 },
    Failed,
    Refused,
}

/// One custodian.
#[derive(Debug)]
pub struct CustodianHealth {
    id: String,
    model: String,
    word: ArcSwap<Word>,
    lease_expires_ms: AtomicU64,
    lease_granted_ms: AtomicU64,
}

impl CustodianHealth {
    /// A custodian that has not answered yet.
    #[must_use]
    pub fn new(custodian: &Custodian) -> Self {
        Self::named(custodian.id().to_string(), &custodian.name)
    }

    /// As [`Self::new`], under any id and name.
    #[must_use]
    pub fn named(id: String, name: &str) -> Self {
        // Its own version it does not tell; that of the protocol, which it shares with us, is known.
        let model = format!("Holdfast custodian {name}, protocol {PROTOCOL}");
        let (lease_expires_ms, lease_granted_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { id, model, word: ArcSwap::from_pointee(Word::Failed), lease_expires_ms, lease_granted_ms }
    }

    /// It answered a request that was sent at `sent_ms`, monotonic.
    pub fn answered(&self, sent_ms: u64) {
        self.word.store(Word::Answered { sent_ms }.into());
    }

    /// It did not answer, or nothing that is worth anything. That takes no refusal back.
    pub fn failed(&self) {
        if **self.word.load() != Word::Refused {
            self.word.store(Word::Failed.into());
        }
    }

    /// It answered that it will not have this enclave.
    pub fn refused(&self) {
        self.word.store(Word::Refused.into());
    }

    /// When its lease ends, monotonic; 0 for none.
    pub fn set_lease(&self, expires_ms: u64) {
        self.lease_expires_ms.store(expires_ms, Ordering::Release);
    }

    /// How long the lease is that it granted last.
    pub fn granted(&self, duration_ms: u64) {
        self.lease_granted_ms.store(duration_ms, Ordering::Release);
    }

    fn status(&self, now_ms: u64) -> EkmStatus {
        let is_live = now_ms < self.lease_expires_ms.load(Ordering::Acquire);
        match **self.word.load() {
            Word::Refused => EkmStatus::Unavailable,
            _ if !is_live => EkmStatus::Unavailable,
            Word::Answered { sent_ms } if now_ms.saturating_sub(sent_ms) <= HEALTH_AGE_MAX_MS => EkmStatus::Active,
            Word::Answered { .. } | Word::Failed => EkmStatus::Degraded,
        }
    }
}

/// The custodians of one key store, and the enclaves that serve it.
#[derive(Debug)]
pub struct FleetHealth {
    custodians: ArcSwap<Custodians>,
    counted: ArcSwap<Counted>,
}

#[derive(Debug)]
struct Custodians {
    all: Vec<Arc<CustodianHealth>>,
    /// How many must answer.
    needed: usize,
}

/// What the home custodian said last of the enclaves, in answer to a request sent then.
#[derive(Clone, Copy, Debug)]
struct Counted {
    enclaves: NonZeroU32,
    sent_ms: u64,
}

impl FleetHealth {
    /// A fleet of these custodians, each of which is judged by itself, and one enclave.
    #[must_use]
    pub fn new(custodians: Vec<CustodianHealth>) -> Self {
        let needed = 0;
        let all = custodians.into_iter().map(Arc::new).collect();
        let counted = Counted { enclaves: NonZeroU32::MIN, sent_ms: 0 };
        Self { custodians: ArcSwap::from_pointee(Custodians { all, needed }), counted: ArcSwap::from_pointee(counted) }
    }

    /// These are the custodians from now on, of whom so many must answer. What is known of one that stays, stays.
    pub fn keep(&self, custodians: &[Custodian], needed: usize) {
        let all = custodians.iter().map(|custodian| self.of(custodian)).collect();
        self.custodians.store(Arc::new(Custodians { all, needed }));
    }

    /// What is known of a custodian.
    #[must_use]
    pub fn of(&self, custodian: &Custodian) -> Arc<CustodianHealth> {
        let id = custodian.id().to_string();
        let known = self.custodians.load().all.iter().find(|known| known.id == id).cloned();
        known.unwrap_or_else(|| Arc::new(CustodianHealth::new(custodian)))
    }

    /// The home custodian counted the enclaves that serve the key store, in answer to a request that was sent at `sent_ms`.
    pub fn count_enclaves(&self, enclaves: NonZeroU32, sent_ms: u64) {
        self.counted.store(Counted { enclaves, sent_ms }.into());
    }

    /// What is left of each custodian's lease at `now_ms`, monotonic, and how long it was when it was granted, in the manifest's order.
    #[must_use]
    pub fn leases(&self, now_ms: u64) -> Vec<(u64, u64)> {
        let custodians = self.custodians.load();
        let lease = |custodian: &Arc<CustodianHealth>| {
            let remaining_ms = custodian.lease_expires_ms.load(Ordering::Acquire).saturating_sub(now_ms);
            (remaining_ms, custodian.lease_granted_ms.load(Ordering::Acquire))
        };
        custodians.all.iter().map(lease).collect()
    }

    /// Leases of which less than half is left at `now_ms`, monotonic, sorted by custodian. One that was never granted is none.
    #[must_use]
    pub fn overdue(&self, now_ms: u64) -> Vec<OverdueLease> {
        let custodians = self.custodians.load();
        let ids = custodians.all.iter().map(|custodian| custodian.id.parse::<CustodianId>());
        let leases =
            ids.zip(self.leases(now_ms)).filter(|(_, (left_ms, granted_ms))| *left_ms < granted_ms.div_ceil(2));
        let mut overdue: Vec<_> =
            leases.filter_map(|(id, (left_ms, _))| Some(OverdueLease { custodian_id: id.ok()?, left_ms })).collect();
        overdue.sort_by_key(|lease| lease.custodian_id);
        overdue.dedup_by_key(|lease| lease.custodian_id);
        overdue
    }

    /// `xksProxyFleetSize` at `now_ms`, monotonic. Of others we know from the custodian alone: without its word there is this one.
    #[must_use]
    pub fn enclaves(&self, now_ms: u64) -> NonZeroU32 {
        let counted = **self.counted.load();
        if now_ms.saturating_sub(counted.sent_ms) <= HEALTH_AGE_MAX_MS { counted.enclaves } else { NonZeroU32::MIN }
    }

    /// `ekmFleetDetails` at `now_ms`, monotonic. Those that are worst off come first where not all have room in an answer.
    #[must_use]
    pub fn details(&self, now_ms: u64) -> Vec<EkmHealth> {
        let custodians = self.custodians.load();
        let mut details: Vec<_> = custodians
            .all
            .iter()
            .map(|custodian| EkmHealth {
                id: custodian.id.clone(),
                model: custodian.model.clone(),
                health_status: custodian.status(now_ms),
            })
            .collect();
        let active = details.iter().filter(|detail| detail.health_status == EkmStatus::Active).count();
        if active <= custodians.needed && active < details.len() {
            // One more failure, and nothing is renewed.
            for detail in &mut details {
                if detail.health_status == EkmStatus::Active {
                    detail.health_status = EkmStatus::Degraded;
                }
            }
        }
        if details.len() > EKM_FLEET_MAX {
            details.sort_by_key(|detail| match detail.health_status {
                EkmStatus::Unavailable => 0,
                EkmStatus::Degraded => 1,
                EkmStatus::Active => 2,
            });
        }
        details
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state() {
        type Tell = fn(&CustodianHealth);
        const LEASE: u64 = 1_000_000;
        let (active, degraded, unavailable) = (EkmStatus::Active, EkmStatus::Degraded, EkmStatus::Unavailable);
        let table: [(&str, &[Tell], u64, EkmStatus); 12] = [
            ("nothing yet", &[], 0, unavailable),
            ("an answer without a lease", &[|c| c.answered(5)], 5, unavailable),
            ("an answer", &[|c| c.set_lease(LEASE), |c| c.answered(5)], 6, active),
            ("a minute later", &[|c| c.set_lease(LEASE), |c| c.answered(5)], 60_005, active),
            ("a millisecond after that", &[|c| c.set_lease(LEASE), |c| c.answered(5)], 60_006, degraded),
            ("no answer", &[|c| c.set_lease(LEASE), |c| c.answered(5), CustodianHealth::failed], 6, degraded),
            ("an answer again", &[|c| c.set_lease(LEASE), CustodianHealth::failed, |c| c.answered(7)], 8, active),
            ("a refusal", &[|c| c.set_lease(LEASE), |c| c.answered(5), CustodianHealth::refused], 6, unavailable),
            (
                "silence after a refusal",
                &[|c| c.set_lease(LEASE), CustodianHealth::refused, CustodianHealth::failed],
                6,
                unavailable,
            ),
            ("taken back", &[|c| c.set_lease(LEASE), CustodianHealth::refused, |c| c.answered(7)], 8, active),
            ("the end of the lease", &[|c| c.set_lease(10), |c| c.answered(5)], 10, unavailable),
            ("no answer, and the end of the lease", &[|c| c.set_lease(10), CustodianHealth::failed], 10, unavailable),
        ];
        for (what, told, now_ms, expected) in table {
            let custodian = CustodianHealth::named("id".to_owned(), "home");
            for tell in told {
                tell(&custodian);
            }
            let fleet = FleetHealth::new(vec![custodian, CustodianHealth::named("other".to_owned(), "other")]);
            let details = fleet.details(now_ms);
            assert_eq!(details[0].health_status, expected, "{what}");
            assert_eq!(
                (details[0].id.as_str(), details[0].model.as_str()),
                ("id", "Holdfast custodian home, protocol 1")
            );
            assert_eq!(details[1].health_status, unavailable, "each for itself");
        }
    }

    #[test]
    fn leases_are_told_in_order() {
        let custodians = ["home", "second"].map(|name| CustodianHealth::named(name.to_owned(), name));
        custodians[0].set_lease(100);
        custodians[0].granted(90);
        let fleet = FleetHealth::new(custodians.into());
        assert_eq!(fleet.leases(40), [(60, 90), (0, 0)]);
        assert_eq!(fleet.leases(101), [(0, 90), (0, 0)]);
    }

    #[test]
    fn a_lease_is_overdue_when_less_than_half_is_left() {
        for (expires_ms, granted_ms, left_ms) in [
            (0, 0, None),
            (1_060, 60, None),
            (1_030, 60, None),
            (1_029, 60, Some(29)),
            (1_030, 61, Some(30)),
            (1_000, 60, Some(0)),
            (0, 60, Some(0)),
        ] {
            let custodians = [2, 1].map(|n| {
                let custodian = CustodianHealth::named(CustodianId([n; 32]).to_string(), "vault");
                custodian.set_lease(expires_ms);
                custodian.granted(granted_ms);
                custodian
            });
            let overdue = FleetHealth::new(custodians.into()).overdue(1_000);
            let lease = |n, left_ms| OverdueLease { custodian_id: CustodianId([n; 32]), left_ms };
            let expected: Vec<_> =
                left_ms.into_iter().flat_map(|left_ms| [lease(1, left_ms), lease(2, left_ms)]).collect();
            assert_eq!(overdue, expected, "{expires_ms} {granted_ms}");
        }
    }

    #[test]
    fn just_enough_that_answer_are_degraded() {
        let (active, degraded, unavailable) = (EkmStatus::Active, EkmStatus::Degraded, EkmStatus::Unavailable);
        for (all, needed, answering, expected) in [
            (3, 2, 3, active),
            (3, 2, 2, degraded),
            (3, 2, 1, degraded),
            (3, 1, 2, active),
            (2, 2, 2, active),
            (1, 1, 1, active),
            (12, 2, 3, active),
        ] {
            let custodians: Vec<_> =
                (0..all).map(|n| Arc::new(CustodianHealth::named(n.to_string(), "vault"))).collect();
            for custodian in &custodians[..answering] {
                custodian.set_lease(100);
                custodian.answered(0);
            }
            let fleet = FleetHealth::new(Vec::new());
            fleet.custodians.store(Arc::new(Custodians { all: custodians, needed }));
            let statuses: Vec<_> = fleet.details(1).into_iter().map(|detail| detail.health_status).collect();
            let count = |status| statuses.iter().filter(|other| **other == status).count();
            assert_eq!(count(expected), answering, "{all} {needed} {answering}");
            assert_eq!(count(unavailable), all - answering);
            assert!(all <= EKM_FLEET_MAX || statuses[0] == unavailable, "what does not fit is what is well");
        }
    }

    #[test]
    fn enclaves_are_counted_by_the_custodian_and_its_word_grows_old() {
        let fleet = FleetHealth::new(Vec::new());
        assert_eq!(fleet.enclaves(7).get(), 1, "this one is there");
        fleet.count_enclaves(NonZeroU32::new(3).unwrap(), 1_000);
        assert_eq!(fleet.enclaves(61_000).get(), 3);
        assert_eq!(fleet.enclaves(61_001).get(), 1, "a minute later the others may be gone");
        fleet.count_enclaves(NonZeroU32::new(2).unwrap(), 61_001);
        assert_eq!(fleet.enclaves(61_001).get(), 2);
    }
}
