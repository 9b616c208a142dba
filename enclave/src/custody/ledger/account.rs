//! What is told about a key store: its state, and who is to blame.
//!
//! A block is the first reason not to serve, whatever else happens (design, section 3). Each custodian in trouble is named.

use holdfast_client::Connect;
use holdfast_link::control::{KeyStoreState, Level};
use holdfast_shared::ids::CustodianId;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::register::RegisterEntry;

use super::{Ledger, State};
use crate::custody::CustodyError;
use crate::report::StoreReport;

/// Why a custodian is of no use at present.
pub(super) struct Trouble {
    text: String,
    is_refusal: bool,
}

/// Why the key store is not served, custodians aside.
#[derive(Default)]
pub(super) struct Problem {
    text: Option<String>,
    is_ceremony: bool,
}

impl Problem {
    /// Something newer is to be told.
    pub(super) fn forget(&mut self) {
        self.text = None;
    }
}

impl<C: Connect + 'static> Ledger<C> {
    /// A link has failed.
    pub(in crate::custody) fn failed(&self, id: CustodianId, error: &CustodyError) {
        let mut state = self.lock();
        let was_open = state.unsealed.is_some();
        let Some(link) = state.links.get_mut(&id) else { return };
        link.session = None;
        if error.is_refusal() {
            link.health.refused();
        } else {
            link.health.failed();
        }
        link.trouble = Some(Trouble { text: error.to_string(), is_refusal: error.is_refusal() });
        if let CustodyError::LeaseEnded(_) = error {
            link.end();
            self.note_lease(id, None);
            self.regate(&mut state);
            // Not open any longer: everything goes now, not when somebody looks.
            if self.served.lease_expires_ms().is_none_or(|expires_ms| self.now_ms() >= expires_ms) {
                self.wipe(&mut state);
                self.regate(&mut state);
            }
        }
        state.problem.forget();
        let serves_on = was_open && state.unsealed.is_some();
        drop(state);
        if serves_on {
            // The leases still run: what was released may be used until they end.
            self.log(Level::Warn, &format!("{error}; serving on"));
        }
        self.tell_all();
        self.report();
    }

    /// A custodian answers again.
    pub(in crate::custody) fn trouble_is_over(&self, id: CustodianId) {
        let mut state = self.lock();
        let ended = state.links.get_mut(&id).and_then(|link| link.trouble.take()).is_some();
        drop(state);
        if ended {
            self.report();
        }
    }

    /// A custodian did not answer, and its lease goes on.
    pub(in crate::custody) fn silent(&self, id: CustodianId, error: &CustodyError) {
        if let Some(link) = self.lock().links.get_mut(&id) {
            link.is_silent = true;
        }
        self.in_trouble(id, error);
    }

    /// A custodian would not do what was asked, and its lease goes on.
    pub(in crate::custody) fn in_trouble(&self, id: CustodianId, error: &CustodyError) {
        let mut state = self.lock();
        let Some(link) = state.links.get_mut(&id) else { return };
        link.trouble = Some(Trouble { text: error.to_string(), is_refusal: false });
        drop(state);
        self.report();
    }

    /// Why nothing newer, or nothing at all, is served.
    pub(in crate::custody) fn problem(&self, text: &str) {
        let mut state = self.lock();
        let is_new = state.problem.text.as_deref() != Some(text);
        state.problem = Problem { text: Some(text.to_owned()), is_ceremony: false };
        let is_open = state.unsealed.is_some();
        drop(state);
        if is_new && is_open {
            self.log(Level::Warn, &format!("{text}; serving on"));
        }
        self.report();
    }

    /// A version waits for more custodians to hold it.
    pub(in crate::custody) fn unfinished(&self, entry: &RegisterEntry) {
        let mut state = self.lock();
        let holds =
            |link: &super::LinkState<C>| link.answer.as_ref().is_some_and(|told| told.entry.as_ref() == Some(entry));
        let version = entry.version;
        let told = |manifest: &VerifiedManifest| {
            let (have, lack): (Vec<_>, Vec<_>) = state.members_of(manifest).partition(|(_, link)| holds(link));
            let lacking: Vec<_> = lack.into_iter().map(|(_, link)| link.custodian.name.as_str()).collect();
            let (held, needed) = (have.len(), Quorum::of(manifest.manifest()).write());
            let under = match manifest.sequence() {
                sequence if sequence > 1 => format!(" under manifest {sequence}"),
                _ => String::new(),
            };
            let lacking = lacking.join(", ");
            (held < needed).then(|| {
                format!(
                    "version {version} is held by {held} of {needed} custodians that must hold it{under}; not by {lacking}"
                )
            })
        };
        let lacks: Vec<_> = state.judged().into_iter().filter_map(|manifest| told(manifest)).collect();
        let text = if lacks.is_empty() { format!("version {version} is being committed") } else { lacks.join("; ") };
        state.problem = Problem { text: Some(text), is_ceremony: false };
        drop(state);
        self.report();
    }

    /// The root key is being drawn and deposited.
    pub(in crate::custody) fn in_ceremony(&self, text: &str) {
        self.lock().problem = Problem { text: Some(text.to_owned()), is_ceremony: true };
        self.report();
    }

    /// Tells the parent where the key store stands.
    pub(in crate::custody) fn report(&self) {
        let state = self.lock();
        let (told, reason) = state.account(self.served.has_certificate(), self.now_ms());
        let version = state.unsealed.as_ref().map(|unsealed| unsealed.entry().version);
        drop(state);
        let report = StoreReport { state: told, version, lease_expires_ms: self.served.lease_expires_ms(), reason };
        self.enclave.reporter.set(self.id, report);
    }
}

