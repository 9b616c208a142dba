//! The log and CloudTrail, held against each other: `kmsRequestId` of a record is `requestID` of an event.
//!
//! ```text
//! CloudTrail's calls ◀─ by request id ─▶ records of the log
//!   no record, and KMS had success: somebody else answered       no event, and it was answered: somebody else asked
//!                         both, and they differ: operation, principal, KMS key, region, external key, time
//!                         one call, answered more often than KMS asks: somebody else asked with its id
//! ```
//! Guarantees: each call of `CALLS` that succeeded by CloudTrail and each request that was answered by the log is matched, named, or
//! counted with the reason for which it was not compared. Assumes: log and files are those that they say (`audit verify`,
//! `aws cloudtrail validate-logs`). What is no alarm: calls that failed and have no record, since KMS refuses many before it asks the
//! proxy, and the proxy may be out of reach; refusals that have no event, since CloudTrail has failed calls "in some scenarios" (AWS KMS
//! Developer Guide, "Logging AWS KMS API calls"); health checks, which KMS makes by itself; what is at the edge of the files; and calls
//! while the log has records that do not open. Whoever uses a key chooses the ARN in its record, so that alone excuses nothing.
//! Bounded: [`FINDINGS_MAX`] findings of each kind.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_guard::{KmsKey, Principal};
use holdfast_shared::audit::{Event, Operation, RequestRecord};

use super::cloudtrail::{Call, CloudTrail, Coverage, Met, View};
use super::records::{Line, Unopened};
use super::standing::Standing;

pub use self::report::{Finding, Kind, NotCompared, ReconcileReport, TrailReport};

mod report;

/// Findings of a kind that are shown; all are counted.
pub const FINDINGS_MAX: usize = 1_000;
/// Operations of KMS that cannot succeed without the proxy (specification, `kmsOperation`; AWS KMS Developer Guide, "External key
/// stores": KMS keeps no key material for them). `DescribeKey` can.
const CALLS: [&str; 6] =
    ["CreateKey", "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"];
/// A signature is good for five minutes (specification, "Authentication"), before and after; the attested clock is right within one.
const APART_MAX_MS: u64 = 10 * 60_000;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Not before this moment, milliseconds since 1970.
    pub since_ms: u64,
    /// Before this moment.
    pub until_ms: u64,
    /// How late CloudTrail's files may be.
    pub window_ms: u64,
    /// Custom key stores of KMS that are this key store; empty: all that the files have.
    pub custom_key_stores: Vec<String>,
}

impl Terms {
    const fn takes(&self, at_ms: u64) -> bool {
        self.since_ms <= at_ms && at_ms < self.until_ms
    }

    fn is_ours(&self, view: &View) -> bool {
        let named = view.custom_key_store.as_ref();
        self.custom_key_stores.is_empty() || named.is_none_or(|name| self.custom_key_stores.contains(name))
    }
}

/// See the module.
pub struct Reconcile {
    terms: Terms,
    trail: CloudTrail,
    /// Of the regions in which keys of this key store are used.
    coverage: Coverage,
    /// The oldest and the newest event of all.
    whole: Option<(u64, u64)>,
    first_ms: Option<u64>,
    report: ReconcileReport,
}

impl Reconcile {
    /// With what CloudTrail says.
    #[must_use]
    pub fn with(trail: CloudTrail, terms: Terms, log: Standing) -> Self {
        let report = ReconcileReport {
            reconciled: false,
            matched: 0,
            totals: BTreeMap::new(),
            findings: Vec::new(),
            not_compared: NotCompared::default(),
            requests: 0,
            cloudtrail: TrailReport::of(&trail),
            log,
        };
        let views = trail.calls.values().flat_map(|call| &call.views);
        let own: BTreeSet<&str> = views
            .filter(|view| view.external_key.is_some() && terms.is_ours(view))
            .map(|view| view.region.as_str())
            .collect();
        let coverage: Coverage = trail
            .coverage
            .iter()
            .filter(|(region, _)| own.contains(region.as_str()))
            .map(|(region, reach)| (region.clone(), *reach))
            .collect();
        let join = |one: (u64, u64), other: (u64, u64)| (one.0.min(other.0), one.1.max(other.1));
        let whole = trail.coverage.values().copied().reduce(join);
        Self { terms, trail, coverage, whole, first_ms: None, report }
    }

