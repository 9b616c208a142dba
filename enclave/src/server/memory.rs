//! Memory that requests hold before anything is known of who sends them.
//!
//! Guarantees: all requests whose bodies are being read hold a bounded number of bytes together, so that strangers cannot
//! use up the enclave's memory, and with it its keys. Refuses: more, with 429 ("unable to keep up", specification, section
//! "Error codes").

use holdfast_shared::xks::XksError;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::xks::BUSY;

/// The bytes that are left, one permit each.
pub(super) struct RequestMemory(Semaphore);

/// What one request holds of them, until dropped.
pub(super) struct Share<'m> {
    memory: &'m Semaphore,
    held: Option<SemaphorePermit<'m>>,
}

impl RequestMemory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)))
    }

    /// A share of nothing.
    pub(super) fn share(&self) -> Share<'_> {
        Share { memory: &self.0, held: None }
    }
}

impl Share<'_> {
    /// Takes more, if that much is left.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), XksError> {
        let more = u32::try_from(bytes).map_err(|_| BUSY)?;
        let more = self.memory.try_acquire_many(more).map_err(|_| BUSY)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}
