//! From a verified signature to an answer.

use std::sync::Arc;

use holdfast_shared::external_key::{
    Ciphertext, ExternalKey, ExternalKeyId, IV_LEN, KeyState, MessageRandomness, SALT_LEN,
};
use holdfast_shared::sigv4::Authenticated;
use holdfast_shared::xks::{
    self, DecryptAnswer, EkmHealth, EkmStatus, EncryptAnswer, HealthAnswer, KeyMetadataAnswer, KeyStatus, Operation,
    RequestMetadata, Target, XksError,
};
use ring::rand::{SecureRandom, SystemRandom};

use super::errors::{
    DENIED, INTERNAL, INVALID_CIPHERTEXT, KEY_NOT_ENABLED, NO_KEYS, NOT_RECORDED, THROTTLED, UNKNOWN_KEY, USAGE,
};
use super::guard::{Denial, DenialKind, Permit, Question};
use super::operation::{
    ApiOperation, CryptographicOperation, Decrypt, Encrypt, GetHealthStatus, GetKeyMetadata, HasMetadata, KeyOperation,
};
use super::request::AuthenticatedRequest;
use super::response::{Response, ResponseBody};
use super::stages::{Note, Stage};
use super::trail::Trail;
use crate::audit::{Pending, Receipt};
use crate::clock::Clock;
use crate::directory::{KeyRing, ServedKeyStore};

/// `xksProxyVendor` and `ekmVendor`: the enclave is proxy and key manager in one.
const VENDOR: &str = "Holdfast";
/// `xksProxyModel`: "SHOULD include the product name and version".
const MODEL: &str = concat!("Holdfast ", env!("CARGO_PKG_VERSION"));

/// Takes an authenticated request through all remaining stations, and records what came of it. `note` learns the request id once
/// it is known, and what each station took.
///
/// # Errors
/// The error to answer with: the first that applies, in the order of the design, section 3. If there is no record of the request, that
/// is the error.
pub async fn answer(
    request: AuthenticatedRequest<'_>,
    clock: &dyn Clock,
    note: &mut Note,
) -> Result<Response, XksError> {
    let recorded = match attempt(request, clock, note) {
        Ok(recorded) => recorded.kept().await,
        Err(error) => Err(error),
    };
    note.watch.lap(Stage::Audit);
    recorded?.release(clock)
}

/// Takes the request to its record. Waits for nothing, so that little is kept while somebody has to.
fn attempt(request: AuthenticatedRequest<'_>, clock: &dyn Clock, note: &mut Note) -> Result<InTree, XksError> {
    let mut trail = Trail::of(&request, note.watch);
    let finished = finish(request, clock, &mut trail);
    match finished {
        Ok(_) => trail.lap(Stage::Cipher),
        Err(_) => trail.stopped(),
    }
    *note = trail.note();
    match finished {
        Ok(finished) => finished.record(trail),
        Err(error) => Err(trail.refused(error)),
    }
}

fn finish(request: AuthenticatedRequest<'_>, clock: &dyn Clock, trail: &mut Trail) -> Result<Finished, XksError> {
    let AuthenticatedRequest { store, path, body, proof, .. } = request;
    match path.target() {
        Target::Health => {
            let request = ParsedRequest::<GetHealthStatus>::new(store, proof, xks::parse_health(body)?, trail);
            request.admit(clock)?.finish(clock)
        }
        Target::Key { id, operation: xks::KeyOperation::GetKeyMetadata } => {
            let request = ParsedRequest::<GetKeyMetadata>::new(store, proof, xks::parse_key_metadata(body)?, trail);
            request.admit(clock)?.find_key(id)?.finish(trail)
        }
        Target::Key { id, operation: xks::KeyOperation::Encrypt } => {
            let request = ParsedRequest::<Encrypt>::new(store, proof, xks::parse_encrypt(body)?, trail);
            request.admit(clock)?.find_key(id)?.authorize(trail)?.perform(trail)
        }
        Target::Key { id, operation: xks::KeyOperation::Decrypt } => {
            let request = ParsedRequest::<Decrypt>::new(store, proof, xks::parse_decrypt(body)?, trail);
            request.admit(clock)?.find_key(id)?.authorize(trail)?.perform(trail)
        }
    }
}

/// A request whose body obeys the specification.
pub struct ParsedRequest<'r, O: ApiOperation> {
    store: Arc<ServedKeyStore>,
    proof: Authenticated,
    body: O::Body<'r>,
}

impl<'r, O: ApiOperation> ParsedRequest<'r, O> {
    fn new(store: Arc<ServedKeyStore>, proof: Authenticated, body: O::Body<'r>, trail: &mut Trail) -> Self {
        trail.read(body.metadata());
        trail.lap(Stage::Parse);
        Self { store, proof, body }
    }

    /// Checks block and lease of the key store, and takes hold of its keys.
    ///
    /// # Errors
    /// 400 if it is blocked, 503 if a lease has expired or the keys are not there yet.
    pub fn admit(self, clock: &dyn Clock) -> Result<AdmittedRequest<'r, O>, XksError> {
        self.store.gate.check(clock.monotonic_ms(), None)?;
        let keys = self.store.keys.load().ok_or(NO_KEYS)?;
        Ok(AdmittedRequest { request: self, keys })
    }
}

