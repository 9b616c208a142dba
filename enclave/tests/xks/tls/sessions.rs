//! Sessions: resumed within one host, never across, and not for ever.

use std::sync::{Arc, Mutex};

use holdfast_enclave::tls::{TlsIdentity, provider};
use holdfast_shared::secrets::SecretBytes;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{VERSIONS, client};
use crate::fixture::{HOST, PREFIX, World, key_store};
use crate::wire::{connect_with, pipe};

const OTHER: &str = "other.example.com";

/// Offers any session to anybody, whatever name it was made under.
#[derive(Debug, Default)]
struct Careless {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Vec<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tls13.lock().unwrap().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().pop()
    }
}

/// A client that remembers sessions, and where.
pub(super) fn remembering(config: &mut ClientConfig) {
    config.resumption = Resumption::store(Arc::new(Careless::default()));
}

/// Shakes hands and waits for the end, behind which every ticket has arrived.
pub(super) async fn shake(world: &World, config: &ClientConfig, host: &str) -> HandshakeKind {
    let (stream, served) = pipe(world.context());
    let mut stream = connect_with(config.clone(), host, stream).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    assert!(stream.get_mut().1.early_data().is_none(), "no 0-RTT is ever offered");
    // The first bytes may be half a ticket; an answer comes behind them.
    stream.write_all(b"x\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(stream);
    let _ = served.done.await;
    kind
}

fn remembering_client(world: &World, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut config = client(world, provider(), version);
    remembering(&mut config);
    config
}

/// One certificate for both names, so that nothing but the sessions could tell the hosts apart.
fn two_hosts(world: &World) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec![HOST.to_owned(), OTHER.to_owned()];
    let chain = vec![world.ca.sign(&rcgen::CertificateParams::new(names).unwrap(), &key)];
    let identity = Arc::new(TlsIdentity::new(chain, &SecretBytes::new(key.serialize_der()), 1).unwrap());
    let stores = [key_store(1, 1, HOST, PREFIX, &identity), key_store(2, 2, OTHER, PREFIX, &identity)];
    assert_eq!(world.directory.replace(stores.into_iter().map(Arc::new).collect()).unwrap(), []);
}

#[tokio::test]
async fn a_session_of_one_host_opens_no_other() {
    for version in VERSIONS {
        let world = World::new();
        two_hosts(&world);
        let config = remembering_client(&world, version);
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Full);
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Resumed);
        assert_eq!(shake(&world, &config, OTHER).await, HandshakeKind::Full, "with what the first host gave");
        assert_eq!(shake(&world, &config, OTHER).await, HandshakeKind::Resumed);
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Full, "and back");
    }
}

#[tokio::test]
async fn a_new_certificate_ends_the_sessions() {
    for version in VERSIONS {
        let world = World::new();
        let config = remembering_client(&world, version);
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Full);
        let store = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
        world.directory.replace(vec![store]).unwrap();
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Resumed, "the same once more changes nothing");
        world.directory.replace(vec![Arc::new(key_store(1, 1, HOST, PREFIX, &world.ca.identity(HOST, 2)))]).unwrap();
        assert_eq!(shake(&world, &config, HOST).await, HandshakeKind::Full);
    }
}

/// The oldest go first: a host's sessions take a bounded part of memory.
#[tokio::test]
async fn the_number_of_sessions_is_bounded() {
    for version in VERSIONS {
        let world = World::new();
        let first = remembering_client(&world, version);
        assert_eq!(shake(&world, &first, HOST).await, HandshakeKind::Full);
        for _ in 0..300 {
            assert_eq!(shake(&world, &remembering_client(&world, version), HOST).await, HandshakeKind::Full);
        }
        assert_eq!(shake(&world, &first, HOST).await, HandshakeKind::Full);
        assert_eq!(shake(&world, &first, HOST).await, HandshakeKind::Resumed);
    }
}
