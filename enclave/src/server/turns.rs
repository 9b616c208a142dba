//! Work for strangers is done in turns.
//!
//! A handshake costs a signature, and a request a hash over its body, before anything is known of who asked. Guarantees: at
//! most so many tasks of strangers run at once, so that the other threads are left to the proven; those who wait are taken
//! group by group (host names, and those that have named none), so that a flood for one host keeps nobody else waiting;
//! within a group the newest comes first, which under a flood is the one that can still be answered in time, and which
//! finishes what was begun; but whoever had [`FIRST_TURNS`] comes after all who had fewer, so that a few connections that send
//! without end do not stand before every newcomer. A task of a proven connection takes no turn. One poll is short, of whichever
//! connection: it reads [`READ_IN_POLL_MAX`] bytes at most and answers one request; for more, the connection has to queue again.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::admission::Place;

/// Bytes that a connection reads in one poll: a TLS record, about.
const READ_IN_POLL_MAX: usize = 16 * 1024;

/// The turns.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    free: usize,
    next: u64,
    /// Who waits, by group; the last of a group comes first.
    waiting: HashMap<u64, BTreeMap<(bool, u64), Waker>>,
    /// The groups that wait, in the order in which they get a turn.
    order: VecDeque<u64>,
    /// Those that got a turn and have not come for it yet.
    granted: HashSet<u64>,
}

/// Where a task stands in the queue.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    group: u64,
    is_new: bool,
    number: u64,
}

impl Ticket {
    /// Among those of its group.
    const fn place(self) -> (bool, u64) {
        (self.is_new, self.number)
    }
}

/// A turn, until dropped.
struct Turn<'t>(&'t Turns);

/// Turns that bring a connection from its `ClientHello` to its first valid signature, and a few requests at once besides.
const FIRST_TURNS: usize = 32;

/// What a connection may still do in the poll that is running, and how many polls there were.
#[derive(Debug, Default)]
pub(super) struct Budget {
    polls: AtomicUsize,
    read: AtomicUsize,
    answered: AtomicBool,
}

