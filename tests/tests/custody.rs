//! Several administrators and several custodians, through the operator's tool.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};

use holdfast_devkit::nsm::EmulatedRoot;
use holdfast_devkit::up::configurations::measurements;
use holdfast_tests::system::{
    Administrator, CustodianOptions, CustodianProcess, KEY, Options, Said, System, static_configuration,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two administrators and three custodians, two of which make a root key; blocks need one signature, lifting them and custody two.
struct Owners {
    alice: Administrator,
    bob: Administrator,
    custodians: Vec<CustodianProcess>,
    folder: TempDir,
}

impl Owners {
    async fn meet() -> Self {
        let folder = tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        EmulatedRoot::load_or_create(&at("nsm")).unwrap();
        let alice = Administrator::init(at("alice"), "alice");
        let bob = Administrator::init(at("bob"), "bob");
        let mut custodians = Vec::new();
        for name in ["vault-1", "vault-2", "vault-3"] {
            let options = CustodianOptions {
                administrators: vec![alice.id()],
                emulated_root: Some(at("nsm/root.pem")),
                intercepted: false,
                key_encryption_key: None,
                alarms: None,
                environment: Vec::new(),
            };
            custodians.push(CustodianProcess::init(&at(name), &at(&format!("{name}.log")), options).await);
        }
        let owners = Self { alice, bob, custodians, folder };
        std::fs::write(owners.at("measurements.json"), json!(measurements(&static_configuration())).to_string())
            .unwrap();
        owners
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// `manifest create` with these further arguments.
    fn create(&self, more: &[&str]) -> Said {
        let records: Vec<_> =
            self.custodians.iter().map(|custodian| custodian.record().display().to_string()).collect();
        let (bob, measurements, root) =
            (self.file("bob.json"), self.file("measurements.json"), self.file("nsm/root.pem"));
        std::fs::write(&bob, self.bob.holdfast(&["admin", "show", "--json"]).success()).unwrap();
        let out = self.file("store.manifest");
        let mut arguments = vec!["manifest", "create", "--name", "store", "--host-name", "localhost", "--lease", "1h"];
        for record in &records {
            arguments.extend(["--custodian", record]);
        }
        arguments.extend([
            "--administrator",
            &bob,
            "--measurements",
            &measurements,
            "--trust-root",
            &root,
            "--out",
            &out,
        ]);
        arguments.extend(more);
        self.alice.holdfast(&arguments)
    }

    /// Everybody signs, everybody knows, every custodian has it.
    fn agree(&self) {
        let file = self.file("store.manifest");
        let made = self.create(&[
            "--shares-needed",
            "2",
            "--threshold",
            "unblock=2",
            "--threshold",
            "custody=2",
            "--threshold",
            "keys=2",
        ]);
        assert!(made.success().contains("needs 2 signatures, has 1"), "{made:?}");
        let early = self.alice.holdfast(&["manifest", "add", &file]);
        assert_eq!(early.code(), Some(1), "not signed by bob: {early:?}");
        let signed = self.bob.holdfast(&["manifest", "sign", &file, "--yes"]).success();
        assert!(signed.contains("is complete"), "{signed}");
        for administrator in [&self.alice, &self.bob] {
            administrator.holdfast(&["manifest", "add", &file, "--trust-root", &self.file("nsm/root.pem")]).success();
        }
        let enrolled = self.alice.holdfast(&["manifest", "enrol", &file]);
        assert_eq!(enrolled.code(), Some(0), "{enrolled:?}");
        assert_eq!(enrolled.complaint().matches("holds the manifest").count(), 3, "{enrolled:?}");
    }
}

fn status(administrator: &Administrator) -> Value {
    administrator.holdfast(&["status", "--json"]).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_agree_on_a_manifest_and_block_for_each_other() {
    let mut owners = Owners::meet().await;
    let hostile = owners.create(&["--shares-needed", "1", "--hostile", "1"]);
    assert_eq!(hostile.code(), Some(1));
    assert!(hostile.complaint().contains("--hostile 0"), "{hostile:?}");
    owners.agree();

    // One signature blocks; three custodians say so.
    let blocked = owners.alice.holdfast(&["block", "--store", "--key", "payments-1", "--json"]).json();
    assert_eq!(
        (&blocked["store"], &blocked["complete"], &blocked["needed"]),
        (&json!(true), &json!(true), &json!(2)),
        "{blocked}"
    );
    assert!(
        blocked["custodians"].as_array().unwrap().iter().all(|one| one["acknowledged"] == json!(true)),
        "{blocked}"
    );

    // Lifting it needs two, through a file.
    let alone = owners.bob.holdfast(&["unblock", "--store"]);
    assert_eq!(alone.code(), Some(1));
    assert!(
        alone.complaint().contains("needs 2 signatures") && alone.complaint().contains("holdfast sign"),
        "{alone:?}"
    );
    let file = owners.file("unblock.signed");
    owners.bob.holdfast(&["unblock", "--store", "--out", &file]).success();
    let early = owners.bob.holdfast(&["send", &file]);
    assert!(early.code() == Some(1) && early.complaint().contains("needs 2 signatures, has 1"), "{early:?}");
    let unasked = owners.alice.holdfast(&["sign", &file]);
    assert!(unasked.code() == Some(1) && unasked.complaint().contains("--yes"), "{unasked:?}");
    let signed = owners.alice.holdfast(&["sign", &file, "--yes"]);
    assert!(signed.complaint().contains("the key store is not blocked"), "shown before it is signed: {signed:?}");
    signed.success();
    owners.bob.holdfast(&["send", &file]).success();
    let shown = status(&owners.alice);
    assert_eq!(
        (&shown["blocked"]["store"], &shown["blocked"]["keys"]),
        (&json!(false), &json!(["payments-1"])),
        "{shown}"
    );

    // A custodian that is down is named; two of three are enough, one is not.
    owners.custodians[2].kill();
    let blocked = owners.alice.holdfast(&["block", "--key", "other", "--timeout", "2s", "--json"]).json();
    assert_eq!(blocked["complete"], json!(true), "{blocked}");
    assert_eq!(blocked["custodians"][2]["acknowledged"], json!(false), "{blocked}");
    owners.custodians[1].kill();
    let partial = owners.alice.holdfast(&["block", "--store", "--timeout", "1s"]);
    assert_eq!(partial.code(), Some(4), "{partial:?}");
    // It is back with less than the others: said, and repeated.
    owners.custodians[1].start().await;
    owners.custodians[2].start().await;
    let shown = status(&owners.alice);
    let warnings = shown["warnings"].to_string();
    assert!(
        warnings.contains("vault-2 has block overlay") && warnings.contains("vault-3 has block overlay"),
        "{shown}"
    );
    let again = owners.alice.holdfast(&["block", "--all", "--json"]).json();
    assert_eq!(again[0]["complete"], json!(true), "{again}");
    assert_eq!(again[0]["keys"], json!(["other", "payments-1"]), "nothing was lifted: {again}");
    assert_eq!(status(&owners.bob)["warnings"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_policies_wait_for_as_many_signatures_as_they_need() {
    let mut owners = Owners::meet().await;
    owners.agree();
    // A dry run sends nothing.
    let dry = owners.alice.holdfast(&["key", "create", "a", "--if-version", "7", "--dry-run", "--json"]).json();
    assert_eq!((&dry["needed"], &dry["signed_by"], &dry["kind"]), (&json!(2), &json!([]), &json!("keys")), "{dry}");
    assert_eq!(dry["precondition"], json!("the key store is at version 7"));
    assert_eq!(owners.bob.holdfast(&["pending", "--json"]).json()["pending"], json!([]));

    let ordered = owners.alice.holdfast(&["key", "create", "a"]);
    assert_eq!(ordered.code(), Some(4), "{ordered:?}");
    let complaint = ordered.complaint();
    assert!(complaint.contains("needs 2 approvals, has 1") && complaint.contains("holdfast approve "), "{complaint}");
    let pending = owners.bob.holdfast(&["pending", "--json"]).json();
    let order = &pending["pending"][0];
    assert_eq!((&order["signed_by"], &order["may_sign"]), (&json!(["alice"]), &json!(["bob"])), "{pending}");
    assert_eq!(order["order"], json!("create key a for ENCRYPT,DECRYPT"));
    let id = order["command_id"].as_str().unwrap();
    let again = owners.alice.holdfast(&["approve", id, "--yes"]);
    assert!(again.code() == Some(1) && again.complaint().contains("signed the command"), "{again:?}");
    // No enclave runs: the approval is there, and the order waits.
    let approved = owners.bob.holdfast(&["approve", &id[..8], "--yes", "--timeout", "200ms"]);
    assert_eq!(approved.code(), Some(3), "{approved:?}");
    let pending = owners.alice.holdfast(&["pending", "--json"]).json();
    assert_eq!(pending["pending"][0]["signed_by"], json!(["alice", "bob"]), "{pending}");

    let file = owners.file("policy.signed");
    let refused = owners.alice.holdfast(&["release-policy", "require-approvals", "1"]);
    assert!(refused.code() == Some(1) && refused.complaint().contains("needs 2 signatures"), "{refused:?}");
    owners
        .alice
        .holdfast(&[
            "release-policy",
            "set",
            "--approvals",
            "1",
            "--window",
            "mon-sun 00:00 24h",
            "--leases",
            "8",
            "--out",
            &file,
        ])
        .success();
    owners.bob.holdfast(&["sign", &file, "--yes"]).success();
    owners.custodians[1].kill();
    let partial = owners.bob.holdfast(&["send", &file, "--timeout", "500ms"]);
    assert_eq!(partial.code(), Some(4), "each custodian keeps to its own policy: {partial:?}");
    owners.custodians[1].start().await;
    let shown = owners.alice.holdfast(&["release-policy", "show", "--json"]).json();
    assert_eq!(
        (&shown["epoch"], &shown["approvals"], &shown["leases_max"]),
        (&json!(2), &json!(1), &json!(8)),
        "{shown}"
    );
    assert_eq!(shown["custodians"][1]["epoch"], json!(1), "{shown}");
    owners.alice.holdfast(&["release-policy", "repeat"]).success();
    let shown = owners.bob.holdfast(&["release-policy", "show"]).success();
    assert_eq!(shown.matches("has it").count(), 3, "{shown}");
    let records = owners.bob.holdfast(&["releases", "--custodian", "vault-2", "--json"]).json();
    assert!(records["records"].to_string().contains("release policy 2 is in force"), "{records}");
    assert_eq!(owners.alice.holdfast(&["release", "list", "--json"]).json()["waiting"], json!([]));
}

/// From one administrator to two, by a successor; then every order of the kind needs both, and the chain from the ceremony on verifies
/// without anybody's help.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_brings_another_administrator_and_the_record_of_it_verifies() {
    let system = System::start(Options::default()).await;
    let bob = Administrator::init(system.layout.path("bob"), "bob");
    let at = |name: &str| system.layout.path(name).display().to_string();
    let root = at("nsm/root.pem");
    std::fs::write(at("bob.json"), bob.holdfast(&["admin", "show", "--json"]).success()).unwrap();
    system
        .administrator
        .holdfast(&[
            "manifest",
            "succeed",
            "--add-administrator",
            &at("bob.json"),
            "--threshold",
            "keys=2",
            "--out",
            &at("next.manifest"),
        ])
        .success();
    let adopted = system.order(&["manifest", "adopt", &at("next.manifest"), "--chain-out", &at("chain.manifest")]);
    assert_eq!((&adopted["sequence"], &adopted["behind"]), (&json!(2), &json!([])), "{adopted}");
    bob.holdfast(&["manifest", "add", &at("chain.manifest"), "--trust-root", &root]).success();

    let ordered = system.administrator.holdfast(&["key", "disable", KEY]);
    assert_eq!(ordered.code(), Some(4), "{ordered:?}");
    let pending = bob.holdfast(&["pending", "--json"]).json();
    let id = pending["pending"][0]["command_id"].as_str().unwrap().to_owned();
    let approved = bob.holdfast(&["approve", &id, "--yes", "--json"]).json();
    assert_eq!(approved["dealt_with"], json!(true), "{approved}");
    system.administrator.holdfast(&["command", "result", &id]).success();
    let keys = system.order(&["key", "list"]);
    assert_eq!(keys["keys"][0]["state"], json!("disabled"), "{keys}");

    let history = bob.holdfast(&["history", "--json"]).json();
    assert_eq!(history["verified"], json!(true), "{history}");
    let newest = history["versions"].as_array().unwrap().last().unwrap();
    assert_eq!(newest["commands"][0]["signed_by"], json!(["alice", "bob"]), "{history}");
    verify_provenance(&system.administrator, &at("provenance.json"), &root);
    system.assert_no_panic();
}

fn verify_provenance(administrator: &Administrator, file: &str, root: &str) {
    administrator.holdfast(&["provenance", "export", "--out", file]).success();
    let stranger = Administrator { home: Path::new(file).with_extension("nobody") };
    let verified = stranger.holdfast(&["provenance", "verify", file, "--trust-root", root, "--json"]).json();
    assert_eq!((&verified["verified"], &verified["manifests"]), (&json!(true), &json!(2)), "{verified}");
    // One version less, and it is no chain.
    let mut text: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    text["versions"].as_array_mut().unwrap().remove(1);
    std::fs::write(file, text.to_string()).unwrap();
    let broken = stranger.holdfast(&["provenance", "verify", file, "--trust-root", root]);
    assert_eq!(broken.code(), Some(1), "{broken:?}");
}

/// The end of a key: *destroyed* is said when too few old shares are left, and who still holds one is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_destroyed_when_too_few_old_shares_are_left() {
    let options = Options { custodians: 3, shares_needed: 2, ..Options::default() };
    let mut system = System::start(options).await;
    let waits = system.order(&["key", "schedule-destruction", KEY, "--wait", "30d"]);
    assert!(waits["done"].as_str().unwrap().contains("30 d"), "{waits}");
    let keys = system.order(&["key", "list"]);
    assert_eq!(keys["keys"][0]["state"], json!("pending-destruction"), "{keys}");
    assert!(keys["keys"][0]["destroy_after_ms"].as_u64() > waits["evidence"]["timestamp_ms"].as_u64(), "{keys}");
    let confirm = system.administrator.holdfast(&["key", "destroy", KEY, "--confirm", "other"]);
    assert_eq!(confirm.code(), Some(2), "{confirm:?}");
    system.order(&["key", "cancel-destruction", KEY]);
    let early = system.administrator.holdfast(&["key", "destroy", KEY, "--confirm", KEY]);
    assert_eq!(early.code(), Some(1), "not pending destruction: {early:?}");

    // All up: nothing old is left anywhere.
    let rotated = system.order(&["root-key", "rotate"]);
    assert_eq!((&rotated["destroyed"], &rotated["old_generation"]), (&json!(true), &json!(1)), "{rotated}");
    let states: Vec<_> = rotated["custodians"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["deleted", "deleted", "deleted"], "{rotated}");

    // One is down, and is named; what it holds brings nothing back.
    system.order(&["key", "schedule-destruction", KEY, "--wait", "1d"]);
    system.custodian_mut(2).kill();
    let end = system.order(&["key", "destroy", KEY, "--confirm", KEY]);
    assert_eq!((&end["destroyed"], &end["custodians"][2]["state"]), (&json!(true), &json!("unknown")), "{end}");
    let keys = system.order(&["key", "list"]);
    assert_eq!((&keys["keys"][0]["state"], &keys["keys"][0]["versions"]), (&json!("destroyed"), &json!(0)), "{keys}");
    let history = system.order(&["history"]);
    assert_eq!(history["verified"], json!(true), "{history}");
    let newest = history["versions"].as_array().unwrap().last().unwrap();
    assert_eq!(newest["commands"][0]["order"], json!(format!("destroy key {KEY} NOW")), "{history}");
    system.assert_no_panic();
}
