//! What a build of the enclave image says of itself: `measurements.json`.
//!
//! Guarantees: an [`ImageMeasurements`] that was read names PCR 0, 1 and 2, none of them zero, and says in bounded printable
//! ASCII from what and with what the image was made. Assumes: whoever uses it obtained it by a way that it trusts, or built
//! the image himself; nothing in it is signed. Refuses: unknown fields, another format, another spelling of a number,
//! registers of debug mode.

use serde::{Deserialize, Serialize};

use super::measurements::{Measurements, PCR_LEN, pcr_of_content};
use super::measurements::{hex_optional_pcr, hex_pcr};
use crate::limits::{IMAGE_COMMAND_LINE_MAX, IMAGE_MEASUREMENTS_MAX, IMAGE_TEXT_MAX, IMAGE_VERSION_MAX};

/// Digits of a commit that a name shows: enough that no two of one repository are alike.
const SHORT_REVISION: usize = 12;

/// An image as its build describes it: a JSON object with exactly these fields.
///
/// The registers depend on the image alone; PCR 16 is the static configuration's, which each operator writes, so it is not
/// here: [`ImageMeasurements::with_configuration`] adds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageMeasurements {
    /// Which format this is.
    pub format: ImageFormat,
    /// The enclave image file: 96 lower-case hexadecimal digits, as the other registers.
    #[serde(with = "hex_pcr")]
    pub pcr0: [u8; PCR_LEN],
    /// The kernel and the boot ramdisk.
    #[serde(with = "hex_pcr")]
    pub pcr1: [u8; PCR_LEN],
    /// The application.
    #[serde(with = "hex_pcr")]
    pub pcr2: [u8; PCR_LEN],
    /// The certificate that signed the image; only in signed images.
    #[serde(with = "hex_optional_pcr", default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<[u8; PCR_LEN]>,
    /// The enclave image file (EIF).
    pub image: ImageFile,
    /// From which source.
    pub source: ImageSource,
    /// With which compiler.
    pub toolchain: ImageToolchain,
    /// On which kernel.
    pub kernel: ImageKernel,
    /// The kernel's command line, as it stands in the image.
    #[serde(with = "command_line")]
    pub command_line: String,
}

/// The formats of [`ImageMeasurements`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageFormat {
    /// The first.
    #[serde(rename = "holdfast image measurements 1")]
    V1,
}

/// A file, by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// SHA-256 of its bytes: 64 lower-case hexadecimal digits.
    #[serde(with = "hex_bytes")]
    pub sha256: [u8; 32],
    /// Its length, in bytes.
    pub bytes: u64,
}

/// The source of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// The version of the workspace, such as `0.1.0`.
    #[serde(with = "version")]
    pub version: String,
    /// The git commit: 40 lower-case hexadecimal digits.
    #[serde(with = "hex_bytes")]
    pub revision: [u8; 20],
    /// Whether files differed from that commit: such an image cannot be built again from it.
    pub modified: bool,
}

/// The compiler of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageToolchain {
    /// What `rustc --version` says.
    #[serde(with = "text")]
    pub rustc: String,
    /// The target, such as `x86_64-unknown-linux-musl`.
    #[serde(with = "text")]
    pub target: String,
}

/// The kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageKernel {
    /// What it is: `linux 6.12.57`, or the file's name of one that was finished before.
    #[serde(with = "text")]
    pub source: String,
    /// SHA-256 of the `bzImage`.
    #[serde(with = "hex_bytes")]
    pub sha256: [u8; 32],
    /// How it was made; not known of a kernel that was finished before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<ImageKernelBuild>,
}

/// How the kernel of an image was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageKernelBuild {
    /// SHA-256 of the archive of its source.
    #[serde(with = "hex_bytes")]
    pub source_sha256: [u8; 32],
    /// SHA-256 of its finished configuration.
    #[serde(with = "hex_bytes")]
    pub config_sha256: [u8; 32],
    /// What compiler and linker say of themselves.
    #[serde(with = "text")]
    pub tools: String,
}

