//! `holdfast manifest succeed`, `holdfast manifest adopt`: other administrators, thresholds, custodians or host name.
//!
//! Guarantees: a successor is made of the manifest in force, of the key store's own chain, and of what was asked for; it is staged at
//! the custodians before and after it, so that none of them meets a version of a manifest that it does not know.

use core::fmt;

use holdfast_shared::command::Action;
use holdfast_shared::manifest::{self, Administrator, Custodian, Manifest, Succession, Thresholds, VerifiedManifest};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::xks::HostName;
use holdfast_shared::{api, cbor};
use ring::rand::SystemRandom;
use serde::Serialize;

use super::Done;
use super::block::{in_force, nobody};
use super::manifest::{CreateError, Draft, check_numbers};
use super::release_policy;
use super::spread::{self, Spread};
use crate::home::{chain, prefixes};
use crate::output::printable;
use crate::session::{Contact, Session, SessionError, Wait};

/// What is to be changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// New administrators.
    pub add_administrators: Vec<Administrator>,
    /// Names, or beginnings of ids.
    pub remove_administrators: Vec<String>,
    /// New custodians.
    pub add_custodians: Vec<Custodian>,
    /// Names, or beginnings of ids.
    pub remove_custodians: Vec<String>,
    /// Signatures that each kind of order needs.
    pub thresholds: Option<Thresholds>,
    /// m.
    pub shares_needed: Option<u8>,
    /// f.
    pub hostile_tolerated: Option<u8>,
    /// The name that KMS calls.
    pub host_name: Option<HostName>,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// Custodians.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The numbers.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A name that means nobody, or several.
    #[error("{0}")]
    Named(String),
}

impl Changes {
    /// The manifest with these changes.
    ///
    /// # Errors
    /// [`SuccessionError::Named`] for somebody who is not there.
    pub fn apply(&self, own: &VerifiedManifest, overlay_epoch: u64) -> Result<Manifest, SuccessionError> {
        let mut next = own.manifest().clone();
        for named in &self.remove_administrators {
            let place = place_of(
                named,
                "administrator",
                next.administrators.iter().map(|a| (a.name.as_str(), a.id().to_string())),
            )?;
            next.administrators.remove(place);
        }
        next.administrators.extend(self.add_administrators.iter().cloned());
        for named in &self.remove_custodians {
            let place =
                place_of(named, "custodian", next.custodians.iter().map(|c| (c.name.as_str(), c.id().to_string())))?;
            if place == 0 {
                return Err(SuccessionError::Named(format!(
                    "{named} is the home custodian, whose signature every version bears: it stays, and moves with its keys"
                )));
            }
            next.custodians.remove(place);
        }
        next.custodians.extend(self.add_custodians.iter().cloned());
        next.thresholds = self.thresholds.unwrap_or(next.thresholds);
        next.shares_needed = self.shares_needed.unwrap_or(next.shares_needed);
        next.hostile_tolerated = self.hostile_tolerated.unwrap_or(next.hostile_tolerated);
        if let Some(host_name) = &self.host_name {
            next.host_name = host_name.clone();
        }
        next.succession = Some(Succession {
            key_store_id: own.id(),
            sequence: own.sequence().saturating_add(1),
            predecessor: own.digest(),
            overlay_epoch,
        });
        Ok(next)
    }
}

fn place_of<'a>(
    named: &str,
    what: &str,
    known: impl Iterator<Item = (&'a str, String)>,
) -> Result<usize, SuccessionError> {
    let is_meant = |name: &str, id: &str| name == named || (named.len() >= 8 && id.starts_with(named));
    let meant: Vec<_> =
        known.enumerate().filter(|(_, (name, id))| is_meant(name, id)).map(|(place, _)| place).collect();
    match meant.as_slice() {
        [only] => Ok(*only),
        [] => Err(SuccessionError::Named(format!("no {what} is named {named}"))),
        _ => {
            Err(SuccessionError::Named(format!("more than one {what} is named {named}; give the beginning of the id")))
        }
    }
}

/// Makes a successor of the manifest in force and signs it.
///
/// # Errors
/// [`SuccessionError`].
pub async fn succeed(session: &Session, changes: &Changes) -> Result<Draft, SuccessionError> {
    let heard = session.overlays().await;
    let answered = heard.iter().filter(|(_, said)| matches!(said, Some(Ok(_)))).count();
    if answered < session.quorum().answers() {
        // The epoch of the newest overlay stands in the successor.
        return Err(nobody(heard).into());
    }
    let shown = in_force(&heard).into_iter().map(|overlay| overlay.epoch).max().unwrap_or(0);
    let known = session.known_overlay().map_or(0, |overlay| overlay.epoch);
    let next = changes.apply(&session.store().manifest, shown.max(known))?;
    check_numbers(&next)?;
    let envelope =
        manifest::sign(&next, &session.keys().signing_key, &SystemRandom::new()).map_err(SessionError::from)?;
    Ok(Draft { manifest: next, envelope })
}

