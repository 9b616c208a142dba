//! Request bodies (specification, sections "`GetKeyMetadata`", "Encrypt", "Decrypt", "`GetHealthStatus`").
//!
//! Guarantees: required fields are there, once; base64 is decoded and within its bound; lengths that the specification fixes
//! hold; algorithms are the ones of version 1. Unknown fields are tolerated, because Appendix B announces new ones;
//! `kmsOperation` and `kmsRequestId` are opaque, as every operation's section demands.
//!
//! Which error a breach gives, by the wording of the table in "Error codes":
//!
//! | breach | answer | words of the table |
//! |---|---|---|
//! | not JSON, not an object, field missing, doubled or of the wrong type, bad base64 | 400 `ValidationException` | "one or more input parameters is invalid" |
//! | length that the specification fixes: `ciphertextMetadata` over 20, IV not 12 or 16, tag not 16 | 400 `ValidationException` | the same |
//! | another `encryptionAlgorithm` or `ciphertextDataIntegrityValueAlgorithm` | 501 `UnsupportedOperationException` | "cryptographic operation is not implemented" |
//! | plaintext, ciphertext, AAD or a metadata string over our maximum | 501 `UnsupportedOperationException` | "a parameter value exceeded the maximum size that is currently supported" |

use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{ErrorName, XksError};
use super::json::{Base64Error, Object, Text, decode_base64, parse_object};
use crate::external_key::TAG_LEN;
use crate::limits::{AAD_MAX, ARN_MAX, CIPHERTEXT_METADATA_MAX, METADATA_TEXT_MAX, PLAINTEXT_MAX};

const MALFORMED: XksError =
    XksError::new(ErrorName::ValidationException, "The request body is not the JSON object that this operation takes.");
const MISSING_METADATA: XksError =
    XksError::new(ErrorName::ValidationException, "A required field of requestMetadata is missing.");
const MISSING_FIELD: XksError = XksError::new(ErrorName::ValidationException, "A required field is missing.");
const BAD_BASE64: XksError =
    XksError::new(ErrorName::ValidationException, "A field is not Base64 in the standard alphabet with padding.");
const BAD_METADATA_LEN: XksError =
    XksError::new(ErrorName::ValidationException, "The ciphertextMetadata is longer than 20 bytes.");
const BAD_IV_LEN: XksError =
    XksError::new(ErrorName::ValidationException, "The initializationVector is neither 12 nor 16 bytes long.");
const BAD_TAG_LEN: XksError =
    XksError::new(ErrorName::ValidationException, "The authenticationTag is not 16 bytes long.");
const UNKNOWN_ALGORITHM: XksError =
    XksError::new(ErrorName::UnsupportedOperationException, "The only supported encryptionAlgorithm is AES_GCM.");
const UNKNOWN_INTEGRITY_ALGORITHM: XksError = XksError::new(
    ErrorName::UnsupportedOperationException,
    "The only supported ciphertextDataIntegrityValueAlgorithm is SHA_256.",
);
const TEXT_TOO_LONG: XksError = XksError::new(
    ErrorName::UnsupportedOperationException,
    "A field of requestMetadata is longer than this proxy supports.",
);
const DATA_TOO_LONG: XksError = XksError::new(
    ErrorName::UnsupportedOperationException,
    "The plaintext or ciphertext is longer than this proxy supports.",
);
const AAD_TOO_LONG: XksError = XksError::new(
    ErrorName::UnsupportedOperationException,
    "The additionalAuthenticatedData is longer than 65535 bytes.",
);

/// `requestMetadata`. Fields that an operation requires are present after parsing its request.
#[derive(Clone, Debug)]
pub struct RequestMetadata<'a>(WireMetadata<'a>);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata<'a> {
    #[serde(borrow)]
    aws_principal_arn: Option<Text<'a>>,
    #[serde(borrow)]
    aws_source_vpc: Option<Text<'a>>,
    #[serde(borrow)]
    aws_source_vpce: Option<Text<'a>>,
    #[serde(borrow)]
    kms_key_arn: Option<Text<'a>>,
    #[serde(borrow)]
    kms_operation: Text<'a>,
    #[serde(borrow)]
    kms_request_id: Text<'a>,
    #[serde(borrow)]
    kms_via_service: Option<Text<'a>>,
}

