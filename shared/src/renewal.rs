//! When a TLS certificate is due for renewal.
//!
//! Guarantees: the moment follows from the certificate alone, so that every enclave and every tool names the same one.

use der::Decode;

use crate::manifest::DerCertificate;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Its last moment, milliseconds since 1970.
    pub not_after_ms: u64,
}

impl Validity {
    /// What a certificate says; nothing if it cannot be read.
    #[must_use]
    pub fn of(certificate: &DerCertificate) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(&certificate.0).ok()?;
        let validity = certificate.tbs_certificate().validity();
        let ms = |time: &x509_cert::time::Time| u64::try_from(time.to_unix_duration().as_millis()).ok();
        Some(Self { not_before_ms: ms(&validity.not_before)?, not_after_ms: ms(&validity.not_after)? })
    }

    /// From when on it should be renewed, milliseconds since 1970: after two thirds of its life. A third is left for what goes
    /// wrong, however short the life is.
    #[must_use]
    pub const fn renew_from_ms(self) -> u64 {
        let life = self.not_after_ms.saturating_sub(self.not_before_ms);
        self.not_before_ms.saturating_add(life / 3 * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds_of_life() {
        for (not_before_ms, not_after_ms, expected) in [
            (1_000, 91_000, 61_000),
            (0, 90 * 86_400_000, 60 * 86_400_000),
            (5, 5, 5),
            (9, 3, 9),
            (0, u64::MAX, u64::MAX / 3 * 2),
        ] {
            assert_eq!(Validity { not_before_ms, not_after_ms }.renew_from_ms(), expected, "{not_before_ms}");
        }
    }
}
