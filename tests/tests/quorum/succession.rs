//! Successors of a manifest, and the record of all of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::commands::provenance;
use holdfast_cli::home::read_trust_root;
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::KEY;

use super::*;

/// The record from the ceremony on verifies, and no byte of it can be another: whichever is changed, it does not verify.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_one_changed_byte_does_not_verify() {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let system = System::start(two_of_three()).await;
    system.order(&["policy", "leases", "8"]);
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
        for _ in 0..6 {
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
