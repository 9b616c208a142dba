//! Round trips over generated values: what is written is read as it was, what is read has one way to be written, and a changed
//! byte is refused or read as something else.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test code"
)]

#[path = "properties/keystore.rs"]
mod keystore;
#[path = "properties/messages.rs"]
mod messages;
#[path = "properties/names.rs"]
mod names;
#[path = "properties/parts.rs"]
mod parts;
#[path = "properties/sigv4.rs"]
mod sigv4;
#[path = "properties/xks.rs"]
mod xks;
