//! What is asked through a lease's channel.

use core::num::NonZeroU32;
use std::time::Duration;

use holdfast_shared::api::RefusalCode;
use holdfast_shared::audit::Checkpoint;
use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply, Seen};
use holdfast_shared::command::SealedResult;
use holdfast_shared::hpke;
use holdfast_shared::ids::BlobId;
use holdfast_shared::keystore::{self, granted};
use holdfast_shared::labels;
use holdfast_shared::limits::{COMMIT_WAIT_MS, WATCH_HOLD_MS};
use holdfast_shared::provenance::share_set_sha256;
use holdfast_shared::quorum::{self, Copied};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{self, HeldShare, Share, ShareSet};
use ring::rand::SystemRandom;

use super::FakeCustodian;
use super::faults::Fault;
use super::state::{State, Version};

/// After so long nobody waits for a deposit any more.
const LATE: Duration = Duration::from_mins(1);

impl FakeCustodian {
    pub(super) async fn channel(&self, body: &[u8]) -> Option<Result<Vec<u8>, RefusalCode>> {
        let message: ChannelMessage = cbor::decode(body).unwrap();
        let keys = self.state().leases.get(&message.lease_id).cloned();
        let Some(keys) = keys else { return Some(Err(RefusalCode::NotFound)) };
        let ask: Ask = channel::open(&message, Direction::Ask, &keys.ask).unwrap();
        let fault = self.begin(match &ask {
            Ask::Watch { renew: true, .. } => "renew",
            Ask::Watch { .. } => "watch",
            Ask::Fetch { .. } => "fetch",
            Ask::Deposit { .. } => "deposit",
            Ask::Publish { .. } => "publish",
            Ask::Report { .. } => "report",
            Ask::Copy { .. } => "copy",
            Ask::Commit { .. } => "commit",
            Ask::Retire { .. } => "retire",
            Ask::Witness { .. } => "witness",
            Ask::Debit { .. } => "debit",
            Ask::Tally(_) => "tally",
        });
        if fault == Some(Fault::Lost) {
            return None;
        }
        if matches!(ask, Ask::Witness { .. }) && self.state().hostile.refuses_heads_openly {
            return Some(Err(RefusalCode::NotFound));
        }
        let reply = if fault == Some(Fault::LeaseEnded) {
            self.state().leases.remove(&message.lease_id);
            Reply::Refused { reason: "the policy changed".to_owned(), lease_ended: true }
        } else {
            self.dawdle().await;
            let reply = self.reply(ask).await;
            self.dawdle().await;
            reply
        };
        self.finish(fault)?;
        let rng = SystemRandom::new();
        let (id, counter) = (message.lease_id, message.counter);
        Some(Ok(channel::seal(&reply, Direction::Reply, &keys.reply, id, counter, &rng).unwrap()))
    }

    async fn reply(&self, ask: Ask) -> Reply {
        match ask {
            Ask::Watch { seen, renew } => self.watch(&seen, renew).await,
            Ask::Fetch { blob_id } => {
                let state = self.state();
                let found = state.versions.iter().find(|held| held.entry.blob_id == blob_id);
                found.map_or_else(
                    || refused("no such blob"),
                    |held| Reply::Blob { blob: held.blob.clone(), evidence: held.evidence.clone() },
                )
            }
            Ask::Deposit { set, share } => {
                if self.is_delayed(&set, &share) {
                    tokio::time::sleep(LATE).await;
                    return refused("late");
                }
                self.deposit(set, &share)
            }
            Ask::Publish { version, previous, blob, results, evidence } => {
                self.publish(version, previous, blob, results, evidence)
            }
            Ask::Copy { register, blob, evidence } => {
                self.arrive_late();
                self.copy(register, blob, evidence)
            }
            Ask::Commit { version, blob_id } => self.commit(version, blob_id),
            Ask::Retire { generation } => self.retire(generation),
            Ask::Witness { checkpoint } => self.witness(&checkpoint),
            Ask::Debit { key, window, limit, want } => {
                let mut state = self.state();
                let extra = state.hostile.grants_more;
                let counted = state.debited.entry((key, window)).or_default();
                let granted = granted(limit, *counted, want);
                *counted += granted;
                Reply::Debited { granted: granted + extra, counted: *counted + extra }
            }
            Ask::Tally(tally) => {
                let mut state = self.state();
                state.tallies.push(tally);
                Reply::Tallied { raised: core::mem::take(&mut state.raises) }
            }
            Ask::Report { results } => {
                Self::keep(&mut self.state(), results);
                Reply::Reported
            }
        }
    }

