//! What a successor manifest changes, in words.

use holdfast_shared::cbor;
use holdfast_shared::manifest::{Manifest, Thresholds, VerifiedManifest};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::signature::Envelope;

/// SHA-256 of the payload of a signed manifest.
pub(super) fn digest(signed: &[u8]) -> String {
    cbor::decode::<Envelope>(signed).map_or_else(
        |_| "(not a manifest)".to_owned(),
        |envelope| hex::encode(holdfast_shared::sha256(&[envelope.unverified_payload()])),
    )
}

/// What a successor changes, line by line. What is wrong with one that cannot succeed is the first line.
#[must_use]
pub fn changes(own: &VerifiedManifest, signed: &[u8]) -> Vec<String> {
    let decoded =
        cbor::decode::<Envelope>(signed).and_then(|envelope| cbor::decode::<Manifest>(envelope.unverified_payload()));
    let next = match decoded {
        Ok(next) => next,
        Err(error) => return vec![format!("NOT A MANIFEST: {error}")],
    };
    let mut lines = Vec::new();
    if let Err(error) = own.succeed(signed) {
        lines.push(format!("NOT A SUCCESSOR YET: {error}"));
    }
    lines.extend(between(own.manifest(), &next));
    lines
}

/// The differences of two manifests.
#[must_use]
fn between(own: &Manifest, next: &Manifest) -> Vec<String> {
    let mut lines = Vec::new();
    for administrator in &next.administrators {
        if !own.administrators.contains(administrator) {
            lines.push(format!("+ administrator {} {}", administrator.name, administrator.id()));
        }
    }
    for administrator in &own.administrators {
        if !next.administrators.contains(administrator) {
            lines.push(format!("- administrator {} {}", administrator.name, administrator.id()));
        }
    }
    for custodian in &next.custodians {
        if !own.custodians.contains(custodian) {
            lines.push(format!("+ custodian {} {} at {}", custodian.name, custodian.id(), custodian.address));
        }
    }
    for custodian in &own.custodians {
        if !next.custodians.contains(custodian) {
            lines.push(format!("- custodian {} {} at {}", custodian.name, custodian.id(), custodian.address));
        }
    }
    let (before, after) = (numbers(own), numbers(next));
    if before != after {
        lines.push(format!("shares: {before} -> {after}"));
    }
    for ((kind, before), (_, after)) in thresholds(own.thresholds).into_iter().zip(thresholds(next.thresholds)) {
        if before != after {
            lines.push(format!("signatures for {kind}: {before} -> {after}"));
        }
    }
    if own.host_name != next.host_name {
        lines.push(format!("host name: {} -> {}", own.host_name, next.host_name));
    }
    if own.path_prefix.uri_path() != next.path_prefix.uri_path() {
        lines.push(format!("path: {} -> {}", own.path_prefix.uri_path(), next.path_prefix.uri_path()));
    }
    if own.name != next.name {
        lines.push(format!("name: {} -> {}", own.name, next.name));
    }
    if own.kms_share != next.kms_share {
        let key =
            |manifest: &Manifest| manifest.kms_share.as_ref().map_or("none".to_owned(), |kms| kms.key_arn.clone());
        lines.push(format!("share at AWS KMS: {} -> {}", key(own), key(next)));
    }
    if lines.is_empty() {
        lines.push("changes nothing".to_owned());
    }
    lines
}

fn numbers(manifest: &Manifest) -> String {
    let quorum = Quorum::of(manifest);
    format!(
        "{} of {}, {} hostile tolerated ({} must hold each change)",
        manifest.shares_needed,
        manifest.custodians.len(),
        manifest.hostile_tolerated,
        quorum.write()
    )
}

pub(super) const fn thresholds(thresholds: Thresholds) -> [(&'static str, u8); 6] {
    let Thresholds { keys, credentials, identity, block, unblock, custody } = thresholds;
    [
        ("keys", keys),
        ("credentials", credentials),
        ("identity", identity),
        ("block", block),
        ("unblock", unblock),
        ("custody", custody),
    ]
}

#[cfg(test)]
mod tests {
    use holdfast_shared::hpke::PrivateKey;
    use holdfast_shared::manifest::{Administrator, Custodian, DerCertificate, ReleasePolicy};
    use holdfast_shared::signature::VerifyingKey;
    use holdfast_shared::xks::{HostName, PathPrefix};

    use super::*;

    #[test]
    fn every_difference_of_two_manifests_is_said() {
        let encryption_key = *PrivateKey::generate().unwrap().public_key();
        let administrator = |name: &str, byte: u8| Administrator {
            name: name.to_owned(),
            signing_key: VerifyingKey([byte; 97]),
            encryption_key,
        };
        let custodian = |name: &str, byte: u8| Custodian {
            name: name.to_owned(),
            signing_key: VerifyingKey([byte; 97]),
            encryption_key,
            address: "localhost:1".to_owned(),
            tls_roots: vec![DerCertificate(vec![1])],
        };
        let own = Manifest {
            label: String::new(),
            nonce: [0; 16],
            name: "payments".to_owned(),
            administrators: vec![administrator("alice", 1), administrator("bob", 2)],
            thresholds: Thresholds::ONE,
            custodians: vec![custodian("vault-1", 3), custodian("vault-2", 4)],
            shares_needed: 1,
            hostile_tolerated: 0,
            host_name: HostName::parse("a.example").unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
            release_policy: ReleasePolicy::first([0; 32], Vec::new(), 60_000),
            succession: None,
            kms_share: None,
        };
        assert_eq!(between(&own, &own), ["changes nothing"]);
        let mut next = own.clone();
        next.administrators[1] = administrator("carol", 5);
        next.custodians.push(custodian("vault-3", 6));
        next.custodians[1].address = "elsewhere:1".to_owned();
        next.shares_needed = 2;
        next.thresholds.custody = 2;
        next.host_name = HostName::parse("b.example").unwrap();
        next.path_prefix = PathPrefix::parse("/p").unwrap();
        next.name = "other".to_owned();
        let said = between(&own, &next).join("\n");
        for expected in [
            "+ administrator carol",
            "- administrator bob",
            "+ custodian vault-3",
            "+ custodian vault-2",
            "- custodian vault-2",
            "shares: 1 of 2, 0 hostile tolerated (2 must hold each change) -> 2 of 3",
            "signatures for custody: 1 -> 2",
            "host name: a.example -> b.example",
            "path: /kms/xks/v1 -> /p/kms/xks/v1",
            "name: payments -> other",
        ] {
            assert!(said.contains(expected), "{expected}:\n{said}");
        }
        assert_eq!(said.lines().count(), 10, "{said}");
    }
}
