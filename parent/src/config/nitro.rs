//! `[nitro]`: the enclave that `nitro-cli` runs for us.
//!
//! There is no field for debug mode, in which PCRs are zero and the console can be read: no policy releases a share to such
//! an enclave, and nobody is to try.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::limits::{ENCLAVE_CPUS_MAX, ENCLAVE_MEMORY_MIB_MAX, ENCLAVE_NAME_MAX};

/// `[nitro]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NitroConfig {
    /// The image.
    pub eif: PathBuf,
    /// How many of the allocator's CPUs it gets. Either this or `cpu_ids`.
    #[serde(default, deserialize_with = "cpu_count")]
    #[cfg_attr(test, schemars(range(min = 1, max = ENCLAVE_CPUS_MAX)))]
    pub cpu_count: Option<u32>,
    /// Which of the allocator's CPUs it gets. Two enclaves side by side cannot have the same, so that this allows one only.
    #[serde(default, deserialize_with = "cpu_ids")]
    #[cfg_attr(test, schemars(length(min = 1, max = ENCLAVE_CPUS_MAX)))]
    pub cpu_ids: Option<Vec<u32>>,
    /// Memory of each enclave, in MiB.
    #[serde(deserialize_with = "memory")]
    #[cfg_attr(test, schemars(range(min = 1, max = ENCLAVE_MEMORY_MIB_MAX)))]
    pub memory_mib: u64,
    /// What the names of our enclaves begin with: how a parent that was restarted knows its own. Unique on the instance.
    #[serde(default = "default_name", deserialize_with = "name")]
    #[cfg_attr(test, schemars(length(min = 1, max = ENCLAVE_NAME_MAX), pattern("^[A-Za-z0-9_][A-Za-z0-9_-]*$")))]
    pub name: String,
    /// The program.
    #[serde(default = "default_cli")]
    pub cli: PathBuf,
}

impl NitroConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.eif = folder.join(&self.eif);
        self.cli = folder.join(&self.cli);
    }

    /// A sentence about what does not go together, if anything.
    pub(super) fn fault(&self, cids: usize) -> Option<String> {
        if self.cpu_count.is_some() == self.cpu_ids.is_some() {
            return Some("nitro: exactly one of cpu_count and cpu_ids must be there".to_owned());
        }
        (self.cpu_ids.is_some() && cids > 1).then(|| {
            "nitro.cpu_ids: two enclaves cannot have the same CPUs: use cpu_count, or one of enclave.cids".to_owned()
        })
    }

    /// How many CPUs an enclave gets.
    pub fn cpus(&self) -> usize {
        let count = self.cpu_count.and_then(|count| usize::try_from(count).ok());
        count.unwrap_or_else(|| self.cpu_ids.as_ref().map_or(0, Vec::len))
    }

    /// The name of the enclave with this context id.
    pub fn enclave_name(&self, cid: u32) -> String {
        format!("{}-{cid}", self.name)
    }
}

fn default_name() -> String {
    "holdfast".to_owned()
}

/// Where the package `aws-nitro-enclaves-cli` puts it.
fn default_cli() -> PathBuf {
    PathBuf::from("/usr/bin/nitro-cli")
}

fn cpu_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let count = u32::deserialize(deserializer)?;
    if count == 0 || count > ENCLAVE_CPUS_MAX {
        return Err(D::Error::custom(format!("must be from 1 to {ENCLAVE_CPUS_MAX}")));
    }
    Ok(Some(count))
}

fn cpu_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    let ids = Vec::<u32>::deserialize(deserializer)?;
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    if count == 0 || count > ENCLAVE_CPUS_MAX {
        return Err(D::Error::custom(format!("must have from 1 to {ENCLAVE_CPUS_MAX} entries")));
    }
    Ok(Some(ids))
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let mib = u64::deserialize(deserializer)?;
    if mib == 0 || mib > ENCLAVE_MEMORY_MIB_MAX {
        return Err(D::Error::custom(format!("must be from 1 to {ENCLAVE_MEMORY_MIB_MAX}")));
    }
    Ok(mib)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > ENCLAVE_NAME_MAX || !name.bytes().all(is_plain) || name.starts_with('-') {
        return Err(D::Error::custom(format!("must be 1 to {ENCLAVE_NAME_MAX} letters, digits, - or _")));
    }
    Ok(name)
}
