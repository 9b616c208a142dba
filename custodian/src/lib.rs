//! The external key custodian: it holds one share of each key store's root key and releases it, under a lease, to enclaves
//! that prove what they are.
//!
//! Guarantees, assumptions and refusals stand at the head of each module; [`service`] is where to start. The program is
//! [`program::run`]; everything else is a library, so that tests and the development kit drive the very same code.

pub mod alarms;
pub mod clock;
pub mod config;
pub mod http_api;
pub mod init;
pub mod kek;
pub mod program;
pub mod rate;
pub mod server;
pub mod service;
pub mod state;
pub mod store;
pub mod tls;
