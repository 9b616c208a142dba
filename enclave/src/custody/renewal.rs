//! The standing order to renew the TLS certificate, carried out.
//!
//! ```text
//! due ─claim (a version)─▶ ours ─▶ account, order ─challenge (a version)─▶ all enclaves answer ─▶ chain (a version)
//!                                        └───────────── failure (a version): pause, then anybody may claim
//! ```
//!
//! Guarantees: of many enclaves one makes an attempt, because its claim is a version and versions are published by compare-and-set;
//! it has so long, then it counts as failed, and after the pause anybody may begin another; the authority may look at any enclave, because the challenge is in the key
//! store before the authority is told to look; a chain is served only if it is for our key and host name, valid, and leads to an issuing root of the order; until then, and
//! after every failure, the certificate stays that is there. Neither commands nor requests wait for an authority. Assumes:
//! administrators signed the order (`super::commands`). Refuses: to do anything after the order's end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::keystore::{self, AcmeOrder, Body, RenewalAttempt, RenewalProgress};
use holdfast_shared::limits::{
    ACME_FAILURE_MAX, CERTIFICATE_CHAIN_MAX, CERTIFICATE_DER_MAX, RENEWAL_ATTEMPT_MS, RENEWAL_DISTANCE_MIN_MS,
    RENEWAL_PAUSE_MS,
};
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::renewal::Validity;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::xks::HostName;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::coordinator::{Coordinator, Step};
use super::publish::Draft;
use super::unseal::{RenewalPlan, Unsealed};
use super::{CustodyError, identity};
use crate::acme::{AcmeClient, AcmeError, Failure};
use crate::clock::Clock;
use crate::roster::Authorities;
use crate::tls::AttestedTime;

/// How long an attempt takes at most: less than others wait for it.
const LIMIT: Duration = Duration::from_millis(RENEWAL_ATTEMPT_MS / 5 * 4);
/// How long after its version a challenge is announced, so that enclaves that learn of versions later than we have it as well.
const SPREAD: Duration = Duration::from_secs(3);
/// Pause after a problem of ours with publishing, in milliseconds.
const AGAIN_MS: u64 = 5_000;

/// The attempt of this enclave, if it makes one.
#[derive(Default)]
pub(super) struct Renewal {
    claimed: Option<[u8; 16]>,
    running: Option<Running>,
    /// What is to be published, until that succeeds.
    pending: Option<Event>,
    /// When it is looked at next, monotonic.
    again_ms: u64,
}

struct Running {
    task: JoinHandle<()>,
    events: mpsc::Receiver<Event>,
    /// Takes the word that the challenge is in the key store.
    published: Option<oneshot::Sender<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewal {
    /// Ends the attempt that is made here, once the key store does not say any more that it is: withdrawn, or over, or another
    /// enclave's turn.
    fn keep_to(&mut self, plan: Option<RenewalPlan>, wall_ms: u64, is_pausing: bool) {
        let is_in_force = plan.is_some_and(|plan| wall_ms < plan.until_ms);
        let attempt = plan.and_then(|plan| plan.attempt).map(|attempt| attempt.id);
        // A claim whose answer was lost may be on its way still.
        let may_come = self.running.is_none() && is_pausing;
        if !is_in_force || (self.claimed.is_some() && self.claimed != attempt && !may_come) {
            *self = Self { again_ms: self.again_ms, ..Self::default() };
        }
    }
}

/// What an attempt wants to have published.
#[derive(Clone, Debug)]
enum Event {
    Challenge { account: String, key_authorization_sha256: [u8; 32] },
    Done { account: Option<String>, chain: Vec<DerCertificate> },
    Failed { account: Option<String>, reason: String, retry_after_ms: u64 },
}

/// What an attempt needs. The TLS key is not part of it.
struct Work<C> {
    connector: C,
    clock: Arc<dyn Clock>,
    order: AcmeOrder,
    account_key: SecretBytes,
    host_name: HostName,
    request: Vec<u8>,
}

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Does what the standing order asks for now. Nothing: there is nothing to do. What goes wrong here stops nothing else.
    pub(super) async fn renew(&mut self, unsealed: &Arc<Unsealed>) -> Option<Step> {
        let (now_ms, wall_ms) = (self.now_ms(), self.ledger.enclave.clock.wall_ms());
        let plan = unsealed.renewal();
        let is_pausing = now_ms < self.renewal.again_ms;
        // Before anything is waited for: what administrators ended ends at once.
        self.renewal.keep_to(plan, wall_ms, is_pausing);
        let plan = plan.filter(|plan| wall_ms < plan.until_ms)?;
        if is_pausing || self.check_writable().is_err() || self.ledger.home().is_err() {
            return None;
        }
        let step = self.try_to_renew(unsealed, plan, wall_ms).await;
        step.unwrap_or_else(|error| {
            self.renewal.again_ms = now_ms.saturating_add(AGAIN_MS);
            self.ledger.log(Level::Warn, &format!("the renewal of the certificate waits: {error}"));
            None
        })
    }

