//! Who holds a place: the strangers who may still prove themselves, and the proven.
//!
//! ```text
//! arrival ─enter─► stranger without a name ─name─► stranger of a host ─prove─► proven connection of that host
//!                        │ cut                        │ cut                      │ sent away, in order
//! ```
//!
//! A connection is *proven* once it has brought one valid signature; before that nothing about it is known but the host name
//! that it asks for, which anybody can know. Guarantees: never more connections than places; a newcomer always finds one,
//! because strangers hold no more than their quarter and the proven no more than the rest; the proven lose no place to a
//! stranger. Where places are short, whoever comes takes one from the largest group: among strangers its oldest, which is cut;
//! among the proven the one that was silent longest, which is asked to leave. So a flood churns within its own group (one host
//! name, or those that have named none yet), and a host with no more than its equal share of the proven places loses none.
//! Assumes: a place is dropped soon after it was cut. Refuses: nobody; places are taken, not denied (ADR 0018).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use holdfast_shared::limits::{STRANGER_BYTES_MAX, STRANGERS_SHARE};
use holdfast_shared::xks::HostName;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::memory::{Account, Allowance, RequestMemory, Share};
use super::turns::Budget;

/// The group of those that have named no host yet.
const NAMELESS: u64 = 0;

/// All places.
#[derive(Debug)]
pub(super) struct Admission {
    places: Arc<Semaphore>,
    strangers_max: usize,
    proven_max: usize,
    memory: Arc<RequestMemory>,
    /// Orders signatures: a lower number is a longer silence.
    signatures: AtomicU64,
    strangers_cut: AtomicU64,
    proven_sent_away: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_seat: u64,
    next_group: u64,
    strangers: usize,
    proven: usize,
    nameless: Group,
    hosts: HashMap<u64, Group>,
    numbers: HashMap<HostName, u64>,
}

/// The connections for one host name, or those that have named none.
#[derive(Debug, Default)]
struct Group {
    number: u64,
    account: Arc<Account>,
    /// By arrival.
    strangers: BTreeMap<u64, Arc<Seat>>,
    proven: BTreeMap<u64, Arc<Seat>>,
}

/// What others may do to a connection.
#[derive(Debug, Default)]
struct Seat {
    number: u64,
    cut: Cut,
    leave: Notify,
    proven: AtomicBool,
    last_signature: AtomicU64,
}

/// Whether a connection was cut, for each of its tasks.
#[derive(Debug, Default)]
struct Cut {
    happened: AtomicBool,
    waiting: Notify,
}

impl Cut {
    fn tell(&self) {
        self.happened.store(true, Ordering::SeqCst);
        self.waiting.notify_waiters();
    }

    async fn told(&self) {
        // From here on it is woken, so that nothing happens between the look and the wait.
        let told = self.waiting.notified();
        if !self.happened.load(Ordering::SeqCst) {
            told.await;
        }
    }
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    seat: Arc<Seat>,
    host: OnceLock<Host>,
    allowance: Arc<Allowance>,
    budget: Budget,
    /// Given back last, when nothing of the connection is left.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Host {
    name: HostName,
    group: u64,
    account: Arc<Account>,
}

