//! Who is served at present: the list from which the [`Directory`] is made anew whenever one key store changes.
//!
//! Guarantees: only what [`claims`] allows is served; whoever is not, is reported with the reason, and an alarm is logged. Changing
//! the list takes a lock that no request ever takes. A proof is judged when a version is served and again each minute, since
//! certificates begin and end: a name that was won by one does not outlast it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_link::control::Level;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::HostName;
use rustls::ServerConfig;

use crate::clock::Clock;
use crate::custody::{Enclave, Workshop};
use crate::directory::{Directory, ServedKeyStore};
use crate::report::Reporter;
use crate::tls::TlsError;

mod authorities;
mod claims;

pub(crate) use authorities::Authorities;
pub use authorities::AuthorityError;
pub(crate) use claims::Claim;

/// See the module.
pub(crate) struct Roster {
    directory: Arc<Directory>,
    reporter: Reporter,
    authorities: Authorities,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    claims: BTreeMap<KeyStoreId, Claim>,
    stores: BTreeMap<KeyStoreId, Arc<ServedKeyStore>>,
    /// Whose certificate proves the host name.
    proven: BTreeSet<KeyStoreId>,
    /// Whose host name an authority is asked to look at, and what it is shown.
    challenges: BTreeMap<KeyStoreId, Challenge>,
}

/// What an authority is shown for a host name.
#[derive(Clone)]
pub(crate) struct Challenge {
    pub(crate) host_name: HostName,
    pub(crate) tls: Arc<ServerConfig>,
}

impl Roster {
    pub(crate) fn new(directory: Arc<Directory>, reporter: Reporter, authorities: Authorities) -> Self {
        Self { directory, reporter, authorities, listed: Mutex::default() }
    }

    /// By whose word a host name is proven.
    pub(crate) const fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// These manifests claim host names from now on, and no others: known before any of their key stores is opened, so that who
    /// opens first gains nothing.
    pub(crate) fn claim(&self, claims: BTreeMap<KeyStoreId, Claim>) {
        self.change("the host names", |listed| {
            listed.stores.retain(|id, _| claims.contains_key(id));
            listed.proven.retain(|id| claims.contains_key(id));
            listed.challenges.retain(|id, _| claims.contains_key(id));
            listed.claims = claims;
        });
    }

    /// Serves this version of a key store from now on, as far as its host name is its own.
    ///
    /// # Errors
    /// When no TLS configuration can be made of it; what was served before stays.
    pub(crate) fn put(&self, store: ServedKeyStore, claim: &Claim, is_proven: bool) -> Result<(), TlsError> {
        let mut listed = self.lock();
        let id = store.id;
        let store_before = listed.stores.insert(id, Arc::new(store));
        let claim_before = listed.claims.insert(id, claim.clone());
        let proven_before = listed.proven.contains(&id);
        listed.prove(id, is_proven);
        if let Err(error) = self.refresh(&listed) {
            restore(&mut listed.stores, id, store_before);
            restore(&mut listed.claims, id, claim_before);
            listed.prove(id, proven_before);
            return Err(error);
        }
        Ok(())
    }

    /// Answers this challenge for a key store, or none. Whoever is not served under the name is not answered for either: with an
    /// answer an authority would give them a certificate for somebody else's name.
    pub(crate) fn challenge(&self, id: KeyStoreId, challenge: Option<Challenge>) {
        if challenge.is_none() && !self.lock().challenges.contains_key(&id) {
            return;
        }
        self.change("a challenge", |listed| {
            match challenge {
                Some(challenge) => listed.challenges.insert(id, challenge),
                None => listed.challenges.remove(&id),
            };
        });
    }

    /// Serves a key store no longer. Its claim stays while its manifest does.
    pub(crate) fn remove(&self, id: KeyStoreId) {
        self.change("a key store", |listed| {
            listed.stores.remove(&id);
            listed.proven.remove(&id);
        });
    }

