//! One run: groups of clients against their targets for a time, and the servers' processors watched meanwhile.
//!
//! ```text
//! threads: connect ─► ready ─► (start) ─► lanes and schedules ─► seconds ─► coordinator: progress, processor time, result
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::LoadError;
use super::cpu::{Memory, Watched, machine_busy_ticks, own_thread_ns, pin};
use super::lane::{Lane, Opened, Verified, Work};
use super::line::Http2;
use super::measure::{Latencies, Recorder, Second};
use super::mix::Operation;
use super::pace::{Arrivals, KernelTimer, Pace, Phase, Queue, Spacing, dispatch, drive};
use super::wire::Reuse;

/// Connections that a thread opens at once before the measurement.
const OPENING: usize = 16;
/// From the moment at which everybody is ready to the first request.
const LEAD: Duration = Duration::from_millis(50);
/// How long a schedule that is behind may catch up after its end.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How often the coordinator looks whether it was told to stop.
const TICK: Duration = Duration::from_millis(100);

/// When a group sends.
#[derive(Clone, Debug)]
pub(super) enum Load {
    /// As soon as answers come.
    Closed,
    /// At these rates.
    Open { phases: Vec<Phase>, spacing: Spacing },
}

/// Clients that do the same.
pub(super) struct GroupJob {
    pub(super) name: String,
    pub(super) work: Arc<Work>,
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) load: Load,
    /// Connections beside these that send one request and then nothing.
    pub(super) idle: usize,
}

/// What is to be run.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) groups: Vec<GroupJob>,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    /// Ends the first group after so many, if that comes first.
    pub(super) requests: Option<u64>,
    pub(super) threads: usize,
    pub(super) client_cores: Vec<usize>,
    pub(super) watched: Vec<Watched>,
    pub(super) seed: u64,
    pub(super) quiet: bool,
    pub(super) stop: Arc<AtomicBool>,
}

/// What a group saw.
pub(super) struct GroupResult {
    pub(super) name: String,
    pub(super) seconds: BTreeMap<u64, Second>,
    pub(super) total: Second,
    pub(super) operations: BTreeMap<Operation, Latencies>,
    pub(super) within: u64,
    pub(super) opened: Opened,
    pub(super) verified: Verified,
    /// Idle connections that still answered at the end, and those that did not.
    pub(super) idle: (u64, u64),
}

/// Memory of a server's process before anybody connects, with all connections open, and at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    pub(super) before: Option<Memory>,
    pub(super) connected: Option<Memory>,
    pub(super) after: Option<Memory>,
}

/// What a run found.
pub(super) struct RunResult {
    pub(super) name: String,
    pub(super) groups: Vec<GroupResult>,
    pub(super) servers: Vec<(Watched, Moments)>,
    /// Connections that were open before the measurement began.
    pub(super) open: u64,
    /// Seconds in which processor time was counted.
    pub(super) wall: f64,
    /// Of each thread of the client: its processor time in the measurement, in nanoseconds.
    pub(super) client_ns: Vec<u64>,
    /// Of the whole machine.
    pub(super) machine_ticks: u64,
}

/// What the coordinator tells threads once all are ready.
#[derive(Clone, Copy)]
struct Start {
    /// Of the schedules and of the warm-up.
    at: Instant,
    begin: Instant,
    end: Instant,
}

/// What a thread has of each group.
struct Part {
    group: usize,
    work: Arc<Work>,
    /// Of which connection each lane is a stream, and the lane's number among all.
    lanes: Vec<(usize, u64)>,
    idle: usize,
    load: Load,
}

/// What a thread reports.
struct PartResult {
    group: usize,
    operations: BTreeMap<Operation, Latencies>,
    within: u64,
    opened: Opened,
    verified: Verified,
    idle: (u64, u64),
}

struct ThreadJob {
    number: usize,
    threads: usize,
    parts: Vec<Part>,
    seconds: Sender<Second>,
    ready: Sender<Result<(), String>>,
    start: tokio::sync::oneshot::Receiver<Start>,
    left: Option<Arc<AtomicU64>>,
    seed: u64,
    stop: Arc<AtomicBool>,
    cores: Vec<usize>,
}

type ThreadResult = Result<(Vec<PartResult>, u64), String>;

