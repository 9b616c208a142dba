//! Which enclave serves: keeps one running, and replaces it by a new image without failing a request.
//!
//! ```text
//! image changed ─▶ new enclave in the other place ─▶ it serves what the old one serves ─▶ new clients go there
//!                        │ not in time, or it ended                                             │
//!                        ▼                                                                      ▼
//!                  it is ended, the old one goes on              old one is told to finish ─▶ it has finished ─▶ it is ended
//! ```
//!
//! Guarantees: new clients go to an enclave that serves every key store that the old one serves, or to the old one; the old
//! one is told to finish only when no client is on its way to it, and ended when its last client is gone or its time is over.
//! Refuses: an upgrade where there is one place only, or once the program was told to end. While connections drain, an enclave may end
//! by itself.

use std::sync::Arc;
use std::time::Duration;

use holdfast_link::control::KeyStoreState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::{Places, Slot};
use crate::keeper::Keeper;
use crate::limits::{OLD_ENCLAVE_TIMEOUT, SWITCH_PAUSE};
use crate::nitro::EnclaveInfo;
use crate::runner::{Image, Running};
use crate::state::{Phase, State};

/// How often it is looked whether the new enclave can take over, or the old one has finished.
const LOOK: Duration = Duration::from_millis(100);

/// What the supervisor needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) places: Places,
    /// Time for a new enclave to take over.
    pub(crate) ready_timeout: Duration,
    pub(crate) state: Arc<State>,
}

/// The running task.
#[derive(Debug)]
pub(crate) struct Supervisor {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts `image`, and replaces it by what `images` holds later.
    pub(crate) fn start(plan: Plan, image: Image, images: watch::Receiver<Option<Image>>) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(plan.supervise(image, images, stopped)) }
    }

    /// Ends the enclave and returns when it is gone.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the task that supervises the enclave failed");
        }
    }
}

/// Waits for the order to end; whoever could give it being gone is one.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Plan {
    async fn supervise(
        self,
        mut image: Image,
        mut images: watch::Receiver<Option<Image>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let left = tokio::select! {
            left = image.runner.left_running() => left,
            () = told(&mut stop) => return,
        };
        let mut keeper = self.begin(&image, left).await;
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                () = told(&mut stop) => return keeper.end().await,
                () = self.draining(), if !draining => {
                    keeper.finish();
                    draining = true;
                    continue;
                }
                Ok(()) = images.changed() => {}
            }
            let Some(wanted) = images.borrow_and_update().clone().filter(|wanted| *wanted != image) else { continue };
            if *self.state.phase.borrow() != Phase::Serving {
                tracing::warn!("another image, but the program was told to end: no upgrade is begun");
                continue;
            }
            match self.bring_up(&wanted, &keeper, stop.clone()).await {
                Ok(new) => {
                    image = wanted;
                    let old = core::mem::replace(&mut keeper, new);
                    self.hand_over(old, &keeper, stop.clone()).await;
                }
                Err(reason) => {
                    self.state.counters.upgrade_failed.increment();
                    tracing::error!(%reason, "the upgrade failed; the old enclave goes on");
                }
            }
        }
    }

    /// Waits until clients are accepted no more.
    async fn draining(&self) {
        // The sender is our own.
        let _ = self.state.phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// The first enclave: one that was left running, or a new one.
    async fn begin(&self, image: &Image, left: Vec<EnclaveInfo>) -> Keeper {
        let (slot, running) = match image.runner.recover(left, &self.places).await {
            Some((slot, running)) => (slot, Some(running)),
            None => (Slot::First, None),
        };
        self.state.active.send_replace(slot);
        self.keeper(image, slot, running)
    }

    fn keeper(&self, image: &Image, slot: Slot, running: Option<Running>) -> Keeper {
        let cid = self.places.at(slot).and_then(|place| place.cid);
        Keeper::start(image.runner.clone(), slot, cid, running, &self.state)
    }

    /// Starts the new enclave. Returns once it can take over, or is gone again.
    async fn bring_up(&self, image: &Image, old: &Keeper, mut stop: watch::Receiver<bool>) -> Result<Keeper, String> {
        let slot = old.slot().other();
        if self.places.at(slot).is_none() {
            return Err(
                "there is one place only (enclave.cids): start this program anew to change the image".to_owned()
            );
        }
        tracing::info!("another image: starting an enclave beside the one that serves");
        let new = self.keeper(image, slot, None);
        let able = async {
            while !self.state.can_take_over(slot) {
                sleep(LOOK).await;
            }
        };
        let reason = tokio::select! {
            () = able => return Ok(new),
            failure = new.failed() => failure,
            () = sleep(self.ready_timeout) => self.unable(slot),
            () = self.draining() => "the program was told to end".to_owned(),
            () = told(&mut stop) => "the program was told to end".to_owned(),
        };
        new.end().await;
        Err(reason)
    }

    /// What a new enclave said last, for the log.
    fn unable(&self, slot: Slot) -> String {
        let seconds = self.ready_timeout.as_secs();
        let Some(view) = self.state.seat(slot).enclave() else {
            return format!("the new enclave did not connect within {seconds} s");
        };
        let stores = view.status.map(|(_, status)| status.detail).unwrap_or_default();
        let says: Vec<String> = stores
            .iter()
            .filter(|store| store.state != KeyStoreState::Serving)
            .map(|store| match &store.reason {
                Some(reason) => format!("{} {:?}: {reason}", store.key_store_id, store.state),
                None => format!("{} {:?}", store.key_store_id, store.state),
            })
            .collect();
        format!("the new enclave does not serve what the old one serves after {seconds} s: {}", says.join("; "))
    }

    /// New clients go to the new enclave; the old one finishes and ends.
    async fn hand_over(&self, old: Keeper, new: &Keeper, mut stop: watch::Receiver<bool>) {
        self.state.active.send_replace(new.slot());
        self.state.counters.upgrade_done.increment();
        tracing::info!("the new enclave has taken over: the old one finishes");
        let seat = self.state.seat(old.slot());
        let finished = async {
            // Clients that chose the old enclave a moment ago must be with it before it takes no more.
            seat.opening.none().await;
            sleep(SWITCH_PAUSE).await;
            old.finish();
            seat.finishing.send_replace(true);
            while seat.enclave().is_some_and(|view| !view.drained) {
                sleep(LOOK).await;
            }
            seat.clients.none().await;
        };
        let draining = async {
            self.draining().await;
            old.finish();
            new.finish();
            core::future::pending::<()>().await;
        };
        tokio::select! {
            ended = timeout(OLD_ENCLAVE_TIMEOUT, finished) => if ended.is_ok() {
                tracing::info!("the old enclave has finished");
            } else {
                tracing::warn!("the old enclave did not finish in time; its last connections are closed");
            },
            () = told(&mut stop) => {}
            () = draining => {}
        }
        old.end().await;
    }
}
