//! Clients that cost more than they may: each rule by which they are bounded, and that others are served meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_enclave::server::{Accept, ConnectionError, ServerContext, ServerLimits, serve};
use holdfast_enclave::tls::provider;
use holdfast_shared::limits::{REQUEST_OVERHEAD_BYTES, STRANGER_BYTES_MAX, STRANGER_REQUESTS_MAX, XKS_BODY_MAX};
use holdfast_shared::xks::Operation;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::bytes::Message;
use crate::fixture::{Call, HOST, PREFIX, World, health, key_store, metadata};
use crate::frames::{PREFACE, fields, header_block};
use crate::wire::{Client, Served, client_config, connect_with, pipe};

const OTHER: &str = "other.example.com";
/// Only so that a broken build fails instead of hanging.
const LONG: Duration = Duration::from_mins(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Error codes (RFC 9113, section 7).
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A listener that takes what the test connects.
struct Queue(mpsc::Receiver<DuplexStream>);

impl Accept for Queue {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

/// A listener with a few places, for two hosts of two owners.
struct Listening {
    world: World,
    context: Arc<ServerContext>,
    connect: mpsc::Sender<DuplexStream>,
    _drain: watch::Sender<bool>,
    _server: JoinHandle<()>,
}

impl Listening {
    fn new(limits: ServerLimits) -> Self {
        let world = two_hosts();
        let context = world.context_with(limits);
        let (connect, connected) = mpsc::channel(64);
        let (drain, draining) = watch::channel(false);
        let server = tokio::spawn(serve(Queue(connected), Arc::clone(&context), draining));
        Self { world, context, connect, _drain: drain, _server: server }
    }

    async fn stranger(&self, host: &str) -> TlsStream<DuplexStream> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        self.connect.send(server).await.unwrap();
        connect_with(client_config(&self.world, provider(), &["http/1.1"]), host, client).await.unwrap()
    }

    async fn client(&self, host: &str) -> Client {
        Client::over(self.stranger(host).await, "http/1.1").await
    }

    fn counter(&self, name: &str) -> u64 {
        self.context.counters()[name]
    }

    /// Until a counter has come so far: what it counts happens in another task.
    async fn until(&self, name: &str, value: u64) {
        let reached = async {
            while self.counter(name) != value {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, reached).await.unwrap_or_else(|_| panic!("{name}: {:?}", self.context.counters()));
    }
}

/// The usual key store, and one of another owner under another name, whose only operation is that its health check fails: it
/// has no keys. Whoever signs for it is proven all the same.
fn two_hosts() -> World {
    let world = World::new();
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    let other = key_store(2, 2, OTHER, PREFIX, &world.ca.identity(OTHER, 1));
    assert_eq!(world.directory.replace(vec![first, Arc::new(other)]).unwrap(), []);
    world
}

fn to(host: &str) -> Call {
    Call { host: host.to_owned(), ..health() }
}

/// Whether a signed request got as far as the key store.
async fn is_served(client: &mut Client, host: &str) -> bool {
    let answer = client.send(to(host).signed()).await;
    answer.is_ok_and(|answer| answer.status() == if host == HOST { 200 } else { 503 })
}

/// Whether the server has ended a connection (in whichever way).
async fn has_ended(stream: &mut TlsStream<DuplexStream>) -> bool {
    timeout(LONG, stream.read_u8()).await.is_ok_and(|read| read.is_err())
}

/// Eight places: two for strangers, six for the proven.
#[tokio::test]
async fn strangers_displace_each_other_and_nobody_who_has_signed() {
    let listening = Listening::new(ServerLimits { connections: 8, ..ServerLimits::default() });
    let mut proven = Vec::new();
    for _ in 0..6 {
        let mut client = listening.client(HOST).await;
        assert!(is_served(&mut client, HOST).await);
        proven.push(client);
    }
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(listening.stranger(HOST).await);
    }
    listening.until("connections_strangers_displaced", 18).await;
    for stranger in &mut strangers[..18] {
        assert!(has_ended(stranger).await);
    }
    for client in &mut proven {
        assert!(is_served(client, HOST).await);
    }
    // Among all these a client that signs is served: it takes the place of a stranger, and then one of its own host's.
    let mut client = listening.client(HOST).await;
    assert!(is_served(&mut client, HOST).await);
    assert_eq!(listening.counter("connections_proven"), 6);
}

#[tokio::test]
async fn a_flood_for_one_host_displaces_no_stranger_of_another() {
    let listening = Listening::new(ServerLimits { connections: 16, ..ServerLimits::default() });
    let mut quiet = listening.client(OTHER).await;
    let mut flood = Vec::new();
    for _ in 0..30 {
        flood.push(listening.stranger(HOST).await);
    }
    listening.until("connections_strangers_displaced", 27).await;
    assert!(is_served(&mut quiet, OTHER).await);
}

/// Who holds valid credentials of one host takes the places that are over, and gives them back when others come.
#[tokio::test]
async fn a_host_with_valid_credentials_leaves_places_to_the_others() {
    let listening = Listening::new(ServerLimits { connections: 8, ..ServerLimits::default() });
    let mut greedy = Vec::new();
    for _ in 0..6 {
        let mut client = listening.client(HOST).await;
        assert!(is_served(&mut client, HOST).await);
        greedy.push(client);
    }
    let mut modest = Vec::new();
    for _ in 0..3 {
        let mut client = listening.client(OTHER).await;
        assert!(is_served(&mut client, OTHER).await);
        modest.push(client);
    }
    assert_eq!(listening.counter("connections_over_host_share"), 3);
    // However many more the greedy one opens, they take the places of its own.
    for _ in 0..10 {
        let mut client = listening.client(HOST).await;
        assert!(is_served(&mut client, HOST).await);
        greedy.push(client);
    }
    for client in &mut modest {
        assert!(is_served(client, OTHER).await);
    }
    assert_eq!(listening.counter("connections_over_host_share"), 13);
    let mut left = 0;
    for client in &mut greedy {
        left += usize::from(is_served(client, HOST).await);
    }
    assert_eq!(left, 3);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HTTP/2, frame by frame.
struct Frames {
    stream: TlsStream<DuplexStream>,
    served: Served,
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Frames {
    async fn open(world: &World, context: &Arc<ServerContext>, host: &str, settings: &[u8]) -> Self {
        let (stream, served) = pipe(Arc::clone(context));
        let stream = connect_with(client_config(world, provider(), &["h2"]), host, stream).await.unwrap();
        let mut frames = Self { stream, served };
        frames.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        frames
    }

    /// Sends, unless the connection is over already.
    async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            let _ = self.stream.write_all(bytes).await;
            let _ = self.stream.flush().await;
        };
        timeout(LONG, sent).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(LONG, read).await.unwrap()
    }

    /// The next frame of one of these kinds; none if the connection ends first.
    async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) && (frame.kind != SETTINGS || frame.flags == 0) {
                return Some(frame);
            }
        }
    }

    /// The error code with which the connection ends.
    async fn end(&mut self) -> Option<u32> {
        self.next_of(&[GOAWAY]).await.map(|frame| frame.code())
    }

    /// Status line aside: whether a stream was answered, or the code with which it was reset.
    async fn answer(&mut self) -> (u32, Result<(), u32>) {
        let frame = self.next_of(&[HEADERS, RST_STREAM]).await.unwrap();
        let result = if frame.kind == HEADERS { Ok(()) } else { Err(frame.code()) };
        (frame.stream, result)
    }
}

