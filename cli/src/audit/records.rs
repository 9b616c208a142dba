//! Records, opened with a reader's key, in the order of the log.
//!
//! Guarantees: a record is shown at the place at which it opens. Whether the log is whole is for [`super::verify`] to say.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use holdfast_shared::audit::{Event, LogId, Operation, Record, RequestRecord};
use holdfast_shared::ids::BootId;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

pub use self::cursor::{Cursor, Unopened, cursors};
use crate::moment::format_ms;
use crate::output::printable;

mod cursor;

/// A record and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which log.
    pub log: LogId,
    /// Which entry.
    pub index: u64,
    /// What it holds.
    pub record: Record,
}

/// The newest records, of all logs together.
#[derive(Debug)]
pub struct Newest {
    count: usize,
    lines: BTreeMap<(u64, BootId, u64), Line>,
}

impl Newest {
    /// At most so many.
    #[must_use]
    pub const fn of(count: usize) -> Self {
        Self { count, lines: BTreeMap::new() }
    }

    /// Takes a record, in any order.
    pub fn take(&mut self, line: Line) {
        self.lines.insert((line.record.at_ms, line.log.boot_id, line.index), line);
        if self.lines.len() > self.count {
            self.lines.pop_first();
        }
    }

    /// By their time.
    pub fn into_lines(self) -> impl Iterator<Item = Line> {
        self.lines.into_values()
    }
}

/// Which records are wanted: those that satisfy all that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `awsPrincipalArn`; `*` stands for any characters.
    pub principal: Option<String>,
    /// The external key.
    pub key: Option<String>,
    /// The operation.
    pub operation: Option<Operation>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// Not before this moment, milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Before this moment.
    pub until_ms: Option<u64>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with 200.
    Success,
    /// It was answered with an error.
    Refused,
    /// With this error.
    Error(String),
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = holdfast_shared::xks::ErrorName::ALL.map(holdfast_shared::xks::ErrorName::as_str);
        match text {
            "success" => Ok(Self::Success),
            "refused" => Ok(Self::Refused),
            name if names.contains(&name) => Ok(Self::Error(name.to_owned())),
            _ => Err(format!("expected success, refused, or one of {}", names.join(", "))),
        }
    }
}

/// An operation by its name in the specification. A slip of the pen would otherwise find nothing, which looks like an answer.
///
/// # Errors
/// The names that there are.
pub fn parse_operation(text: &str) -> Result<Operation, String> {
    use Operation::{Decrypt, Encrypt, GetHealthStatus, GetKeyMetadata};
    let mut all = [Encrypt, Decrypt, GetKeyMetadata, GetHealthStatus].into_iter();
    all.find(|operation| operation.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| "expected Encrypt, Decrypt, GetKeyMetadata or GetHealthStatus".to_owned())
}

impl Filter {
    /// Whether a record is wanted.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        let in_time = self.since_ms.is_none_or(|since| record.at_ms >= since)
            && self.until_ms.is_none_or(|until| record.at_ms < until);
        let asks_for_requests =
            self.principal.is_some() || self.key.is_some() || self.operation.is_some() || self.outcome.is_some();
        in_time
            && match &record.what {
                Event::Request(request) => self.takes_request(request),
                _ => !asks_for_requests,
            }
    }

    fn takes_request(&self, request: &RequestRecord) -> bool {
        let principal = request.principal.as_deref().unwrap_or_default();
        let error = request.error.map(holdfast_shared::xks::ErrorName::as_str);
        self.principal.as_ref().is_none_or(|pattern| matches(pattern, principal))
            && self.key.as_ref().is_none_or(|key| request.key.as_ref().is_some_and(|own| own.as_str() == key))
            && self.operation.is_none_or(|operation| request.operation == operation)
            && match &self.outcome {
                None => true,
                Some(Outcome::Success) => error.is_none(),
                Some(Outcome::Refused) => error.is_some(),
                Some(Outcome::Error(name)) => error == Some(name),
            }
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any characters. Each part is looked for once, so it ends soon.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = event(&self.record.what);
        if let Value::Object(members) = &mut value {
            members.retain(|_, member| !member.is_null());
            members.insert("boot_id".to_owned(), json!(self.log.boot_id));
            members.insert("index".to_owned(), json!(self.index));
            members.insert("at_ms".to_owned(), json!(self.record.at_ms));
        }
        value.serialize(serializer)
    }
}

