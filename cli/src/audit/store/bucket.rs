//! A place of objects: a bucket of S3's kind, or a folder.
//!
//! Guarantees: [`Bucket::create`] makes an object only where there is none, and [`Bucket::replace`] takes the place of exactly the one that was
//! looked at. In a bucket the service sees to both (`If-None-Match`, `If-Match`), so that two who write at the same time do not undo each
//! other's work; in a folder the look comes right before the write. With each object its SHA-256 is recorded, and S3 holds what arrives
//! against a checksum (which buckets with Object Lock ask for). Assumes: credentials in the environment, or those of the machine.

use core::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, BackoffConfig, Error, GetOptions, GetResult, ObjectMeta, ObjectStore, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};
use ring::digest::{Context, SHA256};

use super::StoreError;
use super::connector::{Connector, cause, is_loopback, is_silent};
use super::content::Content;
use super::names::{FileName, LogName, parse};
use super::place::{Place, Reach};
use crate::audit::folder::FILE_MAX;
use crate::output::printable;

/// The name under which an object's SHA-256 is recorded with it (`x-amz-meta-sha256`).
const SHA256_ATTRIBUTE: &str = "sha256";
/// How often a request is sent again before a whole round waits, and for how long.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of a listing: 160 TB of logs in files of 16 MiB.
const LISTED_MAX: u64 = 10_000_000;
/// How the library begins to say that a service refused; not each of its errors has a kind that says why.
const ANSWERED: &str = "Server returned non-2xx status code: ";
/// Characters of a service's words that are shown.
const REASON_MAX: usize = 600;

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    place: Place,
    /// The service's URL, where it is not AWS's: by the arguments or by the environment.
    endpoint: Option<String>,
}

/// An object as it was found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) sha256: String,
    /// The service's name for this content.
    pub(super) e_tag: Option<String>,
}

/// What a look at an object found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// There is one, and the store does not give it.
    Unreadable(String),
    /// What it holds.
    Object(Stored),
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) log: LogName,
    pub(super) name: FileName,
    pub(super) size: u64,
    pub(super) e_tag: Option<String>,
}

/// What became of an object that was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there.
    Done(Stored),
    /// Another one is.
    Otherwise,
}

/// An object's bytes, as they come.
pub(super) struct Incoming {
    pub(super) bytes: BoxStream<'static, object_store::Result<Bytes>>,
    /// What was recorded with it, if somebody did.
    pub(super) sha256: Option<String>,
}

