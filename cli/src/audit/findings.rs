//! What verification says.

use core::fmt;

use holdfast_shared::ids::{BootId, KeyStoreId};
use serde::Serialize;

use crate::moment::format_ms;
use crate::output::printable;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Entries are missing between others.
    Dropped,
    /// Entries stand at other places than they were written for, or twice.
    Reordered,
    /// Entries are not those that were signed.
    Altered,
    /// Entries are missing at the end: the log's own checkpoints reach further.
    Truncated,
    /// The audit key signed two histories.
    Forked,
    /// An old state of the log in the place of a newer: log and checkpoints agree, and custodians have seen more.
    Replayed,
    /// A log, or a checkpoint, of another boot or key store.
    MixedUp,
    /// The boot did not end in order, so some of its last records may be missing.
    Unclosed,
    /// A boot that others know has no log.
    MissingBoot,
    /// What a later boot was told about this one contradicts its log.
    Contradicted,
    /// No custodian knows the boot, which may be invented.
    Unwitnessed,
    /// No attestation document vouches for the audit key, or for another.
    UnprovenKey,
    /// A checkpoint that is none, or that is not signed by the audit key.
    BadCheckpoint,
    /// A file that cannot be read.
    Unreadable,
}

impl Kind {
    /// As JSON has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Reordered => "reordered",
            Self::Altered => "altered",
            Self::Truncated => "truncated",
            Self::Forked => "forked",
            Self::Replayed => "replayed",
            Self::MixedUp => "mixed-up",
            Self::Unclosed => "unclosed",
            Self::MissingBoot => "missing-boot",
            Self::Contradicted => "contradicted",
            Self::Unwitnessed => "unwitnessed",
            Self::UnprovenKey => "unproven-key",
            Self::BadCheckpoint => "bad-checkpoint",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In which boot's log.
    pub boot_id: BootId,
    /// From this entry on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Before this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// At most so many entries are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_at_most: Option<u64>,
    /// In words.
    pub what: String,
}

impl Finding {
    pub(super) fn new(kind: Kind, boot_id: BootId, what: impl Into<String>) -> Self {
        Self { kind, boot_id, from: None, to: None, missing_at_most: None, what: what.into() }
    }

    pub(super) fn between(self, from: u64, to: u64) -> Self {
        Self { from: Some(from), to: Some(to), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14} boot {}", self.kind.as_str().to_uppercase(), self.boot_id)?;
        match (self.from, self.to) {
            (Some(from), Some(to)) if to == from.saturating_add(1) => write!(f, ", entry {from}")?,
            (Some(from), Some(to)) => write!(f, ", entries {from} to {}", to.saturating_sub(1))?,
            _ => {}
        }
        // Names in a file of heads, and paths, are others' text.
        write!(f, ": {}", printable(&self.what))
    }
}

/// How a boot's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// In order: nothing is missing.
    Closed,
    /// It still runs.
    Running,
    /// It broke off.
    Unclosed,
}

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootReport {
    /// The boot.
    pub boot_id: BootId,
    /// When its log began, milliseconds since 1970, where it says.
    pub opened_ms: Option<u64>,
    /// Entries in the files.
    pub entries: u64,
    /// How many of them, from the first on, are under a checkpoint that holds.
    pub signed: u64,
    /// How many of them are under a custodian's checkpoint that holds.
    pub witnessed: u64,
    /// The newest checkpoint's time, milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// How it ends.
    pub end: End,
}

/// What came of verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub verified: bool,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// How many custodians' heads the logs were held against.
    pub custodians: usize,
    /// The logs, sorted by boot.
    pub boots: Vec<BootReport>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for boot in &self.boots {
            let time = |at: Option<u64>| at.map_or_else(|| "?".to_owned(), format_ms);
            let end = match boot.end {
                End::Closed => "closed",
                End::Running => "running",
                End::Unclosed => "NOT CLOSED",
            };
            writeln!(
                f,
                "boot {}  {} entries, {} signed, {} witnessed; {} to {}; {end}",
                boot.boot_id,
                boot.entries,
                boot.signed,
                boot.witnessed,
                time(boot.opened_ms),
                time(boot.last_ms),
            )?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match self.custodians {
            0 => writeln!(f, "no custodian answered: newer entries and whole boots may be missing")?,
            1 => writeln!(f, "1 custodian answered")?,
            count => writeln!(f, "{count} custodians answered")?,
        }
        let entries: u64 = self.boots.iter().map(|boot| boot.entries).fold(0, u64::saturating_add);
        match self.findings.len() {
            0 => write!(f, "VERIFIED: {entries} entries in {} logs", self.boots.len()),
            1 => write!(f, "NOT VERIFIED: 1 finding"),
            count => write!(f, "NOT VERIFIED: {count} findings"),
        }
    }
}
