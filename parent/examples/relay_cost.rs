//! What the relay costs beside tokio's `copy_bidirectional`: processor time for each round trip, and what it adds to the median.
//!
//! ```console
//! $ cargo run --release --workspace --example relay_cost -- 20          # rounds; then names of cases, or all
//! ```
//!
//! Three ways lead from a client over TCP to a server behind a Unix socket, which stands for the enclave: none (the server listens at
//! TCP too), a process that does nothing but `copy_bidirectional`, and the real program. Each round measures each of them for a third of
//! a second, in turns, so that whatever else the machine does meets all alike. Printed are the least and the median of the rounds, and the
//! ratio of each, and the median of how many round trips there were in a second: on a machine that does something else as well, the least is the one to look at. The time is what the kernel counts for
//! all threads of the process (`/proc/PID/task/TID/schedstat`).
//!
//! Then: how much memory idle connections take, and how long a thousand clients take that come back at once.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement stops where it fails, and prints")]

use core::time::Duration;
use std::env::{args, current_exe};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::sleep;

/// What one way is measured with at a time.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    connections: usize,
    /// Bytes of a request.
    up: u32,
    /// Bytes of an answer.
    down: u32,
}

/// Requests of KMS over TLS have one to two KiB, answers less than one; the largest have bodies of 16 KiB and more.
const CASES: [Case; 7] = [
    Case { name: "one", connections: 1, up: 1536, down: 768 },
    Case { name: "few", connections: 16, up: 1536, down: 768 },
    Case { name: "many", connections: 256, up: 1536, down: 768 },
    Case { name: "one-16k", connections: 1, up: 16_484, down: 768 },
    Case { name: "few-16k", connections: 16, up: 16_484, down: 768 },
    Case { name: "bulk-up", connections: 1, up: 4 << 20, down: 16 },
    Case { name: "bulk-down", connections: 1, up: 16, down: 4 << 20 },
];
/// Before anything is counted: connections open, buffers grow.
const WARM: Duration = Duration::from_millis(60);
const MEASURED: Duration = Duration::from_millis(300);
/// What is read or written at once at the ends, so that these cost the same in every case.
const PIECE: usize = 256 * 1024;
const IDLE_CONNECTIONS: usize = 2000;
const COLD_CONNECTIONS: usize = 1000;

fn main() -> ExitCode {
    let arguments: Vec<String> = args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // The children.
        ["--config", _] => return holdfast_parent::cli::main(),
        ["copy", socket] => copy(Path::new(socket)),
        ["server", socket] => serve(Path::new(socket)),
        [] => measure(10, &[]),
        [rounds, names @ ..] => measure(rounds.parse().unwrap(), names),
    }
    ExitCode::SUCCESS
}

/// A child, and where it listens.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// It says in its first line where it listens.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(current_exe().unwrap());
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let start = line.find("listen=").unwrap() + "listen=".len();
        let address = line.get(start..).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        Self { child, address }
    }

    /// Processor time of all its threads so far, in nanoseconds (the first field of `schedstat`).
    fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        texts.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// proc(5): `VmRSS` in /proc/PID/status.
    fn resident_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn announce(listener: &TcpListener) {
    println!("listen={}", listener.local_addr().unwrap());
}