fn event(event: &Event) -> Value {
    match event {
        Event::Request(request) => json!({
            "event": "request",
            "operation": request.operation.as_str(),
            "key": request.key.as_ref().map(ToString::to_string),
            "key_version": request.key_version,
            "outcome": request.error.map_or("success", holdfast_shared::xks::ErrorName::as_str),
            "rule": request.rule,
            "latency_us": request.latency_us,
            "access_key_id": request.access_key_id.to_string(),
            "kms_request_id": request.kms_request_id,
            "kms_operation": request.kms_operation,
            "principal": request.principal,
            "kms_key_arn": request.kms_key_arn,
            "via_service": request.via_service,
            "source_vpc": request.source_vpc,
            "source_vpce": request.source_vpce,
            "count": request.count,
        }),
        Event::Version { version, blob_id, commands } => {
            json!({ "event": "version", "version": version, "blob_id": blob_id, "commands": commands })
        }
        Event::Overlay { epoch, store, key_count, keys } => json!({
            "event": "overlay",
            "epoch": epoch,
            "store": store,
            "key_count": key_count,
            "keys": keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Event::Lease { granted, custodian_id, expires_in_ms } => json!({
            "event": "lease", "granted": granted, "custodian_id": custodian_id, "expires_in_ms": expires_in_ms,
        }),
        Event::Uncounted { refused_unauthenticated } => {
            json!({ "event": "uncounted", "refused_unauthenticated": refused_unauthenticated })
        }
        Event::Setting { settings } => json!({
            "event": "setting",
            "auditors": settings.as_ref().map(|it| it.auditors.iter().map(|auditor| &auditor.name).collect::<Vec<_>>()),
            "administrators_read": settings.as_ref().map(|it| it.administrators_read),
        }),
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = self.log.boot_id.to_string();
        let boot = boot.get(..8).unwrap_or(&boot);
        write!(f, "{} {boot}/{} ", format_ms(self.record.at_ms), self.index)?;
        match &self.record.what {
            Event::Request(request) => write_request(f, request),
            Event::Version { version, .. } => write!(f, "version {version} came into service"),
            Event::Overlay { epoch, store: true, .. } => write!(f, "block overlay {epoch}: the whole key store"),
            Event::Overlay { epoch, key_count, .. } => write!(f, "block overlay {epoch}: {key_count} keys"),
            Event::Lease { granted: true, custodian_id, expires_in_ms } => {
                write!(f, "lease of custodian {custodian_id} for {} s", expires_in_ms / 1000)
            }
            Event::Lease { custodian_id, .. } => write!(f, "lease of custodian {custodian_id} ended"),
            Event::Uncounted { refused_unauthenticated } => {
                write!(f, "{refused_unauthenticated} requests without a valid signature")
            }
            Event::Setting { .. } => write!(f, "other audit settings"),
        }
    }
}

fn write_request(f: &mut fmt::Formatter<'_>, request: &RequestRecord) -> fmt::Result {
    let outcome = request.error.map_or("success", holdfast_shared::xks::ErrorName::as_str);
    write!(f, "{} {outcome}", Operation::as_str(request.operation))?;
    if let Some(key) = &request.key {
        write!(f, " key={key}")?;
    }
    if let Some(version) = request.key_version {
        write!(f, " version={version}")?;
    }
    let texts = [
        ("principal", &request.principal),
        ("operation", &request.kms_operation),
        ("via", &request.via_service),
        ("vpc", &request.source_vpc),
        ("rule", &request.rule),
        ("request", &request.kms_request_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            write!(f, " {name}={}", printable(text))?;
        }
    }
    if let Some(count) = request.count {
        write!(f, " {count} times,")?;
    }
    write!(f, " {} us", request.latency_us)
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::{BootId, KeyStoreId};
    use holdfast_shared::xks::ErrorName;

    use super::*;

    #[test]
    fn refusals_that_were_counted_together_say_how_many() {
        let request = RequestRecord {
            error: Some(ErrorName::AccessDeniedException),
            count: Some(17),
            ..RequestRecord::new(Operation::Decrypt, "A".repeat(20).parse().unwrap())
        };
        let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
        let line = |count| {
            let request = RequestRecord { count, ..request.clone() };
            Line { log, index: 3, record: Record { at_ms: 0, what: Event::Request(Box::new(request)) } }
        };
        assert!(line(Some(17)).to_string().ends_with("Decrypt AccessDeniedException 17 times, 0 us"));
        assert!(line(None).to_string().ends_with("Decrypt AccessDeniedException 0 us"));
        assert_eq!(serde_json::to_value(line(Some(17))).unwrap()["count"], 17);
        assert_eq!(serde_json::to_value(line(None)).unwrap().get("count"), None);
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("arn:aws:*:role/*", "arn:aws:iam::1:role/x", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
