//! Putting a successor manifest in force: other administrators, thresholds, custodians, or another host name.
//!
//! Guarantees: the successor was signed under its predecessor's custody threshold, and the order to adopt it by as many of the sealed
//! list; a block overlay that came between makes it void, since nobody would know whose signatures lift it. Assumes: the caller
//! publishes the body, and serves under the successor only once that is committed. Refuses: a successor of another manifest than the
//! one in force.

use holdfast_shared::command::Outcome;
use holdfast_shared::keystore::{Body, SuccessorInForce};
use holdfast_shared::manifest::{Custodian, Manifest};

use super::{Effect, Situation, refused};

/// Changes the body to what the successor says.
pub(super) fn adopt(body: &mut Body, signed: &[u8], situation: &Situation<'_>) -> Effect {
    let current = situation.manifest;
    if body.manifest_id(current.id()) != current.manifest_id() {
        return refused("the manifest in force is not known here yet; issue the command again in a minute");
    }
    let successor = match current.succeed(signed) {
        Ok(successor) => successor,
        Err(error) => return refused(&error.to_string()),
    };
    let (old, new) = (current.manifest(), successor.manifest());
    if new.succession.is_none_or(|succession| succession.overlay_epoch != situation.overlay_epoch) {
        return refused("a block came between the making of this manifest and its adoption; make it anew");
    }
    if (&new.host_name, &new.path_prefix) != (&body.host_name, &body.path_prefix) {
        // The certificate is for the old name; the key stays, so that a new one can be requested.
        if new.host_name != body.host_name {
            body.tls.chain.clear();
            // So is the attempt; a standing order goes on for the new name, at once.
            if let Some(renewal) = &mut body.renewal {
                renewal.progress.begin_anew();
            }
        }
        body.host_name.clone_from(&new.host_name);
        body.path_prefix.clone_from(&new.path_prefix);
    }
    body.administrators.clone_from(&new.administrators);
    body.thresholds = new.thresholds;
    let since_version = situation.version.saturating_add(1);
    body.successor = Some(SuccessorInForce { manifest: successor.manifest_id(), since_version });
    let reshare = shares_change(old, new);
    Effect::Adopted { manifest: Box::new(successor), reshare, outcome: Outcome::Done }
}

/// Whether other custodians, or another number of them, must come together. An address alone changes no share.
fn shares_change(old: &Manifest, new: &Manifest) -> bool {
    let holders = |manifest: &Manifest| manifest.custodians.iter().map(Custodian::id).collect::<Vec<_>>();
    let kms = |manifest: &Manifest| manifest.kms_share.as_ref().map(|share| share.key_arn.clone());
    old.shares_needed != new.shares_needed || holders(old) != holders(new) || kms(old) != kms(new)
}
