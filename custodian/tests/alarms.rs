//! Delivery of alarms to real sockets, and what happens when nobody listens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use holdfast_custodian::alarms::Receivers;
use holdfast_custodian::clock::SystemClock;
use holdfast_custodian::config::Config;
use holdfast_custodian::store::{NewAlarm, Store};
use holdfast_shared::alarm::{Alarm, AlarmKind};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::manifest::ManifestId;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const KEY_STORE: KeyStoreId = KeyStoreId([1; 32]);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A custodian's configuration and tables, without the custodian.
struct Place {
    directory: TempDir,
    config: Config,
}

impl Place {
    async fn new(alarms: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = configure(directory.path(), alarms);
        let store = Store::create(&directory.path().join("one.sqlite")).await.unwrap();
        let manifest = holdfast_custodian::store::StoredManifest {
            id: ManifestId { sequence: 1, digest: [1; 32] },
            signed: b"signed".to_vec(),
        };
        assert!(store.enrol(KEY_STORE, &[manifest], b"policy", 1).await.unwrap());
        store.close().await;
        Self { directory, config }
    }

    async fn store(&self) -> Arc<Store> {
        let store = Store::open(&self.directory.path().join("one.sqlite")).await.unwrap();
        Arc::new(store.delivering_to(self.config.alarms.destinations()))
    }

    fn deliver(&self, store: &Arc<Store>) -> Couriers {
        let receivers = Receivers::open(&self.config).unwrap();
        Couriers(tokio::spawn(receivers.deliver(Arc::clone(store), Arc::new(SystemClock))))
    }
}

/// Ends with the test, or before.
struct Couriers(JoinHandle<()>);

impl Drop for Couriers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn configure(directory: &Path, alarms: &str) -> Config {
    let text = format!(
        "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"vault-1.example.com:7443\"\nstate = \"state\"\n\
         administrators = []\n{alarms}"
    );
    let file = directory.join("custodian.toml");
    fs::write(&file, &text).unwrap();
    Config::parse(&file, &text).unwrap()
}

async fn raise(store: &Store, who: &str) {
    let alarm = Alarm {
        kind: AlarmKind::FirstSeen,
        key: Some("a".parse().unwrap()),
        who: who.to_owned(),
        text: format!("{who} is new"),
    };
    let boot_id = Some(BootId([8; 16]));
    let new = NewAlarm { key_store_id: KEY_STORE, boot_id, alarm, at_ms: 1_700_000_000_000, quiet_ms: 1 };
    assert!(store.raise(&new).await.unwrap());
}

/// Waits until everything is delivered.
async fn all_delivered(store: &Store) {
    let done = async {
        while store.alarms(KEY_STORE, None, 100).await.unwrap().iter().any(|raised| !raised.is_delivered) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    guarded(done).await;
}

/// The limit is a guard against a hang only.
async fn guarded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work).await.expect("it hangs")
}

/// A request that came.
#[derive(Debug)]
struct Post {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Post {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn who(&self) -> String {
        self.json()["who"].as_str().unwrap().to_owned()
    }
}

/// A receiver that answers with these statuses in their order, and then with 204.
fn receiver(listener: TcpListener, statuses: &[u16]) -> mpsc::UnboundedReceiver<Post> {
    let (sender, posts) = mpsc::unbounded_channel();
    let statuses = Arc::new(std::sync::Mutex::new(statuses.to_vec()));
    let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        assert_eq!(method, Method::POST);
        let mut response = Response::new(Body::from("x".repeat(100_000)));
        let mut left = statuses.lock().unwrap();
        let status = if left.is_empty() { 204 } else { left.remove(0) };
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("location", "/elsewhere".parse().unwrap());
        sender.send(Post { path: uri.to_string(), headers, body }).unwrap();
        response
    };
    let app = axum::Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    posts
}

