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

use crate::secrets::WipedBytes;
use serde::Deserialize;

use super::error::{ErrorName, XksError};
use super::json::{Base64Error, Object, Text, decode_base64, parse_object};
use crate::external_key::TAG_LEN;
use crate::limits::{AAD_MAX, ARN_MAX, CIPHERTEXT_METADATA_MAX, METADATA_TEXT_MAX, PLAINTEXT_MAX};

const MALFORMED: XksError =
    XksError::new(ErrorName::ValidationException, "The request body is not the JSON object that this operation takes.");
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

/// The errors that one field can cause. KMS logs `errorMessage` for the owner (specification, section "Error codes"), so each
/// names the field; none holds anything of its value.
struct Field {
    missing: XksError,
    not_base64: XksError,
    too_long: XksError,
}

macro_rules! field {
    ($name:literal, $too_long:expr) => {
        Field {
            missing: XksError::new(
                ErrorName::ValidationException,
                concat!("The required field ", $name, " is missing."),
            ),
            not_base64: XksError::new(
                ErrorName::ValidationException,
                concat!("The field ", $name, " is not Base64 in the standard alphabet with padding."),
            ),
            too_long: $too_long,
        }
    };
    ($name:literal longer than $max:literal) => {
        field!(
            $name,
            XksError::new(
                ErrorName::UnsupportedOperationException,
                concat!("The field ", $name, " is longer than the ", $max, " that this proxy supports."),
            )
        )
    };
}

const REQUEST_METADATA: Field = field!("requestMetadata", MALFORMED);
const PRINCIPAL: Field = field!("awsPrincipalArn" longer than "2048 characters");
const SOURCE_VPC: Field = field!("awsSourceVpc" longer than "2048 characters");
const SOURCE_VPCE: Field = field!("awsSourceVpce" longer than "2048 characters");
const KEY_ARN: Field = field!("kmsKeyArn" longer than "2048 characters");
const KMS_OPERATION: Field = field!("kmsOperation" longer than "2048 characters");
const KMS_REQUEST_ID: Field = field!("kmsRequestId" longer than "2048 characters");
const VIA_SERVICE: Field = field!("kmsViaService" longer than "2048 characters");
const PLAINTEXT: Field = field!("plaintext" longer than "8192 bytes");
const CIPHERTEXT: Field = field!("ciphertext" longer than "8192 bytes");
const AAD: Field = field!("additionalAuthenticatedData" longer than "65535 bytes");
const ALGORITHM: Field = field!("encryptionAlgorithm", UNKNOWN_ALGORITHM);
const CIPHERTEXT_METADATA: Field = field!(
    "ciphertextMetadata",
    XksError::new(ErrorName::ValidationException, "The ciphertextMetadata is longer than 20 bytes.")
);
const IV: Field = field!("initializationVector", BAD_IV_LEN);
const TAG: Field = field!("authenticationTag", BAD_TAG_LEN);

/// `requestMetadata`. Fields that an operation requires are present after parsing its request.
#[derive(Clone, Debug)]
pub struct RequestMetadata<'a> {
    principal: Option<Text<'a>>,
    source_vpc: Option<Text<'a>>,
    source_vpce: Option<Text<'a>>,
    key_arn: Option<Text<'a>>,
    operation: Text<'a>,
    request_id: Text<'a>,
    via_service: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
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
    kms_operation: Option<Text<'a>>,
    #[serde(borrow)]
    kms_request_id: Option<Text<'a>>,
    #[serde(borrow)]
    kms_via_service: Option<Text<'a>>,
}

