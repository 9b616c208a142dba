//! The gate of a key store: when it opens, until when, and what is dropped when it closes.
//!
//! Guarantees: what was begun before a wipe is not installed after it; the gate's lease is the r-th longest of those that count, worked
//! out anew whenever one of them changes; at its end everything secret is dropped.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::provenance::share_set_sha256;

use super::{Ledger, LinkState, Order, State, account};
use crate::audit::NextSegment;
use crate::custody::CustodyError;
use crate::custody::served::Prepared;
use crate::custody::unseal::Unsealed;

impl<C: Connect + 'static> Ledger<C> {
    /// Serves a version, unless what it was made of was wiped since `wipes`.
    ///
    /// # Errors
    /// When it was, or no lease is left.
    pub(in crate::custody) fn install(
        &self,
        unsealed: Unsealed,
        prepared: Prepared,
        next: Option<NextSegment>,
        wipes: u64,
    ) -> Result<(), CustodyError> {
        let mut state = self.lock();
        if *self.wiped.borrow() != wipes || state.is_blocked() {
            return Err(CustodyError::Wiped);
        }
        let now_ms = self.now_ms();
        let made_under = unsealed.made_under().manifest;
        let missing = CustodyError::ManifestMissing { sequence: made_under.sequence };
        let manifest = Arc::clone(state.known(made_under).ok_or(missing)?);
        let previous = || state.previous_heads(&manifest);
        self.served.record(&prepared, next, previous, || state.standing_events(now_ms))?;
        let caveat = prepared.caveat();
        self.served.install(prepared)?;
        if let Some(caveat) = caveat {
            self.log(Level::Error, caveat);
        }
        state.caveat = caveat;
        self.put_in_force(&mut state, made_under);
        let generation = unsealed.root().set().generation;
        state.floor = Some(unsealed.entry().clone());
        if state.drawn.as_ref().is_some_and(|drawn| drawn.set().generation <= generation) {
            state.drawn = None;
        }
        state.kms = None;
        state.unsealed = Some(Arc::new(unsealed));
        state.problem = account::Problem::default();
        self.follow_signers(&mut state);
        self.regate(&mut state);
        drop(state);
        self.tell_all();
        Ok(())
    }

    /// The newest version cannot come into service here. Nothing older goes on in its place: its policy, its keys and its readers may be
    /// what was changed.
    pub(in crate::custody) fn end_service(&self) {
        let mut state = self.lock();
        if state.unsealed.is_none() {
            return;
        }
        self.wipe(&mut state);
        self.regate(&mut state);
        drop(state);
        // Nor does the log go on for readers who may have been removed.
        self.served.audit().rest();
        self.tell_all();
    }

    /// The gate's lease, from the leases that count.
    pub(super) fn regate(&self, state: &mut State<C>) {
        let expires_ms = state.gate_ms();
        self.served.set_gate(expires_ms);
        for link in state.links.values() {
            link.health.set_lease(link.counted_ms);
        }
    }

    /// Drops everything secret.
    pub(super) fn wipe(&self, state: &mut State<C>) {
        let is_blocked = state.is_blocked();
        state.unsealed = None;
        state.kms = None;
        state.drawn = None;
        self.served.wipe();
        for link in state.links.values_mut() {
            link.shares.clear();
            link.attested_key = None;
            link.proven.clear();
            link.deposit = None;
            // While the key store is blocked a release gives no share: that waits until the block is lifted.
            if link.session.is_some() && !is_blocked {
                link.order.get_or_insert(Order::ReleaseAgain);
            }
        }
        self.wiped.send_modify(|wipes| *wipes = wipes.saturating_add(1));
    }

    /// Ends what has expired, and wipes when the gate's lease has. Returns whether it did.
    pub(in crate::custody) fn expire(&self) -> bool {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let is_over = self.served.lease_expires_ms().is_some_and(|expires_ms| now_ms >= expires_ms);
        let mut any = false;
        for (id, link) in &mut state.links {
            if link.counted_ms > 0 && now_ms >= link.counted_ms {
                self.note_lease(*id, None);
                if link.session.is_some() {
                    link.order = Some(Order::Fail(CustodyError::Expired));
                }
                link.end();
                any = true;
            }
        }
        if is_over {
            self.wipe(&mut state);
        }
        if is_over || any {
            self.regate(&mut state);
            drop(state);
            self.tell_all();
        }
        is_over
    }
}

impl<C> State<C> {
    fn gate_ms(&self) -> u64 {
        let set = self.unsealed.as_ref().map(|unsealed| share_set_sha256(unsealed.root().set()));
        let counts = |link: &LinkState<C>| set.is_none_or(|set| link.proven.contains(&set));
        let mut expiries: Vec<u64> =
            self.members().filter(|(_, link)| counts(link)).map(|(_, link)| link.counted_ms).collect();
        expiries.sort_unstable_by(|a, b| b.cmp(a));
        expiries.get(self.quorum().answers().saturating_sub(1)).copied().unwrap_or(0)
    }
}