    async fn try_to_renew(
        &mut self,
        unsealed: &Arc<Unsealed>,
        plan: RenewalPlan,
        wall_ms: u64,
    ) -> Result<Option<Step>, CustodyError> {
        let (true, Some(attempt)) = (self.renewal.claimed.is_some(), plan.attempt) else {
            let is_due = plan.due_ms.is_some_and(|due_ms| wall_ms >= due_ms);
            return if is_due { self.claim(unsealed, wall_ms).await.map(Some) } else { Ok(None) };
        };
        let Some(running) = &mut self.renewal.running else {
            self.start(unsealed).await?;
            return Ok(None);
        };
        if attempt.key_authorization_sha256.is_some()
            && let Some(published) = running.published.take()
        {
            // An attempt that has ended meanwhile says so by itself.
            let _ = published.send(());
        }
        if self.renewal.pending.is_none() {
            self.renewal.pending = running.events.try_recv().ok();
        }
        let Some(event) = self.renewal.pending.clone() else { return Ok(None) };
        self.publish_event(unsealed, event).await.map(Some)
    }

    /// Makes the next attempt ours, if nobody is faster. One that its maker gave up is put down as failed before: what ends
    /// enclaves, or their connection, must not have them order without a pause.
    async fn claim(&mut self, unsealed: &Arc<Unsealed>, wall_ms: u64) -> Result<Step, CustodyError> {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| CustodyError::Identity(identity::IdentityError::Key))?;
        let mut body = self.body(unsealed).await?;
        let (level, line) = match claimed(&mut body, id, wall_ms) {
            Claim::Ours => {
                // Before it is published: an answer may be lost.
                self.renewal = Renewal { claimed: Some(id), ..Renewal::default() };
                (Level::Info, "the certificate is due for renewal: a new one is ordered".to_owned())
            }
            Claim::GivenUp(told) => told,
            Claim::None => return Ok(Step::Idle),
        };
        if self.publish_renewal(unsealed, body).await? {
            self.ledger.log(level, &line);
        }
        Ok(Step::Again)
    }

    async fn start(&mut self, unsealed: &Arc<Unsealed>) -> Result<(), CustodyError> {
        let body = self.body(unsealed).await?;
        let Some(renewal) = body.renewal else { return Ok(()) };
        let work = Work {
            connector: self.connector(),
            clock: Arc::clone(&self.ledger.enclave.clock),
            order: renewal.order,
            account_key: renewal.account_key,
            request: identity::certificate_request(&body.tls.private_key, &body.host_name)?,
            host_name: body.host_name,
        };
        let (events_in, events) = mpsc::channel(2);
        let (published, is_published) = oneshot::channel();
        let task = tokio::spawn(attempt(work, events_in, is_published));
        self.renewal.running = Some(Running { task, events, published: Some(published) });
        Ok(())
    }

    async fn publish_event(&mut self, unsealed: &Arc<Unsealed>, event: Event) -> Result<Step, CustodyError> {
        let wall_ms = self.ledger.enclave.clock.wall_ms();
        let mut body = self.body(unsealed).await?;
        let told = apply(&mut body, event, wall_ms);
        let has_ended = body.renewal.as_ref().is_none_or(|renewal| renewal.progress.attempt.is_none());
        if self.publish_renewal(unsealed, body).await? {
            self.renewal.pending = None;
            if has_ended {
                self.renewal = Renewal::default();
            }
            if let Some((level, line)) = told {
                self.ledger.log(level, &line);
            }
        }
        Ok(Step::Again)
    }

    async fn body(&self, unsealed: &Arc<Unsealed>) -> Result<Body, CustodyError> {
        self.ledger.charge(unsealed.version().blob.len());
        let opening = Arc::clone(unsealed);
        self.ledger.enclave.workshop.work(move || opening.body()).await?
    }

    async fn publish_renewal(&mut self, unsealed: &Arc<Unsealed>, body: Body) -> Result<bool, CustodyError> {
        let draft = Draft::after(unsealed, self.ledger.id(), body);
        self.publish(draft).await
    }
}

