//! What goes wrong, once or all the time.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong, once, with the next ask of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::custody::tests) enum Fault {
    /// It is not carried out, and there is no answer.
    Lost,
    /// It is carried out, and there is no answer.
    AnswerLost,
    /// The enclave's clock runs on by so many milliseconds before the answer arrives.
    HeldBack(u64),
    /// The lease is ended.
    LeaseEnded,
}

/// What is not as it should be, all the time.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each by itself")]
pub(in crate::custody::tests) struct Hostile {
    /// Nothing gets through.
    pub(in crate::custody::tests) is_away: bool,
    /// Every share given is this byte.
    pub(in crate::custody::tests) wrong_share: Option<u8>,
    /// The register of that version is offered, as if none had come after.
    pub(in crate::custody::tests) offers_version: Option<u64>,
    /// Each release is the first one again.
    pub(in crate::custody::tests) replays: bool,
    /// Shares given are of the oldest set ever held.
    pub(in crate::custody::tests) gives_first_set: bool,
    pub(in crate::custody::tests) refuses_copies: bool,
    /// Of this version and newer ones.
    pub(in crate::custody::tests) refuses_copies_from: Option<u64>,
    pub(in crate::custody::tests) refuses_deposits: bool,
    /// Those of the generation of the newest version it holds.
    pub(in crate::custody::tests) refuses_late_shares: bool,
    /// The next one comes just before the next version.
    pub(in crate::custody::tests) delays_deposit: bool,
    /// Every version is said to be committed.
    pub(in crate::custody::tests) lies_committed: bool,
    /// The overlay is not handed out.
    pub(in crate::custody::tests) withholds_blocks: bool,
    /// So many times yet the version is forgotten that is said to be committed.
    pub(in crate::custody::tests) forgets: usize,
    /// No head of an audit log is acknowledged.
    pub(in crate::custody::tests) witnesses_nothing: bool,
    /// Heads of audit logs are refused as by somebody who does not know the lease, and without its keys.
    pub(in crate::custody::tests) refuses_heads_openly: bool,
    /// So many uses are granted beyond those that were wanted.
    pub(in crate::custody::tests) grants_more: u32,
    /// Before the next copy the newest share makes room for others.
    pub(in crate::custody::tests) crowds_out: bool,
    /// The successors that it hands out, whatever is in force.
    pub(in crate::custody::tests) successors: Option<Vec<Vec<u8>>>,
    /// Before and after each request through a channel.
    pub(in crate::custody::tests) dawdles: Option<Arc<Dawdles>>,
    /// Requests that are still answered, of all custodians together; the next one is lost, or its answer is, and all after it.
    pub(in crate::custody::tests) fuse: Option<Arc<Fuse>>,
}

/// Pauses that follow from a seed.
pub(in crate::custody::tests) struct Dawdles(AtomicU64);

impl Dawdles {
    const LONGEST_MS: u64 = 400;

    pub(in crate::custody::tests) fn of(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }

    /// By `SplitMix64`.
    pub(super) fn next(&self) -> Duration {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % Self::LONGEST_MS)
    }
}

/// See [`Hostile::fuse`].
pub(in crate::custody::tests) struct Fuse {
    pub(in crate::custody::tests) left: AtomicUsize,
    pub(in crate::custody::tests) last: Fault,
}

impl Fuse {
    pub(super) fn burn(&self) -> Option<Fault> {
        // One more than is left: the last one; so that 0 is what comes after it.
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(1) => Some(self.last),
            Ok(_) => None,
            Err(_) => Some(Fault::Lost),
        }
    }
}
