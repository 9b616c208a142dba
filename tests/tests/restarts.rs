//! Every process is killed in turn (SIGKILL, no chance to tidy up): nothing that was acknowledged is lost, and old ciphertexts
//! decrypt afterwards.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn each_process_in_turn() {
    let mut system = System::start(Options::default()).await;
    let encrypted = system.encrypt(KEY).await;

    // The enclave loses everything; another boot unseals.
    let before = boots(&system);
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert_eq!(boots(&system), before + 1, "another boot holds a lease of its own");

    // With its NSM.
    system.nsm.take().unwrap().kill();
    system.kill_enclave().await;
    system.start_nsm().await;
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;

    // The parent: the enclave keeps what it has and connects again.
    system.parent.take().unwrap().kill();
    system.start_parent().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.reports("Serving", "").await;
    system.order(&["key", "create", "after-the-parent"]);
    system.round_trip("after-the-parent").await;

    // The custodian: the enclave serves within its lease, and watches again later.
    system.custodian.kill();
    system.decrypt(&encrypted).await;
    system.round_trip(KEY).await;
    system.custodian.start().await;
    system.decrypt(&encrypted).await;
    system.order(&["key", "create", "after-the-custodian"]);
    system.round_trip("after-the-custodian").await;

    // Everything at once.
    system.nsm.take().unwrap().kill();
    system.custodian.kill();
    system.parent.take().unwrap().kill();
    system.kill_enclave().await;
    system.start_nsm().await;
    system.custodian.start().await;
    system.start_parent().await;
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    for key in ["after-the-parent", "after-the-custodian"] {
        system.round_trip(key).await;
    }
    system.assert_no_panic();
}

fn boots(system: &System) -> usize {
    let status = system.order(&["status"]);
    let leases = status["leases"].as_array().unwrap();
    assert!(leases.iter().all(|lease| lease["evidence_error"].is_null()), "{status}");
    let boots: std::collections::BTreeSet<_> = leases.iter().map(|lease| lease["boot_id"].to_string()).collect();
    boots.len()
}

/// The custodian dies right after it acknowledged: a version, a block, a queued command.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_kept() {
    let mut system = System::start(Options::default()).await;
    let mut encrypted = vec![system.encrypt(KEY).await];
    for round in 0..4 {
        let key = format!("key-{round}");
        system.order(&["key", "create", &key]);
        system.custodian.kill();
        system.custodian.start().await;
        encrypted.push(system.encrypt(&key).await);
        if round % 2 == 1 {
            // What counts is the custodian's copy.
            system.start_enclave().await;
            system.serving().await;
        }
        for message in &encrypted {
            system.decrypt(message).await;
        }
    }
    let listed = system.order(&["key", "list"]);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 5, "{listed}");

    system.order(&["block", "--key", "key-1"]);
    system.custodian.kill();
    system.kill_enclave().await;
    system.custodian.start().await;
    system.start_enclave().await;
    system.serving().await;
    let answer = system.client().encrypt("key-1", b"text", None).await.unwrap();
    assert_eq!(answer.text("errorName"), Some("InvalidStateException"), "{}", answer.body);
    system.order(&["unblock", "--key", "key-1"]);

    a_queued_command(&mut system).await;
    for message in &encrypted {
        until("the block is lifted", || async {
            system
                .client()
                .metadata(&message.key)
                .await
                .ok()
                .filter(|answer| answer.text("keyStatus") == Some("ENABLED"))
        })
        .await;
        system.decrypt(message).await;
    }
    system.assert_no_panic();
}

/// No enclave runs: the order stays queued (exit code 3), also through a kill, and the next enclave carries it out, once.
async fn a_queued_command(system: &mut System) {
    system.kill_enclave().await;
    let said = system.administrator.holdfast(&["key", "create", "queued", "--timeout", "300ms"]);
    assert_eq!(said.code(), Some(3), "{}", said.complaint());
    let complaint = said.complaint();
    let words: Vec<_> = complaint.split_whitespace().collect();
    let id = words[words.iter().position(|word| *word == "command").unwrap() + 1].to_owned();
    system.custodian.kill();
    system.custodian.start().await;
    let pending = &system.order(&["status"])["pending"];
    assert_eq!(pending, &json!([id]), "{complaint}");
    system.start_enclave().await;
    let done: Value = system.order(&["command", "result", &id]);
    assert_eq!(done["command_id"], json!(id));
    assert_eq!(system.order(&["status"])["pending"], json!([]));
    system.serving().await;
    system.round_trip("queued").await;
}
