//! Names, identifiers and paths: printed and read they stay the same, as text, in JSON and in CBOR.

use core::fmt::{Debug, Display};
use core::str::FromStr;

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{AdministratorId, BlobId, BootId, CommandId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::sigv4::{AccessKeyId, Region};
use holdfast_shared::xks::{HostName, KeyOperation, PathPrefix, RequestPath, Target};
use minicbor::{Decode, Encode};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::parts::key_id;

fn same_as_text_and_cbor<T>(text: &str) -> Result<T, TestCaseError>
where
    T: FromStr<Err: Debug> + Display + Debug + PartialEq + Encode<()> + for<'b> Decode<'b, ()>,
{
    let value = T::from_str(text).map_err(|error| TestCaseError::fail(format!("{text:?}: {error:?}")))?;
    prop_assert_eq!(value.to_string(), text);
    let bytes = minicbor::to_vec(&value).unwrap();
    let decoded = minicbor::decode::<T>(&bytes).unwrap();
    prop_assert_eq!(&decoded, &value);
    Ok(value)
}

fn same_as_json<T>(value: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + Debug + PartialEq + Display,
{
    let json = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&json, &format!("\"{value}\""));
    prop_assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn identifiers(long: [u8; 32], short: [u8; 16]) {
        macro_rules! each {
            ($bytes:ident: $($type:ident),*) => {$(
                let id = same_as_text_and_cbor::<$type>(&hex::encode($bytes))?;
                prop_assert_eq!(id, $type($bytes));
                same_as_json(&id)?;
            )*};
        }
        each!(long: KeyStoreId, CustodianId, AdministratorId, BlobId);
        each!(short: CommandId, LeaseId, BootId);
    }

    #[test]
    fn names(
        host in "[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\\.[a-z]([a-z0-9]{0,20}))+",
        region in "[a-z0-9-]{1,32}",
        access_key_id in "[A-Z2-7]{20,30}",
    ) {
        prop_assume!(host.len() <= 253);
        same_as_text_and_cbor::<HostName>(&host)?;
        same_as_text_and_cbor::<Region>(&region)?;
        same_as_text_and_cbor::<AccessKeyId>(&access_key_id)?;
        let shouted = HostName::from_wire(&host.to_ascii_uppercase()).unwrap();
        prop_assert_eq!(shouted.as_str(), host);
    }

    #[test]
    fn paths(prefix in "(/[A-Za-z0-9_-]{1,20}){0,5}", id in key_id(), operation in 0..4_usize) {
        let prefix = same_as_text_and_cbor::<PathPrefix>(&prefix)?;
        same_as_text_and_cbor::<ExternalKeyId>(id.as_str())?;
        let operations = [KeyOperation::GetKeyMetadata, KeyOperation::Encrypt, KeyOperation::Decrypt];
        let (end, target) = match operations.get(operation) {
            None => ("health".to_owned(), Target::Health),
            Some(operation) => {
                let name = ["metadata", "encrypt", "decrypt"][operations.iter().position(|each| each == operation).unwrap()];
                (format!("keys/{id}/{name}"), Target::Key { id, operation: *operation })
            }
        };
        let text = format!("{}/{end}", prefix.uri_path());
        prop_assume!(text.len() <= 256);
        let path = RequestPath::parse(&text).unwrap();
        prop_assert_eq!((path.prefix(), path.target()), (&prefix, &target));
    }

    /// A prefix or a key named like a part of the API changes nothing.
    #[test]
    fn paths_made_of_their_own_words(words in prop::collection::vec(
        prop::sample::select(&["kms", "xks", "v1", "keys", "health", "encrypt", "decrypt", "metadata", "k"]), 0..10,
    )) {
        let text = format!("/{}", words.join("/"));
        let Ok(path) = RequestPath::parse(&text) else { return Ok(()) };
        let printed = match path.target() {
            Target::Health => format!("{}/health", path.prefix().uri_path()),
            Target::Key { id, .. } => format!("{}/keys/{id}/{}", path.prefix().uri_path(), words.last().unwrap()),
        };
        prop_assert_eq!(printed, text);
    }
}
