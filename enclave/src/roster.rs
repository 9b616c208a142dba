//! Who is served at present: the list from which the [`Directory`] is made anew whenever one key store changes.
//!
//! Guarantees: only what [`claims`] allows is served; whoever is not, is reported with the reason, and an alarm is logged. Changing
//! the list takes a lock that no request ever takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_link::control::Level;
use holdfast_shared::ids::KeyStoreId;

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
            listed.claims = claims;
        });
    }

    /// Serves this version of a key store from now on, as far as its host name is its own.
    ///
    /// # Errors
    /// When no TLS configuration can be made of it; what was served before stays.
    pub(crate) fn put(&self, store: ServedKeyStore, claim: &Claim, is_proven: bool) -> Result<(), TlsError> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Serves a key store no longer. Its claim stays while its manifest does.
    pub(crate) fn remove(&self, id: KeyStoreId) {
        self.change("a key store", |listed| {
            listed.stores.remove(&id);
            listed.proven.remove(&id);
        });
    }

    fn change(&self, what: &str, change: impl FnOnce(&mut Listed)) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut listed);
        if let Err(error) = self.refresh(&listed) {
            self.reporter.log(Level::Error, &format!("{what} could not be changed: {error}"));
        }
    }

    fn refresh(&self, listed: &Listed) -> Result<(), TlsError> {
        let withheld = claims::settle(&listed.claims, &listed.proven);
        let served = listed.stores.iter().filter(|(id, _)| !withheld.contains_key(id)).map(|(_, s)| Arc::clone(s));
        let left_over = self.directory.replace(served.collect())?;
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