    fn witness(&self, checkpoint: &[u8]) -> Reply {
        let head = Checkpoint::parse(core::str::from_utf8(checkpoint).unwrap()).unwrap();
        let mut state = self.state();
        if state.hostile.witnesses_nothing {
            return refused("witnesses nothing");
        }
        if let Some(known) = state.heads.iter().rev().find(|known| known.log == head.log) {
            assert!(!known.closed || head == *known, "nothing after the end");
            assert!(head.size > known.size || head == *known, "never back, and never another of one size");
        }
        state.heads.push(head);
        Reply::Witnessed
    }

    /// Takes a share that is on its way for so long that it comes just before the next version.
    fn is_delayed(&self, set: &ShareSet, share: &hpke::Sealed) -> bool {
        let mut state = self.state();
        let is_delayed = core::mem::take(&mut state.hostile.delays_deposit);
        if is_delayed {
            state.late = Some((set.clone(), share.clone()));
        }
        is_delayed
    }

    /// What comes just before a version.
    fn arrive_late(&self) {
        let mut state = self.state();
        if core::mem::take(&mut state.hostile.crowds_out) {
            state.shares.pop();
        }
        let late = state.late.take();
        drop(state);
        if let Some((set, share)) = late {
            self.deposit(set, &share);
        }
    }

    fn deposit(&self, set: ShareSet, sealed: &hpke::Sealed) -> Reply {
        let mut state = self.state();
        if state.hostile.refuses_deposits || (state.hostile.refuses_late_shares && state.is_in_force(set.generation)) {
            return refused("will not");
        }
        if state.holds_set(set.generation, share_set_sha256(&set)) {
            return Reply::Deposited;
        }
        if !state.may_come(&set) {
            return Reply::Conflict { register: state.held() };
        }
        let id = self.id();
        let share = release::open_share(sealed, state.manifest().id(), id, &self.encryption_key).unwrap();
        assert!(state.has_place(id, share.index, set.commitments.len()), "a share of another place");
        holdfast_shared::sharing::check(&share, &set).unwrap();
        if state.first_share.is_none() {
            let first = Share { index: share.index, value: share.value.duplicate() };
            state.first_share = Some(HeldShare { share: first, set: set.clone() });
        }
        state.keep_share(HeldShare { share, set });
        Reply::Deposited
    }

    fn copy(&self, register: Vec<u8>, blob: Vec<u8>, evidence: Vec<u8>) -> Reply {
        let mut state = self.state();
        if state.hostile.refuses_copies {
            return refused("will not");
        }
        let home = state.manifest().home_custodian().unwrap().signing_key;
        let entry = register::open(&register, state.manifest().id(), &home).unwrap();
        if state.hostile.refuses_copies_from.is_some_and(|from| entry.version >= from) {
            return refused("will not");
        }
        assert_eq!(entry.blob_id, keystore::blob_id(&blob));
        let held = state.versions.last().map(|newest| (newest.entry.version, newest.entry.blob_id));
        match quorum::judge_copy(held, &entry) {
            Copied::Same => Reply::Copied,
            Copied::Older | Copied::Fork => Reply::Conflict { register: state.held() },
            Copied::Keep => {
                let since = tokio::time::Instant::now();
                let results = Vec::new();
                state.keep_version(Version { entry, blob, register, evidence, is_committed: false, results, since });
                drop(state);
                self.changed.notify_waiters();
                Reply::Copied
            }
        }
    }

    fn commit(&self, version: u64, blob_id: BlobId) -> Reply {
        let mut state = self.state();
        if state.hostile.forgets > 0 {
            state.hostile.forgets -= 1;
            state.versions.retain(|held| held.entry.version < version);
        }
        if !state.versions.iter().any(|held| (held.entry.version, held.entry.blob_id) == (version, blob_id)) {
            return Reply::Conflict { register: state.held() };
        }
        state.commit(version);
        drop(state);
        self.changed.notify_waiters();
        Reply::Committed
    }