impl Bucket {
    /// Asks nobody yet.
    pub(super) fn open(place: &Place, reach: &Reach) -> Result<Self, StoreError> {
        let (store, prefix, endpoint): (Arc<dyn ObjectStore>, _, _) = match place {
            Place::S3 { bucket, prefix } => {
                let (store, endpoint) = s3(bucket, reach)?;
                (Arc::new(store), prefix.as_str(), endpoint)
            }
            Place::Folder(path) => (Arc::new(folder(path)?), "", None),
        };
        let prefix = ObjectPath::parse(prefix).map_err(|error| StoreError::Place(error.to_string()))?;
        Ok(Self { store, prefix, place: place.clone(), endpoint })
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    const fn is_s3(&self) -> bool {
        matches!(self.place, Place::S3 { .. })
    }

    fn path(&self, log: LogName, name: &FileName) -> ObjectPath {
        let parts = [log.key_store_id.to_string(), log.boot_id.to_string(), name.as_str().to_owned()];
        parts.into_iter().fold(self.prefix.clone(), ObjectPath::join)
    }

    fn failed(&self, error: &Error) -> StoreError {
        let (place, reason) = (self.place.to_string(), reason(error));
        if is_silent(error) { StoreError::Silent { place, reason } } else { StoreError::Store { place, reason } }
    }

    /// What an object holds, by its bytes: what is recorded with it is what somebody said.
    pub(super) async fn look(&self, log: LogName, name: &FileName) -> Result<Found, StoreError> {
        let found = match self.store.get_opts(&self.path(log, name), GetOptions::default()).await {
            Err(Error::NotFound { .. }) => return Ok(Found::Nothing),
            // Archived, or under a key of somebody else's: no reason to leave all others.
            Err(error) if is_refused(&error) => return Ok(Found::Unreadable(reason(&error))),
            found => found.map_err(|error| self.failed(&error))?,
        };
        let (size, e_tag) = (found.meta.size, found.meta.e_tag.clone());
        let (mut bytes, mut context, mut read) = (found.into_stream(), Context::new(&SHA256), 0_u64);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| self.failed(&error))?;
            read = read.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if read > FILE_MAX {
                return Ok(Found::Unreadable("has more than 1 GiB, so it is no file of a log".to_owned()));
            }
            context.update(&chunk);
        }
        if read != size {
            return Ok(Found::Unreadable(format!("has {size} bytes, and {read} of them came")));
        }
        Ok(Found::Object(Stored { size, sha256: hex::encode(context.finish()), e_tag }))
    }

    /// Whether there is an object.
    pub(super) async fn has(&self, log: LogName, name: &FileName) -> Result<bool, StoreError> {
        Ok(self.head(log, name).await?.is_some())
    }

    /// The SHA-256 that was recorded with an object, if somebody did.
    pub(super) async fn recorded(&self, log: LogName, name: &FileName) -> Result<Option<String>, StoreError> {
        Ok(self.head(log, name).await?.as_ref().and_then(recorded))
    }

    async fn head(&self, log: LogName, name: &FileName) -> Result<Option<GetResult>, StoreError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.store.get_opts(&self.path(log, name), options).await {
            Err(Error::NotFound { .. }) => Ok(None),
            found => found.map(Some).map_err(|error| self.failed(&error)),
        }
    }

    /// Makes an object where there is none.
    pub(super) async fn create(&self, log: LogName, name: &FileName, content: &Content) -> Result<Written, StoreError> {
        self.put(log, name, content, PutMode::Create).await
    }

    /// Puts an object in the place of another one, if that is still there.
    pub(super) async fn replace(
        &self,
        log: LogName,
        name: &FileName,
        content: &Content,
        known: &Stored,
    ) -> Result<Written, StoreError> {
        if self.is_s3() {
            let version = UpdateVersion { e_tag: known.e_tag.clone(), version: None };
            return self.put(log, name, content, PutMode::Update(version)).await;
        }
        match self.look(log, name).await? {
            Found::Object(found) if (found.size, &found.sha256) == (known.size, &known.sha256) => {
                self.put(log, name, content, PutMode::Overwrite).await
            }
            _ => Ok(Written::Otherwise),
        }
    }

    async fn put(
        &self,
        log: LogName,
        name: &FileName,
        content: &Content,
        mode: PutMode,
    ) -> Result<Written, StoreError> {
        let mut attributes = Attributes::new();
        if self.is_s3() {
            attributes.insert(Attribute::Metadata(SHA256_ATTRIBUTE.into()), content.sha256.clone().into());
            attributes.insert(Attribute::ContentType, "application/octet-stream".into());
        }
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match self.store.put_opts(&self.path(log, name), content.chunks().collect(), options).await {
            Ok(done) => {
                let Content { size, sha256, .. } = content;
                Ok(Written::Done(Stored { size: *size, sha256: sha256.clone(), e_tag: done.e_tag }))
            }
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Written::Otherwise),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The objects of one log, or of all, in no order. Those of other names are none.
    pub(super) fn list(
        &self,
        log: Option<LogName>,
    ) -> impl futures_util::Stream<Item = Result<Object, StoreError>> + '_ {
        let below = log.map_or(self.prefix.clone(), |log| {
            self.prefix.clone().join(log.key_store_id.to_string()).join(log.boot_id.to_string())
        });
        let mut left = LISTED_MAX;
        self.store.list(Some(&below)).filter_map(move |found| {
            ready(match found {
                Ok(_) if left == 0 => Some(Err(self.endless())),
                Ok(found) => {
                    left = left.saturating_sub(1);
                    self.named(found).map(Ok)
                }
                Err(Error::NotFound { .. }) if !self.is_s3() => None,
                Err(error) => Some(Err(self.failed(&error))),
            })
        })
    }

    fn endless(&self) -> StoreError {
        let reason =
            format!("the listing does not end after {LISTED_MAX} objects; choose a prefix for these logs alone");
        StoreError::Store { place: self.place.to_string(), reason }
    }

    fn named(&self, found: ObjectMeta) -> Option<Object> {
        let parts: Vec<_> = found.location.prefix_match(&self.prefix)?.collect();
        let (log, name) = parse(parts.iter().map(AsRef::as_ref))?;
        Some(Object { log, name, size: found.size, e_tag: found.e_tag })
    }

    /// An object's bytes: of the one with this tag, if there is a tag.
    pub(super) async fn fetch(
        &self,
        log: LogName,
        name: &FileName,
        e_tag: Option<String>,
    ) -> Result<Incoming, StoreError> {
        let if_match = e_tag.filter(|_| self.is_s3());
        let options = GetOptions { if_match, ..GetOptions::default() };
        let found = self.store.get_opts(&self.path(log, name), options).await.map_err(|error| self.failed(&error))?;
        let sha256 = recorded(&found);
        Ok(Incoming { bytes: found.into_stream(), sha256 })
    }

    /// An error of a stream of [`Incoming`].
    pub(super) fn broke_off(&self, error: &Error) -> StoreError {
        self.failed(error)
    }
}

