//! Traces of single requests, from enclaves to a collector: OTLP over HTTP, in JSON.
//!
//! ```text
//! control connection ─ RequestTrace ─▶ queue ─ each second ─▶ otlp: spans ─▶ collector: POST /v1/traces
//! ```
//!
//! Guarantees: nothing waits for a collector but its own task; what finds no room in the queue, and what the collector does not take in
//! time and a few attempts, is dropped and counted. Spans name key stores as the metrics do. Assumes: nothing of what enclaves and
//! collectors send. Refuses: traces while there is no collector.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_link::BootId;
use holdfast_link::control::RequestTrace;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::config::{Slot, TracingConfig};
use crate::counters::Counter;
use crate::limits::{TRACES_ATTEMPTS, TRACES_BATCH, TRACES_PAUSE, TRACES_RETRY, TRACES_WAITING_MAX};
use crate::metrics;
use crate::state::State;

mod collector;
mod otlp;

use collector::{Failure, post};
use otlp::Ids;

/// A trace, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) slot: Slot,
    pub(crate) boot_id: BootId,
    pub(crate) trace: RequestTrace,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct SpanCounts {
    /// The collector took them.
    pub(crate) exported: Counter,
    /// The collector did not want them.
    pub(crate) rejected: Counter,
    /// The collector could not be reached, or was too busy for too long.
    pub(crate) failed: Counter,
    /// The queue was full.
    pub(crate) dropped: Counter,
}

/// Traces that wait for the collector.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    is_on: AtomicBool,
    waiting: Mutex<VecDeque<Told>>,
    arrived: Notify,
    pub(crate) spans: SpanCounts,
}

impl Traces {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a trace, if there is a collector and room.
    pub(crate) fn take(&self, told: Told) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.lock();
        if waiting.len() < TRACES_WAITING_MAX {
            waiting.push_back(told);
            self.arrived.notify_one();
        } else {
            self.spans.dropped.add(otlp::spans_of(&told.trace));
        }
    }

    /// Those that wait, so many at most.
    fn batch(&self) -> Vec<Told> {
        let mut waiting = self.lock();
        let count = waiting.len().min(TRACES_BATCH);
        waiting.drain(..count).collect()
    }
}

/// How long is waited when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    gather: Duration,
    retry: (Duration, Duration),
}

impl Default for Pauses {
    fn default() -> Self {
        Self { gather: TRACES_PAUSE, retry: TRACES_RETRY }
    }
}

/// Sends traces to the collector until the program ends; without one, does nothing.
pub(crate) async fn export(config: Option<TracingConfig>, pauses: Pauses, state: Arc<State>) {
    let Some(config) = config else { return core::future::pending().await };
    let traces = &state.traces;
    traces.is_on.store(true, Ordering::Relaxed);
    let mut ids = Ids::default();
    let mut is_well = true;
    loop {
        traces.arrived.notified().await;
        // A request seldom comes alone.
        sleep(pauses.gather).await;
        loop {
            let batch = traces.batch();
            if batch.is_empty() {
                break;
            }
            let request = otlp::encode(&batch, &mut ids, &labels(&state, &batch));
            let delivered = deliver(&config, pauses, &request.json, &mut ids).await;
            match &delivered {
                Ok(rejected) => {
                    let rejected = request.spans.min(*rejected);
                    traces.spans.rejected.add(rejected);
                    traces.spans.exported.add(request.spans - rejected);
                }
                Err(Failure::Rejected(_)) => traces.spans.rejected.add(request.spans),
                Err(_) => traces.spans.failed.add(request.spans),
            }
            // Once for each change, not for each batch.
            match &delivered {
                Err(error) if is_well => tracing::warn!(collector = %config.collector, %error, "traces are lost"),
                Ok(_) if !is_well => tracing::info!(collector = %config.collector, "the collector takes traces again"),
                _ => {}
            }
            is_well = delivered.is_ok();
        }
    }
}

/// What the key stores of a batch are called in the metrics.
fn labels(state: &State, batch: &[Told]) -> metrics::Labels {
    let views = [Slot::First, Slot::Second].map(|slot| state.seat(slot).enclave());
    let statuses = views.iter().flatten().filter_map(|view| view.status.as_ref());
    let known = statuses.flat_map(|(_, status)| status.detail.iter().map(|store| store.key_store_id));
    metrics::labels(known.chain(batch.iter().map(|told| told.trace.key_store_id)))
}

/// Tries a few times where that may help. Gives how many spans the collector rejected.
async fn deliver(config: &TracingConfig, pauses: Pauses, json: &[u8], ids: &mut Ids) -> Result<u64, Failure> {
    let (mut pause, longest) = pauses.retry;
    for _ in 1..TRACES_ATTEMPTS {
        let wait = match post(config, json).await {
            Err(Failure::Unreachable(_) | Failure::Late(_)) => ids.vary(pause),
            Err(Failure::Busy { wait, .. }) => wait.unwrap_or(ids.vary(pause)).min(longest),
            settled => return settled,
        };
        sleep(wait).await;
        pause = longest.min(pause.saturating_mul(2));
    }
    post(config, json).await
}

#[cfg(test)]
mod tests;
