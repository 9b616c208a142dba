//! Successors of a manifest, and the record of all of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::commands::provenance;
use holdfast_cli::home::read_trust_root;
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::KEY;

use super::*;

/// One custodian and one administrator go, others come: the new custodian's share opens the key store, the old one's is gone, and the
/// removed administrator orders nothing any more; but what he ordered before, the new custodian knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_custodian_and_an_administrator_are_exchanged() {
    let mut system = System::start(Options { other_administrators: vec!["bob"], ..two_of_three() }).await;
    let old = system.encrypt(KEY).await;
    let bob = system.other_administrators[0].clone();
    bob.holdfast(&["key", "create", "by-bob"]).success();
    bob.holdfast(&["release-policy", "leases", "8"]).success();
    bob.holdfast(&["block", "--key", "by-bob"]).success();
    let carol = Administrator::init(system.layout.path("home-carol"), "carol");
    let added = system.add_custodian().await;
    let at = |name: &str| system.layout.path(name).display().to_string();
    let (next, chain) = (at("next.manifest"), at("chain.manifest"));
    let (card, record) = (carol.card().display().to_string(), added_record(&system, added));
    system
        .administrator
        .holdfast(&[
            "manifest",
            "succeed",
            "--remove-administrator",
            "bob",
            "--add-administrator",
            &card,
            "--remove-custodian",
            "custodian-2",
            "--add-custodian",
            &record,
            "--out",
            &next,
        ])
        .success();
    let adopted = system.order(&["manifest", "adopt", &next, "--chain-out", &chain]);
    assert_eq!((&adopted["sequence"], &adopted["behind"]), (&json!(2), &json!([])), "{adopted}");
    carol.holdfast(&["manifest", "add", &chain, "--trust-root", &at("nsm/root.pem")]).success();
    system.decrypt(&old).await;

    settled(&system, 5).await;
    let shown = status(&system);
    let names: Vec<_> = shown["custodians"].as_array().unwrap().iter().map(|one| one["custodian"].clone()).collect();
    assert_eq!(names, ["custodian", "custodian-3", "custodian-4"]);
    for custodian in shown["custodians"].as_array().unwrap() {
        assert_eq!((&custodian["policy_epoch"], &custodian["overlay_epoch"]), (&json!(2), &json!(1)), "{custodian}");
    }
    until("all hold shares of the new root key alone", || async {
        let status = status(&system);
        let all = status["custodians"].as_array().unwrap().clone();
        all.iter().all(|custodian| custodian["generations"] == json!([2])).then_some(())
    })
    .await;
    // The old custodian has nothing to release.
    system.logged("custodian-2", "deleted the shares of older generations").await;
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let lease = applicant.obtain(&system.manifest.manifest().custodians[1], system.key_store_id()).await;
    assert!(lease.map_or(true, |lease| lease.content.shares.is_empty()), "it releases a share");

    let refused = bob.holdfast(&["key", "create", "too-late", "--timeout", "2s"]);
    assert_ne!(refused.code(), Some(0), "{refused:?}");
    eprintln!("the removed administrator is told: {}", refused.complaint().trim());
    carol.holdfast(&["key", "create", "by-carol"]).success();
    let keys = keys(&system);
    assert!(keys.contains(&"by-carol".to_owned()) && !keys.contains(&"too-late".to_owned()), "{keys:?}");

    // Started with the first manifest alone, an enclave learns of the second; the new custodian's share counts.
    system.custodian_mut(2).kill();
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&old).await;
    // The removed custodian and one of the present ones are not two.
    system.custodian_mut(3).kill();
    system.start_enclave().await;
    reasoned(&system, &["1 of 2"]).await;
    system.assert_no_panic();
}

fn added_record(system: &System, index: usize) -> String {
    system.custodians().nth(index).unwrap().record().display().to_string()
}

/// The record from the ceremony on verifies, and no byte of it can be another: whichever is changed, it does not verify.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_one_changed_byte_does_not_verify() {
    changed_bytes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_record_with_one_changed_byte_does_not_verify() {
    changed_bytes(12).await;
}

async fn changed_bytes(of_each: usize) {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let system = System::start(two_of_three()).await;
    system.order(&["release-policy", "leases", "8"]);
    system.order(&["root-key", "rotate"]);
    system.order(&["key", "rotate", KEY]);
    settled(&system, 5).await;
    let file = system.layout.path("provenance.json");
    system.administrator.holdfast(&["provenance", "export", "--out", &file.display().to_string()]).success();
    let root_file = system.layout.path("nsm/root.pem");
    let stranger = Administrator { home: system.layout.path("nobody") };
    let (path, root_path) = (file.display().to_string(), root_file.display().to_string());
    stranger.holdfast(&["provenance", "verify", &path, "--trust-root", &root_path]).success();

    let root = read_trust_root(&root_file).unwrap();
    let whole: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let verified = |value: &Value| provenance::verify(value.to_string().as_bytes(), &root, None).verified;
    assert!(verified(&whole));
    let mut unnoticed = Vec::new();
    for pointer in texts(&whole, "") {
        let bytes = STANDARD.decode(whole.pointer(&pointer).unwrap().as_str().unwrap()).unwrap();
        for _ in 0..of_each {
            let (place, bit) = (random.below(bytes.len()), random.below(8));
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            let mut broken = whole.clone();
            *broken.pointer_mut(&pointer).unwrap() = json!(STANDARD.encode(changed));
            if verified(&broken) {
                unnoticed.push(format!("{pointer}, byte {place} of {}, bit {bit}", bytes.len()));
            }
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed these changes: {unnoticed:#?}");
}

/// Pointers to everything that is base64: what was signed or attested.
fn texts(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, field)| texts(field, &format!("{at}/{name}"))).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(i, item)| texts(item, &format!("{at}/{i}"))).collect()
        }
        Value::String(_) if !["/format", "/key_store_id"].contains(&at) && !at.ends_with("/custodian_id") => {
            vec![at.to_owned()]
        }
        _ => Vec::new(),
    }
}
