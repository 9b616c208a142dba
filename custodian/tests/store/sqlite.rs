//! What only a file does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use holdfast_custodian::store::{Store, StoreError};
use holdfast_shared::ids::KeyStoreId;

use crate::fixture::{KEY_STORE, NOW_MS, first};

#[tokio::test]
async fn a_copy_is_a_whole_database_and_replaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let store = Store::create(&file("one.sqlite")).await.unwrap();
    store.enrol(KEY_STORE, &first(), b"policy", NOW_MS).await.unwrap();
    store.back_up(&file("copy.sqlite")).await.unwrap();
    assert!(store.back_up(&file("copy.sqlite")).await.is_err(), "there is a file already");
    store.close().await;
    let copy = Store::open(&file("copy.sqlite")).await.unwrap();
    assert_eq!(copy.key_stores().await.unwrap()[0].key_store_id, KEY_STORE);
    assert!(!copy.enrol(KEY_STORE, &first(), b"policy", NOW_MS).await.unwrap());
    copy.close().await;
}

#[tokio::test]
async fn the_program_copies_the_database_of_a_custodian() {
    let directory = tempfile::tempdir().unwrap();
    let text = "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
                administrators = []\n";
    let configuration = directory.path().join("custodian.toml");
    fs::write(&configuration, text).unwrap();
    let run = |arguments: &[&Path]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_holdfast-custodian"));
        program.args(arguments).arg("--config").arg(&configuration).output().unwrap()
    };
    assert!(run(&[Path::new("init")]).status.success());
    // As if the service were running.
    let serving = Store::open(&directory.path().join("state/custodian.sqlite")).await.unwrap();
    serving.enrol(KEY_STORE, &first(), b"policy", NOW_MS).await.unwrap();
    let copy = directory.path().join("copy.sqlite");
    let output = run(&[Path::new("backup"), Path::new("--to"), &copy]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    serving.enrol(KeyStoreId([2; 32]), &first(), b"policy", NOW_MS).await.unwrap();
    let before = fs::read(&copy).unwrap();
    assert!(!run(&[Path::new("backup"), Path::new("--to"), &copy]).status.success(), "it exists");
    assert_eq!(fs::read(&copy).unwrap(), before);
    let restored = Store::open(&copy).await.unwrap();
    assert_eq!(restored.key_store_ids().await.unwrap(), [KEY_STORE], "as it was then");
}

#[tokio::test]
async fn a_missing_file_is_not_made_by_opening_it() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Store::open(&directory.path().join("none.sqlite")).await.is_err());
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.sqlite");
    Store::create(&file).await.unwrap().close().await;
    let pool = sqlx::SqlitePool::connect_with(sqlx::sqlite::SqliteConnectOptions::new().filename(&file)).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&pool).await.unwrap();
    pool.close().await;
    assert!(matches!(Store::open(&file).await, Err(StoreError::Newer { found: 99, .. })));
}
