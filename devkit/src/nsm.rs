//! An emulator of the Nitro Secure Module (NSM), for machines without one.
//!
//! ```text
//! enclave process ─Unix socket→ NsmServer ─boot→ EmulatedDevice (registers of one enclave)
//! tests           ─in process─→ Emulator  ─boot→ EmulatedDevice ─DocumentBuilder→ EmulatedChain ← EmulatedRoot
//! ```
//!
//! Guarantees: it speaks the device's CBOR with the device's rules (locks, bounds, error codes), and its documents pass
//! the same verifier as AWS's, under a root of its own that is kept in a folder. Assumes: the documents prove nothing to
//! anybody, since this process makes whatever measurements it is told; a verifier takes them only where its own
//! configuration names the root file. Refuses: settings that no device could have.
//!
//! `DescribePCR` shows every register with its lock; documents show the locked ones. One connection is one enclave.

use std::path::{Path, PathBuf};

pub mod bank;
pub mod chain;
pub mod client;
pub mod document;
pub mod emulator;
pub mod root;
pub mod server;
pub mod settings;
pub mod signer;
pub mod wire;

pub use chain::{CertificateSpec, EmulatedChain};
pub use client::{EmulatedNsm, change_settings};
pub use document::DocumentBuilder;
pub use emulator::{EmulatedDevice, Emulator};
pub use root::EmulatedRoot;
pub use server::{NsmConfig, NsmServer, serve};
pub use settings::{ErrorName, Fault, PcrSource, Settings, SettingsChange, SettingsError};

use crate::unix_socket::BindError;

/// Why the emulator does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NsmError {
    /// A file or a socket.
    #[error("{path}: {error}{}", holdfast_link::remedy::of_folder(error))]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A socket's path cannot be listened at.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The root's certificate without its key.
    #[error("{0} is missing; restore it, or remove root.pem to make another root")]
    RootKeyMissing(PathBuf),
    /// Another key than the root's.
    #[error("{0} is not the key of root.pem")]
    RootKeyDiffers(PathBuf),
    /// The root's file cannot be read.
    #[error("root.pem is not one certificate")]
    RootFile,
    /// The root is not one that a verifier takes.
    #[error(transparent)]
    Root(#[from] holdfast_shared::attestation::RootError),
    /// A key or a certificate could not be made.
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    /// A chain without a leaf.
    #[error("a chain needs at least a leaf")]
    EmptyChain,
    /// The leaf's key is not one that signs documents.
    #[error("the leaf's key cannot sign a document")]
    LeafKey,
    /// A document that is not to be signed.
    #[error("not an unsigned document of a virtual machine")]
    NotUnsigned,
    /// A time that no certificate can hold.
    #[error("the time is outside what certificates can hold")]
    Time,
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The emulator refused a change of its settings.
    #[error("the emulator refused: {0}")]
    Refused(String),
    /// The control socket answered something else.
    #[error("the control socket gave no answer that can be read")]
    Control,
}

impl NsmError {
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}
