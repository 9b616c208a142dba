//! What only a server does: it tells other replicas, it restarts, and it may be set up so that it would lose things.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_custodian::store::{Change, Changes, PostgresServer, PostgresTls, Store, StoreError, StoredOverlay};
use zeroize::Zeroizing;

use crate::fixture::{KEY_STORE, NOW_MS, Place, first, judged_by};
use crate::server::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_could_lose_what_it_acknowledged_is_refused() {
    let mut cluster = Cluster::start();
    for (setting, refused) in [
        ("synchronous_commit=off", true),
        ("synchronous_commit=local", true),
        ("fsync=off", true),
        ("full_page_writes=off", true),
        ("synchronous_commit=remote_apply", false),
    ] {
        cluster.restart_with(&[setting]);
        match Store::connect(&cluster.database()).await {
            Ok(store) => {
                assert!(!refused, "{setting}");
                store.close().await;
            }
            Err(error) => {
                let name = setting.split('=').next().unwrap();
                assert!(refused && error.to_string().contains(name), "{setting}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_verified_before_it_gets_the_password() {
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((certificate, key), (other, _)) = (pair(), pair());
    let mut cluster = Cluster::start();
    let port = cluster.restart_with_tls(&certificate, &key);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name)
    };
    let (roots, others) = (file("roots.pem", &certificate), file("others.pem", &other));
    let server = |host: &str, roots: &PathBuf, password: &str| PostgresServer {
        host: host.to_owned(),
        port,
        name: "vault".to_owned(),
        user: "vault".to_owned(),
        password: Some(Zeroizing::new(password.to_owned())),
        tls: Some(PostgresTls { roots: roots.clone(), client: None }),
    };
    for (what, server, accepted) in [
        ("the right one", server("localhost", &roots, "vault"), true),
        ("under another root", server("localhost", &others, "vault"), false),
        ("by another name", server("127.0.0.1", &roots, "vault"), false),
        ("another password", server("localhost", &roots, "guess"), false),
        ("without TLS", PostgresServer { tls: None, ..server("localhost", &roots, "vault") }, false),
    ] {
        match Store::connect(&server).await {
            Ok(store) => {
                assert!(accepted, "{what}");
                assert!(store.enrol(KEY_STORE, &first(), b"policy", NOW_MS).await.unwrap());
                store.close().await;
            }
            Err(error) => assert!(!accepted, "{what}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_database_is_refused() {
    let cluster = Cluster::start();
    let server = cluster.database();
    Store::connect(&server).await.unwrap().close().await;
    assert!(cluster.psql(&server.name, "UPDATE schema_version SET version = 99").status.success());
    assert!(matches!(Store::connect(&server).await, Err(StoreError::Newer { found: 99, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_learn_of_changes_and_get_over_a_crash_of_the_server() {
    let mut cluster = Cluster::start();
    let place = Place::postgres(&cluster).await.enrolled().await;
    let mut changes = place.two.changes().await.unwrap();
    let overlay = |epoch| StoredOverlay { epoch, signed: vec![1] };
    assert!(place.one.put_overlay(KEY_STORE, judged_by(0), &overlay(1), NOW_MS).await.unwrap());
    assert_eq!(next(&mut changes).await, Some(Change::Of(KEY_STORE)));
    // Nothing that only one enclave or the record is concerned with wakes all.
    place.one.record_refusal(&crate::fixture::record(false)).await.unwrap();
    assert!(place.one.put_overlay(KEY_STORE, judged_by(1), &overlay(2), NOW_MS).await.unwrap());
    assert_eq!(next(&mut changes).await, Some(Change::Of(KEY_STORE)));

    cluster.crash();
    assert!(place.one.overlay(KEY_STORE).await.is_err(), "there is no server");
    cluster.resume();
    let lost = next(&mut changes).await;
    assert!(matches!(lost, Some(Change::Unknown) | None), "whoever listens must look again: {lost:?}");
    assert_eq!(place.one.overlay(KEY_STORE).await.unwrap(), Some(overlay(2)), "was acknowledged before the crash");
    assert!(place.two.put_overlay(KEY_STORE, judged_by(2), &overlay(3), NOW_MS).await.unwrap());
}

/// The next change; the limit is a guard against a hang only.
async fn next(changes: &mut Changes) -> Option<Change> {
    tokio::time::timeout(Duration::from_mins(1), changes.next()).await.expect("nobody tells of a change")
}
