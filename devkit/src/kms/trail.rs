//! Events as CloudTrail writes them, for `holdfast audit reconcile`.
//!
//! Guarantees: an event is in a file before the call is answered; files are whole at any time (`{"Records": [event…]}`), also after the
//! emulator was killed; no plaintext, ciphertext or credential is in them. Assumes: one emulator to a folder.
//!
//! An event's members are those of AWS's examples ("Log entries for external key stores", "CloudTrail record contents"); what only AWS could
//! know is left out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use holdfast_cli::moment::format_ms;
use serde_json::{Map, Value, json};

use super::KmsError;
use super::parameters::camel;
use crate::aws_json::uuid;

const HEAD: &str = "{\"Records\":[";
const TAIL: &str = "\n]}\n";
/// Bytes after which the next file begins.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// Parameters that are written. Others may hold anything: what is secret, and what no operation knows.
const SHOWN: [&str; 35] = [
    "AliasName",
    "BypassPolicyLockoutSafetyCheck",
    "CustomKeyStoreId",
    "CustomKeyStoreName",
    "CustomKeyStoreType",
    "CustomerMasterKeySpec",
    "Description",
    "DestinationEncryptionAlgorithm",
    "DestinationEncryptionContext",
    "DestinationKeyId",
    "DryRun",
    "EncryptionAlgorithm",
    "EncryptionContext",
    "KeyId",
    "KeySpec",
    "KeyUsage",
    "Limit",
    "Marker",
    "MultiRegion",
    "NewCustomKeyStoreName",
    "NumberOfBytes",
    "Origin",
    "PendingWindowInDays",
    "Policy",
    "SourceEncryptionAlgorithm",
    "SourceEncryptionContext",
    "SourceKeyId",
    "Tags",
    "TargetKeyId",
    "XksKeyId",
    "XksProxyConnectivity",
    "XksProxyUriEndpoint",
    "XksProxyUriPath",
    "XksProxyVpcEndpointServiceName",
    "XksProxyVpcEndpointServiceOwner",
];

/// What an operation leaves for its event.
#[derive(Debug, Default)]
pub struct Marks {
    /// ARNs of keys.
    pub keys: Vec<String>,
    /// `customKeyStoreId` of `additionalEventData`.
    pub custom_key_store_id: Option<String>,
    /// `xksKeyId` of `additionalEventData`.
    pub xks_key_id: Option<String>,
    /// `responseElements`.
    pub response: Option<Value>,
}

/// A call.
pub struct Event<'a> {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// `eventName`.
    pub operation: &'a str,
    /// `requestID`.
    pub request_id: &'a str,
    /// `userIdentity.arn`.
    pub principal_arn: &'a str,
    /// `userIdentity.accessKeyId`.
    pub access_key_id: &'a str,
    /// Region.
    pub region: &'a str,
    /// Account.
    pub account: &'a str,
    /// `userAgent`.
    pub user_agent: &'a str,
    /// The parameters as they came.
    pub parameters: &'a Map<String, Value>,
    /// What the operation left.
    pub marks: &'a Marks,
    /// `errorCode` and `errorMessage`.
    pub error: Option<(&'a str, &'a str)>,
}