impl Budget {
    /// Another poll begins.
    fn renew(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether the connection has had no more turns than it needs to sign.
    fn is_new(&self) -> bool {
        self.polls.load(Ordering::Relaxed) < FIRST_TURNS
    }

    /// Returns at once for the first request of a poll, and in another poll for the next.
    pub(super) async fn answer_one(&self) {
        if self.answered.swap(true, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

/// A stream of which no more than the budget is read.
pub(super) struct Paced<S> {
    stream: S,
    place: Arc<Place>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, place: &Arc<Place>) -> Self {
        Self { stream, place: Arc::clone(place) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = &this.place.budget().read;
        if read.load(Ordering::Relaxed) >= READ_IN_POLL_MAX {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

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
    fn take(&self, ticket: &mut Option<Ticket>, group: u64, is_new: bool, waker: &Waker) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        if let Some(held) = *ticket {
            if queue.granted.remove(&held.number) {
                *ticket = None;
                return Some(Turn(self));
            }
            if let Some(place) = queue.waiting.get_mut(&held.group).and_then(|group| group.get_mut(&held.place())) {
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
        let new = Ticket { group, is_new, number };
        let waiting = queue.waiting.entry(group).or_default();
        waiting.insert(new.place(), waker.clone());
        if waiting.len() == 1 {
            queue.order.push_back(group);
        }
        *ticket = Some(new);
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
        waiting.remove(&ticket.place());
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
        let ((_, number), waker) = newest?;
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
            this.place.budget().renew();
            return this.task.as_mut().poll(cx);
        }
        let is_new = this.place.budget().is_new();
        let Some(turn) = this.turns.take(&mut this.ticket, this.place.group(), is_new, cx.waker()) else {
            return Poll::Pending;
        };
        this.place.budget().renew();
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
        let (place, stream) = (Arc::clone(&self.place), self.turns.pace(&self.place, stream));
        tokio::spawn(async move {
            // Of a connection that was cut, nothing waits for a turn: each of its tasks holds the place.
            tokio::select! {
                biased;
                () = place.cut() => {}
                _ = stream => {}
            }
        });
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
    use std::time::Duration;

    use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
    use holdfast_shared::xks::HostName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    use super::*;
    use crate::clock::SteppedClock;
    use crate::directory::Directory;
    use crate::nsm::{Nsm, NsmDevice};
    use crate::server::admission::Admission;
    use crate::server::memory::RequestMemory;
    use crate::server::{ConnectionError, ServerContext, serve_connection};

    /// Nobody asks it for anything here.
    struct NoDevice;

    impl NsmDevice for NoDevice {
        fn process_request(&mut self, _: Request) -> Response {
            Response::Error(ErrorCode::InternalError)
        }
    }

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
            assert!(self.turns.take(&mut ticket, group, true, Waker::noop()).is_none(), "all turns are taken");
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
                        turn = self.turns.take(ticket, *group, true, Waker::noop());
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
        let first = turns.take(&mut None, 9, true, Waker::noop()).unwrap();
        for group in [1, 1, 1, 2, 1, 3, 3] {
            line.join(group);
        }
        assert_eq!(line.served(first), [4, 3, 6, 2, 5, 1, 0]);
    }

    /// Two connections that always have something to do, and one that waits since before their last turns.
    #[tokio::test]
    async fn who_sends_without_end_does_not_stand_before_a_newcomer() {
        let turns = Turns::new(1);
        let admission = Admission::new(16, RequestMemory::new(0));
        let taken = turns.take(&mut None, 9, true, Waker::noop());
        let mut newcomer = turns.pace(&admission.enter().await, core::future::ready(()));
        let mut endless = Vec::new();
        for _ in 0..2 {
            endless.push(turns.pace(&admission.enter().await, core::future::pending::<()>()));
        }
        assert!(!poll(&mut newcomer) && !endless.iter_mut().any(poll));
        drop(taken);
        // One has its turn and queues again, while the other waits.
        let served = (1..1000).any(|number: usize| {
            let other = &mut endless[number % 2];
            assert!(!poll(other) && !poll(other));
            poll(&mut newcomer)
        });
        assert!(served, "there was always somebody newer");
    }

    #[test]
    fn whoever_leaves_takes_no_turn_along() {
        let mut line = Line::new();
        let turns = Arc::clone(&line.turns);
        let first = turns.take(&mut None, 9, true, Waker::noop()).unwrap();
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
        assert!(turns.take(ticket, *group, true, Waker::noop()).is_some());
        assert_eq!(turns.queue().free, 1);
    }

    fn poll<F: Future>(task: &mut InTurns<F>) -> bool {
        Pin::new(task).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_stranger_waits_for_a_turn_and_the_proven_do_not() {
        let turns = Turns::new(1);
        let place = Admission::new(4, RequestMemory::new(0)).enter().await;
        let taken = turns.take(&mut None, 9, true, Waker::noop());
        let mut waiting = [(); 2].map(|()| turns.pace(&place, core::future::ready(())));
        assert!(!waiting.iter_mut().any(poll));
        drop(taken);
        // The newest has it; it is passed on when it was used, or is not needed any more.
        assert!(!poll(&mut waiting[0]) && poll(&mut waiting[1]) && poll(&mut waiting[0]));
        let taken = turns.take(&mut None, 9, true, Waker::noop());
        let mut left = turns.pace(&place, core::future::ready(()));
        assert!(!poll(&mut left));
        place.name(&HostName::parse("xks.example.com").unwrap());
        place.signed();
        assert!(poll(&mut left) && turns.queue().waiting.is_empty());
        drop(taken);
        assert_eq!(turns.queue().free, 1);
    }

    #[tokio::test]
    async fn a_poll_reads_so_much_and_no_more() {
        let place = Admission::new(4, RequestMemory::new(0)).enter().await;
        let bytes = vec![7; 3 * READ_IN_POLL_MAX];
        let mut stream = Paced::new(&bytes[..], &place);
        let mut cx = Context::from_waker(Waker::noop());
        let mut read_all = || {
            let (mut total, mut space) = (0, vec![0; 5000]);
            loop {
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut stream).poll_read(&mut cx, &mut buffer) {
                    Poll::Ready(result) => result.unwrap(),
                    Poll::Pending => return total,
                }
                total += buffer.filled().len();
            }
        };
        for _ in 0..2 {
            assert_eq!(read_all(), 20_000, "four times 5,000 are the first that are more than 16 KiB");
            assert_eq!(read_all(), 0);
            place.budget().renew();
        }
    }

    /// Of a connection that was cut, no stream keeps the place until it has a turn: under a flood it may never have one.
    #[tokio::test]
    async fn a_stream_goes_with_its_connection() {
        let admission = Admission::new(1, RequestMemory::new(0));
        let turns = Turns::new(1);
        let _taken = turns.take(&mut None, 9, true, Waker::noop());
        let place = admission.enter().await;
        let streams = Streams { turns: Arc::clone(&turns), place: Arc::clone(&place) };
        hyper::rt::Executor::execute(&streams, core::future::ready(()));
        tokio::task::yield_now().await;
        drop((streams, place));
        assert!(tokio::time::timeout(Duration::from_secs(20), admission.enter()).await.is_ok(), "no place became free");
        assert!(turns.queue().waiting.is_empty());
    }

    /// Not a byte of a stranger's is looked at while there is no turn.
    #[tokio::test]
    async fn connections_take_turns() {
        let clock = Arc::new(SteppedClock::at(0));
        let directory = Arc::new(Directory::new(clock.clone()));
        let nsm = Nsm::start(Box::new(NoDevice)).unwrap();
        let context = Arc::new(ServerContext::new(directory, clock, &nsm, 4));
        let mut turns = Vec::new();
        while context.turns.queue().free > 0 {
            turns.push(context.turns.take(&mut None, 9, true, Waker::noop()));
        }
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"no TLS").await.unwrap();
        let (_drain, draining) = watch::channel(false);
        let connection = tokio::spawn(serve_connection(server, Arc::clone(&context), draining));
        let mut alert = [0; 1];
        for _ in 0..100 {
            tokio::task::yield_now().await;
            let mut space = ReadBuf::new(&mut alert);
            let read = Pin::new(&mut client).poll_read(&mut Context::from_waker(Waker::noop()), &mut space);
            assert!(read.is_pending(), "it was answered");
        }
        turns.clear();
        assert_eq!(client.read_u8().await.unwrap(), 21, "a TLS alert");
        drop(client);
        assert!(matches!(connection.await.unwrap(), Err(ConnectionError::Handshake(_))));
    }
}