/// Why a description of an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageMeasurementsError {
    /// It is too long.
    #[error("the measurements of an image have at most {IMAGE_MEASUREMENTS_MAX} bytes")]
    TooLong,
    /// It is not the JSON object that it should be.
    #[error("not the measurements of an image: {0}")]
    Json(#[from] serde_json::Error),
    /// PCR 0, 1, 2 or 8 is zero, as in debug mode.
    #[error("PCR {0} is zero: no image measures so, except in debug mode")]
    ZeroPcr(u8),
}

impl ImageMeasurements {
    /// Reads `measurements.json`.
    ///
    /// # Errors
    /// [`ImageMeasurementsError`].
    pub fn parse(json: &[u8]) -> Result<Self, ImageMeasurementsError> {
        if json.len() > IMAGE_MEASUREMENTS_MAX {
            return Err(ImageMeasurementsError::TooLong);
        }
        let read: Self = serde_json::from_slice(json)?;
        let registers = [(0, Some(read.pcr0)), (1, Some(read.pcr1)), (2, Some(read.pcr2)), (8, read.pcr8)];
        match registers.into_iter().find(|(_, value)| *value == Some([0; PCR_LEN])) {
            Some((index, _)) => Err(ImageMeasurementsError::ZeroPcr(index)),
            None => Ok(read),
        }
    }

    /// What an enclave of this image shows that was given `static_configuration`, these exact bytes.
    #[must_use]
    pub fn with_configuration(&self, static_configuration: &[u8]) -> Measurements {
        self.with_pcr16(pcr_of_content(static_configuration))
    }

    /// What an enclave of this image shows whose static configuration measures so.
    #[must_use]
    pub const fn with_pcr16(&self, pcr16: [u8; PCR_LEN]) -> Measurements {
        Measurements {
            pcr0: self.pcr0,
            pcr1: self.pcr1,
            pcr2: self.pcr2,
            pcr16,
            pcr3: None,
            pcr4: None,
            pcr8: self.pcr8,
        }
    }

    /// A name for people: version and short commit, `0.1.0+1a2b3c4d5e6f`, with `.modified` where files differed from it.
    #[must_use]
    pub fn name(&self) -> String {
        let revision: String = hex::encode(self.source.revision).chars().take(SHORT_REVISION).collect();
        let modified = if self.source.modified { ".modified" } else { "" };
        format!("{}+{revision}{modified}", self.source.version)
    }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer, const N: usize>(value: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused =
            || D::Error::custom(format_args!("expected {} lower-case hexadecimal digits", N.saturating_mul(2)));
        let mut value = [0; N];
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refused());
        }
        hex::decode_to_slice(text, &mut value).map_err(|_| refused())?;
        Ok(value)
    }
}

/// Bounded printable ASCII, so that it can be shown on a terminal as it is.
macro_rules! printable_text {
    ($name:ident, $max:expr) => {
        mod $name {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            pub(super) fn serialize<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(value)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
                let text = String::deserialize(deserializer)?;
                let fits = (1..=$max).contains(&text.len());
                if fits && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                    return Ok(text);
                }
                Err(D::Error::custom(format_args!("expected 1 to {} printable ASCII characters", $max)))
            }
        }
    };
}

