//! Places for clients' connections.
//!
//! The enclave decides who stays (it knows who has signed); this is about those that it never sees. Guarantees: never more
//! connections than places; a newcomer gets the place of one that sends nothing (it has not sent its first byte, or it was
//! answered to the end and is only waited for): the oldest of the address that has most of them. A connection that is being
//! relayed is never displaced. So idle connections, however many, keep nobody out, and those of one address displace each
//! other first. Assumes: `max_connections` is above what the enclave takes, so that there always is one that sends nothing
//! when all places are taken. Refuses: newcomers when every place is being relayed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::state::Slots;

/// All places.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: Slots,
    quiet: Mutex<Quiet>,
}

/// Those that send nothing, by address and age.
#[derive(Debug, Default)]
struct Quiet {
    next: u64,
    sources: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
}

/// A place, until dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    source: IpAddr,
    number: u64,
    cut: Arc<Notify>,
    _slot: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { slots: Slots::new(max), quiet: Mutex::default() })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.slots.taken()
    }

    /// Waits until none is taken.
    pub(crate) async fn all_returned(&self) {
        self.slots.all_returned().await;
    }

    /// A place for a newcomer that has sent nothing yet, if need be that of another such; none if all are relaying.
    pub(crate) async fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let slot = match self.slots.take() {
            Some(slot) => slot,
            None if self.displace() => self.slots.next().await?,
            None => return None,
        };
        let mut quiet = self.quiet();
        quiet.next += 1;
        let number = quiet.next;
        drop(quiet);
        let cut = Arc::new(Notify::new());
        let ticket = Ticket { admission: Arc::clone(self), source: network_of(address), number, cut, _slot: slot };
        ticket.is_quiet();
        Some(ticket)
    }

    /// Cuts the oldest of the address that has most of those that send nothing.
    fn displace(&self) -> bool {
        let mut quiet = self.quiet();
        let Some(source) = quiet.sources.iter().max_by_key(|(_, all)| all.len()).map(|(source, _)| *source) else {
            return false;
        };
        let oldest = quiet.sources.get_mut(&source).and_then(BTreeMap::pop_first);
        if quiet.sources.get(&source).is_some_and(BTreeMap::is_empty) {
            quiet.sources.remove(&source);
        }
        if let Some((_, cut)) = &oldest {
            cut.notify_one();
        }
        oldest.is_some()
    }

    /// Nothing panics while it holds the lock; if something did, the map is still whole.
    fn quiet(&self) -> MutexGuard<'_, Quiet> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The connection sends nothing: from now on its place may be taken.
    pub(crate) fn is_quiet(&self) {
        self.admission.quiet().sources.entry(self.source).or_default().insert(self.number, Arc::clone(&self.cut));
    }

    /// The connection is relayed: its place is its own.
    pub(crate) fn is_relayed(&self) {
        let mut quiet = self.admission.quiet();
        if let Some(source) = quiet.sources.get_mut(&self.source) {
            source.remove(&self.number);
            if source.is_empty() {
                quiet.sources.remove(&self.source);
            }
        }
    }

    /// Returns once the place is needed for another.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.is_relayed();
    }
}

/// What counts as one source: an address; of IPv6 the first half, which is what one subscriber has at least (RFC 6177).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use core::future::Future;
    use core::task::{Context, Waker};

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn was_cut(ticket: &Ticket) -> bool {
        core::pin::pin!(ticket.cut()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Enters, and drops whoever was cut for it, as the task of each does.
    async fn enter(admission: &Arc<Admission>, from: u8, tickets: &mut Vec<(u8, Ticket)>) -> bool {
        let entered = {
            let mut entering = core::pin::pin!(admission.enter(address(from)));
            let mut polled = entering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            tickets.retain(|(_, ticket)| !was_cut(ticket));
            if polled.is_pending() {
                polled = core::task::Poll::Ready(entering.await);
            }
            polled
        };
        match entered {
            core::task::Poll::Ready(Some(ticket)) => {
                tickets.push((from, ticket));
                true
            }
            _ => false,
        }
    }

    fn sources(tickets: &[(u8, Ticket)]) -> Vec<u8> {
        tickets.iter().map(|(from, _)| *from).collect()
    }

    #[tokio::test]
    async fn the_oldest_silent_one_of_the_busiest_address_makes_place() {
        let admission = Admission::new(4);
        let mut tickets = Vec::new();
        for from in [2, 1, 1, 1] {
            assert!(enter(&admission, from, &mut tickets).await);
        }
        for _ in 0..20 {
            assert!(enter(&admission, 1, &mut tickets).await);
        }
        assert_eq!(sources(&tickets), [2, 1, 1, 1]);
        assert!(enter(&admission, 3, &mut tickets).await);
        assert_eq!(sources(&tickets), [2, 1, 1, 3]);
        assert_eq!(admission.taken(), 4);
        tickets.clear();
        assert_eq!(admission.taken(), 0);
        assert!(admission.quiet().sources.is_empty());
    }

    #[tokio::test]
    async fn what_is_relayed_stays() {
        let admission = Admission::new(3);
        let mut tickets = Vec::new();
        for from in [1, 1, 1] {
            assert!(enter(&admission, from, &mut tickets).await);
        }
        for (_, ticket) in &tickets {
            ticket.is_relayed();
        }
        assert!(!enter(&admission, 2, &mut tickets).await);
        assert_eq!(sources(&tickets), [1, 1, 1]);
        // Answered to the end, and only waited for.
        tickets[1].1.is_quiet();
        assert!(enter(&admission, 2, &mut tickets).await);
        assert_eq!(sources(&tickets), [1, 1, 2]);
    }

    #[test]
    fn what_counts_as_one_source() {
        let same = |one: &str, other: &str| network_of(one.parse().unwrap()) == network_of(other.parse().unwrap());
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same("2001:db8::1", "2001:db8::2:0:0:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    }
}