/// What the relay is measured against, on the same runtime as the program's.
fn copy(socket: &Path) {
    Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        announce(&listener);
        loop {
            let mut client = listener.accept().await.unwrap().0;
            client.set_nodelay(true).unwrap();
            let mut server = UnixStream::connect(socket).await.unwrap();
            // How a client goes is its own matter.
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
}

/// What stands for the enclave.
fn serve(socket: &Path) {
    one_thread().block_on(async {
        let (unix, tcp) = (UnixListener::bind(socket).unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        announce(&tcp);
        loop {
            tokio::select! {
                accepted = unix.accept() => drop(tokio::spawn(answer(accepted.unwrap().0))),
                accepted = tcp.accept() => {
                    let stream = accepted.unwrap().0;
                    stream.set_nodelay(true).unwrap();
                    drop(tokio::spawn(answer(stream)));
                }
            }
        }
    });
}

/// The first bytes say how long requests and answers are.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Option<()> {
    let up = stream.read_u32().await.ok()?;
    let down = stream.read_u32().await.ok()?;
    let answer = vec![1; usize::try_from(down).ok()?];
    let mut buffer = vec![0; PIECE];
    loop {
        receive(&mut stream, &mut buffer, up).await?;
        stream.write_all(&answer).await.ok()?;
    }
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut [u8], length: u32) -> Option<()> {
    let mut rest = usize::try_from(length).ok()?;
    while rest > 0 {
        let space = rest.min(buffer.len());
        match stream.read(buffer.get_mut(..space)?).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => rest -= count,
        }
    }
    Some(())
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(address: SocketAddr, up: u32, down: u32) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let lengths = (u64::from(up) << 32) | u64::from(down);
    stream.write_u64(lengths).await.unwrap();
    stream
}

/// Asks and waits for the answer, again and again; gives how long each took that began in the measured time.
async fn ask(address: SocketAddr, case: Case, start: Instant) -> Vec<Duration> {
    let mut stream = connect(address, case.up, case.down).await;
    let question = vec![2; usize::try_from(case.up).unwrap()];
    let mut buffer = vec![0; PIECE];
    let mut took = Vec::new();
    loop {
        let asked = Instant::now();
        if asked >= start + WARM + MEASURED {
            return took;
        }
        stream.write_all(&question).await.unwrap();
        receive(&mut stream, &mut buffer, case.down).await.unwrap();
        if asked >= start + WARM {
            took.push(asked.elapsed());
        }
    }
}

/// One window.
struct Sample {
    /// Microseconds of the process for each round trip.
    cpu_us: f64,
    median_us: f64,
    /// Round trips in a second, all connections together.
    per_second: f64,
}

fn window(runtime: &Runtime, address: SocketAddr, process: Option<&Process>, case: Case) -> Sample {
    let cpu_ns = || process.map_or(0, Process::cpu_ns);
    let (mut took, spent) = LocalSet::new().block_on(runtime, async {
        let start = Instant::now();
        let asking: Vec<_> = (0..case.connections).map(|_| spawn_local(ask(address, case, start))).collect();
        sleep(WARM).await;
        let before = cpu_ns();
        sleep((start + WARM + MEASURED).saturating_duration_since(Instant::now())).await;
        let spent = cpu_ns() - before;
        let mut took = Vec::new();
        for one in asking {
            took.extend(one.await.unwrap());
        }
        (took, spent)
    });
    took.sort_unstable();
    let count = f64::from(u32::try_from(took.len()).unwrap());
    Sample {
        cpu_us: Duration::from_nanos(spent).as_secs_f64() * 1e6 / count,
        median_us: took.get(took.len() / 2).unwrap().as_secs_f64() * 1e6,
        per_second: count / MEASURED.as_secs_f64(),
    }
}

fn measure(rounds: usize, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ingress.sock");
    let socket = socket.to_str().unwrap();
    let config = write_files(folder.path());
    let server = Process::start(&["server", socket]);
    let copy = Process::start(&["copy", socket]);
    let relay = Process::start(&["--config", &config]);
    println!("processes: server {}, copy {}, relay {}", server.child.id(), copy.child.id(), relay.child.id());
    let runtime = one_thread();
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    for case in CASES.into_iter().filter(|case| wanted(case.name)) {
        compare(&runtime, case, rounds, [(&server, None), (&copy, Some(&copy)), (&relay, Some(&relay))]);
    }
    drop((copy, relay));
    // Processes that have done nothing yet: memory that was used once is used again.
    for (name, arguments) in [("copy", ["copy", socket]), ("relay", ["--config", &config])] {
        if wanted("idle") {
            idle(&runtime, name, &Process::start(&arguments));
        }
        if wanted("cold") {
            cold(&runtime, name, Process::start(&arguments).address);
        }
    }
}

