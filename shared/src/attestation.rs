//! attestation.
