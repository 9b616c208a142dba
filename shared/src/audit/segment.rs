//! The key of a segment of the log: records are encrypted under it, and it is encrypted to each reader.
//!
//! ```text
//! nonce = 0x00000000 ‖ index of the leaf (8 bytes, big endian)
//! AAD   = label ‖ 0x00 ‖ key store id ‖ boot id ‖ index, each behind its length
//! ```
//! Each segment of each boot has a key of its own and each leaf its own index, so no nonce is used twice under a key.
//!
//! Guarantees: a record opens at the index, in the boot and in the key store for which it was sealed, and nowhere else; a segment's key
//! and its key schedule are overwritten on drop. Assumes: the key was drawn at random for this segment alone, and each index is sealed
//! once.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::LogId;
use super::entry::{Entry, SealedKey, Segment};
use super::record::Record;
use super::settings::Terms;
use crate::cbor::{self, DecodeError};
use crate::hpke;
use crate::labels;
use crate::secrets::{Secret, with_swept_stack};

/// Why a segment's key or a record could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Opened, and not a record.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No reader has a key that is a point of the curve.
    #[error("audit segment: nobody could read it")]
    NoReader,
    /// The key was sealed to others, or for another log or segment.
    #[error("audit segment: was not encrypted to this key")]
    NotAReader,
    /// Another key, log or index, or changed bytes.
    #[error("audit record: does not open at this place")]
    OpenFailed,
    /// The cipher refused.
    #[error("audit record: encryption failed")]
    SealFailed,
}

/// Bytes of an entry of the usual size.
const USUAL_LEN: usize = 512;
/// Bytes of an AES-256-GCM tag.
const TAG_LEN: usize = 16;

/// The key of one segment.
#[derive(Debug)]
pub struct SegmentKey {
    secret: Secret<32>,
    schedule: Option<Schedule>,
}

/// A key schedule, which takes longer to make than a record to encrypt. *ring* zeroizes none, so it is overwritten here.
struct Schedule(Box<LessSafeKey>);

impl Schedule {
    fn of(secret: &Secret<32>) -> Option<Self> {
        // Making it leaves copies on the stack. Using it does not: it is read where it is.
        with_swept_stack(|| Some(Self(Box::new(expand(secret.expose())?))))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        if let Some(blank) = expand(&[0; 32]) {
            *self.0 = blank;
            // So that the compiler does not leave out what nobody reads.
            core::hint::black_box(&self.0);
        }
    }
}

impl core::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Schedule(..)")
    }
}

fn expand(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

impl SegmentKey {
    /// Takes over fresh randomness.
    #[must_use]
    pub fn draw(secret: Secret<32>) -> Self {
        let schedule = Schedule::of(&secret);
        Self { secret, schedule }
    }

    /// The entry that hands the key to `readers`. One whose key is no point of the curve could read nothing and is left out.
    ///
    /// # Errors
    /// [`SegmentError::NoReader`] if none is left.
    pub fn seal_to(
        &self,
        readers: &[hpke::PublicKey],
        log: &LogId,
        number: u32,
        terms: Terms,
    ) -> Result<Entry, SegmentError> {
        let seal = |reader: &hpke::PublicKey| {
            let fingerprint = fingerprint(reader);
            let (sealed, _) = hpke::seal(reader, &info(log, number, &fingerprint), &[], self.secret.expose()).ok()?;
            Some(SealedKey { reader: fingerprint, sealed })
        };
        let keys: Vec<SealedKey> = readers.iter().filter_map(seal).collect();
        if keys.is_empty() {
            return Err(SegmentError::NoReader);
        }
        Ok(Entry::Segment(Segment { number, terms, keys }))
    }

    /// Reader: the key of a segment of `log`.
    ///
    /// # Errors
    /// [`SegmentError::NotAReader`].
    pub fn open(segment: &Segment, log: &LogId, reader: &hpke::PrivateKey) -> Result<Self, SegmentError> {
        let fingerprint = fingerprint(reader.public_key());
        let own = segment.keys.iter().find(|key| key.reader == fingerprint).ok_or(SegmentError::NotAReader)?;
        let (bytes, _) = hpke::open(reader, &info(log, segment.number, &fingerprint), &[], &own.sealed)
            .map_err(|_| SegmentError::NotAReader)?;
        Secret::fill_with(|key| {
            if bytes.len() != key.len() {
                return Err(SegmentError::NotAReader);
            }
            key.copy_from_slice(&bytes);
            Ok(())
        })
        .map(Self::draw)
    }

    /// The leaf at `index` that holds `record`: the encoding of an [`Entry::Sealed`].
    ///
    /// # Errors
    /// [`SegmentError::SealFailed`].
    pub fn seal_record(&self, log: &LogId, index: u64, record: &Record) -> Result<Vec<u8>, SegmentError> {
        self.seal(log, index, Unsealed::of(record)?)
    }

    /// The same, of a record that was encoded before.
    ///
    /// # Errors
    /// [`SegmentError::SealFailed`].
    pub fn seal(&self, log: &LogId, index: u64, Unsealed(mut leaf): Unsealed) -> Result<Vec<u8>, SegmentError> {
        let plaintext = leaf.get_mut(HEAD_MAX..).ok_or(SegmentError::SealFailed)?;
        let schedule = self.schedule.as_ref().ok_or(SegmentError::SealFailed)?;
        let sealed = schedule.0.seal_in_place_separate_tag(nonce(index), Aad::from(aad(log, index)), plaintext);
        leaf.extend_from_slice(sealed.map_err(|_| SegmentError::SealFailed)?.as_ref());
        let head = head(leaf.len().saturating_sub(HEAD_MAX)).ok_or(SegmentError::SealFailed)?;
        drop(leaf.splice(..HEAD_MAX, head));
        Ok(leaf)
    }

    /// Reader: the record that [`Entry::Sealed`] holds at `index`.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn open_record(&self, log: &LogId, index: u64, sealed: &[u8]) -> Result<Record, SegmentError> {
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let schedule = self.schedule.as_ref().ok_or(SegmentError::OpenFailed)?;
        let plaintext = schedule.0.open_in_place(nonce(index), Aad::from(aad(log, index)), &mut buffer);
        Ok(cbor::decode(plaintext.map_err(|_| SegmentError::OpenFailed)?)?)
    }
}

