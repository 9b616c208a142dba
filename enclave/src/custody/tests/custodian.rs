//! A custodian in memory that speaks the real formats over real TLS, and does not look at evidence. It can be told to fail.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicUsize, Ordering};
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
use holdfast_shared::limits::{COMMIT_WAIT_MS, WATCH_HOLD_MS};
use holdfast_shared::manifest::{Custodian, DerCertificate};
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::quorum::{self, Copied};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{
    self, ChallengeAnswer, ChannelKeys, HeldEntry, HeldShare, ReleaseBinding, ReleaseContent, ReleaseRequest, Share,
    ShareSet,
};
use holdfast_shared::secrets::Secret;
use holdfast_shared::signature::{Envelope, SigningKey, VerifyingKey};
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

/// What is not as it should be, all the time.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each by itself")]
pub(super) struct Hostile {
    /// Nothing gets through.
    pub(super) is_away: bool,
    /// Every share given is this byte.
    pub(super) wrong_share: Option<u8>,
    /// The register of that version is offered, as if none had come after.
    pub(super) offers_version: Option<u64>,
    /// Each release is the first one again.
    pub(super) replays: bool,
    /// Shares given are of the oldest set ever held.
    pub(super) gives_first_set: bool,
    pub(super) refuses_copies: bool,
    /// Of this version and newer ones.
    pub(super) refuses_copies_from: Option<u64>,
    pub(super) refuses_deposits: bool,
    /// Every version is said to be committed.
    pub(super) lies_committed: bool,
    /// The overlay is not handed out.
    pub(super) withholds_blocks: bool,
    /// So many times yet the version is forgotten that is said to be committed.
    pub(super) forgets: usize,
    /// Requests that are still answered, of all custodians together; the next one is lost, or its answer is, and all after it.
    pub(super) fuse: Option<Arc<Fuse>>,
}

/// See [`Hostile::fuse`].
pub(super) struct Fuse {
    pub(super) left: AtomicUsize,
    pub(super) last: Fault,
}

impl Fuse {
    fn burn(&self) -> Option<Fault> {
        // One more than is left: the last one; so that 0 is what comes after it.
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(1) => Some(self.last),
            Ok(_) => None,
            Err(_) => Some(Fault::Lost),
        }
    }
}

/// A version as it is held.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) entry: RegisterEntry,
    pub(super) blob: Vec<u8>,
    pub(super) register: Vec<u8>,
    pub(super) evidence: Vec<u8>,
    pub(super) is_committed: bool,
    results: Vec<SealedResult>,
    since: tokio::time::Instant,
}

pub(super) struct State {
    pub(super) key_store_id: KeyStoreId,
    /// Of the home custodian.
    pub(super) home: Option<VerifyingKey>,
    /// w.
    pub(super) write: usize,
    /// Its place in the manifest, from 1.
    pub(super) index: u8,
    /// A successor that comes into force with the committed version that names it.
    pub(super) staged: Option<Vec<u8>>,
    pub(super) successors: Vec<Vec<u8>>,
    /// By generation, ascending.
    pub(super) shares: Vec<(ShareSet, Secret<32>)>,
    pub(super) versions: Vec<Version>,
    pub(super) hostile: Hostile,
    pub(super) overlay: Option<BlockOverlay>,
    pub(super) signed_overlay: Option<Vec<u8>>,
    pub(super) commands: Vec<(CommandId, Vec<u8>)>,
    pub(super) results: HashMap<CommandId, SealedResult>,
    pub(super) lease_ms: u64,
    pub(super) faults: Vec<(&'static str, Fault)>,
    /// Every request, by name.
    pub(super) log: Vec<&'static str>,
    leases: HashMap<LeaseId, Arc<ChannelKeys>>,
    first_release: Option<Vec<u8>>,
    first_share: Option<(ShareSet, Secret<32>)>,
}

impl State {
    pub(super) fn newest(&self) -> Option<&Version> {
        match self.hostile.offers_version {
            Some(version) => self.versions.iter().find(|held| held.entry.version == version),
            None => self.versions.last(),
        }
    }

    fn held(&self) -> Option<HeldEntry> {
        self.newest().map(|newest| HeldEntry {
            signed: newest.register.clone(),
            is_committed: newest.is_committed || self.hostile.lies_committed,
        })
    }

    fn commit(&mut self, version: u64) {
        let mut results = Vec::new();
        for held in self.versions.iter_mut().filter(|held| held.entry.version <= version) {
            held.is_committed = true;
            results.append(&mut held.results);
            if !held.evidence.is_empty() {
                let user_data = super::read_document(&held.evidence).1;
                let user_data: VersionUserData = cbor::decode(&user_data).unwrap();
                if user_data.manifest.sequence > 1 {
                    self.successors.extend(self.staged.take());
                }
            }
        }
        for result in results {
            self.results.insert(result.command_id, result);
        }
    }

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
                key_store_id: KeyStoreId([0; 32]),
                home: None,
                write: 1,
                index: u8::try_from(place + 1).unwrap(),
                staged: None,
                successors: Vec::new(),
                shares: Vec::new(),
                versions: Vec::new(),
                hostile: Hostile::default(),
                overlay: None,
                signed_overlay: None,
                commands: Vec::new(),
                results: HashMap::new(),
                lease_ms: 60_000,
                faults: Vec::new(),
                log: Vec::new(),
                leases: HashMap::new(),
                first_release: None,
                first_share: None,
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
        if state.hostile.is_away {
            return Some(Fault::Lost);
        }
        // Watches come when they like; all else comes in a certain order.
        if !matches!(name, "watch" | "renew")
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

