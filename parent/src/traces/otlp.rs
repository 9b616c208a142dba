//! Traces as OTLP has them: `ExportTraceServiceRequest` in its JSON encoding (OTLP 1.9, "JSON Protobuf Encoding": ids in hexadecimal,
//! numbers of 64 bits as decimal strings, enumerations as numbers).
//!
//! Guarantees: a span's id is neither zero nor used twice; the spans of stages follow one another and lie within that of their request,
//! if the enclave's numbers do. A request's trace id is its `kmsRequestId`, where that is a UUID, so that it can be looked up.

use core::hash::BuildHasher;
use std::collections::BTreeMap;
use std::hash::RandomState;
use std::time::Duration;

use holdfast_link::BootId;
use holdfast_link::control::{RequestTrace, STAGES};
use serde::Serialize;

use super::Told;
use crate::metrics::Labels;

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`
const ERROR: u8 = 2;
/// What is the service's fault and not the caller's, as for the alert on it.
const FAULTS: [&str; 2] = ["InternalException", "DependencyTimeoutException"];

/// Makes ids. They are no secrets: it is enough that nobody makes the same ones.
#[derive(Debug, Default)]
pub(super) struct Ids {
    random: RandomState,
    made: u64,
}

impl Ids {
    fn next(&mut self) -> u64 {
        loop {
            self.made = self.made.wrapping_add(1);
            match self.random.hash_one(self.made) {
                0 => {}
                id => return id,
            }
        }
    }

    /// From a half of it to all of it, so that parents whose collector was away do not come back together.
    pub(super) fn vary(&mut self, pause: Duration) -> Duration {
        let half = pause / 2;
        let most = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half.saturating_add(Duration::from_millis(self.next() % most))
    }

    fn span(&mut self) -> String {
        format!("{:016x}", self.next())
    }

    fn trace(&mut self, trace: &RequestTrace) -> String {
        let known = trace.kms_request_id.as_ref().and_then(|id| of_uuid(id.as_str()));
        known.unwrap_or_else(|| format!("{:016x}{:016x}", self.next(), self.next()))
    }
}

/// The digits of a UUID in its usual form, if not all of them are zero.
fn of_uuid(text: &str) -> Option<String> {
    let is_uuid = text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let digits = text.replace('-', "").to_ascii_lowercase();
    (is_uuid && digits.bytes().any(|digit| digit != b'0')).then_some(digits)
}

/// A request to the collector.
pub(super) struct Export {
    pub(super) json: Vec<u8>,
    pub(super) spans: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'t> {
    resource_spans: Vec<ResourceSpans<'t>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'t> {
    resource: Resource,
    scope_spans: [ScopeSpans<'t>; 1],
}

#[derive(Serialize)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct ScopeSpans<'t> {
    scope: Scope,
    spans: Vec<Span<'t>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are those of the protocol")]
struct Span<'t> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: &'t str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

#[derive(Serialize)]
struct Attribute {
    key: &'static str,
    value: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    string_value: String,
}

fn attribute(key: &'static str, value: &str) -> Attribute {
    Attribute { key, value: Value { string_value: value.to_owned() } }
}

fn nanoseconds(microseconds: u64) -> String {
    microseconds.saturating_mul(1000).to_string()
}

/// Spans that a trace becomes: one of the request, and one of each stage but the last, which is the total.
pub(super) fn spans_of(trace: &RequestTrace) -> u64 {
    stages(trace).fold(1, |count, _| count + 1)
}

fn stages(trace: &RequestTrace) -> impl Iterator<Item = (&'static str, u64)> {
    let [stages @ .., _total] = trace.stages_us;
    STAGES.into_iter().zip(stages).filter_map(|(name, took_us)| Some((name, took_us?)))
}

/// Traces, as one request to the collector.
pub(super) fn encode(batch: &[Told], ids: &mut Ids, labels: &Labels) -> Export {
    let mut by_boot: BTreeMap<BootId, Vec<Span<'_>>> = BTreeMap::new();
    for told in batch {
        add(by_boot.entry(told.boot_id).or_default(), told, ids, labels);
    }
    let spans = by_boot.values().map(Vec::len).sum::<usize>();
    let resource_spans = by_boot.into_iter().map(|(boot_id, spans)| of_boot(boot_id, spans)).collect();
    // Writing to memory does not fail, nor have these types anything that JSON has no form for.
    let json = serde_json::to_vec(&Request { resource_spans }).unwrap_or_default();
    Export { json, spans: u64::try_from(spans).unwrap_or(u64::MAX) }
}

fn of_boot(boot_id: BootId, spans: Vec<Span<'_>>) -> ResourceSpans<'_> {
    let attributes =
        vec![attribute("service.name", "holdfast"), attribute("service.instance.id", &boot_id.to_string())];
    let scope = Scope { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
    ResourceSpans { resource: Resource { attributes }, scope_spans: [ScopeSpans { scope, spans }] }
}

/// The request's span, and those of its stages as its children.
fn add<'t>(spans: &mut Vec<Span<'t>>, told: &'t Told, ids: &mut Ids, labels: &Labels) {
    let trace = &told.trace;
    let (trace_id, span_id) = (ids.trace(trace), ids.span());
    let [.., total_us] = trace.stages_us;
    let outcome = trace.outcome.as_str();
    let mut attributes = vec![
        attribute("holdfast.slot", told.slot.name()),
        attribute("holdfast.key_store", labels.get(&trace.key_store_id).map_or("", String::as_str)),
        attribute("holdfast.outcome", outcome),
    ];
    if let Some(id) = &trace.kms_request_id {
        attributes.push(attribute("holdfast.kms_request_id", id.as_str()));
    }
    if outcome != "success" {
        attributes.push(attribute("error.type", outcome));
    }
    let mut at_us = trace.began_us;
    let end_us = at_us.saturating_add(total_us.unwrap_or(0));
    spans.push(Span {
        trace_id: trace_id.clone(),
        span_id: span_id.clone(),
        parent_span_id: None,
        name: trace.operation.as_str(),
        kind: SERVER,
        start_time_unix_nano: nanoseconds(at_us),
        end_time_unix_nano: nanoseconds(end_us),
        attributes,
        status: FAULTS.contains(&outcome).then_some(Status { code: ERROR }),
    });
    for (name, took_us) in stages(trace) {
        let start_us = at_us;
        at_us = at_us.saturating_add(took_us);
        spans.push(Span {
            trace_id: trace_id.clone(),
            span_id: ids.span(),
            parent_span_id: Some(span_id.clone()),
            name,
            kind: INTERNAL,
            start_time_unix_nano: nanoseconds(start_us),
            end_time_unix_nano: nanoseconds(at_us),
            attributes: Vec::new(),
            status: None,
        });
    }
}