/// A request to a key store that serves.
pub struct AdmittedRequest<'r, O: ApiOperation> {
    request: ParsedRequest<'r, O>,
    keys: Arc<KeyRing>,
}

impl AdmittedRequest<'_, GetHealthStatus> {
    /// Tries the test key and describes the fleet. Both happen now: nothing is answered from a cache.
    ///
    /// # Errors
    /// 500 if the cipher or the generator fails.
    pub fn finish(self, clock: &dyn Clock) -> Result<Finished, XksError> {
        try_cipher(&self.keys)?;
        let store = self.request.store;
        let now_ms = clock.monotonic_ms();
        let mut fleet = store.fleet.details(now_ms);
        if fleet.is_empty() {
            // "The response MUST have at least one" entry: without custodians, the enclave stands for itself.
            let (id, model) = (store.id.to_string(), MODEL.to_owned());
            fleet.push(EkmHealth { id, model, health_status: EkmStatus::Active });
        }
        let enclaves = store.fleet.enclaves(now_ms);
        let body = HealthAnswer::new(enclaves, VENDOR, MODEL, &fleet).map_err(|_| INTERNAL)?.to_json();
        Ok(Finished { store, key: None, body: ResponseBody::Plain(body) })
    }
}

/// The deep health check: what the cipher made when the keys came still decrypts, and what it makes now does, too.
fn try_cipher(keys: &KeyRing) -> Result<(), XksError> {
    if keys.works(&message_randomness()?) { Ok(()) } else { Err(INTERNAL) }
}

impl<'r, O: KeyOperation> AdmittedRequest<'r, O> {
    /// Finds the key that the path names.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn find_key(self, id: &ExternalKeyId) -> Result<KeyedRequest<'r, O>, XksError> {
        let key = Arc::clone(self.keys.find(id).ok_or(UNKNOWN_KEY)?);
        Ok(KeyedRequest { request: self.request, key })
    }
}

/// A request for a key that exists.
pub struct KeyedRequest<'r, O: ApiOperation> {
    request: ParsedRequest<'r, O>,
    key: Arc<ExternalKey>,
}

impl<O: ApiOperation> KeyedRequest<'_, O> {
    fn is_enabled(&self) -> bool {
        self.key.state() == KeyState::Enabled && !self.request.store.gate.blocks_key(self.key.id())
    }
}

impl KeyedRequest<'_, GetKeyMetadata> {
    /// Asks the policy, and describes the key; disabled, blocked and pending destruction all show as `DISABLED`.
    ///
    /// "ALL except `GetHealthStatus`" may be refused (specification, "Error codes"), and this is all that `CreateKey` asks: ADR 0025.
    ///
    /// # Errors
    /// 403.
    pub(super) fn finish(self, trail: &mut Trail) -> Result<Finished, XksError> {
        let ParsedRequest { store, proof, body } = &self.request;
        let operation = Operation::GetKeyMetadata;
        ask(store, self.key.id(), operation, body.metadata(), proof, trail)?;
        let status = if self.is_enabled() { KeyStatus::Enabled } else { KeyStatus::Disabled };
        let body = KeyMetadataAnswer { usage: self.key.usage(), status }.to_json();
        // No key is used, so a block of the key does not hold the answer back: it says that the key is blocked.
        Ok(Finished { store: self.request.store, key: None, body: ResponseBody::Plain(body) })
    }
}

/// Asks the guard, and says on the wire what kind of denial it is and no more. The record names the rule.
fn ask(
    store: &ServedKeyStore,
    key: &ExternalKeyId,
    operation: Operation,
    metadata: &RequestMetadata<'_>,
    proof: &Authenticated,
    trail: &mut Trail,
) -> Result<(), XksError> {
    let question = Question { key_store: store.id, key, operation, metadata, access_key_id: proof.access_key_id() };
    let (rule, decided) = match store.guard.permit(&question) {
        Ok(Permit { rule }) => (rule, Ok(())),
        Err(Denial { kind: DenialKind::Policy, rule }) => (rule, Err(DENIED)),
        Err(Denial { kind: DenialKind::Throttled, rule }) => (rule, Err(THROTTLED)),
    };
    trail.decided(rule.as_deref());
    if decided.is_ok() {
        trail.lap(Stage::Guard);
    }
    decided
}

impl<'r, O: CryptographicOperation> KeyedRequest<'r, O> {
    /// Checks state and usage of the key, then policy, quota and budget.
    ///
    /// # Errors
    /// 400, 403 or 429.
    pub(super) fn authorize(self, trail: &mut Trail) -> Result<AuthorizedRequest<'r, O>, XksError> {
        if !self.is_enabled() {
            return Err(KEY_NOT_ENABLED);
        }
        if !O::supported_by(self.key.usage()) {
            return Err(USAGE);
        }
        let ParsedRequest { store, proof, body } = self.request;
        ask(&store, self.key.id(), O::OPERATION, body.metadata(), &proof, trail)?;
        Ok(AuthorizedRequest { store, key: self.key, body })
    }
}

