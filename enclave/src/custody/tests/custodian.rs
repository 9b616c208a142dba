//! A custodian in memory that speaks the real formats over real TLS, and does not look at evidence. It can be told to fail.

use core::num::NonZeroU32;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use holdfast_client::Connect;
use holdfast_shared::api::{self, Refusal, RefusalCode};
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply, Seen};
use holdfast_shared::command::SealedResult;
use holdfast_shared::hpke;
use holdfast_shared::ids::{CommandId, KeyStoreId, LeaseId};
use holdfast_shared::keystore;
use holdfast_shared::labels;
use holdfast_shared::limits::WATCH_HOLD_MS;
use holdfast_shared::manifest::{Custodian, DerCertificate};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{
    self, ChallengeAnswer, ChannelKeys, HeldEntry, HeldShare, ReleaseBinding, ReleaseContent, ReleaseRequest, Share,
    ShareSet,
};
use holdfast_shared::secrets::Secret;
use holdfast_shared::signature::{Envelope, SigningKey};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use tokio::io::DuplexStream;
use tokio::sync::Notify;

use crate::clock::SteppedClock;

/// What goes wrong, once, with the next ask of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not carried out, and there is no answer.
    Lost,
    /// It is carried out, and there is no answer.
    AnswerLost,
    /// The enclave's clock runs on by so many milliseconds before the answer arrives.
    HeldBack(u64),
    /// The lease is ended.
    LeaseEnded,
}

pub(super) struct State {
    pub(super) key_store_id: KeyStoreId,
    pub(super) share: Option<(ShareSet, Secret<32>)>,
    pub(super) versions: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) overlay: Option<BlockOverlay>,
    pub(super) signed_overlay: Option<Vec<u8>>,
    pub(super) commands: Vec<(CommandId, Vec<u8>)>,
    pub(super) results: HashMap<CommandId, SealedResult>,
    pub(super) lease_ms: u64,
    pub(super) faults: Vec<(&'static str, Fault)>,
    /// Every request, by name.
    pub(super) log: Vec<&'static str>,
    leases: HashMap<LeaseId, Arc<ChannelKeys>>,
}

impl State {
    pub(super) fn asked(&self, name: &str) -> usize {
        self.log.iter().filter(|asked| **asked == name).count()
    }
}

pub(super) struct FakeCustodian {
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
    pub(super) key: SigningKey,
    clock: Arc<SteppedClock>,
    encryption_key: hpke::PrivateKey,
    tls: tokio_rustls::TlsAcceptor,
    certificate: Vec<u8>,
}

