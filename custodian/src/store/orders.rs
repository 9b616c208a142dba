//! Commands that wait, what came of them, block overlays, and what is news to an enclave.

use holdfast_shared::channel::Seen;
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::limits;
use sqlx::{Sqlite, Transaction};

use super::{Store, StoreError, array, from_integer, to_integer};

/// A command to be queued.
#[derive(Debug)]
pub struct StoredCommand {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Its id.
    pub command_id: CommandId,
    /// The signed command.
    pub envelope: Vec<u8>,
    /// How many signed it.
    pub signers: u32,
    /// After this it is no longer carried out.
    pub expires_ms: u64,
}

/// What came of queueing a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits, for the first time or with more signatures than before.
    Waits,
    /// It waits or was dealt with already; nothing changed.
    Known,
    /// Too many wait.
    Full,
}

/// A signed block overlay as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOverlay {
    /// Its epoch.
    pub epoch: u64,
    /// The signed overlay.
    pub signed: Vec<u8>,
}

/// What an enclave has not seen.
#[derive(Debug, Default)]
pub struct News {
    /// The signed overlay, if newer.
    pub overlay: Option<Vec<u8>>,
    /// The signed register entry, if newer.
    pub register: Option<Vec<u8>>,
    /// Signed commands that wait, oldest first.
    pub commands: Vec<Vec<u8>>,
}

impl News {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.overlay.is_none() && self.register.is_none() && self.commands.is_empty()
    }
}

impl Store {
    /// A command with this id, as it was signed, whether it waits or was dealt with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn command(&self, key_store_id: KeyStoreId, id: CommandId) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT envelope FROM commands WHERE key_store_id = ? AND command_id = ?")
                .bind(key_store_id.as_bytes().as_slice())
                .bind(id.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        Ok(row.map(|(envelope,)| envelope))
    }