/// A whole signed request without a body: of `GetHealthStatus` the body is needed, so it comes in `DATA`.
fn request(call: &Call, stream: u32) -> Vec<u8> {
    [head(call, stream, 0), frame(DATA, END_STREAM, stream, call.body.as_bytes())].concat()
}

fn head(call: &Call, stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &header_block(&fields(call)))
}

/// A body that is as long as allowed, and not complete.
fn most_of_a_body(stream: u32) -> Vec<u8> {
    let piece = vec![b' '; 12 * 1024];
    (0..2).flat_map(|_| frame(DATA, 0, stream, &piece)).collect()
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[tokio::test]
async fn what_http2_is_offered() {
    let world = World::new();
    let mut frames = Frames::open(&world, &world.context(), HOST, &[]).await;
    let settings = frames.next_of(&[SETTINGS]).await.unwrap().payload;
    let setting = |id: u16| {
        let of = |entry: &&[u8]| entry[..2] == id.to_be_bytes();
        settings.chunks(6).find(of).map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
    };
    // Header table, streams, window of a stream, frame, header list (RFC 9113, section 6.5.2).
    assert_eq!([1, 3, 4, 5, 6].map(setting), [Some(4096), Some(64), Some(36 * 1024), Some(16 * 1024), Some(16 * 1024)]);
}

/// Half a dozen streams of a tenant that never finish their bodies fill what it may hold; the others go on.
#[tokio::test]
async fn a_host_cannot_hold_all_memory() {
    let limits = ServerLimits { requests_bytes: 256 * 1024, ..ServerLimits::default() };
    let world = two_hosts();
    let context = world.context_with(limits);
    let mut greedy = Frames::open(&world, &context, HOST, &[]).await;
    greedy.send(&request(&to(HOST), 1)).await;
    assert_eq!(greedy.answer().await, (1, Ok(())));
    let mut refused = 0;
    for stream in streams(12).skip(1) {
        greedy.send(&[head(&to(HOST), stream, 0), most_of_a_body(stream)].concat()).await;
        greedy.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
    }
    // 256 KiB let one host hold half: no twelve bodies of 24 KiB.
    while refused < 6 {
        match greedy.answer().await.1 {
            // With an answer (429) where the body found no room, without one where not even the request did.
            Ok(()) | Err(INTERNAL_ERROR) => refused += 1,
            // The rest of a body that was answered is not wanted (RFC 9113, section 8.1).
            Err(code) => assert_eq!(code, NO_ERROR),
        }
    }
    assert!(context.counters()["requests_over_host_share"] >= 6);
    let mut modest = Frames::open(&world, &context, OTHER, &[]).await;
    modest.send(&request(&to(OTHER), 1)).await;
    assert_eq!(modest.answer().await, (1, Ok(())));
    modest.send(&request(&to(OTHER), 3)).await;
    assert_eq!(modest.answer().await, (3, Ok(())));
    // What ends is given back.
    drop(greedy);
    let mut again = Frames::open(&world, &context, HOST, &[]).await;
    for stream in streams(4) {
        again.send(&request(&to(HOST), stream)).await;
        assert_eq!(again.answer().await, (stream, Ok(())));
    }
}

/// A stranger may hold a large request and a dozen small ones; what is more is reset, and costs nobody else anything.
#[tokio::test]
async fn a_stranger_holds_what_is_its_own() {
    let world = World::new();
    let context = world.context();
    let mut stranger = Frames::open(&world, &context, HOST, &[]).await;
    for stream in streams(64) {
        stranger.send(&head(&to(HOST), stream, 0)).await;
    }
    let fit = u32::try_from(STRANGER_BYTES_MAX / REQUEST_OVERHEAD_BYTES).unwrap();
    let mut reset = 0;
    while reset < 64 - fit {
        assert!(stranger.answer().await.1.is_err());
        reset += 1;
    }
    assert!(context.counters()["requests_no_room"] >= u64::from(64 - fit));
    let mut client = Frames::open(&world, &context, HOST, &[]).await;
    client.send(&request(&to(HOST), 1)).await;
    assert_eq!(client.answer().await, (1, Ok(())));
}

/// A head counts before anything is done about it: a stream may have to wait for that.
#[tokio::test]
async fn a_request_without_room_for_its_head_is_reset() {
    let world = World::new();
    let context = world.context();
    let mut stranger = Frames::open(&world, &context, HOST, &[]).await;
    let padded = [fields(&to(HOST)), vec![(b"x-padding".to_vec(), vec![b'p'; 8 * 1024])]].concat();
    for stream in streams(30) {
        stranger.send(&frame(HEADERS, END_HEADERS, stream, &header_block(&padded))).await;
    }
    let fit = STRANGER_BYTES_MAX / (REQUEST_OVERHEAD_BYTES + 8 * 1024);
    for _ in fit..30 {
        assert_eq!(stranger.answer().await.1, Err(INTERNAL_ERROR));
    }
}

/// A client that starts with as many requests as there are streams has some of them reset, and is no stranger for it.
#[tokio::test]
async fn a_burst_of_signed_requests_keeps_its_connection() {
    let world = World::new();
    let context = world.context();
    let mut client = Frames::open(&world, &context, HOST, &[]).await;
    let heads: Vec<u8> = streams(64).flat_map(|stream| head(&to(HOST), stream, 0)).collect();
    client.send(&heads).await;
    for _ in 0..STRANGER_REQUESTS_MAX {
        assert_eq!(client.answer().await.1, Err(INTERNAL_ERROR));
    }
    client.send(&frame(DATA, END_STREAM, 1, to(HOST).body.as_bytes())).await;
    while client.answer().await != (1, Ok(())) {}
    client.send(&request(&to(HOST), 129)).await;
    while client.answer().await != (129, Ok(())) {}
    assert_eq!(context.counters()["connections_unsigned"], 0);
}

/// The largest request that there is fits into what a stranger may hold: nobody starts as anything else.
#[tokio::test]
async fn the_first_request_may_be_the_largest() {
    let world = World::new();
    let mut frames = Frames::open(&world, &world.context(), HOST, &[]).await;
    let mut body = health().body;
    body.push_str(&" ".repeat(XKS_BODY_MAX - body.len()));
    let call = Call { body, ..health() };
    let pieces: Vec<_> = call.body.as_bytes().chunks(12 * 1024).collect();
    let mut bytes = head(&call, 1, 0);
    for (number, piece) in pieces.iter().enumerate() {
        bytes.extend(frame(DATA, if number + 1 == pieces.len() { END_STREAM } else { 0 }, 1, piece));
    }
    frames.send(&bytes).await;
    assert_eq!(frames.answer().await, (1, Ok(())));
}

/// An answer that the client does not take stays counted against its host, and is given back with the connection.
#[tokio::test]
async fn answers_that_nobody_takes_stay_counted() {
    let limits = ServerLimits { requests_bytes: 96 * 1024, ..ServerLimits::default() };
    let world = World::new();
    // SETTINGS_INITIAL_WINDOW_SIZE: heads come, and of bodies nothing, or so little that HTTP/2 has the rest.
    for window in [0, 1] {
        let context = world.context_with(limits);
        let mut frames = Frames::open(&world, &context, HOST, &[0, 4, 0, 0, 0, window]).await;
        let mut answered = 0;
        for stream in streams(40) {
            frames.send(&request(&to(HOST), stream)).await;
            let (answered_stream, result) = frames.answer().await;
            assert_eq!(answered_stream, stream);
            if window == 1 && result.is_ok() {
                assert_eq!(frames.next_of(&[DATA]).await.unwrap().payload.len(), 1);
            }
            match result {
                Ok(()) => answered += 1,
                Err(_) => break,
            }
        }
        assert!((4..40).contains(&answered), "{answered}, window of {window}");
        // Taken, they make room.
        for stream in streams(3) {
            frames.send(&frame(WINDOW_UPDATE, 0, stream, &[0, 0, 255, 255])).await;
            assert_eq!(frames.next_of(&[DATA]).await.unwrap().stream, stream);
        }
        frames.send(&request(&to(HOST), 101)).await;
        assert_eq!(frames.answer().await, (101, Ok(())));
    }
}

#[tokio::test]
async fn requests_that_nobody_signed_end_the_connection() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let context = world.context_with(ServerLimits { stranger_requests: 5, ..ServerLimits::default() });
        let open = || async {
            let (stream, served) = pipe(Arc::clone(&context));
            let stream = connect_with(client_config(&world, provider(), &[protocol]), HOST, stream).await.unwrap();
            (Client::over(stream, protocol).await, served)
        };
        let unsigned = Call { secret: "x".repeat(43), ..health() };
        let (mut client, served) = open().await;
        let mut answered = 0;
        while client.send(unsigned.signed()).await.is_ok_and(|answer| answer.status() == 401) {
            answered += 1;
            assert!(answered < 100, "{protocol}");
        }
        assert_eq!(answered, 5, "{protocol}");
        let _ = timeout(LONG, served.done).await.unwrap();
        assert_eq!(context.counters()["connections_unsigned"], 1);
        // Whoever has signed may err.
        let (mut client, _served) = open().await;
        assert_eq!(client.call(&health()).await.0, 200);
        for _ in 0..20 {
            assert_eq!(client.call(&unsigned).await.0, 401, "{protocol}");
        }
        assert_eq!(client.call(&health()).await.0, 200);
    }
}

