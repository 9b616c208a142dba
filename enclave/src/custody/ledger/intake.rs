//! What comes in from a custodian, taken note of in the order of its weight: successor manifests, a block, the register, shares.
//!
//! Guarantees: a successor manifest is verified before the overlay that came with it, whose signers it names; a newer overlay is in
//! force, and everything is wiped if it blocks the key store, when this returns, whatever else is wrong with the message; a share
//! that is not the one committed to, or of another place, names its custodian and is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_shared::ids::CustodianId;
use holdfast_shared::provenance::share_set_sha256;
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{HeldEntry, HeldShare};
use holdfast_shared::sharing;

use super::{Ledger, Order, SetHash, State, Told};
use crate::custody::CustodyError;
use crate::custody::lease::Lease;
use crate::custody::release::{Granted, Released};

/// What an answer to a watch brings.
pub(in crate::custody) struct News {
    /// When the question was sent, monotonic.
    pub(in crate::custody) sent_ms: u64,
    /// Up to which epoch an overlay need not be told, by the question.
    pub(in crate::custody) seen_epoch: u64,
    /// The renewed lease.
    pub(in crate::custody) lease: Option<Lease>,
    pub(in crate::custody) successors: Vec<Vec<u8>>,
    pub(in crate::custody) overlay: Option<Vec<u8>>,
    pub(in crate::custody) register: Option<HeldEntry>,
    pub(in crate::custody) commands: Vec<Vec<u8>>,
}

/// Shares as they came.
struct Checked {
    /// One is not what its set commits to, or is of another custodian's place in the set in use. Of other sets the place may have been
    /// another, and one that was removed has none.
    is_any_wrong: bool,
    holds: BTreeSet<(u32, SetHash)>,
    /// Of use here.
    right: Vec<HeldShare>,
}

