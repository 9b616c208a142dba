//! The cases of a comparison on a local system, and what is expected of each.

use serde::Serialize;

use super::compare::Kind;
use super::mix::{Mix, Operation};
use super::pace::Phase;
use super::profile::Shape;
use super::wire::{Http, Reuse};

/// One kind of request over one kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// Encrypt with CDIV, 32 bytes of plaintext, 100 of AAD
    Encrypt,
    /// Decrypt of the same
    Decrypt,
    /// Encrypt with CDIV, 4,300 bytes of plaintext, 8,192 of AAD
    EncryptLarge,
    /// Decrypt of the same
    DecryptLarge,
    /// Encrypt over HTTP/2
    #[value(name = "encrypt-http2")]
    #[serde(rename = "encrypt-http2")]
    EncryptHttp2,
    /// Decrypt over HTTP/2
    #[value(name = "decrypt-http2")]
    #[serde(rename = "decrypt-http2")]
    DecryptHttp2,
    /// Decrypt with a connection and a full handshake for each
    NewConnections,
    /// Decrypt with a connection for each, and resumed sessions
    ResumedConnections,
    /// Decrypt at 1,800 a second, the most that KMS sends unless told otherwise
    #[value(name = "rate-1800")]
    #[serde(rename = "rate-1800")]
    Rate1800,
    /// Decrypt at 10,000 a second
    #[value(name = "rate-10000")]
    #[serde(rename = "rate-10000")]
    Rate10000,
}

impl Case {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 10] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::EncryptLarge,
        Self::DecryptLarge,
        Self::EncryptHttp2,
        Self::DecryptHttp2,
        Self::NewConnections,
        Self::ResumedConnections,
        Self::Rate1800,
        Self::Rate10000,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::EncryptLarge => "encrypt-large",
            Self::DecryptLarge => "decrypt-large",
            Self::EncryptHttp2 => "encrypt-http2",
            Self::DecryptHttp2 => "decrypt-http2",
            Self::NewConnections => "new-connections",
            Self::ResumedConnections => "resumed-connections",
            Self::Rate1800 => "rate-1800",
            Self::Rate10000 => "rate-10000",
        }
    }

    /// The load of it: what is asked and how; how long and over how many connections stays as it is.
    #[must_use]
    pub fn shape(self, base: &Shape) -> Shape {
        let mut shape = base.clone();
        let encrypts = matches!(self, Self::Encrypt | Self::EncryptLarge | Self::EncryptHttp2);
        shape.mix = Mix::only(if encrypts { Operation::Encrypt } else { Operation::Decrypt });
        shape.phases = self.rate().map(|rate| Phase { rate, seconds: shape.duration_s }).into_iter().collect();
        shape.idle = 0;
        shape.sizes.cdiv = true;
        (shape.sizes.plaintext, shape.sizes.aad) = match self {
            Self::EncryptLarge | Self::DecryptLarge => (4_300, 8_192),
            _ => (32, 100),
        };
        shape.http = if matches!(self, Self::EncryptHttp2 | Self::DecryptHttp2) { Http::Two } else { Http::One };
        shape.reuse = match self {
            Self::NewConnections => Reuse::New,
            Self::ResumedConnections => Reuse::Resumed,
            _ => Reuse::Kept,
        };
        shape
    }

    /// Requests per second of the open loop; none is the closed loop.
    #[must_use]
    pub const fn rate(self) -> Option<f64> {
        match self {
            Self::Rate1800 => Some(1_800.0),
            Self::Rate10000 => Some(10_000.0),
            _ => None,
        }
    }

    /// How many times the ceiling's processor time a request in the enclave may take. Nothing is expected at a rate that leaves
    /// processors idle: waking up costs both much.
    #[must_use]
    pub const fn processor_at_most(self) -> Option<f64> {
        match self {
            Self::Encrypt => Some(1.8),
            Self::Decrypt => Some(1.65),
            Self::EncryptLarge | Self::DecryptLarge => Some(2.0),
            Self::EncryptHttp2 | Self::DecryptHttp2 => Some(1.6),
            Self::NewConnections | Self::ResumedConnections => Some(1.1),
            Self::Rate1800 | Self::Rate10000 => None,
        }
    }

    /// How long a request may take through parent and enclave, in microseconds.
    pub(super) fn latencies_at_most(self) -> Vec<(&'static str, Kind, f64)> {
        match self {
            Self::Rate1800 => vec![("p99", Kind::Percentile99, 1_000.0), ("p99.9", Kind::Permille999, 5_000.0)],
            Self::Rate10000 => vec![("p99", Kind::Percentile99, 5_000.0)],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_case_is_run_and_has_the_name_by_which_it_is_asked_for() {
        assert_eq!(Case::ALL.as_slice(), Case::value_variants());
        for case in Case::ALL {
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.name());
            assert_eq!(serde_json::json!(case), case.name());
            // Something is expected of each.
            assert!(case.processor_at_most().is_some() || !case.latencies_at_most().is_empty(), "{case:?}");
        }
    }
}