/// Requests that come all at once are answered one by one: between them others have their turn.
#[tokio::test]
async fn a_pipeline_holds_nobody_up() {
    let world = World::new();
    let context = world.context();
    let (stream, _served) = pipe(Arc::clone(&context));
    let mut hasty = connect_with(client_config(&world, provider(), &["http/1.1"]), HOST, stream).await.unwrap();
    let (mut patient, _served) = Client::open(&world, "http/1.1").await;
    assert_eq!(patient.call(&health()).await.0, 200);
    world.observer.0.lock().unwrap().clear();
    hasty.write_all(&Message::health().bytes().repeat(25)).await.unwrap();
    hasty.flush().await.unwrap();
    let metadata = Call::new("keys/enabled/metadata", &json!({ "requestMetadata": metadata() }));
    assert_eq!(patient.call(&metadata).await.0, 200);
    let events = world.observer.0.lock().unwrap();
    let before = events.iter().position(|event| event.operation == Some(Operation::GetKeyMetadata)).unwrap();
    assert!(before < 8, "{before} requests were answered before the other client's");
}

#[tokio::test]
async fn more_streams_than_offered_are_refused() {
    let world = World::new();
    let context = world.context();
    let mut frames = Frames::open(&world, &context, HOST, &[]).await;
    frames.send(&request(&to(HOST), 1)).await;
    assert_eq!(frames.answer().await, (1, Ok(())));
    for stream in streams(66).skip(1) {
        frames.send(&head(&to(HOST), stream, 0)).await;
    }
    assert_eq!(frames.answer().await, (131, Err(REFUSED_STREAM)));
}