    fn release(&self, body: &[u8]) -> Vec<u8> {
        let request: ReleaseRequest = cbor::decode(body).unwrap();
        let (nonce, user_data, public_key) = super::read_document(&request.document);
        let mut state = self.state();
        let lease_id = LeaseId(super::random());
        if state.hostile.replays
            && let Some(first) = &state.first_release
        {
            return first.clone();
        }
        let blocked = state.overlay.as_ref().is_some_and(|overlay| overlay.store) && !state.hostile.withholds_blocks;
        let index = state.index;
        let wrong = state.hostile.wrong_share;
        let give = |(set, value): &(ShareSet, Secret<32>)| {
            let value = wrong.map_or_else(|| value.duplicate(), |byte| Secret::take(&mut [byte; 32]));
            HeldShare { share: Share { index, value }, set: set.clone() }
        };
        let first = state.first_share.as_ref().filter(|_| state.hostile.gives_first_set);
        let shares = match first {
            Some(first) => vec![give(first)],
            None => state.shares.iter().map(give).collect(),
        };
        let content = ReleaseContent {
            lease_id,
            lease_ms: state.lease_ms,
            shares: if blocked { Vec::new() } else { shares },
            overlay: state.signed_overlay.clone().filter(|_| !state.hostile.withholds_blocks),
            register: state.held(),
            audit_heads: Vec::new(),
            successors: state.successors.iter().cloned().map(Into::into).collect(),
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
        state.first_release.get_or_insert_with(|| answer.clone());
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
                let found = state.versions.iter().find(|held| held.entry.blob_id == blob_id);
                found.map_or_else(
                    || refused("no such blob"),
                    |held| Reply::Blob { blob: held.blob.clone(), evidence: held.evidence.clone() },
                )
            }
            Ask::Deposit { set, share } => self.deposit(set, &share),
            Ask::Publish { version, previous, blob, results, evidence } => {
                self.publish(version, previous, blob, results, evidence)
            }
            Ask::Copy { register, blob, evidence } => self.copy(register, blob, evidence),
            Ask::Commit { version, blob_id } => {
                let mut state = self.state();
                if state.hostile.forgets > 0 {
                    state.hostile.forgets -= 1;
                    state.versions.retain(|held| held.entry.version < version);
                }
                if !state.versions.iter().any(|held| (held.entry.version, held.entry.blob_id) == (version, blob_id)) {
                    return Reply::Conflict { register: state.held() };
                }
                state.commit(version);
                drop(state);
                self.changed.notify_waiters();
                Reply::Committed
            }
            Ask::Retire { generation } => {
                let mut state = self.state();
                let newest = state.versions.last().filter(|newest| newest.is_committed);
                if newest.map(|newest| keystore::header(&newest.blob).unwrap().generation) != Some(generation) {
                    state.log.push("retire too early");
                    return refused("not yet");
                }
                state.shares.retain(|(set, _)| set.generation >= generation);
                Reply::Retired
            }
            Ask::Report { results } => {
                Self::keep(&mut self.state(), results);
                Reply::Reported
            }
        }
    }

    fn deposit(&self, set: ShareSet, sealed: &hpke::Sealed) -> Reply {
        let mut state = self.state();
        if state.hostile.refuses_deposits {
            return refused("will not");
        }
        let in_force = state.versions.last().map_or(0, |newest| keystore::header(&newest.blob).unwrap().generation);
        let kept = state.shares.iter().any(|(kept, _)| *kept == set);
        let is_fixed =
            state.shares.iter().any(|(kept, _)| kept.generation == set.generation) && set.generation <= in_force;
        if !kept && (is_fixed || !(in_force.max(1)..=in_force + 1).contains(&set.generation)) {
            return Reply::Conflict { register: state.held() };
        }
        let share =
            release::open_share(sealed, state.key_store_id, self.in_manifest().id(), &self.encryption_key).unwrap();
        assert_eq!(share.index, state.index);
        holdfast_shared::sharing::check(&share, &set).unwrap();
        if state.first_share.is_none() {
            state.first_share = Some((set.clone(), share.value.duplicate()));
        }
        state.shares.retain(|(kept, _)| kept.generation != set.generation);
        state.shares.push((set, share.value));
        Reply::Deposited
    }

