//! Obtaining a release: challenge, attestation, and what the custodian encrypts to the attested key.
//!
//! Guarantees: a fresh key pair and a fresh document for each release and each custodian; the document says for whom, for
//! which key store and in which boot it was made; the answer opens only with that key, for that nonce, under that custodian's
//! signature. The lease runs from the sending of the request.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Connect, CustodianClient};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits::{ANSWER_AGE_MAX_MS, RELEASE_MAX};
use holdfast_shared::manifest::Custodian;
use holdfast_shared::release::{
    self, ChallengeAnswer, ChallengeRequest, PROTOCOL, ReleaseBinding, ReleaseContent, ReleaseRequest, ReleaseUserData,
};
use holdfast_shared::{api, cbor, hpke, labels};
use tokio::sync::Semaphore;

use super::CustodyError;
use super::lease::{Lease, Sent};
use super::session::Session;
use crate::clock::Clock;
use crate::nsm::Nsm;

const TIMEOUT: Duration = Duration::from_millis(ANSWER_AGE_MAX_MS);

/// What a release is asked with.
pub(crate) struct Applicant<'a, C> {
    pub(crate) nsm: &'a Nsm,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) client: &'a Arc<CustodianClient<C>>,
    pub(crate) custodian: &'a Custodian,
    pub(crate) key_store_id: KeyStoreId,
    pub(crate) boot_id: BootId,
    pub(crate) audit_public_key: [u8; 32],
    /// One of a key store's releases is attested at a time.
    pub(crate) attesting: &'a Semaphore,
}

/// What goes when the key store is blocked or its lease ends, down to the key that opens a recorded release.
pub(crate) struct Released {
    pub(crate) content: ReleaseContent,
    /// The attested key of this lease: custodian and administrators encrypt to it.
    pub(crate) attested_key: hpke::PrivateKey,
}

/// A release that was granted.
pub(crate) struct Granted<C> {
    pub(crate) session: Session<C>,
    pub(crate) lease: Lease,
    pub(crate) released: Released,
    pub(crate) policy_epoch: u64,
}

/// Asks for a release.
pub(crate) async fn obtain<C: Connect>(applicant: &Applicant<'_, C>) -> Result<Granted<C>, CustodyError> {
    let key_store_id = applicant.key_store_id;
    let request = cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id }).to_vec();
    let answer =
        applicant.client.post(api::CHALLENGE, request, <ChallengeAnswer as cbor::Message>::MAX, TIMEOUT).await?;
    let nonce = cbor::decode::<ChallengeAnswer>(&answer)?.nonce;

    let custodian_id = applicant.custodian.id();
    let attested_key = hpke::PrivateKey::generate()?;
    let user_data = cbor::encode(&ReleaseUserData {
        label: labels::ATTEST_RELEASE.to_owned(),
        key_store_id,
        custodian_id,
        boot_id: applicant.boot_id,
        audit_public_key: applicant.audit_public_key,
    });
    let public_key = attested_key.public_key();
    let document = {
        let _turn = applicant.attesting.acquire().await;
        applicant.nsm.attest(Some(&nonce), Some(&user_data), Some(&public_key.0)).await?
    };

    let request = cbor::encode(&ReleaseRequest { protocol: PROTOCOL, key_store_id, document }).to_vec();
    let sent = Sent::at(applicant.clock.monotonic_ms());
    let answer = applicant.client.post(api::RELEASE, request, RELEASE_MAX, TIMEOUT).await?;
    let answered = sent.answered(applicant.clock.monotonic_ms())?;
    let binding = ReleaseBinding { custodian_id, key_store_id, nonce: &nonce, user_data: &user_data };
    let (content, policy_epoch, keys) =
        release::open(&answer, &binding, &applicant.custodian.signing_key, &attested_key)?;

    let (client, clock) = (Arc::clone(applicant.client), Arc::clone(applicant.clock));
    let session = Session::new(client, clock, content.lease_id, keys);
    let lease = Lease::granted(answered, content.lease_ms);
    Ok(Granted { session, lease, released: Released { content, attested_key }, policy_epoch })
}
