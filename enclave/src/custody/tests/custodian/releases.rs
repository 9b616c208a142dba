//! Releases.

use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::hpke;
use holdfast_shared::ids::LeaseId;
use holdfast_shared::release::{self, HeldShare, ReleaseBinding, ReleaseContent, ReleaseRequest, Share};
use holdfast_shared::secrets::Secret;
use ring::rand::SystemRandom;

use super::FakeCustodian;
use crate::custody::tests::{random, read_document};

impl FakeCustodian {
    pub(super) fn release(&self, body: &[u8]) -> Vec<u8> {
        let request: ReleaseRequest = cbor::decode(body).unwrap();
        let (nonce, user_data, public_key) = read_document(&request.document);
        let mut state = self.state();
        let lease_id = LeaseId(random());
        if state.hostile.replays
            && let Some(first) = &state.first_release
        {
            return first.clone();
        }
        let blocked = state.overlay.as_ref().is_some_and(|overlay| overlay.store) && !state.hostile.withholds_blocks;
        let wrong = state.hostile.wrong_share;
        let give = |held: &HeldShare| {
            let value = wrong.map_or_else(|| held.share.value.duplicate(), |byte| Secret::take(&mut [byte; 32]));
            HeldShare { share: Share { index: held.share.index, value }, set: held.set.clone() }
        };
        let first = state.first_share.as_ref().filter(|_| state.hostile.gives_first_set);
        let shares = match first {
            Some(first) => vec![give(first)],
            None => state.shares.iter().map(give).collect(),
        };
        let content = ReleaseContent {
            lease_id,
            lease_ms: state.lease_ms,
            shares: if blocked || state.is_removed(self.id()) { Vec::new() } else { shares },
            overlay: state.signed_overlay.clone().filter(|_| !state.hostile.withholds_blocks),
            register: state.held(),
            audit_heads: state.handed_out.clone(),
            successors: state.successors().into_iter().map(Into::into).collect(),
        };
        let binding = ReleaseBinding {
            custodian_id: self.id(),
            key_store_id: request.key_store_id,
            nonce: &nonce.try_into().unwrap(),
            user_data: &user_data,
        };
        let recipient = hpke::PublicKey(public_key.try_into().unwrap());
        let (answer, keys) =
            release::seal(&content, state.policy_epoch, &binding, &recipient, &self.key, &SystemRandom::new()).unwrap();
        state.leases.insert(lease_id, Arc::new(keys));
        state.first_release.get_or_insert_with(|| answer.clone());
        answer
    }
}
