//! What a comparison with CloudTrail says.

use core::fmt;
use std::collections::BTreeMap;

use holdfast_shared::audit::RequestRecord;
use holdfast_shared::ids::BootId;
use serde::Serialize;

use super::FINDINGS_MAX;
use crate::audit::cloudtrail::{CloudTrail, View};
use crate::audit::records::Line;
use crate::audit::standing::Standing;
use crate::moment::format_ms;
use crate::output::printable;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// KMS had an answer that no enclave gave. Critical.
    Impostor,
    /// Somebody had an answer, and CloudTrail has no call.
    UnknownCall,
    /// A call was answered more often than KMS asks.
    Repeated,
    /// The two say different things of one call.
    Mismatch,
}

impl Kind {
    /// As JSON has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Impostor => "impostor",
            Self::UnknownCall => "unknown-call",
            Self::Repeated => "repeated",
            Self::Mismatch => "mismatch",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Whether somebody must look at once.
    pub critical: bool,
    /// Of which call.
    pub kms_request_id: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Of KMS.
    pub operation: Option<String>,
    /// The external key.
    pub key: Option<String>,
    /// Who called.
    pub principal: Option<String>,
    /// In which log.
    pub boot_id: Option<BootId>,
    /// Which entry.
    pub index: Option<u64>,
    /// In words.
    pub what: String,
}

impl Finding {
    pub(super) fn of(kind: Kind, line: &Line, request: &RequestRecord, what: String) -> Self {
        Self {
            kind,
            critical: kind == Kind::Impostor,
            kms_request_id: request.kms_request_id.clone().unwrap_or_default(),
            at_ms: line.record.at_ms,
            operation: request.kms_operation.clone(),
            key: request.key.as_ref().map(ToString::to_string),
            principal: request.principal.clone(),
            boot_id: Some(line.log.boot_id),
            index: Some(line.index),
            what,
        }
    }

    pub(super) fn of_call(kind: Kind, id: &str, at_ms: u64, view: &View, what: &str) -> Self {
        Self {
            kind,
            critical: kind == Kind::Impostor,
            kms_request_id: id.to_owned(),
            at_ms,
            operation: Some(view.name.clone()),
            key: view.external_key.clone(),
            principal: view.callers.first().cloned(),
            boot_id: None,
            index: None,
            what: what.to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:<13}", if self.critical { "CRITICAL " } else { "" }, self.kind.as_str().to_uppercase())?;
        write!(f, "{} request={}", format_ms(self.at_ms), printable(&self.kms_request_id))?;
        for (name, text) in [("operation", &self.operation), ("key", &self.key), ("principal", &self.principal)] {
            if let Some(text) = text {
                write!(f, " {name}={}", printable(text))?;
            }
        }
        if let (Some(boot), Some(index)) = (self.boot_id, self.index) {
            write!(f, " entry={boot}/{index}")?;
        }
        write!(f, ": {}", printable(&self.what))
    }
}

/// What the files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrailReport {
    /// Files with events.
    pub files: u64,
    /// Files without.
    pub other_files: u64,
    /// Events of all services.
    pub events: u64,
    /// Calls that use keys of external key stores, by KMS's name of the key store.
    pub calls: BTreeMap<String, u64>,
    /// The oldest and the newest event of each region, milliseconds since 1970.
    pub regions: BTreeMap<String, (u64, u64)>,
}

impl TrailReport {
    pub(super) fn of(trail: &CloudTrail) -> Self {
        let mut calls = BTreeMap::<String, u64>::new();
        for call in trail.calls.values() {
            if let Some(view) = call.views.iter().find(|view| view.external_key.is_some()) {
                let number = calls.entry(view.custom_key_store.clone().unwrap_or_default()).or_default();
                *number = number.saturating_add(1);
            }
        }
        let CloudTrail { files, other_files, events, coverage, .. } = trail;
        Self { files: *files, other_files: *other_files, events: *events, calls, regions: coverage.clone() }
    }
}

