//! The protocol's formats: round trips, bindings, and vectors that must never change.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test code"
)]

#[path = "protocol/fixture.rs"]
mod fixture;

#[path = "protocol/bindings.rs"]
mod bindings;
#[path = "protocol/keystore.rs"]
mod keystore;
#[path = "protocol/manifest.rs"]
mod manifest;
#[path = "protocol/properties.rs"]
mod properties;
#[path = "protocol/vectors.rs"]
mod vectors;