/// Carries out a run.
///
/// # Errors
/// If a connection cannot be opened before the measurement, or the run was stopped.
pub(super) fn execute(mut job: Job) -> Result<RunResult, LoadError> {
    let failed = |reason: String| LoadError::Run { name: job.name.clone(), reason };
    let (seconds, received) = channel();
    let (ready, readiness) = channel();
    let left = job.requests.map(|requests| Arc::new(AtomicU64::new(requests)));
    let mut memory: Vec<Moments> =
        job.watched.iter().map(|watched| Moments { before: watched.memory(), ..Moments::default() }).collect();
    let (mut starts, mut threads) = (Vec::new(), Vec::new());
    for number in 0..job.threads {
        let (sender, start) = tokio::sync::oneshot::channel();
        starts.push(sender);
        let thread = ThreadJob {
            number,
            threads: job.threads,
            parts: parts(&job.groups, number, job.threads),
            seconds: seconds.clone(),
            ready: ready.clone(),
            start,
            left: left.clone(),
            seed: job.seed,
            stop: Arc::clone(&job.stop),
            cores: job.client_cores.clone(),
        };
        let builder = std::thread::Builder::new().name(format!("load-{number}"));
        threads.push(builder.spawn(move || run_thread(thread)).map_err(|error| failed(error.to_string()))?);
    }
    drop((seconds, ready));
    for told in readiness.iter().take(job.threads) {
        told.map_err(failed)?;
    }
    for (memory, watched) in memory.iter_mut().zip(&job.watched) {
        memory.connected = watched.memory();
    }
    let at = Instant::now() + LEAD;
    let begin = at + job.warm_up;
    let start = Start { at, begin, end: begin + job.duration };
    for sender in starts {
        sender.send(start).map_err(|_| failed("a thread has ended".to_owned()))?;
    }
    let observed = observe(&mut job, &received, start)?;
    for (memory, watched) in memory.iter_mut().zip(&job.watched) {
        memory.after = watched.memory();
    }
    let (groups, client_ns) = collect(&job, threads, observed.seconds)?;
    let kept = |group: &GroupJob| if group.work.reuse == Reuse::Kept { group.connections } else { 0 };
    let open: usize = job.groups.iter().map(|group| kept(group) + group.idle).sum();
    let open = u64::try_from(open).unwrap_or(u64::MAX);
    let servers = job.watched.into_iter().zip(memory).collect();
    let (wall, machine_ticks) = (observed.wall, observed.machine_ticks);
    Ok(RunResult { name: job.name, groups, servers, open, wall, client_ns, machine_ticks })
}

fn parts(groups: &[GroupJob], thread: usize, threads: usize) -> Vec<Part> {
    let mine = |number: &usize| number % threads == thread;
    let part = |(group, job): (usize, &GroupJob)| {
        let streams = job.streams.max(1);
        let lanes = (0..job.connections).filter(mine).flat_map(|connection| {
            (0..streams)
                .map(move |stream| (connection, u64::try_from(connection * streams + stream).unwrap_or_default()))
        });
        Part {
            group,
            work: Arc::clone(&job.work),
            lanes: lanes.collect(),
            idle: (0..job.idle).filter(mine).count(),
            load: job.load.clone(),
        }
    };
    groups.iter().enumerate().map(part).collect()
}

struct Observed {
    seconds: Vec<Second>,
    wall: f64,
    machine_ticks: u64,
}