/// What became of a claim.
enum Claim {
    Ours,
    /// The attempt before it was put down as failed: its pause comes first. What the operator is told.
    GivenUp((Level, String)),
    /// There is no order.
    None,
}

/// Writes a claim down, or that the attempt before it failed.
fn claimed(body: &mut Body, id: [u8; 16], now_ms: u64) -> Claim {
    let Some(renewal) = &mut body.renewal else { return Claim::None };
    let progress = &mut renewal.progress;
    if progress.attempt.is_some() {
        return Claim::GivenUp(fail(progress, None, "an enclave began and did not finish", (now_ms, 0)));
    }
    progress.attempt = Some(RenewalAttempt { id, started_ms: now_ms, key_authorization_sha256: None });
    Claim::Ours
}

/// Writes down what came of an attempt. Returns what the operator is told.
fn apply(body: &mut Body, event: Event, now_ms: u64) -> Option<(Level, String)> {
    let progress = body.renewal.as_ref()?.progress.clone();
    let chain = body.tls.chain.clone();
    let told = apply_any(body, event, now_ms);
    if keystore::fits(body) {
        return told;
    }
    // Found out when it is sealed, it would be tried again for ever.
    body.tls.chain = chain;
    let renewal = body.renewal.as_mut()?;
    renewal.progress = progress;
    Some(fail(&mut renewal.progress, None, "the key store is full", (now_ms, 0)))
}

fn apply_any(body: &mut Body, event: Event, now_ms: u64) -> Option<(Level, String)> {
    let renewal = body.renewal.as_mut()?;
    let progress = &mut renewal.progress;
    if now_ms >= renewal.order.until_ms {
        progress.attempt = None;
        return Some((Level::Warn, "the standing order ended before the certificate was renewed".to_owned()));
    }
    match event {
        Event::Challenge { account, key_authorization_sha256 } => {
            progress.account = Some(account);
            let attempt = progress.attempt.as_mut()?;
            attempt.key_authorization_sha256 = Some(key_authorization_sha256);
            None
        }
        Event::Done { account, chain } => {
            // Whatever the directory is: this is what keeps it from more than giving none.
            let checked = identity::check_chain(&chain, &body.tls.private_key, &body.host_name, now_ms);
            let checked = checked
                .map_err(|error| error.to_string())
                .and_then(|()| check_issuer(&chain, &renewal.order, &body.host_name, now_ms))
                .and_then(|()| check_distance(&chain, now_ms));
            match checked {
                Ok(()) => {
                    let line = renewed(&chain);
                    *progress = RenewalProgress { account, ..RenewalProgress::default() };
                    body.tls.chain = chain;
                    Some((Level::Info, line))
                }
                Err(reason) => Some(fail(progress, account, &format!("the chain is refused: {reason}"), (now_ms, 0))),
            }
        }
        Event::Failed { account, reason, retry_after_ms } => {
            Some(fail(progress, account, &reason, (now_ms, retry_after_ms)))
        }
    }
}

/// Our request, signed by an authority that nobody trusts, would end the service for years: by the roots that administrators named,
/// not by the directory's word.
fn check_issuer(chain: &[DerCertificate], order: &AcmeOrder, host_name: &HostName, now_ms: u64) -> Result<(), String> {
    let bytes = |certificates: &[DerCertificate]| certificates.iter().map(|part| part.0.clone()).collect::<Vec<_>>();
    let issuers = Authorities::new(&bytes(&order.issuing_roots));
    if issuers.is_ok_and(|issuers| issuers.prove(&bytes(chain), host_name, now_ms)) {
        Ok(())
    } else {
        Err("it does not lead to an issuing root of the order".to_owned())
    }
}