/// A successor that came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// Its sequence.
    pub sequence: u32,
    /// Who has it staged.
    pub staged: Spread,
    /// What was done; none where it was in force already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
    /// Custodians that do not say yet that it is in force.
    pub behind: Vec<String>,
}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "staged {}", self.staged)?;
        match &self.done {
            Some(done) => write!(f, "{done}")?,
            None => write!(f, "manifest {} was in force already", self.sequence)?,
        }
        self.behind.iter().try_for_each(|name| write!(f, "\n  {}: does not have it in force yet", printable(name)))
    }
}

/// Stages a successor, orders an enclave to adopt it, and waits until custodians have it in force.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Awaits`] where other administrators must approve the order.
pub async fn adopt(
    session: &Session,
    signed: &[u8],
    wait: Wait<'_>,
) -> Result<(VerifiedManifest, Adopted), SessionError> {
    let own = &session.store().manifest;
    let known = prefixes(own).into_iter().find(|prefix| prefix.successors().last() == Some(signed));
    let is_in_force = known.is_some();
    let next = match known {
        Some(known) => known,
        None => own.succeed(signed)?,
    };
    let staged = stage(session, &next, signed, wait).await?;
    let sequence = next.sequence();
    if !staged.complete {
        return Ok((next, Adopted { sequence, staged, done: None, behind: Vec::new() }));
    }
    let done = if is_in_force {
        None
    } else {
        let action = Action::AdoptManifest { signed: signed.to_vec() };
        Some(Done::new(format!("manifest {sequence} is in force"), session.order(action, wait).await?)?)
    };
    session.home().continue_chain(own, &next)?;
    let behind = behind(session, &next, wait).await?;
    Ok((next, Adopted { sequence, staged, done, behind }))
}

/// What a custodian that comes new must know besides the manifests: enclaves give none a share that knows less than the others.
#[derive(Clone)]
struct Introduction {
    chain: Vec<u8>,
    overlay: Option<Vec<u8>>,
    policy: Option<Vec<u8>>,
}

impl Introduction {
    async fn gather(session: &Session, next: &VerifiedManifest) -> Result<Self, SessionError> {
        session.overlays().await;
        let overlay = session.home().signed_overlay(session.store()).map(|(_, signed)| signed);
        let (policy, _) = release_policy::in_force(session).await?;
        let policy = Some(policy.signed).filter(|signed| !signed.is_empty());
        Ok(Self { chain: cbor::encode(&chain(next)).to_vec(), overlay, policy })
    }

