//! What the parts of the parent know together: the phase, the connections, the enclave's last word.

use core::sync::atomic::AtomicBool;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_link::BootId;
use holdfast_link::control::{KeyStoreState, Metrics, Status};
use holdfast_link::limits::STATUS_FRESH;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admission::Admission;
use crate::audit::View;
use crate::config::Slot;
use crate::counters::Counters;
use crate::traces::Traces;

/// Where the program is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It was told to end: not ready, but still accepting, so that load balancers can notice.
    Leaving,
    /// It accepts no more and waits for connections to end.
    Draining,
}

/// A bounded number of connections.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    max: u32,
}

impl Slots {
    pub(crate) fn new(max: u32) -> Self {
        let permits = usize::try_from(max).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(permits)), max }
    }

    /// A slot until the value is dropped, or `None` when all are taken.
    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).try_acquire_owned().ok()
    }

    /// The next slot that is given back.
    pub(crate) async fn next(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).acquire_owned().await.ok()
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        usize::try_from(self.max).unwrap_or(usize::MAX).saturating_sub(self.semaphore.available_permits())
    }

    /// Waits until none is taken.
    pub(crate) async fn all_returned(&self) {
        // The semaphore is never closed; if it were, nothing would be left to wait for.
        let _ = self.semaphore.acquire_many(self.max).await;
    }
}

/// The enclave whose control connection is the current one.
#[derive(Debug, Clone)]
pub(crate) struct EnclaveView {
    pub(crate) generation: u64,
    pub(crate) boot_id: BootId,
    pub(crate) status: Option<(Instant, Status)>,
    pub(crate) metrics: Option<(Instant, Arc<Metrics>)>,
    pub(crate) drained: bool,
}

/// Why load balancers should send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unreadiness {
    /// The program was told to end.
    Draining,
    /// No enclave has a control connection.
    EnclaveNotConnected,
    /// The enclave has not told its status yet.
    NoStatusYet,
    /// The enclave's last status is too old.
    StatusStale,
    /// The enclave says that it is not ready.
    EnclaveNotReady,
}

/// What is known of the enclave in one place.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Which control connection is the current one; each `hello` makes the next.
    pub(crate) generation: watch::Sender<u64>,
    /// Whether the enclave was told to finish, because another took its work over.
    pub(crate) finishing: watch::Sender<bool>,
    /// Whether an enclave of ours may be here: connections from here are refused otherwise.
    pub(crate) expected: AtomicBool,
    /// Clients on their way to it.
    pub(crate) opening: Count,
    /// Clients that it has, and those on their way.
    pub(crate) clients: Count,
    view: watch::Sender<Option<EnclaveView>>,
}

/// How many there are of something.
#[derive(Debug)]
pub(crate) struct Count(watch::Sender<usize>);

/// One of them, until dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a Count);

impl Count {
    fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn enter(&self) -> Counted<'_> {
        self.0.send_modify(|count| *count = count.saturating_add(1));
        Counted(self)
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        // The sender is our own.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Seat {
    fn new() -> Self {
        Self {
            generation: watch::Sender::new(0),
            finishing: watch::Sender::new(false),
            expected: AtomicBool::new(false),
            opening: Count::new(),
            clients: Count::new(),
            view: watch::Sender::new(None),
        }
    }

    /// The enclave, if one is connected.
    pub(crate) fn enclave(&self) -> Option<EnclaveView> {
        self.view.borrow().clone()
    }

    /// Makes the enclave that said hello the current one; an earlier one's connection ends.
    pub(crate) fn enclave_connected(&self, boot_id: BootId) -> u64 {
        let mut generation = 0;
        self.view.send_modify(|current| {
            self.generation.send_modify(|latest| {
                *latest = latest.wrapping_add(1);
                generation = *latest;
            });
            *current = Some(EnclaveView { generation, boot_id, status: None, metrics: None, drained: false });
        });
        generation
    }