    /// Takes a record.
    pub fn take(&mut self, line: &Line) {
        let at_ms = line.record.at_ms;
        self.first_ms = Some(self.first_ms.map_or(at_ms, |first| first.min(at_ms)));
        let Event::Request(request) = &line.record.what else { return };
        let skipped = &mut self.report.not_compared;
        // Refusals alike have one record.
        let number = u64::from(request.count.unwrap_or(1));
        if request.operation == Operation::GetHealthStatus {
            return add(&mut skipped.health_checks, number);
        }
        let Some(id) = request.kms_request_id.as_deref() else {
            return add(&mut skipped.records_without_id, number);
        };
        let (is_answered, is_asked_for) = (request.error.is_none(), self.terms.takes(at_ms));
        if is_asked_for {
            count(&mut self.report.requests);
        }
        if let Some(call) = self.trail.calls.get_mut(id) {
            call.met = call.met.max(if is_answered { Met::Answered } else { Met::Refused });
            call.answers = call.answers.saturating_add(u32::from(is_answered));
            if !is_asked_for {
                return;
            }
            if is_answered && call.answers > call.answers_max() {
                let what = format!(
                    "answer {} of a call for which KMS asks {} times at most: somebody else asked with its id",
                    call.answers,
                    call.answers_max()
                );
                return self.report.find(Finding::of(Kind::Repeated, line, request, what));
            }
            count(&mut self.report.matched);
            if is_answered && !call.has_succeeded() {
                count(&mut skipped.answered_and_failed);
            }
            let differences = differences(&self.terms, line, request, call);
            if !differences.is_empty() {
                self.report.find(Finding::of(Kind::Mismatch, line, request, differences.join("; ")));
            }
        } else if is_asked_for && !is_answered {
            count(&mut skipped.refusals_without_event);
        } else if is_asked_for && !self.is_covered(request, at_ms) {
            count(&mut self.report.not_compared.records_at_the_edge);
        } else if is_asked_for {
            let what = "CloudTrail has no such call: somebody else than KMS has the credential, or files are missing";
            self.report.find(Finding::of(Kind::UnknownCall, line, request, what.to_owned()));
        }
    }

    /// Whether CloudTrail's files would have an event of that moment: they come late, and in no order.
    fn is_covered(&self, request: &RequestRecord, at_ms: u64) -> bool {
        let window = self.terms.window_ms;
        let reaches =
            |&(first, last): &(u64, u64)| first.saturating_add(window) <= at_ms && at_ms <= last.saturating_sub(window);
        let region = request.kms_key_arn.as_deref().and_then(KmsKey::parse).map(|key| key.region);
        match region.map(|region| self.coverage.get(region)) {
            Some(Some(coverage)) => reaches(coverage),
            None if !self.coverage.is_empty() => self.coverage.values().any(reaches),
            // Whoever names another region, in which little happens, is not excused by that.
            Some(None) | None => self.whole.as_ref().is_some_and(reaches),
        }
    }

    /// What came of it.
    #[must_use]
    pub fn finish(mut self, unopened: &Unopened) -> ReconcileReport {
        let mut impostors = Vec::new();
        for (id, call) in self.trail.calls.iter().filter(|(_, call)| self.terms.takes(call.at_ms)) {
            let Some(view) = call.views.iter().find(|view| self.terms.is_ours(view) && must_ask(view)) else {
                continue;
            };
            let what = match (call.has_succeeded(), call.met) {
                (_, Met::Answered) | (false, Met::Refused) => continue,
                (false, Met::Nowhere) => {
                    let error = view.error.clone().unwrap_or_default();
                    count(self.report.not_compared.failed_without_record.entry(error).or_default());
                    continue;
                }
                // Events count seconds, records milliseconds.
                (true, Met::Nowhere) if self.first_ms.is_some_and(|first| call.at_ms.saturating_add(1000) <= first) => {
                    count(&mut self.report.not_compared.events_before_the_log);
                    continue;
                }
                (true, Met::Nowhere) if unopened.may_hold(call.at_ms) => {
                    count(&mut self.report.not_compared.calls_beside_unopened);
                    continue;
                }
                (true, Met::Nowhere) => {
                    "KMS had success, and no enclave has a record: somebody else answered, or the log is not whole"
                }
                (true, Met::Refused) => "KMS had success, and the enclaves refused: somebody else answered",
            };
            impostors.push(Finding::of_call(Kind::Impostor, id, call.at_ms, view, what));
        }
        impostors.sort_by(|one, other| (one.at_ms, &one.kms_request_id).cmp(&(other.at_ms, &other.kms_request_id)));
        for impostor in impostors {
            self.report.find(impostor);
        }
        self.report.not_compared.unopened_records = unopened.records;
        self.report.conclude();
        self.report
    }
}