/// What is due again as soon as it is there would be renewed without an end.
fn check_distance(chain: &[DerCertificate], now_ms: u64) -> Result<(), String> {
    let due_ms = chain.first().and_then(Validity::of).map_or(0, Validity::renew_from_ms);
    if due_ms < now_ms.saturating_add(RENEWAL_DISTANCE_MIN_MS) {
        return Err("two thirds of the certificate's life are over within an hour".to_owned());
    }
    Ok(())
}

fn renewed(chain: &[DerCertificate]) -> String {
    const HOUR_MS: u64 = 3_600_000;
    let Some(validity) = chain.first().and_then(Validity::of) else { return "the certificate is renewed".to_owned() };
    let hours = |until_ms: u64| until_ms.saturating_sub(validity.not_before_ms) / HOUR_MS;
    let (all, due) = (hours(validity.not_after_ms), hours(validity.renew_from_ms()));
    format!("the certificate is renewed, for {all} hours; the next renewal is due after {due} of them")
}

fn fail(
    progress: &mut RenewalProgress,
    account: Option<String>,
    reason: &str,
    (now_ms, retry_after_ms): (u64, u64),
) -> (Level, String) {
    let reason: String =
        reason.chars().take(ACME_FAILURE_MAX).map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    let pause_ms = pause_ms(progress.failures).max(retry_after_ms);
    let line = format!("the certificate was not renewed; next try in {} s: {reason}", pause_ms / 1000);
    *progress = RenewalProgress {
        account: account.or_else(|| progress.account.take()),
        attempt: None,
        failures: progress.failures.saturating_add(1),
        again_ms: now_ms.saturating_add(pause_ms),
        last_failure: Some(reason),
    };
    (Level::Warn, line)
}

/// The pause after so many failures before this one.
fn pause_ms(failures: u32) -> u64 {
    let (first, longest) = (*RENEWAL_PAUSE_MS.start(), *RENEWAL_PAUSE_MS.end());
    first.saturating_mul(2_u64.saturating_pow(failures)).min(longest)
}

/// One attempt, from the account to the chain.
async fn attempt<C: Connect>(work: Work<C>, events: mpsc::Sender<Event>, published: oneshot::Receiver<()>) {
    let mut account = None;
    let obtaining = obtain(work, &mut account, &events, published);
    let result = tokio::time::timeout(LIMIT, obtaining).await;
    let undecided = || Failure { error: AcmeError::Undecided, retry_after_s: None };
    let event = match result.unwrap_or_else(|_| Err(undecided())) {
        Ok(chain) => Event::Done { account, chain },
        Err(Failure { error, retry_after_s }) => Event::Failed {
            account,
            reason: error.to_string(),
            retry_after_ms: retry_after_s.unwrap_or_default().saturating_mul(1000),
        },
    };
    // Whoever would hear it is gone: then the order was withdrawn, or the lease is over.
    let _ = events.send(event).await;
}

async fn obtain<C: Connect>(
    work: Work<C>,
    account: &mut Option<String>,
    events: &mpsc::Sender<Event>,
    published: oneshot::Receiver<()>,
) -> Result<Vec<DerCertificate>, Failure> {
    let time = Arc::new(AttestedTime(work.clock));
    let mut client = AcmeClient::open(work.connector, &work.order, &work.account_key, time).await?;
    *account = Some(client.account().to_owned());
    let begun = client.begin(&work.host_name).await?;
    if let Some(key_authorization_sha256) = begun.key_authorization_sha256() {
        let account = client.account().to_owned();
        let _ = events.send(Event::Challenge { account, key_authorization_sha256 }).await;
        let undecided = |_| Failure { error: AcmeError::Undecided, retry_after_s: None };
        published.await.map_err(undecided)?;
        tokio::time::sleep(SPREAD).await;
    }
    let chain = client.finish(begun, &work.request).await?;
    read_chain(&chain).ok_or(Failure { error: AcmeError::Answer("no chain within our bounds"), retry_after_s: None })
}

/// A chain in PEM (RFC 8555, section 7.4.2).
fn read_chain(pem: &Bytes) -> Option<Vec<DerCertificate>> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.ok()?;
        if chain.len() >= CERTIFICATE_CHAIN_MAX || certificate.len() > CERTIFICATE_DER_MAX {
            return None;
        }
        chain.push(DerCertificate(certificate.to_vec()));
    }
    (!chain.is_empty()).then_some(chain)
}

#[cfg(test)]
mod tests;
