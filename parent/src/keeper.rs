//! Keeps one enclave running in its place.
//!
//! Guarantees: pauses between starts grow from the shortest to the longest of [`RESTART_PAUSE`], so that what cannot start
//! does not burn the machine; connections from its place are taken while it may run, and no longer; nothing is left in its place.

use core::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::config::Slot;
use crate::limits::{RESTART_HEALTHY, RESTART_PAUSE};
use crate::runner::{Runner, Running};
use crate::state::State;

/// What is to become of the enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// It runs; if it ends, it is started again.
    Keep,
    /// It may end by itself.
    Finish,
    /// It ends now.
    End,
}

/// The task, and how to talk to it.
#[derive(Debug)]
pub(crate) struct Keeper {
    slot: Slot,
    wish: watch::Sender<Wish>,
    /// Why the enclave last did not start or ended.
    failure: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts an enclave, or goes on with one that runs.
    pub(crate) fn start(
        runner: Runner,
        slot: Slot,
        cid: Option<u32>,
        running: Option<Running>,
        state: &Arc<State>,
    ) -> Self {
        // At once: whoever asks what the new enclave says must not hear the last one.
        state.seat(slot).vacated();
        let (wish, wished) = watch::channel(Wish::Keep);
        let (failed, failure) = watch::channel(None);
        let task = Task { runner, slot, cid, state: Arc::clone(state), wished, failed };
        Self { slot, wish, failure, task: tokio::spawn(task.run(running)) }
    }

    /// Where it is.
    pub(crate) const fn slot(&self) -> Slot {
        self.slot
    }

    /// Waits until it did not start, or ended.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let found = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        found.unwrap_or_else(|| "its task ended".to_owned())
    }

    /// From now on it may end by itself.
    pub(crate) fn finish(&self) {
        self.wish.send_replace(Wish::Finish);
    }

    /// Ends it.
    pub(crate) async fn end(self) {
        self.wish.send_replace(Wish::End);
        if self.task.await.is_err() {
            tracing::error!("the task that watches the enclave failed");
        }
    }
}

struct Task {
    runner: Runner,
    slot: Slot,
    cid: Option<u32>,
    state: Arc<State>,
    wished: watch::Receiver<Wish>,
    failed: watch::Sender<Option<String>>,
}

impl Task {
    async fn run(self, running: Option<Running>) {
        let state = Arc::clone(&self.state);
        let seat = state.seat(self.slot);
        seat.expected.store(true, Ordering::Release);
        self.keep(running).await;
        self.runner.clear(self.cid).await;
        seat.expected.store(false, Ordering::Release);
    }

    /// Waits for such a wish. Whoever is gone and wishes nothing any more wanted it to run.
    async fn wished(&self, such: impl Fn(Wish) -> bool) {
        let mut wished = self.wished.clone();
        if wished.wait_for(|wish| such(*wish)).await.is_err() {
            core::future::pending::<()>().await;
        }
    }

    async fn keep(&self, mut running: Option<Running>) {
        let mut pause = *RESTART_PAUSE.start();
        loop {
            let started = Instant::now();
            let live = match running.take() {
                Some(live) => Ok(live),
                // Not abandoned half-way: what it has started must be known, so that it can be ended.
                None => self.runner.start(self.cid).await.inspect(|_| self.state.counters.enclave_started.increment()),
            };
            let failure = match live {
                Ok(mut live) => tokio::select! {
                    reason = live.ended() => reason,
                    () = self.wished(|wish| wish == Wish::End) => return live.stop().await,
                },
                Err(error) => error.to_string(),
            };
            if *self.wished.borrow() != Wish::Keep {
                tracing::info!("{failure}; it is not started again");
                return;
            }
            pause = next_pause(pause, started.elapsed());
            tracing::error!("{failure}; starting again in {} ms", pause.as_millis());
            self.failed.send_replace(Some(failure));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wished(|wish| wish != Wish::Keep) => return,
            }
        }
    }
}

/// Twice the last pause, or the shortest after a healthy run.
fn next_pause(last: Duration, ran: Duration) -> Duration {
    if ran >= RESTART_HEALTHY { *RESTART_PAUSE.start() } else { (last * 2).min(*RESTART_PAUSE.end()) }
}

#[cfg(test)]
mod tests {
    use holdfast_link::BootId;
    use holdfast_link::control::Status;

    use super::*;

    #[tokio::test]
    async fn a_place_begins_without_what_its_last_enclave_said() {
        let state = Arc::new(State::new(1, 1));
        let seat = state.seat(Slot::Second);
        let generation = seat.enclave_connected(BootId::from([2; 16]));
        let told = (Instant::now(), Status { ready: true, ..Status::default() });
        seat.update_enclave(generation, |view| view.status = Some(told.clone()));
        seat.finishing.send_replace(true);
        assert!(state.can_take_over(Slot::Second), "that is what it would be taken for");
        let runner = Runner::Command(vec!["sleep".to_owned(), "1000".to_owned()]);
        let keeper = Keeper::start(runner, Slot::Second, None, None, &state);
        assert!(!state.can_take_over(Slot::Second) && !*seat.finishing.borrow(), "at once, before anything has run");
        seat.update_enclave(generation, |view| view.status = Some(told));
        assert!(!state.can_take_over(Slot::Second), "the connection of the one before has no say");
        keeper.end().await;
    }

    #[test]
    fn pauses_grow_and_a_healthy_run_resets_them() {
        let mut pause = *RESTART_PAUSE.start();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pause = next_pause(pause, Duration::ZERO);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(next_pause(pause, RESTART_HEALTHY), *RESTART_PAUSE.start());
    }
}