    fn copy(&self, register: Vec<u8>, blob: Vec<u8>, evidence: Vec<u8>) -> Reply {
        let mut state = self.state();
        if state.hostile.refuses_copies {
            return refused("will not");
        }
        let entry = register::open(&register, state.key_store_id, &state.home.unwrap()).unwrap();
        if state.hostile.refuses_copies_from.is_some_and(|from| entry.version >= from) {
            return refused("will not");
        }
        assert_eq!(entry.blob_id, keystore::blob_id(&blob));
        let held = state.versions.last().map(|newest| (newest.entry.version, newest.entry.blob_id));
        match quorum::judge_copy(held, &entry) {
            Copied::Same => Reply::Copied,
            Copied::Older | Copied::Fork => Reply::Conflict { register: state.held() },
            Copied::Keep => {
                let user_data = super::read_document(&evidence).1;
                let user_data: VersionUserData = cbor::decode(&user_data).unwrap();
                let generation = keystore::header(&blob).unwrap().generation;
                state.shares.retain(|(set, _)| {
                    set.generation != generation || share_set_sha256(set) == user_data.share_set_sha256
                });
                let since = tokio::time::Instant::now();
                let results = Vec::new();
                state.versions.push(Version { entry, blob, register, evidence, is_committed: false, results, since });
                drop(state);
                self.changed.notify_waiters();
                Reply::Copied
            }
        }
    }

    pub(super) fn publish(
        &self,
        version: u64,
        previous: Option<holdfast_shared::ids::BlobId>,
        blob: Vec<u8>,
        results: Vec<SealedResult>,
        evidence: Vec<u8>,
    ) -> Reply {
        let mut state = self.state();
        let newest = state.versions.last().map(|newest| newest.entry.blob_id);
        if newest != previous {
            return Reply::Conflict { register: state.held() };
        }
        let header = keystore::header(&blob).unwrap();
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: header.key_store_id,
            version,
            blob_id: keystore::blob_id(&blob),
            previous,
            recorded_ms: 0,
        };
        if !evidence.is_empty() {
            let (nonce, user_data, public_key) = super::read_document(&evidence);
            let user_data: VersionUserData = cbor::decode(&user_data).unwrap();
            assert_eq!((nonce.as_slice(), public_key.len()), (entry.blob_id.as_bytes().as_slice(), 0));
            assert_eq!((user_data.version, user_data.blob_id, user_data.previous), (version, entry.blob_id, previous));
            let kept = state.shares.iter().find(|(set, _)| set.generation == header.generation);
            if kept.is_none_or(|(set, _)| share_set_sha256(set) != user_data.share_set_sha256) {
                return refused("is sealed under other shares than those that are kept here");
            }
        }
        let register = register::sign(&entry, &self.key, &SystemRandom::new()).unwrap();
        for result in &results {
            state.commands.retain(|(id, _)| *id != result.command_id);
        }
        let since = tokio::time::Instant::now();
        let is_committed = state.write == 1;
        state.versions.push(Version {
            entry,
            blob,
            register: register.clone(),
            evidence,
            is_committed,
            results,
            since,
        });
        if is_committed {
            state.commit(version);
        }
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
        let until = tokio::time::Instant::now() + Duration::from_millis(WATCH_HOLD_MS);
        loop {
            let changed = self.changed.notified();
            if let Some(reply) = self.news(seen, renew, tokio::time::Instant::now() >= until) {
                return reply;
            }
            // What is held back is looked at again.
            let _ = tokio::time::timeout(Duration::from_millis(COMMIT_WAIT_MS), changed).await;
        }
    }

    fn news(&self, seen: &Seen, renew: bool, is_due: bool) -> Option<Reply> {
        let state = self.state();
        let fresh = state.overlay.as_ref().is_some_and(|overlay| overlay.epoch > seen.overlay_epoch);
        let overlay = state.signed_overlay.clone().filter(|_| fresh && !state.hostile.withholds_blocks);
        let is_shown = |newest: &&Version| {
            newest.entry.version > seen.version
                && (newest.is_committed || newest.since.elapsed() >= Duration::from_millis(COMMIT_WAIT_MS))
        };
        let register = if state.newest().as_ref().is_some_and(is_shown) { state.held() } else { None };
        let unseen: Vec<_> = state.commands.iter().filter(|(id, _)| !seen.commands.contains(id)).collect();
        let lease_ms = renew.then_some(state.lease_ms);
        let empty = overlay.is_none() && register.is_none() && unseen.is_empty() && lease_ms.is_none();
        let commands = unseen.into_iter().map(|(_, signed)| signed.clone().into()).collect();
        let is_behind = usize::try_from(seen.manifest_sequence).unwrap() <= state.successors.len();
        let successors: Vec<_> = state.successors.iter().filter(|_| is_behind).cloned().map(Into::into).collect();
        let empty = empty && successors.is_empty();
        let news = Reply::News { lease_ms, overlay, register, commands, enclaves: NonZeroU32::MIN, successors };
        (!empty || is_due).then_some(news)
    }
}

fn refused(reason: &str) -> Reply {
    Reply::Refused { reason: reason.to_owned(), lease_ended: false }
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
        let custodian = self.0.iter().find(|custodian| custodian.address() == address).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(custodian).serve(far));
        Ok(near)
    }
}

/// A signed copy of an envelope's bytes.
pub(super) fn bytes_of(envelope: &Envelope) -> Vec<u8> {
    cbor::encode(envelope).to_vec()
}