impl Admission {
    pub(super) fn new(places: usize, memory: Arc<RequestMemory>) -> Arc<Self> {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        let strangers_max = (places / STRANGERS_SHARE).max(1);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places)),
            strangers_max,
            proven_max: places.saturating_sub(strangers_max).max(1),
            memory,
            signatures: AtomicU64::new(0),
            strangers_cut: AtomicU64::new(0),
            proven_sent_away: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// A place for a newcomer, who is a stranger without a name. Where all are taken, another stranger is cut for it.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<Place> {
        let permit = if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            permit
        } else {
            self.cut_stranger(&mut self.state());
            #[expect(clippy::expect_used, reason = "the semaphore is never closed")]
            Arc::clone(&self.places).acquire_owned().await.expect("places are never closed")
        };
        let mut state = self.state();
        if state.strangers >= self.strangers_max {
            self.cut_stranger(&mut state);
        }
        state.next_seat += 1;
        let seat = Arc::new(Seat { number: state.next_seat, ..Seat::default() });
        state.strangers += 1;
        state.nameless.strangers.insert(seat.number, Arc::clone(&seat));
        drop(state);
        let allowance = Allowance::new(STRANGER_BYTES_MAX);
        Arc::new(Place {
            admission: Arc::clone(self),
            seat,
            host: OnceLock::new(),
            allowance,
            budget: Budget::default(),
            _permit: permit,
        })
    }

    /// Counters by name, and how the places are held now.
    pub(super) fn counters(&self) -> [(&'static str, u64); 4] {
        let state = self.state();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            ("connections_proven", count(state.proven)),
            ("connections_strangers", count(state.strangers)),
            ("connections_strangers_displaced", self.strangers_cut.load(Ordering::Relaxed)),
            ("connections_over_host_share", self.proven_sent_away.load(Ordering::Relaxed)),
        ]
    }

    /// Nothing panics while it holds the lock; if something did, the maps are still whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the oldest stranger of the largest group of strangers.
    fn cut_stranger(&self, state: &mut State) {
        let groups = state.hosts.values_mut().chain([&mut state.nameless]);
        let Some(largest) = groups.max_by_key(|group| group.strangers.len()) else { return };
        if let Some((_, seat)) = largest.strangers.pop_first() {
            state.strangers -= 1;
            self.strangers_cut.fetch_add(1, Ordering::Relaxed);
            seat.cut.tell();
        }
    }

    /// Makes a stranger of the host proven. If that is one too many, the largest group (of several, this one) gives up the
    /// connection that was silent longest: it is asked to leave, and until it is gone it holds the place of a stranger.
    fn prove(&self, seat: &Seat, group: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(own) = state.hosts.get_mut(&group) else { return };
        // Not there if it was cut in this moment.
        let Some(seat) = own.strangers.remove(&seat.number) else { return };
        seat.proven.store(true, Ordering::Relaxed);
        own.proven.insert(seat.number, seat);
        state.strangers -= 1;
        state.proven += 1;
        if state.proven <= self.proven_max {
            return;
        }
        let largest = state.hosts.values_mut().max_by_key(|other| (other.proven.len(), other.number == group));
        let Some(largest) = largest else { return };
        let silent = largest.proven.values().min_by_key(|seat| seat.last_signature.load(Ordering::Relaxed));
        let Some(seat) = silent.map(Arc::clone).and_then(|seat| largest.proven.remove(&seat.number)) else { return };
        largest.strangers.insert(seat.number, Arc::clone(&seat));
        state.strangers += 1;
        state.proven -= 1;
        self.proven_sent_away.fetch_add(1, Ordering::Relaxed);
        seat.leave.notify_one();
    }
}

impl State {
    fn host(&mut self, name: &HostName) -> &mut Group {
        let number = self.numbers.get(name).copied().unwrap_or_else(|| {
            self.next_group += 1;
            self.numbers.insert(name.clone(), self.next_group);
            self.next_group
        });
        self.hosts.entry(number).or_insert_with(|| Group { number, ..Group::default() })
    }

    fn group(&mut self, number: u64) -> Option<&mut Group> {
        if number == NAMELESS { Some(&mut self.nameless) } else { self.hosts.get_mut(&number) }
    }
}

impl Place {
    /// The client asked for this host: from now on it is one of that host's group.
    pub(super) fn name(&self, name: &HostName) {
        let mut state = self.admission.state();
        let waiting = state.nameless.strangers.remove(&self.seat.number);
        let group = state.host(name);
        // Not there if it was cut in this moment.
        if let Some(seat) = waiting {
            group.strangers.insert(seat.number, seat);
        }
        let host = Host { name: name.clone(), group: group.number, account: Arc::clone(&group.account) };
        // A second name would be a fault of the caller's; the first counts.
        let _ = self.host.set(host);
    }

    /// A signature was valid. Takes a lock the first time only.
    pub(super) fn signed(&self) {
        let order = self.admission.signatures.fetch_add(1, Ordering::Relaxed);
        self.seat.last_signature.store(order, Ordering::Relaxed);
        if let (false, Some(host)) = (self.is_proven(), self.host.get()) {
            self.admission.prove(&self.seat, host.group);
        }
    }

