//! The listener: TCP, TLS and HTTP/1.1, with a limit on everything that a stranger can make wait.
//!
//! Guarantees: at most so many connections, of which one address has only a part; a handshake, a request's head and a body
//! must each come in time, and answers be read in time; at the end, those who are being answered get a moment. Refuses:
//! HTTP/2, which nobody here needs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use holdfast_shared::limits;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::service::Custodian;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_millis(limits::CUSTODIAN_CONNECTION_IDLE_MS);
const LIFE: Duration = Duration::from_millis(limits::CUSTODIAN_CONNECTION_LIFE_MS);
/// Time in which a request finishes once its connection's life is over.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Time in which requests finish once the service stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept a connection: it has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves until `stop` becomes true, then drains.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    custodian: Arc<Custodian>,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(limits::CUSTODIAN_CONNECTIONS_MAX));
    let peers = Arc::new(Peers::default());
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = stopped(&mut stop) => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(peer) = peers.admit(address) else {
            tracing::debug!(%address, "too many connections from this address");
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            converse(stream, acceptor, router, stop).await;
            drop((peer, place));
        });
    }
    drop(listener);
    custodian.stop();
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "closes connections that are still busy");
    }
}

/// Waits until the service stops; what `wait_for` returns must not be held.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// One connection from its handshake to its end.
async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router, mut stop: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("TLS handshake: {error}"),
        Err(_) => return tracing::debug!("TLS handshake: not in time"),
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Ok(result),
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            Ok(connection.await)
        }
        () = tokio::time::sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, connection).await
        }
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("connection: {error}"),
        Err(_) => tracing::debug!("connection: its answer was not read in time"),
    }
}

/// How many connections each address has. Addresses without one are not kept.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place among those of its address.
struct Peer {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Peer> {
        let address = address.ip();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limits::CUSTODIAN_CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Peer { peers: Arc::clone(self), address })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_limit_and_leaves_nothing_behind() {
        let peers = Arc::new(Peers::default());
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let admitted: Vec<_> = (0..limits::CUSTODIAN_CONNECTIONS_PER_ADDRESS_MAX)
            .map(|port| peers.admit(address(u16::try_from(port).unwrap())).unwrap())
            .collect();
        assert!(peers.admit(address(9)).is_none());
        assert!(peers.admit(SocketAddr::from(([192, 0, 2, 2], 9))).is_some());
        drop(admitted);
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
