//! The control connections: one for each place of an enclave.
//!
//! Guarantees: the enclave gets the static configuration byte for byte, each change of the list of manifests, and newer credentials; what it
//! says changes nothing but the status page, readiness and the log. A later `hello` replaces an earlier one: the enclave
//! was restarted.
//! Assumes: nothing about the bytes that come; a connection that sends others than messages ends.
//! Refuses: another protocol number (with an answer that says so), more log lines than [`LOG_PER_SECOND`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_link::control::{
    AwsCredentials, HandshakeError, Hello, Level, PROTOCOL, RefusedRequest, ToEnclave, ToParent, TracingOrder,
    receive_hello,
};
use holdfast_link::limits::HANDSHAKE_TIMEOUT;
use holdfast_link::{FrameError, FrameReader, PrintableText, Stream, write_frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::config::Slot;
use crate::door::Door;
use crate::limits::{ACCEPT_PAUSE, CONTROL_WRITE_TIMEOUT, HANDSHAKES_MAX, LOG_BURST, LOG_PER_SECOND};
use crate::manifests::Manifests;
use crate::state::{Phase, State};
use crate::traces::Told;

/// What the control connection needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) static_configuration: Arc<str>,
    pub(crate) manifests: watch::Receiver<Manifests>,
    pub(crate) credentials: watch::Receiver<Option<AwsCredentials>>,
    /// Which requests the enclave is to tell one by one, if any.
    pub(crate) tracing: Option<TracingOrder>,
    pub(crate) state: Arc<State>,
}

/// Accepts control connections.
pub(crate) async fn serve(door: Door, control: Control) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        match door.accept(&control.state).await {
            Ok((stream, slot)) => {
                if let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() {
                    tokio::spawn(session(control.clone(), slot, stream, permit));
                } else {
                    control.state.counters.control_refused.increment();
                }
            }
            Err(error) => {
                control.state.counters.accept_failed.increment();
                tracing::warn!(%error, "cannot accept a control connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the enclave closed it")]
    Closed,
    #[error("another enclave said hello")]
    Replaced,
    #[error("the enclave said hello twice")]
    Order,
    #[error("the enclave did not read in time")]
    NotRead,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

async fn session(control: Control, slot: Slot, stream: Stream, handshake: OwnedSemaphorePermit) {
    let state = Arc::clone(&control.state);
    let seat = state.seat(slot);
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read);
    let Some(hello) = greet(&mut reader, &mut write, &state).await else { return };
    let mut latest = seat.generation.subscribe();
    let generation = seat.enclave_connected(hello.boot_id);
    drop(handshake);
    state.counters.control_connected.increment();
    tracing::info!(boot_id = %hello.boot_id, "the enclave connected");
    let end = tokio::select! {
        end = receive(&mut reader, (slot, generation), &hello, &state) => end,
        end = send(&mut write, control, slot) => end,
        _ = latest.wait_for(|latest| *latest != generation) => SessionEnd::Replaced,
    };
    seat.enclave_gone(generation);
    if matches!(end, SessionEnd::Frame(_) | SessionEnd::Order | SessionEnd::NotRead) {
        state.counters.control_refused.increment();
    }
    tracing::warn!(boot_id = %hello.boot_id, reason = %end, "the control connection ended");
}

