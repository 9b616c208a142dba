//! What is known of a key store's custodians, and everything secret that they gave: one place, changed in one step each time.
//!
//! Guarantees: a block, a lease's end and a refusal take effect where they become known, under a lock that is never held across an
//! await, so that nothing else that is under way delays them; after a wipe no share, no root key and no attested key is left here,
//! and what was begun before it is not installed after it; the gate's lease is the r-th longest of the custodians that proved to hold
//! a share of the root key in use; a release counts for it only if it was worth something. Assumes: whoever tells that a
//! custodian answered had that proven.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::channel::{OverlayId, Seen};
use holdfast_shared::hpke;
use holdfast_shared::ids::{CustodianId, KeyStoreId};
use holdfast_shared::manifest::{Custodian, ManifestId, VerifiedManifest};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{HeldShare, ShareSet};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::allowance::Allowance;
use super::docket::Docket;
use super::health::CustodianHealth;
use super::served::ServedStore;
use super::session::Session;
use super::unseal::{Root, Unsealed};
use super::{CustodyError, Enclave};

mod account;
mod audit;
mod blocks;
mod chores;
mod gate;
mod intake;
mod shares;
mod succession;

pub(super) use chores::{Chore, Target};
pub(super) use intake::News;

/// Copies of large versions under way at once for one key store, so that a slow custodian delays no other and memory is bounded.
const LARGE_COPIES: usize = 3;

/// SHA-256 of a set of shares.
type SetHash = [u8; 32];

/// See the module.
pub(super) struct Ledger<C> {
    pub(super) enclave: Arc<Enclave>,
    pub(super) served: ServedStore,
    /// Of this key store's links, one attests at a time: many custodians buy no more of the NSM than one.
    pub(super) attesting: Semaphore,
    pub(super) large_copies: Semaphore,
    id: KeyStoreId,
    state: Mutex<State<C>>,
    changed: watch::Sender<()>,
    wiped: watch::Sender<u64>,
}

pub(super) struct State<C> {
    /// The manifest in force: a version in service names it, or it is the first.
    manifest: Arc<VerifiedManifest>,
    /// A successor that is being put in force from here.
    adopting: Option<Arc<VerifiedManifest>>,
    readings: succession::Readings,
    /// The overlays that what is blocked follows from.
    heard: Vec<blocks::Heard>,
    overlay: Option<BlockOverlay>,
    /// Under which manifest they were read.
    blocks_under: ManifestId,
    /// How often that changed.
    block_changes: u64,
    /// When this began: whoever moved is looked for here and there in turn.
    since: Instant,
    links: BTreeMap<CustodianId, LinkState<C>>,
    unsealed: Option<Arc<Unsealed>>,
    /// The share that AWS KMS gave.
    kms: Option<HeldShare>,
    /// A root key that was drawn here and is not in use yet.
    drawn: Option<Root>,
    /// The newest version that was served in this boot.
    floor: Option<RegisterEntry>,
    target: Option<Target>,
    pub(super) docket: Docket,
    allowance: Allowance,
    problem: account::Problem,
    /// What is not as it should be with the version in service.
    caveat: Option<&'static str>,
}