/// Takes in what threads report until all are done; shows progress; counts processor time between begin and end.
fn observe(job: &mut Job, received: &Receiver<Second>, start: Start) -> Result<Observed, LoadError> {
    let mut seconds = Vec::new();
    let mut progress = super::progress::Progress::new(&job.name, job.quiet);
    let (mut began, mut ended) = (None, None);
    let mut ticks = 0;
    loop {
        let now = Instant::now();
        if began.is_none() && now >= start.begin {
            began = Some(now);
            ticks = machine_busy_ticks();
            job.watched.iter_mut().for_each(Watched::reset);
        }
        if ended.is_none() && now >= start.end {
            ended = Some(now);
            ticks = machine_busy_ticks().saturating_sub(ticks);
            job.watched.iter_mut().for_each(Watched::sample);
        }
        let next = [start.begin, start.end].into_iter().find(|moment| *moment > now);
        let wait = next.map_or(TICK, |moment| TICK.min(moment - now));
        match received.recv_timeout(wait) {
            Ok(second) => {
                progress.take(&second);
                seconds.push(second);
                if ended.is_none() {
                    job.watched.iter_mut().for_each(Watched::sample);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.show(now, start.begin);
        if job.stop.load(Ordering::Relaxed) {
            return Err(LoadError::Interrupted);
        }
    }
    // A run that was over before its time, by the number of its requests.
    let (began, now) = (began.unwrap_or(start.begin), Instant::now());
    if ended.is_none() {
        ticks = machine_busy_ticks().saturating_sub(ticks);
        job.watched.iter_mut().for_each(Watched::sample);
    }
    let wall = ended.unwrap_or(now).saturating_duration_since(began).as_secs_f64();
    Ok(Observed { seconds, wall, machine_ticks: ticks })
}

fn collect(
    job: &Job,
    threads: Vec<JoinHandle<ThreadResult>>,
    seconds: Vec<Second>,
) -> Result<(Vec<GroupResult>, Vec<u64>), LoadError> {
    let failed = |reason: String| LoadError::Run { name: job.name.clone(), reason };
    let result = |(number, group): (usize, &GroupJob)| GroupResult {
        name: group.name.clone(),
        seconds: BTreeMap::new(),
        total: Second::new(number, 0),
        operations: BTreeMap::new(),
        within: 0,
        opened: Opened::default(),
        verified: Verified::default(),
        idle: (0, 0),
    };
    let mut groups: Vec<GroupResult> = job.groups.iter().enumerate().map(result).collect();
    for second in seconds {
        if let Some(group) = groups.get_mut(second.group) {
            group.total.add(&second);
            let number = second.number;
            group.seconds.entry(number).or_insert_with(|| Second::new(second.group, number)).add(&second);
        }
    }
    let mut client_ns = Vec::new();
    for thread in threads {
        let joined = thread.join().map_err(|_| failed("a thread of the client failed".to_owned()))?;
        let (parts, spent) = joined.map_err(failed)?;
        client_ns.push(spent);
        for part in parts {
            let Some(group) = groups.get_mut(part.group) else { continue };
            for (operation, latencies) in &part.operations {
                group.operations.entry(*operation).or_insert_with(Latencies::new).add(latencies);
            }
            group.within += part.within;
            group.opened.connections += part.opened.connections;
            group.opened.resumed += part.opened.resumed;
            group.verified.good += part.verified.good;
            group.verified.wrong.extend(part.verified.wrong);
            group.idle = (group.idle.0 + part.idle.0, group.idle.1 + part.idle.1);
        }
    }
    Ok((groups, client_ns))
}

fn run_thread(job: ThreadJob) -> ThreadResult {
    let ready = job.ready.clone();
    let result = pin(None, &job.cores)
        .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build())
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve_thread(job)));
    if let Err(error) = &result {
        let _ = ready.send(Err(error.clone()));
    }
    result
}

struct Ready {
    part: Part,
    lanes: Vec<Lane>,
    idle: Vec<Lane>,
}

