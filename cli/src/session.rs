//! One administrator's conversation with one key store's custodians: sign, send, wait, open, verify.
//!
//! Commands go to the home custodian, which orders them; blocks, release policies and manifests go to all; questions go to
//! whoever knows. Guarantees: whatever is returned was signed by the custodian for this very query, and an outcome was made by an
//! enclave that the release policies accepted then, for this very command. Assumes: the system clock is within five minutes of the
//! custodians'. Refuses: outcomes without valid evidence, however plausible.

mod contact;
mod custody;
mod error;
mod orders;
mod overlays;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::command::Outcome;
use holdfast_shared::ids::CommandId;
use holdfast_shared::manifest::Custodian;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::{api, cbor};
use ring::rand::SystemRandom;

pub use self::contact::{Contact, Heard, with_each};
pub use self::error::SessionError;
pub use self::orders::{PendingCommand, Terms};
pub use self::overlays::put_overlay;
pub use self::wait::{Patience, TimeOver, Wait};
use crate::commands::spread::{self, Spread};
use crate::evidence::Evidence;
use crate::home::{AdministratorKeys, Home, HomeError, KeyStore};

/// A command that was dealt with, and the proof that an accepted enclave did.
#[derive(Debug)]
pub struct Completed {
    /// The command.
    pub command_id: CommandId,
    /// What came of it. Never [`Outcome::Refused`], which is an error here.
    pub outcome: Outcome,
    /// Who says so.
    pub evidence: Evidence,
}

/// A conversation.
pub struct Session {
    home: Home,
    keys: Arc<AdministratorKeys>,
    store: KeyStore,
    contacts: Vec<Contact>,
    terms: Terms,
    rng: SystemRandom,
}

impl Session {
    /// Takes the keys and the key store from the folder.
    ///
    /// # Errors
    /// [`SessionError::Home`], [`SessionError::NotAdministrator`], [`SessionError::Client`].
    pub fn open(home: &Home, key_store: Option<&str>) -> Result<Self, SessionError> {
        Self::about(home, home.key_store(key_store)?)
    }

    /// With a key store that was loaded already.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn about(home: &Home, store: KeyStore) -> Result<Self, SessionError> {
        let keys = Arc::new(home.administrator()?);
        let manifest = store.manifest.manifest();
        if !manifest.administrators.contains(&keys.administrator) {
            let (name, key_store) = (keys.administrator.name.clone(), manifest.name.clone());
            return Err(SessionError::NotAdministrator { name, key_store });
        }
        let id = store.manifest.id();
        let contacts = manifest.custodians.iter().map(|custodian| Contact::new(custodian, &keys, id));
        let contacts = contacts.collect::<Result<Vec<_>, _>>()?;
        let (home, terms, rng) = (home.clone(), Terms::default(), SystemRandom::new());
        Ok(Self { home, keys, store, contacts, terms, rng })
    }

    /// The key store.
    #[must_use]
    pub const fn store(&self) -> &KeyStore {
        &self.store
    }

    /// The tool's folder.
    #[must_use]
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// The administrator's keys.
    #[must_use]
    pub fn keys(&self) -> &AdministratorKeys {
        &self.keys
    }

    /// How many custodians must say what.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        Quorum::of(self.store.manifest.manifest())
    }

    /// The custodians of the manifest in force, home first.
    #[must_use]
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Another manifest's custodians.
    ///
    /// # Errors
    /// [`SessionError::Client`] when an address or a root makes no sense.
    pub fn contacts_of(&self, custodians: &[Custodian]) -> Result<Vec<Contact>, SessionError> {
        let contacts = custodians.iter().map(|custodian| Contact::new(custodian, &self.keys, self.store.manifest.id()));
        Ok(contacts.collect::<Result<_, _>>()?)
    }

    /// A custodian by its name or the beginning of its id; home without one.
    ///
    /// # Errors
    /// [`SessionError::UnknownCustodian`].
    pub fn contact(&self, named: Option<&str>) -> Result<&Contact, SessionError> {
        let Some(named) = named else { return self.home_contact() };
        let known = || self.contacts.iter().map(Contact::name).collect::<Vec<_>>().join(", ");
        let is_meant = |contact: &&Contact| {
            contact.name() == named || (named.len() >= 8 && contact.custodian().id().to_string().starts_with(named))
        };
        let found = self.contacts.iter().find(is_meant);
        found.ok_or_else(|| SessionError::UnknownCustodian { name: named.to_owned(), known: known() })
    }

    /// The home custodian.
    ///
    /// # Errors
    /// Never for a verified manifest, which names one at least.
    pub fn home_contact(&self) -> Result<&Contact, SessionError> {
        self.contacts.first().ok_or_else(|| HomeError::NoKeyStore.into())
    }

    /// The home custodian, as the manifest describes it.
    ///
    /// # Panics
    /// Never: a verified manifest names one at least.
    #[must_use]
    pub fn custodian(&self) -> &Custodian {
        #[expect(clippy::expect_used, reason = "a manifest without a custodian is refused when it is decoded")]
        self.store.manifest.home_custodian().expect("a verified manifest names a custodian")
    }

    /// Sends the manifests to every custodian at once, each of which then waits for a ceremony.
    ///
    /// # Errors
    /// Where nobody takes it: the custodian's own words, or those of all.
    pub async fn enrol_with(&self, needed: usize, wait: Wait<'_>) -> Result<Spread, SessionError> {
        let manifest = &self.store.manifest;
        let (path, body) = if manifest.sequence() == 1 {
            (api::MANIFESTS, manifest.signed_bytes().to_vec())
        } else {
            (api::MANIFEST_CHAINS, cbor::encode(&crate::home::chain(manifest)).to_vec())
        };
        spread::to_all(&self.contacts, needed, wait, move |contact| {
            let body = body.clone();
            async move { contact.send(path, body).await }
        })
        .await
    }

    /// The same, where all of them must take it at once.
    ///
    /// # Errors
    /// The first refusal or failure.
    pub async fn enrol(&self) -> Result<(), SessionError> {
        let spread = self.enrol_with(self.contacts.len(), Wait::silent(Duration::ZERO)).await?;
        let missing =
            spread.custodians.iter().find_map(|one| Some(format!("{}: {}", one.custodian, one.error.as_ref()?)));
        missing.map_or(Ok(()), |missing| Err(SessionError::Nobody(missing)))
    }
}