/// What is known of one custodian.
struct LinkState<C> {
    custodian: Custodian,
    health: Arc<CustodianHealth>,
    session: Option<Arc<Session<C>>>,
    /// When its lease ends as far as the gate is concerned, monotonic; 0 for none.
    counted_ms: u64,
    answer: Option<Told>,
    /// When the question was sent that it answered last, monotonic.
    answered_ms: u64,
    /// The last question for news was not answered.
    is_silent: bool,
    shares: Vec<HeldShare>,
    /// Opens the release, which the parent may have recorded: it goes when the root key goes.
    attested_key: Option<Arc<hpke::PrivateKey>>,
    /// Sets of which it gave, or took, a share since the last wipe.
    proven: BTreeSet<SetHash>,
    /// Of which sets it holds a share, with their generations.
    holds: BTreeSet<(u32, SetHash)>,
    /// Generations whose share it took before it held a version of that generation: until then it may have made room for others.
    unsure: BTreeSet<u32>,
    /// It said that it keeps no share below this generation.
    retired: u32,
    deposit: Option<(ShareSet, hpke::Sealed)>,
    /// Epoch of the block overlay that it told last.
    told_epoch: u64,
    /// It is to tell its overlay again, since others sign by now. Until it does, what it told before says what it knows.
    must_tell_again: bool,
    /// Epoch of the release policy under which its lease was granted.
    policy_epoch: u64,
    /// The same, where only administrators of a successor signed it.
    foreseen: Option<blocks::Foreseen>,
    /// The successors of the manifest in force that it handed out last, oldest first, verified: which of all custodians' is in force, an
    /// opened version says.
    handed_out: Vec<Arc<VerifiedManifest>>,
    /// When something signed that it handed out did not verify, monotonic.
    refused_ms: Option<u64>,
    trouble: Option<account::Trouble>,
    order: Option<Order>,
    /// Of the audit logs of earlier boots, as it handed them out last.
    heads: audit::Heads,
    /// Why it does not acknowledge heads.
    not_witnessed: Option<String>,
    /// Size of the largest head of this boot's audit log that it acknowledged.
    witnessed: u64,
}

/// What a custodian said of the register.
#[derive(Clone, Debug)]
struct Told {
    entry: Option<RegisterEntry>,
    signed: Vec<u8>,
    is_committed: bool,
}

/// What a link is told.
pub(super) enum Order {
    /// Obtain a release anew: what the last one gave is gone.
    ReleaseAgain,
    /// The lease is worth nothing more.
    Fail(CustodyError),
}