/// Whether the service answered that it does not give this object as it was asked for.
fn is_refused(error: &Error) -> bool {
    ["400", "403"].iter().any(|status| cause(error).starts_with(&format!("{ANSWERED}{status}")))
}

/// What a person can do something with.
fn reason(error: &Error) -> String {
    let mut reason: String = printable(&cause(error)).chars().take(REASON_MAX).collect();
    let is_status = |status: &str| reason.starts_with(&format!("{ANSWERED}{status}"));
    if is_status("403") || is_status("401") {
        reason
            .push_str("; look at the credentials in the environment, or at the machine's role and the bucket's policy");
    } else if is_status("404") || matches!(error, Error::NotFound { .. }) {
        reason.push_str("; make the bucket first, and give its --region");
    }
    reason
}

fn recorded(found: &GetResult) -> Option<String> {
    let sha256 = found.attributes.get(&Attribute::Metadata(SHA256_ATTRIBUTE.into()))?;
    let is_hash = sha256.len() == 2 * SHA256.output_len() && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| sha256.to_ascii_lowercase())
}

fn folder(path: &Path) -> Result<LocalFileSystem, StoreError> {
    if !path.is_dir() {
        let reason = "is no folder; make it first (it is not made here, lest a disk that is not mounted be missed)";
        return Err(StoreError::Place(format!("{}: {reason}", printable(&path.display().to_string()))));
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| StoreError::Place(error.to_string()))?;
    Ok(store.with_fsync(true))
}

/// The store, and at which endpoint.
fn s3(bucket: &str, reach: &Reach) -> Result<(AmazonS3, Option<String>), StoreError> {
    let unusable = |error: Error| StoreError::Place(printable(&cause(&error)));
    let mut builder = AmazonS3Builder::from_env();
    if let Some(endpoint) = &reach.endpoint {
        // The one in the environment that would go before.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &reach.region {
        builder = builder.with_region(region);
    }
    let configured = |key| builder.get_config_value(&key);
    let endpoint = configured(AmazonS3ConfigKey::S3Endpoint).or_else(|| configured(AmazonS3ConfigKey::Endpoint));
    match &endpoint {
        Some(endpoint) => check_endpoint(endpoint)?,
        None if configured(AmazonS3ConfigKey::Region).is_none() => {
            let reason = "the bucket's region is not known: give --region, or set AWS_REGION";
            return Err(StoreError::Place(reason.to_owned()));
        }
        None => {}
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_allow_http(false)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        })
        .with_http_connector(Connector::new(reach.roots.as_deref())?)
        .build()
        .map_err(unusable)?;
    Ok((store, endpoint))
}

/// HTTPS, or HTTP to this machine. No refusal repeats the text: it may hold a password.
fn check_endpoint(endpoint: &str) -> Result<(), StoreError> {
    let refused = |reason: &str| StoreError::Place(format!("the endpoint {reason}"));
    if endpoint.contains('@') {
        return Err(refused(
            "has a user's name or password in it: credentials come from the environment, and not from a URL",
        ));
    }
    let url: http::Uri = endpoint.parse().map_err(|_| refused("is no URL"))?;
    if url.query().is_some() || endpoint.contains(['#', '%']) {
        return Err(refused("has more than https://HOST:PORT/PATH"));
    }
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(_)) => Ok(()),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(()),
        (Some("http"), Some(_)) => Err(refused("has plain HTTP, which goes to this machine only: use https://")),
        _ => Err(refused("is not https://HOST, or http://HOST on this machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for good in ["https://s3.example.com", "http://127.0.0.1:8333", "http://localhost:1", "http://[::1]:9000"] {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "http://s3.example.com",
            "http://10.0.0.1:9000",
            "http://169.254.169.254",
            "s3.example.com",
            "ftp://x",
            "https://x/?y",
            "https://x/%40",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }
}
