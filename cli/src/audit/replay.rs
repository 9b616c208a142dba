//! What another policy would have said to the requests on record.
//!
//! ```text
//! record ─ was the policy asked, or would it have been? ─▶ Attributes ─ Policy::decide ─▶ as it was, or a difference (rule, principal)
//! ```
//! Guarantees: the enclave's own code decides, on what the record holds and at the attested time of the record. Assumes: the records
//! are those of the log, which is for [`super::verify`] to say. Refuses nothing: what a record lacks is counted and said. A record of
//! several refusals counts as that many requests. A difference
//! is one between answered and refused by policy; what was refused for another reason stays refused whatever the policy says.
//! Bounded: [`GROUPS_MAX`] groups with [`EXAMPLES_MAX`] examples each.

use core::fmt;
use std::collections::BTreeMap;

use holdfast_guard::{Attributes, Policy};
use holdfast_shared::audit::{Event, Operation as Recorded, RequestRecord};
use holdfast_shared::ids::BootId;
use holdfast_shared::limits::METADATA_TEXT_MAX;
use holdfast_shared::xks::{ErrorName, Operation};
use serde::Serialize;

use super::records::Line;
use super::standing::Standing;
use crate::commands::policy::reason;
use crate::moment::format_ms;
use crate::output::printable;

/// Groups of differences that are told apart: more than anybody reads. Principals are attacker's text of up to 2 KiB.
pub const GROUPS_MAX: usize = 1_000;
/// Examples of each.
pub const EXAMPLES_MAX: usize = 3;
/// Whoever cuts a text ends between two characters, which have four bytes at most.
const CUT_FROM: usize = METADATA_TEXT_MAX - 3;

/// How another policy would have changed an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Answered then, refused under this policy.
    WouldBeRefused,
    /// Refused by the policy then, permitted by this one.
    WouldBePermitted,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    change: Change,
    rule: Option<String>,
    reason: &'static str,
    recorded_rule: Option<String>,
    principal: String,
}

/// Requests that are changed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// How.
    pub change: Change,
    /// How many.
    pub requests: u64,
    /// The rule of this policy that decides; nothing where nothing permits.
    pub rule: Option<String>,
    /// Why, in words.
    pub reason: &'static str,
    /// The rule that decided then.
    pub recorded_rule: Option<String>,
    /// `awsPrincipalArn`.
    pub principal: String,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// `kmsRequestId`, by which CloudTrail has it.
    pub kms_request_id: Option<String>,
    /// When it was recorded, milliseconds since 1970.
    pub at_ms: u64,
    /// The operation.
    pub operation: &'static str,
    /// The external key.
    pub key: String,
    /// Which log.
    pub boot_id: BootId,
    /// Which entry.
    pub index: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Requests that the policy decided anew.
    pub decided: u64,
    /// Of these, answered then and refused under this policy.
    pub would_be_refused: u64,
    /// Of these, refused by policy then and permitted by this one.
    pub would_be_permitted: u64,
    /// Differences by rule and principal, most requests first.
    pub groups: Vec<Group>,
    /// Differences of further groups.
    pub in_further_groups: u64,
    /// Requests that no policy is asked about: `GetHealthStatus`.
    pub not_asked: u64,
    /// Requests that were refused for another reason, and would be again.
    pub refused_otherwise: u64,
    /// Requests of which the record lacks what a policy may ask about: the body could not be read, or refusals alike were summed up.
    pub undecided: u64,
    /// Decided requests of which a text is as long as records keep, so that it may have been cut.
    pub maybe_cut: u64,
    /// Records that the reader's key does not open.
    pub unopened: u64,
    /// What is known of the log itself.
    pub log: Standing,
}

impl ReplayReport {
    /// Whether this policy would have changed nothing.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.would_be_refused == 0 && self.would_be_permitted == 0
    }
}

/// A policy on its way through a log.
pub struct Replay<'p> {
    policy: &'p Policy,
    groups: BTreeMap<Key, (u64, Vec<Example>)>,
    report: ReplayReport,
}

impl<'p> Replay<'p> {
    /// At the beginning.
    #[must_use]
    pub const fn of(policy: &'p Policy, log: Standing) -> Self {
        let report = ReplayReport {
            decided: 0,
            would_be_refused: 0,
            would_be_permitted: 0,
            groups: Vec::new(),
            in_further_groups: 0,
            not_asked: 0,
            refused_otherwise: 0,
            undecided: 0,
            maybe_cut: 0,
            unopened: 0,
            log,
        };
        Self { policy, groups: BTreeMap::new(), report }
    }

