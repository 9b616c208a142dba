//! What the ledger knows for the audit log: heads of earlier boots, who acknowledged which head of this one, and how things stand when
//! the log opens.

use std::collections::BTreeMap;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::audit::{Checkpoint, Event, PreviousHead};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId};
use holdfast_shared::limits::AUDIT_HEADS_MAX;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::release::EarlierHead;

use super::{Ledger, State};
use crate::custody::CustodyError;

/// Heads of earlier boots as one custodian handed them out, each boot once, with the key that it says the boot attested. The key did sign
/// the head; whether it was the boot's, others must say as well.
pub(super) type Heads = BTreeMap<BootId, (AuditPublicKey, Checkpoint)>;

/// Ed25519.
type AuditPublicKey = [u8; 32];

impl<C: Connect + 'static> Ledger<C> {
    /// A custodian acknowledged a head of this size.
    pub(in crate::custody) fn witnessed(&self, id: CustodianId, size: u64) {
        let mut state = self.lock();
        if let Some(link) = state.links.get_mut(&id) {
            link.witnessed = link.witnessed.max(size);
        }
        let mut sizes: Vec<u64> = state.members().map(|(_, link)| link.witnessed).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let believed = sizes.get(state.quorum().believed().saturating_sub(1)).copied().unwrap_or_default();
        let was_refused = state.links.get_mut(&id).and_then(|link| link.not_witnessed.take()).is_some();
        let name = state.name_of(id);
        drop(state);
        self.served.audit().witnessed(believed);
        if was_refused {
            self.log(Level::Info, &format!("custodian {name} witnesses the audit log again"));
            self.report();
        }
    }

    /// A custodian answered and did not acknowledge a head. Its lease goes on.
    pub(in crate::custody) fn not_witnessed(&self, id: CustodianId, error: &CustodyError) {
        let text = format!("does not witness the audit log: {error}");
        let mut state = self.lock();
        let name = state.name_of(id);
        let Some(link) = state.links.get_mut(&id) else { return };
        // Once for each time that it begins: the words are the custodian's own, and it could say others each time.
        let is_new = link.not_witnessed.is_none();
        link.not_witnessed = Some(text.clone());
        drop(state);
        if is_new {
            self.log(Level::Error, &format!("custodian {name} {text}"));
            self.report();
        }
    }

    /// Heads that a custodian handed out, while they are of use: a log names them when it opens.
    pub(super) fn take_heads(&self, handed_out: &[EarlierHead]) -> Heads {
        if self.served.audit().size() > 0 {
            Heads::new()
        } else {
            read_heads(self.id, self.enclave.boot_id, handed_out)
        }
    }

    /// Records that a lease was obtained, which lasts so long, or ended.
    pub(super) fn note_lease(&self, custodian_id: CustodianId, expires_in_ms: Option<u64>) {
        let granted = expires_in_ms.is_some();
        self.served.audit().note(Event::Lease {
            granted,
            custodian_id,
            expires_in_ms: expires_in_ms.unwrap_or_default(),
        });
    }
}

/// An overlay in force, or none any more.
pub(super) fn overlay_event(overlay: Option<&BlockOverlay>) -> Event {
    overlay.map_or(Event::overlay(0, false, &[]), |overlay| Event::overlay(overlay.epoch, overlay.store, &overlay.keys))
}

/// Heads of other boots of a key store that the keys signed that are said to have. As many signatures as a release may have heads are verified: a few milliseconds.
fn read_heads(id: KeyStoreId, boot_id: BootId, handed_out: &[EarlierHead]) -> Heads {
    let mut heads = Heads::new();
    for EarlierHead { checkpoint, audit_public_key } in handed_out.iter().take(AUDIT_HEADS_MAX) {
        let text = core::str::from_utf8(checkpoint).ok();
        let Some(head) = text.and_then(|text| Checkpoint::verify(text, audit_public_key).ok()) else { continue };
        if head.log.key_store_id == id && head.log.boot_id != boot_id {
            heads.entry(head.log.boot_id).or_insert((*audit_public_key, head));
        }
    }
    heads
}