printable_text!(text, super::IMAGE_TEXT_MAX);
printable_text!(version, super::IMAGE_VERSION_MAX);
printable_text!(command_line, super::IMAGE_COMMAND_LINE_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> serde_json::Value {
        serde_json::json!({
            "format": "holdfast image measurements 1",
            "pcr0": "01".repeat(PCR_LEN), "pcr1": "02".repeat(PCR_LEN), "pcr2": "03".repeat(PCR_LEN),
            "image": {"sha256": "04".repeat(32), "bytes": 12_345_678},
            "source": {"version": "0.1.0", "revision": "05".repeat(20), "modified": false},
            "toolchain": {"rustc": "rustc 1.95.0 (0123456789 2026-04-01)", "target": "x86_64-unknown-linux-musl"},
            "kernel": {
                "source": "linux 6.12.57", "sha256": "06".repeat(32),
                "build": {"source_sha256": "08".repeat(32), "config_sha256": "07".repeat(32), "tools": "gcc 12.2.0, GNU ld 2.40"}
            },
            "command_line": "reboot=k panic=30 nomodules console=ttyS0"
        })
    }

    fn parse(value: &serde_json::Value) -> Result<ImageMeasurements, ImageMeasurementsError> {
        ImageMeasurements::parse(&serde_json::to_vec(value).unwrap())
    }

    /// `value` with the field at `pointer` replaced, or removed with `None`.
    fn with(pointer: &str, field: Option<serde_json::Value>) -> serde_json::Value {
        let mut value = image();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match field {
            Some(field) => parent.insert(name.to_owned(), field),
            None => parent.remove(name),
        };
        value
    }

    #[test]
    fn what_a_build_writes_is_read_and_written_again() {
        let unsigned = parse(&image()).unwrap();
        assert_eq!((unsigned.pcr0, unsigned.pcr8), ([1; PCR_LEN], None));
        assert_eq!(serde_json::to_value(&unsigned).unwrap(), image());
        let signed = with("/pcr8", Some("08".repeat(PCR_LEN).into()));
        assert_eq!(serde_json::to_value(parse(&signed).unwrap()).unwrap(), signed);
    }

    #[test]
    fn nothing_else_is_read() {
        let table = [
            ("/format", Some("holdfast image measurements 2".into())),
            ("/format", None),
            ("/pcr0", None),
            ("/pcr1", Some("AB".repeat(PCR_LEN).into())),
            ("/pcr2", Some("00".repeat(PCR_LEN).into())),
            ("/pcr8", Some("00".repeat(PCR_LEN).into())),
            ("/pcr16", Some("01".repeat(PCR_LEN).into())),
            ("/image/sha256", Some("04".repeat(31).into())),
            ("/image/sha256", Some("AA".repeat(32).into())),
            ("/image/bytes", Some((-1).into())),
            ("/image/name", Some("x".into())),
            ("/source/version", Some("".into())),
            ("/source/version", Some("1\n2".into())),
            ("/source/version", Some("9".repeat(IMAGE_VERSION_MAX + 1).into())),
            ("/kernel/source", Some("9".repeat(IMAGE_TEXT_MAX + 1).into())),
            ("/source/revision", Some("05".repeat(32).into())),
            ("/source/modified", None),
            ("/toolchain/rustc", Some("rustc\u{1b}[2J".into())),
            ("/toolchain/target", None),
            ("/kernel/sha256", None),
            ("/kernel/build/config_sha256", None),
            ("/kernel/build/tools", None),
            ("/command_line", Some("x".repeat(IMAGE_COMMAND_LINE_MAX + 1).into())),
            ("/command_line", None),
        ];
        for (pointer, field) in table {
            assert!(parse(&with(pointer, field.clone())).is_err(), "{pointer} = {field:?}");
        }
        let mut long = serde_json::to_vec(&image()).unwrap();
        long.resize(IMAGE_MEASUREMENTS_MAX, b' ');
        assert!(ImageMeasurements::parse(&long).is_ok());
        long.push(b' ');
        assert!(matches!(ImageMeasurements::parse(&long), Err(ImageMeasurementsError::TooLong)));
    }

    #[test]
    fn the_configuration_makes_it_a_set_that_a_policy_can_name() {
        let signed = parse(&with("/pcr8", Some("08".repeat(PCR_LEN).into()))).unwrap();
        let expected = Measurements {
            pcr0: [1; PCR_LEN],
            pcr1: [2; PCR_LEN],
            pcr2: [3; PCR_LEN],
            pcr16: pcr_of_content(b"{ }\n"),
            pcr3: None,
            pcr4: None,
            pcr8: Some([8; PCR_LEN]),
        };
        assert_eq!(signed.with_configuration(b"{ }\n"), expected);
        assert_ne!(signed.with_configuration(b"{ }"), expected, "the exact bytes count");
    }

    #[test]
    fn a_name_says_version_and_commit() {
        assert_eq!(parse(&image()).unwrap().name(), "0.1.0+050505050505");
        let modified = with("/source/modified", Some(true.into()));
        let mut longest = parse(&modified).unwrap();
        assert_eq!(longest.name(), "0.1.0+050505050505.modified");
        longest.source.version = "9".repeat(IMAGE_VERSION_MAX);
        assert!(longest.name().len() <= crate::limits::NAME_MAX);
    }
}
