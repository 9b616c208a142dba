//! Key stores with their manifests, and the custodian's own settings.

use holdfast_shared::ids::KeyStoreId;

use super::database::{Lock, Transaction, write_transaction};
use super::{Store, StoreError, array, from_integer, to_integer};

/// A key store as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyStore {
    /// Its id.
    pub key_store_id: KeyStoreId,
    /// The signed manifests: the first, then its successors in order.
    pub manifests: Vec<Vec<u8>>,
}

/// What came of adopting a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It is the newest, now or since an earlier try.
    Newest,
    /// Its sequence does not follow the newest one's, which is this.
    Conflict(u64),
    /// No such key store.
    Unknown,
}

impl Store {
    /// Keeps a key store with epoch 1 of its release policy. False when it is known already: nothing changes then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enrol(
        &self,
        key_store_id: KeyStoreId,
        manifest: &[u8],
        policy: &[u8],
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::Nothing, enrol(key_store_id, manifest, policy, now_ms))
    }

    /// All key stores.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_stores(&self) -> Result<Vec<StoredKeyStore>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT key_store_id, signed FROM manifests JOIN key_stores USING (key_store_id) \
                 ORDER BY enrolled_ms, key_store_id, sequence",
                &[],
            )
            .await?;
        let mut key_stores: Vec<StoredKeyStore> = Vec::new();
        for (id, signed) in rows {
            let key_store_id = KeyStoreId(array(&id, "key store id")?);
            match key_stores.last_mut() {
                Some(last) if last.key_store_id == key_store_id => last.manifests.push(signed),
                _ => key_stores.push(StoredKeyStore { key_store_id, manifests: vec![signed] }),
            }
        }
        Ok(key_stores)
    }

    /// Puts a successor in force whose sequence is one more than the newest one's (the first manifest has 1). The caller has
    /// made sure that it is signed under its predecessor.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn adopt_manifest(
        &self,
        key_store_id: KeyStoreId,
        sequence: u64,
        signed: &[u8],
        now_ms: u64,
    ) -> Result<Adopted, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), adopt_manifest(key_store_id, sequence, signed, now_ms))
    }

    /// The value of a setting: `offered` if it had none before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn setting(&self, name: &str, offered: &[u8]) -> Result<Vec<u8>, StoreError> {
        write_transaction!(self, Lock::Nothing, setting(name, offered))
    }
}

async fn enrol(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    manifest: &[u8],
    policy: &[u8],
    now_ms: u64,
) -> Result<bool, StoreError> {
    let now = to_integer(now_ms, "time")?;
    let id = key_store_id.as_bytes();
    let added = transaction
        .execute(
            "INSERT INTO key_stores (key_store_id, enrolled_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[id.into(), now.into()],
        )
        .await?;
    if added == 0 {
        return Ok(false);
    }
    transaction
        .execute(
            "INSERT INTO manifests (key_store_id, sequence, signed, recorded_ms) VALUES ($1, 1, $2, $3)",
            &[id.into(), manifest.into(), now.into()],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO release_policies (key_store_id, epoch, policy, recorded_ms) VALUES ($1, 1, $2, $3)",
            &[id.into(), policy.into(), now.into()],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(true)
}

async fn adopt_manifest(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    sequence: u64,
    signed: &[u8],
    now_ms: u64,
) -> Result<Adopted, StoreError> {
    let id = key_store_id.as_bytes();
    let newest: Option<(i64, Vec<u8>)> = transaction
        .fetch_optional(
            "SELECT sequence, signed FROM manifests WHERE key_store_id = $1 ORDER BY sequence DESC LIMIT 1",
            &[id.into()],
        )
        .await?;
    let Some((newest, kept)) = newest else { return Ok(Adopted::Unknown) };
    let newest = from_integer(newest, "manifest's sequence")?;
    if newest == sequence && kept == signed {
        return Ok(Adopted::Newest);
    }
    if newest.checked_add(1) != Some(sequence) {
        return Ok(Adopted::Conflict(newest));
    }
    let (sequence, now) = (to_integer(sequence, "manifest's sequence")?, to_integer(now_ms, "time")?);
    transaction
        .execute(
            "INSERT INTO manifests (key_store_id, sequence, signed, recorded_ms) VALUES ($1, $2, $3, $4)",
            &[id.into(), sequence.into(), signed.into(), now.into()],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(Adopted::Newest)
}

async fn setting(transaction: &mut Transaction, name: &str, offered: &[u8]) -> Result<Vec<u8>, StoreError> {
    transaction
        .execute(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[name.into(), offered.into()],
        )
        .await?;
    let (value,): (Vec<u8>,) =
        transaction.fetch_one("SELECT value FROM settings WHERE name = $1", &[name.into()]).await?;
    Ok(value)
}
