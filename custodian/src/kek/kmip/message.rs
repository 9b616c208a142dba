//! The KMIP messages that a key-encryption key needs: Get Attributes, Encrypt and Decrypt of KMIP 1.4, one a message.
//!
//! Guarantees: an answer is that to the operation that was asked for, by a server that speaks 1.4, and each field that is read
//! from it is there exactly once. 1.4 is the first version whose Encrypt takes additional data. Refuses: batches, asynchronous
//! answers, other versions. Fields that we do not ask for are passed over: servers add their own.

use holdfast_shared::secrets::SecretBytes;

use crate::kek::remote::words;

use super::ttlv::{self, Item, MESSAGE_MAX, Tag, TtlvError, Value};

/// Bytes of a nonce of ours.
pub(super) const NONCE_LEN: usize = 12;
/// Bytes of an authentication tag.
pub(super) const TAG_LEN: usize = 16;
/// Characters that are kept of a server's own words.
const WORDS_MAX: usize = 200;

/// Tags (KMIP 1.4, section 9.1.3.1).
mod tag {
    use super::Tag;

    pub(super) const ATTRIBUTE: Tag = Tag(0x42_0008);
    pub(super) const ATTRIBUTE_NAME: Tag = Tag(0x42_000A);
    pub(super) const ATTRIBUTE_VALUE: Tag = Tag(0x42_000B);
    pub(super) const BATCH_COUNT: Tag = Tag(0x42_000D);
    pub(super) const BATCH_ITEM: Tag = Tag(0x42_000F);
    pub(super) const BLOCK_CIPHER_MODE: Tag = Tag(0x42_0011);
    pub(super) const CRYPTOGRAPHIC_ALGORITHM: Tag = Tag(0x42_0028);
    pub(super) const CRYPTOGRAPHIC_PARAMETERS: Tag = Tag(0x42_002B);
    pub(super) const NONCE: Tag = Tag(0x42_003D);
    pub(super) const MAXIMUM_RESPONSE_SIZE: Tag = Tag(0x42_0050);
    pub(super) const OPERATION: Tag = Tag(0x42_005C);
    pub(super) const PROTOCOL_VERSION: Tag = Tag(0x42_0069);
    pub(super) const PROTOCOL_VERSION_MAJOR: Tag = Tag(0x42_006A);
    pub(super) const PROTOCOL_VERSION_MINOR: Tag = Tag(0x42_006B);
    pub(super) const REQUEST_HEADER: Tag = Tag(0x42_0077);
    pub(super) const REQUEST_MESSAGE: Tag = Tag(0x42_0078);
    pub(super) const REQUEST_PAYLOAD: Tag = Tag(0x42_0079);
    pub(super) const RESPONSE_HEADER: Tag = Tag(0x42_007A);
    pub(super) const RESPONSE_MESSAGE: Tag = Tag(0x42_007B);
    pub(super) const RESPONSE_PAYLOAD: Tag = Tag(0x42_007C);
    pub(super) const RESULT_MESSAGE: Tag = Tag(0x42_007D);
    pub(super) const RESULT_REASON: Tag = Tag(0x42_007E);
    pub(super) const RESULT_STATUS: Tag = Tag(0x42_007F);
    pub(super) const UNIQUE_IDENTIFIER: Tag = Tag(0x42_0094);
    pub(super) const DATA: Tag = Tag(0x42_00C2);
    pub(super) const TAG_LENGTH: Tag = Tag(0x42_00CE);
    pub(super) const ADDITIONAL_DATA: Tag = Tag(0x42_00FE);
    pub(super) const AUTHENTICATION_TAG: Tag = Tag(0x42_00FF);
}

/// What an answer begins with.
pub(super) const ANSWER: Tag = tag::RESPONSE_MESSAGE;

const VERSION: (i32, i32) = (1, 4);
/// Block cipher mode GCM (section 9.1.3.2.14).
const GCM: u32 = 9;
/// Cryptographic algorithm AES (section 9.1.3.2.13).
const AES: u32 = 3;
/// Object type "symmetric key" (section 9.1.3.2.12).
const SYMMETRIC_KEY: u32 = 2;
/// State "active" (section 9.1.3.2.18).
const ACTIVE: u32 = 2;
/// Bits of the usage mask (section 9.1.3.3.1).
const MAY_ENCRYPT: i32 = 4;
const MAY_DECRYPT: i32 = 8;
const MAY_EXPORT: i32 = 0x40;
/// Bits of the key.
const KEY_BITS: i32 = 256;

/// The attributes that are asked for, by the names of section 3.
const ATTRIBUTES: [&str; 7] = [
    "Object Type",
    "Cryptographic Algorithm",
    "Cryptographic Length",
    "Cryptographic Usage Mask",
    "State",
    "Sensitive",
    "Extractable",
];

