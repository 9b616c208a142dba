//! The test in the place of an enclave: it asks the emulated NSM for documents and the custodian for a release, honestly or not.

use std::path::Path;
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_devkit::nsm::EmulatedNsm;
use holdfast_shared::attestation::measurements::sha384;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply};
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId};
use holdfast_shared::manifest::Custodian;
use holdfast_shared::release::{
    self, ChallengeAnswer, ChallengeRequest, ChannelKeys, PROTOCOL, ReleaseBinding, ReleaseContent, ReleaseRequest,
    ReleaseUserData,
};
use holdfast_shared::{api, cbor, hpke, labels, limits};
use ring::rand::SystemRandom;
use serde_bytes::ByteBuf;

use crate::random::random_bytes;

/// Patience of every request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An enclave's life at the emulated NSM.
pub struct Applicant {
    device: EmulatedNsm,
    /// Of this life.
    pub boot_id: BootId,
}

impl Applicant {
    /// Boots; measures a static configuration as the enclave does, if there is one.
    #[must_use]
    pub fn boot(socket: &Path, static_configuration: Option<&str>) -> Self {
        let mut applicant =
            Self { device: EmulatedNsm::connect(socket).unwrap(), boot_id: BootId(random_bytes::<16>()) };
        if let Some(text) = static_configuration {
            applicant.call(&Request::ExtendPCR { index: 16, data: sha384(text.as_bytes()).to_vec() });
            applicant.call(&Request::LockPCR { index: 16 });
        }
        applicant
    }

    /// Any request to the NSM that it must grant.
    pub fn call(&mut self, request: &Request) -> Response {
        let response = self.device.process_request(request);
        assert!(!matches!(response, Response::Error(_)), "{request:?}: {response:?}");
        response
    }

    /// A document over three fields.
    pub fn document(&mut self, nonce: Option<&[u8]>, user_data: Option<&[u8]>, public_key: Option<&[u8]>) -> Vec<u8> {
        let field = |bytes: Option<&[u8]>| bytes.map(|bytes| ByteBuf::from(bytes.to_vec()));
        let request =
            Request::Attestation { nonce: field(nonce), user_data: field(user_data), public_key: field(public_key) };
        match self.call(&request) {
            Response::Attestation { document } => document,
            other => panic!("no document: {other:?}"),
        }
    }

    /// What an honest enclave puts into `user_data`.
    #[must_use]
    pub fn user_data(&self, key_store_id: KeyStoreId, custodian_id: CustodianId) -> ReleaseUserData {
        ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id,
            custodian_id,
            boot_id: self.boot_id,
            audit_public_key: [7; 32],
        }
    }

    /// An honest release: what every accepted enclave obtains.
    ///
    /// # Errors
    /// The custodian's refusal.
    pub async fn obtain(&mut self, custodian: &Custodian, key_store_id: KeyStoreId) -> Result<Lease, ClientError> {
        let client = CustodianClient::new(Tcp, custodian)?;
        let nonce = challenge(&client, key_store_id).await?;
        let user_data = cbor::encode(&self.user_data(key_store_id, custodian.id())).to_vec();
        let key = hpke::PrivateKey::generate().unwrap();
        let document = self.document(Some(&nonce), Some(&user_data), Some(&key.public_key().0));
        let answer = request_release(&client, key_store_id, document).await?;
        let binding =
            ReleaseBinding { custodian_id: custodian.id(), key_store_id, nonce: &nonce, user_data: &user_data };
        let (content, _, keys) = release::open(&answer, &binding, &custodian.signing_key, &key).unwrap();
        Ok(Lease { content, keys, client, counter: 0 })
    }
}

/// A challenge's nonce.
///
/// # Errors
/// The custodian's refusal.
pub async fn challenge(client: &CustodianClient<Tcp>, key_store_id: KeyStoreId) -> Result<[u8; 32], ClientError> {
    let request = cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id }).to_vec();
    let answer = client.post(api::CHALLENGE, request, 1024, TIMEOUT).await?;
    Ok(cbor::decode::<ChallengeAnswer>(&answer).unwrap().nonce)
}

/// The signed answer to a request for a release.
///
/// # Errors
/// The custodian's refusal.
pub async fn request_release(
    client: &CustodianClient<Tcp>,
    key_store_id: KeyStoreId,
    document: Vec<u8>,
) -> Result<Vec<u8>, ClientError> {
    let request = ReleaseRequest { protocol: PROTOCOL, key_store_id, document };
    client.post(api::RELEASE, cbor::encode(&request).to_vec(), limits::RELEASE_MAX, TIMEOUT).await
}

/// A lease that was obtained.
pub struct Lease {
    /// What was released.
    pub content: ReleaseContent,
    keys: ChannelKeys,
    client: CustodianClient<Tcp>,
    counter: u64,
}

impl Lease {
    /// Asks on the sealed channel.
    ///
    /// # Errors
    /// The custodian's refusal, if it is an open one.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Reply, ClientError> {
        self.counter += 1;
        let body = self.seal(ask, self.counter);
        let answer = self.post(body).await?;
        let message: ChannelMessage = cbor::decode(&answer).unwrap();
        assert_eq!((message.lease_id, message.counter), (self.content.lease_id, self.counter));
        Ok(channel::open(&message, Direction::Reply, &self.keys.reply).unwrap())
    }

    /// A message for the channel.
    #[must_use]
    pub fn seal(&self, ask: &Ask, counter: u64) -> Vec<u8> {
        let (keys, id) = (&self.keys.ask, self.content.lease_id);
        channel::seal(ask, Direction::Ask, keys, id, counter, &SystemRandom::new()).unwrap()
    }

    /// Sends a message as it is.
    ///
    /// # Errors
    /// The custodian's refusal, if it is an open one.
    pub async fn post(&self, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.client.post(api::CHANNEL, body, limits::CHANNEL_MESSAGE_MAX, TIMEOUT).await
    }
}