impl<C: Connect + 'static> Ledger<C> {
    pub(super) fn new(enclave: Arc<Enclave>, manifest: VerifiedManifest, served: ServedStore) -> Self {
        let state = State {
            heard: Vec::new(),
            overlay: None,
            blocks_under: manifest.manifest_id(),
            block_changes: 0,
            since: Instant::now(),
            links: BTreeMap::new(),
            unsealed: None,
            kms: None,
            drawn: None,
            floor: None,
            adopting: None,
            readings: succession::Readings::default(),
            target: None,
            docket: Docket::default(),
            allowance: Allowance::new(enclave.clock.monotonic_ms()),
            problem: account::Problem::default(),
            caveat: None,
            manifest: Arc::new(manifest),
        };
        Self {
            enclave,
            served,
            attesting: Semaphore::new(1),
            large_copies: Semaphore::new(LARGE_COPIES),
            id: state.manifest.id(),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            wiped: watch::Sender::new(0),
        }
    }

    pub(super) const fn id(&self) -> KeyStoreId {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.enclave.clock.monotonic_ms()
    }

    pub(super) fn log(&self, level: Level, line: &str) {
        self.enclave.reporter.log_about(self.id, level, line);
    }

    /// Sees each change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Sees each wipe from now on.
    pub(super) fn wipes(&self) -> watch::Receiver<u64> {
        self.wiped.subscribe()
    }

    fn tell_all(&self) {
        self.changed.send_replace(());
    }

    /// Looks at, or changes, the commands that wait.
    pub(super) fn docket<T>(&self, with: impl FnOnce(&mut Docket) -> T) -> T {
        with(&mut self.lock().docket)
    }

    pub(super) fn quorum(&self) -> Quorum {
        self.lock().quorum()
    }

    pub(super) fn overlay_epoch(&self) -> u64 {
        self.lock().overlay_epoch()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.lock().is_blocked()
    }

    pub(super) fn unsealed(&self) -> Option<Arc<Unsealed>> {
        self.lock().unsealed.clone()
    }

    /// Whether this key store has made all the work that it may for now.
    pub(super) fn is_spent(&self) -> bool {
        let now_ms = self.now_ms();
        self.lock().allowance.is_spent(now_ms)
    }

    pub(super) fn charge(&self, blob_len: usize) {
        self.lock().allowance.charge(blob_len);
    }

    /// Begins to keep account of a custodian, or notes that it moved.
    pub(super) fn add(&self, custodian: &Custodian, health: Arc<CustodianHealth>) {
        let mut state = self.lock();
        if let Some(link) = state.links.get_mut(&custodian.id()) {
            link.custodian = custodian.clone();
            return;
        }
        let link = LinkState {
            custodian: custodian.clone(),
            health,
            session: None,
            counted_ms: 0,
            answer: None,
            answered_ms: 0,
            is_silent: false,
            shares: Vec::new(),
            attested_key: None,
            proven: BTreeSet::new(),
            holds: BTreeSet::new(),
            retired: 0,
            unsure: BTreeSet::new(),
            deposit: None,
            told_epoch: 0,
            must_tell_again: false,
            policy_epoch: 0,
            foreseen: None,
            handed_out: Vec::new(),
            refused_ms: None,
            trouble: None,
            order: None,
            heads: audit::Heads::new(),
            not_witnessed: None,
            witnessed: 0,
        };
        state.links.insert(custodian.id(), link);
    }

    /// Forgets a custodian that is no longer one.
    pub(super) fn remove(&self, id: CustodianId) {
        let mut state = self.lock();
        state.links.remove(&id);
        self.regate(&mut state);
    }

    /// The channel to a custodian, while its link has one.
    pub(super) fn session(&self, id: CustodianId) -> Option<Arc<Session<C>>> {
        self.lock().links.get(&id).and_then(|link| link.session.clone())
    }

    /// The home custodian, and the channel to it.
    pub(super) fn home(&self) -> Result<(CustodianId, Arc<Session<C>>), CustodyError> {
        let state = self.lock();
        let home = state.manifest.home_custodian().ok_or(CustodyError::OtherAnswer)?;
        let session = state.links.get(&home.id()).and_then(|link| link.session.clone());
        session.map(|session| (home.id(), session)).ok_or_else(|| CustodyError::HomeAway(home.name.clone()))
    }

    /// The key to which administrators encrypt what they import: that of the home custodian's lease.
    pub(super) fn attested_key(&self) -> Option<Arc<hpke::PrivateKey>> {
        let state = self.lock();
        let home = state.manifest.home_custodian()?.id();
        state.links.get(&home).and_then(|link| link.attested_key.clone())
    }

    /// How many custodians of a manifest have a live channel, and answered the last question for news.
    pub(super) fn connected(&self, manifest: &VerifiedManifest) -> usize {
        let state = self.lock();
        state.members_of(manifest).filter(|(_, link)| link.session.is_some() && !link.is_silent).count()
    }

    /// Tells a link what to do. What it was told before and has not done is less.
    pub(super) fn order(&self, id: CustodianId, order: Order) {
        let mut state = self.lock();
        let Some(link) = state.links.get_mut(&id) else { return };
        match order {
            // It has failed already, perhaps for less.
            Order::Fail(error) if link.session.is_none() => {
                drop(state);
                self.failed(id, &error);
            }
            order => {
                link.order = Some(order);
                drop(state);
                self.tell_all();
            }
        }
    }

    /// All that have a channel and gave no share of this generation release anew: another enclave changed the root key.
    pub(super) fn release_again_for(&self, generation: u32) {
        let mut state = self.lock();
        let mut told = false;
        for link in state.links.values_mut() {
            if link.session.is_some() && !link.shares.iter().any(|held| held.set.generation == generation) {
                link.order = Some(Order::ReleaseAgain);
                told = true;
            }
        }
        drop(state);
        if told {
            self.tell_all();
        }
    }

    /// All that hold a version release anew: they know the manifest under which it was made.
    pub(super) fn release_again_of(&self, entry: &RegisterEntry) {
        for (id, _, _) in self.holders(entry) {
            self.order(id, Order::ReleaseAgain);
        }
    }

    pub(super) fn take_order(&self, id: CustodianId) -> Option<Order> {
        self.lock().links.get_mut(&id).and_then(|link| link.order.take())
    }

    /// What need not be told in answer to a custodian's watch.
    pub(super) fn seen(&self, id: CustodianId) -> Seen {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let told = state.links.get(&id).and_then(|link| link.answer.as_ref()?.entry.as_ref());
        let version = told.map_or(0, |entry| entry.version);
        let is_home = state.place(id) == Some(0);
        Seen {
            // Each tells its own once: two custodians may hold different ones of one epoch.
            overlay_epoch: state.links.get(&id).map_or(0, LinkState::seen_epoch),
            version,
            commands: if is_home { state.docket.seen(now_ms) } else { Vec::new() },
            manifest_sequence: state.judged().iter().map(|manifest| manifest.sequence()).max().unwrap_or(1),
            obeys: state.overlay.as_ref().map(OverlayId::of),
        }
    }

    /// Those who hold a version, home first.
    pub(super) fn holders(&self, entry: &RegisterEntry) -> Vec<(CustodianId, Vec<u8>, Arc<Session<C>>)> {
        let state = self.lock();
        let holders = state.links.values().filter_map(|link| {
            let told = link.answer.as_ref().filter(|told| told.entry.as_ref() == Some(entry))?;
            Some((link.custodian.id(), told.signed.clone(), Arc::clone(link.session.as_ref()?)))
        });
        let mut holders: Vec<_> = holders.collect();
        holders.sort_by_key(|(id, ..)| state.place(*id) != Some(0));
        holders
    }

    /// The root key of a generation: the one in use, one that was drawn here, or what enough shares of one set give; of several complete
    /// sets, only the version says which is the right one.
    ///
    /// # Errors
    /// [`CustodyError::FewShares`], [`CustodyError::NoShare`].
    pub(super) fn roots(&self, generation: u32) -> Result<Vec<Root>, CustodyError> {
        let state = self.lock();
        let known = state.unsealed.as_ref().map(|unsealed| unsealed.root()).into_iter().chain(&state.drawn);
        if let Some(root) = known.into_iter().find(|root| root.set().generation == generation) {
            return Ok(vec![root.duplicate()]);
        }
        state.combine(generation)
    }

    /// Keeps a root key that was drawn here until a version is sealed under it, unless the keys were wiped since `wipes`.
    pub(super) fn keep_drawn(&self, root: Root, wipes: u64) {
        let mut state = self.lock();
        if *self.wiped.borrow() == wipes && !state.is_blocked() {
            state.drawn = Some(root);
        }
    }

    /// Drops a root key that was drawn here: another one came into use.
    pub(super) fn forget_drawn(&self) {
        self.lock().drawn = None;
    }
}

