//! What stands in a sealed key store, record by record, and the rules of each.

use crate::cbor::message;
use crate::external_key::{ExternalKeyId, KeyState, KeyUsage, LegacyProfile};
use crate::ids::CommandId;
use crate::limits;
use crate::manifest::DerCertificate;
use crate::release::ShareSet;
use crate::secrets::{Secret, SecretBytes};
use crate::sigv4::AccessKeyId;

/// TLS key, made in the enclave, and the certificate chain once one is installed.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct TlsIdentity {
    /// ECDSA P-256 key in PKCS #8 form.
    #[cbor(n(0), with = "crate::cbor::secret_bytes")]
    pub private_key: SecretBytes,
    /// Leaf first; empty before the first certificate.
    #[n(1)]
    pub chain: Vec<DerCertificate>,
}

/// Rules of a certificate chain. Each handshake sends all of it, to anybody: what its size costs, all tenants would pay.
pub(crate) fn check_chain(chain: &[DerCertificate]) -> Result<(), &'static str> {
    if chain.len() <= limits::CERTIFICATE_CHAIN_MAX
        && chain.iter().all(|certificate| certificate.0.len() <= limits::CERTIFICATE_DER_MAX)
    {
        Ok(())
    } else {
        Err("the certificate chain is too long")
    }
}

/// A SigV4 credential: in a key store, and on its way in or out. Written without its date where there is none, as all were before there
/// were dates; on its way there never is one.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct CredentialRecord {
    /// 20 to 30 characters.
    #[n(0)]
    pub access_key_id: AccessKeyId,
    /// 43 to 64 characters.
    #[cbor(n(1), with = "crate::cbor::secret_bytes")]
    pub secret_access_key: SecretBytes,
    /// When it came into the key store, milliseconds since 1970.
    #[n(2)]
    pub created_ms: Option<u64>,
}

message!(CredentialRecord, 256, "credential", |credential| {
    let secret = credential.secret_access_key.expose();
    if !limits::SECRET_ACCESS_KEY_LEN.contains(&secret.len()) {
        Err("a secret access key has 43 to 64 characters")
    } else if !secret.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'=')) {
        Err("a secret access key has letters, digits, /, + and = only")
    } else {
        Ok(())
    }
});

/// An external key with all its versions.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ExternalKeyRecord {
    /// As in the URI.
    #[n(0)]
    pub id: ExternalKeyId,
    /// What it may be used for.
    #[n(1)]
    pub usage: KeyUsage,
    /// Whether it may be used.
    #[n(2)]
    pub state: KeyState,
    /// Ascending by number; the last lives and encrypts, all that live decrypt.
    #[n(3)]
    pub versions: Vec<KeyVersionRecord>,
    /// When it is destroyed unless that is cancelled, milliseconds since 1970, in [`KeyState::PendingDestruction`] only.
    #[n(4)]
    pub destroy_after_ms: Option<u64>,
}

/// How the root key under which the key store is sealed is shared.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Sharing {
    /// The coefficients of the sharing are drawn from it ([`crate::sharing::split`]): who holds the root key can give every custodian
    /// its share again.
    #[cbor(n(0), with = "crate::cbor::secret")]
    pub seed: Secret<32>,
    /// The public part.
    #[n(1)]
    pub set: ShareSet,
}

/// One version of an external key. Written as `[number, material]` while it lives, with the profile behind if it has one, and as
/// `[number]` once it is destroyed: what is left of it keeps its number from being used again.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KeyVersionRecord {
    /// From 1; at most 24 bits, as in `ciphertextMetadata`.
    #[n(0)]
    pub number: u32,
    /// 32 bytes; nothing once the version is destroyed.
    #[cbor(n(1), with = "optional_secret", has_nil)]
    pub material: Option<Secret<32>>,
    /// What it decrypts beside our own messages.
    #[n(2)]
    pub legacy: Option<LegacyProfile>,
}

impl KeyVersionRecord {
    /// A version that encrypts and decrypts our own messages.
    #[must_use]
    pub const fn new(number: u32, material: Secret<32>) -> Self {
        Self { number, material: Some(material), legacy: None }
    }

    /// Drops the material, which zeroizes it.
    pub fn destroy(&mut self) {
        self.material = None;
        self.legacy = None;
    }

    /// What became of it.
    #[must_use]
    pub const fn state(&self) -> VersionState {
        match (&self.material, self.legacy) {
            (None, _) => VersionState::Destroyed,
            (Some(_), None) => VersionState::Live,
            (Some(_), Some(LegacyProfile::AwsSample)) => VersionState::LiveWithLegacy,
        }
    }
}