    async fn send(self, contact: &Contact) -> Result<(), SessionError> {
        contact.send(api::MANIFEST_CHAINS, self.chain).await?;
        let more = [(api::BLOCKS, self.overlay), (api::POLICIES, self.policy)];
        for (path, signed) in more.into_iter().filter_map(|(path, signed)| Some((path, signed?))) {
            match contact.send(path, signed).await {
                // It has this one already, or a newer one.
                Err(error) if error.is_conflict() => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Sends a successor to every custodian before and after it.
async fn stage(
    session: &Session,
    next: &VerifiedManifest,
    signed: &[u8],
    wait: Wait<'_>,
) -> Result<Spread, SessionError> {
    let own = session.store().manifest.manifest();
    let is_new = |custodian: &&Custodian| !own.custodians.iter().any(|old| old.id() == custodian.id());
    let mut custodians = own.custodians.clone();
    custodians.extend(next.manifest().custodians.iter().filter(is_new).cloned());
    let contacts = session.contacts_of(&custodians)?;
    let known: Vec<_> = own.custodians.iter().map(Custodian::id).collect();
    let introduction = Introduction::gather(session, next).await?;
    let signed = signed.to_vec();
    // As many as any change needs, of the old and of the new ones; all that can be reached are told.
    let most = Quorum::of(own).write().max(Quorum::of(next.manifest()).write());
    let needed = custodians.len().min(most.saturating_add(custodians.len().saturating_sub(own.custodians.len())));
    spread::to_all(&contacts, needed, wait, move |contact| {
        let (signed, introduction) = (signed.clone(), introduction.clone());
        let is_known = known.contains(&contact.custodian().id());
        async move {
            if is_known { contact.send(api::SUCCESSORS, signed).await } else { introduction.send(&contact).await }
        }
    })
    .await
}

/// Custodians of the successor that do not say in time that it is in force.
async fn behind(session: &Session, next: &VerifiedManifest, wait: Wait<'_>) -> Result<Vec<String>, SessionError> {
    let contacts = session.contacts_of(&next.manifest().custodians)?;
    let mut patience = crate::session::Patience::new(wait);
    loop {
        let heard = session.statuses_of(&contacts).await;
        let has = |said: &Option<Result<holdfast_shared::query::KeyStoreStatus, SessionError>>| matches!(said, Some(Ok(status)) if status.manifest_sequence >= next.sequence());
        let behind: Vec<_> =
            heard.iter().filter(|(_, said)| !has(said)).map(|(contact, _)| contact.name().to_owned()).collect();
        if behind.is_empty() || patience.pause("custodians to adopt the manifest").await.is_err() {
            return Ok(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::attestation::Measurements;
    use holdfast_shared::hpke::PrivateKey;
    use holdfast_shared::manifest::DerCertificate;
    use holdfast_shared::signature::{SigningKey, VerifyingKey};
    use holdfast_shared::xks::PathPrefix;

    use super::super::manifest::{Settings, draft};
    use super::*;
    use crate::home::Home;

    fn custodian(name: &str, byte: u8) -> Custodian {
        Custodian {
            name: name.to_owned(),
            signing_key: VerifyingKey([byte; 97]),
            encryption_key: *PrivateKey::generate().unwrap().public_key(),
            address: "localhost:9443".to_owned(),
            tls_roots: vec![DerCertificate(vec![1])],
        }
    }

    fn somebody(name: &str) -> Administrator {
        let rng = SystemRandom::new();
        let key = SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
        let encryption_key = *PrivateKey::generate().unwrap().public_key();
        Administrator { name: name.to_owned(), signing_key: key.verifying_key().unwrap(), encryption_key }
    }

    fn first(home: &Home) -> VerifiedManifest {
        home.create_administrator("alice").unwrap();
        let pcr = [1; 48];
        let set = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
        let settings = Settings {
            name: "payments".to_owned(),
            administrators: Vec::new(),
            custodians: vec![custodian("vault-1", 1), custodian("vault-2", 2), custodian("vault-3", 3)],
            shares_needed: 2,
            hostile_tolerated: 0,
            kms_share: None,
            host_name: HostName::parse("xks.example.com").unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
            measurements: vec![set],
            emulated_root: None,
            lease_ms: 60_000,
            thresholds: Thresholds::ONE,
        };
        VerifiedManifest::verify(&cbor::encode(&draft(home, &settings).unwrap().envelope)).unwrap()
    }

    #[test]
    fn a_successor_is_the_manifest_in_force_with_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"));
        let own = first(&home);
        let changes = Changes {
            add_administrators: vec![somebody("bob")],
            remove_custodians: vec!["vault-2".to_owned()],
            add_custodians: vec![custodian("vault-4", 4)],
            hostile_tolerated: Some(1),
            ..Changes::default()
        };
        let next = changes.apply(&own, 7).unwrap();
        let names: Vec<_> = next.custodians.iter().map(|custodian| custodian.name.as_str()).collect();
        assert_eq!(names, ["vault-1", "vault-3", "vault-4"]);
        assert_eq!((next.hostile_tolerated, next.shares_needed), (1, 2));
        // It succeeds, and is noted; a stranger's manifest is not.
        let envelope = manifest::sign(&next, &home.administrator().unwrap().signing_key, &SystemRandom::new()).unwrap();
        let next = own.succeed(&cbor::encode(&envelope)).unwrap();
        assert_eq!((next.sequence(), next.id()), (2, own.id()));
        home.add_key_store(own.clone(), None).unwrap();
        home.continue_chain(&own, &next).unwrap();
        let store = home.key_store(Some("payments")).unwrap();
        assert_eq!((store.manifest.digest(), prefixes(&store.manifest).len()), (next.digest(), 2));
        let other = first(&Home::at(folder.path().join("other")));
        assert!(home.continue_chain(&own, &other).is_err());
        assert!(home.continue_chain(&next, &own).is_err(), "backwards");
    }

    #[test]
    fn nobody_is_removed_by_a_name_that_does_not_mean_one() {
        let folder = tempfile::tempdir().unwrap();
        let own = first(&Home::at(folder.path().join("home")));
        let id = own.manifest().custodians[2].id().to_string();
        let remove = |named: &str| {
            let changes = Changes { remove_custodians: vec![named.to_owned()], ..Changes::default() };
            changes.apply(&own, 0).map(|next| next.custodians.len()).map_err(|error| error.to_string())
        };
        assert_eq!(remove("vault-2"), Ok(2));
        assert_eq!(remove(&id[..8]), Ok(2));
        assert!(remove("vault-1").unwrap_err().contains("home custodian"));
        for nobody in ["", "vault", "vault-9", &id[..7]] {
            assert!(remove(nobody).unwrap_err().contains("no custodian is named"), "{nobody:?}");
        }
        let changes = Changes { remove_administrators: vec!["carol".to_owned()], ..Changes::default() };
        assert!(changes.apply(&own, 0).is_err());
    }
}