    /// Judges each proof again, where that delays no request.
    pub(crate) async fn judge_again(self: &Arc<Self>, workshop: &Workshop, clock: &dyn Clock) {
        if self.authorities.is_empty() {
            return;
        }
        let stores: Vec<_> = self.lock().stores.values().map(Arc::clone).collect();
        for store in stores {
            let (roster, judged, now_ms) = (Arc::clone(self), Arc::clone(&store), clock.wall_ms());
            let judging = move || roster.authorities.prove(judged.tls.chain(), &judged.host_name, now_ms);
            let Ok(is_proven) = workshop.work(judging).await else { return };
            // What was put in its place meanwhile was judged by itself.
            let is_due = |listed: &Listed| {
                listed.stores.get(&store.id).is_some_and(|current| Arc::ptr_eq(current, &store))
                    && listed.proven.contains(&store.id) != is_proven
            };
            let due = is_due(&self.lock());
            if due {
                self.change("a proof", |listed| {
                    if is_due(listed) {
                        listed.prove(store.id, is_proven);
                    }
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, what: &str, change: impl FnOnce(&mut Listed)) {
        let mut listed = self.lock();
        change(&mut listed);
        if let Err(error) = self.refresh(&listed) {
            self.reporter.log(Level::Error, &format!("{what} could not be changed: {error}"));
        }
    }

    fn refresh(&self, listed: &Listed) -> Result<(), TlsError> {
        let withheld = claims::settle(&listed.claims, &listed.proven);
        let served = listed.stores.iter().filter(|(id, _)| !withheld.contains_key(id)).map(|(_, s)| Arc::clone(s));
        let left_over = self.directory.replace(served.collect())?;
        let holds_name = |id: &KeyStoreId, challenge: &Challenge| {
            !withheld.contains_key(id)
                && listed.claims.get(id).is_some_and(|claim| claim.host_name == challenge.host_name)
        };
        let answered = listed.challenges.iter().filter(|(id, challenge)| holds_name(id, challenge));
        let answered = answered.map(|(_, challenge)| (challenge.host_name.clone(), Arc::clone(&challenge.tls)));
        self.directory.replace_challenges(answered.collect());
        for collision in left_over {
            // Settled above; the directory looks at what is served, whatever the claims are.
            let line = format!("{} is served to nobody: a collision that was not settled", collision.host_name);
            self.reporter.log(Level::Error, &line);
        }
        self.reporter.withhold(withheld.into_iter().map(|(id, reason)| (id, reason.to_string())).collect());
        Ok(())
    }
}

impl Listed {
    fn prove(&mut self, id: KeyStoreId, is_proven: bool) {
        if is_proven {
            self.proven.insert(id);
        } else {
            self.proven.remove(&id);
        }
    }
}

fn restore<T>(map: &mut BTreeMap<KeyStoreId, T>, id: KeyStoreId, before: Option<T>) {
    match before {
        Some(before) => map.insert(id, before),
        None => map.remove(&id),
    };
}

/// How often proofs are judged again.
const JUDGING_INTERVAL: Duration = Duration::from_mins(1);

/// Judges proofs again from time to time, for ever.
pub(crate) async fn keep_judged(roster: Arc<Roster>, enclave: Arc<Enclave>) {
    loop {
        tokio::time::sleep(JUDGING_INTERVAL).await;
        roster.judge_again(&enclave.workshop, &*enclave.clock).await;
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::{BlobId, BootId};
    use holdfast_shared::secrets::{Secret, SecretBytes};
    use holdfast_shared::sigv4::{CredentialSet, Regions};
    use holdfast_shared::xks::{HostName, PathPrefix};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;
    use crate::audit::{AuditKey, AuditLog, AuditLogs};
    use crate::clock::SteppedClock;
    use crate::directory::{FleetHealth, Gate, KeySlot, OwnerId};
    use crate::tls::TlsIdentity;
    use crate::xks::OpenGuard;

    const HOST: &str = "xks.a.test";
    const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21
    const DAY_MS: u64 = 24 * 3_600_000;

    fn id(n: u8) -> KeyStoreId {
        KeyStoreId([n; 32])
    }

    fn claim(n: u8) -> Claim {
        Claim {
            owner: OwnerId([n; 32]),
            host_name: HostName::parse(HOST).unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
        }
    }

    fn audit_log(id: KeyStoreId) -> Arc<AuditLog> {
        let clock = Arc::new(SteppedClock::at(NOW_MS));
        AuditLogs::new(AuditKey::generate().unwrap(), BootId([1; 16]), clock).of(id).unwrap()
    }

    /// A key store of its own owner, with a certificate of these dates.
    fn store(n: u8, issuer: &Issuer<'_, KeyPair>, from: (i32, u8, u8), to: (i32, u8, u8)) -> ServedKeyStore {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        let chain = vec![params.signed_by(&key, issuer).unwrap().der().to_vec()];
        let Claim { owner, host_name, path_prefix } = claim(n);
        ServedKeyStore {
            id: id(n),
            owner,
            host_name,
            path_prefix,
            version: 1,
            blob_id: BlobId([1; 32]),
            credentials: CredentialSet::new(vec![], &Secret::take(&mut [0; 32])).unwrap(),
            regions: Regions::Any,
            tls: Arc::new(TlsIdentity::new(chain, &SecretBytes::new(key.serialize_der()), 0).unwrap()),
            client_authentication: None,
            guard: Arc::new(OpenGuard),
            gate: Arc::new(Gate::new()),
            keys: Arc::new(KeySlot::new()),
            fleet: Arc::new(FleetHealth::new(vec![])),
            audit: audit_log(id(n)),
            tally: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_challenge_is_answered_for_whom_the_name_belongs_to_alone() {
        let clock: Arc<dyn Clock> = Arc::new(SteppedClock::at(NOW_MS));
        let directory = Arc::new(Directory::new(Arc::clone(&clock)));
        let (reporter, _lines) = Reporter::new();
        let roster = Roster::new(Arc::clone(&directory), reporter, Authorities::new(&[]).unwrap());
        let host = HostName::parse(HOST).unwrap();
        let tls = crate::tls::challenge_config(&host, &[1; 32], &clock).unwrap();
        let challenge =
            |name: &str| Some(Challenge { host_name: HostName::parse(name).unwrap(), tls: Arc::clone(&tls) });
        let claims = |ids: &[u8]| roster.claim(ids.iter().map(|n| (id(*n), claim(*n))).collect());
        roster.challenge(id(1), challenge(HOST));
        assert!(directory.challenge(&host).is_none(), "nobody claims the name");
        claims(&[1]);
        roster.challenge(id(1), challenge("xks.b.test"));
        assert!(directory.challenge(&HostName::parse("xks.b.test").unwrap()).is_none(), "not the name that it claims");
        roster.challenge(id(1), challenge(HOST));
        assert!(directory.challenge(&host).is_some());
        assert!(directory.host(&host).is_none(), "a challenge serves nothing");
        claims(&[1, 2]);
        assert!(directory.challenge(&host).is_none(), "two owners, and neither has proven the name");
        claims(&[1]);
        assert!(directory.challenge(&host).is_some());
        roster.challenge(id(1), None);
        assert!(directory.challenge(&host).is_none());
    }

    #[tokio::test]
    async fn a_name_that_was_won_by_a_certificate_does_not_outlast_it() {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&ca_key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, ca_key);

        let clock = Arc::new(SteppedClock::at(NOW_MS));
        let directory = Arc::new(Directory::new(clock.clone()));
        let (reporter, _lines) = Reporter::new();
        let roster = Arc::new(Roster::new(Arc::clone(&directory), reporter, Authorities::new(&[root]).unwrap()));
        let workshop = Workshop::new();
        let holder = || {
            let prefix = PathPrefix::parse("").unwrap();
            directory.store(&HostName::parse(HOST).unwrap(), &prefix).map(|store| store.id.as_bytes()[0])
        };
        let put = |n: u8, store: ServedKeyStore| {
            let is_proven = roster.authorities().prove(store.tls.chain(), &store.host_name, clock.wall_ms());
            roster.put(store, &claim(n), is_proven).unwrap();
        };

        // Once the name was the first one's; the second one's certificate is good only from next week on.
        put(1, store(1, &issuer, (2026, 1, 1), (2026, 9, 25)));
        put(2, store(2, &issuer, (2026, 9, 28), (2027, 1, 1)));
        assert_eq!(holder(), Some(1));
        roster.judge_again(&workshop, &*clock).await;
        assert_eq!(holder(), Some(1), "nothing has changed");
        clock.advance_ms(5 * DAY_MS);
        roster.judge_again(&workshop, &*clock).await;
        assert_eq!(holder(), None, "it has expired, and nobody else has a proof yet");
        clock.advance_ms(5 * DAY_MS);
        roster.judge_again(&workshop, &*clock).await;
        assert_eq!(holder(), Some(2));
        put(1, store(1, &issuer, (2026, 9, 29), (2027, 1, 1)));
        assert_eq!(holder(), None, "both");
    }
}
