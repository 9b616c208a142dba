//! The public proof (design, section 7): an attestation document for anybody, over the TLS key of this very connection.
//!
//! Guarantees: a document is made only for a key store under the connection's own host name, while its lease lasts, its keys are
//! here and nothing is blocked, which is asked again when the document is there; what it says is [`ConnectionUserData`] and a hash
//! of the stranger's nonce, so that it is worth nothing to a custodian. What strangers ask for is bounded for each host name and for
//! all together, and waits behind everything else that the NSM has to do. Assumes: the caller counts the request like any other that
//! nobody signed (docs/limits.md). Refuses: in the order of the API: method, query, key store, block, lease; then too many.

use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::Quota;
use holdfast_shared::limits::{PROOF_WAIT_MS, PROOFS_PER_SECOND};
use holdfast_shared::proof::{self, ConnectionUserData, ProofQuery, ProofQueryError};
use holdfast_shared::xks::XksError;
use holdfast_shared::{cbor, labels};
use http::Method;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use tokio::time::timeout;

use super::ServerContext;
use super::connection::Peer;
use super::memory::Share;
use crate::clock::Clock;
use crate::directory::{ServedKeyStore, Unnamed};
use crate::nsm::{Nsm, NsmError};
use crate::xks::{self, Bucket, Refused};

/// What all connections share.
pub(super) struct Proofs {
    nsm: Nsm,
    all: Bucket,
}

impl Proofs {
    pub(super) fn new(nsm: &Nsm) -> Self {
        let all = Quota { requests_per_second: PROOFS_PER_SECOND, burst: PROOFS_PER_SECOND };
        Self { nsm: nsm.for_strangers(), all: Bucket::new(all) }
    }
}

/// Whether a request is for the public proof, as it may be or not.
pub(super) fn is_asked_for(parts: &Parts) -> bool {
    parts.uri.path() == proof::PATH
}

/// A well-formed request.
pub(super) struct ProofRequest(ProofQuery);

/// A document on its way to HTTP.
pub(super) struct ProofDocument(Vec<u8>);

impl ProofRequest {
    /// Reads a request's head.
    ///
    /// # Errors
    /// 405, 400.
    pub(super) fn new(parts: &Parts, without_body: bool) -> Result<Self, Refused> {
        if parts.method != Method::GET {
            return Err(Refused::NotGet);
        }
        if !without_body {
            return Err(Refused::Unreadable(xks::PROOF_BODY));
        }
        let query = ProofQuery::parse(parts.uri.query().unwrap_or_default()).map_err(|error| match error {
            ProofQueryError::Nonce => xks::PROOF_NONCE,
            ProofQueryError::KeyStore => xks::PROOF_KEY_STORE,
            ProofQueryError::Unknown => xks::PROOF_PARAMETERS,
        })?;
        Ok(Self(query))
    }

    /// Has the document made. `note` learns which key store it is about.
    ///
    /// # Errors
    /// 404, 400, 503, 429, 500.
    pub(super) async fn answer(
        self,
        context: &ServerContext,
        peer: &Peer,
        share: &mut Share,
        note: &mut Option<KeyStoreId>,
    ) -> Result<ProofDocument, Refused> {
        let host = context.directory.host(&peer.host_name).ok_or(xks::UNKNOWN_PATH)?;
        let store = host.named(self.0.key_store).map_err(|unnamed| match unnamed {
            Unnamed::Unknown => xks::UNKNOWN_PATH,
            Unnamed::Several => xks::PROOF_SEVERAL,
        })?;
        *note = Some(store.id);
        check_served(store, &*context.clock)?;
        let now_ms = context.clock.monotonic_ms();
        // The host name's own first, so that one that is flooded takes nothing from the others.
        if !host.proofs().take(now_ms) || !context.proofs.all.take(now_ms) {
            return Err(Refused::Later(xks::PROOFS_BUSY));
        }
        let user_data = cbor::encode(&ConnectionUserData {
            label: labels::ATTEST_CONNECTION.to_owned(),
            key_store_id: store.id,
            version: store.version,
            blob_id: store.blob_id,
            tls_public_key_sha256: peer.tls_public_key_sha256,
        });
        let nonce = proof::document_nonce(&self.0.nonce);
        let making = context.proofs.nsm.attest(Some(&nonce), Some(&user_data), None);
        let made = timeout(Duration::from_millis(PROOF_WAIT_MS), making).await.map_err(|_| xks::PROOF_TIMEOUT)?;
        let document = made.map_err(|error| match error {
            NsmError::Busy => Refused::Later(xks::PROOFS_BUSY),
            NsmError::Refused { .. } | NsmError::OtherAnswer { .. } | NsmError::Gone => Refused::Api(xks::INTERNAL),
        })?;
        share.grow(document.len())?;
        check_served(store, &*context.clock)?;
        Ok(ProofDocument(document))
    }
}

/// The gate, and whether the keys are here, in the order of precedence.
fn check_served(store: &ServedKeyStore, clock: &dyn Clock) -> Result<(), XksError> {
    store.gate.check(clock.monotonic_ms(), None)?;
    store.keys.load().map(|_| ()).ok_or(xks::NO_KEYS)
}

impl ProofDocument {
    pub(super) fn into_http(self) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::from(self.0));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