impl<C> State<C> {
    fn account(&self, has_certificate: bool, now_ms: u64) -> (KeyStoreState, Option<String>) {
        if self.is_blocked() {
            return (KeyStoreState::Blocked, Some("an administrator blocked the key store".to_owned()));
        }
        let is_alone = self.manifest.manifest().custodians.len() == 1;
        if self.unsealed.is_some() {
            let reason = if is_alone { self.problem.text.clone() } else { self.reason(now_ms) };
            let not_witnessed = self
                .members()
                .filter_map(|(_, link)| Some(format!("{}: {}", link.custodian.name, link.not_witnessed.as_ref()?)));
            let parts: Vec<_> = self.caveat.into_iter().map(str::to_owned).chain(reason).chain(not_witnessed).collect();
            let reason = (!parts.is_empty()).then(|| parts.join("; "));
            if has_certificate {
                return (KeyStoreState::Serving, reason);
            }
            let reason = reason.map(|reason| format!("; {reason}")).unwrap_or_default();
            return (KeyStoreState::AwaitingCertificate, Some(format!("no certificate is installed yet{reason}")));
        }
        let quorum = self.quorum();
        let refusals =
            self.members().filter(|(_, link)| link.trouble.as_ref().is_some_and(|trouble| trouble.is_refusal)).count();
        let told = if quorum.custodians().saturating_sub(refusals) < quorum.answers() {
            KeyStoreState::Refused
        } else if self.floor.is_some() {
            // It was served in this boot.
            KeyStoreState::LeaseExpired
        } else if self.problem.is_ceremony {
            KeyStoreState::AwaitingCeremony
        } else {
            KeyStoreState::AwaitingCustodian
        };
        let reason = if is_alone {
            let trouble = self.members().find_map(|(_, link)| link.trouble.as_ref());
            trouble.map(|trouble| trouble.text.clone()).or_else(|| self.problem.text.clone())
        } else {
            self.reason(now_ms)
        };
        (told, reason)
    }

    /// Of several custodians, who is missing and why.
    fn reason(&self, now_ms: u64) -> Option<String> {
        let mut parts: Vec<String> = self.problem.text.iter().cloned().collect();
        // Before anything is opened, the newest that was handed out is likely to be in force.
        let newest = self.successors().first().copied().filter(|_| self.unsealed.is_none());
        let manifest = newest.unwrap_or(&self.manifest);
        let answered = self.answers(manifest, now_ms).len();
        let needed = Quorum::of(manifest.manifest()).answers();
        if self.unsealed.is_none() && answered < needed {
            parts.push(format!("{answered} of {needed} custodians answered"));
        }
        for (_, link) in self.members_of(manifest) {
            if let Some(trouble) = &link.trouble {
                parts.push(format!("{}: {}", link.custodian.name, trouble.text));
            } else if self.unsealed.is_none() && link.answer.is_none() {
                parts.push(format!("{}: no answer yet", link.custodian.name));
            }
        }
        if parts.is_empty() { None } else { Some(parts.join("; ")) }
    }
}
