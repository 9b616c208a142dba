//! Work for strangers is done in turns.
//!
//! A handshake costs a signature, and a request a hash over its body, before anything is known of who asked. Guarantees: at
//! most so many tasks of strangers run at once, so that the other threads are left to the proven; those who wait are taken
//! group by group (host names, and those that have named none), so that a flood for one host keeps nobody else waiting;
//! within a group the newest comes first, which under a flood is the one that can still be answered in time, and which
//! finishes what was begun. Assumes: one poll is short. A task of a proven connection takes no turn.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::Place;

/// The turns.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    free: usize,
    next: u64,
    /// Who waits, by group and arrival.
    waiting: HashMap<u64, BTreeMap<u64, Waker>>,
    /// The groups that wait, in the order in which they get a turn.
    order: VecDeque<u64>,
    /// Those that got a turn and have not come for it yet.
    granted: HashSet<u64>,
}

/// Where a task stands in the queue.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    group: u64,
    number: u64,
}

/// A turn, until dropped.
struct Turn<'t>(&'t Turns);

/// A task that takes turns for as long as its connection is a stranger's.
pub(super) struct InTurns<F> {
    turns: Arc<Turns>,
    place: Arc<Place>,
    ticket: Option<Ticket>,
    task: Pin<Box<F>>,
}

impl Turns {
    /// So many at once.
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue {
            free: at_once.max(1),
            next: 0,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            granted: HashSet::new(),
        })))
    }

    /// `task`, in turns.
    pub(super) fn pace<F: Future>(self: &Arc<Self>, place: &Arc<Place>, task: F) -> InTurns<F> {
        InTurns { turns: Arc::clone(self), place: Arc::clone(place), ticket: None, task: Box::pin(task) }
    }

    /// Nothing panics while it holds the lock; if something did, the maps are still whole.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, if there is one for the ticket; otherwise the task is woken when there is.
    fn take(&self, ticket: &mut Option<Ticket>, group: u64, waker: &Waker) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        if let Some(held) = *ticket {
            if queue.granted.remove(&held.number) {
                *ticket = None;
                return Some(Turn(self));
            }
            if let Some(place) = queue.waiting.get_mut(&held.group).and_then(|group| group.get_mut(&held.number)) {
                place.clone_from(waker);
            }
            return None;
        }
        if queue.free > 0 {
            queue.free -= 1;
            return Some(Turn(self));
        }
        queue.next += 1;
        let number = queue.next;
        let waiting = queue.waiting.entry(group).or_default();
        waiting.insert(number, waker.clone());
        if waiting.len() == 1 {
            queue.order.push_back(group);
        }
        *ticket = Some(Ticket { group, number });
        None
    }

    /// Gives up a place in the queue.
    fn leave(&self, ticket: Ticket) {
        let mut queue = self.queue();
        if queue.granted.remove(&ticket.number) {
            drop(queue);
            return drop(Turn(self));
        }
        let Some(waiting) = queue.waiting.get_mut(&ticket.group) else { return };
        waiting.remove(&ticket.number);
        if waiting.is_empty() {
            queue.waiting.remove(&ticket.group);
            queue.order.retain(|group| *group != ticket.group);
        }
    }
}

impl Queue {
    /// Passes a turn on: to the newest of the group whose turn it is.
    fn pass_on(&mut self) -> Option<Waker> {
        let Some((group, mut waiting)) = self.order.pop_front().and_then(|group| self.waiting.remove_entry(&group))
        else {
            self.free += 1;
            return None;
        };
        let newest = waiting.pop_last();
        if !waiting.is_empty() {
            self.waiting.insert(group, waiting);
            self.order.push_back(group);
        }
        let (number, waker) = newest?;
        self.granted.insert(number);
        Some(waker)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let next = self.0.queue().pass_on();
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if this.place.is_proven() {
            if let Some(ticket) = this.ticket.take() {
                this.turns.leave(ticket);
            }
            return this.task.as_mut().poll(cx);
        }
        let Some(turn) = this.turns.take(&mut this.ticket, this.place.group(), cx.waker()) else {
            return Poll::Pending;
        };
        let result = this.task.as_mut().poll(cx);
        drop(turn);
        result
    }
}

/// Runs the streams of an HTTP/2 connection, in turns too.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) turns: Arc<Turns>,
    pub(super) place: Arc<Place>,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(self.turns.pace(&self.place, stream));
    }
}

impl<F> Drop for InTurns<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.turns.leave(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line {
        turns: Arc<Turns>,
        tickets: Vec<(Option<Ticket>, u64)>,
    }

    impl Line {
        fn new() -> Self {
            Self { turns: Turns::new(1), tickets: Vec::new() }
        }

        fn join(&mut self, group: u64) {
            let mut ticket = None;
            assert!(self.turns.take(&mut ticket, group, Waker::noop()).is_none(), "all turns are taken");
            self.tickets.push((ticket, group));
        }

        /// The order in which those who wait get their turns, by number of arrival.
        fn served(mut self, first: Turn<'_>) -> Vec<usize> {
            let mut served = Vec::new();
            let mut turn = Some(first);
            for _ in 0..self.tickets.len() {
                turn = None;
                for (number, (ticket, group)) in self.tickets.iter_mut().enumerate() {
                    if ticket.is_some() && turn.is_none() {
                        turn = self.turns.take(ticket, *group, Waker::noop());
                        if turn.is_some() {
                            served.push(number);
                        }
                    }
                }
                assert!(turn.is_some(), "a turn was lost after {served:?}");
            }
            drop(turn);
            assert_eq!(self.turns.queue().free, 1);
            assert!(self.turns.queue().waiting.is_empty() && self.turns.queue().order.is_empty());
            served
        }
    }

    #[test]
    fn groups_take_turns_and_the_newest_of_a_group_comes_first() {
        let mut line = Line::new();
        let turns = Arc::clone(&line.turns);
        let first = turns.take(&mut None, 9, Waker::noop()).unwrap();
        for group in [1, 1, 1, 2, 1, 3, 3] {
            line.join(group);
        }
        assert_eq!(line.served(first), [4, 3, 6, 2, 5, 1, 0]);
    }

    #[test]
    fn whoever_leaves_takes_no_turn_along() {
        let mut line = Line::new();
        let turns = Arc::clone(&line.turns);
        let first = turns.take(&mut None, 9, Waker::noop()).unwrap();
        for group in [1, 2, 1, 3] {
            line.join(group);
        }
        // One that waits, and the only one of its group.
        for number in [2, 3] {
            turns.leave(line.tickets.remove(number - usize::from(number == 3)).0.unwrap());
        }
        // One that was granted a turn and never came for it.
        drop(first);
        let granted = line.tickets.remove(0).0.unwrap();
        assert!(turns.queue().granted.contains(&granted.number));
        turns.leave(granted);
        let (ticket, group) = &mut line.tickets[0];
        assert!(turns.take(ticket, *group, Waker::noop()).is_some());
        assert_eq!(turns.queue().free, 1);
    }
}
