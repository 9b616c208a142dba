//! CloudTrail's files: what AWS says of calls that use keys of external key stores.
//!
//! Files are taken as AWS delivers them ("CloudTrail log file examples": `{"Records": […]}` in JSON, compressed with gzip or not), by
//! name or in folders. A call of KMS for a key in an external key store has `customKeyStoreId` and `xksKeyId` in `additionalEventData`
//! (AWS KMS Developer Guide, "Decrypt with a KMS key in an external key store"); `CreateKey` has them in `requestParameters`. Its
//! `requestID` is what the proxy gets as `kmsRequestId` (specification, "`requestMetadata`").
//!
//! Guarantees: files are decompressed and parsed event by event. Assumes: AWS wrote them; `aws cloudtrail validate-logs` shows that
//! nobody changed them since. Refuses: files over [`FILE_MAX`], more than [`FILES_MAX`] files or [`EVENTS_MAX`] events, and whatever is
//! not JSON.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use holdfast_shared::audit::cut;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::folder::shown;
use crate::moment::parse_ms;
use crate::output::printable;

/// Bytes of one file, decompressed. CloudTrail writes one each five minutes or so for an account and region.
pub const FILE_MAX: u64 = 128 * 1024 * 1024;
/// Files: a year of one region has 105,120 of five minutes each.
pub const FILES_MAX: usize = 1_000_000;
/// Folders inside each other; CloudTrail's own are eight deep, below the bucket.
const DEPTH_MAX: usize = 16;
/// Events that are kept, at some 150 bytes each: an hour at the default limit of KMS (1,800 per second) has 6.5 million.
pub const EVENTS_MAX: usize = 10_000_000;
/// Bytes of each text that is kept, as in records.
const TEXT_MAX: usize = 2048;
/// KMS keys of one call: `ReEncrypt` has two.
const VIEW_KEYS_MAX: usize = 8;
/// Trails in which a call is: the caller's, the key's, the organisation's.
const VIEWS_MAX: usize = 8;
/// The folder of digests, which have no events.
const DIGESTS: &str = "CloudTrail-Digest";

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CloudTrailError {
    /// A file or folder.
    #[error("cannot read {path}: {source}", path = shown(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not what CloudTrail writes.
    #[error("{path} is no file of CloudTrail's: {reason}", path = shown(path), reason = printable(reason))]
    Strange {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Too much at once.
    #[error("there are more than {0}; compare shorter times, with fewer files or --since and --until")]
    TooMany(&'static str),
}

/// A call of KMS, as one account's trail has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// `eventName`: the KMS operation.
    pub name: String,
    /// `awsRegion`.
    pub region: String,
    /// `errorCode`; nothing for a success.
    pub error: Option<String>,
    /// Who called, by all names: `userIdentity.arn`, the role behind a session, or a service.
    pub callers: Vec<String>,
    /// The caller's account.
    pub account: Option<String>,
    /// ARNs of KMS keys.
    pub key_arns: Vec<String>,
    /// The external key.
    pub external_key: Option<String>,
    /// The key store, by KMS's name: `cks-…`.
    pub custom_key_store: Option<String>,
}

impl View {
    fn is_too_long(&self, id: &str) -> bool {
        let optional = [&self.error, &self.account, &self.external_key, &self.custom_key_store];
        let texts = [&self.name, &self.region].into_iter().chain(optional.into_iter().flatten());
        let mut texts = texts.chain(&self.callers).chain(&self.key_arns).map(String::as_str).chain([id]);
        texts.any(|text| text.len() > TEXT_MAX) || self.key_arns.len() > VIEW_KEYS_MAX
    }
}

/// A call of KMS.
#[derive(Clone, Debug)]
pub struct Call {
    /// `eventTime`, milliseconds since 1970; it counts seconds.
    pub at_ms: u64,
    /// Calls across accounts are in the trails of both.
    pub views: Vec<Rc<View>>,
    /// What the log says of it, as far as it was read.
    pub met: Met,
    /// How many requests of it were answered, as far as the log was read.
    pub answers: u32,
}

/// Whether a call is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    /// It is not.
    Nowhere,
    /// Every request of it was refused.
    Refused,
    /// A request of it was answered.
    Answered,
}

