//! HPKE (RFC 9180), base mode, one suite: DHKEM(P-384, HKDF-SHA384), HKDF-SHA384, AES-256-GCM.
//!
//! Guarantees: one message per context, so no sequence number is ever reused; private keys and exported secrets are
//! zeroized on drop. Randomness comes from the operating system, which the enclave requires to be fed by the NSM. Refuses: points that
//! are not on the curve. Base mode proves nothing about the sender: whoever needs that signs, or attests.

use core::fmt;

use ::hpke::aead::AesGcm256;
use ::hpke::kdf::HkdfSha384;
use ::hpke::kem::DhP384HkdfSha384;
use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender};
use zeroize::Zeroizing;

use crate::secrets::{Secret, with_swept_stack};
use crate::signature::PUBLIC_KEY_LEN;

/// Bytes of an encapsulated key: an uncompressed P-384 point.
pub const ENCAPSULATED_KEY_LEN: usize = PUBLIC_KEY_LEN;

/// Why HPKE failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpkeError {
    /// A public or encapsulated key is not a point on P-384, or a private key is out of range.
    #[error("not a valid P-384 key")]
    BadKey,
    /// The message was made for another key, another purpose, or was changed.
    #[error("the message does not open with this key for this purpose")]
    OpenFailed,
    /// Encryption failed.
    #[error("encryption failed")]
    SealFailed,
}

/// A recipient's public key: an uncompressed P-384 point.
#[derive(Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct PublicKey(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; PUBLIC_KEY_LEN]);

impl PublicKey {
    /// Whether anything can be encrypted to it.
    #[must_use]
    pub fn is_on_curve(&self) -> bool {
        <DhP384HkdfSha384 as Kem>::PublicKey::from_bytes(&self.0).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hpke::PublicKey({})", hex::encode(crate::sha256(&[&self.0])))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; PUBLIC_KEY_LEN];
        hex::decode_to_slice(text.as_bytes(), &mut bytes)
            .map_err(|_| serde::de::Error::custom("expected 194 hexadecimal digits of a P-384 public key"))?;
        Ok(Self(bytes))
    }
}

/// A recipient's private key. Zeroized on drop, and kept on the heap so that moving it leaves no copies behind.
pub struct PrivateKey {
    key: Box<<DhP384HkdfSha384 as Kem>::PrivateKey>,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a fresh key pair.
    ///
    /// # Errors
    /// [`HpkeError::BadKey`] is never seen; it stands for a library that returned a key of the wrong length.
    pub fn generate() -> Result<Self, HpkeError> {
        let (key, public) = with_swept_stack(|| {
            let (key, public) = DhP384HkdfSha384::gen_keypair();
            (Box::new(key), public)
        });
        let public = public.to_bytes().as_slice().try_into().map(PublicKey).map_err(|_| HpkeError::BadKey)?;
        Ok(Self { key, public })
    }

    /// Loads a key from its 48 bytes.
    ///
    /// # Errors
    /// [`HpkeError::BadKey`] when they are zero or not below the order of the curve.
    pub fn from_bytes(bytes: &Secret<48>) -> Result<Self, HpkeError> {
        let (key, public) = with_swept_stack(|| {
            let key = <DhP384HkdfSha384 as Kem>::PrivateKey::from_bytes(bytes.expose());
            let key = Box::new(key.map_err(|_| HpkeError::BadKey)?);
            let public = DhP384HkdfSha384::sk_to_pk(&key);
            Ok((key, public))
        })?;
        let public = public.to_bytes().as_slice().try_into().map(PublicKey).map_err(|_| HpkeError::BadKey)?;
        Ok(Self { key, public })
    }

    /// The 48 bytes of the key, for its owner's own protected storage.
    ///
    /// # Errors
    /// [`HpkeError::BadKey`] is never seen.
    pub fn to_bytes(&self) -> Result<Secret<48>, HpkeError> {
        let mut bytes = self.key.to_bytes();
        let secret = Secret::fill_with(|own| {
            let source = bytes.as_slice();
            if source.len() != own.len() {
                return Err(HpkeError::BadKey);
            }
            own.copy_from_slice(source);
            Ok(())
        });
        zeroize::Zeroize::zeroize(&mut *bytes.as_mut_slice());
        secret
    }

    /// The public half.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hpke::PrivateKey(..)")
    }
}

/// One encrypted message: the encapsulated key and the ciphertext with its tag.
#[derive(Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Sealed {
    /// The encapsulated key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub encapsulated_key: [u8; ENCAPSULATED_KEY_LEN],
    /// Ciphertext and 16-byte tag.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.ciphertext.len())
    }
}

/// Secrets that both ends export from one context (RFC 9180, section 5.3).
pub trait Exporter {
    /// 32 bytes bound to the context and to `label`.
    ///
    /// # Errors
    /// [`HpkeError::SealFailed`] when the library refuses the length, which it does not for 32 bytes.
    fn export(&self, label: &str) -> Result<Secret<32>, HpkeError>;
}

type SenderContext = ::hpke::aead::AeadCtxS<AesGcm256, HkdfSha384, DhP384HkdfSha384>;
type ReceiverContext = ::hpke::aead::AeadCtxR<AesGcm256, HkdfSha384, DhP384HkdfSha384>;

/// A sender's context after its one message.
pub struct SentContext(Box<SenderContext>);
/// A recipient's context after the one message.
pub struct OpenedContext(Box<ReceiverContext>);

