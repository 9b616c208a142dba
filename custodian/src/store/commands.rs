//! Commands that wait, those that were carried out, and what came of them.

use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::limits;

use super::database::{Lock, Session, Transaction, write_transaction};
use super::leases::count_message;
use super::{Origin, Store, StoreError, array, to_integer};

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

/// What two copies of a command with one id make together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The copy that waits has every signature already.
    Nothing,
    /// One with more signatures.
    Replaced {
        /// The signed command.
        envelope: Vec<u8>,
        /// How many signed it.
        signers: u32,
    },
    /// They are two different commands.
    Differs,
}

/// What came of queueing a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits, for the first time or with more signatures than before.
    Waits,
    /// It waits or was dealt with already; nothing changed.
    Known,
    /// Another command has this id; nothing changed.
    Differs,
    /// Too many wait.
    Full,
}

impl Store {
    /// A command with this id, as it was signed, whether it waits or was dealt with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn command(&self, key_store_id: KeyStoreId, id: CommandId) -> Result<Option<Vec<u8>>, StoreError> {
        let known = command(&mut self.database.read().await?, key_store_id, id).await?;
        Ok(known.map(|(envelope, _)| envelope))
    }

    /// Queues a command. If one with its id is known, `merge` says what becomes of that copy, in the same transaction: two
    /// approvals that come at once are both kept. `merge` may be asked more than once.
    ///
    /// # Errors
    /// [`StoreError`], and what `merge` says.
    pub async fn queue(
        &self,
        command: &StoredCommand,
        now_ms: u64,
        merge: &(dyn Fn(&[u8]) -> Result<Merged, StoreError> + Send + Sync),
    ) -> Result<Queued, StoreError> {
        write_transaction!(self, Lock::KeyStore(command.key_store_id), queue(command, now_ms, merge))
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
        pending(&mut self.database.read().await?, key_store_id, now_ms).await
    }

    /// Whether results of all these commands belong to commands of the key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn knows_commands(&self, key_store_id: KeyStoreId, ids: &[CommandId]) -> Result<bool, StoreError> {
        let mut session = self.database.read().await?;
        for id in ids {
            if command(&mut session, key_store_id, *id).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps results that come without a version; the first result of a command stays.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn report(
        &self,
        key_store_id: KeyStoreId,
        results: &[(CommandId, Vec<u8>)],
        origin: Origin,
    ) -> Result<(), StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), report(key_store_id, results, origin))
    }

    /// Whether a command, or the ceremony, has a result that is not shown yet: its version is not committed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_hidden_result(&self, key_store_id: KeyStoreId, id: CommandId) -> Result<bool, StoreError> {
        let (hidden,): (i64,) = self
            .database
            .read()
            .await?
            .fetch_one(
                "SELECT count(*) FROM results JOIN versions USING (key_store_id, version) \
                 WHERE key_store_id = $1 AND command_id = $2 AND committed = 0",
                &[key_store_id.as_bytes().into(), id.as_bytes().into()],
            )
            .await?;
        Ok(hidden > 0)
    }

    /// The result of a command or of the ceremony, encoded. One that belongs to a version is shown once that is committed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn result(&self, key_store_id: KeyStoreId, id: CommandId) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT sealed FROM results WHERE key_store_id = $1 AND command_id = $2 AND (version IS NULL OR EXISTS \
                 (SELECT 1 FROM versions WHERE versions.key_store_id = results.key_store_id \
                 AND versions.version = results.version AND committed = 1))",
                &[key_store_id.as_bytes().into(), id.as_bytes().into()],
            )
            .await?;
        Ok(row.map(|(sealed,)| sealed))
    }
}

async fn queue(
    transaction: &mut Transaction,
    new: &StoredCommand,
    now_ms: u64,
    merge: &(dyn Fn(&[u8]) -> Result<Merged, StoreError> + Send + Sync),
) -> Result<Queued, StoreError> {
    let id = new.key_store_id.as_bytes();
    let now = to_integer(now_ms, "time")?;
    forget(transaction, new.key_store_id, now_ms).await?;
    if let Some((known, done)) = command(transaction, new.key_store_id, new.command_id).await? {
        return match merge(&known)? {
            Merged::Differs => Ok(Queued::Differs),
            Merged::Replaced { envelope, signers } if !done => {
                transaction
                    .execute(
                        "UPDATE commands SET envelope = $1, signers = $2 WHERE key_store_id = $3 AND command_id = $4",
                        &[(&envelope).into(), signers.into(), id.into(), new.command_id.as_bytes().into()],
                    )
                    .await?;
                transaction.announce(new.key_store_id).await?;
                Ok(Queued::Waits)
            }
            // What was carried out keeps the signatures under which it was.
            Merged::Replaced { .. } | Merged::Nothing => Ok(Queued::Known),
        };
    }
    let (waiting,): (i64,) = transaction
        .fetch_one(
            "SELECT count(*) FROM commands WHERE key_store_id = $1 AND done = 0 AND expires_ms > $2",
            &[id.into(), now.into()],
        )
        .await?;
    if usize::try_from(waiting).unwrap_or(usize::MAX) >= limits::PENDING_COMMANDS_MAX {
        return Ok(Queued::Full);
    }
    transaction
        .execute(
            "INSERT INTO commands (key_store_id, command_id, envelope, signers, received_ms, expires_ms, place) \
             VALUES ($1, $2, $3, $4, $5, $6, \
             (SELECT coalesce(max(place), 0) + 1 FROM commands WHERE key_store_id = $1))",
            &[
                id.into(),
                new.command_id.as_bytes().into(),
                (&new.envelope).into(),
                new.signers.into(),
                now.into(),
                to_integer(new.expires_ms, "expiry")?.into(),
            ],
        )
        .await?;
    transaction.announce(new.key_store_id).await?;
    Ok(Queued::Waits)
}

