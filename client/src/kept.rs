//! Connections that are kept for the next request.
//!
//! Guarantees: no more than [`CONNECTIONS_KEPT_MAX`] wait; none is used that the other side may be about to end, so that a request is
//! not lost in between; those that are of no use end with the next request or answer; the certificate is looked at anew with each
//! connection, and none lives long. Assumes: the custodian ends connections at the ages in [`holdfast_shared::limits`], and not before.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_shared::limits::{CUSTODIAN_CONNECTION_IDLE_MS, CUSTODIAN_CONNECTION_LIFE_MS};
use tokio::time::Instant;

use crate::https::Connection;

/// One that holds a question open, and one that asks or tells. More are opened when they are needed, and not kept.
const CONNECTIONS_KEPT_MAX: usize = 2;
/// No request begins on an older one: three quarters of the life that the custodian gives it.
const AGE_MAX: Duration = Duration::from_millis(CUSTODIAN_CONNECTION_LIFE_MS / 4 * 3);
/// No request begins on one that has waited longer.
const IDLE_MAX: Duration = Duration::from_millis(CUSTODIAN_CONNECTION_IDLE_MS / 4 * 3);

/// A connection, and since when there is one.
pub(crate) struct Aged {
    pub(crate) connection: Connection,
    opened: Instant,
}

impl Aged {
    /// One that will have been opened by now.
    pub(crate) const fn new(connection: Connection, opened: Instant) -> Self {
        Self { connection, opened }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct KeptConnections(Mutex<Vec<(Aged, Instant)>>);

impl KeptConnections {
    /// Those that are of use; the others end, and hold no place at the custodian or at a relay any more.
    fn usable(&self) -> MutexGuard<'_, Vec<(Aged, Instant)>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(aged, since)| {
            aged.opened.elapsed() < AGE_MAX && since.elapsed() < IDLE_MAX && !aged.connection.is_closed()
        });
        kept
    }

    /// The one that was used last, if one is of use.
    pub(crate) fn take(&self) -> Option<Aged> {
        self.usable().pop().map(|(aged, _)| aged)
    }

    /// Keeps one whose last answer was taken as a whole.
    pub(crate) fn put(&self, aged: Aged) {
        let mut kept = self.usable();
        if kept.len() < CONNECTIONS_KEPT_MAX {
            kept.push((aged, Instant::now()));
        }
    }
}