    /// Changes what is known of the enclave, if it still is the current one.
    pub(crate) fn update_enclave(&self, generation: u64, change: impl FnOnce(&mut EnclaveView)) {
        self.view.send_if_modified(|current| {
            let Some(view) = current.as_mut().filter(|view| view.generation == generation) else { return false };
            change(view);
            true
        });
    }

    /// Forgets whatever enclave was here, and ends its connection: another is about to be.
    pub(crate) fn vacated(&self) {
        self.view.send_modify(|current| {
            self.generation.send_modify(|latest| *latest = latest.wrapping_add(1));
            *current = None;
        });
        self.finishing.send_replace(false);
    }

    /// Forgets the enclave, if it still is the current one.
    pub(crate) fn enclave_gone(&self, generation: u64) {
        self.view.send_if_modified(|current| current.take_if(|view| view.generation == generation).is_some());
    }

    /// Waits until no enclave is here, or the one that is has finished what was under way.
    pub(crate) async fn finished(&self) {
        // The sender is our own.
        let _ = self.view.subscribe().wait_for(|view| view.as_ref().is_none_or(|view| view.drained)).await;
    }
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) counters: Counters,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) ingress: Arc<Admission>,
    pub(crate) egress: Slots,
    pub(crate) audit: View,
    pub(crate) traces: Traces,
    pub(crate) started: Instant,
    /// Whose enclave gets new clients.
    pub(crate) active: watch::Sender<Slot>,
    first: Seat,
    second: Seat,
}

impl State {
    pub(crate) fn new(max_connections: u32, egress_max_connections: u32) -> Self {
        Self {
            counters: Counters::default(),
            phase: watch::Sender::new(Phase::Serving),
            ingress: Admission::new(max_connections),
            egress: Slots::new(egress_max_connections),
            audit: View::default(),
            traces: Traces::default(),
            started: Instant::now(),
            active: watch::Sender::new(Slot::First),
            first: Seat::new(),
            second: Seat::new(),
        }
    }

    /// What is known of the enclave in a slot.
    pub(crate) const fn seat(&self, slot: Slot) -> &Seat {
        match slot {
            Slot::First => &self.first,
            Slot::Second => &self.second,
        }
    }

    /// The enclave that gets new clients, if it is connected.
    pub(crate) fn enclave(&self) -> Option<EnclaveView> {
        self.seat(*self.active.borrow()).enclave()
    }

    /// Whether the enclave in `new` takes clients, is ready and serves every key store that the one in the other slot serves.
    pub(crate) fn can_take_over(&self, new: Slot) -> bool {
        let taking = self.seat(new).enclave().filter(|view| !view.drained);
        let Some((received, status)) = taking.and_then(|view| view.status) else { return false };
        let old = self.seat(new.other()).enclave().and_then(|view| view.status);
        age(Instant::now(), received) <= STATUS_FRESH && serves_all(&status, old.as_ref().map(|(_, status)| status))
    }

    /// Whether load balancers should send requests here: only on the word of a live enclave.
    pub(crate) fn readiness(&self) -> Result<(), Unreadiness> {
        self.readiness_at(Instant::now())
    }

    fn readiness_at(&self, now: Instant) -> Result<(), Unreadiness> {
        if *self.phase.borrow() != Phase::Serving {
            return Err(Unreadiness::Draining);
        }
        let view = self.enclave().ok_or(Unreadiness::EnclaveNotConnected)?;
        let (received, status) = view.status.as_ref().ok_or(Unreadiness::NoStatusYet)?;
        if age(now, *received) > STATUS_FRESH {
            Err(Unreadiness::StatusStale)
        } else if status.ready && !view.drained {
            Ok(())
        } else {
            Err(Unreadiness::EnclaveNotReady)
        }
    }
}

fn serves_all(new: &Status, old: Option<&Status>) -> bool {
    let serving = |status: &Status| {
        let serving = status.detail.iter().filter(|store| store.state == KeyStoreState::Serving);
        serving.map(|store| store.key_store_id).collect::<BTreeSet<_>>()
    };
    new.ready && old.is_none_or(|old| serving(new).is_superset(&serving(old)))
}

