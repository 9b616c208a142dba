//! The custodian's time, behind one seam.
//!
//! Assumes: the custodian's owner keeps the host's clock right; challenges, leases and queries are judged by it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where the custodian reads the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// The host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock that shows no time at all accepts nothing: at the end of time every challenge, lease and query is stale.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(u64::MAX)
    }
}
