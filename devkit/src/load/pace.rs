//! When requests are sent: as soon as the last one was answered (closed loop), or when a schedule says so (open loop).
//!
//! ```text
//! Arrivals ─► dispatch, woken by a timer of the kernel ─► Queue ─► whichever lane is free
//! ```
//!
//! Guarantees: in the open loop every moment of the schedule is one request, and its latency counts from that moment, whether or not a
//! lane was free then. A server that stalls is charged with every request that should have been sent meanwhile: nothing is omitted
//! because the client waited. Assumes: as many lanes as requests are under way at once, or the wait for a lane counts as well.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::Serialize;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;

use super::measure::Outcome;
use super::measure::{Recorder, float};
use super::mix::Operation;
use crate::alarms::random::Random;

/// How often it is looked whether a backlog is gone.
const TICK: Duration = Duration::from_millis(10);

/// A rate for a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Requests per second.
    pub rate: f64,
    /// For how long, in seconds.
    pub seconds: f64,
}

/// How the moments of a schedule lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// All equally far apart.
    #[default]
    Even,
    /// As many independent callers have them.
    Poisson,
}

/// The moments of a schedule, since its begin.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    phases: VecDeque<Phase>,
    spacing: Spacing,
    random: Random,
    /// When the phase began, in seconds, and how many mean distances of it are over.
    phase_start: f64,
    steps: f64,
}

impl Arrivals {
    pub(super) fn new(phases: &[Phase], spacing: Spacing, seed: u64) -> Self {
        let phases: VecDeque<_> = phases.iter().copied().filter(|phase| phase.rate > 0.0).collect();
        let mut arrivals = Self { phases, spacing, random: Random::of(seed, 0, 0), phase_start: 0.0, steps: 0.0 };
        if spacing == Spacing::Poisson {
            arrivals.step();
        }
        arrivals
    }

    fn step(&mut self) {
        self.steps += match self.spacing {
            Spacing::Even => 1.0,
            // The distances of a Poisson process are distributed exponentially. The number is below 1 and its logarithm finite.
            Spacing::Poisson => -(1.0 - float(self.random.next() >> 11) / float(1 << 53)).ln(),
        };
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let phase = self.phases.front()?;
            let after = self.steps / phase.rate;
            if after < phase.seconds {
                let at = self.phase_start + after;
                self.step();
                return Duration::try_from_secs_f64(at).ok();
            }
            self.phase_start += phase.seconds;
            self.phases.pop_front();
            self.steps = 0.0;
            if self.spacing == Spacing::Poisson {
                self.step();
            }
        }
    }
}

/// The time as lanes see it, which a test may hold still.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for moments.
pub(super) trait Wait: Send {
    fn until(&mut self, at: Instant) -> impl Future<Output = ()> + Send;
}

/// A timer of the kernel: tokio's own is exact to a millisecond only. It is waited for and read as a pipe is.
pub(super) struct KernelTimer {
    timer: OwnedFd,
    expired: Receiver,
}

impl KernelTimer {
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let expired = Receiver::from_owned_fd_unchecked(timer.try_clone()?)?;
        Ok(Self { timer, expired })
    }
}

impl Wait for KernelTimer {
    async fn until(&mut self, at: Instant) {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let value = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            // Setting it anew also takes back what was readable.
            let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer);
            if set.is_err() || self.expired.readable().await.is_err() {
                return tokio::time::sleep(left).await;
            }
            // How often it expired, until there is nothing more to read; whether the moment has come is looked at above.
            while self.expired.try_read(&mut [0; 8]).is_ok() {}
        }
    }
}

/// Moments that have come, for whichever lane is free.
pub(super) struct Queue {
    due: Mutex<VecDeque<Instant>>,
    ready: Semaphore,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { due: Mutex::default(), ready: Semaphore::new(0) }
    }

    fn due(&self) -> std::sync::MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, moment: Instant) {
        self.due().push_back(moment);
        self.ready.add_permits(1);
    }

    async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        self.due().pop_front()
    }

    /// Ends the lanes' waiting; returns how many moments nobody took.
    fn close(&self) -> u64 {
        self.ready.close();
        let left = core::mem::take(&mut *self.due());
        u64::try_from(left.len()).unwrap_or(u64::MAX)
    }
}

