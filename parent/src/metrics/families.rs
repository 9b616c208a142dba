//! Every metric of the page: its name, kind and meaning. `docs/observability.md` has them as a table, which a test holds to this list.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric, with all its labels' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! families {
    ($($(#[doc = $help:literal])+ $id:ident: $kind:ident $name:literal [$($label:literal),*],)*) => {
        $(
            $(#[doc = $help])+
            pub(super) const $id: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: concat!($($help),+) };
        )*

        /// All but the parent's counters.
        pub(super) const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    /// The parent that answers: always 1.
    PARENT_INFO: Gauge "holdfast_parent_info" ["version"],
    /// Seconds since the parent started.
    PARENT_UPTIME: Gauge "holdfast_parent_uptime_seconds" [],
    /// Whether load balancers should send requests here.
    PARENT_READY: Gauge "holdfast_parent_ready" [],
    /// Connections of clients.
    PARENT_CONNECTIONS: Gauge "holdfast_parent_connections" [],
    /// Connections from the enclave to egress destinations.
    PARENT_EGRESS: Gauge "holdfast_parent_egress_connections" [],
    /// Audit logs that enclaves have open.
    PARENT_AUDIT_LOGS: Gauge "holdfast_parent_audit_logs" [],
    /// Bytes that the audit folder's file system has left. Absent while not known.
    PARENT_AUDIT_FREE: Gauge "holdfast_parent_audit_free_bytes" [],
    /// Whether the disk does not take audit entries.
    PARENT_AUDIT_FAILING: Gauge "holdfast_parent_audit_failing" [],
    /// Spans by what became of them: the collector took them, rejected them, could not be reached for too long (failed), or too many waited for it (dropped).
    PARENT_SPANS: Counter "holdfast_parent_trace_spans_total" ["outcome"],
    /// Whether an enclave is connected whose status is fresh.
    ENCLAVE_UP: Gauge "holdfast_enclave_up" ["slot"],
    /// Whether the enclave wants to be sent requests.
    ENCLAVE_READY: Gauge "holdfast_enclave_ready" ["slot"],
    /// The enclave that is connected: always 1.
    ENCLAVE_INFO: Gauge "holdfast_enclave_info" ["slot", "version"],
    /// Connections that the enclave has open.
    ENCLAVE_CONNECTIONS: Gauge "holdfast_enclave_connections" ["slot"],
    /// What the enclave counted that belongs to no key store; the events are those of docs/limits.md.
    ENCLAVE_EVENTS: Counter "holdfast_enclave_events_total" ["slot", "event"],
    /// Whether the enclave's clock agreed with the NSM when it was anchored last. While not, it is not ready.
    CLOCK_HEALTHY: Gauge "holdfast_enclave_clock_healthy" ["slot"],
    /// By how much clock and NSM disagreed when the clock was anchored last.
    CLOCK_DRIFT: Gauge "holdfast_enclave_clock_drift_seconds" ["slot"],
    /// How long ago the clock was anchored; this happens each minute.
    CLOCK_AGE: Gauge "holdfast_enclave_clock_anchor_age_seconds" ["slot"],
    /// Requests that wait for the NSM: the enclave's own, and those for the public proof.
    NSM_WAITING: Gauge "holdfast_enclave_nsm_waiting_requests" ["slot", "queue"],
    /// Bytes of audit entries that one key store may have waiting for the parent.
    AUDIT_SHARE: Gauge "holdfast_enclave_audit_queue_limit_bytes" ["slot"],
    /// Key stores beyond the 512 of which there are metrics.
    STORES_LEFT_OUT: Gauge "holdfast_enclave_key_stores_left_out" ["slot"],
    /// TLS handshakes that succeeded, the client's part included.
    HANDSHAKE: Histogram "holdfast_handshake_duration_seconds" ["slot"],
    /// Requests with a valid signature, by what they pass: body (it arrives), signature, parse, guard (block, lease, key, policy, limits), cipher (with making the answer), audit, total.
    STAGE: Histogram "holdfast_request_stage_duration_seconds" ["slot", "operation", "stage"],
    /// Whether the key store is served.
    STORE_SERVING: Gauge "holdfast_key_store_serving" ["slot", "key_store"],
    /// The version that is open.
    STORE_VERSION: Gauge "holdfast_key_store_version" ["slot", "key_store"],
    /// Until the first lease ends that serving needs.
    STORE_LEASE: Gauge "holdfast_key_store_lease_remaining_seconds" ["slot", "key_store"],
    /// Until a custodian's lease ends. The number is the custodian's place in the manifest, from 1.
    CUSTODIAN_LEASE: Gauge "holdfast_key_store_custodian_lease_remaining_seconds" ["slot", "key_store", "custodian"],
    /// How long a custodian's lease was when it was granted; 0 while it has granted none.
    CUSTODIAN_GRANTED: Gauge "holdfast_key_store_custodian_lease_granted_seconds" ["slot", "key_store", "custodian"],
    /// Until the certificate ends, on the attested clock.
    CERTIFICATE: Gauge "holdfast_key_store_certificate_remaining_seconds" ["slot", "key_store"],
    /// How long ago the oldest live SigV4 credential of the key store was made or imported. Absent while one has no date.
    CREDENTIAL_AGE: Gauge "holdfast_credential_age_seconds" ["slot", "key_store"],
    /// Bytes of audit entries that the parent has not stored.
    AUDIT_QUEUE: Gauge "holdfast_key_store_audit_queue_bytes" ["slot", "key_store"],
    /// Audit entries that too few custodians have witnessed.
    AUDIT_UNWITNESSED: Gauge "holdfast_key_store_audit_unwitnessed_entries" ["slot", "key_store"],
    /// How long the oldest of them has waited; 0 when there is none.
    AUDIT_UNWITNESSED_AGE: Gauge "holdfast_key_store_audit_unwitnessed_age_seconds" ["slot", "key_store"],
    /// Alarms that this enclave heard of when it told the home custodian who used keys, or that it raised itself while that one was away.
    ALARMS: Counter "holdfast_key_store_alarms_total" ["slot", "key_store", "kind"],
    /// Requests with a valid signature, by how they ended: success, or the error name of the XKS API. Of rarer errors there are series from the first such request on.
    REQUESTS: Counter "holdfast_key_store_requests_total" ["slot", "key_store", "operation", "outcome"],
    /// Requests without a valid signature, which anybody can send, by the error name that they were answered with.
    UNSIGNED: Counter "holdfast_key_store_unsigned_requests_total" ["slot", "key_store", "outcome"],
}