/// Whether KMS cannot do it without the proxy.
fn must_ask(view: &View) -> bool {
    view.external_key.is_some() && CALLS.contains(&view.name.as_str())
}

const fn count(number: &mut u64) {
    add(number, 1);
}

const fn add(total: &mut u64, number: u64) {
    *total = total.saturating_add(number);
}

/// In what a record differs from the event; of several views of one call, from the nearest.
fn differences(terms: &Terms, line: &Line, request: &RequestRecord, call: &Call) -> Vec<String> {
    let of = |view: &View| {
        let mut found = Vec::new();
        let mut differ =
            |name: &str, log: &str, trail: &str| found.push(format!("{name}: {log} in the log, {trail} in CloudTrail"));
        let operation = request.kms_operation.as_deref().unwrap_or_default();
        if operation != view.name {
            differ("KMS operation", operation, &view.name);
        } else if !fits(request.operation, operation) {
            differ("operation", request.operation.as_str(), operation);
        }
        if let Some(principal) = &request.principal
            && is_caller(principal, view) == Some(false)
        {
            let callers = if view.callers.is_empty() {
                view.account.clone().unwrap_or_default()
            } else {
                view.callers.join(" or ")
            };
            differ("principal", principal, &callers);
        }
        if let Some(arn) = &request.kms_key_arn {
            if !view.key_arns.is_empty() && !view.key_arns.iter().any(|other| plain(other) == plain(arn)) {
                differ("KMS key", arn, &view.key_arns.join(" and "));
            }
            if let Some(key) = KmsKey::parse(arn)
                && key.region != view.region
            {
                differ("region", key.region, &view.region);
            }
        }
        // Of ReEncrypt's two keys, one is named.
        if view.name != "ReEncrypt" {
            if let (Some(key), Some(named)) = (&request.key, &view.external_key)
                && key.as_str() != named
            {
                differ("external key", key.as_str(), named);
            }
            if !terms.is_ours(view) {
                differ("key store", "this one", view.custom_key_store.as_deref().unwrap_or_default());
            }
        }
        if line.record.at_ms.abs_diff(call.at_ms) > APART_MAX_MS {
            let time = crate::moment::format_ms;
            differ("time", &time(line.record.at_ms), &time(call.at_ms));
        }
        found
    };
    call.views.iter().map(|view| of(view)).min_by_key(Vec::len).unwrap_or_default()
}

/// Whether an operation of KMS leads to one of the proxy's (specification, `kmsOperation`). One that the specification does not know may
/// lead to any.
fn fits(operation: Operation, kms_operation: &str) -> bool {
    match kms_operation {
        "Encrypt" | "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => operation == Operation::Encrypt,
        "Decrypt" => operation == Operation::Decrypt,
        "ReEncrypt" => matches!(operation, Operation::Encrypt | Operation::Decrypt),
        "CreateKey" | "DescribeKey" => operation == Operation::GetKeyMetadata,
        _ => true,
    }
}

/// The specification writes `:/key/`, AWS `:key/`.
fn plain(arn: &str) -> String {
    arn.replacen(":/key/", ":key/", 1)
}

/// Whether `principal` (`aws:PrincipalArn`: a role, where CloudTrail has the session) is who called; nothing where CloudTrail does not
/// say: across accounts, the key's trail has the caller's account alone.
fn is_caller(principal: &str, view: &View) -> Option<bool> {
    let own = Principal::parse(principal);
    let is_role_of = |caller: &String| {
        let other = Principal::parse(caller);
        own.role_name.is_some() && (own.account, own.role_name) == (other.account, other.role_name)
    };
    if !view.callers.is_empty() {
        return Some(view.callers.iter().any(|caller| caller == principal || is_role_of(caller)));
    }
    Some(own.account? == view.account.as_deref()?)
}
