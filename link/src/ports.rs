//! Places of a Nitro enclave and its parent on vsock: those that AWS fixed, and ours.

/// The parent's CID, fixed by Nitro.
pub const PARENT_CID: u32 = 3;
/// Any CID: where a listener listens.
pub const ANY_CID: u32 = u32::MAX;
/// Where Nitro's tools wait for the heartbeat.
pub const HEARTBEAT: u32 = 9000;
/// Where the parent serves the control connection.
pub const CONTROL: u32 = 9001;
/// Where the parent serves egress.
pub const EGRESS: u32 = 9002;
/// Where the parent takes audit connections.
pub const AUDIT: u32 = 9003;
/// Where the enclave takes KMS's connections.
pub const INGRESS: u32 = 8443;
