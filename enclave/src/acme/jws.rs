//! Signed messages (RFC 7515, as RFC 8555, section 6.2, narrows it): ES256, flattened JSON.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_shared::secrets::SecretBytes;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::AcmeError;

/// Bytes of a coordinate of P-256.
const COORDINATE: usize = 32;

/// The key of an account.
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
    /// `x` and `y`, base64url.
    coordinates: (String, String),
}

/// A signed message.
#[derive(Serialize)]
pub(super) struct Signed {
    protected: String,
    payload: String,
    signature: String,
}

/// By what the server knows the key.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    /// The key itself: before there is an account.
    Key,
    /// The account's URL.
    Account(&'a str),
}

impl AccountKey {
    /// Reads an ECDSA P-256 key in PKCS #8 form.
    pub(super) fn new(pkcs8: &SecretBytes) -> Result<Self, AcmeError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose(), &SystemRandom::new())
            .map_err(|_| AcmeError::Key)?;
        // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
        let point = pair.public_key().as_ref().split_first().map(|(_, point)| point).ok_or(AcmeError::Key)?;
        let (x, y) = point.split_at_checked(COORDINATE).ok_or(AcmeError::Key)?;
        let coordinates = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self { pair, coordinates })
    }

    fn jwk(&self) -> Value {
        json!({ "crv": "P-256", "kty": "EC", "x": self.coordinates.0, "y": self.coordinates.1 })
    }

    /// SHA-256 of what proves control for a token (RFC 8555, section 8.1; RFC 8737, section 3).
    pub(super) fn key_authorization_sha256(&self, token: &str) -> [u8; 32] {
        let (x, y) = &self.coordinates;
        // RFC 7638, section 3: the required fields by name, without a space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let thumbprint = URL_SAFE_NO_PAD.encode(holdfast_shared::sha256(&[canonical.as_bytes()]));
        holdfast_shared::sha256(&[token.as_bytes(), b".", thumbprint.as_bytes()])
    }

    /// Signs a payload for one URL. Without a payload it is a POST-as-GET (RFC 8555, section 6.3).
    pub(super) fn sign(
        &self,
        signer: Signer<'_>,
        (url, nonce): (&str, &str),
        payload: Option<&Value>,
    ) -> Result<Signed, AcmeError> {
        let mut header = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        let (name, value) = match signer {
            Signer::Key => ("jwk", self.jwk()),
            Signer::Account(url) => ("kid", Value::from(url)),
        };
        if let Some(fields) = header.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let payload = payload.map(|payload| URL_SAFE_NO_PAD.encode(payload.to_string())).unwrap_or_default();
        let input = format!("{protected}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| AcmeError::Key)?;
        Ok(Signed { protected, payload, signature: URL_SAFE_NO_PAD.encode(signature) })
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::custody::tls_key;

    fn json_of(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_message_names_its_url_and_nonce_and_verifies() {
        let key = AccountKey::new(&tls_key().unwrap()).unwrap();
        let payload = json!({ "a": 1 });
        for (signer, payload) in [(Signer::Key, Some(&payload)), (Signer::Account("https://ca.test/1"), None)] {
            let signed = key.sign(signer, ("https://ca.test/new", "n0"), payload).unwrap();
            let header = json_of(&signed.protected);
            assert_eq!((&header["alg"], &header["nonce"]), (&json!("ES256"), &json!("n0")));
            assert_eq!(header["url"], "https://ca.test/new");
            match signer {
                Signer::Key => assert!(header["jwk"]["x"].is_string() && header["kid"].is_null()),
                Signer::Account(url) => assert!(header["kid"] == url && header["jwk"].is_null()),
            }
            assert_eq!(signed.payload.is_empty(), payload.is_none());
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref().to_vec());
            let input = format!("{}.{}", signed.protected, signed.payload);
            public.verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(&signed.signature).unwrap()).unwrap();
        }
    }

    /// The key of RFC 8037 has another curve; that of RFC 7515, appendix A.3, is on ours, and its thumbprint was computed by hand
    /// (`printf … | openssl dgst -sha256 -binary | basenc --base64url`).
    #[test]
    fn a_key_authorization_is_token_and_thumbprint() {
        let mut key = AccountKey::new(&tls_key().unwrap()).unwrap();
        key.coordinates = (
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU".to_owned(),
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0".to_owned(),
        );
        let expected = holdfast_shared::sha256(&[b"token.oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"]);
        assert_eq!(key.key_authorization_sha256("token"), expected);
    }
}
