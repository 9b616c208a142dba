//! Answers, serialised (specification, "Response Payload Syntax" of each operation).
//!
//! Guarantees: every required field is there; the buffer that holds a plaintext is wiped on drop; the fleet list has one to
//! ten entries. Each answer is built in one buffer.

use crate::secrets::WipedBytes;
use core::num::NonZeroU32;

use serde::Serialize;

use super::json::{base64_len, push_base64};
use crate::external_key::{EncryptedMessage, KeyUsage};
use crate::limits::EKM_FLEET_MAX;

/// The answer to Encrypt.
#[derive(Debug)]
pub struct EncryptAnswer<'a> {
    /// What the key made.
    pub message: &'a EncryptedMessage,
    /// `ciphertextDataIntegrityValue`, if it was asked for.
    pub integrity_value: Option<&'a [u8; 32]>,
}

impl EncryptAnswer<'_> {
    /// The JSON body.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        const NAMES_AND_SMALL_FIELDS: usize = 320;
        let message = self.message;
        let mut out = Vec::with_capacity(NAMES_AND_SMALL_FIELDS + base64_len(message.ciphertext.len()));
        out.extend_from_slice(br#"{"authenticationTag":""#);
        push_base64(&mut out, &message.tag);
        out.extend_from_slice(br#"","ciphertext":""#);
        push_base64(&mut out, &message.ciphertext);
        if let Some(value) = self.integrity_value {
            out.extend_from_slice(br#"","ciphertextDataIntegrityValue":""#);
            push_base64(&mut out, value);
        }
        out.extend_from_slice(br#"","ciphertextMetadata":""#);
        push_base64(&mut out, &message.metadata);
        out.extend_from_slice(br#"","initializationVector":""#);
        push_base64(&mut out, &message.iv);
        out.extend_from_slice(br#""}"#);
        out
    }
}

/// The answer to Decrypt.
pub struct DecryptAnswer<'a> {
    /// What the key gave back.
    pub plaintext: &'a [u8],
}

impl DecryptAnswer<'_> {
    /// The JSON body, in a buffer that is never reallocated and is wiped on drop.
    #[must_use]
    pub fn to_json(&self) -> WipedBytes {
        const OPEN: &[u8] = br#"{"plaintext":""#;
        const CLOSE: &[u8] = br#""}"#;
        let len = OPEN.len() + base64_len(self.plaintext.len()) + CLOSE.len();
        let mut out = WipedBytes::new(Vec::with_capacity(len));
        out.extend_from_slice(OPEN);
        push_base64(&mut out, self.plaintext);
        out.extend_from_slice(CLOSE);
        out
    }
}

/// `keyStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// `ENABLED`.
    Enabled,
    /// `DISABLED`.
    Disabled,
}

/// The answer to `GetKeyMetadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMetadataAnswer {
    /// `keyUsage`.
    pub usage: KeyUsage,
    /// `keyStatus`.
    pub status: KeyStatus,
}

impl KeyMetadataAnswer {
    /// The JSON body.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let usage = match (self.usage.encrypt, self.usage.decrypt) {
            (true, true) => r#""ENCRYPT","DECRYPT""#,
            (true, false) => r#""ENCRYPT""#,
            (false, true) => r#""DECRYPT""#,
            (false, false) => "",
        };
        let status = match self.status {
            KeyStatus::Enabled => "ENABLED",
            KeyStatus::Disabled => "DISABLED",
        };
        format!(r#"{{"keySpec":"AES_256","keyUsage":[{usage}],"keyStatus":"{status}"}}"#).into_bytes()
    }
}

/// `ekmFleetDetails.healthStatus`, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EkmStatus {
    /// Healthy.
    Active,
    /// Unhealthy, but can still serve traffic.
    Degraded,
    /// Cannot serve traffic.
    Unavailable,
}

/// One entry of `ekmFleetDetails`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EkmHealth {
    /// Unique within the fleet.
    pub id: String,
    /// Product name and version.
    pub model: String,
    /// How it is.
    pub health_status: EkmStatus,
}

/// A fleet without members, which the specification does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ekmFleetDetails needs at least one entry")]
pub struct FleetError;

/// The answer to `GetHealthStatus`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthAnswer<'a> {
    xks_proxy_fleet_size: NonZeroU32,
    xks_proxy_vendor: &'a str,
    xks_proxy_model: &'a str,
    ekm_vendor: &'a str,
    ekm_fleet_details: Vec<&'a EkmHealth>,
}