/// What became of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum VersionState {
    /// Decrypts; the newest also encrypts.
    #[n(0)]
    Live,
    /// Decrypts our own messages and those of AWS's sample proxy.
    #[n(1)]
    LiveWithLegacy,
    /// Its material is gone; its number is never used again.
    #[n(2)]
    Destroyed,
}

/// How often the keys of a key store may be used, all keys and both operations together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Quota {
    /// Sustained rate, in requests per second, of each enclave.
    #[n(0)]
    pub requests_per_second: u32,
    /// How many requests may come at once after a pause.
    #[n(1)]
    pub burst: u32,
}

message!(Quota, 64, "quota", |quota| {
    if limits::QUOTA.contains(&quota.requests_per_second) && limits::QUOTA.contains(&quota.burst) {
        Ok(())
    } else {
        Err("a quota has 1 to 1000000 requests per second and a burst of 1 to 1000000")
    }
});

/// Which client certificates are accepted (mTLS). AWS deprecated it for external key stores in 2026; without it every client may
/// connect, and the signature decides.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ClientAuthentication {
    /// Trust anchors of client certificates.
    #[n(0)]
    pub authorities: Vec<DerCertificate>,
    /// A client certificate's subject common name must be one of these.
    #[n(1)]
    pub subject_common_names: Vec<String>,
}

message!(ClientAuthentication, limits::COMMAND_MAX, "client authentication", |settings| {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    let bound = 1..=limits::CLIENT_AUTHORITIES_MAX;
    rule(
        bound.contains(&settings.authorities.len())
            && settings.authorities.iter().all(|authority| authority.0.len() <= limits::CERTIFICATE_DER_MAX),
        "client authentication needs 1 to 8 authorities of at most 8 KiB",
    )?;
    let is_name = |name: &String| {
        (1..=limits::NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    rule(
        (1..=limits::CLIENT_NAMES_MAX).contains(&settings.subject_common_names.len())
            && settings.subject_common_names.iter().all(is_name),
        "client authentication needs 1 to 8 subject common names of 1 to 64 printable ASCII characters",
    )
});

/// A command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ExecutedCommand {
    /// Its id.
    #[n(0)]
    pub command_id: CommandId,
    /// When it expires and may be forgotten, milliseconds since 1970.
    #[n(1)]
    pub expires_ms: u64,
}

/// Rules of an external key beyond the types.
pub(super) fn check_external_key(key: &ExternalKeyRecord) -> Result<(), &'static str> {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    rule(
        (1..=limits::KEY_VERSIONS_MAX).contains(&key.versions.len())
            && key.versions.is_sorted_by(|a, b| a.number < b.number)
            && key.versions.iter().all(|version| (1..1 << 24).contains(&version.number)),
        "each external key needs versions numbered upwards from 1",
    )?;
    let is_destroyed = key.state == KeyState::Destroyed;
    rule(
        is_destroyed || key.versions.last().is_some_and(|version| version.material.is_some()),
        "the newest version of an external key must have its material",
    )?;
    rule(
        !is_destroyed || key.versions.iter().all(|version| version.material.is_none()),
        "a destroyed key has no material",
    )?;
    rule(
        key.destroy_after_ms.is_none() || key.state == KeyState::PendingDestruction,
        "only a key pending destruction has a moment of destruction",
    )?;
    rule(
        key.versions.iter().all(|version| version.material.is_some() || version.legacy.is_none())
            && key.versions.iter().filter(|version| version.legacy.is_some()).count() <= 1,
        "at most one version of an external key, and none that is destroyed, has a legacy profile",
    )
}

/// `Encode`/`Decode` of an optional [`Secret`]: a byte string or nothing.
mod optional_secret {
    use minicbor::data::Type;
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};

    use crate::cbor;
    use crate::secrets::Secret;

    type Value<const N: usize> = Option<Secret<N>>;

    pub(super) fn decode<Ctx, const N: usize>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Result<Value<N>, DecodeError> {
        if d.datatype()? == Type::Null {
            return d.null().map(|()| None);
        }
        cbor::secret::decode(d, ctx).map(Some)
    }

    pub(super) fn encode<Ctx, W: Write, const N: usize>(
        value: &Value<N>,
        e: &mut Encoder<W>,
        ctx: &mut Ctx,
    ) -> Result<(), EncodeError<W::Error>> {
        match value {
            Some(secret) => cbor::secret::encode(secret, e, ctx),
            None => e.null()?.ok(),
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the derived code asks for an option: the field's value where it is absent"
    )]
    pub(super) const fn nil<const N: usize>() -> Option<Value<N>> {
        Some(None)
    }

    pub(super) const fn is_nil<const N: usize>(value: &Value<N>) -> bool {
        value.is_none()
    }
}