impl Event<'_> {
    fn to_json(&self) -> Value {
        let parameters = self.parameters.iter().filter(|(name, _)| SHOWN.contains(&name.as_str()));
        let parameters: Map<String, Value> = parameters.map(|(name, value)| (camel(name), value.clone())).collect();
        let reads = ["Describe", "List", "Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey"];
        let resources = self.marks.keys.iter();
        let resources: Vec<Value> =
            resources.map(|arn| json!({ "accountId": self.account, "type": "AWS::KMS::Key", "ARN": arn })).collect();
        let mut event = json!({
            "eventVersion": "1.11",
            "userIdentity": {
                "type": "IAMUser",
                "arn": self.principal_arn,
                "accountId": self.account,
                "accessKeyId": self.access_key_id,
                "userName": self.principal_arn.rsplit('/').next(),
            },
            "eventTime": format_ms(self.at_ms.saturating_sub(self.at_ms % 1000)),
            "eventSource": "kms.amazonaws.com",
            "eventName": self.operation,
            "awsRegion": self.region,
            "sourceIPAddress": "127.0.0.1",
            "userAgent": self.user_agent,
            "requestParameters": parameters,
            "responseElements": self.marks.response,
            "requestID": self.request_id,
            "eventID": uuid(),
            "readOnly": reads.iter().any(|start| self.operation.starts_with(start)),
            "resources": resources,
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "recipientAccountId": self.account,
            "eventCategory": "Management",
        });
        let mut insert =
            |name: &str, value: Value| event.as_object_mut().map(|fields| fields.insert(name.to_owned(), value));
        if let Some((code, message)) = self.error {
            insert("errorCode", code.into());
            insert("errorMessage", message.into());
        }
        if let (Some(store), Some(key)) = (&self.marks.custom_key_store_id, &self.marks.xks_key_id) {
            insert("additionalEventData", json!({ "customKeyStoreId": store, "xksKeyId": key }));
        }
        event
    }
}

/// The files.
pub struct Trail {
    folder: PathBuf,
    newest: Mutex<Newest>,
}

/// The file that is written.
struct Newest {
    number: u64,
    file: File,
}

impl Trail {
    /// Goes on in the newest file of the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`KmsError::File`].
    pub fn open(folder: PathBuf) -> Result<Self, KmsError> {
        fs::create_dir_all(&folder).map_err(KmsError::at(&folder))?;
        let mut numbers: Vec<u64> = fs::read_dir(&folder)
            .map_err(KmsError::at(&folder))?
            .filter_map(|entry| number(&entry.ok()?.path()))
            .collect();
        numbers.sort_unstable();
        let number = numbers.last().copied().unwrap_or(1);
        let path = path_of(&folder, number);
        let file = open_whole(&path).map_err(KmsError::at(&path))?;
        Ok(Self { folder, newest: Mutex::new(Newest { number, file }) })
    }

