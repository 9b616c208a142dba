//! What custodians know that this folder does not: successor manifests and release policies.
//!
//! Guarantees: nothing is taken over that administrators of the key store did not sign.

use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::query::{Answer, CustodyRecord, KeyStoreStatus, Question};

use super::contact::{Contact, Heard, with_each};
use super::{Session, SessionError};
use crate::home::KeyStore;

impl Session {
    /// How the key store is, as each custodian sees it.
    pub async fn statuses(&self) -> Heard<KeyStoreStatus> {
        self.statuses_of(&self.contacts).await
    }

    /// The same, as custodians of another manifest see it.
    pub async fn statuses_of(&self, contacts: &[Contact]) -> Heard<KeyStoreStatus> {
        with_each(contacts, self.quorum().answers(), |contact| async move {
            match contact.ask(Question::Status).await? {
                Answer::Status(status) => Ok(status),
                _ => Err(SessionError::OtherAnswer),
            }
        })
        .await
    }

    /// The home custodian's view of the key store.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn status(&self) -> Result<KeyStoreStatus, SessionError> {
        match self.home_contact()?.ask(Question::Status).await? {
            Answer::Status(status) => Ok(status),
            _ => Err(SessionError::OtherAnswer),
        }
    }

    /// What each custodian has on record about custody.
    pub async fn custody(&self) -> Heard<CustodyRecord> {
        with_each(&self.contacts, self.quorum().answers(), |contact| async move {
            match contact.ask(Question::Custody).await? {
                Answer::Custody(record) => Ok(record),
                _ => Err(SessionError::OtherAnswer),
            }
        })
        .await
    }

    /// Takes over the manifests and policies that custodians know, and notes them in the folder.
    ///
    /// # Errors
    /// [`SessionError::Home`] when custodians show another chain of manifests, or a file.
    pub fn learn<'a>(&self, records: impl Iterator<Item = &'a CustodyRecord>) -> Result<KeyStore, SessionError> {
        let mut store = self.store.clone();
        for record in records {
            let chain = record.manifests.iter().map(|signed| signed.as_slice());
            if let Ok(manifest) = VerifiedManifest::verify_chain(chain)
                && manifest.id() == store.manifest.id()
                && manifest.sequence() > store.manifest.sequence()
            {
                self.home.continue_chain(&store.manifest, &manifest)?;
                store.manifest = manifest;
            }
            for policy in store.learn_policies(record.policies.iter().map(|signed| signed.as_slice())) {
                self.home.note_policy(store.manifest.id(), &policy)?;
            }
        }
        Ok(store)
    }

    /// Asks custodians for manifests and policies, and takes them over.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn refreshed(&self) -> Result<KeyStore, SessionError> {
        let heard = self.custody().await;
        self.learn(heard.iter().filter_map(|(_, said)| said.as_ref()?.as_ref().ok()))
    }

    /// The same session, about what custodians know now.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn refresh(self) -> Result<Self, SessionError> {
        let store = self.refreshed().await?;
        let terms = self.terms;
        Ok(Self::about(&self.home, store)?.under(terms))
    }
}