impl FakeCustodian {
    pub(super) fn new(clock: Arc<SteppedClock>) -> Arc<Self> {
        let certified = rcgen::generate_simple_self_signed(vec!["custodian.test".to_owned()]).unwrap();
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
                key_store_id: KeyStoreId([0; 32]),
                share: None,
                versions: Vec::new(),
                overlay: None,
                signed_overlay: None,
                commands: Vec::new(),
                results: HashMap::new(),
                lease_ms: 60_000,
                faults: Vec::new(),
                log: Vec::new(),
                leases: HashMap::new(),
            }),
            changed: Notify::new(),
            key: signing_key(),
            clock,
            encryption_key: hpke::PrivateKey::generate().unwrap(),
            tls: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
            certificate: certified.cert.der().to_vec(),
        })
    }

    pub(super) fn in_manifest(&self) -> Custodian {
        Custodian {
            name: "vault".to_owned(),
            signing_key: self.key.verifying_key().unwrap(),
            encryption_key: *self.encryption_key.public_key(),
            address: "custodian.test:443".to_owned(),
            tls_roots: vec![DerCertificate(self.certificate.clone())],
        }
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
        let (blob, _) = self.state().versions.last().cloned().unwrap();
        let header = keystore::header(&blob).unwrap();
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: header.key_store_id,
            version: header.version + 1,
            blob_id: keystore::blob_id(b"another"),
            previous: Some(keystore::blob_id(&blob)),
            recorded_ms: 0,
        };
        let register = register::sign(&entry, &self.key, &SystemRandom::new()).unwrap();
        self.change(|state| state.versions.push((b"another".to_vec(), register)));
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let Ok(stream) = self.tls.accept(stream).await else { return };
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
                let answer = self.release(body);
                self.finish(fault).map(|()| Ok(answer))
            }
            api::CHANNEL => self.channel(body).await,
            _ => Some(Err(RefusalCode::NotFound)),
        }
    }

    fn begin(&self, name: &'static str) -> Option<Fault> {
        let mut state = self.state();
        state.log.push(name);
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

    fn release(&self, body: &[u8]) -> Vec<u8> {
        let request: ReleaseRequest = cbor::decode(body).unwrap();
        let (nonce, user_data, public_key) = super::read_document(&request.document);
        let mut state = self.state();
        let lease_id = LeaseId(super::random());
        let blocked = state.overlay.as_ref().is_some_and(|overlay| overlay.store);
        let share = state
            .share
            .as_ref()
            .filter(|_| !blocked)
            .map(|(set, value)| HeldShare { share: Share { index: 1, value: value.duplicate() }, set: set.clone() });
        let content = ReleaseContent {
            lease_id,
            lease_ms: state.lease_ms,
            shares: share.into_iter().collect(),
            overlay: state.signed_overlay.clone(),
            register: state.versions.last().map(|(_, register)| held(register)),
            audit_heads: Vec::new(),
            successors: Vec::new(),
        };
        let binding = ReleaseBinding {
            custodian_id: self.in_manifest().id(),
            key_store_id: request.key_store_id,
            nonce: &nonce.try_into().unwrap(),
            user_data: &user_data,
        };
        let recipient = hpke::PublicKey(public_key.try_into().unwrap());
        let (answer, keys) = release::seal(&content, 1, &binding, &recipient, &self.key, &SystemRandom::new()).unwrap();
        state.leases.insert(lease_id, Arc::new(keys));
        answer
    }

    async fn channel(&self, body: &[u8]) -> Option<Result<Vec<u8>, RefusalCode>> {
        let message: ChannelMessage = cbor::decode(body).unwrap();
        let keys = self.state().leases.get(&message.lease_id).cloned();
        let Some(keys) = keys else { return Some(Err(RefusalCode::NotFound)) };
        let ask: Ask = channel::open(&message, Direction::Ask, &keys.ask).unwrap();
        let fault = self.begin(match &ask {
            Ask::Watch { renew: true, .. } => "renew",
            Ask::Watch { .. } => "watch",
            Ask::Fetch { .. } => "fetch",
            Ask::Deposit { .. } => "deposit",
            Ask::Publish { .. } => "publish",
            Ask::Report { .. } => "report",
            Ask::Copy { .. } => "copy",
            Ask::Commit { .. } => "commit",
            Ask::Retire { .. } => "retire",
        });
        if fault == Some(Fault::Lost) {
            return None;
        }
        let reply = if fault == Some(Fault::LeaseEnded) {
            self.state().leases.remove(&message.lease_id);
            Reply::Refused { reason: "the policy changed".to_owned(), lease_ended: true }
        } else {
            self.reply(ask).await
        };
        self.finish(fault)?;
        let rng = SystemRandom::new();
        let (id, counter) = (message.lease_id, message.counter);
        Some(Ok(channel::seal(&reply, Direction::Reply, &keys.reply, id, counter, &rng).unwrap()))
    }

    async fn reply(&self, ask: Ask) -> Reply {
        match ask {
            Ask::Watch { seen, renew } => self.watch(&seen, renew).await,
            Ask::Fetch { blob_id } => {
                let state = self.state();
                let found = state.versions.iter().find(|(blob, _)| keystore::blob_id(blob) == blob_id);
                found.map_or(Reply::Refused { reason: "no such blob".to_owned(), lease_ended: false }, |(blob, _)| {
                    Reply::Blob { blob: blob.clone(), evidence: Vec::new() }
                })
            }
            Ask::Deposit { set, share } => {
                let mut state = self.state();
                if state.share.is_some() {
                    return Reply::Conflict { register: None };
                }
                let id = state.key_store_id;
                let share = release::open_share(&share, id, self.in_manifest().id(), &self.encryption_key).unwrap();
                state.share = Some((set, share.value));
                Reply::Deposited
            }
            Ask::Publish { version, previous, blob, results, .. } => self.publish(version, previous, blob, results),
            Ask::Copy { .. } | Ask::Commit { .. } | Ask::Retire { .. } => {
                Reply::Refused { reason: "one custodian has nothing to copy".to_owned(), lease_ended: false }
            }
            Ask::Report { results } => {
                Self::keep(&mut self.state(), results);
                Reply::Reported
            }
        }
    }

    pub(super) fn publish(
        &self,
        version: u64,
        previous: Option<holdfast_shared::ids::BlobId>,
        blob: Vec<u8>,
        results: Vec<SealedResult>,
    ) -> Reply {
        let mut state = self.state();
        let newest = state.versions.last().map(|(blob, _)| keystore::blob_id(blob));
        if newest != previous {
            return Reply::Conflict { register: state.versions.last().map(|(_, register)| held(register)) };
        }
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: keystore::header(&blob).unwrap().key_store_id,
            version,
            blob_id: keystore::blob_id(&blob),
            previous,
            recorded_ms: 0,
        };
        let register = register::sign(&entry, &self.key, &SystemRandom::new()).unwrap();
        state.versions.push((blob, register.clone()));
        Self::keep(&mut state, results);
        drop(state);
        self.changed.notify_waiters();
        Reply::Published { register }
    }

    fn keep(state: &mut State, results: Vec<SealedResult>) {
        for result in results {
            state.commands.retain(|(id, _)| *id != result.command_id);
            state.results.insert(result.command_id, result);
        }
    }

    async fn watch(&self, seen: &Seen, renew: bool) -> Reply {
        loop {
            let changed = self.changed.notified();
            if let Some(reply) = self.news(seen, renew) {
                return reply;
            }
            if tokio::time::timeout(Duration::from_millis(WATCH_HOLD_MS), changed).await.is_err() {
                return Reply::News {
                    lease_ms: None,
                    overlay: None,
                    register: None,
                    commands: Vec::new(),
                    enclaves: NonZeroU32::MIN,
                    successors: Vec::new(),
                };
            }
        }
    }

    fn news(&self, seen: &Seen, renew: bool) -> Option<Reply> {
        let state = self.state();
        let fresh = state.overlay.as_ref().is_some_and(|overlay| overlay.epoch > seen.overlay_epoch);
        let overlay = state.signed_overlay.clone().filter(|_| fresh);
        let newest = u64::try_from(state.versions.len()).unwrap();
        let register = state.versions.last().filter(|_| newest > seen.version).map(|(_, register)| register.clone());
        let unseen: Vec<_> = state.commands.iter().filter(|(id, _)| !seen.commands.contains(id)).collect();
        let lease_ms = renew.then_some(state.lease_ms);
        let empty = overlay.is_none() && register.is_none() && unseen.is_empty() && lease_ms.is_none();
        let commands = unseen.into_iter().map(|(_, signed)| signed.clone().into()).collect();
        let (register, successors) = (register.map(|register| held(&register)), Vec::new());
        (!empty).then_some(Reply::News { lease_ms, overlay, register, commands, enclaves: NonZeroU32::MIN, successors })
    }
}

fn held(signed: &[u8]) -> HeldEntry {
    HeldEntry { signed: signed.to_vec(), is_committed: true }
}

/// A fresh signing key.
pub(super) fn signing_key() -> SigningKey {
    let rng = SystemRandom::new();
    SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap()
}

/// A wire to the custodian; each connection is a new pipe.
pub(super) struct Wire(pub(super) Arc<FakeCustodian>);

impl Connect for Wire {
    type Stream = DuplexStream;

    async fn connect(&self, _: &str) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(&self.0).serve(far));
        Ok(near)
    }
}

/// A signed copy of an envelope's bytes.
pub(super) fn bytes_of(envelope: &Envelope) -> Vec<u8> {
    cbor::encode(envelope).to_vec()
}
