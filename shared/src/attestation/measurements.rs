//! Platform configuration registers: the values a policy names, and the arithmetic that produces them.
//!
//! Guarantees: a [`Measurements`] always names PCR 0, 1, 2 and 16, so that no policy can leave out what was measured at
//! build time or what the enclave measured of its own configuration. Assumes: values are public. Refuses: in text, any
//! length but 48 bytes, upper-case digits and unknown fields, so that one set has one spelling.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use ring::digest;
use serde::{Deserialize, Serialize};

/// Bytes in one PCR: the NSM's bank is SHA-384.
pub const PCR_LEN: usize = 48;

/// The index that the enclave extends with its static configuration and locks before its first document.
pub const CONFIGURATION_PCR: u8 = 16;

/// One set of accepted measurements, as a release policy names it.
///
/// PCR 0 measures the whole image, 1 the kernel and its command line, 2 the application, 16 the static configuration.
/// PCR 3 (the parent's IAM role), 4 (the parent's instance id) and 8 (the image's signing certificate) bind where an
/// owner pins them and say nothing where he does not.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(array)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// The enclave image file.
    #[cbor(n(0), with = "minicbor::bytes")]
    #[serde(with = "hex_pcr")]
    pub pcr0: [u8; PCR_LEN],
    /// The kernel and the boot ramdisk.
    #[cbor(n(1), with = "minicbor::bytes")]
    #[serde(with = "hex_pcr")]
    pub pcr1: [u8; PCR_LEN],
    /// The application.
    #[cbor(n(2), with = "minicbor::bytes")]
    #[serde(with = "hex_pcr")]
    pub pcr2: [u8; PCR_LEN],
    /// The static configuration, extended and locked by the enclave.
    #[cbor(n(3), with = "minicbor::bytes")]
    #[serde(with = "hex_pcr")]
    pub pcr16: [u8; PCR_LEN],
    /// The parent's IAM role, where pinned.
    #[cbor(n(4), with = "minicbor::bytes")]
    #[serde(with = "hex_optional_pcr", default, skip_serializing_if = "Option::is_none")]
    pub pcr3: Option<[u8; PCR_LEN]>,
    /// The parent's instance id, where pinned.
    #[cbor(n(5), with = "minicbor::bytes")]
    #[serde(with = "hex_optional_pcr", default, skip_serializing_if = "Option::is_none")]
    pub pcr4: Option<[u8; PCR_LEN]>,
    /// The image's signing certificate, where pinned.
    #[cbor(n(6), with = "minicbor::bytes")]
    #[serde(with = "hex_optional_pcr", default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<[u8; PCR_LEN]>,
}

impl Measurements {
    /// Whether the registers of a document satisfy this set: every value that the set names is present and equal.
    pub fn accepts(&self, pcrs: &BTreeMap<u8, [u8; PCR_LEN]>) -> bool {
        let required = [
            (0, Some(&self.pcr0)),
            (1, Some(&self.pcr1)),
            (2, Some(&self.pcr2)),
            (CONFIGURATION_PCR, Some(&self.pcr16)),
            (3, self.pcr3.as_ref()),
            (4, self.pcr4.as_ref()),
            (8, self.pcr8.as_ref()),
        ];
        required.into_iter().all(|(index, wanted)| wanted.is_none_or(|wanted| pcrs.get(&index) == Some(wanted)))
    }

    /// The measurements that a document shows, or `None` if it lacks one of PCR 0, 1, 2 and 16.
    ///
    /// PCR 3, 4 and 8 are taken where the document has them and they are not all zero (the NSM's value for "nothing
    /// was measured").
    pub fn shown_by(pcrs: &BTreeMap<u8, [u8; PCR_LEN]>) -> Option<Self> {
        let measured = |index: u8| pcrs.get(&index).filter(|value| **value != [0; PCR_LEN]).copied();
        Some(Self {
            pcr0: *pcrs.get(&0)?,
            pcr1: *pcrs.get(&1)?,
            pcr2: *pcrs.get(&2)?,
            pcr16: *pcrs.get(&CONFIGURATION_PCR)?,
            pcr3: measured(3),
            pcr4: measured(4),
            pcr8: measured(8),
        })
    }
}

/// The value of a register after `data` was extended into it: SHA-384(current ‖ data).
///
/// This is what the NSM does with the bytes of an `ExtendPCR` request as they come.
pub fn extend_pcr(current: [u8; PCR_LEN], data: &[u8]) -> [u8; PCR_LEN] {
    let mut context = digest::Context::new(&digest::SHA384);
    context.update(&current);
    context.update(data);
    sha384_bytes(&context.finish())
}

/// The value of a register that was zero and extended once with the SHA-384 of `content`:
/// SHA-384(0⁴⁸ ‖ SHA-384(content)).
///
/// PCR 0 to 4 and 8 are made so of the image's parts, and PCR 16 of the static configuration.
pub fn pcr_of_content(content: &[u8]) -> [u8; PCR_LEN] {
    extend_pcr([0; PCR_LEN], &sha384(content))
}

