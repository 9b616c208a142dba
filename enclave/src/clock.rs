//! The clock seam: what the enclave may know about time.
//!
//! Guarantees: nothing in the enclave asks the system for the time but an implementation of [`Clock`]. Assumes: the
//! implementation in use anchors `wall_ms` to NSM document timestamps (design, section 8), never to the parent.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub mod attested;

/// A source of time. Both readings are cheap: they are taken on every request.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since an arbitrary start, never going back. Leases and time limits are measured with it.
    fn monotonic_ms(&self) -> u64;

    /// Milliseconds since the Unix epoch, as attested. Certificates and signature dates are judged by it.
    fn wall_ms(&self) -> u64;

    /// Whether the last anchor agreed with the one before.
    fn is_healthy(&self) -> bool;
}

/// A clock that stands still until it is told otherwise, for tests.
///
/// A value, not a feature: the image's `main` names its own clock and never this one.
#[derive(Debug)]
pub struct SteppedClock {
    monotonic_ms: AtomicU64,
    start_wall_ms: u64,
    is_healthy: AtomicBool,
}

impl SteppedClock {
    /// A clock whose monotonic time is 0 and whose wall time is `wall_ms`.
    #[must_use]
    pub fn at(wall_ms: u64) -> Self {
        Self { monotonic_ms: AtomicU64::new(0), start_wall_ms: wall_ms, is_healthy: AtomicBool::new(true) }
    }

    /// Moves both readings forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.monotonic_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Calls itself healthy from now on, or not.
    pub fn set_healthy(&self, is_healthy: bool) {
        self.is_healthy.store(is_healthy, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn wall_ms(&self) -> u64 {
        self.start_wall_ms.saturating_add(self.monotonic_ms())
    }

    fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::SeqCst)
    }
}
