//! The parent links no key code: it cannot leak what it cannot compute.

use std::process::Command;

/// Crates that hold keys, compute with them, or speak TLS; and those of ours that depend on such.
const KEY_CODE: [&str; 24] = [
    "ring",
    "rustls",
    "tokio-rustls",
    "rustls-pki-types",
    "aws-lc-rs",
    "aws-lc-sys",
    "openssl",
    "openssl-sys",
    "native-tls",
    "hpke",
    "aes",
    "aes-gcm",
    "chacha20poly1305",
    "hkdf",
    "hmac",
    "p256",
    "p384",
    "elliptic-curve",
    "ecdsa",
    "rsa",
    "holdfast-shared",
    "holdfast-client",
    "holdfast-enclave",
    "holdfast-custodian",
];

#[test]
fn the_program_links_no_key_code() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "holdfast-parent",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--offline",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"holdfast-link") && names.contains(&"tokio"), "{names:?}");
    for name in KEY_CODE {
        assert!(!names.contains(&name), "holdfast-parent depends on {name}");
    }
    let ours: std::collections::BTreeSet<&str> =
        names.into_iter().filter(|name| name.starts_with("holdfast-")).collect();
    assert_eq!(ours.into_iter().collect::<Vec<_>>(), ["holdfast-link", "holdfast-parent"]);
}
