//! The standing order to renew the TLS certificate, and how far its execution is.

use crate::cbor::message;
use crate::limits;
use crate::manifest::DerCertificate;
use crate::secrets::SecretBytes;

use super::records::TlsIdentity;
use crate::renewal::Validity;

/// What administrators sign: enclaves may get certificates for the key store's host name and TLS key from this authority, by
/// ACME (RFC 8555) with TLS-ALPN-01 (RFC 8737), without a further signature, until a moment.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct AcmeOrder {
    /// URL of the directory; nothing else than its host is ever asked.
    #[n(0)]
    pub directory: String,
    /// Roots of the directory's own HTTPS certificate. The parent carries the bytes, and nothing of it is trusted.
    #[n(1)]
    pub directory_roots: Vec<DerCertificate>,
    /// Whom the authority may write to, as `mailto:` URLs.
    #[n(2)]
    pub contacts: Vec<String>,
    /// When the order ends, milliseconds since 1970.
    #[n(3)]
    pub until_ms: u64,
    /// Roots to which the chains that it gives must lead.
    #[n(4)]
    pub issuing_roots: Vec<DerCertificate>,
}

message!(AcmeOrder, limits::COMMAND_MAX, "standing order", |order| {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    let is_url = |text: &str| text.len() <= limits::ACME_URL_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let rest = order.directory.strip_prefix("https://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    rule(
        is_url(&order.directory) && !host.is_empty() && !host.contains(['@', '?', '#']),
        "the directory must be an https URL of at most 512 characters",
    )?;
    let are_roots = |roots: &[DerCertificate]| {
        (1..=limits::ACME_ROOTS_MAX).contains(&roots.len())
            && roots.iter().all(|root| root.0.len() <= limits::CERTIFICATE_DER_MAX)
    };
    rule(
        are_roots(&order.directory_roots) && are_roots(&order.issuing_roots),
        "a standing order needs 1 to 4 roots of the directory, and as many of the issuer, of at most 8 KiB",
    )?;
    let is_contact = |contact: &String| contact.starts_with("mailto:") && is_url(contact);
    rule(
        order.contacts.len() <= limits::ACME_CONTACTS_MAX && order.contacts.iter().all(is_contact),
        "a standing order has at most 4 contacts, each a mailto: URL",
    )
});

/// A standing order in force.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct StandingRenewal {
    /// The order.
    #[n(0)]
    pub order: AcmeOrder,
    /// The account's key, made in the enclave: ECDSA P-256 in PKCS #8 form.
    #[cbor(n(1), with = "crate::cbor::secret_bytes")]
    pub account_key: SecretBytes,
    /// How it goes.
    #[n(2)]
    pub progress: RenewalProgress,
}

message!(StandingRenewal, limits::COMMAND_MAX, "standing renewal", |renewal| {
    renewal.order.check()?;
    renewal.progress.check()
});

/// How far the execution of a standing order is: common to all enclaves, since each change of it is a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RenewalProgress {
    /// The account's URL, once the authority named it.
    #[n(0)]
    pub account: Option<String>,
    /// The attempt that runs; whoever published it makes it, and nobody else before its time is over.
    #[n(1)]
    pub attempt: Option<RenewalAttempt>,
    /// Attempts that failed in a row.
    #[n(2)]
    pub failures: u32,
    /// When the next attempt may begin, milliseconds since 1970.
    #[n(3)]
    pub again_ms: u64,
    /// Why the last attempt failed: printable ASCII.
    #[n(4)]
    pub last_failure: Option<String>,
}

message!(RenewalProgress, limits::COMMAND_MAX, "progress of a renewal", |progress| {
    let is_text =
        |text: &String, max: usize| text.len() <= max && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if progress.account.iter().all(|account| is_text(account, limits::ACME_URL_MAX))
        && progress.last_failure.iter().all(|failure| is_text(failure, limits::ACME_FAILURE_MAX))
    {
        Ok(())
    } else {
        Err("account and failure of a renewal are short printable ASCII")
    }
});

/// One enclave's attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RenewalAttempt {
    /// Random: by this its maker knows it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// When it began, milliseconds since 1970.
    #[n(1)]
    pub started_ms: u64,
    /// SHA-256 of the key authorization that any enclave shows in a handshake for `acme-tls/1`, once the authority asked.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub key_authorization_sha256: Option<[u8; 32]>,
}

impl RenewalProgress {
    /// Forgets everything but the account: attempt, failures and pause were about a certificate that nobody waits for any more.
    /// Whoever makes the attempt learns by this that it is over.
    pub fn begin_anew(&mut self) {
        *self = Self { account: self.account.take(), ..Self::default() };
    }
}

impl StandingRenewal {
    /// When an attempt is due, milliseconds since 1970: after two thirds of the certificate's life, or at once if there is none, but
    /// not before the pause after a failure is over, nor while another attempt has its time. Nothing if the order ends before.
    #[must_use]
    pub fn due_ms(&self, tls: &TlsIdentity) -> Option<u64> {
        // A certificate that cannot be read was never installed.
        let by_certificate = tls.chain.first().and_then(Validity::of).map_or(0, Validity::renew_from_ms);
        let attempt = self.progress.attempt.map_or(0, |attempt| attempt.ends_ms());
        let due_ms = by_certificate.max(self.progress.again_ms).max(attempt);
        (due_ms < self.order.until_ms).then_some(due_ms)
    }
}

impl RenewalAttempt {
    /// When others may begin one, milliseconds since 1970.
    #[must_use]
    pub const fn ends_ms(&self) -> u64 {
        self.started_ms.saturating_add(limits::RENEWAL_ATTEMPT_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::Message as _;

    #[test]
    fn an_order_names_roots_of_both_kinds() {
        let roots = |count: usize| vec![DerCertificate(vec![0x30, 0]); count];
        let order = |directory_roots, issuing_roots| AcmeOrder {
            directory: "https://ca.test/directory".to_owned(),
            directory_roots,
            contacts: vec![],
            until_ms: 1,
            issuing_roots,
        };
        assert_eq!(order(roots(1), roots(4)).check(), Ok(()));
        let large = vec![DerCertificate(vec![0; limits::CERTIFICATE_DER_MAX + 1])];
        for bad in [roots(0), roots(5), large] {
            assert!(order(bad.clone(), roots(1)).check().is_err(), "{}", bad.len());
            assert!(order(roots(1), bad.clone()).check().is_err(), "{}", bad.len());
        }
    }
}