/// What is asked for (section 9.1.3.2.27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// What a key is.
    GetAttributes,
    /// Encrypts.
    Encrypt,
    /// Decrypts.
    Decrypt,
}

impl Operation {
    const fn code(self) -> u32 {
        match self {
            Self::GetAttributes => 0x0B,
            Self::Encrypt => 0x1F,
            Self::Decrypt => 0x20,
        }
    }
}

/// Why a server refused (section 9.1.3.2.29), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is no such object.
    NotFound,
    /// It does not know us.
    Authentication,
    /// It knows us, and does not let us.
    Permission,
    /// It cannot do that, or not in this version.
    Unsupported,
    /// The bytes do not decrypt.
    Cryptographic,
    /// Something else, by its number.
    Other(u32),
}

impl Reason {
    const fn of(code: u32) -> Self {
        match code {
            0x01 => Self::NotFound,
            0x03 => Self::Authentication,
            0x0C => Self::Permission,
            // Invalid message: what a server says to a version that it does not know.
            0x04 | 0x05 | 0x08 => Self::Unsupported,
            0x0A => Self::Cryptographic,
            other => Self::Other(other),
        }
    }
}

/// Why there is no payload.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// No TTLV.
    #[error("the answer is not KMIP: {0}")]
    Ttlv(#[from] TtlvError),
    /// TTLV, but not the answer that this is.
    #[error("the answer is not one to this request: {0}")]
    Malformed(&'static str),
    /// The server's own words.
    #[error("{words}")]
    Refused {
        /// In general.
        reason: Reason,
        /// In particular; printable and short.
        words: String,
    },
}

/// A request of one operation, encoded.
///
/// # Errors
/// [`TtlvError::Bound`] when it is too long.
pub(super) fn request(operation: Operation, payload: Vec<Item>) -> Result<SecretBytes, TtlvError> {
    let version = Item::structure(
        tag::PROTOCOL_VERSION,
        vec![
            Item::integer(tag::PROTOCOL_VERSION_MAJOR, VERSION.0),
            Item::integer(tag::PROTOCOL_VERSION_MINOR, VERSION.1),
        ],
    );
    let longest = i32::try_from(MESSAGE_MAX).unwrap_or(i32::MAX);
    let header = vec![version, Item::integer(tag::MAXIMUM_RESPONSE_SIZE, longest), Item::integer(tag::BATCH_COUNT, 1)];
    let item =
        vec![Item::enumeration(tag::OPERATION, operation.code()), Item::structure(tag::REQUEST_PAYLOAD, payload)];
    ttlv::encode(&Item::structure(
        tag::REQUEST_MESSAGE,
        vec![Item::structure(tag::REQUEST_HEADER, header), Item::structure(tag::BATCH_ITEM, item)],
    ))
}

/// Asks what a key is.
#[must_use]
pub(super) fn attributes(identifier: &str) -> Vec<Item> {
    let mut payload = vec![Item::text(tag::UNIQUE_IDENTIFIER, identifier)];
    payload.extend(ATTRIBUTES.iter().map(|name| Item::text(tag::ATTRIBUTE_NAME, name)));
    payload
}

fn parameters() -> Item {
    let tag_length = i32::try_from(TAG_LEN).unwrap_or_default();
    Item::structure(
        tag::CRYPTOGRAPHIC_PARAMETERS,
        vec![
            Item::enumeration(tag::BLOCK_CIPHER_MODE, GCM),
            Item::enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, AES),
            Item::integer(tag::TAG_LENGTH, tag_length),
        ],
    )
}

/// Asks for AES-256-GCM of `data`.
#[must_use]
pub(super) fn encrypt(identifier: &str, nonce: &[u8; NONCE_LEN], aad: &[u8], data: &[u8]) -> Vec<Item> {
    vec![
        Item::text(tag::UNIQUE_IDENTIFIER, identifier),
        parameters(),
        Item::bytes(tag::DATA, data),
        Item::bytes(tag::NONCE, nonce),
        Item::bytes(tag::ADDITIONAL_DATA, aad),
    ]
}

/// Asks for what was encrypted.
#[must_use]
pub(super) fn decrypt(
    identifier: &str,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    ciphertext: &[u8],
    authentication: &[u8; TAG_LEN],
) -> Vec<Item> {
    let mut payload = encrypt(identifier, nonce, aad, ciphertext);
    payload.push(Item::bytes(tag::AUTHENTICATION_TAG, authentication));
    payload
}

/// The payload of an answer that says "success".
#[derive(Debug)]
pub(super) struct Payload(Vec<Item>);

