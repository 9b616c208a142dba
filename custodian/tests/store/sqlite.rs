//! What only a file does.

use holdfast_custodian::store::{Store, StoreError};

use crate::fixture::{KEY_STORE, NOW_MS};

#[tokio::test]
async fn a_copy_is_a_whole_database_and_replaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let store = Store::create(&file("one.sqlite")).await.unwrap();
    store.enrol(KEY_STORE, &[b"manifest".to_vec()], b"policy", NOW_MS).await.unwrap();
    store.back_up(&file("copy.sqlite")).await.unwrap();
    assert!(store.back_up(&file("copy.sqlite")).await.is_err(), "there is a file already");
    store.close().await;
    let copy = Store::open(&file("copy.sqlite")).await.unwrap();
    assert_eq!(copy.key_stores().await.unwrap()[0].key_store_id, KEY_STORE);
    assert!(!copy.enrol(KEY_STORE, &[b"manifest".to_vec()], b"policy", NOW_MS).await.unwrap());
    copy.close().await;
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
