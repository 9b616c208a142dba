//! Where logs are stored: `s3://BUCKET/PREFIX`, or `file:///DIR`.
//!
//! Refuses: names of buckets that S3 would not take, and prefixes that would have to be escaped somewhere.

use core::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes of a prefix: an object's name has 1,024, of which ours take 120.
const PREFIX_MAX: usize = 512;
/// Characters of a bucket's name (Amazon S3 User Guide, "General purpose bucket naming rules").
const BUCKET_LEN: core::ops::RangeInclusive<usize> = 3..=63;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// What stands before all names, without a slash at either end; may be empty.
        prefix: String,
    },
    /// A folder.
    Folder(PathBuf),
}

/// How a bucket is reached. Credentials are not here: they come from the environment or from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The service's URL, where it is not AWS's.
    pub endpoint: Option<String>,
    /// The bucket's region, where the environment does not say it.
    pub region: Option<String>,
    /// PEM file of the authorities for the service's certificate; without it, those of this system.
    pub roots: Option<PathBuf>,
}

/// What is not a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Another scheme.
    #[error("expected s3://BUCKET/PREFIX or file:///FOLDER")]
    Scheme,
    /// Not a name.
    #[error("a bucket's name has 3 to 63 of a-z 0-9 . -, and begins and ends with a letter or digit")]
    Bucket,
    /// Not a prefix.
    #[error("a prefix has at most 512 of A-Z a-z 0-9 . _ - = /, and no part of it is empty, . or ..")]
    Prefix,
    /// Not absolute.
    #[error("a folder is given by its whole path: file:///var/backups/audit")]
    Folder,
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Some(path) = text.strip_prefix("file://") {
            // A host before the path would be another machine; a percent sign another spelling of the path.
            let is_path = path.starts_with('/') && !path.contains('%');
            return is_path.then(|| Self::Folder(path.into())).ok_or(PlaceError::Folder);
        }
        let rest = text.strip_prefix("s3://").ok_or(PlaceError::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(PlaceError::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if !prefix.is_empty() && !is_prefix(prefix) {
            return Err(PlaceError::Prefix);
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

fn is_bucket(name: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let of_name = |byte: u8| is_end(Some(&byte)) || b".-".contains(&byte);
    let bytes = name.as_bytes();
    BUCKET_LEN.contains(&bytes.len()) && name.bytes().all(of_name) && is_end(bytes.first()) && is_end(bytes.last())
}

fn is_prefix(prefix: &str) -> bool {
    let of_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=".contains(&byte);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(of_part);
    prefix.len() <= PREFIX_MAX && prefix.split('/').all(is_part)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Folder(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, shown) in [
            ("s3://audit-logs", "s3://audit-logs"),
            ("s3://audit-logs/", "s3://audit-logs"),
            ("s3://audit.logs.1/eu/fleet-1", "s3://audit.logs.1/eu/fleet-1"),
            ("s3://audit-logs/env=prod/", "s3://audit-logs/env=prod"),
            ("file:///var/backups/audit", "file:///var/backups/audit"),
        ] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for (text, error) in [
            ("", PlaceError::Scheme),
            ("/var/backups", PlaceError::Scheme),
            ("https://bucket.s3.amazonaws.com/x", PlaceError::Scheme),
            ("s3://", PlaceError::Bucket),
            ("s3://ab", PlaceError::Bucket),
            ("s3:///prefix", PlaceError::Bucket),
            ("s3://Bucket", PlaceError::Bucket),
            ("s3://user@bucket", PlaceError::Bucket),
            ("s3://-bucket", PlaceError::Bucket),
            ("s3://bucket//x", PlaceError::Prefix),
            ("s3://bucket/../x", PlaceError::Prefix),
            ("s3://bucket/a b", PlaceError::Prefix),
            ("s3://bucket/%2e", PlaceError::Prefix),
            ("file://host/x", PlaceError::Folder),
            ("file:///x%20y", PlaceError::Folder),
        ] {
            assert_eq!(text.parse::<Place>(), Err(error), "{text}");
        }
        assert_eq!(format!("s3://bucket/{}", "x".repeat(513)).parse::<Place>(), Err(PlaceError::Prefix));
    }
}