impl Payload {
    /// Reads an answer.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub(super) fn of(bytes: &[u8], operation: Operation) -> Result<Self, AnswerError> {
        let message = ttlv::decode(bytes)?;
        let Item { tag: tag::RESPONSE_MESSAGE, value: Value::Structure(items) } = message else {
            return Err(AnswerError::Malformed("it is no response"));
        };
        let [header, item] =
            <[Item; 2]>::try_from(items).map_err(|_| AnswerError::Malformed("it has not one header and one item"))?;
        let header = structure(header, tag::RESPONSE_HEADER, "it has no header")?;
        let item = structure(item, tag::BATCH_ITEM, "it has no item")?;
        let status = enumeration(&item, tag::RESULT_STATUS)?.ok_or(AnswerError::Malformed("it has no status"))?;
        if status != 0 {
            return Err(refusal(status, &item));
        }
        check_version(&header)?;
        if enumeration(&item, tag::OPERATION)? != Some(operation.code()) {
            return Err(AnswerError::Malformed("it is that of another operation"));
        }
        match take_one(item, tag::RESPONSE_PAYLOAD)? {
            Some(Item { value: Value::Structure(items), .. }) => Ok(Self(items)),
            _ => Err(AnswerError::Malformed("it has no payload")),
        }
    }

    fn about(self, wanted: &str) -> Result<Vec<Item>, AnswerError> {
        let mut items = self.0;
        match take_one_of(&mut items, tag::UNIQUE_IDENTIFIER)? {
            Some(Item { value: Value::TextString(text), .. }) if text == wanted => Ok(items),
            _ => Err(AnswerError::Malformed("it is about another key")),
        }
    }

    /// Data of an Encrypt or Decrypt under `wanted`.
    ///
    /// # Errors
    /// [`AnswerError::Malformed`], also when it is about another key.
    pub(super) fn data(self, wanted: &str) -> Result<Encrypted, AnswerError> {
        let mut items = self.about(wanted)?;
        let mut bytes = |tag| match take_one_of(&mut items, tag)? {
            Some(Item { value: Value::ByteString(bytes), .. }) => Ok(Some(bytes)),
            Some(_) => Err(AnswerError::Malformed("a field is not of its type")),
            None => Ok(None),
        };
        let data = bytes(tag::DATA)?.ok_or(AnswerError::Malformed("it has no data"))?;
        Ok(Encrypted { data, nonce: bytes(tag::NONCE)?, tag: bytes(tag::AUTHENTICATION_TAG)? })
    }

    /// What Get Attributes says about a key.
    ///
    /// # Errors
    /// [`AnswerError::Malformed`].
    pub(super) fn attributes(self, wanted: &str) -> Result<Attributes, AnswerError> {
        let items = self.about(wanted)?;
        let mut attributes = Attributes::default();
        for item in items.into_iter().filter(|item| item.tag == tag::ATTRIBUTE) {
            let mut fields = structure(item, tag::ATTRIBUTE, "an attribute is no structure")?;
            let name = take_one_of(&mut fields, tag::ATTRIBUTE_NAME)?;
            let value = take_one_of(&mut fields, tag::ATTRIBUTE_VALUE)?;
            if let (Some(Item { value: Value::TextString(name), .. }), Some(Item { value, .. })) = (name, value) {
                attributes.take(&name, &value)?;
            } else {
                return Err(AnswerError::Malformed("an attribute has no name or no value"));
            }
        }
        Ok(attributes)
    }
}

/// What an Encrypt or Decrypt brought.
#[derive(Debug)]
pub(super) struct Encrypted {
    /// Ciphertext or plaintext.
    pub(super) data: SecretBytes,
    /// A nonce, if the server does not say that it used ours.
    pub(super) nonce: Option<SecretBytes>,
    /// The authentication tag of an Encrypt.
    pub(super) tag: Option<SecretBytes>,
}

/// What a server says about a key; nothing where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    object_type: Option<u32>,
    algorithm: Option<u32>,
    length: Option<i32>,
    usage: Option<i32>,
    state: Option<u32>,
    sensitive: Option<bool>,
    extractable: Option<bool>,
}

impl Attributes {
    fn take(&mut self, name: &str, value: &Value) -> Result<(), AnswerError> {
        fn once<T>(place: &mut Option<T>, value: T) -> Result<(), AnswerError> {
            match place.replace(value) {
                None => Ok(()),
                Some(_) => Err(AnswerError::Malformed("an attribute is there twice")),
            }
        }
        match (name, value) {
            ("Object Type", Value::Enumeration(value)) => once(&mut self.object_type, *value),
            ("Cryptographic Algorithm", Value::Enumeration(value)) => once(&mut self.algorithm, *value),
            ("Cryptographic Length", Value::Integer(value)) => once(&mut self.length, *value),
            ("Cryptographic Usage Mask", Value::Integer(value)) => once(&mut self.usage, *value),
            ("State", Value::Enumeration(value)) => once(&mut self.state, *value),
            ("Sensitive", Value::Boolean(value)) => once(&mut self.sensitive, *value),
            ("Extractable", Value::Boolean(value)) => once(&mut self.extractable, *value),
            (name, _) if ATTRIBUTES.contains(&name) => Err(AnswerError::Malformed("an attribute is not of its type")),
            _ => Ok(()),
        }
    }

