//! The program inside the Nitro Enclave: attestation, leases, TLS, and the XKS proxy.

pub mod clock;
