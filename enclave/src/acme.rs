//! A client of ACME (RFC 8555), as far as one host name and TLS-ALPN-01 (RFC 8737) need it.
//!
//! ```text
//! AcmeClient::open ─▶ account ─begin─▶ Begun (a challenge) ─finish─▶ chain
//! ```
//!
//! Guarantees: everything goes over TLS to the one address of the directory, under the roots that the standing order names; every
//! message is signed with the account's key and names its own URL; answers are bounded in size, time and number, whatever the
//! server says. Assumes: the caller checks the chain against its own key, its host name and the order's issuing roots before it serves
//! it: then the worst that this server can do is to give none. Refuses: URLs of another host than the directory's, redirects, more than one authorization,
//! tokens that are not base64url. There is no way to the account's key but for signing.

mod client;
mod jws;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use client::{AcmeClient, AcmeError, Failure};