    /// What is wrong with the key; nothing if it may serve.
    #[must_use]
    pub(super) fn fault(&self) -> Option<Fault> {
        const ANOTHER: &str =
            "name a key of AES with 256 bits for Encrypt and Decrypt alone, sensitive and not extractable";
        let mask = self.usage.unwrap_or_default();
        let rules = [
            (self.object_type == Some(SYMMETRIC_KEY), "it is no symmetric key", ANOTHER),
            (self.algorithm == Some(AES) && self.length == Some(KEY_BITS), "it is not of AES with 256 bits", ANOTHER),
            (mask & MAY_ENCRYPT != 0 && mask & MAY_DECRYPT != 0, "its usage mask lacks Encrypt or Decrypt", ANOTHER),
            (mask & MAY_EXPORT == 0, "its usage mask has Export", ANOTHER),
            (self.sensitive != Some(false), "it is not sensitive: the server gives it out in the clear", ANOTHER),
            (self.extractable != Some(true), "it is extractable: the server gives it out", ANOTHER),
            (self.state == Some(ACTIVE), "it is not active", "activate it, or name its successor"),
        ];
        rules.into_iter().find_map(|(holds, what, remedy)| (!holds).then_some(Fault { what, remedy }))
    }

    /// Whether the server leaves open what only its administrator can tell.
    #[must_use]
    pub(super) const fn is_silent(&self) -> bool {
        self.sensitive.is_none() || self.extractable.is_none()
    }
}

/// Why a key cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is wrong.
    pub(super) what: &'static str,
    /// What to do.
    pub(super) remedy: &'static str,
}

fn check_version(header: &[Item]) -> Result<(), AnswerError> {
    const OTHER: AnswerError = AnswerError::Malformed("it is not of KMIP 1.4");
    let mut versions = header.iter().filter(|item| item.tag == tag::PROTOCOL_VERSION);
    let (Some(Item { value: Value::Structure(items), .. }), None) = (versions.next(), versions.next()) else {
        return Err(OTHER);
    };
    let [Item { value: Value::Integer(major), .. }, Item { value: Value::Integer(minor), .. }] = items.as_slice()
    else {
        return Err(OTHER);
    };
    if (*major, *minor) == VERSION { Ok(()) } else { Err(OTHER) }
}

fn refusal(status: u32, item: &[Item]) -> AnswerError {
    // Pending or undone: we asked for nothing that could be.
    if status != 1 {
        return AnswerError::Malformed("its status is neither success nor failure");
    }
    let reason = match enumeration(item, tag::RESULT_REASON) {
        Ok(reason) => Reason::of(reason.unwrap_or_default()),
        Err(error) => return error,
    };
    let words = item.iter().find_map(|item| match item {
        Item { tag: tag::RESULT_MESSAGE, value: Value::TextString(text) } => Some(words(text, WORDS_MAX)),
        _ => None,
    });
    AnswerError::Refused { reason, words: words.unwrap_or_else(|| "without a word".to_owned()) }
}

fn structure(item: Item, tag: Tag, otherwise: &'static str) -> Result<Vec<Item>, AnswerError> {
    match item {
        Item { tag: found, value: Value::Structure(items) } if found == tag => Ok(items),
        _ => Err(AnswerError::Malformed(otherwise)),
    }
}

fn enumeration(items: &[Item], tag: Tag) -> Result<Option<u32>, AnswerError> {
    let mut found = items.iter().filter(|item| item.tag == tag);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(Item { value: Value::Enumeration(value), .. }), None) => Ok(Some(*value)),
        _ => Err(AnswerError::Malformed("a field is there twice, or not of its type")),
    }
}

fn take_one(mut items: Vec<Item>, tag: Tag) -> Result<Option<Item>, AnswerError> {
    take_one_of(&mut items, tag)
}

fn take_one_of(items: &mut Vec<Item>, tag: Tag) -> Result<Option<Item>, AnswerError> {
    let mut found = items.extract_if(.., |item| item.tag == tag);
    let first = found.next();
    if found.next().is_some() {
        return Err(AnswerError::Malformed("a field is there twice"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests;
