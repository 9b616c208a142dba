//! Whose logs are being written: the logs of one boot by one connection at a time.
//!
//! Guarantees: a later connection of a boot takes the place of the earlier one, once that one has written what it got.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

use holdfast_link::BootId;
use tokio::sync::watch;

/// The boots that connections write for, or wait for.
#[derive(Debug)]
pub(super) struct Boots {
    claimed: watch::Sender<BTreeMap<BootId, Claimed>>,
    /// Claims so far: each has a number of its own.
    count: AtomicU64,
}

#[derive(Debug, Default)]
struct Claimed {
    /// The number of the latest that asked.
    newest: u64,
    is_held: bool,
}

/// The right to write the logs of a boot, until dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    boots: &'a Boots,
    boot_id: BootId,
    number: u64,
}

impl Default for Boots {
    fn default() -> Self {
        Self { claimed: watch::Sender::new(BTreeMap::new()), count: AtomicU64::new(0) }
    }
}

impl Boots {
    /// Waits until whoever had it before is done; `None` when another one came meanwhile.
    pub(super) async fn claim(&self, boot_id: BootId) -> Option<Claim<'_>> {
        let number = self.next_number();
        self.claimed.send_modify(|boots| boots.entry(boot_id).or_default().newest = number);
        let mut changes = self.claimed.subscribe();
        loop {
            let is_newest = |claimed: &&mut Claimed| claimed.newest == number;
            let mut taken = None;
            self.claimed.send_if_modified(|boots| {
                taken = boots
                    .get_mut(&boot_id)
                    .filter(is_newest)
                    .map(|claimed| !core::mem::replace(&mut claimed.is_held, true));
                taken == Some(true)
            });
            match taken {
                None => return None,
                Some(true) => return Some(Claim { boots: self, boot_id, number }),
                Some(false) => changes.changed().await.ok()?,
            }
        }
    }

    /// Takes it if nobody has it or waits for it.
    pub(super) fn claim_unused(&self, boot_id: BootId) -> Option<Claim<'_>> {
        let number = self.next_number();
        let was_unused = self.claimed.send_if_modified(|boots| {
            let is_unused = !boots.contains_key(&boot_id);
            boots.entry(boot_id).or_insert(Claimed { newest: number, is_held: true });
            is_unused
        });
        // Not `then_some`: a claim that is dropped gives the boot back.
        was_unused.then(|| Claim { boots: self, boot_id, number })
    }

    fn next_number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

impl Claim<'_> {
    /// Waits until another one wants it.
    pub(super) async fn replaced(&self) {
        let is_later = |boots: &BTreeMap<BootId, Claimed>| {
            boots.get(&self.boot_id).is_none_or(|claimed| claimed.newest != self.number)
        };
        // The sender lives as long as this claim.
        let _ = self.boots.claimed.subscribe().wait_for(is_later).await;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.boots.claimed.send_modify(|boots| {
            let Some(claimed) = boots.get_mut(&self.boot_id) else { return };
            claimed.is_held = false;
            if claimed.newest == self.number {
                boots.remove(&self.boot_id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_has_it_once_the_one_before_is_done() {
        let (boots, boot_id) = (Boots::default(), BootId::from([1; 16]));
        let first = boots.claim(boot_id).await.unwrap();
        assert!(boots.claim_unused(boot_id).is_none());
        assert!(boots.claim_unused(BootId::from([2; 16])).is_some());
        let (mut second, mut third) = (Box::pin(boots.claim(boot_id)), Box::pin(boots.claim(boot_id)));
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = &mut second => panic!("the first still has it"),
                () = tokio::task::yield_now() => {}
            }
        }
        first.replaced().await;
        tokio::select! {
            biased;
            _ = &mut third => panic!("the first still has it"),
            () = tokio::task::yield_now() => {}
        }
        assert!(second.await.is_none(), "a third came");
        drop(first);
        let third = third.await.unwrap();
        assert!(boots.claim_unused(boot_id).is_none());
        drop(third);
        assert!(boots.claim_unused(boot_id).is_some());
    }
}
