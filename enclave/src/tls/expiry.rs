//! Certificates that end soon: the operator is told, early and again.
//!
//! Guarantees: a line for each certificate in service at each threshold, on the attested clock. Refuses: nothing. An expired
//! certificate is served on: KMS refuses it, and anybody who looks sees why (docs/adr/0012).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_link::control::Level;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::HostName;

use crate::clock::Clock;
use crate::directory::Directory;
use crate::report::Reporter;

/// How often the certificates are looked at.
const INTERVAL: Duration = Duration::from_mins(10);
/// Days before the end at which there is a line; an ACME client renews 30 days before.
const THRESHOLDS_DAYS: [u64; 5] = [21, 14, 7, 3, 1];
const DAY_MS: u64 = 24 * 3_600_000;

/// The certificate that a host is served with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CertificateInService {
    /// Of which host.
    pub(crate) host_name: HostName,
    /// Which key store it belongs to.
    pub(crate) key_store: KeyStoreId,
    /// Its last moment, milliseconds since 1970.
    pub(crate) not_after_ms: u64,
}

/// What was said about which certificate: the thresholds that it had passed.
#[derive(Default)]
struct Said(BTreeMap<CertificateInService, usize>);

impl Said {
    /// What is to be said now.
    fn look(&mut self, certificates: Vec<CertificateInService>, now_ms: u64) -> Vec<(KeyStoreId, Level, String)> {
        let mut lines = Vec::new();
        let mut said = BTreeMap::new();
        for certificate in certificates {
            let left_ms = certificate.not_after_ms.saturating_sub(now_ms);
            let passed = THRESHOLDS_DAYS.iter().filter(|days| left_ms <= *days * DAY_MS).count()
                + usize::from(now_ms > certificate.not_after_ms);
            if passed > self.0.get(&certificate).copied().unwrap_or_default() {
                lines.push((certificate.key_store, level(left_ms), line(&certificate.host_name, left_ms)));
            }
            said.insert(certificate, passed);
        }
        self.0 = said;
        lines
    }
}

fn level(left_ms: u64) -> Level {
    if left_ms <= 7 * DAY_MS { Level::Error } else { Level::Warn }
}

fn line(host_name: &HostName, left_ms: u64) -> String {
    let what_to_do = "request, have signed and install a new one";
    match left_ms / DAY_MS {
        0 if left_ms == 0 => format!("the certificate of {host_name} has expired, and KMS refuses it: {what_to_do}"),
        0 => format!("the certificate of {host_name} expires within a day: {what_to_do}"),
        days => format!("the certificate of {host_name} expires in {days} days: {what_to_do}"),
    }
}

/// Looks at the certificates from time to time, for ever.
pub(crate) async fn warn_of_expiry(directory: Arc<Directory>, clock: Arc<dyn Clock>, reporter: Reporter) {
    let mut said = Said::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        for (key_store, level, line) in said.look(directory.certificates(), clock.wall_ms()) {
            reporter.log_about(key_store, level, &line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(id: u8, not_after_ms: u64) -> CertificateInService {
        let host_name = HostName::parse(&format!("h{id}.example")).unwrap();
        CertificateInService { host_name, key_store: KeyStoreId([id; 32]), not_after_ms }
    }

    #[test]
    fn each_threshold_is_said_once() {
        const END_MS: u64 = 400 * DAY_MS;
        let mut said = Said::default();
        let cases = [
            (22 * DAY_MS, None),
            (21 * DAY_MS, Some((Level::Warn, "expires in 21 days"))),
            (20 * DAY_MS, None),
            (14 * DAY_MS - 1, Some((Level::Warn, "expires in 13 days"))),
            (14 * DAY_MS - 1, None),
            (5 * DAY_MS, Some((Level::Error, "expires in 5 days"))),
            (DAY_MS / 2, Some((Level::Error, "expires within a day"))),
            (1, None),
        ];
        let look = |said: &mut Said, certificates: Vec<_>, now_ms| {
            said.look(certificates, now_ms).into_iter().map(|(_, level, line)| (level, line)).collect::<Vec<_>>()
        };
        let told = |found: &[(Level, String)], expected: Option<(Level, &str)>| match (found, expected) {
            ([], None) => true,
            ([(level, line)], Some((expected, text))) => *level == expected && line.contains(text),
            _ => false,
        };
        for (left_ms, expected) in cases {
            let lines = look(&mut said, vec![certificate(1, END_MS)], END_MS - left_ms);
            assert!(told(&lines, expected), "{left_ms} ms before: {lines:?}");
        }
        let lines = look(&mut said, vec![certificate(1, END_MS)], END_MS + 1);
        assert!(told(&lines, Some((Level::Error, "h1.example has expired"))), "{lines:?}");
        assert_eq!(look(&mut said, vec![certificate(1, END_MS)], END_MS + DAY_MS), []);
        // Another certificate starts anew, and a second host has its own line.
        assert_eq!(look(&mut said, vec![certificate(1, 2 * END_MS)], END_MS), []);
        let both = vec![certificate(1, 2 * END_MS), certificate(2, 2 * END_MS)];
        assert_eq!(look(&mut said, both, 2 * END_MS - DAY_MS).len(), 2);
    }
}
