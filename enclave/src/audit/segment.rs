//! The key of the next segment, and to whom it is encrypted.

use holdfast_shared::audit::settings::readers;
use holdfast_shared::audit::{AuditSettings, Entry, LogId, SegmentError, SegmentKey, Terms};
use holdfast_shared::hpke;
use holdfast_shared::manifest::Administrator;
use holdfast_shared::secrets::Secret;

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readers(Vec<hpke::PublicKey>);

impl Readers {
    /// Of a version with these settings under a manifest with these administrators.
    #[must_use]
    pub fn of(settings: Option<&AuditSettings>, administrators: &[Administrator]) -> Self {
        Self(readers(settings, administrators))
    }

    /// How many.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// A key that was encrypted to its readers and is not in use yet.
#[derive(Debug)]
pub struct NextSegment {
    pub(super) number: u32,
    pub(super) key: SegmentKey,
    pub(super) entry: Entry,
    pub(super) readers: Readers,
    pub(super) terms: Terms,
}

impl NextSegment {
    /// Encrypts fresh randomness to the readers. That takes a while.
    ///
    /// # Errors
    /// When nobody could read it.
    pub fn seal(
        drawn: Secret<32>,
        (log, number): (&LogId, u32),
        readers: Readers,
        terms: Terms,
    ) -> Result<Self, SegmentError> {
        let key = SegmentKey::draw(drawn);
        let entry = key.seal_to(&readers.0, log, number, terms)?;
        Ok(Self { number, key, entry, readers, terms })
    }

    /// How many can read it.
    pub(crate) fn readers(&self) -> usize {
        if let Entry::Segment(segment) = &self.entry { segment.keys.len() } else { 0 }
    }
}
