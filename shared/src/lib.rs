//! Formats and proofs that every Holdfast program agrees on.
//!
//! Guarantees: nothing here does I/O, reads a clock or an environment, or starts a task; hostile bytes go in, proven facts
//! or an error that names the broken rule come out. Assumes: callers pass the time and the randomness. Refuses: every
//! encoding but the one that we would write ourselves (see [`cbor`]), and every input over its bound in [`limits`].

pub mod alarm;
pub mod api;
pub mod attestation;
pub mod audit;
pub mod block;
pub mod cbor;
pub mod channel;
pub mod cms;
pub mod command;
pub mod external_key;
pub mod hpke;
pub mod ids;
pub mod keystore;
pub mod labels;
pub mod limits;
pub mod manifest;
pub mod policy;
pub mod proof;
pub mod provenance;
pub mod query;
pub mod quorum;
pub mod register;
pub mod release;
pub mod renewal;
pub mod secrets;
pub mod sharing;
pub mod signature;
pub mod sigv4;
pub mod static_configuration;
pub mod xks;

/// SHA-256 of the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    digest(&ring::digest::SHA256, parts)
}

/// SHA-384 of the concatenation of `parts`.
#[must_use]
pub fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    digest(&ring::digest::SHA384, parts)
}

fn digest<const N: usize>(algorithm: &'static ring::digest::Algorithm, parts: &[&[u8]]) -> [u8; N] {
    let mut context = ring::digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; N];
    out.copy_from_slice(context.finish().as_ref());
    out
}