impl<C> State<C> {
    /// The heads to begin a log with, under the manifest that comes into force with it: of each boot whose key f + 1 custodians name, the
    /// furthest head that it signed. Where there are too many, those that most custodians know, and of these the newest.
    pub(super) fn previous_heads(&self, manifest: &VerifiedManifest) -> Vec<PreviousHead> {
        let mut logs: BTreeMap<(BootId, AuditPublicKey), (usize, Checkpoint)> = BTreeMap::new();
        for (boot_id, (key, head)) in self.members_of(manifest).flat_map(|(_, link)| &link.heads) {
            let (known_by, furthest) = logs.entry((*boot_id, *key)).or_insert((0, *head));
            *known_by = known_by.saturating_add(1);
            if head.size > furthest.size {
                *furthest = *head;
            }
        }
        let believed = Quorum::of(manifest.manifest()).believed();
        let mut heads: Vec<_> = logs.into_values().filter(|(known_by, _)| *known_by >= believed).collect();
        heads.sort_unstable_by_key(|(known_by, head)| core::cmp::Reverse((*known_by, head.time_ms)));
        heads.truncate(AUDIT_HEADS_MAX);
        let mut heads: Vec<_> = heads
            .into_iter()
            .map(|(_, head)| PreviousHead { boot_id: head.log.boot_id, size: head.size, root: head.root })
            .collect();
        heads.sort_by_key(|head| head.boot_id);
        // An honest boot has one key; of one that has two, the log that more custodians know.
        heads.dedup_by_key(|head| head.boot_id);
        heads
    }

    /// What holds already when the log opens: blocks and leases.
    pub(super) fn standing_events(&self, now_ms: u64) -> Vec<Event> {
        let overlay = self.overlay.iter().map(|overlay| overlay_event(Some(overlay)));
        let leases = self.links.iter().filter(|(_, link)| link.counted_ms > now_ms);
        let leases = leases.map(|(id, link)| Event::Lease {
            granted: true,
            custodian_id: *id,
            expires_in_ms: link.counted_ms.saturating_sub(now_ms),
        });
        overlay.chain(leases).collect()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::audit::LogId;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn only_signed_heads_of_other_boots_of_the_key_store_count_and_each_boot_once() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let audit_public_key: [u8; 32] = key.public_key().as_ref().try_into().unwrap();
        let note = |store: u8, boot: u8, size: u64| {
            let log = LogId { key_store_id: KeyStoreId([store; 32]), boot_id: BootId([boot; 16]) };
            Checkpoint { log, size, root: [1; 32], time_ms: 5, closed: false }.sign(&key).into_bytes()
        };
        let head = |checkpoint| EarlierHead { checkpoint, audit_public_key };
        let mut handed_out: Vec<_> =
            [note(1, 9, 4), note(2, 3, 5), b"no note".to_vec(), vec![0xff], note(1, 2, 3), note(1, 2, 8)]
                .map(head)
                .into();
        handed_out.push(EarlierHead { checkpoint: note(1, 4, 3), audit_public_key: [8; 32] });
        let read = read_heads(KeyStoreId([1; 32]), BootId([9; 16]), &handed_out);
        let read: Vec<_> = read.into_iter().map(|(boot_id, (key, head))| (boot_id, key, head.size)).collect();
        assert_eq!(read, [(BootId([2; 16]), audit_public_key, 3)]);
        let many = vec![head(note(1, 2, 3)); AUDIT_HEADS_MAX].into_iter().chain([head(note(1, 5, 3))]);
        let read = read_heads(KeyStoreId([1; 32]), BootId([9; 16]), &many.collect::<Vec<_>>());
        assert_eq!(read.len(), 1, "no more are looked at than a release may have");
    }
}