/// Forgets results of commands that expired long ago, and those of the commands that changed nothing.
async fn forget(transaction: &mut Transaction, key_store_id: KeyStoreId, now_ms: u64) -> Result<(), StoreError> {
    let id = key_store_id.as_bytes();
    let forgotten = to_integer(now_ms.saturating_sub(limits::COMMAND_KEPT_MS), "time")?;
    // The ceremony's result belongs to no command and stays.
    transaction
        .execute(
            "DELETE FROM results WHERE key_store_id = $1 AND command_id IN \
             (SELECT command_id FROM commands WHERE key_store_id = $1 AND expires_ms < $2)",
            &[id.into(), forgotten.into()],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM commands WHERE key_store_id = $1 AND expires_ms < $2 AND NOT EXISTS \
             (SELECT 1 FROM version_commands WHERE version_commands.key_store_id = commands.key_store_id \
             AND version_commands.command_id = commands.command_id)",
            &[id.into(), forgotten.into()],
        )
        .await?;
    Ok(())
}

/// A command as it was signed, and whether it was dealt with.
async fn command(
    session: &mut Session,
    key_store_id: KeyStoreId,
    id: CommandId,
) -> Result<Option<(Vec<u8>, bool)>, StoreError> {
    let row: Option<(Vec<u8>, i64)> = session
        .fetch_optional(
            "SELECT envelope, done FROM commands WHERE key_store_id = $1 AND command_id = $2",
            &[key_store_id.as_bytes().into(), id.as_bytes().into()],
        )
        .await?;
    Ok(row.map(|(envelope, done)| (envelope, done != 0)))
}

pub(super) async fn pending(
    session: &mut Session,
    key_store_id: KeyStoreId,
    now_ms: u64,
) -> Result<Vec<(CommandId, Vec<u8>)>, StoreError> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> = session
        .fetch_all(
            "SELECT command_id, envelope FROM commands WHERE key_store_id = $1 AND done = 0 AND expires_ms > $2 \
             ORDER BY place",
            &[key_store_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
        )
        .await?;
    rows.into_iter().map(|(id, envelope)| Ok((CommandId(array(&id, "command id")?), envelope))).collect()
}

async fn report(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    results: &[(CommandId, Vec<u8>)],
    origin: Origin,
) -> Result<(), StoreError> {
    count_message(transaction, origin).await?;
    for (command_id, sealed) in results {
        keep_result(transaction, key_store_id, *command_id, None, sealed, origin.now_ms).await?;
    }
    Ok(())
}

/// Keeps a result and marks its command as dealt with. One that comes with a version replaces what another enclave reported
/// meanwhile: a version is the truth about its commands.
pub(super) async fn keep_result(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    version: Option<i64>,
    sealed: &[u8],
    now_ms: u64,
) -> Result<(), StoreError> {
    let (id, command, now) = (key_store_id.as_bytes(), command_id.as_bytes(), to_integer(now_ms, "time")?);
    if let Some(version) = version {
        transaction
            .execute(
                "INSERT INTO results (key_store_id, command_id, version, sealed, recorded_ms) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (key_store_id, command_id) DO UPDATE SET version = excluded.version, \
                 sealed = excluded.sealed, recorded_ms = excluded.recorded_ms",
                &[id.into(), command.into(), version.into(), sealed.into(), now.into()],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO version_commands (key_store_id, version, command_id) VALUES ($1, $2, $3) \
                 ON CONFLICT DO NOTHING",
                &[id.into(), version.into(), command.into()],
            )
            .await?;
    } else {
        transaction
            .execute(
                "INSERT INTO results (key_store_id, command_id, sealed, recorded_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING",
                &[id.into(), command.into(), sealed.into(), now.into()],
            )
            .await?;
    }
    transaction
        .execute(
            "UPDATE commands SET done = 1 WHERE key_store_id = $1 AND command_id = $2",
            &[id.into(), command.into()],
        )
        .await?;
    Ok(())
}
