//! Group commit: jobs that come at about the same time are done in one transaction.
//!
//! Guarantees: a job that waits is done with the others that wait, by one of those who wait, so that there is nothing to start or stop;
//! groups have a bound and come one after the other, each [`GATHER`] after the one before it at the earliest; whoever is told a result had
//! its job in a group that was done. Assumes: no more wait than connections are allowed.

use core::num::NonZeroUsize;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};

/// How long a group gathers: however many key stores and enclaves there are, there are no more than 50 groups a second, and nobody notices
/// the wait.
const GATHER: Duration = Duration::from_millis(20);

/// A job, and who waits for its result.
type Waiting<J, R> = (J, oneshot::Sender<Option<R>>);

/// See the module.
#[derive(Debug)]
pub(super) struct Group<J, R> {
    max: NonZeroUsize,
    waiting: Mutex<VecDeque<Waiting<J, R>>>,
    turn: tokio::sync::Mutex<()>,
}

impl<J, R> Group<J, R> {
    /// Groups of at most so many.
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Self { max, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Has a job done in a group. `work` does all of a group, and says of each job in the same order what came of it, or nothing; then, and
    /// when whoever did the group was stopped half-way, there is no result, and the job may be done alone.
    pub(super) async fn join<W, F>(&self, job: J, work: W) -> Option<R>
    where
        W: Fn(Vec<J>) -> F,
        F: Future<Output = Vec<Option<R>>>,
    {
        let (sender, mut result) = oneshot::channel();
        self.lock().push_back((job, sender));
        let _turn = self.turn.lock().await;
        // More than one group is done here only where many came before.
        loop {
            match result.try_recv() {
                Err(TryRecvError::Empty) => {}
                done => return done.ok().flatten(),
            }
            tokio::time::sleep(GATHER).await;
            let (jobs, senders): (Vec<_>, Vec<_>) = self.next().into_iter().unzip();
            for (sender, result) in senders.into_iter().zip(work(jobs).await) {
                // Whoever is gone needs no result.
                drop(sender.send(result));
            }
        }
    }

    /// Those that came first.
    fn next(&self) -> Vec<Waiting<J, R>> {
        let mut waiting = self.lock();
        let count = waiting.len().min(self.max.get());
        waiting.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<J, R>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    fn group_of(max: usize) -> Arc<Group<u32, u32>> {
        Arc::new(Group::new(NonZeroUsize::new(max).unwrap()))
    }

    fn double(groups: &AtomicUsize, jobs: Vec<u32>) -> impl Future<Output = Vec<Option<u32>>> + use<> {
        groups.fetch_add(1, Ordering::SeqCst);
        core::future::ready(jobs.into_iter().map(|job| Some(job * 2)).collect())
    }

    fn spawn(
        group: &Arc<Group<u32, u32>>,
        groups: &Arc<AtomicUsize>,
        job: u32,
    ) -> impl Future<Output = (u32, u32)> + use<> {
        let (group, groups) = (Arc::clone(group), Arc::clone(groups));
        async move { (job, group.join(job, |jobs| double(&groups, jobs)).await.unwrap()) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_once_is_one_group() {
        let (group, groups) = (group_of(500), Arc::new(AtomicUsize::new(0)));
        let mut jobs: JoinSet<_> = (0..500).map(|job| spawn(&group, &groups, job)).collect();
        while let Some(done) = jobs.join_next().await {
            let (job, result) = done.unwrap();
            assert_eq!(result, job * 2, "each gets its own");
        }
        assert_eq!(groups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn groups_have_a_bound() {
        let (group, groups) = (group_of(10), Arc::new(AtomicUsize::new(0)));
        let mut jobs: JoinSet<_> = (0..95).map(|job| spawn(&group, &groups, job)).collect();
        while let Some(done) = jobs.join_next().await {
            let (job, result) = done.unwrap();
            assert_eq!(result, job * 2, "each gets its own");
        }
        assert_eq!(groups.load(Ordering::SeqCst), 10);
        assert!(group.lock().is_empty());
    }

    /// Whoever has its turn does those before it first.
    #[tokio::test(start_paused = true)]
    async fn whoever_comes_after_many_that_are_gone_is_done_too() {
        let group = group_of(2);
        for job in 0..5 {
            let mut gone = Box::pin(group.join(job, |jobs| async { jobs.into_iter().map(Some).collect() }));
            assert!(
                core::future::poll_fn(|context| core::task::Poll::Ready(gone.as_mut().poll(context).is_pending()))
                    .await
            );
        }
        let groups = AtomicUsize::new(0);
        assert_eq!(group.join(5, |jobs| double(&groups, jobs)).await, Some(10));
        assert_eq!(groups.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn one_without_a_result_takes_none_from_the_others() {
        let group = group_of(10);
        let odd = |jobs: Vec<u32>| async { jobs.into_iter().map(|job| (job % 2 == 1).then_some(job)).collect() };
        let found = tokio::join!(group.join(1, odd), group.join(2, odd), group.join(3, odd));
        assert_eq!(found, (Some(1), None, Some(3)));
    }

    /// A second of 1,000 jobs, one each millisecond.
    #[tokio::test(start_paused = true)]
    async fn what_comes_all_the_time_makes_few_groups() {
        let (group, groups) = (group_of(500), Arc::new(AtomicUsize::new(0)));
        let mut jobs = JoinSet::new();
        for job in 0..1_000 {
            jobs.spawn(spawn(&group, &groups, job));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(jobs.join_all().await.len(), 1_000);
        let groups = groups.load(Ordering::SeqCst);
        assert!(groups <= 51, "{groups} groups");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_group_that_came_to_nothing() {
        let group = group_of(10);
        let failing = {
            let group = Arc::clone(&group);
            tokio::spawn(async move { group.join(1, |_| async { Vec::new() }).await })
        };
        assert_eq!(failing.await.unwrap(), None);
        // One that is stopped while it does the group of another.
        let stopped = {
            let group = Arc::clone(&group);
            tokio::spawn(async move { group.join(2, |_| std::future::pending()).await })
        };
        tokio::task::yield_now().await;
        let other = {
            let group = Arc::clone(&group);
            tokio::spawn(async move { group.join(3, |_| async { unreachable!() }).await })
        };
        tokio::time::sleep(GATHER * 2).await;
        stopped.abort();
        assert_eq!(other.await.unwrap(), None);
        assert_eq!(
            group.join(4, |jobs| async { jobs.into_iter().map(Some).collect() }).await,
            Some(4),
            "and it goes on"
        );
    }
}
