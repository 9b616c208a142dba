//! One entry, proven to somebody who has neither the log nor our programs.
//!
//! Guarantees: a proof that is given out was checked before; so was the attestation document in it, which vouches for the key.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::audit::tree::{inclusion_proof, leaf_hash, verify_inclusion};
use holdfast_shared::audit::{Checkpoint, Hash, LogId};
use holdfast_shared::ids::{BootId, KeyStoreId};
use serde::{Deserialize, Serialize};

use super::folder::{BootFolder, EntryReader, FolderError};
use super::heads::{HeadsFile, Voucher, evidence_of};
use super::scan;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// A file.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// No opening, or another log's.
    #[error("the folder of boot {0} is not the log of that boot of this key store; run: holdfast audit verify")]
    OtherLog(BootId),
    /// No checkpoint covers it.
    #[error("entry {0} is under no checkpoint yet, or does not exist")]
    Unsigned(u64),
    /// The log is not the one that was signed.
    #[error("the log is not the one that was signed; run: holdfast audit verify")]
    Broken,
    /// Nothing vouches for the key.
    #[error("no attestation document in the heads vouches for the audit key of boot {0}; run: holdfast audit heads")]
    Unproven(BootId),
}

/// A proof of one entry (RFC 6962, section 2.1.1), with everything that checking it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// 1.
    pub format: u32,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The boot.
    pub boot_id: BootId,
    /// Which entry.
    pub index: u64,
    /// The size of the tree.
    pub size: u64,
    /// The entry, in base64.
    pub leaf: String,
    /// The path, from the leaf upwards, in base64.
    pub hashes: Vec<String>,
    /// The signed note that has size and root.
    pub checkpoint: String,
    /// Ed25519 key that signed it, in base64.
    pub audit_public_key: String,
    /// The attestation document whose `user_data` names that key, in base64, where a custodian handed one over.
    pub evidence: Option<String>,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of {} of boot {}: {} hashes", self.index, self.size, self.boot_id, self.hashes.len())
    }
}

/// Proves the entry at `index` under the first checkpoint that covers it, with a document of `heads` that vouches for the key that
/// signed it.
///
/// # Errors
/// [`ProveError`].
pub fn prove(
    folder: &BootFolder,
    key_store_id: KeyStoreId,
    index: u64,
    heads: Option<(&HeadsFile, &Voucher<'_>)>,
) -> Result<Proof, ProveError> {
    let log = LogId { key_store_id, boot_id: folder.boot_id };
    let opening = folder.files.first().and_then(scan::opening).filter(|opening| scan::log_of(opening) == log);
    let opening = opening.ok_or(ProveError::OtherLog(folder.boot_id))?;
    let key = opening.audit_public_key;
    let mut chosen: Option<(Checkpoint, String)> = None;
    let mut offer = |text: &str| {
        if let Ok(checkpoint) = Checkpoint::verify(text, &key)
            && checkpoint.log == log
            && checkpoint.size > index
            && chosen.as_ref().is_none_or(|(before, _)| checkpoint.size < before.size)
        {
            chosen = Some((checkpoint, text.to_owned()));
        }
    };
    folder.checkpoints(&mut offer)?;
    let lines = heads.into_iter().flat_map(|(heads, _)| &heads.custodians).flat_map(|custodian| &custodian.heads);
    for line in lines.filter(|line| line.boot_id == folder.boot_id) {
        offer(&line.checkpoint);
    }
    let (checkpoint, text) = chosen.ok_or(ProveError::Unsigned(index))?;

    let evidence = match heads {
        Some((heads, vouch)) => {
            let evidence = evidence_of(heads, folder.boot_id, &key, vouch);
            Some(evidence.ok_or(ProveError::Unproven(folder.boot_id))?)
        }
        None => None,
    };

    let mut leaves = Leaves { folder, index, file: 0, entries: None, leaf: None, seen: 0 };
    let hashes = inclusion_proof(index, checkpoint.size, &mut leaves).ok_or(ProveError::Broken)?;
    let leaf = leaves.leaf.ok_or(ProveError::Broken)?;
    if !verify_inclusion(&leaf_hash(&leaf), index, checkpoint.size, &hashes, &checkpoint.root) {
        return Err(ProveError::Broken);
    }
    Ok(Proof {
        format: 1,
        key_store_id,
        boot_id: folder.boot_id,
        index,
        size: checkpoint.size,
        leaf: STANDARD.encode(leaf),
        hashes: hashes.iter().map(|hash| STANDARD.encode(hash)).collect(),
        checkpoint: text,
        audit_public_key: STANDARD.encode(key),
        evidence: evidence.map(|document| STANDARD.encode(document)),
    })
}

/// The leaf hashes of a log, entry by entry; the wanted entry is kept.
struct Leaves<'a> {
    folder: &'a BootFolder,
    index: u64,
    file: usize,
    entries: Option<EntryReader>,
    leaf: Option<Vec<u8>>,
    seen: u64,
}

impl Iterator for Leaves<'_> {
    type Item = Hash;

    fn next(&mut self) -> Option<Hash> {
        let mut entry = Vec::new();
        loop {
            if let Some(entries) = &mut self.entries
                && entries.read(&mut entry).ok()?.is_some()
            {
                let hash = leaf_hash(&entry);
                if self.seen == self.index {
                    self.leaf = Some(entry);
                }
                self.seen = self.seen.saturating_add(1);
                return Some(hash);
            }
            let file = self.folder.files.get(self.file)?;
            self.file = self.file.saturating_add(1);
            // A gap: no proof is made over it.
            if file.first_index != self.seen {
                return None;
            }
            self.entries = Some(file.entries(0).ok()?);
        }
    }
}
