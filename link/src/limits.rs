//! Every bound on what crosses the link, each with its source.

use core::time::Duration;

// --- Addresses ----------------------------------------------------------------------------------------------------------

/// Bytes of a Unix socket's path: `sun_path` has 108 with the closing NUL (unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;
/// Bytes of an address as text: the longest scheme, a path and a port.
pub const ADDRESS_TEXT_MAX: usize = SOCKET_PATH_MAX + 32;
/// Bytes of the answer line in the hybrid protocol: `OK `, a port of at most 10 digits, the line feed, and slack.
pub const HYBRID_ANSWER_MAX: usize = 32;
/// Characters of an egress destination: a host name (253, RFC 1035 section 2.3.4), a colon, a port of 5 digits.
pub const DESTINATION_MAX: usize = 259;

/// Pause before a Unix socket is tried again whose queue is full; whoever accepts takes thousands in a second.
pub const QUEUE_PAUSE: Duration = Duration::from_millis(1);

// --- Frames -------------------------------------------------------------------------------------------------------------

/// Bytes that a frame's length takes.
pub const FRAME_HEADER_LEN: usize = 4;
/// Bytes reserved at a time while a frame arrives, so that a claimed length alone costs no memory.
pub const FRAME_CHUNK: usize = 64 * 1024;
/// Bytes of a frame from the enclave to the parent. The largest is a status: [`KEY_STORES_MAX`] entries of at most 800.
pub const TO_PARENT_FRAME_MAX: usize = 1024 * 1024;
/// Bytes of a frame from the parent to the enclave. The largest is the list of manifests in base64.
pub const TO_ENCLAVE_FRAME_MAX: usize = 16 * 1024 * 1024;
/// Bytes of an egress request or answer: a destination and its framing.
pub const EGRESS_FRAME_MAX: usize = 512;

// --- Audit ---------------------------------------------------------------------------------------------------------------

/// Bytes of a frame of the audit connection: some thousand entries, so that frames and system calls cost little beside them.
pub const AUDIT_FRAME_MAX: usize = 1024 * 1024;
/// Bytes of one entry of an audit log, which the parent never looks into: twice the 16 KiB of the largest record, for what is
/// around it and for the entries that hold keys for many readers.
pub const AUDIT_ENTRY_MAX: usize = 32 * 1024;
/// Bytes before each entry: its length.
pub const AUDIT_ENTRY_HEADER_LEN: usize = 4;
/// Bytes of a signed checkpoint: two names of at most 120 characters, numbers, and a signature in base64 make about 450.
pub const AUDIT_CHECKPOINT_MAX: usize = 1024;

// --- Control messages ---------------------------------------------------------------------------------------------------

/// Key stores that one enclave serves.
pub const KEY_STORES_MAX: usize = 1024;
/// Bytes of one signed manifest; the bound of the manifest format itself.
pub const MANIFEST_MAX: usize = 64 * 1024;
/// Bytes of all manifests together: what base64 (4 for 3) leaves of [`TO_ENCLAVE_FRAME_MAX`], and slack for framing.
pub const MANIFESTS_TOTAL_MAX: usize = 11 * 1024 * 1024;
/// Bytes of the static configuration; ours is below 16 KiB. JSON escapes at worst six bytes for one.
pub const STATIC_CONFIGURATION_MAX: usize = 256 * 1024;
/// Characters of one log line from the enclave.
pub const LOG_TEXT_MAX: usize = 1024;
/// Characters of a reason (why a key store is not served, why a connection was refused).
pub const REASON_MAX: usize = 256;
/// Counters in one status.
pub const COUNTERS_MAX: usize = 128;
/// Characters of a counter's name.
pub const COUNTER_NAME_MAX: usize = 64;
/// Key stores in one snapshot of metrics: half of [`KEY_STORES_MAX`], at 1,350 bytes each, and [`METRICS_LEASES_MAX`] leases fill
/// some five sixths of [`TO_PARENT_FRAME_MAX`].
pub const METRICS_KEY_STORES_MAX: usize = 512;
/// Leases in one snapshot of metrics, of all its key stores together: four custodians each.
pub const METRICS_LEASES_MAX: usize = 2048;
/// Characters of a program's version.
pub const VERSION_MAX: usize = 32;
/// Characters of an operation's and of an error's name; the longest of the XKS API has 29.
pub const REQUEST_NAME_MAX: usize = 64;
/// Characters of a `kmsRequestId` in a log line: KMS's have 36; the enclave cuts them at this length.
pub const REQUEST_ID_MAX: usize = 64;
/// Requests that an enclave tells one by one in a second, whatever the parent orders: at some 400 bytes each, few beside its metrics.
pub const TRACES_PER_SECOND_MAX: usize = 100;
/// Bytes of an AWS access key id or secret access key (API reference of IAM: at most 128).
pub const AWS_CREDENTIAL_MAX: usize = 128;
/// Bytes of a session token, for which AWS sets no bound; as much as the enclave puts into a header.
pub const AWS_SESSION_TOKEN_MAX: usize = 8 * 1024;

// --- Time ---------------------------------------------------------------------------------------------------------------

/// How often the enclave sends a status when nothing changed.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Age at which the parent no longer believes a status: a few lost intervals, and below a load balancer's two probes.
pub const STATUS_FRESH: Duration = Duration::from_secs(5);
/// How often the enclave sends a snapshot of its metrics: below the 15 s at which Prometheus asks by default.
pub const METRICS_INTERVAL: Duration = Duration::from_secs(5);
/// Age at which the parent no longer shows a snapshot: a few lost intervals.
pub const METRICS_FRESH: Duration = Duration::from_secs(20);
/// How long either side waits for the first message of a new control or egress connection.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
