//! One key store's coordinator: what the answers of all custodians together lead to.
//!
//! Guarantees: nothing that it does is installed, or goes on, once a wipe came between; one thing is done at a time, and after each
//! the register is read anew; a version is copied only after it was opened here, and served only once it is committed; commands are
//! carried out on the newest committed version only. Assumes: its links bring what custodians say into the [`Ledger`] and carry out
//! its chores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Connect, CustodianClient};
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::ids::{BlobId, CustodianId};
use holdfast_shared::manifest::{Custodian, VerifiedManifest};
use holdfast_shared::register::RegisterEntry;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ledger::{Ledger, Order, Target};
use super::links::Link;
use super::renewal::Renewal;
use super::session::Session;
use super::unseal::{self, Committed, HeldVersion, Opened, Standing, Unsealed};
use super::{CustodyError, PAUSES, rotate};
use crate::tls::AttestedTime;

/// Least time between two questions for news to one custodian.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// With more custodians than this, each is asked less often, so that a key store of many makes little more work than one of few.
const FULL_PACE_MAX: u32 = 4;
/// How long a custodian that was removed has to learn that, and to delete its shares.
const REMOVED_WAIT: Duration = Duration::from_mins(10);
/// How long nothing is looked at without a change.
const LOOK: Duration = Duration::from_secs(1);

/// What came of a look at the register.
pub(super) enum Step {
    /// Something was done: look again.
    Again,
    /// There is nothing to do until something changes.
    Idle,
    /// The same, or until so much time has passed.
    Wait(Duration),
}

/// See the module.
pub(super) struct Coordinator<C> {
    pub(super) ledger: Arc<Ledger<C>>,
    connector: C,
    links: BTreeMap<CustodianId, (Custodian, JoinHandle<()>)>,
    /// The newest version that was fetched or published: not secret.
    held: Option<Arc<HeldVersion>>,
    /// When standing orders are looked at next, monotonic.
    pub(super) due_again_ms: u64,
    /// When all were last asked to release anew, for want of shares.
    released_again: Option<Instant>,
    /// When those that know less than others were last asked what they know.
    informed: Option<Instant>,
    /// Since when links lead to custodians that were removed.
    removed: BTreeMap<CustodianId, Instant>,
    /// Of the manifest that health is told under.
    sequence: u32,
    /// The certificate's renewal, as far as it is made here.
    pub(super) renewal: Renewal,
}