    /// Queues a command, or replaces the copy that waits by one with more signatures. The caller has made sure that a copy of
    /// the same id says the same.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queue(&self, command: &StoredCommand, now_ms: u64) -> Result<Queued, StoreError> {
        let id = command.key_store_id.as_bytes().as_slice();
        let now = to_integer(now_ms, "time")?;
        let forgotten = to_integer(now_ms.saturating_sub(limits::COMMAND_KEPT_MS), "time")?;
        let mut transaction = self.begin().await?;
        // The ceremony's result belongs to no command and stays.
        sqlx::query(
            "DELETE FROM results WHERE (key_store_id, command_id) IN \
             (SELECT key_store_id, command_id FROM commands WHERE expires_ms < ?)",
        )
        .bind(forgotten)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM commands WHERE expires_ms < ?").bind(forgotten).execute(&mut *transaction).await?;
        let more_signatures = sqlx::query(
            "UPDATE commands SET envelope = ?, signers = ? WHERE key_store_id = ? AND command_id = ? AND done = 0 \
             AND signers < ?",
        )
        .bind(&command.envelope)
        .bind(command.signers)
        .bind(id)
        .bind(command.command_id.as_bytes().as_slice())
        .bind(command.signers)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if more_signatures == 1 {
            transaction.commit().await?;
            return Ok(Queued::Waits);
        }
        let (known,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM commands WHERE key_store_id = ? AND command_id = ?")
                .bind(id)
                .bind(command.command_id.as_bytes().as_slice())
                .fetch_one(&mut *transaction)
                .await?;
        if known != 0 {
            return Ok(Queued::Known);
        }
        let (waiting,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM commands WHERE key_store_id = ? AND done = 0 AND expires_ms > ?")
                .bind(id)
                .bind(now)
                .fetch_one(&mut *transaction)
                .await?;
        if usize::try_from(waiting).unwrap_or(usize::MAX) >= limits::PENDING_COMMANDS_MAX {
            return Ok(Queued::Full);
        }
        sqlx::query(
            "INSERT INTO commands (key_store_id, command_id, envelope, signers, received_ms, expires_ms) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(command.command_id.as_bytes().as_slice())
        .bind(&command.envelope)
        .bind(command.signers)
        .bind(now)
        .bind(to_integer(command.expires_ms, "expiry")?)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Queued::Waits)
    }

    /// Commands that wait and have not expired, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pending(
        &self,
        key_store_id: KeyStoreId,
        now_ms: u64,
    ) -> Result<Vec<(CommandId, Vec<u8>)>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT command_id, envelope FROM commands WHERE key_store_id = ? AND done = 0 AND expires_ms > ? \
             ORDER BY received_ms, rowid",
        )
        .bind(key_store_id.as_bytes().as_slice())
        .bind(to_integer(now_ms, "time")?)
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(|(id, envelope)| Ok((CommandId(array(&id, "command id")?), envelope))).collect()
    }

    /// Whether results of all these commands belong to commands of the key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn knows_commands(&self, key_store_id: KeyStoreId, ids: &[CommandId]) -> Result<bool, StoreError> {
        for id in ids {
            if self.command(key_store_id, *id).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The result of a command or of the ceremony, encoded.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn result(&self, key_store_id: KeyStoreId, id: CommandId) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT sealed FROM results WHERE key_store_id = ? AND command_id = ?")
                .bind(key_store_id.as_bytes().as_slice())
                .bind(id.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        Ok(row.map(|(sealed,)| sealed))
    }

    /// The signed overlay in force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overlay(&self, key_store_id: KeyStoreId) -> Result<Option<StoredOverlay>, StoreError> {
        overlay(&self.reader, key_store_id).await
    }

    /// Puts an overlay in force, if the one that it was judged against still is. False when it is not: judge again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_overlay(
        &self,
        key_store_id: KeyStoreId,
        judged_against_epoch: u64,
        new: &StoredOverlay,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        if overlay_epoch(&mut transaction, key_store_id).await? != judged_against_epoch {
            return Ok(false);
        }
        sqlx::query("INSERT INTO overlays (key_store_id, epoch, overlay, recorded_ms) VALUES (?, ?, ?, ?)")
            .bind(key_store_id.as_bytes().as_slice())
            .bind(to_integer(new.epoch, "block overlay's epoch")?)
            .bind(&new.signed)
            .bind(to_integer(now_ms, "time")?)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// What an enclave that has seen `seen` does not know.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn news(&self, key_store_id: KeyStoreId, seen: &Seen, now_ms: u64) -> Result<News, StoreError> {
        let overlay = self.overlay(key_store_id).await?.filter(|overlay| overlay.epoch > seen.overlay_epoch);
        let register = self.register(key_store_id).await?.filter(|register| register.version > seen.version);
        let commands = self.pending(key_store_id, now_ms).await?;
        let unseen = commands.into_iter().filter(|(id, _)| !seen.commands.contains(id));
        Ok(News {
            overlay: overlay.map(|overlay| overlay.signed),
            register: register.map(|register| register.signed),
            commands: unseen.map(|(_, envelope)| envelope).take(limits::PENDING_COMMANDS_MAX).collect(),
        })
    }
}

/// The epoch in force, 0 for none.
pub(super) async fn overlay_epoch(
    transaction: &mut Transaction<'static, Sqlite>,
    key_store_id: KeyStoreId,
) -> Result<u64, StoreError> {
    Ok(overlay(&mut **transaction, key_store_id).await?.map_or(0, |overlay| overlay.epoch))
}

async fn overlay(
    executor: impl sqlx::Executor<'_, Database = Sqlite>,
    key_store_id: KeyStoreId,
) -> Result<Option<StoredOverlay>, StoreError> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT epoch, overlay FROM overlays WHERE key_store_id = ? ORDER BY epoch DESC LIMIT 1")
            .bind(key_store_id.as_bytes().as_slice())
            .fetch_optional(executor)
            .await?;
    row.map(|(epoch, signed)| Ok(StoredOverlay { epoch: from_integer(epoch, "epoch")?, signed })).transpose()
}
