//! The data plane from outside: precedence of errors, TLS, HTTP, and every answer of the API on a real connection.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops where it fails, in its helpers too"
)]

mod audit;
mod bodies;
mod bytes;
mod directory;
mod fixture;
mod floods;
mod frames;
mod precedence;
mod proof;
mod raw;
mod server;
mod specification;
mod targets;
mod tls;
mod wire;