impl<C: Connect + Clone + 'static> Coordinator<C> {
    pub(super) fn new(ledger: Arc<Ledger<C>>, connector: C) -> Self {
        let (links, removed) = (BTreeMap::new(), BTreeMap::new());
        Self {
            ledger,
            connector,
            links,
            held: None,
            due_again_ms: 0,
            released_again: None,
            informed: None,
            removed,
            sequence: 0,
            renewal: Renewal::default(),
        }
    }

    /// Runs until the task is dropped.
    pub(super) async fn run(mut self) {
        self.ledger.report();
        loop {
            let ledger = Arc::clone(&self.ledger);
            let mut wipes = ledger.wipes();
            tokio::select! {
                biased;
                _ = wipes.changed() => {}
                () = self.work() => {}
            }
            // Its account's key goes with it.
            self.renewal = Renewal::default();
            let now_ms = self.now_ms();
            self.ledger.docket(|docket| docket.put_all_off(now_ms));
            self.ledger.report();
        }
    }

    /// Reaches whatever the parent's egress list names.
    pub(super) fn connector(&self) -> C {
        self.connector.clone()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.ledger.enclave.clock.monotonic_ms()
    }

    /// Steps until it is dropped.
    async fn work(&mut self) {
        let mut changes = self.ledger.changes();
        let mut pause = PAUSES.0;
        loop {
            changes.borrow_and_update();
            let wait = match self.step().await {
                Ok(Step::Again) => {
                    pause = PAUSES.0;
                    continue;
                }
                Ok(Step::Idle) => {
                    pause = PAUSES.0;
                    LOOK
                }
                Ok(Step::Wait(wait)) => wait,
                Err(error) => {
                    self.ledger.problem(&error.to_string());
                    if error.waits_for_custodians() {
                        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
                        continue;
                    }
                    // Changes come in quickly while custodians answer; what failed is not tried at each.
                    tokio::time::sleep(pause).await;
                    pause = PAUSES.1.min(pause.saturating_mul(2));
                    continue;
                }
            };
            // Whoever gave up the channel is gone: then this ends as well.
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    }

    /// Looks at the register once, and does what follows from it.
    async fn step(&mut self) -> Result<Step, CustodyError> {
        self.keep_links();
        if self.ledger.is_blocked() {
            let now_ms = self.now_ms();
            self.ledger.docket(|docket| docket.put_all_off(now_ms));
            return Ok(Step::Idle);
        }
        let unsealed = self.ledger.unsealed();
        match self.ledger.standing()? {
            Standing::TooFew { .. } => {
                self.ledger.report();
                Ok(Step::Idle)
            }
            Standing::Empty => self.hold_ceremony().await,
            Standing::Unknown { entry, sequence } => Err(self.ask_for_manifest(&entry, sequence)),
            Standing::Unread(_) if self.ledger.is_spent() => Ok(Step::Wait(PAUSES.0)),
            Standing::Unread(entry) => {
                let opened = self.open(&entry).await;
                opened.inspect_err(|_| self.ledger.unread(&entry)).map(|_| Step::Again)
            }
            Standing::Committed(committed) => match unsealed {
                Some(unsealed) if unsealed.entry() == committed.entry() => self.serve(&unsealed).await,
                _ if self.ledger.is_spent() => Ok(Step::Wait(PAUSES.0)),
                _ => {
                    let entered = self.enter(&committed).await;
                    if entered.as_ref().is_err_and(CustodyError::ends_service) {
                        self.ledger.end_service();
                    }
                    entered
                }
            },
            Standing::Unfinished(entry) => {
                let is_begun = self.held.as_ref().is_some_and(|held| held.entry == entry);
                if is_begun && self.ledger.is_aimed_at(&entry) {
                    self.ledger.unfinished(&entry);
                    return Ok(Step::Idle);
                }
                if self.ledger.is_spent() {
                    return Ok(Step::Wait(PAUSES.0));
                }
                // What cannot be opened here must not become the newest that all others have to open.
                let (version, _) = self.open(&entry).await?;
                self.ledger.aim(Target { version, is_committed: false });
                Ok(Step::Again)
            }
        }
    }

    /// Puts a committed version into service.
    async fn enter(&mut self, committed: &Committed) -> Result<Step, CustodyError> {
        let wipes = *self.ledger.wipes().borrow();
        let (version, opened) = self.open(committed.entry()).await?;
        // It may say that more must hold it.
        if self.ledger.standing()? != Standing::Committed(committed.clone()) {
            return Ok(Step::Again);
        }
        let (unsealed, body) = opened.commit(committed)?;
        let made_under = unsealed.made_under().manifest;
        let missing = CustodyError::ManifestMissing { sequence: made_under.sequence };
        let manifest = self.ledger.manifest_of(made_under).ok_or(missing)?;
        let next = self.next_segment(&body, &manifest).await?;
        let served = self.ledger.served.clone();
        let now_ms = self.ledger.enclave.clock.wall_ms();
        let entry = committed.entry().clone();
        let preparing = move || served.prepare(body, &entry, &manifest, now_ms);
        let prepared = self.ledger.enclave.workshop.work(preparing).await??;
        self.ledger.install(unsealed, prepared, next, wipes)?;
        self.ledger.aim(Target { version, is_committed: true });
        self.ledger.report();
        Ok(Step::Again)
    }

    /// What there is to do for a version in service: shares that are missing, commands, standing orders.
    async fn serve(&mut self, unsealed: &Arc<Unsealed>) -> Result<Step, CustodyError> {
        self.ledger.aim(Target { version: Arc::clone(unsealed.version()), is_committed: true });
        self.give_shares(unsealed).await?;
        if self.ledger.is_spent() {
            return Ok(Step::Wait(PAUSES.0));
        }
        if let Some(step) = self.carry_out_due(unsealed).await? {
            return Ok(step);
        }
        if let Some(step) = self.renew(unsealed).await {
            return Ok(step);
        }
        self.handle_next(unsealed).await
    }

    /// Derives the shares of those who have none, and gives them.
    async fn give_shares(&mut self, unsealed: &Arc<Unsealed>) -> Result<(), CustodyError> {
        let manifest = self.ledger.manifest();
        if self.informed.is_none_or(|last| last.elapsed() >= PAUSES.1) {
            self.informed = Some(Instant::now());
            self.ledger.inform(&manifest);
        }
        let without = self.ledger.without_share(unsealed.root().set());
        if without.is_empty() || unsealed.seed().is_none() {
            return Ok(());
        }
        let deriving = {
            let (unsealed, manifest, without) = (Arc::clone(unsealed), Arc::clone(&manifest), without.clone());
            move || rotate::shares_again(&unsealed, &manifest, &without)
        };
        for (id, share) in self.ledger.enclave.workshop.work(deriving).await?? {
            self.ledger.give(id, unsealed.root().set().clone(), share);
        }
        Ok(())
    }

    /// Fetches and opens a version, committed or not.
    async fn open(&mut self, entry: &RegisterEntry) -> Result<(Arc<HeldVersion>, Opened), CustodyError> {
        let version = match &self.held {
            Some(held) if held.entry == *entry => Arc::clone(held),
            _ => Arc::new(self.fetch(entry).await?),
        };
        self.held = Some(Arc::clone(&version));
        let mut roots = self.ledger.roots(version.generation);
        if roots.is_err() {
            self.ask_kms(version.generation).await?;
            roots = self.ledger.roots(version.generation);
        }
        let roots = match roots {
            Ok(roots) => roots,
            Err(error) => {
                if self.may_release_again() {
                    self.ledger.release_again_for(version.generation);
                }
                return Err(error);
            }
        };
        self.ledger.charge(version.blob.len().saturating_mul(roots.len()));
        let opening = Arc::clone(&version);
        let opened = self.ledger.enclave.workshop.work(move || unseal::open_any(roots, &opening)).await?;
        // Another enclave's root key of the same generation may have come first: then shares tell which it is.
        let opened = opened.inspect_err(|_| self.ledger.forget_drawn())?;
        let made_under = opened.made_under();
        self.ledger.read(entry, made_under);
        match self.ledger.manifest_of(made_under.manifest) {
            Some(_) => Ok((version, opened)),
            None => Err(self.ask_for_manifest(entry, made_under.manifest.sequence)),
        }
    }

    /// Whoever holds a version hands its manifest out with a release.
    fn ask_for_manifest(&mut self, entry: &RegisterEntry, sequence: u32) -> CustodyError {
        if self.may_release_again() {
            self.ledger.release_again_of(entry);
        }
        CustodyError::ManifestMissing { sequence }
    }

    /// Whether all may be asked for releases again, for want of something: not too often.
    fn may_release_again(&mut self) -> bool {
        let may = self.released_again.is_none_or(|last| last.elapsed() >= PAUSES.1);
        if may {
            self.released_again = Some(Instant::now());
        }
        may
    }

    /// Fetches a version from whoever has it, home first. Its hash decides whether it is the right one.
    async fn fetch(&self, entry: &RegisterEntry) -> Result<HeldVersion, CustodyError> {
        let mut last = CustodyError::NoBlob { version: entry.version };
        for (id, signed, session) in self.ledger.holders(entry) {
            match self.fetch_from(&session, entry.blob_id).await {
                Ok((blob, evidence)) => match HeldVersion::new(entry.clone(), signed, blob, evidence) {
                    Ok(version) => return Ok(version),
                    Err(error) => {
                        self.ledger.in_trouble(id, &error);
                        last = error;
                    }
                },
                Err(error @ CustodyError::NoRoom { .. }) => return Err(error),
                Err(error) => last = self.blame(id, error),
            }
        }
        Err(last)
    }

    async fn fetch_from(&self, session: &Session<C>, blob_id: BlobId) -> Result<(Vec<u8>, Vec<u8>), CustodyError> {
        match session.ask(&Ask::Fetch { blob_id }).await?.0 {
            Reply::Blob { blob, evidence } => {
                self.check_room(blob.len())?;
                Ok((blob, evidence))
            }
            Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
            _ => Err(CustodyError::OtherAnswer),
        }
    }

    /// What ends a lease ends its link, whoever asked. Returns what is left to say.
    pub(super) fn blame(&self, id: CustodianId, error: CustodyError) -> CustodyError {
        if error.ends_lease() {
            let text = error.to_string();
            self.ledger.order(id, Order::Fail(error));
            return CustodyError::LinkEnded(text);
        }
        error
    }

    /// Whether a key store of this length has room here, beside all others.
    pub(super) fn check_room(&self, length: usize) -> Result<(), CustodyError> {
        let share = self.ledger.enclave.workshop.share();
        if length > share { Err(CustodyError::NoRoom { length, share }) } else { Ok(()) }
    }

    /// Keeps a version that was published here, so that it need not be fetched.
    pub(super) fn keep(&mut self, version: HeldVersion) {
        self.held = Some(Arc::new(version));
    }

    /// A link for each custodian of the manifest in force, and of one that is being put in force; for those that were removed, until
    /// they have deleted their shares, or were given the time for it.
    pub(super) fn keep_links(&mut self) {
        let manifest = self.ledger.manifest();
        let wanted = self.ledger.watched();
        let gone: Vec<CustodianId> =
            self.links.keys().copied().filter(|id| wanted.iter().all(|custodian| custodian.id() != *id)).collect();
        self.removed.retain(|id, _| gone.contains(id));
        for id in gone {
            let since = *self.removed.entry(id).or_insert_with(Instant::now);
            if self.ledger.is_done_with(id) || since.elapsed() >= REMOVED_WAIT {
                self.removed.remove(&id);
                if let Some((_, link)) = self.links.remove(&id) {
                    link.abort();
                }
                self.ledger.remove(id);
            }
        }
        if self.sequence != manifest.sequence() {
            self.sequence = manifest.sequence();
            self.ledger.served.health().keep(&manifest.manifest().custodians, self.ledger.quorum().answers());
        }
        for custodian in wanted {
            match self.links.get(&custodian.id()) {
                Some((known, _)) if *known == custodian => {}
                // It moved: its lease goes on until it answers there.
                Some((_, link)) => {
                    link.abort();
                    self.start_link(custodian, &manifest);
                }
                None => self.start_link(custodian, &manifest),
            }
        }
    }

    fn start_link(&mut self, custodian: Custodian, manifest: &VerifiedManifest) {
        let id = custodian.id();
        let health = self.ledger.served.health().of(&custodian);
        self.ledger.add(&custodian, Arc::clone(&health));
        let time = Arc::new(AttestedTime(Arc::clone(&self.ledger.enclave.clock)));
        let client = match CustodianClient::with_time(self.connector.clone(), &custodian, time) {
            Ok(client) => Arc::new(client),
            Err(error) => {
                // Its address or its roots: no other custodian's affair, and the manifest does not change.
                self.ledger.failed(id, &CustodyError::Unusable(error));
                self.links.insert(id, (custodian, tokio::spawn(async {})));
                return;
            }
        };
        let is_home = manifest.home_custodian().is_some_and(|home| home.id() == id);
        let count = u32::try_from(manifest.manifest().custodians.len()).unwrap_or(u32::MAX);
        let pace = WATCH_INTERVAL.saturating_mul(count.div_ceil(FULL_PACE_MAX));
        let ledger = Arc::clone(&self.ledger);
        let link = Link { ledger, id, custodian: custodian.clone(), client, health, is_home, pace };
        self.links.insert(id, (custodian, tokio::spawn(link.run())));
    }
}

impl<C> Drop for Coordinator<C> {
    fn drop(&mut self) {
        for (_, link) in self.links.values() {
            link.abort();
        }
    }
}