async fn serve_thread(job: ThreadJob) -> ThreadResult {
    let mut readies = Vec::new();
    for part in job.parts {
        let lanes = lanes(&part, job.seed);
        let kept = part.work.reuse == Reuse::Kept;
        let lanes = if kept { open_all(lanes, false).await? } else { lanes };
        // Numbers that no other lane has.
        let first = u64::MAX / 2 + u64::try_from(job.number * part.idle).unwrap_or_default();
        let numbers = (first..).take(part.idle);
        let idle = numbers.map(|number| Lane::new(Arc::clone(&part.work), job.seed, number, None)).collect();
        let idle = open_all(idle, true).await?;
        readies.push(Ready { part, lanes, idle });
    }
    let _ = job.ready.send(Ok(()));
    let Ok(start) = job.start.await else { return Err("the run was given up".to_owned()) };
    tokio::time::sleep_until(start.at.into()).await;
    let clock = tokio::spawn(async move {
        tokio::time::sleep_until(start.begin.into()).await;
        let before = own_thread_ns();
        tokio::time::sleep_until(start.end.into()).await;
        own_thread_ns() - before
    });
    let before = own_thread_ns();
    let mut running = tokio::task::JoinSet::new();
    for ready in readies {
        let recorder = Recorder::new(ready.part.group, start.begin, Some(start.end), job.seconds.clone());
        let left = job.left.clone().filter(|_| ready.part.group == 0);
        let share = (job.number, job.threads);
        running.spawn(run_part(ready, recorder, start, left, Arc::clone(&job.stop), share, job.seed));
    }
    // Only parts may hold it, so that its end is seen.
    drop(job.seconds);
    let mut results = Vec::new();
    while let Some(result) = running.join_next().await {
        results.push(result.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
    }
    // A run that was over before its time, by the number of its requests, has no end to wait for.
    let over = Instant::now() >= start.end;
    let spent = if over { clock.await.unwrap_or_default() } else { own_thread_ns() - before };
    Ok((results, spent))
}

fn lanes(part: &Part, seed: u64) -> Vec<Lane> {
    let mut shared: BTreeMap<usize, Http2> = BTreeMap::new();
    let streams = part.work.http == super::wire::Http::Two && part.work.reuse == Reuse::Kept;
    let lane = |(connection, number): &(usize, u64)| {
        let shared = streams.then(|| shared.entry(*connection).or_default().clone());
        Lane::new(Arc::clone(&part.work), seed, *number, shared)
    };
    part.lanes.iter().map(lane).collect()
}

/// Opens connections, a few at a time; with `signed`, each sends a request, without which a server may take it for a stranger's.
async fn open_all(lanes: Vec<Lane>, signed: bool) -> Result<Vec<Lane>, String> {
    let mut waiting = lanes.into_iter();
    let mut opening = tokio::task::JoinSet::new();
    let mut open = Vec::new();
    loop {
        while opening.len() < OPENING
            && let Some(mut lane) = waiting.next()
        {
            opening.spawn(async move {
                if signed {
                    lane.greet().await.map(|()| lane)
                } else {
                    lane.open().await.map(|()| lane).map_err(|error| error.to_string())
                }
            });
        }
        match opening.join_next().await {
            Some(lane) => open.push(lane.map_err(|error| error.to_string())??),
            None => return Ok(open),
        }
    }
}

async fn run_part(
    ready: Ready,
    recorder: Recorder,
    start: Start,
    left: Option<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    (thread, threads): (usize, usize),
    seed: u64,
) -> std::io::Result<PartResult> {
    let group = ready.part.group;
    let recorder = Arc::new(Mutex::new(recorder));
    let queue = Arc::new(Queue::new());
    let pace = match &ready.part.load {
        Load::Closed => Pace::Closed { end: Some(start.end), left: left.clone(), stop: Arc::clone(&stop) },
        Load::Open { .. } => Pace::Open(Arc::clone(&queue)),
    };
    let mut running = tokio::task::JoinSet::new();
    for mut lane in ready.lanes {
        let (pace, recorder) = (pace.clone(), Arc::clone(&recorder));
        running.spawn(async move {
            drive(&pace, &mut lane, &recorder).await;
            lane
        });
    }
    if let Load::Open { phases, spacing } = &ready.part.load {
        // The warm-up goes at the first rate.
        let warm_up = (start.begin - start.at).as_secs_f64();
        let first = phases.first().map(|phase| Phase { rate: phase.rate, seconds: warm_up });
        let all: Vec<Phase> = first.into_iter().chain(phases.iter().copied()).collect();
        let count = left.map_or(usize::MAX, |left| usize::try_from(left.load(Ordering::Relaxed)).unwrap_or(usize::MAX));
        let arrivals = Arrivals::new(&all, *spacing, seed).take(count).skip(thread).step_by(threads);
        let unsent = dispatch(arrivals, start.at, KernelTimer::new()?, &queue, CATCH_UP, &stop).await;
        lock(&recorder).unsent(unsent, Instant::now());
    }
    let mut lanes = running.join_all().await;
    let (operations, within) = {
        let mut recorder = lock(&recorder);
        recorder.finish();
        (core::mem::take(&mut recorder.operations), recorder.within)
    };
    // The coordinator is told that this part is over by the end of its sender.
    drop(recorder);
    let mut result = PartResult {
        group,
        operations,
        within,
        opened: Opened::default(),
        verified: Verified::default(),
        idle: (0, 0),
    };
    for lane in &mut lanes {
        let verified = lane.verify().await;
        result.verified.good += verified.good;
        result.verified.wrong.extend(verified.wrong);
    }
    for mut lane in ready.idle {
        let before = lane.opened.connections;
        // One that had to be opened again was lost.
        let alive = lane.greet().await.is_ok() && lane.opened.connections == before;
        if alive { result.idle.0 += 1 } else { result.idle.1 += 1 }
    }
    for lane in &lanes {
        result.opened.connections += lane.opened.connections;
        result.opened.resumed += lane.opened.resumed;
    }
    Ok(result)
}

fn lock(recorder: &Mutex<Recorder>) -> std::sync::MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}