impl Call {
    /// Answers that it can have had: one, and as many again, since KMS asks once more where none came in time. `ReEncrypt` asks twice.
    #[must_use]
    pub fn answers_max(&self) -> u32 {
        if self.views.iter().any(|view| view.name == "ReEncrypt") { 4 } else { 2 }
    }

    /// Whether KMS says that it succeeded.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.views.iter().any(|view| view.error.is_none())
    }
}

/// Of a region: the oldest and the newest event of any service.
pub type Coverage = BTreeMap<String, (u64, u64)>;

/// What CloudTrail says.
#[derive(Debug, Default)]
pub struct CloudTrail {
    /// Files with events.
    pub files: u64,
    /// Files without, such as digests.
    pub other_files: u64,
    /// Events of all services.
    pub events: u64,
    /// By `requestID`.
    pub calls: HashMap<Box<str>, Call>,
    /// How far the files reach.
    pub coverage: Coverage,
    views: HashSet<Rc<View>>,
}

/// A file on disk.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// The files that `paths` name: files, and folders with all that is in them. Links inside folders are not followed.
///
/// # Errors
/// [`CloudTrailError`].
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, CloudTrailError> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|source| CloudTrailError::Read { path: path.clone(), source })?;
        if metadata.is_dir() {
            walk(path, DEPTH_MAX, &mut found)?;
        } else {
            found.push(Source { path: path.clone(), size: metadata.len() });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found.dedup_by(|one, other| one.path == other.path);
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<Source>) -> Result<(), CloudTrailError> {
    let failed = |source| CloudTrailError::Read { path: folder.to_owned(), source };
    let Some(depth) = depth.checked_sub(1) else {
        return Err(CloudTrailError::TooMany("16 folders inside each other"));
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (kind, name) = (entry.file_type().map_err(failed)?, entry.file_name());
        let name = name.to_string_lossy();
        if kind.is_dir() && name != DIGESTS {
            walk(&entry.path(), depth, found)?;
        } else if kind.is_file() && (name.ends_with(".json") || name.ends_with(".json.gz")) {
            let size = entry.metadata().map_err(failed)?.len();
            found.push(Source { path: entry.path(), size });
        }
        if found.len() > FILES_MAX {
            return Err(CloudTrailError::TooMany("1000000 files"));
        }
    }
    Ok(())
}

impl CloudTrail {
    /// Reads a file. Calls before `since_ms` or from `until_ms` on are not kept.
    ///
    /// # Errors
    /// [`CloudTrailError`].
    pub fn read(&mut self, source: &Source, since_ms: u64, until_ms: u64) -> Result<(), CloudTrailError> {
        let failed = |error| CloudTrailError::Read { path: source.path.clone(), source: error };
        let file = File::open(&source.path).map_err(failed)?;
        self.read_from(BufReader::new(file), since_ms, until_ms).map_err(|error| match error {
            Failure::Read(error) => failed(error),
            Failure::Strange(reason) => CloudTrailError::Strange { path: source.path.clone(), reason },
            Failure::TooMany => CloudTrailError::TooMany("10000000 events of keys in external key stores"),
        })
    }

