//! Names and paths: one spelling each, which survives printing, and rules that a second reader repeats.

use holdfast_shared::cbor;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits::{HOST_NAME_MAX, XKS_URI_MAX, XKS_URI_PATH_MAX};
use holdfast_shared::sigv4::{AccessKeyId, Region};
use holdfast_shared::xks::{HostName, KeyOperation, PathPrefix, RequestPath, Target};

use super::Verdict;

/// A request path.
pub fn request_path(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    let parsed = RequestPath::parse(text);
    assert_eq!(parsed.is_ok(), is_request_path(text), "two readers disagree");
    let Ok(path) = parsed else { return Verdict::Refused };
    let printed = match path.target() {
        Target::Health => format!("{}/health", path.prefix().uri_path()),
        Target::Key { id, operation } => {
            let operation = match operation {
                KeyOperation::GetKeyMetadata => "metadata",
                KeyOperation::Encrypt => "encrypt",
                KeyOperation::Decrypt => "decrypt",
            };
            format!("{}/keys/{id}/{operation}", path.prefix().uri_path())
        }
    };
    assert_eq!(printed, text);
    assert!(text.len() <= XKS_URI_MAX && path.prefix().uri_path().len() <= XKS_URI_PATH_MAX);
    // No URI parser changes it, so that a signature may cover it raw.
    let uri: http::Uri = text.parse().unwrap();
    assert_eq!((uri.path(), uri.query()), (text, None));
    Verdict::Accepted
}

/// From the left, segment by segment.
fn is_request_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let Some(segments) = text.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>()) else { return false };
    let (prefix, id) = match segments.as_slice() {
        [prefix @ .., "kms", "xks", "v1", "health"] => (prefix, None),
        [prefix @ .., "kms", "xks", "v1", "keys", id, "metadata" | "encrypt" | "decrypt"] => (prefix, Some(*id)),
        _ => return false,
    };
    let prefix_len: usize = prefix.iter().map(|segment| segment.len() + 1).sum();
    text.len() <= XKS_URI_MAX
        && prefix.iter().all(|segment| !segment.is_empty() && segment.bytes().all(plain))
        && (prefix_len == 0 || prefix_len + "/kms/xks/v1".len() <= XKS_URI_PATH_MAX)
        && id.is_none_or(|id| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|byte| plain(byte) || byte == b'.')
                && id != "."
                && id != ".."
        })
}

/// Names: host, prefix, key, region, access key id, identifiers.
pub fn names(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    let mut accepted = false;
    // Text and CBOR text pass the same check, and nothing is changed on the way.
    macro_rules! same {
        ($($type:ty),*) => {$(
            let parsed = text.parse::<$type>();
            let encoded = cbor::encode(&text);
            let decoded: Option<$type> = minicbor_decode(&encoded);
            assert_eq!(parsed.as_ref().ok(), decoded.as_ref());
            if let Ok(name) = parsed {
                assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
                accepted = true;
            }
        )*};
    }
    same!(HostName, PathPrefix, ExternalKeyId, Region, AccessKeyId);
    assert_eq!(HostName::parse(text).is_ok(), is_host_name(text), "two readers disagree");
    if let Ok(name) = HostName::from_wire(text) {
        assert_eq!(name.as_str(), text.to_ascii_lowercase());
        assert_eq!(HostName::from_wire(&text.to_ascii_uppercase()), Ok(name));
        accepted = true;
    }
    if let Ok(prefix) = PathPrefix::parse(text) {
        assert!(RequestPath::parse(&format!("{}/health", prefix.uri_path())).unwrap().prefix() == &prefix);
    }
    if let Ok(id) = text.parse::<KeyStoreId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
        accepted = true;
    }
    if let Ok(id) = text.parse::<BootId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        accepted = true;
    }
    Verdict::from(accepted)
}

fn minicbor_decode<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Option<T> {
    minicbor::decode(bytes).ok()
}

/// RFC 1123, section 2.1, in lower case; a last label of digits would be an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &&str| {
        let inner = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && label.trim_matches('-').len() == label.len()
    };
    let labels: Vec<&str> = text.split('.').collect();
    let number_at_end = labels.last().is_some_and(|last| last.chars().all(|character| character.is_ascii_digit()));
    text == "localhost"
        || (text.len() <= HOST_NAME_MAX && labels.len() >= 2 && labels.iter().all(is_label) && !number_at_end)
}