    /// Writes an event.
    ///
    /// # Errors
    /// What the disk says. What it took of the event is gone again, if it lets us.
    pub fn write(&self, event: &Event<'_>) -> std::io::Result<()> {
        let mut newest = self.lock();
        if newest.file.metadata()?.len() > FILE_MAX {
            let number = newest.number.saturating_add(1);
            *newest = Newest { number, file: open_whole(&path_of(&self.folder, number))? };
        }
        append(&mut newest.file, &event.to_json().to_string()).inspect_err(|_| {
            if let Ok(file) = open_whole(&path_of(&self.folder, newest.number)) {
                newest.file = file;
            }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("events-{number:06}.json"))
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("events-")?.strip_suffix(".json")?.parse().ok()
}

/// Over the tail, in one write; what a crash leaves of it is mended by [`open_whole`].
fn append(file: &mut File, event: &str) -> std::io::Result<()> {
    let tail = u64::try_from(TAIL.len()).unwrap_or_default();
    let head = u64::try_from(HEAD.len()).unwrap_or_default();
    let end = file.seek(SeekFrom::End(0))?.saturating_sub(tail);
    file.seek(SeekFrom::Start(end))?;
    let comma = if end == head { "" } else { "," };
    file.write_all(format!("{comma}\n{event}{TAIL}").as_bytes())
}

/// Opens a file, begins it if it is new, and mends what a crash broke off: each event is a line, so the whole lines stay.
fn open_whole(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let has_ends = text.starts_with(HEAD) && text.ends_with(TAIL);
    if has_ends && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
        return Ok(file);
    }
    let events: Vec<&str> = text.lines().filter_map(first_object).collect();
    let between = if events.is_empty() { "" } else { "\n" };
    let whole = format!("{HEAD}{between}{}{TAIL}", events.join(",\n"));
    let new = path.with_extension("new");
    let mut mended = File::create(&new)?;
    mended.write_all(whole.as_bytes())?;
    mended.sync_all()?;
    fs::rename(&new, path)?;
    OpenOptions::new().read(true).write(true).open(path)
}

/// The object with which a line begins, whatever follows: what was being written over the tail.
fn first_object(line: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(line).into_iter::<Map<String, Value>>();
    values.next()?.ok()?;
    line.get(..values.byte_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(request_id: &'a str, parameters: &'a Map<String, Value>, marks: &'a Marks) -> Event<'a> {
        Event {
            at_ms: 1_700_000_000_123,
            operation: "Encrypt",
            request_id,
            principal_arn: "arn:aws:iam::111122223333:user/developer",
            access_key_id: "AKIA",
            region: "us-east-1",
            account: "111122223333",
            user_agent: "test",
            parameters,
            marks,
            error: None,
        }
    }

    fn write(trail: &Trail, request_id: &str) {
        let mut parameters = Map::new();
        parameters.insert("KeyId".to_owned(), "alias/a".into());
        // What is secret, and what nobody knows: names in another case, and of operations that are refused.
        for name in ["Plaintext", "CiphertextBlob", "plaintext", "KeyStorePassword", "Message", "GrantTokens"] {
            parameters.insert(name.to_owned(), "c2VjcmV0".into());
        }
        parameters.insert("XksProxyAuthenticationCredential".to_owned(), json!({ "RawSecretAccessKey": "c2VjcmV0" }));
        let marks = Marks {
            keys: vec!["arn:aws:kms:us-east-1:111122223333:key/k".to_owned()],
            custom_key_store_id: Some("cks-1".to_owned()),
            xks_key_id: Some("x".to_owned()),
            response: None,
        };
        trail.write(&event(request_id, &parameters, &marks)).unwrap();
    }

    fn ids(folder: &Path) -> Vec<String> {
        let text = fs::read_to_string(path_of(folder, 1)).unwrap();
        assert!(!text.contains("c2VjcmV0"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        let records = value["Records"].as_array().unwrap();
        records.iter().map(|record| record["requestID"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn after_a_write_that_failed_the_file_is_whole_again() {
        let folder = tempfile::tempdir().unwrap();
        let trail = Trail::open(folder.path().to_owned()).unwrap();
        write(&trail, "one");
        // Half an event, as a full disk leaves it, and no further write.
        let path = path_of(folder.path(), 1);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..whole.len() - TAIL.len()], b",\n{\"eventVer"].concat()).unwrap();
        trail.lock().file = File::open(&path).unwrap();
        trail.write(&event("two", &Map::new(), &Marks::default())).unwrap_err();
        write(&trail, "three");
        assert_eq!(ids(folder.path()), ["one", "three"]);
    }

    #[test]
    fn files_are_whole_after_each_event_and_after_a_crash_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let trail = Trail::open(folder.path().to_owned()).unwrap();
        assert!(ids(folder.path()).is_empty());
        write(&trail, "one");
        assert_eq!(ids(folder.path()), ["one"]);
        let before = fs::read(path_of(folder.path(), 1)).unwrap();
        write(&trail, "two");
        drop(trail);
        let whole = fs::read(path_of(folder.path(), 1)).unwrap();
        let kept = before.len() - TAIL.len();
        for written in kept..=whole.len() {
            // What was written of the second event, over what was there.
            let mut broken = whole[..written].to_vec();
            broken.extend(before.get(written..).unwrap_or_default());
            fs::write(path_of(folder.path(), 1), broken).unwrap();
            let trail = Trail::open(folder.path().to_owned()).unwrap();
            let found = ids(folder.path());
            assert!(found == ["one"] || found == ["one", "two"], "{written}: {found:?}");
            write(&trail, "three");
            assert_eq!(ids(folder.path()).last().unwrap(), "three");
        }
    }
}