impl Exporter for SentContext {
    fn export(&self, label: &str) -> Result<Secret<32>, HpkeError> {
        Secret::fill_with(|out| self.0.export(label.as_bytes(), out).map_err(|_| HpkeError::SealFailed))
    }
}

impl Exporter for OpenedContext {
    fn export(&self, label: &str) -> Result<Secret<32>, HpkeError> {
        Secret::fill_with(|out| self.0.export(label.as_bytes(), out).map_err(|_| HpkeError::OpenFailed))
    }
}

/// Encrypts `plaintext` to `recipient`, bound to `info` and `aad`.
///
/// # Errors
/// [`HpkeError::BadKey`] when the recipient's key is no point of the curve, [`HpkeError::SealFailed`].
pub fn seal(
    recipient: &PublicKey,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<(Sealed, SentContext), HpkeError> {
    let recipient = <DhP384HkdfSha384 as Kem>::PublicKey::from_bytes(&recipient.0).map_err(|_| HpkeError::BadKey)?;
    let (encapsulated, context, ciphertext) = with_swept_stack(|| {
        let (encapsulated, context) =
            setup_sender::<AesGcm256, HkdfSha384, DhP384HkdfSha384>(&OpModeS::Base, &recipient, info)
                .map_err(|_| HpkeError::SealFailed)?;
        let mut context = Box::new(context);
        let ciphertext = context.seal(plaintext, aad).map_err(|_| HpkeError::SealFailed)?;
        Ok((encapsulated, context, ciphertext))
    })?;
    let encapsulated_key = encapsulated.to_bytes().as_slice().try_into().map_err(|_| HpkeError::SealFailed)?;
    Ok((Sealed { encapsulated_key, ciphertext }, SentContext(context)))
}

/// Decrypts a message made by [`seal`] for the same `info` and `aad`.
///
/// # Errors
/// [`HpkeError::BadKey`] when the encapsulated key is no point of the curve, [`HpkeError::OpenFailed`].
pub fn open(
    key: &PrivateKey,
    info: &[u8],
    aad: &[u8],
    sealed: &Sealed,
) -> Result<(Zeroizing<Vec<u8>>, OpenedContext), HpkeError> {
    let encapsulated =
        <DhP384HkdfSha384 as Kem>::EncappedKey::from_bytes(&sealed.encapsulated_key).map_err(|_| HpkeError::BadKey)?;
    with_swept_stack(|| {
        let context =
            setup_receiver::<AesGcm256, HkdfSha384, DhP384HkdfSha384>(&OpModeR::Base, &key.key, &encapsulated, info)
                .map_err(|_| HpkeError::OpenFailed)?;
        let mut context = Box::new(context);
        let plaintext = context.open(&sealed.ciphertext, aad).map_err(|_| HpkeError::OpenFailed)?;
        Ok((Zeroizing::new(plaintext), OpenedContext(context)))
    })
}

/// Concatenates the parts of an `info` or an AAD with their lengths, so that no two lists of parts give the same bytes.
#[must_use]
pub fn bind(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(label.len() + 1 + parts.iter().map(|part| part.len() + 8).sum::<usize>());
    out.extend_from_slice(label.as_bytes());
    out.push(0);
    for part in parts {
        out.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_opens_only_for_its_recipient_and_purpose() {
        let alice = PrivateKey::generate().unwrap();
        let (sealed, sent) = seal(alice.public_key(), b"info", b"aad", b"secret").unwrap();
        let (plaintext, opened) = open(&alice, b"info", b"aad", &sealed).unwrap();
        assert_eq!(plaintext.as_slice(), b"secret");
        assert_eq!(sent.export("x").unwrap(), opened.export("x").unwrap());
        assert_ne!(sent.export("x").unwrap(), opened.export("y").unwrap());

        let failed = |result: Result<_, HpkeError>| result.map(|_| ()).unwrap_err();
        assert_eq!(failed(open(&PrivateKey::generate().unwrap(), b"info", b"aad", &sealed)), HpkeError::OpenFailed);
        assert_eq!(failed(open(&alice, b"other", b"aad", &sealed)), HpkeError::OpenFailed);
        assert_eq!(failed(open(&alice, b"info", b"other", &sealed)), HpkeError::OpenFailed);
        for index in 0..sealed.ciphertext.len() {
            let mut bad = sealed.clone();
            bad.ciphertext[index] ^= 1;
            assert_eq!(failed(open(&alice, b"info", b"aad", &bad)), HpkeError::OpenFailed, "byte {index}");
        }
        let mut bad = sealed;
        bad.encapsulated_key[50] ^= 1;
        assert_eq!(failed(open(&alice, b"info", b"aad", &bad)), HpkeError::BadKey);
    }

    #[test]
    fn a_private_key_survives_its_bytes() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_bytes(&key.to_bytes().unwrap()).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert!(PrivateKey::from_bytes(&Secret::take(&mut [0; 48])).is_err());
        assert!(seal(&PublicKey([4; 97]), b"", b"", b"").is_err());
    }

    #[test]
    fn bound_parts_cannot_be_shifted() {
        assert_ne!(bind("l", &[b"ab", b"c"]), bind("l", &[b"a", b"bc"]));
        assert_ne!(bind("l", &[b"ab"]), bind("l", &[b"ab", b""]));
    }
}
