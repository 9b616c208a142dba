//! The enclave's way out: to named destinations only.
//!
//! Guarantees: no byte goes to a destination that is not on the list; the list is compared with the request text by text,
//! before any name is resolved.
//! Assumes: nothing about the enclave; a process in its place could reach exactly the listed destinations.
//! Refuses: requests beyond the cap, not understood, or not in time.

use std::sync::Arc;
use std::time::Duration;

use holdfast_link::egress::{Destination, EgressAnswer, EgressRefusal, EgressRequest};
use holdfast_link::limits::HANDSHAKE_TIMEOUT;
use holdfast_link::{Stream, read_frame, write_frame};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::door::Door;
use crate::ingress::prepare;
use crate::limits::{ACCEPT_PAUSE, EGRESS_REFUSALS_MAX};
use crate::relay::{Outcome, Relays};
use crate::reload::Allowed;
use crate::state::State;

/// What the egress needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Egress {
    pub(crate) relays: Relays,
    pub(crate) allow: watch::Receiver<Allowed>,
    pub(crate) idle_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

/// Accepts the enclave's egress connections.
pub(crate) async fn serve(door: Door, egress: Egress, state: Arc<State>) {
    let egress = Arc::new(egress);
    let refusals = Arc::new(Semaphore::new(EGRESS_REFUSALS_MAX));
    loop {
        let stream = match door.accept(&state).await {
            Ok((stream, _)) => stream,
            Err(error) => {
                state.counters.accept_failed.increment();
                tracing::warn!(%error, "cannot accept an egress connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (egress, state) = (Arc::clone(&egress), Arc::clone(&state));
        if let Some(slot) = state.egress.take() {
            tokio::spawn(async move {
                carry(stream, &egress, &state).await;
                drop(slot);
            });
        } else {
            state.counters.egress_busy.increment();
            if let Ok(slot) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(slot);
                });
            }
        }
    }
}

/// Hears a request only to answer that there are too many.
async fn refuse(mut enclave: Stream) {
    let conversation = async {
        read_frame::<EgressRequest, _>(&mut enclave).await?;
        write_frame(&mut enclave, &EgressAnswer::Refused { reason: EgressRefusal::Busy }).await
    };
    // The enclave notices the end of the connection in any case.
    let _ = timeout(HANDSHAKE_TIMEOUT, conversation).await;
}

async fn carry(mut enclave: Stream, egress: &Egress, state: &State) {
    let Ok(Ok(Some(EgressRequest { destination }))) = timeout(HANDSHAKE_TIMEOUT, read_frame(&mut enclave)).await else {
        state.counters.egress_malformed.increment();
        tracing::warn!("an egress request was not understood or did not come");
        return;
    };
    let reached = reach(&destination, egress).await;
    let answer = match &reached {
        Ok(_) => EgressAnswer::Connected,
        Err(reason) => EgressAnswer::Refused { reason: *reason },
    };
    let answered = timeout(HANDSHAKE_TIMEOUT, write_frame(&mut enclave, &answer)).await;
    let remote = match reached {
        Ok(remote) => remote,
        Err(reason) => {
            count(state, reason);
            tracing::warn!(%destination, %reason, "egress refused");
            return;
        }
    };
    if !matches!(answered, Ok(Ok(()))) {
        return;
    }
    state.counters.egress_connected.increment();
    let (Ok(enclave), Ok(remote)) = (enclave.into_fd(), remote.into_std()) else {
        return state.counters.relay_failed.increment();
    };
    let report = egress.relays.relay(enclave, remote.into(), Vec::new(), egress.idle_timeout).await;
    state.counters.egress_bytes_to_destination.add(report.to_responder);
    state.counters.egress_bytes_to_enclave.add(report.to_initiator);
    if report.outcome == Outcome::Failed {
        state.counters.relay_failed.increment();
    }
    tracing::debug!(
        %destination,
        outcome = ?report.outcome,
        to_destination = report.to_responder,
        to_enclave = report.to_initiator,
        "an egress connection ended"
    );
}

fn count(state: &State, reason: EgressRefusal) {
    match reason {
        EgressRefusal::NotAllowed => state.counters.egress_not_allowed.increment(),
        EgressRefusal::Unresolvable => state.counters.egress_unresolvable.increment(),
        EgressRefusal::Unreachable => state.counters.egress_unreachable.increment(),
        EgressRefusal::Busy => state.counters.egress_busy.increment(),
    }
}

async fn reach(destination: &Destination, egress: &Egress) -> Result<TcpStream, EgressRefusal> {
    if !egress.allow.borrow().contains(destination) {
        return Err(EgressRefusal::NotAllowed);
    }
    let addresses = match timeout(egress.connect_timeout, lookup_host(destination.as_str())).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(_)) | Err(_) => return Err(EgressRefusal::Unresolvable),
    };
    if addresses.is_empty() {
        return Err(EgressRefusal::Unresolvable);
    }
    // Tries one address after another.
    match timeout(egress.connect_timeout, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(stream)) => {
            prepare(&stream);
            Ok(stream)
        }
        Ok(Err(_)) | Err(_) => Err(EgressRefusal::Unreachable),
    }
}