async fn next(posts: &mut mpsc::UnboundedReceiver<Post>) -> Post {
    guarded(posts.recv()).await.unwrap()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port at which nobody listens.
async fn free_port() -> u16 {
    listen().await.1
}

fn write_private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_webhook_gets_signed_json_in_order() {
    let (listener, port) = listen().await;
    let mut posts = receiver(listener, &[]);
    let place = Place::new(&format!(
        "[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/hook?team=keys\"\nsecret_file = \"secret\"\n"
    ))
    .await;
    write_private(&place.directory.path().join("secret"), &format!("{SECRET}\n"));
    let store = place.store().await;
    raise(&store, "a").await;
    raise(&store, "b\u{202e}").await;
    let _couriers = place.deliver(&store);
    let first = next(&mut posts).await;
    assert_eq!(first.path, "/hook?team=keys");
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["host"], format!("127.0.0.1:{port}"));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected = format!("sha256={}", hex::encode(ring::hmac::sign(&key, &first.body)));
    assert_eq!(first.headers["holdfast-signature"], expected);
    let json = first.json();
    for (field, expected) in [
        ("key_store_id", Value::from("01".repeat(32))),
        ("at", "2023-11-14T22:13:20Z".into()),
        ("kind", "first-seen".into()),
        ("key", "a".into()),
        ("who", "a".into()),
        ("text", "a is new".into()),
        ("boot_id", "08".repeat(16).into()),
        ("custodian", "vault-1".into()),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
    assert_eq!(next(&mut posts).await.who(), "b\u{202e}");
    all_delivered(&store).await;
    // One that comes wakes the courier.
    raise(&store, "c").await;
    let third = next(&mut posts).await;
    assert_eq!(third.who(), "c");
    assert!(third.json()["id"].as_u64() > json["id"].as_u64());
}

#[tokio::test]
async fn what_fails_is_tried_again_and_stays_first() {
    let (listener, port) = listen().await;
    let mut posts = receiver(listener, &[500, 307]);
    let place = Place::new(&format!("[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/\"\n")).await;
    let store = place.store().await;
    raise(&store, "a").await;
    raise(&store, "b").await;
    let _couriers = place.deliver(&store);
    for who in ["a", "a", "a", "b"] {
        let came = next(&mut posts).await;
        assert_eq!((came.who().as_str(), came.path.as_str()), (who, "/"));
        assert!(came.headers.get("holdfast-signature").is_none());
    }
    all_delivered(&store).await;
}

#[tokio::test]
async fn one_that_is_taken_badly_lets_others_pass() {
    let (listener, port) = listen().await;
    let mut posts = receiver(listener, &[422]);
    let place = Place::new(&format!("[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/\"\n")).await;
    let store = place.store().await;
    raise(&store, "a").await;
    raise(&store, "b").await;
    let _couriers = place.deliver(&store);
    assert_eq!(next(&mut posts).await.who(), "a");
    assert_eq!(next(&mut posts).await.who(), "b");
    raise(&store, "c").await;
    assert_eq!(next(&mut posts).await.who(), "c");
    let waiting = async {
        loop {
            let alarms = store.alarms(KEY_STORE, None, 100).await.unwrap();
            if alarms.iter().map(|raised| raised.is_delivered).collect::<Vec<_>>() == [true, true, false] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    guarded(waiting).await;
}

#[tokio::test]
async fn what_was_recorded_before_a_restart_is_delivered_after_it() {
    let port = free_port().await;
    let place = Place::new(&format!("[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/\"\n")).await;
    let store = place.store().await;
    raise(&store, "a").await;
    {
        // Nobody listens.
        let _couriers = place.deliver(&store);
        let name = &place.config.alarms.destinations()[0];
        let tried = async {
            while store.next_delivery(name).await.unwrap().unwrap().attempts == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        guarded(tried).await;
    }
    store.close().await;
    let store = place.store().await;
    raise(&store, "b").await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut posts = receiver(listener, &[]);
    let _couriers = place.deliver(&store);
    assert_eq!(next(&mut posts).await.who(), "a");
    assert_eq!(next(&mut posts).await.who(), "b");
    all_delivered(&store).await;
}

#[tokio::test]
async fn of_two_replicas_one_delivers() {
    let (listener, port) = listen().await;
    let mut posts = receiver(listener, &[]);
    let place = Place::new(&format!("[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/\"\n")).await;
    let (one, two) = (place.store().await, place.store().await);
    let _couriers = [place.deliver(&one), place.deliver(&two)];
    for number in 0..10 {
        raise(if number % 2 == 0 { &one } else { &two }, &number.to_string()).await;
    }
    for number in 0..10 {
        assert_eq!(next(&mut posts).await.who(), number.to_string());
    }
    all_delivered(&one).await;
    assert!(posts.try_recv().is_err(), "each once");
}

/// Each receiver has what it should, though the first one of them is gone.
#[tokio::test]
async fn syslog_gets_lines_by_datagram_stream_and_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("log");
    let unix = UnixDatagram::bind(&socket).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (tcp, tcp_port) = listen().await;
    let udp_port = udp.local_addr().unwrap().port();
    let gone = free_port().await;
    let place = Place::new(&format!(
        "[[alarms.webhook]]\nurl = \"http://127.0.0.1:{gone}/\"\n\
         [[alarms.syslog]]\naddress = \"unix:{}\"\n\
         [[alarms.syslog]]\naddress = \"udp://127.0.0.1:{udp_port}\"\nfacility = \"local0\"\n\
         [[alarms.syslog]]\naddress = \"tcp://127.0.0.1:{tcp_port}\"\n",
        socket.display()
    ))
    .await;
    let store = place.store().await;
    raise(&store, "a\nb").await;
    let _couriers = place.deliver(&store);
    let mut buffer = [0; 4096];
    let length = guarded(unix.recv(&mut buffer)).await.unwrap();
    check_line(&buffer[..length], 84);
    let length = guarded(udp.recv(&mut buffer)).await.unwrap();
    check_line(&buffer[..length], 132);
    let (mut stream, _) = guarded(tcp.accept()).await.unwrap();
    let mut frame = Vec::new();
    guarded(stream.read_to_end(&mut frame)).await.unwrap();
    drop(stream);
    let space = frame.iter().position(|byte| *byte == b' ').unwrap();
    let length: usize = std::str::from_utf8(&frame[..space]).unwrap().parse().unwrap();
    assert_eq!(frame.len(), space + 1 + length);
    check_line(&frame[space + 1..], 84);
    let waiting = async {
        for name in place.config.alarms.destinations().iter().filter(|name| name.starts_with("syslog")) {
            while store.next_delivery(name).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    guarded(waiting).await;
    assert!(!store.alarms(KEY_STORE, None, 1).await.unwrap()[0].is_delivered, "one is gone");
}

fn check_line(line: &[u8], priority: u8) {
    let line = std::str::from_utf8(line).unwrap();
    let head = format!("<{priority}>1 2023-11-14T22:13:20Z vault-1.example.com holdfast-custodian - first-seen - ");
    let json: Value = serde_json::from_str(line.strip_prefix(&head).unwrap_or_else(|| panic!("{line}"))).unwrap();
    assert_eq!(json["who"], "a\nb");
    assert!(!line.contains('\n'));
}

/// Receivers that refuse the connection, that break it off, and that are not there.
#[tokio::test]
async fn what_syslog_does_not_take_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("log");
    let (tcp, udp) = (free_port().await, free_port().await);
    let place = Place::new(&format!(
        "[[alarms.syslog]]\naddress = \"unix:{}\"\n[[alarms.syslog]]\naddress = \"udp://127.0.0.1:{udp}\"\n\
         [[alarms.syslog]]\naddress = \"tcp://127.0.0.1:{tcp}\"\n",
        socket.display()
    ))
    .await;
    let store = place.store().await;
    raise(&store, "a\nb").await;
    let _couriers = place.deliver(&store);
    let names = place.config.alarms.destinations();
    let tried = async {
        for name in &names {
            while store.next_delivery(name).await.unwrap().unwrap().attempts == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    guarded(tried).await;
    let unix = UnixDatagram::bind(&socket).unwrap();
    let udp = UdpSocket::bind(("127.0.0.1", udp)).await.unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", tcp)).await.unwrap();
    let taken = async {
        let (stream, _) = tcp.accept().await.unwrap();
        drop(stream);
        unix.recv(&mut [0; 4096]).await.unwrap();
        udp.recv(&mut [0; 4096]).await.unwrap();
    };
    guarded(taken).await;
    // Broken off before it was read: that is a reset, and once more.
    let read = async {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut frame = Vec::new();
            stream.read_to_end(&mut frame).await.unwrap();
            if !frame.is_empty() {
                break;
            }
        }
    };
    tokio::select! {
        () = guarded(read) => {}
        () = all_delivered(&store) => {}
    }
    all_delivered(&store).await;
}

fn test_of(directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-custodian"))
        .args(["alarms", "test", "--config"])
        .arg(directory.join("custodian.toml"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

async fn tested(directory: PathBuf) -> Output {
    tokio::task::spawn_blocking(move || test_of(&directory)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_goes_to_every_receiver_and_says_what_came_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    configure(&path, "");
    let output = tested(path.clone()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("names no receiver"), "{output:?}");

    let (listener, port) = listen().await;
    let mut posts = receiver(listener, &[200, 503]);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("[[alarms.webhook]]\nurl = \"http://127.0.0.1:{port}/token\"\n");
    let log = format!("[[alarms.syslog]]\naddress = \"udp://{}\"\n", udp.local_addr().unwrap());
    configure(&path, &format!("{hook}{log}"));
    let output = tested(path.clone()).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("sent: ")).count(), 2, "{said}");
    assert!(!said.contains("token"), "{said}");
    assert_eq!(next(&mut posts).await.json()["kind"], "test");
    let mut line = [0; 4096];
    let length = guarded(udp.recv(&mut line)).await.unwrap();
    assert!(String::from_utf8_lossy(&line[..length]).contains(" - test - {"));

    let output = tested(path.clone()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.contains("FAILED: webhook http://127.0.0.1:") && said.contains(": status 503"), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 2 receivers"), "{output:?}");

    // Files are looked at before anything is sent.
    for (secret, mode, expected) in
        [(None, 0, "secret"), (Some(SECRET), 0o644, "chmod 600"), (Some("short"), 0o600, "fewer than 16 bytes")]
    {
        configure(&path, &format!("{hook}secret_file = \"secret\"\n"));
        if let Some(secret) = secret {
            fs::write(path.join("secret"), secret).unwrap();
            fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = tested(path.clone()).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
}

/// TLS under the configured roots, by the configured name, or not at all.
#[tokio::test]
async fn a_webhook_is_verified_before_it_hears_anything() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let other = rcgen::CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private_key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)
        .unwrap();
    let (listener, port) = listen().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("roots.pem"), certificate.pem()).unwrap();
    fs::write(directory.path().join("others.pem"), other.pem()).unwrap();
    for (host, roots, accepted) in [
        ("localhost", Some("roots.pem"), true),
        ("127.0.0.1", Some("roots.pem"), false),
        ("localhost", Some("others.pem"), false),
        ("localhost", None, false),
    ] {
        let roots_line = roots.map_or(String::new(), |roots| format!("roots = \"{roots}\"\n"));
        let alarms = format!("[[alarms.webhook]]\nurl = \"https://{host}:{port}/\"\n{roots_line}");
        let config = configure(directory.path(), &alarms);
        let receivers = match Receivers::open(&config) {
            Ok(receivers) => receivers,
            // A machine without roots of its own.
            Err(error) => {
                assert!(roots.is_none(), "{error}");
                continue;
            }
        };
        let results = guarded(receivers.test(1_700_000_000_000)).await;
        assert_eq!(results[0].1.is_ok(), accepted, "{host} {roots:?}: {results:?}");
        if let Err(error) = &results[0].1 {
            assert!(error.to_string().contains("TLS failed"), "{error}");
        }
    }
}