fn compare(runtime: &Runtime, case: Case, rounds: usize, ways: [(&Process, Option<&Process>); 3]) {
    let mut samples = Vec::new();
    for round in 0..rounds {
        let mut taken: Vec<_> = (0..ways.len())
            .map(|turn| {
                let way = (turn + round) % ways.len();
                let (process, counted) = ways.get(way).unwrap();
                (way, window(runtime, process.address, *counted, case))
            })
            .collect();
        taken.sort_by_key(|(way, _)| *way);
        samples.push(taken.into_iter().map(|(_, sample)| sample).collect::<Vec<_>>());
    }
    let Case { name, connections, up, down } = case;
    println!("{name}: {connections} connections, {up} bytes up, {down} down");
    let of = |way: usize, value: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(|round| value(round.get(way).unwrap())).collect();
        values.sort_by(f64::total_cmp);
        (values.first().copied().unwrap(), values.get(values.len() / 2).copied().unwrap())
    };
    let cpu = |way| of(way, |sample| sample.cpu_us);
    let took = |way| of(way, |sample| sample.median_us);
    let served = |way| of(way, |sample| sample.per_second).1;
    for (way, label) in ["direct", "copy", "relay"].into_iter().enumerate() {
        let ((cpu_least, cpu), (took_least, took_usual)) = (cpu(way), took(way));
        let (added_least, added) = (took_least - took(0).0, took_usual - took(0).1);
        println!(
            "  {label:6} CPU {cpu_least:8.2} / {cpu:8.2} µs, latency {took_least:8.1} / {took_usual:8.1} µs, \
             added {added_least:8.1} / {added:8.1} µs, {:.0} in a second",
            served(way)
        );
    }
    println!("  relay/copy {:.2} / {:.2}", cpu(2).0 / cpu(1).0, cpu(2).1 / cpu(1).1);
}

/// Clients that all come at once, each with one small request.
fn cold(runtime: &Runtime, name: &str, address: SocketAddr) {
    let start = Instant::now();
    let served = runtime.block_on(async {
        let mut asking = JoinSet::new();
        for _ in 0..COLD_CONNECTIONS {
            asking.spawn(async move {
                let mut stream = connect(address, 16, 16).await;
                stream.write_all(&[2; 16]).await.unwrap();
                receive(&mut stream, &mut [0; 16], 16).await
            });
        }
        asking.join_all().await.into_iter().flatten().count()
    });
    let took = start.elapsed().as_millis();
    println!("cold, {name}: {served} of {COLD_CONNECTIONS} clients that came at once were answered, in {took} ms");
}

/// Connections that each have had an answer of some size and wait now.
fn idle(runtime: &Runtime, name: &str, process: &Process) {
    let before = process.resident_kib();
    let resident = runtime.block_on(async {
        let mut waiting = Vec::new();
        for _ in 0..IDLE_CONNECTIONS {
            let mut stream = connect(process.address, 16_484, 768).await;
            stream.write_all(&vec![2; 16_484]).await.unwrap();
            receive(&mut stream, &mut [0; 768], 768).await.unwrap();
            waiting.push(stream);
        }
        process.resident_kib()
    });
    let grown = resident.saturating_sub(before);
    let each = grown * 1024 / u64::try_from(IDLE_CONNECTIONS).unwrap();
    println!("idle, {name}: {IDLE_CONNECTIONS} connections took {grown} KiB, {each} bytes each");
}

/// The real program's; gives the path of its configuration.
fn write_files(folder: &Path) -> String {
    let root = folder.display();
    fs::create_dir(folder.join("key-stores")).unwrap();
    fs::write(folder.join("static.json"), "{}").unwrap();
    let text = format!(
        "listen = \"127.0.0.1:0\"\nready_listen = \"127.0.0.1:0\"\nstatic_configuration = \"static.json\"\n\
         key_stores = \"key-stores\"\nlog_level = \"warn\"\n\
         [enclave]\ningress = \"unix://{root}/ingress.sock\"\n[control]\nlisten = \"unix://{root}/control.sock\"\n\
         [egress]\nlisten = \"unix://{root}/egress.sock\"\n[audit]\nlisten = \"unix://{root}/audit.sock\"\nfolder = \"audit\"\n"
    );
    let file = folder.join("parent.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}