/// SHA-384 of `content`.
pub fn sha384(content: &[u8]) -> [u8; PCR_LEN] {
    sha384_bytes(&digest::digest(&digest::SHA384, content))
}

#[expect(clippy::expect_used, reason = "a SHA-384 digest has 48 bytes")]
fn sha384_bytes(digest: &digest::Digest) -> [u8; PCR_LEN] {
    digest.as_ref().try_into().expect("SHA-384 gives 48 bytes")
}

/// A register from its one spelling: 96 lower-case hexadecimal digits.
///
/// # Errors
/// Any other text.
pub fn pcr_from_hex(text: &str) -> Result<[u8; PCR_LEN], PcrTextError> {
    let mut value = [0; PCR_LEN];
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(PcrTextError);
    }
    hex::decode_to_slice(text, &mut value).map_err(|_| PcrTextError)?;
    Ok(value)
}

/// A register's text is not 96 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PCR is written as 96 lower-case hexadecimal digits")]
pub struct PcrTextError;

pub(super) mod hex_pcr {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::attestation) fn serialize<S: Serializer>(
        value: &[u8; super::PCR_LEN],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(value))
    }

    pub(in crate::attestation) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; super::PCR_LEN], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::pcr_from_hex(&text).map_err(D::Error::custom)
    }
}

pub(super) mod hex_optional_pcr {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
    pub(in crate::attestation) fn serialize<S: Serializer>(
        value: &Option<[u8; super::PCR_LEN]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(&hex::encode(value)),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::attestation) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; super::PCR_LEN]>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::pcr_from_hex(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Measurements {
        Measurements {
            pcr0: [1; PCR_LEN],
            pcr1: [2; PCR_LEN],
            pcr2: [3; PCR_LEN],
            pcr16: [4; PCR_LEN],
            pcr3: Some([5; PCR_LEN]),
            pcr4: None,
            pcr8: Some([6; PCR_LEN]),
        }
    }

    fn shown(set: &Measurements) -> BTreeMap<u8, [u8; PCR_LEN]> {
        let mut pcrs = BTreeMap::from([(0, set.pcr0), (1, set.pcr1), (2, set.pcr2), (16, set.pcr16)]);
        for (index, value) in [(3, set.pcr3), (4, set.pcr4), (8, set.pcr8)] {
            pcrs.insert(index, value.unwrap_or([0; PCR_LEN]));
        }
        pcrs
    }

    #[test]
    fn every_named_register_must_be_present_and_equal() {
        let set = full();
        let pcrs = shown(&set);
        assert!(set.accepts(&pcrs));
        for index in [0, 1, 2, 3, 8, 16] {
            let mut missing = pcrs.clone();
            missing.remove(&index);
            assert!(!set.accepts(&missing), "without PCR {index}");
            let mut other = pcrs.clone();
            other.insert(index, [9; PCR_LEN]);
            assert!(!set.accepts(&other), "with another PCR {index}");
        }
        let mut unpinned = pcrs.clone();
        unpinned.insert(4, [9; PCR_LEN]);
        assert!(set.accepts(&unpinned), "an unpinned PCR 4 says nothing");
    }

    #[test]
    fn what_a_document_shows_is_accepted_by_it() {
        let set = full();
        assert_eq!(Measurements::shown_by(&shown(&set)), Some(set.clone()));
        for index in [0, 1, 2, 16] {
            let mut pcrs = shown(&set);
            pcrs.remove(&index);
            assert_eq!(Measurements::shown_by(&pcrs), None);
        }
    }

    #[test]
    fn cbor_and_json_round_trip() {
        for set in [full(), Measurements { pcr3: None, pcr4: None, pcr8: None, ..full() }] {
            let bytes = minicbor::to_vec(&set).unwrap();
            assert_eq!(minicbor::decode::<Measurements>(&bytes).unwrap(), set);
            let text = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<Measurements>(&text).unwrap(), set);
        }
    }

    #[test]
    fn json_refuses_other_spellings() {
        let good = serde_json::to_value(full()).unwrap();
        let upper = "AB".repeat(PCR_LEN);
        let short = "ab".repeat(PCR_LEN - 1);
        let long = "ab".repeat(PCR_LEN + 1);
        for (field, value) in
            [("pcr0", &upper), ("pcr16", &short), ("pcr3", &long), ("pcr5", &good["pcr0"].to_string())]
        {
            let mut bad = good.clone();
            bad[field] = serde_json::Value::String(value.clone());
            assert!(serde_json::from_value::<Measurements>(bad).is_err(), "{field} = {value}");
        }
        let mut missing = good;
        missing.as_object_mut().unwrap().remove("pcr16");
        assert!(serde_json::from_value::<Measurements>(missing).is_err());
    }

    #[test]
    fn the_formula_is_one_extension_of_zero() {
        // SHA-384(0⁴⁸ ‖ SHA-384("")), computed with coreutils' sha384sum.
        assert_eq!(hex::encode(pcr_of_content(b"")), EMPTY_CONTENT);
    }

    const EMPTY_CONTENT: &str =
        "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a";
}