impl RequestMetadata<'_> {
    /// `awsPrincipalArn`; absent only in health requests.
    #[must_use]
    pub fn aws_principal_arn(&self) -> Option<&str> {
        self.principal.as_ref().map(|text| &*text.0)
    }

    /// `awsSourceVpc`.
    #[must_use]
    pub fn aws_source_vpc(&self) -> Option<&str> {
        self.source_vpc.as_ref().map(|text| &*text.0)
    }

    /// `awsSourceVpce`.
    #[must_use]
    pub fn aws_source_vpce(&self) -> Option<&str> {
        self.source_vpce.as_ref().map(|text| &*text.0)
    }

    /// `kmsKeyArn`; always there in Encrypt and Decrypt.
    #[must_use]
    pub fn kms_key_arn(&self) -> Option<&str> {
        self.key_arn.as_ref().map(|text| &*text.0)
    }

    /// `kmsOperation`: any text.
    #[must_use]
    pub fn kms_operation(&self) -> &str {
        &self.operation.0
    }

    /// `kmsRequestId`: any text.
    #[must_use]
    pub fn kms_request_id(&self) -> &str {
        &self.request_id.0
    }

    /// `kmsViaService`.
    #[must_use]
    pub fn kms_via_service(&self) -> Option<&str> {
        self.via_service.as_ref().map(|text| &*text.0)
    }
}

/// The fields of `requestMetadata` that an operation requires besides `kmsOperation` and `kmsRequestId`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Required {
    Nothing,
    Principal,
    PrincipalAndKeyArn,
}

fn check_metadata(
    metadata: Option<Object<WireMetadata<'_>>>,
    required: Required,
) -> Result<RequestMetadata<'_>, XksError> {
    let Object(wire) = metadata.ok_or(REQUEST_METADATA.missing)?;
    let metadata = RequestMetadata {
        principal: wire.aws_principal_arn,
        source_vpc: wire.aws_source_vpc,
        source_vpce: wire.aws_source_vpce,
        key_arn: wire.kms_key_arn,
        operation: wire.kms_operation.ok_or(KMS_OPERATION.missing)?,
        request_id: wire.kms_request_id.ok_or(KMS_REQUEST_ID.missing)?,
        via_service: wire.kms_via_service,
    };
    if required != Required::Nothing && metadata.principal.is_none() {
        return Err(PRINCIPAL.missing);
    }
    if required == Required::PrincipalAndKeyArn && metadata.key_arn.is_none() {
        return Err(KEY_ARN.missing);
    }
    let bounds = [
        (metadata.aws_principal_arn(), ARN_MAX, PRINCIPAL),
        (metadata.kms_key_arn(), ARN_MAX, KEY_ARN),
        (metadata.aws_source_vpc(), METADATA_TEXT_MAX, SOURCE_VPC),
        (metadata.aws_source_vpce(), METADATA_TEXT_MAX, SOURCE_VPCE),
        (metadata.kms_via_service(), METADATA_TEXT_MAX, VIA_SERVICE),
        (Some(metadata.kms_operation()), METADATA_TEXT_MAX, KMS_OPERATION),
        (Some(metadata.kms_request_id()), METADATA_TEXT_MAX, KMS_REQUEST_ID),
    ];
    for (text, max, field) in bounds {
        // "The XKS Proxy MUST support ARN lengths of up to 2048 characters": characters, not bytes.
        if text.is_some_and(|text| text.len() > max && text.chars().count() > max) {
            return Err(field.too_long);
        }
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
    pub plaintext: WipedBytes,
    /// `additionalAuthenticatedData`, decoded; empty if absent, which the AAD framing treats alike.
    pub aad: WipedBytes,
    /// Whether `ciphertextDataIntegrityValueAlgorithm` was there.
    pub integrity_value: bool,
}