/// Each of these ends its connection, and says why, whoever sends it: here one that has signed.
#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let mut floods: Vec<(&str, Vec<u8>)> = Vec::new();
    let each = |make: &dyn Fn(u32) -> Vec<u8>, count: u32| streams(count).skip(1).flat_map(make).collect::<Vec<_>>();
    let opened_and_reset =
        |stream| [head(&to(HOST), stream, END_STREAM), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    floods.push(("rapid reset (CVE-2023-44487)", each(&opened_and_reset, 100)));
    // A window that grows too large is an error of the stream (RFC 9113, section 6.9.1): the server resets it.
    let too_much = |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7F, 0xFF, 0xFF, 0xFF]);
    let made_to_reset = |stream| [head(&to(HOST), stream, 0), too_much(stream)].concat();
    floods.push(("resets on the server's part (CVE-2025-8671)", each(&made_to_reset, 400)));
    let mut continued = frame(HEADERS, 0, 3, &header_block(&fields(&health())));
    for _ in 0..100 {
        continued.extend(frame(CONTINUATION, 0, 3, &header_block(&vec![(b"x-a".to_vec(), vec![b'a'; 64]); 4])));
    }
    floods.push(("headers without end (CVE-2024-27316)", continued));
    let mut empty = head(&to(HOST), 3, 0);
    for _ in 0..1000 {
        empty.extend(frame(DATA, 0, 3, &[]));
    }
    floods.push(("data of no bytes", empty));
    for (name, bytes) in floods {
        let world = World::new();
        let mut frames = Frames::open(&world, &world.context(), HOST, &[]).await;
        frames.send(&request(&to(HOST), 1)).await;
        assert_eq!(frames.answer().await, (1, Ok(())));
        frames.send(&bytes).await;
        assert_eq!(frames.end().await, Some(ENHANCE_YOUR_CALM), "{name}");
        let end = timeout(LONG, frames.served.done).await.unwrap().unwrap();
        assert!(matches!(end, Err(ConnectionError::Http(_))), "{name}: {end:?}");
    }
}

