//! Writes logs as an enclave and its parent do, through the shared formats; and, before they come to disk, changes them.

use std::path::Path;

use holdfast_cli::audit::heads::Witnessed;
use holdfast_shared::audit::entry::{FORMAT, Opening};
use holdfast_shared::audit::{
    Checkpoint, Entry, Event, LogId, Operation, PreviousHead, Record, RequestRecord, SegmentKey, Terms, Tree,
};
use holdfast_shared::cbor;
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::secrets::Secret;
use holdfast_shared::xks::ErrorName;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

pub(crate) const KEY_STORE: KeyStoreId = KeyStoreId([0x11; 32]);

/// The log of one boot.
pub(crate) struct Log {
    pub(crate) id: LogId,
    pub(crate) key: Ed25519KeyPair,
    segment: SegmentKey,
    tree: Tree,
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

impl Log {
    /// With an opening, a segment for `reader`, and so many records; a checkpoint after each 50.
    pub(crate) fn new(boot: u8, reader: &PublicKey, previous: Vec<PreviousHead>, records: u64) -> Self {
        let id = LogId { key_store_id: KEY_STORE, boot_id: BootId([boot; 16]) };
        let key = Ed25519KeyPair::from_seed_unchecked(&[boot; 32]).unwrap();
        let segment = SegmentKey::draw(Secret::take(&mut [boot; 32]));
        let (tree, entries, checkpoints) = (Tree::default(), Vec::new(), Vec::new());
        let mut log = Self { id, key, segment, tree, entries, checkpoints };
        log.append(&Entry::Opening(Opening {
            format: FORMAT,
            key_store_id: KEY_STORE,
            boot_id: id.boot_id,
            audit_public_key: log.public_key(),
            opened_ms: u64::from(boot) * 1_000_000,
            previous,
        }));
        let segment = log.segment.seal_to(&[*reader], &id, 0, Terms::DEFAULT).unwrap();
        log.append(&segment);
        for number in 0..records {
            log.record(number);
            if log.tree.size().is_multiple_of(50) {
                log.checkpoint(false);
            }
        }
        log
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().unwrap()
    }

    pub(crate) fn append(&mut self, entry: &Entry) {
        let bytes = cbor::encode(entry).to_vec();
        self.tree.append(&bytes);
        self.entries.push(bytes);
    }

    pub(crate) fn record(&mut self, number: u64) {
        let request = RequestRecord {
            principal: Some(format!("arn:aws:iam::111122223333:role/team-{}", number % 3)),
            error: number.is_multiple_of(10).then_some(ErrorName::AccessDeniedException),
            ..RequestRecord::new(Operation::Decrypt, "AAAAABBBBBCCCCCDDDDD".parse().unwrap())
        };
        let record = Record { at_ms: number, what: Event::Request(Box::new(request)) };
        let leaf = self.segment.seal_record(&self.id, self.tree.size(), &record).unwrap();
        self.tree.append(&leaf);
        self.entries.push(leaf);
    }

    pub(crate) fn checkpoint(&mut self, closed: bool) {
        let (size, root) = (self.tree.size(), self.tree.root());
        self.checkpoints.push(Checkpoint { log: self.id, size, root, time_ms: size, closed });
    }

    pub(crate) fn close(mut self) -> Self {
        self.append(&Entry::Closing);
        self.checkpoint(true);
        self
    }

    pub(crate) fn head(&self) -> PreviousHead {
        let newest = self.checkpoints.last().unwrap();
        PreviousHead { boot_id: self.id.boot_id, size: newest.size, root: newest.root }
    }

    /// What custodians know of it.
    pub(crate) fn witnessed(&self) -> Witnessed {
        let newest = *self.checkpoints.last().unwrap();
        Witnessed { audit_public_key: Some(self.public_key()), checkpoints: vec![newest] }
    }

    /// As the parent keeps it, so many entries to a file.
    pub(crate) fn write(&self, folder: &Path, per_file: usize) {
        let folder = folder.join(KEY_STORE.to_string()).join(self.id.boot_id.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        for (number, entries) in self.entries.chunks(per_file).enumerate() {
            let framed = |entry: &Vec<u8>| [&u32::try_from(entry.len()).unwrap().to_be_bytes(), &entry[..]].concat();
            let bytes: Vec<u8> = entries.iter().flat_map(framed).collect();
            std::fs::write(folder.join(format!("{:016}.log", number * per_file)), bytes).unwrap();
        }
        let notes: String = self.checkpoints.iter().map(|checkpoint| checkpoint.sign(&self.key) + "\n").collect();
        std::fs::write(folder.join("checkpoints"), notes).unwrap();
    }
}