/// A Decrypt request.
pub struct DecryptRequest<'a> {
    /// `requestMetadata`.
    pub metadata: RequestMetadata<'a>,
    /// `ciphertext`, decoded.
    pub ciphertext: WipedBytes,
    /// `ciphertextMetadata`, decoded, at most 20 bytes; empty if absent.
    pub ciphertext_metadata: WipedBytes,
    /// `initializationVector`, decoded, 12 or 16 bytes.
    pub iv: WipedBytes,
    /// `authenticationTag`, decoded, 16 bytes.
    pub tag: WipedBytes,
    /// `additionalAuthenticatedData`, decoded; empty if absent.
    pub aad: WipedBytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadataOnly<'a> {
    #[serde(borrow)]
    request_metadata: Option<Object<WireMetadata<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEncrypt<'a> {
    #[serde(borrow)]
    request_metadata: Option<Object<WireMetadata<'a>>>,
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
    request_metadata: Option<Object<WireMetadata<'a>>>,
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
    Ok(KeyMetadataRequest { metadata: check_metadata(wire.request_metadata, Required::Principal)? })
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
    Ok(HealthRequest { metadata: check_metadata(wire.request_metadata, Required::Nothing)? })
}

/// Parses the body of Encrypt.
///
/// # Errors
/// The error to answer with.
pub fn parse_encrypt(body: &[u8]) -> Result<EncryptRequest<'_>, XksError> {
    let wire: WireEncrypt<'_> = parse_object(body).ok_or(MALFORMED)?;
    let metadata = check_metadata(wire.request_metadata, Required::PrincipalAndKeyArn)?;
    let plaintext = wire.plaintext.ok_or(PLAINTEXT.missing)?;
    check_algorithm(&wire.encryption_algorithm.ok_or(ALGORITHM.missing)?)?;
    let integrity_value = match wire.ciphertext_data_integrity_value_algorithm {
        None => false,
        Some(name) if name.0 == "SHA_256" => true,
        Some(_) => return Err(UNKNOWN_INTEGRITY_ALGORITHM),
    };
    Ok(EncryptRequest {
        metadata,
        plaintext: decode(&plaintext, PLAINTEXT_MAX, &PLAINTEXT)?,
        aad: decode_optional(wire.additional_authenticated_data.as_ref(), AAD_MAX, &AAD)?,
        integrity_value,
    })
}

/// Parses the body of Decrypt.
///
/// # Errors
/// The error to answer with.
pub fn parse_decrypt(body: &[u8]) -> Result<DecryptRequest<'_>, XksError> {
    let wire: WireDecrypt<'_> = parse_object(body).ok_or(MALFORMED)?;
    let metadata = check_metadata(wire.request_metadata, Required::PrincipalAndKeyArn)?;
    let ciphertext = wire.ciphertext.ok_or(CIPHERTEXT.missing)?;
    let iv = wire.initialization_vector.ok_or(IV.missing)?;
    let tag = wire.authentication_tag.ok_or(TAG.missing)?;
    check_algorithm(&wire.encryption_algorithm.ok_or(ALGORITHM.missing)?)?;
    let metadata_field = wire.ciphertext_metadata.as_ref();
    let request = DecryptRequest {
        metadata,
        ciphertext: decode(&ciphertext, PLAINTEXT_MAX, &CIPHERTEXT)?,
        ciphertext_metadata: decode_optional(metadata_field, CIPHERTEXT_METADATA_MAX, &CIPHERTEXT_METADATA)?,
        iv: decode(&iv, 16, &IV)?,
        tag: decode(&tag, TAG_LEN, &TAG)?,
        aad: decode_optional(wire.additional_authenticated_data.as_ref(), AAD_MAX, &AAD)?,
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

fn decode(text: &Text<'_>, max: usize, field: &Field) -> Result<WipedBytes, XksError> {
    decode_base64(&text.0, max).map_err(|error| match error {
        Base64Error::TooLong => field.too_long,
        Base64Error::Malformed => field.not_base64,
    })
}

fn decode_optional(text: Option<&Text<'_>>, max: usize, field: &Field) -> Result<WipedBytes, XksError> {
    text.map_or_else(|| Ok(WipedBytes::new(Vec::new())), |text| decode(text, max, field))
}

#[cfg(test)]
mod tests;
