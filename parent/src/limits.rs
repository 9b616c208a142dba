//! The parent's own bounds, each with its reason. Those of the link are in [`holdfast_link::limits`].

use core::time::Duration;

use holdfast_link::limits::KEY_STORES_MAX;

/// Bytes of the configuration file; a real one is below 4 KiB.
pub const CONFIG_FILE_MAX: usize = 64 * 1024;
/// Destinations on the egress list: a few per custodian.
pub const EGRESS_ALLOW_MAX: usize = 1024;
/// The most connections that may be configured: each takes two file descriptors and, where a reader is slow, two buffers.
pub const CONNECTIONS_MAX: u32 = 65_536;
/// Egress connections that an enclave holds for each key store and custodian: one waits for news, one tells of the audit log.
pub const LINK_CONNECTIONS: usize = 2;
/// The longest duration that may be configured: a day.
pub const DURATION_MAX_MS: u64 = 86_400_000;
/// Bytes of the first read from a client, and held per direction of a connection while [`RELAY_HELD`] are held: one TLS record (RFC 8446
/// section 5.1: 2¹⁴) and its framing fit in two reads.
pub const RELAY_BUFFER: usize = 16 * 1024;
/// Bytes of a read otherwise: each relaying thread has one such buffer, and a direction may have to hold as much.
pub const RELAY_READ: usize = 64 * 1024;
/// Bytes of memory that the connections of one relaying thread hold before each may only add [`RELAY_BUFFER`].
pub const RELAY_HELD: usize = 16 * 1024 * 1024;
/// Bytes that a direction moves before the other connections of its thread have their turn.
pub const RELAY_TURN: usize = 256 * 1024;
/// Bytes that a read counts for at least: whoever makes reads short (with urgent data, say) gets 64 of them in a turn.
pub const RELAY_TURN_LEAST: usize = 4096;
/// Events that a relaying thread takes at once; what is more comes with the next call.
pub const RELAY_EVENTS: usize = 256;
/// Relaying threads: a message costs some 5 µs, so that these few are enough for several times what enclaves can answer.
pub const RELAY_THREADS_MAX: usize = 8;
/// How long the other direction may be silent once one has ended, and a responder may take nothing once the initiator has gone. An answer that is under way keeps moving.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(10);
/// How long we go on reading from a client after the enclave's last byte, so that no reset destroys that byte on its way.
pub const LINGER: Duration = Duration::from_secs(1);
/// Bytes that we read and throw away in that time.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Connections that wait to be accepted: what Linux allows unless told otherwise (`net.core.somaxconn`). When it is full the
/// kernel goes on with SYN cookies, so half-open connections cost it nothing.
pub const LISTEN_BACKLOG: u32 = 4096;
/// File descriptors for everything but connections of clients and of the enclave.
pub const FILES_SPARE: u64 = 256;
/// Pause after a failed accept: it fails when file descriptors are short, and trying at once would only burn time.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Egress requests beyond the cap that are still heard, so that they learn why; beyond these, connections just end.
pub const EGRESS_REFUSALS_MAX: usize = 16;
/// Idle time after which TCP keepalive probes a client or a destination: below the 350 s at which network load balancers
/// forget a flow.
pub const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// Pause between two probes that are not answered.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer after which a connection is over: two minutes after its last byte.
pub const TCP_KEEPALIVE_RETRIES: u32 = 4;

/// Control connections that have not said hello yet. One enclave needs one; a restart briefly two.
pub const HANDSHAKES_MAX: usize = 8;
/// How long one message to the enclave may take to be written; a live enclave reads at once.
pub const CONTROL_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Log lines of the enclave that may come at once.
pub const LOG_BURST: u32 = 200;
/// Log lines of the enclave per second in the long run.
pub const LOG_PER_SECOND: u32 = 50;

/// Audit connections at a time: one of each enclave, and those that take the place of others.
pub const AUDIT_CONNECTIONS_MAX: u32 = 8;
/// Audit logs that one connection may open: key stores come and go while an enclave runs.
pub const AUDIT_LOGS_MAX: usize = 4 * KEY_STORES_MAX;
/// Frames of an audit connection that wait to be looked at, of [`AUDIT_FRAME_MAX`](holdfast_link::limits::AUDIT_FRAME_MAX) each.
pub const AUDIT_QUEUE_FRAMES: usize = 8;
/// Bytes of entries that wait for the disk before a connection is not read any more: half of what an enclave keeps for all its key
/// stores (64 MiB), so that one whose log cannot be written does not stop the others.
pub const AUDIT_PENDING_MAX: usize = 32 * 1024 * 1024;
/// Bytes of entries that nobody waits for and that are written before their time: some 10,000 requests.
pub const AUDIT_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long entries that nobody waits for may wait to be written, and those that could not be written to be tried again. An enclave that
/// has little room left for them says that they are awaited.
pub const AUDIT_BATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Logs for which a connection waits for the disk at the same time: disks and file systems bring several files to disk in little more time
/// than one.
pub const AUDIT_SYNC_THREADS: usize = 4;
/// How often the newest signed checkpoints are written, a boot's last one aside. Enclaves sign one each second; custodians have them all.
pub const AUDIT_HEADS_INTERVAL: Duration = Duration::from_mins(1);
/// How long what came over audit connections may take to be written at the program's end.
pub const AUDIT_END_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file of entries after which the next one begins: at least one frame, at most what a tool reads in a go.
pub const AUDIT_ROTATE_BYTES: core::ops::RangeInclusive<u64> = 1024 * 1024..=1024 * 1024 * 1024;
/// Days that audit logs may be kept: a century.
pub const AUDIT_KEEP_DAYS_MAX: u32 = 36_500;
/// How often the free space is looked at, and what is too old is deleted.
pub const AUDIT_CARE_INTERVAL: Duration = Duration::from_mins(1);

