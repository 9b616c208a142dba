//! What the parent counts since it started.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $documentation:literal])+ $name:ident,)*) => {
        /// All counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $documentation])+ pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// Their values by name.
            pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.count()),)*])
            }

            /// The name of each, and what it counts.
            pub(crate) const DESCRIBED: &[(&str, &str)] =
                &[$((stringify!($name), concat!($($documentation),+)),)*];
        }
    };
}

counters! {
    /// Client connections accepted, refused ones included.
    ingress_accepted,
    /// Closed at once because `max_connections` were being relayed.
    ingress_over_cap,
    /// Closed for a newcomer while they sent nothing, because of `max_connections`.
    ingress_displaced,
    /// Closed because no first byte came in time.
    ingress_first_byte_timeout,
    /// Closed because the enclave did not take the connection.
    ingress_enclave_unreachable,
    /// Closed because nothing moved for too long.
    ingress_idle,
    /// Ended by a fault of the client's connection.
    ingress_broken,
    /// Bytes from clients to the enclave.
    ingress_bytes_to_enclave,
    /// Bytes from the enclave to clients.
    ingress_bytes_to_client,
    /// Failures to accept, for example for want of file descriptors; all listeners together.
    accept_failed,
    /// Connections, of clients and of egress, that ended by a failure of the relay itself, for example for want of kernel memory.
    relay_failed,
    /// Egress connections opened.
    egress_connected,
    /// Egress requests for a destination that is not on the list.
    egress_not_allowed,
    /// Egress requests whose destination has no address.
    egress_unresolvable,
    /// Egress requests whose destination took no connection.
    egress_unreachable,
    /// Egress requests beyond `egress.max_connections`.
    egress_busy,
    /// Egress connections whose request was not understood or did not come.
    egress_malformed,
    /// Bytes from the enclave to egress destinations.
    egress_bytes_to_destination,
    /// Bytes from egress destinations to the enclave.
    egress_bytes_to_enclave,
    /// Audit connections whose enclave said which one it is.
    audit_connected,
    /// Audit connections refused or ended for what they sent.
    audit_refused,
    /// Entries of audit logs that are on disk.
    audit_entries,
    /// Bytes of them.
    audit_bytes,
    /// Signed checkpoints that are on disk.
    audit_heads,
    /// Attempts to write that failed.
    audit_write_failed,
    /// Logs of which entries are missing that an enclave had been told are on disk.
    audit_gaps,
    /// Files that ended within an entry.
    audit_torn,
    /// Control, egress and audit connections from where no enclave of ours is.
    stranger_refused,
    /// Upgrades after which a new enclave had taken over.
    upgrade_done,
    /// Upgrades that failed; the old enclave went on.
    upgrade_failed,
    /// Enclaves that said hello.
    control_connected,
    /// Control connections refused or ended for what they sent.
    control_refused,
    /// Log lines of the enclave that were dropped because there were too many.
    enclave_log_dropped,
    /// Starts of an enclave, be it a process or by `nitro-cli`.
    enclave_started,
    /// Lists of manifests that were read and found changed.
    manifests_changed,
}
