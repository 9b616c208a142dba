//! The cases of a comparison on a local system, and what is expected of each.

use serde::Serialize;

use super::mix::{Mix, Operation};
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
}

impl Case {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::EncryptLarge,
        Self::DecryptLarge,
        Self::EncryptHttp2,
        Self::DecryptHttp2,
        Self::NewConnections,
        Self::ResumedConnections,
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
        }
    }

    /// The load of it: what is asked and how; how long and over how many connections stays as it is.
    #[must_use]
    pub fn shape(self, base: &Shape) -> Shape {
        let mut shape = base.clone();
        let encrypts = matches!(self, Self::Encrypt | Self::EncryptLarge | Self::EncryptHttp2);
        shape.mix = Mix::only(if encrypts { Operation::Encrypt } else { Operation::Decrypt });
        shape.phases = Vec::new();
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

    /// How many times the ceiling's processor time a request in the enclave may take.
    #[must_use]
    pub const fn processor_at_most(self) -> f64 {
        match self {
            Self::Encrypt => 1.8,
            Self::Decrypt => 1.65,
            Self::EncryptLarge | Self::DecryptLarge => 2.0,
            Self::EncryptHttp2 | Self::DecryptHttp2 => 1.6,
            Self::NewConnections | Self::ResumedConnections => 1.1,
        }
    }
}
