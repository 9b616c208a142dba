//! What is known of a log whose records are read for something else than verification.

use core::fmt;

use holdfast_shared::hpke::PrivateKey;
use serde::Serialize;

use super::findings::{Finding, Kind};
use super::folder::Folder;
use super::heads::Heads;
use super::verify::{Against, verify};

/// Whether the log is the one that was signed. Of findings, the first `FINDINGS_SHOWN` are shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// How many custodians' heads it was held against; 0: only the checkpoints in the folder itself.
    pub custodians: usize,
    /// What verification found.
    pub findings: Vec<Finding>,
}

/// The rest is shown by `holdfast audit verify`.
const FINDINGS_SHOWN: usize = 5;

impl Standing {
    /// Verifies a log. Without custodians' heads, a boot that has not ended is no finding: only custodians know whether it runs.
    #[must_use]
    pub fn of(
        folder: &Folder,
        heads: (Heads, Vec<Finding>),
        readers: &[PrivateKey],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Self {
        let custodians = heads.0.custodians;
        let mut findings = verify(folder, Against { heads, readers, progress }).findings;
        findings.retain(|finding| custodians > 0 || finding.kind != Kind::Unclosed);
        Self { custodians, findings }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in self.findings.iter().take(FINDINGS_SHOWN) {
            writeln!(f, "{finding}")?;
        }
        let against = match self.custodians {
            0 => "the checkpoints in its own folder, and no custodian's heads (--heads)".to_owned(),
            1 => "the heads of 1 custodian".to_owned(),
            count => format!("the heads of {count} custodians"),
        };
        match self.findings.len() {
            0 => writeln!(f, "the log was verified against {against}"),
            1 => writeln!(f, "THE LOG IS NOT AS IT WAS SIGNED: 1 finding; run: holdfast audit verify"),
            count => writeln!(f, "THE LOG IS NOT AS IT WAS SIGNED: {count} findings; run: holdfast audit verify"),
        }
    }
}
