//! The data plane from outside: precedence of errors, TLS, HTTP, and every answer of the API on a real connection.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod directory;
mod fixture;
mod precedence;
mod raw;
mod server;
mod tls;
mod wire;
