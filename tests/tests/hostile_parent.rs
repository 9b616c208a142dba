//! A parent, or a network, that flips, drops, truncates, holds back, swaps and replays bytes on every hop: service works, or comes
//! back, or stays closed; no answer is ever wrong, and no process panics.
//!
//! Each plan is made of a seed, which is printed. To repeat one: `HOLDFAST_TEST_SEED=N cargo nextest run --profile long …`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::time::Duration;

use holdfast_devkit::xks_client::{HttpVersion, XksClient, integrity_value};
use holdfast_tests::random::{Random, fresh_seed, random_bytes};
use holdfast_tests::system::{AAD, Encrypted, KEY, Options, System};
use holdfast_tests::tap::{Action, Direction, Fault, Tap};
use holdfast_tests::wait::{soon, until};
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a client waits for an answer that a plan may have destroyed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the system may take to come back by itself; then the enclave is started anew, as an operator would.
const RECOVERY: Duration = Duration::from_secs(4);

const HOPS: [&str; 5] = ["control", "egress", "audit", "ingress", "custodian"];

fn hop<'a>(system: &'a System, name: &str) -> &'a Tap {
    let taps = system.taps.as_ref().unwrap();
    match name {
        "control" => &taps.control,
        "egress" => &taps.egress,
        "audit" => &taps.audit,
        "ingress" => &taps.ingress,
        _ => system.custodian_tap(),
    }
}

/// What a client may meet: the truth, an error, or silence.
async fn honest_or_silent(client: &XksClient, old: &Encrypted) {
    let plaintext = random_bytes::<32>();
    if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.encrypt(KEY, &plaintext, Some(AAD))).await {
        if answer.status == StatusCode::OK {
            let claimed = answer.bytes("ciphertextDataIntegrityValue").unwrap();
            let computed = integrity_value(Some(AAD), &answer).unwrap();
            assert_eq!(claimed, computed, "an altered answer was taken: {}", answer.body);
        } else {
            assert_proper_error(&answer.body);
        }
    }
    if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.decrypt(KEY, &old.body, Some(AAD))).await {
        if answer.status == StatusCode::OK {
            assert_eq!(answer.bytes("plaintext"), Some(old.plaintext.clone()), "a wrong plaintext");
        } else {
            assert_proper_error(&answer.body);
        }
    }
}

/// Keys that are not there, or a lease that is not: nothing that a request did not ask for.
fn assert_proper_error(body: &Value) {
    let name = body["errorName"].as_str().unwrap_or_default();
    assert!(["DependencyTimeoutException", "InvalidUriPathException"].contains(&name), "{body}");
}