/// Frames that are allowed keep no place: whoever sends nothing else is cut as a stranger, and what is owed in return for them
/// takes no memory, because nothing more is read until it is taken.
#[tokio::test(start_paused = true)]
async fn frames_that_mean_nothing_keep_no_place() {
    let kinds = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("an unknown frame", frame(0xFA, 0, 0, &[1; 100])),
    ];
    for (name, bytes) in kinds {
        let world = World::new();
        let context = world.context();
        let mut frames = Frames::open(&world, &context, HOST, &[]).await;
        let many = bytes.repeat(100);
        let flood = async {
            // Nothing is read: what the server owes stays in the pipe.
            while frames.stream.write_all(&many).await.is_ok() && frames.stream.flush().await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_hours(1), flood).await.unwrap_or_else(|_| panic!("{name}"));
        let _ = timeout(Duration::from_hours(1), frames.served.done).await.unwrap_or_else(|_| panic!("{name}"));
        assert_eq!(context.counters()["connections_unproven"], 1, "{name}");
    }
}

/// Heads and bodies that never come to their end, over HTTP/2 (for HTTP/1.1 see `every_wait_for_the_client_ends`).
#[tokio::test(start_paused = true)]
async fn slow_streams_end() {
    let world = World::new();
    let context = world.context();
    let mut frames = Frames::open(&world, &context, HOST, &[]).await;
    frames.send(&request(&to(HOST), 1)).await;
    assert_eq!(frames.answer().await, (1, Ok(())));
    // The stream is given up after its time, and the connection goes on.
    frames.send(&[head(&to(HOST), 3, 0), most_of_a_body(3)].concat()).await;
    assert!(frames.answer().await.1.is_err());
    frames.send(&request(&to(HOST), 5)).await;
    assert_eq!(frames.answer().await, (5, Ok(())));
    // A head that never ends holds the whole connection up, which then misses the answer to a ping, or a signature.
    frames.send(&frame(HEADERS, 0, 7, &header_block(&fields(&health())))).await;
    let end = timeout(Duration::from_hours(1), frames.served.done).await.unwrap().unwrap();
    assert!(matches!(end, Err(ConnectionError::Http(_) | ConnectionError::Silent)), "{end:?}");
}