impl<C: Connect + 'static> Ledger<C> {
    /// Takes note of a release. What it gave before is used for no longer because of one that proves to be worth nothing.
    ///
    /// # Errors
    /// [`CustodyError`]: it is worth nothing, and names its custodian.
    pub(in crate::custody) fn released(&self, id: CustodianId, granted: Granted<C>) -> Result<(), CustodyError> {
        let Granted { session, lease, released, policy_epoch } = granted;
        let Released { content, attested_key } = released;
        let now_ms = self.now_ms();
        let heads = self.take_heads(&content.audit_heads);
        let mut state = self.lock();
        let was_blocked = state.is_blocked();
        self.learn(&mut state, id, content.successors.into_iter().map(Vec::from));
        self.follow_signers(&mut state);
        match &content.overlay {
            Some(overlay) => self.take_overlay(&mut state, id, overlay),
            None => state.tells_none(id),
        }
        let told = self.told(&state, content.register)?;
        let is_blocked = state.is_blocked();
        let has_version = told.entry.is_some();
        let shares = if is_blocked { Vec::new() } else { content.shares };
        let in_use = state.unsealed.as_ref().map(|unsealed| unsealed.root().set().clone());
        let is_home = state.place(id) == Some(0);
        let Checked { is_any_wrong, holds, right: shares } = state.check_shares(id, shares);
        let is_alone = is_home && state.manifest.manifest().custodians.len() == 1;
        let Some(link) = state.links.get_mut(&id) else { return Err(CustodyError::OtherAnswer) };
        if link.counted_ms > 0 {
            link.counted_ms = link.counted_ms.min(lease.expires_ms());
        }
        link.order = None;
        link.heads = heads;
        link.policy_epoch = policy_epoch;
        link.answer = Some(told);
        link.answered_ms = lease.sent_ms();
        link.is_silent = false;
        link.unsure.clear();
        link.holds = holds;
        if let Some(set) = in_use.filter(|_| !is_blocked) {
            // It lost its share; one of a newer generation is as good.
            let newer = shares.iter().any(|held| held.set.generation >= set.generation);
            if !newer {
                link.proven.remove(&share_set_sha256(&set));
            }
        }
        let worth = match state.standing(now_ms) {
            Err(error) => Err(error),
            Ok(_) if is_any_wrong => Err(CustodyError::WrongShare(state.name_of(id))),
            Ok(_) if is_alone && has_version && shares.is_empty() && !is_blocked => Err(CustodyError::NoShare),
            Ok(_) => Ok(()),
        };
        if let Some(link) = state.links.get_mut(&id).filter(|_| worth.is_ok()) {
            link.counted_ms = lease.expires_ms();
            link.health.granted(lease.expires_ms().saturating_sub(lease.sent_ms()));
            self.note_lease(id, Some(lease.expires_ms().saturating_sub(now_ms)));
            link.session = Some(Arc::new(session));
            if !is_blocked {
                link.proven.extend(shares.iter().map(|held| share_set_sha256(&held.set)));
                link.shares = shares;
                link.attested_key = Some(Arc::new(attested_key));
            }
            link.trouble = None;
            link.health.answered(lease.sent_ms());
            if is_home {
                state.docket.start_anew();
            }
            state.readings.forget_failures();
            state.problem.forget();
        }
        if was_blocked && !is_blocked {
            state.all_release_again(Some(id));
        }
        self.regate(&mut state);
        drop(state);
        self.tell_all();
        self.report();
        worth
    }

    /// Takes note of news.
    ///
    /// # Errors
    /// When the entry is not the home custodian's.
    pub(in crate::custody) fn take_news(&self, id: CustodianId, news: News) -> Result<(), CustodyError> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let was_blocked = state.is_blocked();
        self.learn(&mut state, id, news.successors.into_iter());
        self.follow_signers(&mut state);
        match &news.overlay {
            Some(overlay) => self.take_overlay(&mut state, id, overlay),
            None if news.seen_epoch == 0 => state.tells_none(id),
            None => {}
        }
        if was_blocked && !state.is_blocked() {
            state.all_release_again(None);
        }
        let told = news.register.map(|register| self.told(&state, Some(register))).transpose();
        if let Some(link) = state.links.get_mut(&id) {
            link.answered_ms = link.answered_ms.max(news.sent_ms);
            link.is_silent = false;
            if let Ok(Some(told)) = &told {
                link.answer = Some(told.clone());
            }
        }
        // While custodians contradict each other, or what was seen, no lease is lengthened.
        let is_sound = state.standing(now_ms).is_ok();
        if let Some(link) = state.links.get_mut(&id)
            && let Some(lease) = news.lease.filter(|_| is_sound)
        {
            link.counted_ms = lease.expires_ms();
            link.health.granted(lease.expires_ms().saturating_sub(lease.sent_ms()));
        }
        self.regate(&mut state);
        if state.place(id) == Some(0) {
            state.docket.take(news.commands.into_iter());
        }
        drop(state);
        self.tell_all();
        told.map(drop)
    }

    /// A custodian said that it holds this entry, as signed.
    ///
    /// # Errors
    /// When the entry is not the home custodian's.
    pub(in crate::custody) fn holds(
        &self,
        id: CustodianId,
        register: HeldEntry,
    ) -> Result<RegisterEntry, CustodyError> {
        let mut state = self.lock();
        let told = self.told(&state, Some(register))?;
        let entry = told.entry.clone().ok_or(CustodyError::OtherAnswer)?;
        if let Some(link) = state.links.get_mut(&id) {
            link.answer = Some(told);
        }
        drop(state);
        self.tell_all();
        Ok(entry)
    }

    /// An entry, if it is the home custodian's.
    ///
    /// # Errors
    /// When it is not.
    pub(in crate::custody) fn opened_entry(&self, signed: &[u8]) -> Result<RegisterEntry, CustodyError> {
        let register = HeldEntry { signed: signed.to_vec(), is_committed: false };
        let told = self.told(&self.lock(), Some(register))?;
        told.entry.ok_or(CustodyError::OtherAnswer)
    }

    fn told(&self, state: &State<C>, register: Option<HeldEntry>) -> Result<Told, CustodyError> {
        let Some(HeldEntry { signed, is_committed }) = register else {
            return Ok(Told { entry: None, signed: Vec::new(), is_committed: false });
        };
        let home = state.manifest.home_custodian().ok_or(CustodyError::OtherAnswer)?;
        let entry = register::open(&signed, self.id, &home.signing_key)?;
        Ok(Told { entry: Some(entry), signed, is_committed })
    }
}

impl<C> State<C> {
    pub(super) fn name_of(&self, id: CustodianId) -> String {
        self.links.get(&id).map_or_else(String::new, |link| link.custodian.name.clone())
    }

    /// Looks at the shares that a custodian gave.
    fn check_shares(&self, id: CustodianId, shares: Vec<HeldShare>) -> Checked {
        let indices: Vec<u8> = self
            .judged()
            .into_iter()
            .filter_map(|manifest| manifest.manifest().custodians.iter().position(|custodian| custodian.id() == id))
            .filter_map(|place| u8::try_from(place.saturating_add(1)).ok())
            .collect();
        let in_use = self.unsealed.as_ref().map(|unsealed| unsealed.root().set());
        let mut checked = Checked { is_any_wrong: false, holds: BTreeSet::new(), right: Vec::new() };
        for held in shares {
            if sharing::check(&held.share, &held.set).is_err() {
                checked.is_any_wrong = true;
                continue;
            }
            checked.holds.insert((held.set.generation, share_set_sha256(&held.set)));
            if indices.contains(&held.share.index) {
                checked.right.push(held);
            } else {
                checked.is_any_wrong |= in_use == Some(&held.set);
            }
        }
        let has_place = !indices.is_empty();
        checked.is_any_wrong |= in_use.is_none() && has_place && checked.right.is_empty() && !checked.holds.is_empty();
        checked
    }

    /// A block was lifted: shares that were wiped, or withheld, are asked for again.
    fn all_release_again(&mut self, but: Option<CustodianId>) {
        for (id, link) in &mut self.links {
            if link.session.is_some() && Some(*id) != but {
                link.order = Some(Order::ReleaseAgain);
            }
        }
    }
}