    /// Whether there was a valid signature.
    pub(super) fn is_proven(&self) -> bool {
        self.seat.proven.load(Ordering::Relaxed)
    }

    /// The number of its group: a host name's, or that of those without a name.
    pub(super) fn group(&self) -> u64 {
        self.host.get().map_or(NAMELESS, |host| host.group)
    }

    /// What the connection may still do in the poll that is running.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Memory for a request: a stranger has an allowance of its own, the proven share by host.
    pub(super) fn share(&self) -> Share {
        match self.host.get() {
            Some(host) if self.is_proven() => self.admission.memory.share(&host.account),
            _ => self.allowance.share(),
        }
    }

    /// Returns once a newcomer needs the place: the connection, with every task of it, must end at once.
    pub(super) async fn cut(&self) {
        self.seat.cut.told().await;
    }

    /// Returns once another host needs the place: the connection should end in order.
    pub(super) async fn sent_away(&self) {
        self.seat.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        let state = &mut *state;
        let Some(group) = state.group(self.group()) else { return };
        let was_stranger = group.strangers.remove(&self.seat.number).is_some();
        let was_proven = group.proven.remove(&self.seat.number).is_some();
        let empty = group.strangers.is_empty() && group.proven.is_empty();
        state.strangers -= usize::from(was_stranger);
        state.proven -= usize::from(was_proven);
        if let (true, Some(host)) = (empty, self.host.get()) {
            state.hosts.remove(&host.group);
            state.numbers.remove(&host.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::future::Future;
    use core::task::{Context, Poll, Waker};

    use tokio::task::unconstrained;

    use super::*;

    fn host(number: usize) -> HostName {
        HostName::parse(&format!("host-{number}.example.com")).unwrap()
    }

    fn admission(places: usize) -> Arc<Admission> {
        Admission::new(places, RequestMemory::new(1024))
    }

    /// Connections as they come and go: whoever is cut is gone.
    #[derive(Default)]
    struct Crowd(Vec<(usize, Arc<Place>)>);

    impl Crowd {
        /// A newcomer by number, a stranger without a name.
        async fn enter(&mut self, admission: &Arc<Admission>, number: usize) -> Arc<Place> {
            let mut entering = core::pin::pin!(unconstrained(admission.enter()));
            let polled = entering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.0.retain(|(_, place)| !happened(place.cut()));
            let place = match polled {
                Poll::Ready(place) => place,
                Poll::Pending => entering.await,
            };
            self.0.push((number, Arc::clone(&place)));
            place
        }

        async fn stranger(&mut self, admission: &Arc<Admission>, number: usize, name: usize) -> Arc<Place> {
            let place = self.enter(admission, number).await;
            place.name(&host(name));
            place
        }

        async fn proven(&mut self, admission: &Arc<Admission>, number: usize, name: usize) {
            self.stranger(admission, number, name).await.signed();
        }

        fn numbers(&self) -> Vec<usize> {
            self.0.iter().map(|(number, _)| *number).collect()
        }

        /// Those that were asked to leave since the last time.
        fn sent_away(&self) -> Vec<usize> {
            let sent_away = self.0.iter().filter(|(_, place)| happened(place.sent_away()));
            sent_away.map(|(number, _)| *number).collect()
        }
    }

    fn happened(event: impl Future<Output = ()>) -> bool {
        // Unconstrained: the runtime makes a task that asks often enough wait.
        core::pin::pin!(unconstrained(event)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Sixteen places: four for strangers, twelve for the proven.
    #[tokio::test]
    async fn the_oldest_stranger_of_the_largest_group_goes() {
        let (admission, mut crowd) = (admission(16), Crowd::default());
        for (number, name) in [1, 2, 2, 1].into_iter().enumerate() {
            crowd.stranger(&admission, number, name).await;
        }
        assert_eq!(crowd.numbers(), [0, 1, 2, 3]);
        crowd.stranger(&admission, 4, 2).await;
        // Both groups had two; either may give.
        let left = crowd.numbers();
        assert!(left == [1, 2, 3, 4] || left == [0, 2, 3, 4], "{left:?}");
        crowd.stranger(&admission, 5, 3).await;
        crowd.stranger(&admission, 6, 3).await;
        assert_eq!(crowd.numbers().len(), 4);
        assert_eq!(admission.counters()[1..3], [("connections_strangers", 4), ("connections_strangers_displaced", 3)]);
        drop(crowd);
        assert_eq!(admission.counters()[1], ("connections_strangers", 0));
        assert!(admission.state().hosts.is_empty() && admission.state().numbers.is_empty());
    }

    #[tokio::test]
    async fn a_flood_for_one_host_churns_among_itself() {
        let (admission, mut crowd) = (admission(16), Crowd::default());
        crowd.stranger(&admission, 0, 1).await;
        crowd.enter(&admission, 1).await;
        for number in 2..50 {
            crowd.stranger(&admission, number, 2).await;
        }
        assert_eq!(crowd.numbers(), [0, 1, 48, 49]);
    }

    #[tokio::test]
    async fn strangers_never_displace_the_proven() {
        let (admission, mut crowd) = (admission(16), Crowd::default());
        for number in 0..12 {
            crowd.proven(&admission, number, 1).await;
        }
        for number in 12..100 {
            crowd.stranger(&admission, number, 1 + number % 3).await;
        }
        assert_eq!(crowd.numbers()[..12], (0..12).collect::<Vec<_>>());
        assert_eq!(crowd.numbers().len(), 16);
        assert_eq!(crowd.sent_away(), [0; 0]);
        assert_eq!(admission.counters()[0], ("connections_proven", 12));
        // Whoever signs among them gets a place of the proven.
        crowd.proven(&admission, 100, 2).await;
        assert!(crowd.numbers().contains(&100));
        assert_eq!(crowd.sent_away(), [0], "of the larger host the one that was silent longest");
    }

    /// A newcomer waits for the place of the one that was cut, so that there are never more than there are places.
    #[tokio::test]
    async fn a_place_is_free_when_its_holder_is_gone() {
        let (admission, mut crowd) = (admission(4), Crowd::default());
        for number in 0..3 {
            crowd.proven(&admission, number, 1).await;
        }
        let last = admission.enter().await;
        let mut next = core::pin::pin!(unconstrained(admission.enter()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert!(happened(last.cut()));
        assert!(next.as_mut().poll(&mut cx).is_pending());
        drop(last);
        assert!(next.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn a_host_within_its_share_of_the_proven_loses_nothing() {
        let (admission, mut crowd) = (admission(16), Crowd::default());
        for number in 0..12 {
            crowd.proven(&admission, number, 1).await;
        }
        // All but the third have signed since.
        for (number, place) in &crowd.0 {
            if *number != 2 {
                place.signed();
            }
        }
        crowd.proven(&admission, 100, 2).await;
        assert_eq!(crowd.sent_away(), [2], "the one that was silent longest");
        for (number, silent) in (101..106).zip([0, 1, 3, 4, 5]) {
            crowd.proven(&admission, number, 2).await;
            assert_eq!(crowd.sent_away(), [silent]);
        }
        // Six each: who comes now takes from its own.
        crowd.proven(&admission, 106, 2).await;
        assert_eq!(crowd.sent_away(), [100]);
        crowd.proven(&admission, 12, 1).await;
        assert_eq!(crowd.sent_away(), [6]);
        assert_eq!(admission.counters()[0], ("connections_proven", 12));
        // Those who are to leave hold places of strangers, and lose them as strangers do.
        for number in 200..203 {
            crowd.stranger(&admission, number, 1).await;
        }
        let left = crowd.numbers();
        assert!(!left.contains(&6) && left.len() == 16, "{left:?}");
        drop(crowd);
        assert!(admission.state().hosts.is_empty() && admission.state().numbers.is_empty());
    }

    #[tokio::test]
    async fn one_place_serves_one_after_the_other() {
        let admission = admission(1);
        for _ in 0..3 {
            let place = admission.enter().await;
            place.name(&host(1));
            place.signed();
            assert!(!happened(place.sent_away()));
        }
    }
}