/// How often credentials of the instance's role are fetched. New ones are there at least five minutes before the old ones end (Amazon
/// EC2 User Guide, "Retrieve security credentials from instance metadata"), so that each is seen two times in that time.
pub const METADATA_POLL: Duration = Duration::from_mins(2);
/// First and longest pause after they could not be fetched; the service limits requests, and each fetch is three.
pub const METADATA_RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));
/// How long one fetch may take; the service is on the machine itself.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer of the service, and of its head: a session token ([`AWS_SESSION_TOKEN_MAX`](holdfast_link::limits)) and as much again.
pub const METADATA_ANSWER_MAX: usize = 16 * 1024;
/// Bytes of the service's own token; a real one has 56.
pub const METADATA_TOKEN_MAX: usize = 1024;
/// Characters of a role's name (IAM API reference, `CreateRole`).
pub const ROLE_NAME_MAX: usize = 64;

/// Traces that wait for the collector: those of some seconds, of which each may become seven spans.
pub const TRACES_WAITING_MAX: usize = 1024;
/// Traces in one request to the collector: below 300 KB, where collectors take 20 MiB by default.
pub const TRACES_BATCH: usize = 100;
/// How long is waited for more, once there is a trace.
pub const TRACES_PAUSE: Duration = Duration::from_secs(1);
/// How often a batch is sent at most.
pub const TRACES_ATTEMPTS: u32 = 5;
/// First and longest pause before it is sent again, whatever the collector asks for.
pub const TRACES_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Bytes of the head of a collector's answer.
pub const COLLECTOR_HEAD_MAX: usize = 16 * 1024;
/// Bytes of its body, which has one number and one message of interest.
pub const COLLECTOR_ANSWER_MAX: usize = 16 * 1024;

/// How often the folder of manifests is looked at.
pub const MANIFEST_POLL: Duration = Duration::from_secs(1);

/// Connections at `ready_listen`: load balancers probe from a few addresses.
pub const READY_CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head at `ready_listen`.
pub const READY_HEAD_MAX: usize = 8 * 1024;
/// How long a request's head may take.
pub const READY_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection at `ready_listen` lives.
pub const READY_CONNECTION_MAX: Duration = Duration::from_secs(10);

/// Shortest and longest pause before the enclave's process is started again.
pub const RESTART_PAUSE: core::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(30);
/// A process that ran this long counts as healthy: the next pause is the shortest again.
pub const RESTART_HEALTHY: Duration = Duration::from_mins(1);
/// How long the enclave's process may take to end before it is killed.
pub const ENCLAVE_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a new enclave may go on being reached and accepting before the old one is told to finish: what was under way to
/// the old one when the new one took over must be accepted first.
pub const SWITCH_PAUSE: Duration = Duration::from_secs(1);
/// How long the old enclave may take to finish what is under way, beyond its own limits (3 s for clients to be told, 5 s for
/// requests that run).
pub const OLD_ENCLAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// vCPUs of an enclave: more than the largest instance has.
pub const ENCLAVE_CPUS_MAX: u32 = 1024;
/// Memory of an enclave, in MiB: 4 TiB, more than an instance that supports enclaves has.
pub const ENCLAVE_MEMORY_MIB_MAX: u64 = 4 * 1024 * 1024;
/// Characters of what enclaves' names begin with; `nitro-cli` itself sets no limit.
pub const ENCLAVE_NAME_MAX: usize = 64;
/// Bytes of each output of `nitro-cli` that are read: a description of an enclave has about 1,500.
pub const NITRO_OUTPUT_MAX: usize = 256 * 1024;
/// How long `nitro-cli run-enclave` may take: it copies the image and allocates the memory, and waits for the boot.
pub const NITRO_RUN_TIMEOUT: Duration = Duration::from_mins(2);
/// How long any other command of `nitro-cli` may take; describing an image reads all of it.
pub const NITRO_TIMEOUT: Duration = Duration::from_secs(30);
/// How often `nitro-cli` is asked whether an enclave still runs.
pub const NITRO_POLL: Duration = Duration::from_secs(2);
/// How often it is tried to see that no enclave is left where none is to run any more. Unless `nitro-cli` hangs, this is over long before
/// systemd loses patience (`TimeoutStopSec` of the unit); what is left then is found at the next start.
pub const NITRO_CLEAR_ATTEMPTS: u32 = 3;
/// Bytes of the files of the system that the check reads: `/etc/nitro_enclaves/allocator.yaml` and those in `/sys`.
pub const SYSTEM_FILE_MAX: usize = 64 * 1024;
