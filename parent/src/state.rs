//! What the parts of the parent know together: the phase, the connections, the enclave's last word.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_link::BootId;
use holdfast_link::control::Status;
use holdfast_link::limits::STATUS_FRESH;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admission::Admission;
use crate::counters::Counters;

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

/// The shared state.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) counters: Counters,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) ingress: Arc<Admission>,
    pub(crate) egress: Slots,
    /// Which control connection is the current one; each `hello` makes the next.
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) started: Instant,
    enclave: Mutex<Option<EnclaveView>>,
}

impl State {
    pub(crate) fn new(max_connections: u32, egress_max_connections: u32) -> Self {
        Self {
            counters: Counters::default(),
            phase: watch::Sender::new(Phase::Serving),
            ingress: Admission::new(max_connections),
            egress: Slots::new(egress_max_connections),
            generation: watch::Sender::new(0),
            started: Instant::now(),
            enclave: Mutex::new(None),
        }
    }

    /// Nothing panics while it holds the lock; if something did, the value is still whole.
    fn enclave_mut(&self) -> MutexGuard<'_, Option<EnclaveView>> {
        self.enclave.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current enclave, if one is connected.
    pub(crate) fn enclave(&self) -> Option<EnclaveView> {
        self.enclave_mut().clone()
    }

    /// Makes the enclave that said hello the current one; an earlier one's connection ends.
    pub(crate) fn enclave_connected(&self, boot_id: BootId) -> u64 {
        let mut current = self.enclave_mut();
        let mut generation = 0;
        self.generation.send_modify(|latest| {
            *latest = latest.wrapping_add(1);
            generation = *latest;
        });
        *current = Some(EnclaveView { generation, boot_id, status: None, drained: false });
        generation
    }

    /// Changes what is known of the enclave, if it still is the current one.
    pub(crate) fn update_enclave(&self, generation: u64, change: impl FnOnce(&mut EnclaveView)) {
        if let Some(view) = self.enclave_mut().as_mut().filter(|view| view.generation == generation) {
            change(view);
        }
    }

    /// Forgets the enclave, if it still is the current one.
    pub(crate) fn enclave_gone(&self, generation: u64) {
        self.enclave_mut().take_if(|view| view.generation == generation);
    }

    /// Whether load balancers should send requests here: only on the word of a live enclave.
    pub(crate) fn readiness(&self) -> Result<(), Unreadiness> {
        self.readiness_at(Instant::now())
    }

    fn readiness_at(&self, now: Instant) -> Result<(), Unreadiness> {
        if *self.phase.borrow() != Phase::Serving {
            return Err(Unreadiness::Draining);
        }
        let view = self.enclave_mut();
        let view = view.as_ref().ok_or(Unreadiness::EnclaveNotConnected)?;
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

/// How long ago `then` was.
pub(crate) fn age(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_a_fresh_word_of_the_current_enclave() {
        let state = State::new(4, 4);
        let now = Instant::now();
        let boot_id = BootId::from([1; 16]);
        let tell = |generation, ready| {
            state.update_enclave(generation, |view| {
                view.status = Some((now, Status { ready, ..Status::default() }));
            });
        };
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotConnected));
        let first = state.enclave_connected(boot_id);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::NoStatusYet));
        tell(first, false);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotReady));
        tell(first, true);
        assert_eq!(state.readiness_at(now), Ok(()));
        assert_eq!(state.readiness_at(now + STATUS_FRESH), Ok(()));
        assert_eq!(state.readiness_at(now + STATUS_FRESH + Duration::from_millis(1)), Err(Unreadiness::StatusStale));

        let second = state.enclave_connected(boot_id);
        tell(first, true);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::NoStatusYet), "the replaced connection has no say");
        tell(second, true);
        state.enclave_gone(first);
        assert_eq!(state.readiness_at(now), Ok(()));
        state.update_enclave(second, |view| view.drained = true);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotReady));
        state.phase.send_replace(Phase::Leaving);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::Draining));
        state.phase.send_replace(Phase::Serving);
        state.enclave_gone(second);
        assert_eq!(state.readiness_at(now), Err(Unreadiness::EnclaveNotConnected));
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
