//! Formats and proofs that every Holdfast program agrees on.
//!
//! Guarantees: nothing here does I/O, reads a clock or an environment, or starts a task; hostile bytes go in, proven facts
//! or an error that names the broken rule come out. Assumes: callers pass the time and the randomness. Refuses: every
//! encoding but the one that we would write ourselves (see [`cbor`]), and every input over its bound in [`limits`].

pub mod attestation;
pub mod block;
pub mod cbor;
pub mod channel;
pub mod command;
pub mod external_key;
pub mod hpke;
pub mod ids;
pub mod keystore;
pub mod labels;
pub mod limits;
pub mod manifest;
pub mod query;
pub mod register;
pub mod release;
pub mod secrets;
pub mod signature;
pub mod sigv4;
pub mod xks;