/// A record that is encoded where it will be encrypted: each copy would be a cost of every request. How long its leaf will be is known before
/// an index, and so a nonce, is used for it.
pub struct Unsealed(Vec<u8>);

impl core::fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Unsealed({} bytes)", self.0.len())
    }
}

impl Unsealed {
    /// Of a record.
    ///
    /// # Errors
    /// [`SegmentError::SealFailed`].
    pub fn of(record: &Record) -> Result<Self, SegmentError> {
        let mut leaf = Vec::with_capacity(USUAL_LEN);
        leaf.resize(HEAD_MAX, 0);
        minicbor::encode(record, &mut leaf).map_err(|_| SegmentError::SealFailed)?;
        Ok(Self(leaf))
    }

    /// Bytes that its leaf has at most.
    #[must_use]
    pub const fn leaf_len_max(&self) -> usize {
        self.0.len().saturating_add(TAG_LEN)
    }
}

/// Bytes of an [`Entry::Sealed`] before what is sealed, at most: two arrays, the kind, and a length of 16 bits.
const HEAD_MAX: usize = 6;

/// The encoding of an [`Entry::Sealed`] up to the bytes that it holds.
fn head(sealed_len: usize) -> Option<Vec<u8>> {
    let mut encoder = minicbor::Encoder::new(Vec::with_capacity(HEAD_MAX));
    encoder.array(2).ok()?.u8(2).ok()?.array(1).ok()?.bytes_len(u64::try_from(sealed_len).ok()?).ok()?;
    Some(encoder.into_writer())
}

/// How a reader's key is named in a segment.
#[must_use]
pub fn fingerprint(reader: &hpke::PublicKey) -> [u8; 32] {
    crate::sha256(&[&reader.0])
}

fn info(log: &LogId, number: u32, reader: &[u8; 32]) -> Vec<u8> {
    hpke::bind(
        labels::AUDIT_SEGMENT,
        &[log.key_store_id.as_bytes(), log.boot_id.as_bytes(), &number.to_be_bytes(), reader],
    )
}

