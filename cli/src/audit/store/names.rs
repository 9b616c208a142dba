//! Names: the same in the parent's folder and in the bucket.
//!
//! ```text
//! KEY STORE ID/BOOT ID/0000000000000000.log
//! ```
//! Guarantees: whoever has a [`FileName`] or [`LogName`] has the one spelling that parent and verifier use, so no path can lead elsewhere.

use core::fmt;

use holdfast_shared::ids::{BootId, KeyStoreId};

use crate::audit::folder::{CHECKPOINTS, exactly, meaning, spelled};

/// Which log: the folder of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogName {
    pub(super) key_store_id: KeyStoreId,
    pub(super) boot_id: BootId,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key_store_id, self.boot_id)
    }
}

/// A file of a log, ordered as it is to be sent: entries by their first index, checkpoints last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    /// Entries from this index on.
    Entries {
        /// By its name.
        first_index: u64,
        /// Whether it is compressed.
        compressed: bool,
        /// As it is spelled.
        name: String,
    },
    /// Signed notes.
    Checkpoints,
}

impl FileName {
    /// A name of another kind is none.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if name == CHECKPOINTS {
            return Some(Self::Checkpoints);
        }
        let (first_index, compressed) = meaning(name)?;
        Some(Self::Entries { first_index, compressed, name: name.to_owned() })
    }

    /// The file of entries from this index on.
    pub(super) fn entries(first_index: u64, compressed: bool) -> Self {
        Self::Entries { first_index, compressed, name: spelled(first_index, compressed) }
    }

    /// Of a file of entries.
    pub(super) const fn first_index(&self) -> Option<u64> {
        match self {
            Self::Entries { first_index, .. } => Some(*first_index),
            Self::Checkpoints => None,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Entries { name, .. } => name,
            Self::Checkpoints => CHECKPOINTS,
        }
    }
}

/// Whose log a folder's or object's path is of, and which file, by the parts after the prefix.
pub(super) fn parse<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<(LogName, FileName)> {
    let mut parts = parts.into_iter();
    let log = LogName { key_store_id: exactly(parts.next()?)?, boot_id: exactly(parts.next()?)? };
    let name = FileName::parse(parts.next()?)?;
    parts.next().is_none().then_some((log, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parents_own_spelling() {
        let (key_store, boot) = ("ab".repeat(32), "cd".repeat(16));
        let of = |path: &str| parse(path.split('/'));
        for name in ["0000000000000000.log", "0000000000051200.log.zst", "checkpoints"] {
            let (log, file) = of(&format!("{key_store}/{boot}/{name}")).unwrap();
            assert_eq!(format!("{log}/{}", file.as_str()), format!("{key_store}/{boot}/{name}"));
            if let FileName::Entries { first_index, compressed, .. } = file {
                assert_eq!(FileName::entries(first_index, compressed), file);
            }
        }
        for strange in [
            String::new(),
            key_store.clone(),
            format!("{key_store}/{boot}"),
            format!("{key_store}/{boot}/"),
            format!("{key_store}/{boot}/0.log"),
            format!("{key_store}/{boot}/000000000000000a.log"),
            format!("{key_store}/{boot}/+000000000000000.log"),
            format!("{key_store}/{boot}/0000000000000000.torn"),
            format!("{key_store}/{boot}/checkpoints/x"),
            format!("{key_store}/{boot}/../checkpoints"),
            format!("{key_store}/../{boot}/checkpoints"),
            format!("{}/{boot}/checkpoints", key_store.to_uppercase()),
            format!("{key_store}/{}/checkpoints", boot.to_uppercase()),
            format!("{boot}/{key_store}/checkpoints"),
        ] {
            assert_eq!(of(&strange), None, "{strange}");
        }
    }

    #[test]
    fn checkpoints_come_last() {
        let mut names: Vec<_> =
            ["checkpoints", "0000000000000009.log", "0000000000000000.log.zst", "0000000000000000.log"]
                .iter()
                .filter_map(|name| FileName::parse(name))
                .collect();
        names.sort();
        let sorted: Vec<_> = names.iter().map(FileName::as_str).collect();
        assert_eq!(sorted, ["0000000000000000.log", "0000000000000000.log.zst", "0000000000000009.log", "checkpoints"]);
    }
}
