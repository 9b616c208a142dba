//! The XKS proxy API on the wire: names, paths, requests, answers and errors.
//!
//! Guarantees: a value of a type in this module obeys the XKS Proxy API specification 1.0.3 (cited by section at each rule).
//! Assumes: signatures are checked elsewhere ([`crate::sigv4`]) before a body is parsed. Refuses: everything over its bound in
//! [`crate::limits`].

pub mod names;

pub use names::{HostName, PathPrefix};
