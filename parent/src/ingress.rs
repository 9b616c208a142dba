//! Clients' connections: from TCP to the enclave.
//!
//! Guarantees: never more connections than the cap; the enclave sees a connection only after its client has sent a byte,
//! so silent ones cost it nothing, and us no buffer; at the cap they make place for newcomers (see [`crate::admission`]).
//! Refuses: connections while as many as the cap are being relayed (closed at once and counted), clients whose first byte
//! does not come in time.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use holdfast_link::{Stream, connect};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::admission::Ticket;
use crate::config::{Place, Places};
use crate::limits::{ACCEPT_PAUSE, RELAY_BUFFER, TCP_KEEPALIVE, TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_RETRIES};
use crate::relay::{Outcome, Relays, Report, linger};
use crate::state::{Phase, State};

/// What the ingress needs to know.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) relays: Relays,
    pub(crate) places: Places,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Whether the last client found the enclave unreachable.
    pub(crate) unreachable: AtomicBool,
}

/// Accepts clients until the program drains.
pub(crate) async fn serve(listener: TcpListener, ingress: Ingress, state: Arc<State>) {
    let ingress = Arc::new(ingress);
    let mut phase = state.phase.subscribe();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
        };
        let (client, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                state.counters.accept_failed.increment();
                if !failing {
                    tracing::warn!(%error, "cannot accept a client; further failures are counted");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        state.counters.ingress_accepted.increment();
        let Some(ticket) = state.ingress.enter(address.ip()).await else {
            state.counters.ingress_over_cap.increment();
            continue;
        };
        let (ingress, state) = (Arc::clone(&ingress), Arc::clone(&state));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = ticket.cut() => state.counters.ingress_displaced.increment(),
                () = carry(client, &ingress, &state, &ticket) => {}
            }
        });
    }
}

async fn carry(mut client: TcpStream, ingress: &Ingress, state: &State, ticket: &Ticket) {
    prepare(&client);
    let first = match timeout(ingress.first_byte_timeout, first_bytes(&mut client)).await {
        Err(_) => return state.counters.ingress_first_byte_timeout.increment(),
        // A client that only looks whether the port is open.
        Ok(Ok(first)) if first.is_empty() => return,
        Ok(Err(_)) => return state.counters.ingress_broken.increment(),
        Ok(Ok(first)) => first,
    };
    ticket.is_relayed();
    // The old enclave is not told to finish while we may be on our way to it, nor ended while we are with it.
    let (place, opening, connected) = {
        let active = state.active.borrow();
        let seat = state.seat(*active);
        let place = ingress.places.at(*active).unwrap_or(&ingress.places.first);
        (place, seat.opening.enter(), seat.clients.enter())
    };
    let Some(enclave) = reach(ingress, place).await else {
        state.counters.ingress_enclave_unreachable.increment();
        ticket.is_quiet();
        // A connection that cannot be shut down is gone already.
        let _ = client.shutdown().await;
        return linger(&mut client).await;
    };
    drop(opening);
    let (Ok(client), Ok(enclave)) = (client.into_std(), enclave.into_fd()) else {
        return state.counters.relay_failed.increment();
    };
    // From then on its place may be taken, and this function with it.
    let ended = |report| {
        count(report, state);
        ticket.is_quiet();
    };
    ingress.relays.relay_then(client.into(), enclave, first, ingress.idle_timeout, ended).await;
    drop(connected);
}

fn count(report: Report, state: &State) {
    state.counters.ingress_bytes_to_enclave.add(report.to_responder);
    state.counters.ingress_bytes_to_client.add(report.to_initiator);
    match report.outcome {
        Outcome::Closed => {}
        Outcome::Idle => state.counters.ingress_idle.increment(),
        Outcome::Broken => state.counters.ingress_broken.increment(),
        Outcome::Failed => state.counters.relay_failed.increment(),
    }
    tracing::debug!(
        outcome = ?report.outcome,
        to_enclave = report.to_responder,
        to_client = report.to_initiator,
        "a client's connection ended"
    );
}

/// What a client sends first. Until it comes, no memory waits for it.
async fn first_bytes(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    client.readable().await?;
    let mut first = vec![0; RELAY_BUFFER];
    let count = client.read(&mut first).await?;
    first.truncate(count);
    Ok(first)
}

/// Connects to the enclave. Only changes are logged, and each failure counted: anybody can connect, and must not fill the log.
async fn reach(ingress: &Ingress, place: &Place) -> Option<Stream> {
    let reason = match timeout(ingress.connect_timeout, connect(&place.ingress)).await {
        Ok(Ok(stream)) => {
            if ingress.unreachable.swap(false, Ordering::Relaxed) {
                tracing::info!("the enclave takes clients again");
            }
            return Some(stream);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("{} did not answer in time", place.ingress),
    };
    if !ingress.unreachable.swap(true, Ordering::Relaxed) {
        tracing::warn!(%reason, "the enclave takes no client; further failures are counted");
    }
    None
}

/// Sends each answer at once instead of waiting to fill a packet, notices peers that vanished, and leaves urgent data in its place, where
/// the kernel would take it out of the stream (RFC 6093 section 5). Every TCP connection that this program accepts or opens goes through
/// here. None of it is needed for correctness.
pub(crate) fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_RETRIES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "cannot set TCP keepalive");
    }
    if let Err(error) = SockRef::from(stream).set_out_of_band_inline(true) {
        tracing::debug!(%error, "cannot set SO_OOBINLINE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prepared_connection_sends_at_once_and_is_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        for stream in [opened.unwrap(), accepted.unwrap().0] {
            assert!(!stream.nodelay().unwrap(), "the system's default");
            prepare(&stream);
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            assert!(socket.out_of_band_inline().unwrap());
            let probes = (
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_interval().unwrap(),
                socket.tcp_keepalive_retries().unwrap(),
            );
            assert_eq!(probes, (TCP_KEEPALIVE, TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_RETRIES));
        }
    }
}