/// What was not compared, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotCompared {
    /// Answered requests so near the edge of CloudTrail's files that their events may be in others.
    pub records_at_the_edge: u64,
    /// Refused requests without an event.
    pub refusals_without_event: u64,
    /// Requests of which the body could not be read, and refusals that were summed up.
    pub records_without_id: u64,
    /// Requests that the reader's key does not open.
    pub unopened_records: u64,
    /// Successful calls without a record, from times in which there are records that the reader's key does not open.
    pub calls_beside_unopened: u64,
    /// Health checks, which are in no trail.
    pub health_checks: u64,
    /// Successful calls from before the log's first record.
    pub events_before_the_log: u64,
    /// Calls that failed and have no record, by `errorCode`: KMS refused them itself, or did not reach the proxy.
    pub failed_without_record: BTreeMap<String, u64>,
    /// Requests that were answered, and whose call failed: KMS did not wait, or the caller was refused afterwards.
    pub answered_and_failed: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReconcileReport {
    /// Whether something was compared, nothing is wrong, and the log is the one that was signed.
    pub reconciled: bool,
    /// Requests in the log that CloudTrail has, too.
    pub matched: u64,
    /// Findings by kind, those that are not shown included.
    pub totals: BTreeMap<Kind, u64>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What was not compared.
    pub not_compared: NotCompared,
    /// Requests in the log, health checks apart.
    pub requests: u64,
    /// What the files hold.
    pub cloudtrail: TrailReport,
    /// What is known of the log itself.
    pub log: Standing,
}

impl ReconcileReport {
    pub(super) fn find(&mut self, finding: Finding) {
        let total = self.totals.entry(finding.kind).or_default();
        *total = total.saturating_add(1);
        if usize::try_from(*total).is_ok_and(|total| total <= FINDINGS_MAX) {
            self.findings.push(finding);
        }
    }

    /// Both sides empty is agreement; one side empty is not.
    const fn is_empty_handed(&self) -> bool {
        self.matched == 0
    }

    pub(super) fn conclude(&mut self) {
        self.findings.sort_by_key(|finding| (finding.kind, finding.at_ms));
        let is_quiet = self.cloudtrail.files > 0 && self.requests == 0 && self.cloudtrail.calls.is_empty();
        self.reconciled =
            self.totals.is_empty() && self.log.findings.is_empty() && (is_quiet || !self.is_empty_handed());
    }
}

impl fmt::Display for ReconcileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let shown = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        let found = self.totals.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        if found > shown {
            writeln!(f, "{} further findings are not shown", found.saturating_sub(shown))?;
        }
        let TrailReport { files, events, calls, regions, .. } = &self.cloudtrail;
        writeln!(f, "CloudTrail: {events} events in {files} files")?;
        for (region, (first, last)) in regions {
            writeln!(f, "  {} from {} to {}", printable(region), format_ms(*first), format_ms(*last))?;
        }
        for (key_store, calls) in calls {
            writeln!(f, "  {calls} calls with keys of {}", printable(key_store))?;
        }
        writeln!(f, "log: {} requests, {} of them in CloudTrail", self.requests, self.matched)?;
        write!(f, "{}", self.log)?;
        self.not_compared.fmt(f)?;
        match (self.reconciled, found) {
            (true, _) => write!(f, "RECONCILED"),
            (false, 0) if self.is_empty_handed() => write!(
                f,
                "NOT RECONCILED: nothing could be compared; do the files hold the events of KMS of this key store's region and time?"
            ),
            (false, 0) => write!(f, "NOT RECONCILED: the log is not as it was signed"),
            (false, 1) => write!(f, "NOT RECONCILED: 1 finding"),
            (false, count) => write!(f, "NOT RECONCILED: {count} findings"),
        }
    }
}

impl fmt::Display for NotCompared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, what) in [
            (
                self.records_at_the_edge,
                "answered requests at the edge of CloudTrail's files: compare again with later ones",
            ),
            (self.refusals_without_event, "refused requests without an event"),
            (
                self.records_without_id,
                "requests without an id: their bodies could not be read, or refusals were summed up",
            ),
            (self.unopened_records, "records that do not open with this key"),
            (self.calls_beside_unopened, "calls from times in which records do not open with this key"),
            (self.health_checks, "health checks, which are in no trail"),
            (self.events_before_the_log, "calls from before the log's first record"),
            (
                self.answered_and_failed,
                "answered requests whose call failed all the same: KMS did not wait, or refused",
            ),
        ] {
            if count > 0 {
                writeln!(f, "  not compared: {count} {what}")?;
            }
        }
        for (error, count) in &self.failed_without_record {
            writeln!(f, "  not compared: {count} calls that failed without a record ({})", printable(error))?;
        }
        Ok(())
    }
}
