//! Proofs of single entries, checked by a stranger's program.

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_cli::audit::folder::Folder;
use holdfast_cli::audit::heads::{CustodianHeads, HeadLine, HeadsFile};
use holdfast_cli::audit::prove::{ProveError, prove};
use holdfast_shared::ids::{BootId, CustodianId};

use crate::World;
use crate::writer::KEY_STORE;

/// The interpreter of `scripts/test-python`.
fn python() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|folder| folder.join("python/bin/python3")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the Python environment of the tests is missing: run scripts/test-python"))
}

#[test]
fn a_proof_holds_for_a_stranger_and_a_changed_one_does_not() {
    let world = World::new();
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/check_audit_proof.py");
    let holds = |proof: &serde_json::Value| {
        let file = world.folder.path().join("proof.json");
        std::fs::write(&file, proof.to_string()).unwrap();
        Command::new(python()).arg(&script).arg(&file).output().unwrap().status.success()
    };
    for index in [0, 1, 49, 50, 130, 212] {
        let proof = prove(&folder.boots[0], KEY_STORE, index, None).unwrap();
        let json = serde_json::to_value(&proof).unwrap();
        assert!(holds(&json), "entry {index}");
        let mut changed = json.clone();
        changed["index"] = (index + 1).into();
        assert!(!holds(&changed));
        changed.clone_from(&json);
        changed["leaf"] = "AAAA".into();
        assert!(!holds(&changed));
        changed.clone_from(&json);
        changed["checkpoint"] = json["checkpoint"].as_str().unwrap().replacen("time ", "time 1", 1).into();
        assert!(!holds(&changed));
    }
    assert!(matches!(prove(&folder.boots[0], KEY_STORE, 213, None), Err(ProveError::Unsigned(213))));

    let mut world = World::new();
    world.logs[0].entries.swap(60, 61);
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    assert!(matches!(prove(&folder.boots[0], KEY_STORE, 70, None), Err(ProveError::Broken)));
    assert!(prove(&folder.boots[0], KEY_STORE, 20, None).is_ok(), "what was signed before is as it was");
}

/// What a custodian sends is its own to choose: only a document that vouches for the log's key is handed on.
#[test]
fn a_proof_holds_a_document_only_that_vouches_for_its_key() {
    let world = World::new();
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let log = &world.logs[0];
    let line = |evidence: &str| HeadLine {
        boot_id: log.id.boot_id,
        checkpoint: log.checkpoints.last().unwrap().sign(&log.key),
        audit_public_key: hex::encode(log.public_key()),
        evidence: evidence.to_owned(),
        received_ms: 1,
        contradiction: None,
    };
    let custodian = |number: u8, evidence: &str| CustodianHeads {
        name: "vault".to_owned(),
        custodian_id: CustodianId([number; 32]),
        running: Vec::new(),
        heads: vec![line(evidence)],
    };
    let custodians = vec![custodian(1, "not hexadecimal"), custodian(2, "00"), custodian(3, "01"), custodian(4, "02")];
    let mut heads = HeadsFile { key_store_id: Some(KEY_STORE), taken_ms: 1, custodians };
    let key = log.public_key();
    let vouch = move |document: &[u8], boot_id: BootId, custodian: CustodianId| match (document, custodian.0[0]) {
        ([1], 3) => Some([9; 32]),
        ([2], 4) if boot_id == BootId([0xA1; 16]) => Some(key),
        _ => None,
    };
    let proof = prove(&folder.boots[0], KEY_STORE, 60, Some((&heads, &vouch))).unwrap();
    assert_eq!(proof.evidence.as_deref(), Some("Ag=="));
    assert_eq!(prove(&folder.boots[0], KEY_STORE, 60, None).unwrap().evidence, None);
    heads.custodians.truncate(3);
    let refused = prove(&folder.boots[0], KEY_STORE, 60, Some((&heads, &vouch)));
    assert!(matches!(refused, Err(ProveError::Unproven(boot)) if boot == log.id.boot_id));
}
