//! `[audit]`: where the enclave's audit logs go.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{AddressPattern, defaults};
use crate::limits::{AUDIT_KEEP_DAYS_MAX, AUDIT_ROTATE_BYTES};

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Where the enclave opens its audit connection.
    #[serde(default = "defaults::audit_listen")]
    #[cfg_attr(test, schemars(with = "String", extend("default" = "vsock://4294967295:9003")))]
    pub listen: AddressPattern,
    /// The folder that is to hold the logs, this program's alone. It is made if it is missing.
    #[serde(default = "defaults::audit_folder")]
    pub folder: PathBuf,
    /// Bytes of a file of entries after which the next one begins.
    #[serde(default = "defaults::audit_rotate_bytes", deserialize_with = "rotate_bytes")]
    #[cfg_attr(test, schemars(range(min = *AUDIT_ROTATE_BYTES.start(), max = *AUDIT_ROTATE_BYTES.end())))]
    pub rotate_bytes: u64,
    /// Days after its last entry when the log of an enclave that is gone is deleted. Without it, nothing ever is.
    #[serde(default, deserialize_with = "keep_days")]
    #[cfg_attr(test, schemars(range(min = 1, max = AUDIT_KEEP_DAYS_MAX)))]
    pub keep_days: Option<u32>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            listen: defaults::audit_listen(),
            folder: defaults::audit_folder(),
            rotate_bytes: defaults::audit_rotate_bytes(),
            keep_days: None,
        }
    }
}

impl AuditConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.folder = folder.join(&self.folder);
    }
}

fn rotate_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let bytes = u64::deserialize(deserializer)?;
    if !AUDIT_ROTATE_BYTES.contains(&bytes) {
        let (least, most) = (AUDIT_ROTATE_BYTES.start(), AUDIT_ROTATE_BYTES.end());
        return Err(D::Error::custom(format!("must be from {least} to {most}")));
    }
    Ok(bytes)
}

fn keep_days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let days = u32::deserialize(deserializer)?;
    if days == 0 || days > AUDIT_KEEP_DAYS_MAX {
        return Err(D::Error::custom(format!("must be from 1 to {AUDIT_KEEP_DAYS_MAX}")));
    }
    Ok(Some(days))
}