/// How long ago `then` was.
pub(crate) fn age(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_link::KeyStoreId;
    use holdfast_link::control::KeyStoreStatus;

    #[test]
    fn readiness_needs_a_fresh_word_of_the_current_enclave() {
        let state = State::new(4, 4);
        let now = Instant::now();
        let boot_id = BootId::from([1; 16]);
        let tell = |generation, ready| {
            state.seat(Slot::First).update_enclave(generation, |view| {
                view.status = Some((now, Status { ready, ..Status::default() }));
            });
        };
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotConnected));
        let first = state.seat(Slot::First).enclave_connected(boot_id);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::NoStatusYet));
        tell(first, false);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotReady));
        tell(first, true);
        assert_eq!(state.readiness_at(now), Ok(()));
        assert_eq!(state.readiness_at(now + STATUS_FRESH), Ok(()));
        assert_eq!(state.readiness_at(now + STATUS_FRESH + Duration::from_millis(1)), Err(Unreadiness::StatusStale));

        let second = state.seat(Slot::First).enclave_connected(boot_id);
        tell(first, true);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::NoStatusYet), "the replaced connection has no say");
        tell(second, true);
        state.seat(Slot::First).enclave_gone(first);
        assert_eq!(state.readiness_at(now), Ok(()));
        state.seat(Slot::First).update_enclave(second, |view| view.drained = true);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotReady));
        state.phase.send_replace(Phase::Leaving);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::Draining));
        state.phase.send_replace(Phase::Serving);
        state.seat(Slot::First).enclave_gone(second);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotConnected));
    }

    #[test]
    fn an_enclave_takes_over_when_it_serves_what_the_other_serves() {
        let store = |id: u8, state| KeyStoreStatus {
            key_store_id: KeyStoreId::from([id; 32]),
            state,
            version: None,
            lease_remaining_ms: None,
            reason: None,
        };
        let status = |ready, detail| Status { ready, detail, ..Status::default() };
        let (serving, blocked) = (KeyStoreState::Serving, KeyStoreState::Blocked);
        let old = status(true, vec![store(1, serving), store(2, blocked)]);
        for (new, expected) in [
            (status(true, vec![store(1, serving)]), true),
            (status(true, vec![store(1, serving), store(2, serving)]), true),
            (status(true, vec![store(1, blocked), store(2, serving)]), false),
            (status(true, vec![]), false),
            (status(false, vec![store(1, serving)]), false),
        ] {
            assert_eq!(serves_all(&new, Some(&old)), expected, "{new:?}");
        }
        assert!(serves_all(&status(true, vec![]), None), "where the old one is gone, any that is ready will do");
        let state = State::new(1, 1);
        assert!(!state.can_take_over(Slot::Second), "one that has said nothing");
        let generation = state.seat(Slot::Second).enclave_connected(BootId::from([2; 16]));
        let told = Some((Instant::now(), old));
        state.seat(Slot::Second).update_enclave(generation, |view| view.status = told);
        assert!(state.can_take_over(Slot::Second));
        state.seat(Slot::Second).update_enclave(generation, |view| view.drained = true);
        assert!(!state.can_take_over(Slot::Second), "one that takes no more clients");
        state.seat(Slot::Second).update_enclave(generation, |view| view.drained = false);
        assert_eq!(state.readiness(), Err(Unreadiness::EnclaveNotConnected), "the first slot is the active one");
        state.active.send_replace(Slot::Second);
        assert_eq!(state.readiness(), Ok(()));
    }

    #[test]
    fn slots_are_counted_and_come_back() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take(), slots.take());
        assert!(first.is_some() && second.is_some() && slots.take().is_none());
        assert_eq!(slots.taken(), 2);
        drop(first);
        assert_eq!(slots.taken(), 1);
        assert!(slots.take().is_some());
    }
}
