//! Memory that requests hold, from their first header until their answer has gone.
//!
//! Guarantees: all requests together hold a bounded number of bytes. A stranger's requests draw on an allowance of its
//! connection, which nobody else can use up; those of proven connections share one pool, in which a host may hold no more
//! than what is still free (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). With k
//! greedy hosts one part in k + 1 stays free for the next, without anybody counting hosts or setting shares. Refuses: more,
//! with 429 ("unable to keep up", specification, section "Error codes").

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use holdfast_shared::xks::XksError;

use crate::xks::BUSY;

/// The pool of the proven.
#[derive(Debug)]
pub(super) struct RequestMemory {
    free: AtomicUsize,
    refused: AtomicU64,
}

/// What one host holds of the pool.
#[derive(Debug, Default)]
pub(super) struct Account(AtomicUsize);

/// What one stranger may still hold.
#[derive(Debug)]
pub(super) struct Allowance(AtomicUsize);

/// What one request holds, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    from: Source,
    held: usize,
}

#[derive(Debug)]
enum Source {
    Stranger(Arc<Allowance>),
    Host(Arc<RequestMemory>, Arc<Account>),
}

impl RequestMemory {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(bytes), refused: AtomicU64::new(0) })
    }

    /// A share of nothing, for a host.
    pub(super) fn share(self: &Arc<Self>, account: &Arc<Account>) -> Share {
        Share { from: Source::Host(Arc::clone(self), Arc::clone(account)), held: 0 }
    }

    /// How often a host asked for more than its share.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Allowance {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// A share of nothing.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { from: Source::Stranger(Arc::clone(self)), held: 0 }
    }
}

impl Share {
    /// Takes more, if that much may be held.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), XksError> {
        let taken = match &self.from {
            Source::Stranger(allowance) => {
                allowance.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
            }
            Source::Host(memory, account) => {
                let held = account.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
                let within = |free: usize| free.checked_sub(bytes).filter(|rest| held <= *rest);
                let taken = memory.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
                if !taken {
                    account.0.fetch_sub(bytes, Ordering::Relaxed);
                    memory.refused.fetch_add(1, Ordering::Relaxed);
                }
                taken
            }
        };
        if !taken {
            return Err(BUSY);
        }
        self.held += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        match &self.from {
            Source::Stranger(allowance) => {
                allowance.0.fetch_add(self.held, Ordering::Relaxed);
            }
            Source::Host(memory, account) => {
                account.0.fetch_sub(self.held, Ordering::Relaxed);
                memory.free.fetch_add(self.held, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_its_own() {
        let (first, second) = (Allowance::new(100), Allowance::new(100));
        let (mut share, mut more, mut other) = (first.share(), first.share(), second.share());
        share.grow(60).unwrap();
        assert_eq!(more.grow(41), Err(BUSY));
        more.grow(40).unwrap();
        other.grow(100).unwrap();
        drop(share);
        more.grow(60).unwrap();
    }

    /// A host gets what is still free and no more; whoever comes later still finds something.
    #[test]
    fn no_host_takes_everything() {
        let memory = RequestMemory::new(1200);
        let take_all = |account: &Arc<Account>| {
            let mut share = memory.share(account);
            while share.grow(1).is_ok() {}
            share
        };
        let accounts: [Arc<Account>; 3] = Default::default();
        let first = take_all(&accounts[0]);
        assert_eq!(first.held, 600);
        let second = take_all(&accounts[1]);
        assert_eq!(second.held, 300);
        let third = take_all(&accounts[2]);
        assert_eq!(third.held, 150);
        assert_eq!(memory.share(&accounts[0]).grow(1), Err(BUSY), "in a second share neither");
        drop(first);
        assert_eq!(take_all(&accounts[1]).held + second.held, 525, "what is given back is shared anew");
        drop((second, third));
        assert_eq!(take_all(&accounts[2]).held, 600);
        assert!(memory.refused() >= 5);
    }
}