    /// Decides on a record, if it is one of a request.
    pub fn take(&mut self, line: &Line) {
        let Event::Request(request) = &line.record.what else { return };
        // Refusals alike have one record.
        let number = u64::from(request.count.unwrap_or(1));
        let count = |total: &mut u64| *total = total.saturating_add(number);
        let operation = match request.operation {
            Recorded::Encrypt => Operation::Encrypt,
            Recorded::Decrypt => Operation::Decrypt,
            Recorded::GetKeyMetadata => Operation::GetKeyMetadata,
            Recorded::GetHealthStatus => return count(&mut self.report.not_asked),
        };
        // The policy alone answers so.
        let was_answered = match request.error {
            None => true,
            Some(ErrorName::AccessDeniedException) => false,
            Some(_) => return count(&mut self.report.refused_otherwise),
        };
        let Some(attributes) = attributes(operation, request, line.record.at_ms) else {
            return count(&mut self.report.undecided);
        };
        count(&mut self.report.decided);
        if is_maybe_cut(request) {
            count(&mut self.report.maybe_cut);
        }
        let decision = self.policy.decide(&attributes);
        let change = match (was_answered, decision.is_permitted()) {
            (true, false) => Change::WouldBeRefused,
            (false, true) => Change::WouldBePermitted,
            (true, true) | (false, false) => return,
        };
        count(match change {
            Change::WouldBeRefused => &mut self.report.would_be_refused,
            Change::WouldBePermitted => &mut self.report.would_be_permitted,
        });
        let key = Key {
            change,
            rule: decision.rule.as_deref().map(str::to_owned),
            reason: reason(decision.ground),
            recorded_rule: request.rule.clone(),
            principal: attributes.principal.to_owned(),
        };
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            return count(&mut self.report.in_further_groups);
        }
        let (requests, examples) = self.groups.entry(key).or_default();
        count(requests);
        if examples.len() < EXAMPLES_MAX {
            examples.push(Example {
                kms_request_id: request.kms_request_id.clone(),
                at_ms: line.record.at_ms,
                operation: request.operation.as_str(),
                key: attributes.external_key_id.to_owned(),
                boot_id: line.log.boot_id,
                index: line.index,
            });
        }
    }

    /// What came of it. `unopened` records were not shown.
    #[must_use]
    pub fn finish(mut self, unopened: u64) -> ReplayReport {
        let group = |(key, (requests, examples)): (Key, _)| {
            let Key { change, rule, reason, recorded_rule, principal } = key;
            Group { change, requests, rule, reason, recorded_rule, principal, examples }
        };
        self.report.groups = self.groups.into_iter().map(group).collect();
        self.report.groups.sort_by_key(|group| (group.change, core::cmp::Reverse(group.requests)));
        self.report.unopened = unopened;
        self.report
    }
}

fn attributes(operation: Operation, request: &RequestRecord, at_ms: u64) -> Option<Attributes<'_>> {
    Some(Attributes {
        operation,
        external_key_id: request.key.as_ref()?.as_str(),
        principal: request.principal.as_deref()?,
        kms_operation: request.kms_operation.as_deref()?,
        kms_key_arn: request.kms_key_arn.as_deref(),
        via_service: request.via_service.as_deref(),
        source_vpc: request.source_vpc.as_deref(),
        source_vpce: request.source_vpce.as_deref(),
        access_key_id: request.access_key_id.as_str(),
        time_ms: at_ms,
    })
}

fn is_maybe_cut(request: &RequestRecord) -> bool {
    let texts = [
        &request.principal,
        &request.kms_operation,
        &request.kms_key_arn,
        &request.via_service,
        &request.source_vpc,
        &request.source_vpce,
    ];
    texts.into_iter().flatten().any(|text| text.len() >= CUT_FROM)
}

/// `request`, or `requests`.
fn requests(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let these = |count: u64| if count == 1 { "this" } else { "these" };
        if self.would_be_refused > 0 {
            let count = self.would_be_refused;
            writeln!(f, "{} {} would have been refused:", these(count), requests(count))?;
            self.write_groups(f, Change::WouldBeRefused)?;
        }
        if self.would_be_permitted > 0 {
            let count = self.would_be_permitted;
            writeln!(f, "{} {}, refused then, would have been permitted:", these(count), requests(count))?;
            self.write_groups(f, Change::WouldBePermitted)?;
        }
        if self.in_further_groups > 0 {
            writeln!(f, "  {} in further groups", self.in_further_groups)?;
        }
        for (count, what) in [
            (self.not_asked, "about which no policy is asked (GetHealthStatus)"),
            (self.refused_otherwise, "refused for another reason, before or after the policy was asked"),
            (
                self.undecided,
                "could not be decided: their records lack principal, KMS operation or key, as those of refusals that were summed up do",
            ),
            (self.maybe_cut, "decided on a text that may have been cut at 2048 bytes"),
        ] {
            if count > 0 {
                writeln!(f, "{} {what}", requests(count))?;
            }
        }
        if self.unopened > 0 {
            writeln!(f, "{} records do not open with this key and were left out", self.unopened)?;
        }
        write!(f, "{}", self.log)?;
        let end = if self.is_same() { ": no difference" } else { "" };
        write!(f, "{} decided anew{end}", requests(self.decided))
    }
}

impl ReplayReport {
    fn write_groups(&self, f: &mut fmt::Formatter<'_>, change: Change) -> fmt::Result {
        let named =
            |rule: &Option<String>| rule.as_deref().map_or_else(String::new, |rule| format!(" by {}", printable(rule)));
        for group in self.groups.iter().filter(|group| group.change == change) {
            writeln!(f, "  {:>8}  {}", group.requests, printable(&group.principal))?;
            writeln!(
                f,
                "            {}{}; then{}",
                group.reason,
                named(&group.rule),
                match &group.recorded_rule {
                    Some(_) => format!(" decided{}", named(&group.recorded_rule)),
                    None => " no rule decided".to_owned(),
                }
            )?;
            for example in &group.examples {
                let request = example.kms_request_id.as_deref().unwrap_or("-");
                writeln!(
                    f,
                    "            {} {} key={} request={}",
                    format_ms(example.at_ms),
                    example.operation,
                    printable(&example.key),
                    printable(request)
                )?;
            }
        }
        Ok(())
    }
}