    fn read_from(&mut self, mut source: BufReader<impl Read>, since_ms: u64, until_ms: u64) -> Result<(), Failure> {
        let is_compressed = source.fill_buf().map_err(Failure::Read)?.starts_with(&[0x1F, 0x8B]);
        let bytes: Box<dyn Read> = if is_compressed { Box::new(MultiGzDecoder::new(source)) } else { Box::new(source) };
        let mut bounded = bytes.take(FILE_MAX.saturating_add(1));
        let (mut has_events, mut stopped) = (false, None);
        let mut take = |event: &Value| {
            has_events = true;
            self.take(event, since_ms, until_ms).map_err(|failure| stopped = Some(failure))
        };
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(&mut bounded));
        let parsed = Events(&mut take).deserialize(&mut json).and_then(|()| json.end());
        drop(json);
        if bounded.limit() == 0 {
            return Err(Failure::Strange("it has more than 128 MiB".to_owned()));
        }
        if let Some(failure) = stopped {
            return Err(failure);
        }
        parsed.map_err(|error| Failure::Strange(error.to_string()))?;
        let files = if has_events { &mut self.files } else { &mut self.other_files };
        *files = files.saturating_add(1);
        Ok(())
    }

    fn take(&mut self, event: &Value, since_ms: u64, until_ms: u64) -> Result<(), Failure> {
        let text = |path: &[&str]| {
            let found = path.iter().try_fold(event, |value, name| value.get(name));
            found.and_then(Value::as_str).map(str::to_owned)
        };
        self.events = self.events.saturating_add(1);
        let at_ms = text(&["eventTime"]).ok_or_else(|| Failure::Strange("an event has no eventTime".to_owned()))?;
        let at_ms = parse_ms(&at_ms).map_err(|reason| Failure::Strange(format!("eventTime: {reason}")))?;
        let region = text(&["awsRegion"]).unwrap_or_default();
        if let Some((first, last)) = self.coverage.get_mut(&region) {
            (*first, *last) = (at_ms.min(*first), at_ms.max(*last));
        } else {
            self.coverage.insert(region.clone(), (at_ms, at_ms));
        }
        let name = text(&["eventName"]).unwrap_or_default();
        let of = |name: &str| text(&["additionalEventData", name]).or_else(|| text(&["requestParameters", name]));
        let (external_key, custom_key_store) = (of("xksKeyId"), of("customKeyStoreId"));
        // DescribeKey names no external key, and may ask the proxy for it.
        let is_wanted = external_key.is_some() || name == "DescribeKey" || name == "ReEncrypt";
        let id = text(&["requestID"])
            .filter(|_| is_wanted && text(&["eventSource"]).as_deref() == Some("kms.amazonaws.com"));
        let Some(id) = id.filter(|_| (since_ms..until_ms).contains(&at_ms)) else { return Ok(()) };
        let service = text(&["userIdentity", "invokedBy"])
            .filter(|_| text(&["userIdentity", "type"]).as_deref() == Some("AWSService"));
        let issuer = text(&["userIdentity", "sessionContext", "sessionIssuer", "arn"]);
        let resources = event.get("resources").and_then(Value::as_array).into_iter().flatten();
        let resources = resources.filter_map(|resource| resource.get("ARN").and_then(Value::as_str)).map(str::to_owned);
        let parameter = text(&["requestParameters", "keyId"]).filter(|id| id.starts_with("arn:"));
        let view = View {
            name,
            region,
            error: text(&["errorCode"]),
            callers: [text(&["userIdentity", "arn"]), issuer, service].into_iter().flatten().collect(),
            account: text(&["userIdentity", "accountId"]),
            key_arns: resources.chain(parameter).collect(),
            external_key,
            custom_key_store,
        };
        self.keep(id, at_ms, view)
    }

    fn keep(&mut self, id: String, at_ms: u64, view: View) -> Result<(), Failure> {
        if view.is_too_long(&id) {
            let reason = format!("the event of request {} has a text that is too long", cut(&id, 64));
            return Err(Failure::Strange(reason));
        }
        if self.calls.len() >= EVENTS_MAX && !self.calls.contains_key(id.as_str()) {
            return Err(Failure::TooMany);
        }
        // Most calls are alike: one role uses one key, again and again.
        let view = self.views.get(&view).cloned().unwrap_or_else(|| {
            let view = Rc::new(view);
            self.views.insert(Rc::clone(&view));
            view
        });
        let call = self.calls.entry(id.into_boxed_str()).or_insert_with(|| Call {
            at_ms,
            views: Vec::new(),
            met: Met::Nowhere,
            answers: 0,
        });
        // An event may be delivered more than once.
        if !call.views.contains(&view) && call.views.len() < VIEWS_MAX {
            call.views.push(view);
        }
        Ok(())
    }
}

enum Failure {
    Read(io::Error),
    Strange(String),
    TooMany,
}

/// `{"Records": [event…], …}`, event by event; other members are skipped.
struct Events<'f>(&'f mut dyn FnMut(&Value) -> Result<(), ()>);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("an object with Records")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name == "Records" {
                members.next_value_seed(Records(&mut *self.0))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Records<'f>(&'f mut dyn FnMut(&Value) -> Result<(), ()>);

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        while let Some(event) = events.next_element::<Value>()? {
            (self.0)(&event).map_err(|()| serde::de::Error::custom("stopped"))?;
        }
        Ok(())
    }
}
