//! External keys: their names, usage and state, and how they encrypt messages.
//!
//! Guarantees: material is held in [`crate::secrets::Secret`] and leaves it only into `ring`. Assumes: the caller supplies
//! fresh randomness for each message. Refuses: ciphertexts whose metadata is not in our format.

mod id;

pub use id::{ExternalKeyId, KeyState, KeyUsage};