/// Puts the moments of a schedule into the queue as they come, then waits at most `patience` until lanes have taken them all. Returns
/// how many nobody took.
pub(super) async fn dispatch(
    arrivals: impl Iterator<Item = Duration> + Send,
    start: Instant,
    mut timer: impl Wait,
    queue: &Queue,
    patience: Duration,
    stop: &AtomicBool,
) -> u64 {
    for after in arrivals {
        let moment = start + after;
        // A backlog that is caught up with must not keep the lanes from working.
        if moment > now() {
            timer.until(moment).await;
        } else {
            tokio::task::yield_now().await;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        queue.push(moment);
    }
    let last = now() + patience;
    while !queue.due().is_empty() && now() < last && !stop.load(Ordering::Relaxed) {
        timer.until(now() + TICK).await;
    }
    queue.close()
}

/// What gives a lane its next request.
#[derive(Clone)]
pub(super) enum Pace {
    /// As soon as the last one was answered.
    Closed {
        end: Option<Instant>,
        /// Requests that are still to be sent, by all lanes together.
        left: Option<Arc<AtomicU64>>,
        stop: Arc<AtomicBool>,
    },
    /// When its time has come.
    Open(Arc<Queue>),
}

impl Pace {
    /// The moment for which the next request is meant, or that there is none.
    async fn next(&self) -> Option<Instant> {
        match self {
            Self::Open(queue) => queue.next().await,
            Self::Closed { end, left, stop } => {
                let now = now();
                if stop.load(Ordering::Relaxed) || end.is_some_and(|end| now >= end) {
                    return None;
                }
                if let Some(left) = left {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
                }
                Some(now)
            }
        }
    }
}

/// Sends one request and waits for its answer.
pub(super) trait Ask: Send {
    fn ask(&mut self) -> impl Future<Output = (Operation, Outcome)> + Send;
}

/// One request after the other, at the pace that is given.
pub(super) async fn drive(pace: &Pace, lane: &mut impl Ask, recorder: &Mutex<Recorder>) {
    while let Some(intended) = pace.next().await {
        let (operation, outcome) = lane.ask().await;
        let done = now();
        recorder.lock().unwrap_or_else(PoisonError::into_inner).record(operation, intended, done, &outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::load::measure::Second;

    fn phase(rate: f64, seconds: f64) -> Phase {
        Phase { rate, seconds }
    }

    #[test]
    fn a_schedule_has_as_many_moments_as_its_rates_say() {
        for (phases, count) in [
            (&[phase(100.0, 2.0)][..], 200),
            (&[phase(10.0, 1.0), phase(1_000.0, 0.5), phase(10.0, 1.0)], 520),
            (&[phase(0.0, 5.0), phase(4.0, 1.0)], 4),
            (&[], 0),
        ] {
            let moments: Vec<_> = Arrivals::new(phases, Spacing::Even, 1).collect();
            // Where a phase ends, rounding may take one or give one.
            assert!(moments.len().abs_diff(count) <= phases.len(), "{phases:?}: {}", moments.len());
            assert!(moments.is_sorted());
        }
        let even: Vec<_> = Arrivals::new(&[phase(4.0, 1.0)], Spacing::Even, 1).collect();
        assert_eq!(even, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn independent_callers_come_as_often_and_unevenly() {
        let moments: Vec<_> = Arrivals::new(&[phase(1_000.0, 10.0)], Spacing::Poisson, 7).collect();
        assert!((9_500..10_500).contains(&moments.len()), "seed 7: {}", moments.len());
        let gaps: Vec<_> = moments.windows(2).map(|pair| pair[1].abs_diff(pair[0])).collect();
        let short = gaps.iter().filter(|gap| **gap < Duration::from_micros(100)).count();
        // One in ten gaps of a mean of a millisecond is shorter than 105 µs.
        assert!((gaps.len() / 14..gaps.len() / 8).contains(&short), "seed 7: {short}");
    }

    /// Time that only passes when everybody waits.
    struct StillTime;

    impl Wait for StillTime {
        async fn until(&mut self, at: Instant) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Answers within a millisecond, but for one request that takes a second.
    struct Stalling {
        asked: u32,
        stall_at: u32,
    }

    impl Ask for Stalling {
        async fn ask(&mut self) -> (Operation, Outcome) {
            self.asked += 1;
            let time = if self.asked == self.stall_at { 1_000 } else { 1 };
            tokio::time::sleep(Duration::from_millis(time)).await;
            (Operation::Decrypt, Outcome::default())
        }
    }

    async fn measured(pace: &Pace, start: Instant, others: impl Future<Output = ()>) -> Second {
        let (sender, receiver) = channel();
        let recorder = Mutex::new(Recorder::new(0, start, None, sender));
        let mut lane = Stalling { asked: 0, stall_at: 50 };
        tokio::join!(drive(pace, &mut lane, &recorder), others);
        recorder.lock().unwrap().finish();
        drop(recorder);
        receiver.iter().fold(Second::new(0, 0), |mut total, second| {
            total.add(&second);
            total
        })
    }

    /// A server that stalls for a second while a hundred requests a second are due: half of a second's requests have waited for half a
    /// second or longer. The closed loop, which waits with it, sees one slow request.
    #[tokio::test(start_paused = true)]
    async fn a_stalled_server_is_charged_with_everything_that_should_have_been_sent() {
        let start = now();
        let queue = Arc::new(Queue::new());
        let arrivals = Arrivals::new(&[phase(100.0, 4.0)], Spacing::Even, 0);
        let stop = AtomicBool::new(false);
        let schedule = async {
            let left = dispatch(arrivals, start, StillTime, &queue, Duration::from_secs(5), &stop).await;
            assert_eq!(left, 0);
        };
        let open = measured(&Pace::Open(Arc::clone(&queue)), start, schedule).await;
        assert!(open.counts.ok.abs_diff(400) <= 1, "{:?}", open.counts);
        let slow = |second: &Second| {
            let count = second.latencies.count();
            (1..=count).filter(|rank| second.latencies.at(float(*rank) / float(count)) >= 500_000.0).count()
        };
        let charged = slow(&open);
        assert!((50..=60).contains(&charged), "{charged} requests waited for half a second");
        assert!(open.latencies.at(0.80) > 100_000.0, "{}", open.latencies.at(0.80));

        let left = Some(Arc::new(AtomicU64::new(400)));
        let pace = Pace::Closed { end: None, left, stop: Arc::default() };
        let closed = measured(&pace, now(), async {}).await;
        assert_eq!((closed.counts.ok, slow(&closed)), (400, 1), "the loop that waits omits them");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_counted() {
        let queue = Queue::new();
        let arrivals = Arrivals::new(&[phase(10.0, 1.0)], Spacing::Even, 0);
        let stop = AtomicBool::new(false);
        let left = dispatch(arrivals, now(), StillTime, &queue, Duration::from_secs(1), &stop).await;
        assert_eq!(left, 10);
        assert_eq!(queue.next().await, None);
    }
}
