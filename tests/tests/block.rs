//! Blocks: seen by the enclave, kept through every restart, lifted by nothing old. How fast they are seen is measured in
//! `revocation.rs`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_shared::api::{self, RefusalCode};
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::{cbor, labels};
use holdfast_tests::applicant::Applicant;
use holdfast_tests::system::{AAD, KEY, Options, System, static_configuration};
use holdfast_tests::wait::until;
use ring::rand::SystemRandom;
use serde_json::{Value, json};

/// Requests one after the other until told to stop: when each was answered, and with what status.
struct Poller {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Instant, u16)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Poller {
    fn start(system: &System, key: &'static str) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (client, stopping, noting) = (system.client(), Arc::clone(&stop), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while !stopping.load(Ordering::SeqCst) {
                let answer = client.encrypt(key, b"text", None).await.unwrap();
                noting.lock().unwrap().push((Instant::now(), answer.status.as_u16()));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stop, seen, task }
    }

    /// When `status` was answered first, at or after `since`; fails if another was answered after that.
    async fn first(self, status: u16, since: Instant) -> Duration {
        let first = until("the status is answered", || async {
            let seen = self.seen.lock().unwrap();
            seen.iter().find(|(_, answered)| *answered == status).map(|(at, _)| *at)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let after: Vec<_> = self.seen.lock().unwrap().iter().filter(|(at, _)| *at >= first).map(|(_, s)| *s).collect();
        assert!(after.iter().all(|answered| *answered == status), "after the first {status}: {after:?}");
        first.saturating_duration_since(since)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_seen_and_lifted() {
    let system = System::start(Options {
        keys: vec![(KEY, "encrypt,decrypt"), ("other", "encrypt,decrypt")],
        ..Options::default()
    })
    .await;
    let encrypted = system.encrypt(KEY).await;
    for (scope, name) in [(&["--key", KEY][..], "key"), (&["--store"], "store")] {
        let poller = Poller::start(&system, KEY);
        let blocked = system.order(&[&["block"], scope].concat());
        let waited = poller.first(400, Instant::now()).await;
        eprintln!("block of the {name}: seen {} ms after the tool returned", waited.as_millis());
        assert_eq!(blocked["store"], json!(name == "store"));
        let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
        assert_eq!(answer.text("errorName"), Some("InvalidStateException"), "{}", answer.body);
        let expected = if name == "key" { 200 } else { 400 };
        let answer = system.client().encrypt("other", b"text", None).await.unwrap();
        assert_eq!(answer.status.as_u16(), expected, "only what was named: {}", answer.body);

        let leases = leases(&system);
        let poller = Poller::start(&system, KEY);
        system.order(&[&["unblock"], scope].concat());
        poller.first(200, Instant::now()).await;
        system.decrypt(&encrypted).await;
        if name == "store" {
            // The keys were gone: a new release, with new evidence, brought them back.
            assert!(self::leases(&system) > leases, "no new lease after the block of the store was lifted");
        }
    }
}

fn leases(system: &System) -> usize {
    system.order(&["status"])["leases"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_survives_restarts_and_nothing_old_lifts_it() {
    let mut system = System::start(Options::default()).await;
    let encrypted = system.encrypt(KEY).await;
    // Epoch 1 blocks, 2 unblocks; both are kept as a hostile host would.
    let old_block = overlay(&system, 1, true);
    put(&system, &old_block).await.unwrap();
    let old_unblock = overlay(&system, 2, false);
    put(&system, &old_unblock).await.unwrap();
    system.serving().await;

    // Killed as soon as it acknowledged, the custodian may have told nobody: it tells when it is back.
    system.order(&["block", "--store"]);
    system.custodian.kill();
    system.custodian.start().await;
    blocked(&system).await;
    // What an enclave was told holds while the custodian is away.
    system.custodian.kill();
    blocked(&system).await;
    system.custodian.start().await;
    blocked(&system).await;
    system.start_enclave().await;
    refuses_after_restart(&mut system).await;

    for (what, signed) in [("an old unblock", &old_unblock), ("an old block", &old_block)] {
        match put(&system, signed).await {
            Err(ClientError::Refused { refusal, .. }) => {
                eprintln!("{what}: {}", refusal.reason);
                assert_eq!(refusal.code, RefusalCode::Conflict, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    let status = system.order(&["status"]);
    assert_eq!((&status["blocked"]["store"], &status["blocked"]["epoch"]), (&json!(true), &json!(3)), "{status}");

    no_share_leaves(&system).await;

    // A block needs no enclave; lifting it neither, but its effect does.
    system.kill_enclave().await;
    system.order(&["block", "--key", KEY]);
    system.order(&["unblock", "--store"]);
    system.start_enclave().await;
    system.serving().await;
    let answer = system.client().encrypt(KEY, b"text", None).await.unwrap();
    assert_eq!(answer.text("errorName"), Some("InvalidStateException"), "{}", answer.body);
    system.order(&["unblock", "--key", KEY]);
    until("the key works again", || async {
        system.client().encrypt(KEY, b"text", None).await.ok()?.status.is_success().then_some(())
    })
    .await;
    system.decrypt(&encrypted).await;
}

/// The block holds at the custodian too: whoever asks while it is in force gets a lease to wait with, and no share.
async fn no_share_leaves(system: &System) {
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let lease = applicant.obtain(&system.home_custodian(), system.key_store_id()).await.unwrap();
    assert!(lease.content.overlay.is_some() && lease.content.shares.is_empty());
}

/// Blocked before its first release, an enclave has nothing at all: no name, no certificate, no keys.
async fn refuses_after_restart(system: &mut System) {
    system.reports("Blocked", "").await;
    assert!(system.client().health().await.is_err());
    system.custodian.start().await;
    system.start_enclave().await;
    system.reports("Blocked", "").await;
    assert!(system.client().health().await.is_err());
}

async fn blocked(system: &System) {
    let answer: Value = until("the block is seen", || async {
        let answer = system.client().encrypt(KEY, b"text", None).await.ok()?;
        (!answer.status.is_success()).then_some(answer.body)
    })
    .await;
    assert_eq!(answer["errorName"], json!("InvalidStateException"), "{answer}");
}

/// An overlay signed by the administrator.
fn overlay(system: &System, epoch: u64, store: bool) -> Vec<u8> {
    let overlay = BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id: system.key_store_id(),
        epoch,
        store,
        keys: Vec::new(),
        issued_ms: 1,
    };
    let keys = system.administrator.home_folder().administrator().unwrap();
    cbor::encode(&block::sign(&overlay, &keys.signing_key, &SystemRandom::new()).unwrap()).to_vec()
}

async fn put(system: &System, signed: &[u8]) -> Result<Vec<u8>, ClientError> {
    let client = CustodianClient::new(Tcp, &system.home_custodian()).unwrap();
    client.post(api::BLOCKS, signed.to_vec(), 1024, Duration::from_secs(20)).await
}
