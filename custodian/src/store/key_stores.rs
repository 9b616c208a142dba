//! Key stores, their release policies, and the custodian's own settings.

use holdfast_shared::ids::KeyStoreId;

use super::{Store, StoreError, array, to_integer};

/// A key store as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyStore {
    /// Its id.
    pub key_store_id: KeyStoreId,
    /// The signed manifest.
    pub manifest: Vec<u8>,
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
        let now = to_integer(now_ms, "time")?;
        let id = key_store_id.as_bytes().as_slice();
        let mut transaction = self.begin().await?;
        let added =
            sqlx::query("INSERT OR IGNORE INTO key_stores (key_store_id, manifest, enrolled_ms) VALUES (?, ?, ?)")
                .bind(id)
                .bind(manifest)
                .bind(now)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        if added == 0 {
            return Ok(false);
        }
        sqlx::query("INSERT INTO release_policies (key_store_id, epoch, policy, recorded_ms) VALUES (?, 1, ?, ?)")
            .bind(id)
            .bind(policy)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// All key stores.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_stores(&self) -> Result<Vec<StoredKeyStore>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT key_store_id, manifest FROM key_stores ORDER BY enrolled_ms, key_store_id")
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter()
            .map(|(id, manifest)| {
                Ok(StoredKeyStore { key_store_id: KeyStoreId(array(&id, "key store id")?), manifest })
            })
            .collect()
    }

    /// The release policy in force, encoded.
    ///
    /// # Errors
    /// [`StoreError`], also when there is none, since each key store has one from its enrolment.
    pub async fn release_policy(&self, key_store_id: KeyStoreId) -> Result<Vec<u8>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT policy FROM release_policies WHERE key_store_id = ? ORDER BY epoch DESC LIMIT 1")
                .bind(key_store_id.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        row.map(|(policy,)| policy).ok_or(StoreError::Damaged("release policy"))
    }

    /// The value of a setting: `offered` if it had none before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn setting(&self, name: &str, offered: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("INSERT OR IGNORE INTO settings (name, value) VALUES (?, ?)")
            .bind(name)
            .bind(offered)
            .execute(&mut *transaction)
            .await?;
        let (value,): (Vec<u8>,) =
            sqlx::query_as("SELECT value FROM settings WHERE name = ?").bind(name).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(value)
    }
}
