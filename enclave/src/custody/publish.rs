//! From a signed command, or a standing order, to a published version.
//!
//! Guarantees: a version is published only while so many custodians answer that it can be committed, and carries the NSM's word for
//! what it is; it is served only once it is committed, together with the result; who loses the race for a version drops everything it
//! made for it and starts again from the winner's; a command that fails is put off and stops no other.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::command::{self, CommandError, Outcome, ResultContent, ResultUserData, SealedResult};
use holdfast_shared::ids::{BlobId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{self, Body, Place, SealedKeyStore};
use holdfast_shared::manifest::{Administrator, VerifiedManifest};
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::release::HeldEntry;
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::{cbor, labels};
use ring::rand::SystemRandom;

use super::CustodyError;
use super::commands::{self, Effect, Handled, Situation};
use super::coordinator::{Coordinator, Step};
use super::rotate::Shared;
use super::unseal::{HeldVersion, Root, Unsealed};
use crate::entropy;
use crate::nsm::Nsm;

/// Lost races in a row after which a command is left for later.
const RACES_MAX: usize = 16;
/// How often standing orders are looked at once one is due, in milliseconds.
const DUE_INTERVAL_MS: u64 = 60_000;

/// What became of a command, seen from here.
enum Dealt {
    /// It is done, answered, or another enclave's.
    With(CommandId),
    /// Another version came first.
    Race,
    /// It must be looked at again later.
    Not,
}

/// What a command changed.
enum Change {
    Body,
    /// The root key as well.
    Root,
    /// The manifest, and the root key if its shares go to others, or to another number of them.
    Manifest(Arc<VerifiedManifest>, bool),
}

/// A version to be sealed and published.
pub(super) struct Draft {
    pub(super) root: Root,
    pub(super) body: Body,
    pub(super) place: Place,
    pub(super) results: Vec<SealedResult>,
    pub(super) commands: Vec<CommandId>,
}

impl Draft {
    /// The next version under the same root key.
    pub(super) fn after(unsealed: &Unsealed, key_store_id: KeyStoreId, body: Body) -> Self {
        let root = unsealed.root().duplicate();
        let (previous, version) = (Some(unsealed.entry().blob_id), unsealed.entry().version.saturating_add(1));
        let place = Place { key_store_id, version, previous, generation: root.set().generation };
        Self { root, body, place, results: Vec::new(), commands: Vec::new() }
    }

    /// The same under a new root key.
    fn under(mut self, shared: Shared) -> Self {
        self.place.generation = shared.root.set().generation;
        self.body.sharing = Some(shared.sharing);
        self.root = shared.root;
        self
    }
}

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Deals with the command that waits longest.
    pub(super) async fn handle_next(&mut self, unsealed: &Arc<Unsealed>) -> Result<Step, CustodyError> {
        let Some(waiting) = self.ledger.docket(|docket| docket.next()) else { return Ok(Step::Idle) };
        let dealt = self.handle(unsealed, &waiting.signed).await;
        let now_ms = self.now_ms();
        self.ledger.docket(|docket| match &dealt {
            Ok(Dealt::With(command_id)) => docket.done(*command_id),
            Ok(Dealt::Race) if docket.lost_race() < RACES_MAX => {}
            _ => docket.put_off(now_ms),
        });
        if let Err(error) = dealt {
            let error = match self.ledger.home() {
                Ok((home, _)) => self.blame(home, error),
                Err(_) => error,
            };
            self.ledger.log(Level::Warn, &format!("a command failed and is put off: {error}"));
        }
        Ok(Step::Again)
    }

    /// Deals with one command. An error is the channel's, a custodian's, or that of somebody's key; a bad command is answered or
    /// left.
    async fn handle(&mut self, unsealed: &Arc<Unsealed>, signed: &[u8]) -> Result<Dealt, CustodyError> {
        self.ledger.charge(unsealed.version().blob.len());
        let fresh = entropy::secret(&self.ledger.enclave.nsm, "external key").await?;
        let (handled, body) = self.judge(unsealed, signed, fresh).await?;
        let Handled { command_id, recipient, effect } = match handled {
            Ok(handled) => handled,
            Err(error) => {
                self.ledger.log(Level::Error, &format!("a command was ignored: {error}"));
                return Ok(Dealt::Not);
            }
        };
        let id = self.ledger.id();
        let (outcome, change) = match effect {
            Effect::Left => return Ok(Dealt::With(command_id)),
            Effect::Waiting => return Ok(Dealt::Not),
            Effect::Answered(outcome) => {
                let result = self.sealed_result(command_id, &recipient, &outcome).await?;
                self.tell(result).await?;
                return Ok(Dealt::With(command_id));
            }
            Effect::Changed(outcome) => (outcome, Change::Body),
            Effect::ChangedRoot(outcome) => (outcome, Change::Root),
            Effect::Adopted { manifest, reshare, outcome } => (outcome, Change::Manifest(Arc::new(*manifest), reshare)),
        };
        let draft = Draft::after(unsealed, id, body);
        let result = self.sealed_result(command_id, &recipient, &outcome).await?;
        let draft = Draft { results: vec![result], commands: vec![command_id], ..draft };
        let is_first = match change {
            Change::Body => {
                self.check_writable()?;
                self.publish(draft).await?
            }
            Change::Root => {
                self.check_writable()?;
                let draft = self.under_new_root(draft, &self.ledger.manifest()).await?;
                self.publish(draft).await?
            }
            Change::Manifest(successor, reshare) => self.adopt(draft, successor, reshare).await?,
        };
        Ok(if is_first { Dealt::With(command_id) } else { Dealt::Race })
    }

    /// Opens the newest version and carries a command out on it. Up to 16 signatures are verified, and the body is measured: all
    /// of that is heavy.
    async fn judge(
        &self,
        unsealed: &Arc<Unsealed>,
        signed: &[u8],
        fresh: Secret<32>,
    ) -> Result<(Result<Handled, CommandError>, Body), CustodyError> {
        let (manifest, clock) = (self.ledger.manifest(), Arc::clone(&self.ledger.enclave.clock));
        let attested_key = self.ledger.attested_key().ok_or(CustodyError::Wiped)?;
        let overlay_epoch = self.ledger.overlay_epoch();
        let (unsealed, signed) = (Arc::clone(unsealed), signed.to_vec());
        let judging = move || {
            let mut body = unsealed.body()?;
            let situation = Situation {
                manifest: &manifest,
                overlay_epoch,
                now_ms: clock.wall_ms(),
                version: unsealed.entry().version,
                attested_key: &attested_key,
                fresh,
            };
            Ok((commands::carry_out(&signed, &mut body, situation), body))
        };
        self.ledger.enclave.workshop.work(judging).await?
    }

    /// Carries out standing orders whose time has come. Nothing: there are none.
    pub(super) async fn carry_out_due(&mut self, unsealed: &Arc<Unsealed>) -> Result<Option<Step>, CustodyError> {
        let (wall_ms, now_ms) = (self.ledger.enclave.clock.wall_ms(), self.now_ms());
        let is_due = unsealed.due_ms().is_some_and(|due_ms| wall_ms >= due_ms);
        if !is_due || now_ms < self.due_again_ms || self.ledger.home().is_err() {
            return Ok(None);
        }
        self.due_again_ms = now_ms.saturating_add(DUE_INTERVAL_MS);
        self.ledger.charge(unsealed.version().blob.len());
        let opening = Arc::clone(unsealed);
        let judging = move || {
            let mut body = opening.body()?;
            let is_due = commands::is_due(&body, wall_ms);
            let destroyed = if is_due { commands::carry_out_due(&mut body, wall_ms) } else { Vec::new() };
            Ok::<_, CustodyError>((body, destroyed))
        };
        let (body, destroyed) = self.ledger.enclave.workshop.work(judging).await??;
        if destroyed.is_empty() {
            return Ok(None);
        }
        self.check_writable()?;
        let draft = Draft::after(unsealed, self.ledger.id(), body);
        let draft = self.under_new_root(draft, &self.ledger.manifest()).await?;
        // Which ones, the version's record says; the parent may not know.
        let line = format!("keys whose waiting period is over are destroyed: {}", destroyed.len());
        self.ledger.log(Level::Warn, &line);
        self.publish(draft).await?;
        Ok(Some(Step::Again))
    }

    /// Whether what is published now can be committed.
    pub(super) fn check_writable(&self) -> Result<(), CustodyError> {
        self.check_connected(&self.ledger.manifest(), self.ledger.quorum().write())
    }

    /// Shares a new root key for a version.
    pub(super) async fn under_new_root(
        &self,
        draft: Draft,
        manifest: &VerifiedManifest,
    ) -> Result<Draft, CustodyError> {
        let generation = draft.place.generation.checked_add(1).ok_or(CustodyError::OtherAnswer)?;
        let shared = self.share_new_root(manifest, generation).await?;
        Ok(draft.under(shared))
    }

    /// Seals a version and publishes it at the home custodian. `false`: another one came first.
    pub(super) async fn publish(&mut self, draft: Draft) -> Result<bool, CustodyError> {
        let Draft { root, body, place, results, commands } = draft;
        let (home, session) = self.ledger.home()?;
        let (set, manifest) = (share_set_sha256(root.set()), body.manifest_id(place.key_store_id));
        let sealing = move || keystore::seal(root.key(), &place, &body, &SystemRandom::new());
        let SealedKeyStore { id: blob_id, bytes: blob } = self.ledger.enclave.workshop.work(sealing).await??;
        self.check_room(blob.len())?;
        let user_data = VersionUserData {
            label: labels::ATTEST_VERSION.to_owned(),
            key_store_id: place.key_store_id,
            version: place.version,
            blob_id,
            previous: place.previous,
            share_set_sha256: set,
            manifest,
            commands,
        };
        let evidence = evidence(&self.ledger.enclave.nsm, blob_id, &user_data).await?;
        let (version, previous) = (place.version, place.previous);
        let ask = Ask::Publish { version, previous, blob: blob.clone(), results, evidence: evidence.clone() };
        match session.ask(&ask).await.map_err(|error| self.blame(home, error))?.0 {
            Reply::Published { register } => {
                let is_home_enough = |manifest: &VerifiedManifest| Quorum::of(manifest.manifest()).write() == 1;
                let is_committed = is_home_enough(&self.ledger.manifest())
                    && self.ledger.manifest_of(manifest).is_some_and(|manifest| is_home_enough(&manifest));
                // Believed only if it names what was published: otherwise the custodian answers for something else.
                let entry = self.ledger.opened_entry(&register)?;
                if (entry.version, entry.blob_id, entry.previous) != (version, blob_id, previous) {
                    return Err(CustodyError::OtherAnswer);
                }
                self.keep(HeldVersion::new(entry, register.clone(), blob, evidence)?);
                self.ledger.holds(home, HeldEntry { signed: register, is_committed })?;
                Ok(true)
            }
            Reply::Conflict { register: Some(register) } => {
                self.ledger.holds(home, register)?;
                Ok(false)
            }
            Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
            _ => Err(CustodyError::OtherAnswer),
        }
    }

    /// Stores a result that comes without a version.
    async fn tell(&self, result: SealedResult) -> Result<(), CustodyError> {
        let (home, session) = self.ledger.home()?;
        let ask = Ask::Report { results: vec![result] };
        match session.ask(&ask).await.map_err(|error| self.blame(home, error))?.0 {
            Reply::Reported => Ok(()),
            Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
            _ => Err(CustodyError::OtherAnswer),
        }
    }

    pub(super) async fn sealed_result(
        &self,
        command_id: CommandId,
        recipient: &Administrator,
        outcome: &Outcome,
    ) -> Result<SealedResult, CustodyError> {
        sealed_result(&self.ledger.enclave.nsm, self.ledger.id(), command_id, recipient, outcome).await
    }
}

/// The document that vouches for a version.
async fn evidence(nsm: &Nsm, blob_id: BlobId, user_data: &VersionUserData) -> Result<Vec<u8>, CustodyError> {
    Ok(nsm.attest(Some(blob_id.as_bytes()), Some(&cbor::encode(user_data)), None).await?)
}

/// An outcome with the attestation document that vouches for it, encrypted to `recipient`.
pub(super) async fn sealed_result(
    nsm: &Nsm,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &Administrator,
    outcome: &Outcome,
) -> Result<SealedResult, CustodyError> {
    let outcome = cbor::encode(outcome);
    let user_data = cbor::encode(&ResultUserData::new(key_store_id, command_id, &outcome));
    let document = nsm.attest(Some(command_id.as_bytes()), Some(&user_data), None).await?;
    let content = ResultContent { outcome: SecretBytes::new(outcome.to_vec()), document };
    Ok(command::seal_result(&content, key_store_id, command_id, recipient)?)
}
