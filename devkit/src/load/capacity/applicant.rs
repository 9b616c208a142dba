//! This process in the place of enclaves: documents of the emulated NSM, a custodian's releases, and the watch of a lease.
//!
//! Guarantees: what an enclave sends and verifies is sent and verified here, each over connections of its own.

use std::path::Path;
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use holdfast_client::{CustodianClient, Tcp};
use holdfast_shared::attestation::measurements::sha384;
use holdfast_shared::block;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, OverlayId, Reply, Seen};
use holdfast_shared::ids::{BootId, LeaseId};
use holdfast_shared::manifest::{Custodian, VerifiedManifest};
use holdfast_shared::release::{
    self, ChallengeAnswer, ChallengeRequest, ChannelKeys, PROTOCOL, ReleaseBinding, ReleaseRequest, ReleaseUserData,
};
use holdfast_shared::{api, cbor, hpke, labels, limits, register};
use ring::rand::{SecureRandom, SystemRandom};

use super::failed;
use crate::load::LoadError;
use crate::nsm::EmulatedNsm;

/// Patience of a request, beside the time for which a watch is held.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An enclave of the emulated NSM. Its documents serve any number of boots: a custodian cannot tell.
pub(super) struct Applicant {
    device: EmulatedNsm,
}

fn refused(error: &dyn core::fmt::Display) -> LoadError {
    failed("an enclave that is played", error)
}

impl Applicant {
    /// Measures a static configuration as the enclave does.
    pub(super) fn boot(socket: &Path, static_configuration: &[u8]) -> Result<Self, LoadError> {
        let device = EmulatedNsm::connect(socket).map_err(|error| refused(&error))?;
        let mut applicant = Self { device };
        applicant.call(&Request::ExtendPCR { index: 16, data: sha384(static_configuration).to_vec() })?;
        applicant.call(&Request::LockPCR { index: 16 })?;
        Ok(applicant)
    }

    fn call(&mut self, request: &Request) -> Result<Response, LoadError> {
        match self.device.process_request(request) {
            Response::Error(error) => Err(refused(&format!("the NSM emulator: {error:?}"))),
            response => Ok(response),
        }
    }

    /// What every accepted enclave obtains, over connections of its own.
    pub(super) async fn obtain(
        &mut self,
        custodian: &Custodian,
        manifest: &VerifiedManifest,
    ) -> Result<Lease, LoadError> {
        let rng = SystemRandom::new();
        let mut boot_id = [0; 16];
        rng.fill(&mut boot_id).map_err(|_| refused(&"no randomness"))?;
        let client = CustodianClient::new(Tcp, custodian).map_err(|error| refused(&error))?;
        let key_store_id = manifest.id();
        let request = cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id }).to_vec();
        let answer = client.post(api::CHALLENGE, request, 1024, TIMEOUT).await.map_err(|error| refused(&error))?;
        let nonce = cbor::decode::<ChallengeAnswer>(&answer).map_err(|error| refused(&error))?.nonce;
        let user_data = ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id,
            custodian_id: custodian.id(),
            boot_id: BootId(boot_id),
            audit_public_key: [7; 32],
        };
        let user_data = cbor::encode(&user_data).to_vec();
        let key = hpke::PrivateKey::generate().map_err(|error| refused(&error))?;
        let document = self.document(&nonce, &user_data, &key.public_key().0)?;
        let request = cbor::encode(&ReleaseRequest { protocol: PROTOCOL, key_store_id, document }).to_vec();
        let answer = client.post(api::RELEASE, request, limits::RELEASE_MAX, TIMEOUT).await;
        let answer = answer.map_err(|error| refused(&error))?;
        let binding =
            ReleaseBinding { custodian_id: custodian.id(), key_store_id, nonce: &nonce, user_data: &user_data };
        let opened = release::open(&answer, &binding, &custodian.signing_key, &key);
        let (content, _, keys) = opened.map_err(|error| refused(&error))?;
        let seen = Seen { manifest_sequence: manifest.sequence(), ..Seen::default() };
        let (custodian, manifest) = (custodian.clone(), manifest.clone());
        Ok(Lease { id: content.lease_id, custodian, manifest, keys, client, counter: 0, seen })
    }

    fn document(&mut self, nonce: &[u8], user_data: &[u8], public_key: &[u8]) -> Result<Vec<u8>, LoadError> {
        let field = |bytes: &[u8]| Some(bytes.to_vec().into());
        let request =
            Request::Attestation { nonce: field(nonce), user_data: field(user_data), public_key: field(public_key) };
        match self.call(&request)? {
            Response::Attestation { document } => Ok(document),
            other => Err(refused(&format!("the NSM emulator: {other:?}"))),
        }
    }
}

/// A lease that was obtained.
pub(super) struct Lease {
    id: LeaseId,
    custodian: Custodian,
    manifest: VerifiedManifest,
    keys: ChannelKeys,
    client: CustodianClient<Tcp>,
    counter: u64,
    seen: Seen,
}

impl Lease {
    /// Asks once for news, which may take [`limits::WATCH_HOLD_MS`]. Returns whether a block was among it, verified.
    pub(super) async fn watch(&mut self) -> Result<bool, LoadError> {
        let ask = Ask::Watch { seen: self.seen.clone(), renew: false };
        let Reply::News { overlay, register, .. } = self.ask(&ask).await? else {
            return Err(refused(&"the custodian answers a watch with something else"));
        };
        if let Some(held) = register {
            let entry = register::open(&held.signed, self.manifest.id(), &self.custodian.signing_key);
            self.seen.version = entry.map_err(|error| refused(&error))?.version;
        }
        let Some(signed) = overlay else { return Ok(false) };
        let overlay = block::open_under(&signed, &self.manifest, None).map_err(|error| refused(&error))?;
        self.seen.overlay_epoch = overlay.epoch;
        self.seen.obeys = Some(OverlayId::of(&overlay));
        Ok(overlay.store)
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Reply, LoadError> {
        self.counter += 1;
        let rng = SystemRandom::new();
        let body = channel::seal(ask, Direction::Ask, &self.keys.ask, self.id, self.counter, &rng);
        let body = body.map_err(|error| refused(&error))?;
        let timeout = TIMEOUT + Duration::from_millis(limits::WATCH_HOLD_MS);
        let answer = self.client.post(api::CHANNEL, body, limits::CHANNEL_MESSAGE_MAX, timeout).await;
        let message: ChannelMessage =
            cbor::decode(&answer.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
        if (message.lease_id, message.counter) != (self.id, self.counter) {
            return Err(refused(&"the custodian answers something else"));
        }
        channel::open(&message, Direction::Reply, &self.keys.reply).map_err(|error| refused(&error))
    }
}