fn nonce(index: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(low) = bytes.last_chunk_mut::<8>() {
        *low = index.to_be_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

fn aad(log: &LogId, index: u64) -> Vec<u8> {
    hpke::bind(labels::AUDIT_RECORD, &[log.key_store_id.as_bytes(), log.boot_id.as_bytes(), &index.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use minicbor::bytes::ByteVec;

    use super::*;
    use crate::audit::{AuditSettings, Event, Operation, RequestRecord};
    use crate::hpke::PrivateKey;
    use crate::ids::{BootId, KeyStoreId};
    use crate::limits::METADATA_TEXT_MAX;

    const LOG: LogId = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };

    fn key() -> SegmentKey {
        SegmentKey::draw(Secret::take(&mut [9; 32]))
    }

    fn record() -> Record {
        Record { at_ms: 5, what: Event::Setting { settings: Some(AuditSettings::default()) } }
    }

    /// What the leaf of a record holds; the leaf is the one encoding of its entry.
    fn sealed(leaf: &[u8]) -> ByteVec {
        let Entry::Sealed(sealed) = cbor::decode(leaf).unwrap() else { panic!("{leaf:?}") };
        sealed
    }

    #[test]
    fn a_record_opens_at_its_own_place_only() {
        let bytes = sealed(&key().seal_record(&LOG, 7, &record()).unwrap());
        assert_eq!(key().open_record(&LOG, 7, &bytes), Ok(record()));
        let elsewhere = [
            (LOG, 8),
            (LogId { boot_id: BootId([3; 16]), ..LOG }, 7),
            (LogId { key_store_id: KeyStoreId([3; 32]), ..LOG }, 7),
        ];
        for (log, index) in elsewhere {
            assert_eq!(key().open_record(&log, index, &bytes), Err(SegmentError::OpenFailed));
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(key().open_record(&LOG, 7, &changed), Err(SegmentError::OpenFailed), "byte {at}");
        }
        let other = SegmentKey::draw(Secret::take(&mut [8; 32]));
        assert_eq!(other.open_record(&LOG, 7, &bytes), Err(SegmentError::OpenFailed));
        assert_eq!(key().open_record(&LOG, 7, &[]), Err(SegmentError::OpenFailed));
    }

    #[test]
    fn a_leaf_of_each_length_is_the_encoding_of_its_entry() {
        for length in [0, 1, 20, 180, 190, 200, 210, 220, 230, 240, 250, METADATA_TEXT_MAX] {
            let mut request = RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap());
            request.principal = Some("p".repeat(length));
            let record = Record { at_ms: 5, what: Event::Request(Box::new(request)) };
            let leaf = key().seal_record(&LOG, 7, &record).unwrap();
            assert_eq!(key().open_record(&LOG, 7, &sealed(&leaf)), Ok(record), "{length}");
        }
    }

    /// Made by `tests/vectors/audit/make.py`, which shares no code with us.
    #[test]
    fn a_record_written_by_others_opens() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/audit/record.json")).unwrap();
        let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
        let log = LogId {
            key_store_id: vector["key_store_id"].as_str().unwrap().parse().unwrap(),
            boot_id: vector["boot_id"].as_str().unwrap().parse().unwrap(),
        };
        let key = SegmentKey::draw(Secret::take(&mut bytes("segment_key").try_into().unwrap()));
        let index = vector["index"].as_u64().unwrap();
        let record = Record { at_ms: 1_790_000_000_000, what: Event::Uncounted { refused_unauthenticated: 3 } };
        assert_eq!(cbor::encode(&record).as_slice(), bytes("record"));
        assert_eq!(key.open_record(&log, index, &bytes("sealed")), Ok(record.clone()));
        assert_eq!(sealed(&key.seal_record(&log, index, &record).unwrap()).as_slice(), bytes("sealed"));
    }

    #[test]
    fn a_segment_opens_for_its_readers_in_its_log_only() {
        let (alice, bob, eve) =
            (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let nobody = hpke::PublicKey([4; 97]);
        let readers = [*alice.public_key(), nobody, *bob.public_key()];
        let Entry::Segment(segment) = key().seal_to(&readers, &LOG, 3, Terms::DEFAULT).unwrap() else {
            panic!("not a segment");
        };
        assert_eq!(segment.keys.len(), 2, "whose key is no point is left out");
        for reader in [&alice, &bob] {
            assert_eq!(SegmentKey::open(&segment, &LOG, reader).unwrap().secret, key().secret);
        }
        let refused = |segment: &Segment, log: &LogId, reader| SegmentKey::open(segment, log, reader).err();
        assert_eq!(refused(&segment, &LOG, &eve), Some(SegmentError::NotAReader));
        let other = LogId { boot_id: BootId([3; 16]), ..LOG };
        assert_eq!(refused(&segment, &other, &alice), Some(SegmentError::NotAReader));
        let renumbered = Segment { number: 4, ..segment };
        assert_eq!(refused(&renumbered, &LOG, &alice), Some(SegmentError::NotAReader));
        assert_eq!(key().seal_to(&[nobody], &LOG, 0, Terms::DEFAULT), Err(SegmentError::NoReader));
    }
}