/// A request that may be performed. Made by `KeyedRequest::authorize` and in no other way.
pub struct AuthorizedRequest<'r, O: ApiOperation> {
    store: Arc<ServedKeyStore>,
    key: Arc<ExternalKey>,
    body: O::Body<'r>,
}

impl AuthorizedRequest<'_, Encrypt> {
    /// Encrypts; with an integrity value in the order of Appendix C if one is asked for.
    ///
    /// # Errors
    /// 500 if cipher, generator or the verifying decryption fails.
    pub(super) fn perform(self, trail: &mut Trail) -> Result<Finished, XksError> {
        let Self { store, key, body } = self;
        let randomness = message_randomness()?;
        let json = if body.integrity_value {
            let verified = key.encrypt_verified(&randomness, &body.aad, &body.plaintext).map_err(|_| INTERNAL)?;
            let (message, value) = verified.into_parts();
            trail.used(message.as_ciphertext().metadata);
            EncryptAnswer { message: &message, integrity_value: Some(&value) }.to_json()
        } else {
            let message = key.encrypt(&randomness, &body.aad, &body.plaintext).map_err(|_| INTERNAL)?;
            trail.used(message.as_ciphertext().metadata);
            EncryptAnswer { message: &message, integrity_value: None }.to_json()
        };
        Ok(Finished { store, key: Some(key.id().clone()), body: ResponseBody::Plain(json) })
    }
}

impl AuthorizedRequest<'_, Decrypt> {
    /// Decrypts.
    ///
    /// # Errors
    /// 400 if the ciphertext is not ours or not intact.
    pub(super) fn perform(self, trail: &mut Trail) -> Result<Finished, XksError> {
        let Self { store, key, body } = self;
        trail.used(&body.ciphertext_metadata);
        let message = Ciphertext {
            ciphertext: &body.ciphertext,
            metadata: &body.ciphertext_metadata,
            iv: &body.iv,
            tag: &body.tag,
        };
        let plaintext = key.decrypt(&message, &body.aad).map_err(|_| INVALID_CIPHERTEXT)?;
        let json = DecryptAnswer { plaintext: &plaintext }.to_json();
        Ok(Finished { store, key: Some(key.id().clone()), body: ResponseBody::Secret(json) })
    }
}

/// An answer of which there is no record yet.
pub struct Finished {
    store: Arc<ServedKeyStore>,
    key: Option<ExternalKeyId>,
    body: ResponseBody,
}

impl Finished {
    /// Records that the request was answered.
    ///
    /// # Errors
    /// 503 if there is no record, or too much of the log has no witness.
    fn record(self, trail: Trail) -> Result<InTree, XksError> {
        Ok(InTree { pending: trail.succeeded(&self.store.audit)?, finished: self })
    }
}

/// An answer whose record is in the tree, and not yet as safe as the key store's audit settings demand.
struct InTree {
    finished: Finished,
    pending: Pending,
}

impl InTree {
    /// Waits for that, and counts the request for alarms.
    ///
    /// # Errors
    /// 503 if the parent does not store the record in time.
    async fn kept(self) -> Result<Recorded, XksError> {
        let receipt = match self.pending.settled() {
            Ok(receipt) => receipt,
            // On the heap: mode relaxed does not carry what strict needs.
            Err(pending) => Box::pin(pending.kept()).await.map_err(|_| NOT_RECORDED)?,
        };
        self.finished.store.tally.used(&receipt);
        Ok(Recorded { finished: self.finished, receipt })
    }
}

/// An answer that has not passed the gate again. Made with an audit log's [`Receipt`] and in no other way.
pub struct Recorded {
    finished: Finished,
    receipt: Receipt,
}

impl Recorded {
    /// Asks the gate once more, and makes the one kind of response that has status 200.
    ///
    /// # Errors
    /// 400 if store or key were blocked meanwhile, 503 if a lease has expired.
    pub fn release(self, clock: &dyn Clock) -> Result<Response, XksError> {
        let Finished { store, key, body } = self.finished;
        store.gate.check(clock.monotonic_ms(), key.as_ref())?;
        Ok(Response::success(body, self.receipt))
    }
}

/// Asks the generator once: each time is a call of the kernel.
fn message_randomness() -> Result<MessageRandomness, XksError> {
    let mut bytes = [0; SALT_LEN + IV_LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| INTERNAL)?;
    let (salt, rest) = bytes.split_first_chunk().ok_or(INTERNAL)?;
    Ok(MessageRandomness { salt: *salt, iv: *rest.first_chunk().ok_or(INTERNAL)? })
}

#[cfg(test)]
mod tests {
    use holdfast_shared::xks::ErrorName;

    use super::*;

    #[test]
    fn a_health_check_that_fails_is_an_internal_error() {
        let ring = || KeyRing::new(Vec::new(), &SystemRandom::new()).unwrap();
        assert!(try_cipher(&ring()).is_ok());
        let error = try_cipher(&ring().damaged()).unwrap_err();
        assert_eq!((error.name, error.name.status()), (ErrorName::InternalException, 500));
    }
}