impl<C> State<C> {
    fn quorum(&self) -> Quorum {
        Quorum::of(self.manifest.manifest())
    }

    fn is_blocked(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.store)
    }

    /// The custodians of the manifest in force, with their places from 0.
    fn members(&self) -> impl Iterator<Item = (usize, &LinkState<C>)> {
        self.members_of(&self.manifest)
    }

    fn members_of<'s>(&'s self, manifest: &'s VerifiedManifest) -> impl Iterator<Item = (usize, &'s LinkState<C>)> {
        let custodians = manifest.manifest().custodians.iter().enumerate();
        custodians.filter_map(|(place, custodian)| self.links.get(&custodian.id()).map(|link| (place, link)))
    }

    fn place(&self, id: CustodianId) -> Option<usize> {
        self.manifest.manifest().custodians.iter().position(|custodian| custodian.id() == id)
    }

    fn name(&self, place: usize) -> String {
        self.manifest.manifest().custodians.get(place).map_or_else(String::new, |custodian| custodian.name.clone())
    }
}

impl<C> LinkState<C> {
    /// Whether it surely holds a share of this set.
    fn has_share(&self, share: &(u32, SetHash)) -> bool {
        self.holds.contains(share) && !self.unsure.contains(&share.0)
    }

    /// Epoch of the overlay that it need not tell again.
    const fn seen_epoch(&self) -> u64 {
        if self.must_tell_again { 0 } else { self.told_epoch }
    }

    /// Its lease is over, and everything with it.
    fn end(&mut self) {
        self.counted_ms = 0;
        self.session = None;
        self.answer = None;
        self.shares.clear();
        self.attested_key = None;
        self.proven.clear();
        self.deposit = None;
        self.not_witnessed = None;
    }
}
