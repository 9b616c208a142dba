//! `holdfast doctor` and `holdfast explain`: whether AWS KMS can work with an external key store proxy, and what it means when it
//! says that it cannot.
//!
//! ```text
//! endpoint ─▶ names ─▶ tls ─▶ certificate ─▶ health ─▶ refusals ─▶ keys ─▶ speed ─▶ attestation
//!     └──────────┴───────┴─────────┴────────────┴─────────┴──────────┴────────┴──────────┴─▶ findings, in the words of the table
//! ```
//!
//! Guarantees: it goes by the XKS Proxy API specification alone, so any proxy can be looked at; signed requests go only to a server
//! whose certificate somebody vouches for; nothing but random bytes of its own is encrypted; answers are bounded in size and time, and
//! shown in printable ASCII. Assumes: this machine's clock and network. It sees what can be seen from here, which is not where KMS is.

mod api;
mod certificate;
pub mod dns;
pub mod endpoint;
pub mod explain;
mod health;
mod http;
mod keys;
mod names;
mod refusals;
pub mod report;
mod speed;
pub mod table;
mod tls;

use core::net::SocketAddr;
use core::time::Duration;

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::sigv4::{Credential, Region};

use self::api::Api;
use self::certificate::Roots;
use self::endpoint::Endpoint;
use self::health::Health;
use self::keys::Trial;
use self::report::{Finding, Latency, Report};
use self::table::causes;
use crate::commands::attest::{self, AttestError, Authorities};

/// What is to be looked at.
#[derive(Debug)]
pub struct Question {
    /// The proxy.
    pub endpoint: Endpoint,
    /// Credentials that it should accept.
    pub credentials: Vec<Credential>,
    /// The region in the scope of signatures.
    pub region: Region,
    /// Keys that it should have.
    pub keys: Vec<ExternalKeyId>,
    /// Authorities that are trusted besides those of this system: for development.
    pub authorities: Option<Authorities>,
    /// The address, if not the one that the DNS names.
    pub resolution: Option<SocketAddr>,
    /// The DNS resolver, if not this system's.
    pub resolver: Option<SocketAddr>,
    /// Longest time for a connection, a handshake or a request.
    pub timeout: Duration,
    /// What the endpoint should prove of its enclave.
    pub attestation: Option<attest::Question>,
}

impl Question {
    /// Whether the proxy is not meant for KMS.
    fn is_development(&self) -> bool {
        self.authorities.is_some()
    }
}

fn millis_of(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Looks at everything, in the order in which a request of KMS meets it.
///
/// # Errors
/// [`AttestError`], where the attestation could not be asked for; everything else is a finding.
pub async fn examine(question: &Question) -> Result<Report, AttestError> {
    let longest = question.keys.iter().map(|key| key.as_str().len()).max().unwrap_or_default();
    let mut findings = question.endpoint.judge(longest, question.is_development());
    let mut latency = Latency::default();
    let address = names::look_up(question, &mut findings).await;
    findings.push(match address {
        Some(_) => names::authorization(question).await,
        None => Finding::skipped(names::CAA, "the name is not resolved"),
    });
    let is_reached = match address {
        Some((address, dns_ms)) => {
            latency.dns_ms = dns_ms;
            connected(question, address, &mut latency, &mut findings).await
        }
        None => false,
    };
    if let (Some(asked), true) = (&question.attestation, is_reached) {
        findings.push(attested(asked).await?);
    }
    Ok(Report::new(question.endpoint.to_string(), findings, latency))
}

/// From the first connection on; whether there is one that may be trusted.
async fn connected(
    question: &Question,
    address: SocketAddr,
    latency: &mut Latency,
    findings: &mut Vec<Finding>,
) -> bool {
    let Some(handshake) = tls::judge(question, address, findings).await else { return false };
    (latency.tcp_ms, latency.tls_ms) = (Some(millis_of(handshake.tcp)), Some(millis_of(handshake.tls)));
    let roots = Roots::of(question);
    if !certificate::judge(question, &handshake.chain, &roots, findings) {
        findings.push(Finding::skipped("requests", "none is sent to a server whose certificate is not good"));
        return false;
    }
    match http::Wire::new(address, &question.endpoint.host, &roots.all, question.timeout) {
        Ok(wire) => {
            let api = Api { wire, endpoint: &question.endpoint, region: question.region.as_str() };
            requested(question, api, latency, findings).await;
        }
        Err(reason) => findings.push(Finding::of("requests", &causes::TLS_REFUSED, reason)),
    }
    true
}

/// Everything that is asked of the API.
async fn requested(question: &Question, mut api: Api<'_>, latency: &mut Latency, findings: &mut Vec<Finding>) {
    let Some(credential) = question.credentials.first() else {
        return findings.push(Finding::skipped("health", "no request can be signed without --credential FILE"));
    };
    let health = health::judge(&mut api, &question.credentials, findings).await;
    if matches!(health, Health::Unanswered) {
        return findings.push(Finding::skipped("unsigned", "nothing is answered"));
    }
    refusals::signatures(&mut api, credential, findings).await;
    let Health::Serving(answering) = health else {
        return findings.push(Finding::skipped("keys", "the health is not answered as it should be"));
    };
    refusals::paths(&mut api, credential, findings).await;
    for key in &question.keys {
        Trial { api: &mut api, credential, key: key.as_str() }.judge(findings).await;
    }
    match question.keys.first() {
        Some(key) => refusals::bodies(&mut api, credential, key.as_str(), findings).await,
        None => findings.push(Finding::skipped("keys", "none is named: give --key ID")),
    }
    speed::judge(&mut api, credential, &answering, latency, findings).await;
}

async fn attested(question: &attest::Question) -> Result<Finding, AttestError> {
    let report = attest::attest(question).await?;
    let says =
        report.checks.iter().find(|line| line.holds != Some(true)).map(|line| format!("{}: {}", line.check, line.says));
    Ok(match (report.verified, says) {
        (true, _) => Finding::fine("attestation", "this endpoint ends inside the expected enclave"),
        (false, says) => Finding::of("attestation", &causes::ATTESTATION_FAILED, says.unwrap_or_default()),
    })
}