async fn greet(
    reader: &mut FrameReader<ReadHalf<Stream>>,
    write: &mut WriteHalf<Stream>,
    state: &State,
) -> Option<Hello> {
    let refusal = match timeout(HANDSHAKE_TIMEOUT, receive_hello(reader)).await {
        Ok(Ok(hello)) => return Some(hello),
        Ok(Err(HandshakeError::Protocol { theirs })) => {
            format!("the parent speaks protocol {PROTOCOL}, the enclave {theirs}: use the same release of both")
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no hello came in time".to_owned(),
    };
    state.counters.control_refused.increment();
    tracing::error!(reason = %refusal, "control connection refused");
    let message = ToEnclave::Refused { protocol: PROTOCOL, reason: PrintableText::new(&refusal) };
    // The refusal is a courtesy; the end of the connection says the same.
    let _ = timeout(HANDSHAKE_TIMEOUT, write_frame(write, &message)).await;
    None
}

/// Hands over the configuration, which requests are to be traced, the manifests and credentials and their changes, and the word to drain.
async fn send<W: AsyncWrite + Unpin>(write: &mut W, control: Control, slot: Slot) -> SessionEnd {
    let Control { static_configuration, mut manifests, mut credentials, tracing: mut order, state } = control;
    let mut phase = state.phase.subscribe();
    let mut finishing = state.seat(slot).finishing.subscribe();
    let mut drain_sent = false;
    let mut next = ToEnclave::Configuration { static_configuration: static_configuration.as_ref().to_owned() };
    manifests.mark_changed();
    loop {
        match timeout(CONTROL_WRITE_TIMEOUT, write_frame(write, &next)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return SessionEnd::NotRead,
        }
        if let Some(order) = order.take() {
            next = ToEnclave::Tracing(order);
            continue;
        }
        next = tokio::select! {
            biased;
            changed = manifests.changed() => match changed {
                Ok(()) => ToEnclave::KeyStores { manifests: manifests.borrow_and_update().as_ref().clone() },
                // Nobody watches the folder any more: the program ends.
                Err(_) => return SessionEnd::Closed,
            },
            Some(handed) = newer(&mut credentials) => ToEnclave::AwsCredentials(handed),
            _ = phase.wait_for(|phase| *phase >= Phase::Draining), if !drain_sent => {
                drain_sent = true;
                ToEnclave::Drain
            }
            _ = finishing.wait_for(|finishing| *finishing), if !drain_sent => {
                drain_sent = true;
                ToEnclave::Drain
            }
        };
    }
}

/// Credentials that were not handed over on this connection yet.
async fn newer(credentials: &mut watch::Receiver<Option<AwsCredentials>>) -> Option<AwsCredentials> {
    loop {
        credentials.changed().await.ok()?;
        let handed = credentials.borrow_and_update().clone();
        if handed.is_some() {
            return handed;
        }
    }
}

/// Takes what the enclave tells.
async fn receive<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    (slot, generation): (Slot, u64),
    hello: &Hello,
    state: &State,
) -> SessionEnd {
    let seat = state.seat(slot);
    let mut budget = LogBudget::new(Instant::now());
    let mut refusals = LogBudget::new(Instant::now());
    let mut was_ready = None;
    loop {
        match reader.next().await {
            Ok(None) => return SessionEnd::Closed,
            Err(error) => return error.into(),
            Ok(Some(ToParent::Hello(_))) => return SessionEnd::Order,
            Ok(Some(ToParent::Status(status))) => {
                if was_ready != Some(status.ready) && budget.spend(Instant::now()) {
                    tracing::info!(ready = status.ready, key_stores = status.detail.len(), "the enclave's status");
                    was_ready = Some(status.ready);
                }
                seat.update_enclave(generation, |view| view.status = Some((Instant::now(), status)));
            }
            Ok(Some(ToParent::Metrics(metrics))) => {
                let metrics = Arc::from(metrics);
                seat.update_enclave(generation, |view| view.metrics = Some((Instant::now(), metrics)));
            }
            Ok(Some(ToParent::Refusal(refusal))) => {
                if refusals.spend(Instant::now()) {
                    print_refusal(&refusal);
                } else {
                    state.counters.enclave_log_dropped.increment();
                }
            }
            Ok(Some(ToParent::Trace(trace))) => state.traces.take(Told { slot, boot_id: hello.boot_id, trace }),
            Ok(Some(ToParent::Drained)) => seat.update_enclave(generation, |view| view.drained = true),
            Ok(Some(ToParent::Log { level, text })) => {
                if budget.spend(Instant::now()) {
                    let dropped = budget.take_dropped();
                    if dropped > 0 {
                        tracing::warn!(dropped, "log lines of the enclave were dropped: too many");
                    }
                    print(level, text.as_str());
                } else {
                    state.counters.enclave_log_dropped.increment();
                }
            }
        }
    }
}

/// One line for each request that was refused, with the names that the XKS API gives these things.
fn print_refusal(refusal: &RefusedRequest) {
    let RefusedRequest { key_store_id, operation, error, kms_request_id, latency_ms } = refusal;
    let kms_request_id = kms_request_id.as_ref().map(PrintableText::as_str);
    tracing::warn!(
        target: "enclave",
        kmsRequestId = kms_request_id,
        operation = operation.as_str(),
        errorName = error.as_str(),
        key_store = %key_store_id,
        latency_ms,
        "a request was refused"
    );
}

/// The text is printable and bounded; its type sees to that.
fn print(level: Level, text: &str) {
    match level {
        Level::Error => tracing::error!(target: "enclave", "{text}"),
        Level::Warn => tracing::warn!(target: "enclave", "{text}"),
        Level::Info => tracing::info!(target: "enclave", "{text}"),
        Level::Debug => tracing::debug!(target: "enclave", "{text}"),
    }
}

/// Allows [`LOG_BURST`] lines at once and [`LOG_PER_SECOND`] in the long run.
#[derive(Debug)]
struct LogBudget {
    lines: u32,
    refilled: Instant,
    dropped: u64,
}

impl LogBudget {
    const INTERVAL: Duration = Duration::from_secs(1);

    const fn new(now: Instant) -> Self {
        Self { lines: LOG_BURST, refilled: now, dropped: 0 }
    }

    fn spend(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        if elapsed >= Self::INTERVAL {
            let seconds = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(LOG_PER_SECOND.saturating_mul(seconds)).min(LOG_BURST);
            self.refilled = now;
        }
        if let Some(lines) = self.lines.checked_sub(1) {
            self.lines = lines;
            true
        } else {
            self.dropped = self.dropped.saturating_add(1);
            false
        }
    }

    fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_bounded_and_the_budget_comes_back() {
        let start = Instant::now();
        let mut budget = LogBudget::new(start);
        let spent = (0..LOG_BURST * 2).filter(|_| budget.spend(start)).count();
        assert_eq!(spent, usize::try_from(LOG_BURST).unwrap());
        assert_eq!(budget.take_dropped(), u64::from(LOG_BURST));
        let later = start + Duration::from_secs(1);
        let spent = (0..LOG_BURST).filter(|_| budget.spend(later)).count();
        assert_eq!(spent, usize::try_from(LOG_PER_SECOND).unwrap());
        let much_later = later + Duration::from_hours(1);
        let spent = (0..LOG_BURST * 2).filter(|_| budget.spend(much_later)).count();
        assert_eq!(spent, usize::try_from(LOG_BURST).unwrap());
    }
}
