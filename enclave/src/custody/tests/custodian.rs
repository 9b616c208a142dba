//! A custodian in memory that speaks the real formats over real TLS, and does not look at evidence. It can be told to fail.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use holdfast_client::Connect;
use holdfast_shared::api::{self, Refusal, RefusalCode};
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::hpke;
use holdfast_shared::ids::{CustodianId, KeyStoreId};
use holdfast_shared::keystore;
use holdfast_shared::labels;
use holdfast_shared::manifest::{Custodian, DerCertificate};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::ChallengeAnswer;
use holdfast_shared::signature::{Envelope, SigningKey};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use tokio::io::DuplexStream;
use tokio::sync::Notify;

use crate::clock::SteppedClock;

mod asks;
mod faults;
mod releases;
mod state;

use faults::Hostile;
pub(super) use faults::{Dawdles, Fault, Fuse};
pub(super) use state::{State, Version};

pub(super) struct FakeCustodian {
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
    pub(super) key: SigningKey,
    clock: Arc<SteppedClock>,
    encryption_key: hpke::PrivateKey,
    tls: tokio_rustls::TlsAcceptor,
    certificate: Vec<u8>,
    place: usize,
}

impl FakeCustodian {
    pub(super) fn new(clock: Arc<SteppedClock>, place: usize) -> Arc<Self> {
        let certified = rcgen::generate_simple_self_signed(vec![format!("vault-{place}.test")]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        Arc::new(Self {
            state: Mutex::new(State {
                manifest: None,
                staged: None,
                shares: Vec::new(),
                versions: Vec::new(),
                hostile: Hostile::default(),
                overlay: None,
                signed_overlay: None,
                commands: Vec::new(),
                results: HashMap::new(),
                lease_ms: 60_000,
                policy_epoch: 1,
                faults: Vec::new(),
                log: Vec::new(),
                leases: HashMap::new(),
                first_release: None,
                first_share: None,
                late: None,
                debited: HashMap::new(),
                tallies: Vec::new(),
                raises: Vec::new(),
                heads: Vec::new(),
                handed_out: Vec::new(),
                handshakes: 0,
            }),
            changed: Notify::new(),
            key: signing_key(),
            clock,
            encryption_key: hpke::PrivateKey::generate().unwrap(),
            tls: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
            certificate: certified.cert.der().to_vec(),
            place,
        })
    }

    pub(super) fn in_manifest(&self) -> Custodian {
        Custodian {
            name: if self.place == 0 { "vault".to_owned() } else { format!("vault-{}", self.place) },
            signing_key: self.key.verifying_key().unwrap(),
            encryption_key: *self.encryption_key.public_key(),
            address: self.address(),
            tls_roots: vec![DerCertificate(self.certificate.clone())],
        }
    }

    fn id(&self) -> CustodianId {
        self.in_manifest().id()
    }

    fn address(&self) -> String {
        format!("vault-{}.test:443", self.place)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes something and wakes those who watch.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    pub(super) fn fail(&self, ask: &'static str, fault: Fault) {
        self.change(|state| state.faults.push((ask, fault)));
    }

    pub(super) fn block(&self, id: KeyStoreId, store: bool, administrator: &SigningKey) {
        let epoch = self.state().overlay.as_ref().map_or(0, |overlay| overlay.epoch) + 1;
        let overlay = BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: id,
            epoch,
            store,
            keys: Vec::new(),
            issued_ms: 0,
        };
        let signed = block::sign(&overlay, administrator, &SystemRandom::new()).unwrap();
        self.change(|state| {
            state.signed_overlay = Some(cbor::encode(&signed).to_vec());
            state.overlay = Some(overlay);
        });
    }

    /// Forgets every lease: whoever speaks under one is refused.
    pub(super) fn refuse_channel(&self) {
        self.change(|state| state.leases.clear());
    }

    /// A version that names the newest as its predecessor; what is inside does not matter.
    pub(super) fn publish_as_another_enclave(&self) {
        let newest = self.state().versions.last().cloned().unwrap();
        let entry = RegisterEntry {
            version: newest.entry.version + 1,
            blob_id: keystore::blob_id(b"another"),
            previous: Some(newest.entry.blob_id),
            ..newest.entry
        };
        self.change(|state| state.versions.push(self.version(entry, b"another".to_vec())));
    }

    /// A committed version of that entry.
    pub(super) fn version(&self, entry: RegisterEntry, blob: Vec<u8>) -> Version {
        let register = register::sign(&entry, &self.key, &SystemRandom::new()).unwrap();
        let since = tokio::time::Instant::now();
        Version { entry, blob, register, evidence: Vec::new(), is_committed: true, results: Vec::new(), since }
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let Ok(stream) = self.tls.accept(stream).await else { return };
        self.state().handshakes += 1;
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let custodian = Arc::clone(&self);
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
                let (status, body) =
                    match custodian.answer(&path, &body).await.ok_or_else(|| io::Error::other("lost"))? {
                        Ok(body) => (StatusCode::OK, body),
                        Err(code) => {
                            let refusal = Refusal { code, reason: "no".to_owned() };
                            (StatusCode::from_u16(code.status()).unwrap(), cbor::encode(&refusal).to_vec())
                        }
                    };
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = status;
                Ok::<_, io::Error>(response)
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// Nothing: the answer is lost.
    async fn answer(&self, path: &str, body: &[u8]) -> Option<Result<Vec<u8>, RefusalCode>> {
        match path {
            api::CHALLENGE => {
                let fault = self.begin("challenge");
                if fault.is_some() {
                    None
                } else {
                    Some(Ok(cbor::encode(&ChallengeAnswer { nonce: [7; 32] }).to_vec()))
                }
            }
            api::RELEASE => {
                let fault = self.begin("release");
                if fault == Some(Fault::Lost) {
                    return None;
                }
                if self.has_nothing_left() {
                    return Some(Err(RefusalCode::Denied));
                }
                let answer = self.release(body);
                self.finish(fault).map(|()| Ok(answer))
            }
            api::CHANNEL => self.channel(body).await,
            _ => Some(Err(RefusalCode::NotFound)),
        }
    }

    /// It was removed, and has deleted its shares.
    fn has_nothing_left(&self) -> bool {
        let state = self.state();
        state.is_removed(self.id()) && state.shares.is_empty()
    }

    /// Takes as long as it likes.
    async fn dawdle(&self) {
        let dawdles = self.state().hostile.dawdles.clone();
        if let Some(dawdles) = dawdles {
            tokio::time::sleep(dawdles.next()).await;
        }
    }

    fn begin(&self, name: &'static str) -> Option<Fault> {
        let mut state = self.state();
        state.log.push(name);
        if state.hostile.is_away {
            return Some(Fault::Lost);
        }
        // Watches and tallies come when they like; all else comes in a certain order.
        if !matches!(name, "watch" | "renew" | "tally")
            && let Some(fault) = state.hostile.fuse.as_ref().and_then(|fuse| fuse.burn())
        {
            return Some(fault);
        }
        let index = state.faults.iter().position(|(ask, _)| *ask == name)?;
        Some(state.faults.remove(index).1)
    }

    fn finish(&self, fault: Option<Fault>) -> Option<()> {
        match fault {
            Some(Fault::Lost | Fault::AnswerLost) => None,
            Some(Fault::HeldBack(ms)) => {
                self.clock.advance_ms(ms);
                Some(())
            }
            Some(Fault::LeaseEnded) | None => Some(()),
        }
    }
}

/// A fresh signing key.
pub(super) fn signing_key() -> SigningKey {
    let rng = SystemRandom::new();
    SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap()
}

/// Wires to the custodians; each connection is a new pipe.
#[derive(Clone)]
pub(super) struct Wire(pub(super) Vec<Arc<FakeCustodian>>);

impl Connect for Wire {
    type Stream = DuplexStream;

    async fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let custodian = self.0.iter().find(|custodian| custodian.address() == address);
        let custodian = custodian.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(custodian).serve(far));
        Ok(near)
    }
}

/// A signed copy of an envelope's bytes.
pub(super) fn bytes_of(envelope: &Envelope) -> Vec<u8> {
    cbor::encode(envelope).to_vec()
}