impl<'a> HealthAnswer<'a> {
    /// Describes a fleet. Of more than ten members, the ten in the worst health are named, since the list exists to warn.
    ///
    /// # Errors
    /// If `fleet` is empty.
    pub fn new(
        proxies: NonZeroU32,
        vendor: &'a str,
        model: &'a str,
        fleet: &'a [EkmHealth],
    ) -> Result<Self, FleetError> {
        if fleet.is_empty() {
            return Err(FleetError);
        }
        let mut details: Vec<&EkmHealth> = fleet.iter().collect();
        if details.len() > EKM_FLEET_MAX {
            details.sort_by_key(|member| core::cmp::Reverse(member.health_status));
            details.truncate(EKM_FLEET_MAX);
        }
        Ok(Self {
            xks_proxy_fleet_size: proxies,
            xks_proxy_vendor: vendor,
            xks_proxy_model: model,
            ekm_vendor: vendor,
            ekm_fleet_details: details,
        })
    }

    /// The JSON body.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn encrypt() {
        let message = EncryptedMessage { ciphertext: vec![0xFF; 4], metadata: [1; 20], iv: [2; 12], tag: [3; 16] };
        let plain = EncryptAnswer { message: &message, integrity_value: None };
        let expected = json!({
            "ciphertext": "/////w==",
            "ciphertextMetadata": "AQEBAQEBAQEBAQEBAQEBAQEBAQE=",
            "initializationVector": "AgICAgICAgICAgIC",
            "authenticationTag": "AwMDAwMDAwMDAwMDAwMDAw==",
        });
        assert_eq!(parse(&plain.to_json()), expected);
        let hashed = EncryptAnswer { message: &message, integrity_value: Some(&[0; 32]) };
        let body = hashed.to_json();
        assert_eq!(parse(&body)["ciphertextDataIntegrityValue"], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(parse(&body).as_object().unwrap().len(), 5);
        assert!(body.len() <= body.capacity());
    }

    #[test]
    fn decrypt_fits_its_buffer() {
        for len in [0, 1, 2, 3, 4300] {
            let body = DecryptAnswer { plaintext: &vec![0x55; len] }.to_json();
            assert_eq!(body.len(), body.capacity());
            assert_eq!(parse(&body)["plaintext"].as_str().unwrap().len(), base64_len(len));
        }
    }

    #[test]
    fn key_metadata() {
        let cases = [
            (true, true, KeyStatus::Enabled, json!(["ENCRYPT", "DECRYPT"]), "ENABLED"),
            (false, true, KeyStatus::Disabled, json!(["DECRYPT"]), "DISABLED"),
            (true, false, KeyStatus::Enabled, json!(["ENCRYPT"]), "ENABLED"),
            (false, false, KeyStatus::Enabled, json!([]), "ENABLED"),
        ];
        for (encrypt, decrypt, status, usage, text) in cases {
            let answer = KeyMetadataAnswer { usage: KeyUsage { encrypt, decrypt }, status };
            let expected = json!({ "keySpec": "AES_256", "keyUsage": usage, "keyStatus": text });
            assert_eq!(parse(&answer.to_json()), expected);
        }
    }

    #[test]
    fn health() {
        let member =
            |id: usize, health_status| EkmHealth { id: id.to_string(), model: "M \"1\"".into(), health_status };
        assert_eq!(HealthAnswer::new(NonZeroU32::MIN, "V", "M", &[]).unwrap_err(), FleetError);
        let fleet = [member(0, EkmStatus::Degraded)];
        let expected = json!({
            "xksProxyFleetSize": 1,
            "xksProxyVendor": "V",
            "xksProxyModel": "M",
            "ekmVendor": "V",
            "ekmFleetDetails": [{ "id": "0", "model": "M \"1\"", "healthStatus": "DEGRADED" }],
        });
        assert_eq!(parse(&HealthAnswer::new(NonZeroU32::MIN, "V", "M", &fleet).unwrap().to_json()), expected);

        let mut fleet: Vec<EkmHealth> = (0..15).map(|id| member(id, EkmStatus::Active)).collect();
        fleet[14].health_status = EkmStatus::Unavailable;
        let answer = parse(&HealthAnswer::new(NonZeroU32::MIN, "V", "M", &fleet).unwrap().to_json());
        let details = answer["ekmFleetDetails"].as_array().unwrap();
        assert_eq!(details.len(), 10);
        assert_eq!(details[0]["healthStatus"], "UNAVAILABLE");
    }
}
