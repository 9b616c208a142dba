//! The custodian's own settings: values that are made once.

use super::database::{Lock, Transaction, write_transaction};
use super::{Store, StoreError};

impl Store {
    /// The value of a setting: `offered` if it had none before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn setting(&self, name: &str, offered: &[u8]) -> Result<Vec<u8>, StoreError> {
        write_transaction!(self, Lock::Nothing, setting(name, offered))
    }
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
