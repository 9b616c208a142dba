//! Who is served under which name.

use std::sync::Arc;

use holdfast_enclave::clock::SteppedClock;
use holdfast_enclave::directory::{Collision, Directory, ServedKeyStore};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::{HostName, PathPrefix};

use crate::fixture::{Ca, WALL_MS, key_store};

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn find(directory: &Directory, host: &str, prefix: &str) -> Option<KeyStoreId> {
    directory.store(&name(host), &PathPrefix::parse(prefix).unwrap()).map(|store| store.id)
}

fn directory() -> Directory {
    Directory::new(Arc::new(SteppedClock::at(WALL_MS)))
}

#[test]
fn stores_are_found_by_host_and_prefix() {
    let ca = Ca::new();
    let (a, b) = (ca.identity("a.example", 1), ca.identity("b.example", 1));
    let directory = directory();
    let stores = [
        key_store(1, 1, "a.example", "", &a),
        key_store(2, 1, "a.example", "/x", &a),
        key_store(3, 2, "b.example", "", &b),
    ];
    assert_eq!(directory.replace(stores.into_iter().map(Arc::new).collect()).unwrap(), []);
    assert_eq!(find(&directory, "a.example", ""), Some(KeyStoreId([1; 32])));
    assert_eq!(find(&directory, "a.example", "/x"), Some(KeyStoreId([2; 32])));
    assert_eq!(find(&directory, "b.example", ""), Some(KeyStoreId([3; 32])));
    assert_eq!(find(&directory, "b.example", "/x"), None);
    assert_eq!(find(&directory, "c.example", ""), None);
    assert_eq!(directory.replace(Vec::new()).unwrap(), []);
    assert_eq!(find(&directory, "a.example", ""), None);
}

#[test]
fn a_collision_refuses_both() {
    let ca = Ca::new();
    let tls = ca.identity("a.example", 1);
    let directory = directory();
    let serve = |stores: Vec<ServedKeyStore>| directory.replace(stores.into_iter().map(Arc::new).collect()).unwrap();

    // Two owners: neither gets the host name, whatever their prefixes.
    let collisions = serve(vec![
        key_store(1, 1, "a.example", "/one", &tls),
        key_store(2, 2, "a.example", "/two", &tls),
        key_store(3, 2, "b.example", "", &tls),
    ]);
    let stores = vec![KeyStoreId([1; 32]), KeyStoreId([2; 32])];
    assert_eq!(collisions, [Collision { host_name: name("a.example"), path_prefix: None, stores: stores.clone() }]);
    assert!(directory.host(&name("a.example")).is_none(), "no handshake either");
    assert_eq!(find(&directory, "b.example", ""), Some(KeyStoreId([3; 32])), "others are not affected");

    // One owner, one prefix twice: only the prefix is lost.
    let collisions = serve(vec![
        key_store(1, 1, "a.example", "/same", &tls),
        key_store(2, 1, "a.example", "/same", &tls),
        key_store(3, 1, "a.example", "/other", &tls),
    ]);
    let path_prefix = Some(PathPrefix::parse("/same").unwrap());
    assert_eq!(collisions, [Collision { host_name: name("a.example"), path_prefix, stores }]);
    assert_eq!(find(&directory, "a.example", "/same"), None);
    assert_eq!(find(&directory, "a.example", "/other"), Some(KeyStoreId([3; 32])));
}

#[test]
fn a_host_keeps_its_sessions_until_its_certificate_changes() {
    let ca = Ca::new();
    let (old, new) = (ca.identity("a.example", 1), ca.identity("a.example", 2));
    let directory = directory();
    let tls = |stores: Vec<ServedKeyStore>| {
        directory.replace(stores.into_iter().map(Arc::new).collect()).unwrap();
        Arc::clone(directory.host(&name("a.example")).unwrap().tls())
    };
    let first = tls(vec![key_store(1, 1, "a.example", "", &old)]);
    let second = tls(vec![key_store(1, 1, "a.example", "", &old)]);
    assert!(Arc::ptr_eq(&first, &second));
    let third = tls(vec![key_store(1, 1, "a.example", "", &old), key_store(2, 1, "a.example", "/x", &new)]);
    assert!(!Arc::ptr_eq(&first, &third), "the certificate installed last is served");
}