/// Makes a plan of a seed, boots an enclave and sends requests under it, and looks whether everything comes back.
async fn survive(system: &mut System, seed: u64, old: &Encrypted) {
    let mut random = Random::seeded(seed);
    let name = *random.choose(&HOPS);
    let faults: Vec<_> = (0..=random.below(3)).map(|_| Fault::random(&mut random)).collect();
    let reboots = name != "ingress" || random.below(2) == 0;
    eprintln!("seed {seed}: {name}, {}, {faults:?}", if reboots { "another boot" } else { "the same boot" });
    hop(system, name).set_plan(faults);
    if reboots {
        system.start_enclave().await;
    }
    let version = if random.below(2) == 0 { HttpVersion::Http1 } else { HttpVersion::Http2 };
    let client = system.client().over(version);
    for _ in 0..3 {
        honest_or_silent(&client, old).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for name in HOPS {
        hop(system, name).set_plan(Vec::new());
        hop(system, name).cut();
    }
    let back = tokio::time::timeout(RECOVERY, system.serving()).await.is_ok();
    if !back {
        // Closed is closed: an altered configuration was measured, or an order to drain was believed.
        eprintln!("seed {seed}: stays closed until another boot");
        system.start_enclave().await;
        system.serving().await;
    }
    system.decrypt(old).await;
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_changed_on_every_hop() {
    let mut system = System::start(Options { taps: true, ..Options::default() }).await;
    let old = system.encrypt(KEY).await;
    for seed in 1..=12 {
        survive(&mut system, seed, &old).await;
    }
}

/// Many plans, others each time.
#[tokio::test(flavor = "multi_thread")]
async fn long_bytes_are_changed_on_every_hop() {
    let mut system = System::start(Options { taps: true, ..Options::default() }).await;
    let old = system.encrypt(KEY).await;
    let seed = fresh_seed();
    for plan in 0..150 {
        survive(&mut system, seed.wrapping_add(plan), &old).await;
    }
}

/// Each single kind of fault at the first bytes of each hop, in each direction.
#[tokio::test(flavor = "multi_thread")]
async fn long_each_fault_on_each_hop_and_direction() {
    let mut system = System::start(Options { taps: true, ..Options::default() }).await;
    let old = system.encrypt(KEY).await;
    let actions = [
        Action::FlipBit(0),
        Action::FlipBit(7),
        Action::Drop,
        Action::Truncate,
        Action::Hold(Duration::from_millis(700)),
        Action::Swap(5),
        Action::Replay(0),
        Action::Insert(b"\x00\x00\x00\x02{}".to_vec()),
    ];
    for name in HOPS {
        for direction in [Direction::ToServer, Direction::ToClient] {
            for action in &actions {
                for offset in [0, 3, 5, 40, 300] {
                    let fault = Fault { connection: Some(0), direction, offset, action: action.clone() };
                    eprintln!("{name}: {fault:?}");
                    hop(&system, name).set_plan(vec![fault]);
                    system.start_enclave().await;
                    honest_or_silent(&system.client(), &old).await;
                    hop(&system, name).set_plan(Vec::new());
                    hop(&system, name).cut();
                    if tokio::time::timeout(RECOVERY, system.serving()).await.is_err() {
                        system.start_enclave().await;
                        system.serving().await;
                    }
                    system.decrypt(&old).await;
                }
            }
        }
    }
    system.assert_no_panic();
}

/// What the parent knows of before: whole connections, sent again.
#[tokio::test(flavor = "multi_thread")]
async fn recorded_connections_bring_nothing() {
    let mut system = System::start(Options { taps: true, ..Options::default() }).await;
    let old = system.encrypt(KEY).await;
    system.decrypt(&old).await;
    let taps = system.taps.as_ref().unwrap();
    let successes = successes(&system).await;
    let recorded = taps.ingress.recorded();
    assert!(recorded.len() >= 2, "{} connections", recorded.len());
    for connection in &recorded {
        let mut stream = TcpStream::connect(system.listen).await.unwrap();
        // The first record, and the rest when the server has answered, as it was the first time.
        let (hello, rest) = connection.to_server.split_at(record_length(&connection.to_server));
        stream.write_all(hello).await.unwrap();
        let mut answer = vec![soon("an answer to the replayed ClientHello", stream.read_u8()).await.unwrap()];
        stream.write_all(rest).await.unwrap();
        // An alert and the end, or just the end.
        let _ = soon("the replayed connection ends", stream.read_to_end(&mut answer)).await;
        assert_ne!(answer, connection.to_client);
    }
    // Two rounds of the enclave's status later nothing more was answered with 200.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(self::successes(&system).await, successes, "a replayed request was carried out");

    // An enclave that hears, instead of the custodian, what another boot heard.
    for name in ["egress", "custodian"] {
        let count = hop(&system, name).recorded().len();
        let replay = |number: usize| Fault {
            connection: Some(number),
            direction: Direction::ToClient,
            offset: 0,
            action: Action::Replay(number),
        };
        hop(&system, name).set_plan((0..count.min(3)).map(replay).collect());
        system.start_enclave().await;
        honest_or_silent(&system.client(), &old).await;
        hop(&system, name).set_plan(Vec::new());
        hop(&system, name).cut();
        system.serving().await;
        system.decrypt(&old).await;
    }
    system.assert_no_panic();
}

/// Bytes of the first TLS record (RFC 8446, section 5.1).
fn record_length(bytes: &[u8]) -> usize {
    5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

/// Requests answered with 200, as the enclave counts them.
async fn successes(system: &System) -> u64 {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let status = system.parent_status().await;
    let counters = status["enclave"]["status"]["counters"].as_object().unwrap().clone();
    let count = counters.iter().find(|(name, _)| name.contains("success"));
    count.unwrap_or_else(|| panic!("{counters:?}")).1.as_u64().unwrap()
}

/// Behind a cut wire the lease runs out, at its own time, though everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_cut_wire_the_lease_runs_out() {
    let system = System::start(Options { taps: true, lease: "10s", ..Options::default() }).await;
    let old = system.encrypt(KEY).await;
    hop(&system, "egress").close(true);
    let client = system.client();
    let mut served = 0;
    until("the lease runs out", || async {
        let answer = client.decrypt(KEY, &old.body, Some(AAD)).await.unwrap();
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    for _ in 0..20 {
        let answer = client.decrypt(KEY, &old.body, Some(AAD)).await.unwrap();
        served += usize::from(answer.status == StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served, 0, "served without a lease");
    hop(&system, "egress").close(false);
    system.serving().await;
    system.decrypt(&old).await;
}
