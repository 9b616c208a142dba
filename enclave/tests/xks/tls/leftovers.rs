//! What a client still sends when its connection is over is read: a socket that is closed with unread bytes sends a reset,
//! which can overtake the alert (RFC 1122, section 4.2.2.13).

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_enclave::server::serve_connection;
use holdfast_enclave::tls::provider;
use rustls::ClientConfig;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::watch;

use super::clients::refused_and_accepted;
use super::{VERSIONS, client};
use crate::fixture::{HOST, World};
use crate::wire::connect_with;

/// Only so that a broken build fails instead of hanging.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(30);

/// A stream that counts the bytes that were read from it.
struct Counted {
    stream: DuplexStream,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read.fetch_add(buf.filled().len() - before, Ordering::SeqCst);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How a client starts.
enum Start {
    Handshake(Box<ClientConfig>, &'static str),
    Bytes(&'static [u8]),
}

/// Starts, sends `behind` below everything, reads to the end and closes. Gives how many of those bytes were left unread.
async fn left_unread(world: &World, start: Start, behind: usize) -> usize {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let read = Arc::new(AtomicUsize::new(0));
    let (_drain, draining) = watch::channel(false);
    let stream = Counted { stream: far, read: Arc::clone(&read) };
    let served = tokio::spawn(serve_connection(stream, world.context(), draining));
    let written = Arc::new(AtomicUsize::new(0));
    let (mut mine, theirs) = tokio::io::duplex(64 * 1024);
    // Between client and server, so that what both ends of TLS do is counted.
    let counted = Arc::clone(&written);
    let carried = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(near);
        let (mut client_from, mut client_to) = tokio::io::split(theirs);
        let up = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = client_from.read(&mut buffer).await {
                if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
                    break;
                }
                counted.fetch_add(count, Ordering::SeqCst);
            }
            let _ = to.shutdown().await;
        };
        let down = async {
            let _ = tokio::io::copy(&mut from, &mut client_to).await;
            let _ = client_to.shutdown().await;
        };
        let _ = tokio::join!(up, down);
    });
    match start {
        Start::Bytes(bytes) => {
            mine.write_all(&[bytes, &vec![0; behind]].concat()).await.unwrap();
            let _ = mine.read_to_end(&mut Vec::new()).await;
            drop(mine);
        }
        Start::Handshake(config, host) => {
            if let Ok(mut stream) = connect_with(*config, host, mine).await {
                let _ = stream.write_all(&vec![0; behind]).await;
                let _ = stream.flush().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    }
    let _ = served.await.unwrap();
    carried.await.unwrap();
    written.load(Ordering::SeqCst) - read.load(Ordering::SeqCst)
}

#[tokio::test]
async fn nothing_that_was_sent_is_left_unread() {
    let (world, asking) = (World::new(), World::new());
    let (refused, _) = refused_and_accepted(&asking, &TLS13);
    let cases = [
        ("a refused certificate", &asking, Start::Handshake(Box::new(refused), HOST)),
        ("bytes that are not TLS", &world, Start::Bytes(b"GET / HTTP/1.1\r\n\r\n")),
        ("bytes that are not HTTP", &world, Start::Handshake(Box::new(client(&world, provider(), &TLS13)), HOST)),
    ];
    for (what, world, start) in cases {
        let left = tokio::time::timeout(PATIENCE, left_unread(world, start, 50_000)).await;
        assert_eq!(left, Ok(0), "{what}");
    }
    for version in VERSIONS {
        let unknown = Start::Handshake(Box::new(client(&world, provider(), version)), "xks.example.org");
        let left = tokio::time::timeout(PATIENCE, left_unread(&world, unknown, 0)).await;
        assert_eq!(left, Ok(0), "{version:?}");
    }
}
