//! Boot, as a chain of states, each made from the one before:
//!
//! ```text
//! NSM thread ─▶ Unmeasured ─ measure(configuration) ─▶ Measured ─ anchor ─▶ Ready
//!                            PCR 16 extended, locked,            clock set by a document's timestamp
//!                            read back and compared
//! ```
//!
//! Guarantees: no attestation document leaves the enclave before PCR 16 holds the SHA-384 of the static configuration's
//! exact bytes and is locked: [`Ready`], which serves, is made from [`Measured`] alone. Refuses: a PCR 16 that was touched
//! before.

use std::sync::Arc;

use holdfast_shared::attestation::{ParsedDocument, pcr_of_content};
use holdfast_shared::ids::BootId;
use holdfast_shared::sha384;
use holdfast_shared::static_configuration::{ConfigurationError, StaticConfiguration};
use ring::rand::{SecureRandom, SystemRandom};

use crate::audit::{AuditKey, NoAuditKey};
use crate::clock::Clock;
use crate::clock::attested::{AttestedClock, moment};
use crate::nsm::{Nsm, NsmDevice, NsmError};

/// Registers that the platform measures into and locks before the enclave starts: 0 to 15.
const PLATFORM_PCRS: core::ops::Range<u16> = 0..16;
/// The register that holds the configuration's measurement.
const CONFIGURATION_PCR: u16 = 16;

/// Why the enclave does not boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No thread for the NSM.
    #[error("the NSM thread does not start: {0}")]
    Thread(#[from] std::io::Error),
    /// The NSM refused something.
    #[error(transparent)]
    Nsm(#[from] NsmError),
    /// The configuration is refused.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// PCR 16 is not what the configuration makes it.
    #[error("PCR 16 does not hold the configuration's measurement alone: something extended it before")]
    Measurement,
    /// A register of the platform could still be changed.
    #[error("PCR {0} is not locked: what it says of the image could be changed")]
    Unlocked(u16),
    /// The NSM's document cannot be read.
    #[error("the NSM's document cannot be read: {0}")]
    Document(#[from] holdfast_shared::attestation::ParseError),
    /// No randomness from the kernel.
    #[error("no randomness from the kernel")]
    Entropy,
    /// No key for the audit log.
    #[error(transparent)]
    AuditKey(#[from] NoAuditKey),
}

/// An enclave that has said nothing about itself yet.
pub(crate) struct Unmeasured {
    nsm: Nsm,
    boot_id: BootId,
}

/// An enclave whose configuration is measured and locked.
pub(crate) struct Measured {
    nsm: Nsm,
    boot_id: BootId,
    configuration: StaticConfiguration,
}

/// An enclave that can attest and knows the time.
pub(crate) struct Ready {
    pub(crate) nsm: Nsm,
    pub(crate) boot_id: BootId,
    pub(crate) configuration: StaticConfiguration,
    pub(crate) clock: Arc<AttestedClock>,
    pub(crate) audit_key: AuditKey,
}

impl Unmeasured {
    /// Starts the NSM's thread and draws this boot's id.
    ///
    /// # Errors
    /// [`BootError`].
    pub(crate) fn start(device: Box<dyn NsmDevice>) -> Result<Self, BootError> {
        let mut boot_id = [0; 16];
        SystemRandom::new().fill(&mut boot_id).map_err(|_| BootError::Entropy)?;
        Ok(Self { nsm: Nsm::start(device)?, boot_id: BootId(boot_id) })
    }

    /// This boot's id.
    #[must_use]
    pub(crate) const fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// Checks the platform's registers and the configuration, and measures its exact bytes into PCR 16.
    ///
    /// # Errors
    /// [`BootError`].
    pub(crate) async fn measure(self, static_configuration: &str) -> Result<Measured, BootError> {
        for index in PLATFORM_PCRS {
            let (locked, _) = self.nsm.describe_pcr(index).await?;
            if !locked {
                return Err(BootError::Unlocked(index));
            }
        }
        let configuration = StaticConfiguration::parse(static_configuration)?;
        self.nsm.extend_pcr(CONFIGURATION_PCR, &sha384(&[static_configuration.as_bytes()])).await?;
        self.nsm.lock_pcr(CONFIGURATION_PCR).await?;
        let (locked, value) = self.nsm.describe_pcr(CONFIGURATION_PCR).await?;
        if !locked || value != pcr_of_content(static_configuration.as_bytes()) {
            return Err(BootError::Measurement);
        }
        Ok(Measured { nsm: self.nsm, boot_id: self.boot_id, configuration })
    }
}

impl Measured {
    /// Anchors the clock.
    ///
    /// # Errors
    /// [`BootError`].
    pub(crate) async fn anchor(self) -> Result<Ready, BootError> {
        let asked = moment();
        let timestamp_ms = timestamp_ms(&self.nsm).await?;
        let clock = Arc::new(AttestedClock::anchored(timestamp_ms, asked));
        let audit_key = AuditKey::generate()?;
        Ok(Ready { nsm: self.nsm, boot_id: self.boot_id, configuration: self.configuration, clock, audit_key })
    }
}

/// The time that the NSM's next document says. The document comes from the device itself and proves nothing to us.
async fn timestamp_ms(nsm: &Nsm) -> Result<u64, BootError> {
    let document = nsm.attest(None, None, None).await?;
    Ok(ParsedDocument::parse(&document)?.claimed_timestamp_ms())
}

/// Anchors the clock anew. Returns the drift in milliseconds.
///
/// # Errors
/// [`BootError`].
pub(crate) async fn anchor_again(nsm: &Nsm, clock: &AttestedClock) -> Result<u64, BootError> {
    let asked_ms = clock.monotonic_ms();
    Ok(clock.anchor(timestamp_ms(nsm).await?, asked_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_nitro_enclaves_nsm_api::api::{Request, Response};

    /// A device with one register of the platform unlocked, that notes what it was asked to extend.
    struct Leaky {
        unlocked: u16,
        extended: Arc<std::sync::atomic::AtomicBool>,
    }

    impl NsmDevice for Leaky {
        fn process_request(&mut self, request: Request) -> Response {
            if let Request::DescribePCR { index } = request {
                return Response::DescribePCR { lock: index != self.unlocked && index < 16, data: vec![0; 48] };
            }
            self.extended.store(true, std::sync::atomic::Ordering::SeqCst);
            Response::LockPCR
        }
    }

    #[tokio::test]
    async fn a_platform_register_that_is_not_locked_ends_the_boot() {
        for unlocked in [0, 1, 2, 8, 15] {
            let extended = Arc::default();
            let booting = Unmeasured::start(Box::new(Leaky { unlocked, extended: Arc::clone(&extended) })).unwrap();
            let refused = booting.measure(r#"{"regions":["us-east-1"]}"#).await.err().unwrap();
            assert!(matches!(refused, BootError::Unlocked(index) if index == unlocked), "{refused}");
            assert!(refused.to_string().contains(&format!("PCR {unlocked} is not locked")));
            assert!(!extended.load(std::sync::atomic::Ordering::SeqCst), "nothing is measured after that");
        }
    }
}