impl RequestMetadata<'_> {
    /// `awsPrincipalArn`; absent only in health requests.
    #[must_use]
    pub fn aws_principal_arn(&self) -> Option<&str> {
        self.0.aws_principal_arn.as_ref().map(|text| &*text.0)
    }

    /// `awsSourceVpc`.
    #[must_use]
    pub fn aws_source_vpc(&self) -> Option<&str> {
        self.0.aws_source_vpc.as_ref().map(|text| &*text.0)
    }

    /// `awsSourceVpce`.
    #[must_use]
    pub fn aws_source_vpce(&self) -> Option<&str> {
        self.0.aws_source_vpce.as_ref().map(|text| &*text.0)
    }

    /// `kmsKeyArn`; always there in Encrypt and Decrypt.
    #[must_use]
    pub fn kms_key_arn(&self) -> Option<&str> {
        self.0.kms_key_arn.as_ref().map(|text| &*text.0)
    }

    /// `kmsOperation`: any text.
    #[must_use]
    pub fn kms_operation(&self) -> &str {
        &self.0.kms_operation.0
    }

    /// `kmsRequestId`: any text.
    #[must_use]
    pub fn kms_request_id(&self) -> &str {
        &self.0.kms_request_id.0
    }

    /// `kmsViaService`.
    #[must_use]
    pub fn kms_via_service(&self) -> Option<&str> {
        self.0.kms_via_service.as_ref().map(|text| &*text.0)
    }
}

/// The fields of `requestMetadata` that an operation requires besides `kmsOperation` and `kmsRequestId`.
#[derive(Clone, Copy)]
enum Required {
    Nothing,
    Principal,
    PrincipalAndKeyArn,
}

fn check_metadata(metadata: WireMetadata<'_>, required: Required) -> Result<RequestMetadata<'_>, XksError> {
    let metadata = RequestMetadata(metadata);
    let complete = match required {
        Required::Nothing => true,
        Required::Principal => metadata.aws_principal_arn().is_some(),
        Required::PrincipalAndKeyArn => metadata.aws_principal_arn().is_some() && metadata.kms_key_arn().is_some(),
    };
    if !complete {
        return Err(MISSING_METADATA);
    }
    // "The XKS Proxy MUST support ARN lengths of up to 2048 characters": characters, not bytes.
    let too_long = |text: &str, max: usize| text.len() > max && text.chars().count() > max;
    let arns = [metadata.aws_principal_arn(), metadata.kms_key_arn()];
    let others = [
        metadata.aws_source_vpc(),
        metadata.aws_source_vpce(),
        metadata.kms_via_service(),
        Some(metadata.kms_operation()),
        Some(metadata.kms_request_id()),
    ];
    if arns.into_iter().flatten().any(|text| too_long(text, ARN_MAX))
        || others.into_iter().flatten().any(|text| too_long(text, METADATA_TEXT_MAX))
    {
        return Err(TEXT_TOO_LONG);
    }
    Ok(metadata)
}

/// A `GetKeyMetadata` request.
#[derive(Debug)]
pub struct KeyMetadataRequest<'a> {
    /// `requestMetadata`.
    pub metadata: RequestMetadata<'a>,
}

/// A `GetHealthStatus` request.
#[derive(Debug)]
pub struct HealthRequest<'a> {
    /// `requestMetadata`.
    pub metadata: RequestMetadata<'a>,
}

/// An Encrypt request.
pub struct EncryptRequest<'a> {
    /// `requestMetadata`.
    pub metadata: RequestMetadata<'a>,
    /// `plaintext`, decoded.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// `additionalAuthenticatedData`, decoded; empty if absent, which the AAD framing treats alike.
    pub aad: Zeroizing<Vec<u8>>,
    /// Whether `ciphertextDataIntegrityValueAlgorithm` was there.
    pub integrity_value: bool,
}

/// A Decrypt request.
pub struct DecryptRequest<'a> {
    /// `requestMetadata`.
    pub metadata: RequestMetadata<'a>,
    /// `ciphertext`, decoded.
    pub ciphertext: Zeroizing<Vec<u8>>,
    /// `ciphertextMetadata`, decoded, at most 20 bytes; empty if absent.
    pub ciphertext_metadata: Zeroizing<Vec<u8>>,
    /// `initializationVector`, decoded, 12 or 16 bytes.
    pub iv: Zeroizing<Vec<u8>>,
    /// `authenticationTag`, decoded, 16 bytes.
    pub tag: Zeroizing<Vec<u8>>,
    /// `additionalAuthenticatedData`, decoded; empty if absent.
    pub aad: Zeroizing<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadataOnly<'a> {
    #[serde(borrow)]
    request_metadata: Object<WireMetadata<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEncrypt<'a> {
    #[serde(borrow)]
    request_metadata: Object<WireMetadata<'a>>,
    #[serde(borrow)]
    plaintext: Option<Text<'a>>,
    #[serde(borrow)]
    encryption_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    additional_authenticated_data: Option<Text<'a>>,
    #[serde(borrow)]
    ciphertext_data_integrity_value_algorithm: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDecrypt<'a> {
    #[serde(borrow)]
    request_metadata: Object<WireMetadata<'a>>,
    #[serde(borrow)]
    ciphertext: Option<Text<'a>>,
    #[serde(borrow)]
    ciphertext_metadata: Option<Text<'a>>,
    #[serde(borrow)]
    encryption_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    additional_authenticated_data: Option<Text<'a>>,
    #[serde(borrow)]
    initialization_vector: Option<Text<'a>>,
    #[serde(borrow)]
    authentication_tag: Option<Text<'a>>,
}