    fn retire(&self, generation: u32) -> Reply {
        let mut state = self.state();
        let newest = state.versions.last().filter(|newest| newest.is_committed && newest.generation() == generation);
        let is_due = newest.is_some_and(|newest| {
            !state.is_member(self.id())
                || newest.user_data().is_none_or(|named| state.holds_set(generation, named.share_set_sha256))
        });
        if !is_due {
            state.log.push("retire too early");
            return refused("not yet");
        }
        state.shares.retain(|held| held.set.generation >= generation);
        Reply::Retired
    }

    pub(in crate::custody::tests) fn publish(
        &self,
        version: u64,
        previous: Option<BlobId>,
        blob: Vec<u8>,
        results: Vec<SealedResult>,
        evidence: Vec<u8>,
    ) -> Reply {
        let mut state = self.state();
        let header = keystore::header(&blob).unwrap();
        let blob_id = keystore::blob_id(&blob);
        let newest = state.versions.last();
        if let Some(newest) = newest.filter(|newest| newest.entry.blob_id == blob_id) {
            return Reply::Published { register: newest.register.clone() };
        }
        if newest.map(|newest| newest.entry.blob_id) != previous {
            return Reply::Conflict { register: state.held() };
        }
        let label = labels::REGISTER.to_owned();
        let key_store_id = header.key_store_id;
        let entry = RegisterEntry { label, key_store_id, version, blob_id, previous, recorded_ms: 0 };
        let is_committed = match state.judge_evidence(&entry, header.generation, &evidence) {
            Ok(is_committed) => is_committed,
            Err(reason) => return refused(reason),
        };
        let register = register::sign(&entry, &self.key, &SystemRandom::new()).unwrap();
        for result in &results {
            state.commands.retain(|(id, _)| *id != result.command_id);
        }
        let since = tokio::time::Instant::now();
        let signed = register.clone();
        state.keep_version(Version { entry, blob, register, evidence, is_committed, results, since });
        if is_committed {
            state.commit(version);
        }
        drop(state);
        self.changed.notify_waiters();
        Reply::Published { register: signed }
    }

    fn keep(state: &mut State, results: Vec<SealedResult>) {
        for result in results {
            state.commands.retain(|(id, _)| *id != result.command_id);
            state.results.insert(result.command_id, result);
        }
    }

    async fn watch(&self, seen: &Seen, renew: bool) -> Reply {
        let until = tokio::time::Instant::now() + Duration::from_millis(WATCH_HOLD_MS);
        loop {
            let changed = self.changed.notified();
            if let Some(reply) = self.news(seen, renew, tokio::time::Instant::now() >= until) {
                return reply;
            }
            // What is held back is looked at again.
            let _ = tokio::time::timeout(Duration::from_millis(COMMIT_WAIT_MS), changed).await;
        }
    }

    fn news(&self, seen: &Seen, renew: bool, is_due: bool) -> Option<Reply> {
        let state = self.state();
        let fresh = state.overlay.as_ref().is_some_and(|overlay| overlay.epoch > seen.overlay_epoch);
        let overlay = state.signed_overlay.clone().filter(|_| fresh && !state.hostile.withholds_blocks);
        let is_shown = |newest: &&Version| {
            newest.entry.version > seen.version
                && (newest.is_committed || newest.since.elapsed() >= Duration::from_millis(COMMIT_WAIT_MS))
        };
        let register = if state.newest().as_ref().is_some_and(is_shown) { state.held() } else { None };
        let unseen: Vec<_> = state.commands.iter().filter(|(id, _)| !seen.commands.contains(id)).collect();
        let lease_ms = renew.then_some(state.lease_ms);
        let empty = overlay.is_none() && register.is_none() && unseen.is_empty() && lease_ms.is_none();
        let commands = unseen.into_iter().map(|(_, signed)| signed.clone().into()).collect();
        let successors = state.successors();
        let is_behind = usize::try_from(seen.manifest_sequence).unwrap() <= successors.len();
        let successors: Vec<_> = successors.into_iter().filter(|_| is_behind).map(Into::into).collect();
        let empty = empty && successors.is_empty();
        let news = Reply::News { lease_ms, overlay, register, commands, enclaves: NonZeroU32::MIN, successors };
        (!empty || is_due).then_some(news)
    }
}

fn refused(reason: &str) -> Reply {
    Reply::Refused { reason: reason.to_owned(), lease_ended: false }
}