/// Parses the body of `GetKeyMetadata`.
///
/// # Errors
/// The error to answer with.
pub fn parse_key_metadata(body: &[u8]) -> Result<KeyMetadataRequest<'_>, XksError> {
    let wire: WireMetadataOnly<'_> = parse_object(body).ok_or(MALFORMED)?;
    Ok(KeyMetadataRequest { metadata: check_metadata(wire.request_metadata.0, Required::Principal)? })
}

/// Parses the body of `GetHealthStatus`.
///
/// The table lists `ValidationException` for all operations but this one, yet names no other error for a body that lacks
/// required fields; AWS's test client expects it here too.
///
/// # Errors
/// The error to answer with.
pub fn parse_health(body: &[u8]) -> Result<HealthRequest<'_>, XksError> {
    let wire: WireMetadataOnly<'_> = parse_object(body).ok_or(MALFORMED)?;
    Ok(HealthRequest { metadata: check_metadata(wire.request_metadata.0, Required::Nothing)? })
}

/// Parses the body of Encrypt.
///
/// # Errors
/// The error to answer with.
pub fn parse_encrypt(body: &[u8]) -> Result<EncryptRequest<'_>, XksError> {
    let wire: WireEncrypt<'_> = parse_object(body).ok_or(MALFORMED)?;
    let metadata = check_metadata(wire.request_metadata.0, Required::PrincipalAndKeyArn)?;
    let (Some(plaintext), Some(algorithm)) = (wire.plaintext, wire.encryption_algorithm) else {
        return Err(MISSING_FIELD);
    };
    check_algorithm(&algorithm)?;
    let integrity_value = match wire.ciphertext_data_integrity_value_algorithm {
        None => false,
        Some(name) if name.0 == "SHA_256" => true,
        Some(_) => return Err(UNKNOWN_INTEGRITY_ALGORITHM),
    };
    Ok(EncryptRequest {
        metadata,
        plaintext: decode(&plaintext, PLAINTEXT_MAX, DATA_TOO_LONG)?,
        aad: decode_optional(wire.additional_authenticated_data.as_ref(), AAD_MAX, AAD_TOO_LONG)?,
        integrity_value,
    })
}

/// Parses the body of Decrypt.
///
/// # Errors
/// The error to answer with.
pub fn parse_decrypt(body: &[u8]) -> Result<DecryptRequest<'_>, XksError> {
    let wire: WireDecrypt<'_> = parse_object(body).ok_or(MALFORMED)?;
    let metadata = check_metadata(wire.request_metadata.0, Required::PrincipalAndKeyArn)?;
    let (Some(ciphertext), Some(algorithm), Some(iv), Some(tag)) =
        (wire.ciphertext, wire.encryption_algorithm, wire.initialization_vector, wire.authentication_tag)
    else {
        return Err(MISSING_FIELD);
    };
    check_algorithm(&algorithm)?;
    let request = DecryptRequest {
        metadata,
        ciphertext: decode(&ciphertext, PLAINTEXT_MAX, DATA_TOO_LONG)?,
        ciphertext_metadata: decode_optional(
            wire.ciphertext_metadata.as_ref(),
            CIPHERTEXT_METADATA_MAX,
            BAD_METADATA_LEN,
        )?,
        iv: decode(&iv, 16, BAD_IV_LEN)?,
        tag: decode(&tag, TAG_LEN, BAD_TAG_LEN)?,
        aad: decode_optional(wire.additional_authenticated_data.as_ref(), AAD_MAX, AAD_TOO_LONG)?,
    };
    if !matches!(request.iv.len(), 12 | 16) {
        return Err(BAD_IV_LEN);
    }
    if request.tag.len() != TAG_LEN {
        return Err(BAD_TAG_LEN);
    }
    Ok(request)
}

fn check_algorithm(name: &Text<'_>) -> Result<(), XksError> {
    if name.0 == "AES_GCM" { Ok(()) } else { Err(UNKNOWN_ALGORITHM) }
}

fn decode(text: &Text<'_>, max: usize, too_long: XksError) -> Result<Zeroizing<Vec<u8>>, XksError> {
    decode_base64(&text.0, max).map_err(|error| match error {
        Base64Error::TooLong => too_long,
        Base64Error::Malformed => BAD_BASE64,
    })
}

fn decode_optional(text: Option<&Text<'_>>, max: usize, too_long: XksError) -> Result<Zeroizing<Vec<u8>>, XksError> {
    text.map_or_else(|| Ok(Zeroizing::new(Vec::new())), |text| decode(text, max, too_long))
}

#[cfg(test)]
mod tests;
