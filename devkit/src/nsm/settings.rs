//! What can be set at the emulator: measurements, debug mode, time, faults.
//!
//! Guarantees: every value has one spelling and unknown fields are refused, in the configuration and on the control
//! socket alike. Registers and the module id count for enclaves that boot later, time, debug mode and faults at once.

use std::collections::BTreeMap;

use aws_nitro_enclaves_nsm_api::api::ErrorCode;
use holdfast_shared::attestation::measurements::{PCR_LEN, PcrTextError, pcr_from_hex, pcr_of_content};
use serde::{Deserialize, Serialize};

/// The registers that the hypervisor extends before an enclave starts; 3, 4 and 8 stay zero unless something was measured.
pub const SETTABLE_PCRS: [u8; 6] = [0, 1, 2, 3, 4, 8];

/// The module id of an enclave for which none was set: like AWS's, of an instance and an enclave.
pub const DEFAULT_MODULE_ID: &str = "i-0000000000e001a7e-enc0000000000e001a7e";

/// Longest module id that is accepted; AWS's have 39 characters.
const MODULE_ID_MAX: usize = 128;

/// Most faults at once: one of each kind and some slack.
const FAULTS_MAX: usize = 16;

/// A register's value, or what was measured into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PcrSource {
    /// 96 hexadecimal digits.
    Hex(String),
    /// The register becomes SHA-384(0⁴⁸ ‖ SHA-384(content)).
    Content(String),
}

impl PcrSource {
    /// The register's value.
    ///
    /// # Errors
    /// The text is not 96 lower-case hexadecimal digits.
    pub fn value(&self) -> Result<[u8; PCR_LEN], PcrTextError> {
        match self {
            Self::Hex(text) => pcr_from_hex(text),
            Self::Content(content) => Ok(pcr_of_content(content.as_bytes())),
        }
    }
}

/// The NSM's error codes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorName {
    /// Input argument(s) invalid.
    InvalidArgument,
    /// Register index out of bounds.
    InvalidIndex,
    /// The response does not belong to the request.
    InvalidResponse,
    /// The register is locked.
    ReadOnlyIndex,
    /// The request cannot be carried out.
    InvalidOperation,
    /// The answer does not fit.
    BufferTooSmall,
    /// The input is too large.
    InputTooLarge,
    /// A fault of the device.
    InternalError,
}

impl From<ErrorName> for ErrorCode {
    fn from(name: ErrorName) -> Self {
        match name {
            ErrorName::InvalidArgument => Self::InvalidArgument,
            ErrorName::InvalidIndex => Self::InvalidIndex,
            ErrorName::InvalidResponse => Self::InvalidResponse,
            ErrorName::ReadOnlyIndex => Self::ReadOnlyIndex,
            ErrorName::InvalidOperation => Self::InvalidOperation,
            ErrorName::BufferTooSmall => Self::BufferTooSmall,
            ErrorName::InputTooLarge => Self::InputTooLarge,
            ErrorName::InternalError => Self::InternalError,
        }
    }
}

/// What the emulator does wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Documents have one bit of their signature flipped.
    FlipSignatureBit,
    /// Documents stand under another root with the same names.
    WrongRoot,
    /// Documents are dated back by this many milliseconds.
    StaleTimestamp(u64),
    /// Documents are dated forward by this many milliseconds.
    FutureTimestamp(u64),
    /// Documents answer another nonce than the one asked for.
    ForeignNonce,
    /// Documents have no `digest`.
    NoDigest,
    /// Documents name no algorithm (−1) and hold 64 zero bytes for a signature, as QEMU's emulation does.
    Unsigned,
    /// The connection ends instead of an answer.
    DropResponse,
    /// Every request fails with this code.
    Error(ErrorName),
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// PCR 0, 1, 2, 3, 4 and 8 of the next enclave; a register that is not named is zero.
    pub pcrs: BTreeMap<u8, PcrSource>,
    /// Whether documents show every register as zero.
    pub debug_mode: bool,
    /// Name of the next enclave.
    pub module_id: String,
    /// How far the device's time is from the system's, in milliseconds.
    pub time_offset_ms: i64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pcrs: BTreeMap::new(),
            debug_mode: false,
            module_id: DEFAULT_MODULE_ID.to_owned(),
            time_offset_ms: 0,
            faults: Vec::new(),
        }
    }
}

/// A change of some of the settings: one line of JSON on the control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// Replaces all of [`Settings::pcrs`].
    pub pcrs: Option<BTreeMap<u8, PcrSource>>,
    /// Replaces [`Settings::debug_mode`].
    pub debug_mode: Option<bool>,
    /// Replaces [`Settings::module_id`].
    pub module_id: Option<String>,
    /// Replaces [`Settings::time_offset_ms`].
    pub time_offset_ms: Option<i64>,
    /// Replaces all of [`Settings::faults`].
    pub faults: Option<Vec<Fault>>,
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A register that an enclave's image does not determine.
    #[error("PCR {0} cannot be set; 0, 1, 2, 3, 4 and 8 can")]
    NotSettable(u8),
    /// A register's text.
    #[error("PCR {index}: {error}")]
    Pcr {
        /// Which one.
        index: u8,
        /// What is wrong.
        error: PcrTextError,
    },
    /// A module id that a device would not have.
    #[error("`module_id` is not 1 to {MODULE_ID_MAX} printable ASCII characters")]
    ModuleId,
    /// More faults than there are kinds.
    #[error("more than {FAULTS_MAX} faults")]
    Faults,
}

impl Settings {
    /// The settings after a change, or why they would not do.
    ///
    /// # Errors
    /// The first value that is refused; nothing changed then.
    pub fn changed(&self, change: SettingsChange) -> Result<Self, SettingsError> {
        let changed = Self {
            pcrs: change.pcrs.unwrap_or_else(|| self.pcrs.clone()),
            debug_mode: change.debug_mode.unwrap_or(self.debug_mode),
            module_id: change.module_id.unwrap_or_else(|| self.module_id.clone()),
            time_offset_ms: change.time_offset_ms.unwrap_or(self.time_offset_ms),
            faults: change.faults.unwrap_or_else(|| self.faults.clone()),
        };
        changed.check()?;
        Ok(changed)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is refused.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.boot_pcrs()?;
        let printable = self.module_id.bytes().all(|byte| byte.is_ascii_graphic());
        if self.module_id.is_empty() || self.module_id.len() > MODULE_ID_MAX || !printable {
            return Err(SettingsError::ModuleId);
        }
        if self.faults.len() > FAULTS_MAX {
            return Err(SettingsError::Faults);
        }
        Ok(())
    }

    /// The registers that are set, by index.
    pub(super) fn boot_pcrs(&self) -> Result<BTreeMap<u8, [u8; PCR_LEN]>, SettingsError> {
        let values = self.pcrs.iter().map(|(&index, source)| {
            if !SETTABLE_PCRS.contains(&index) {
                return Err(SettingsError::NotSettable(index));
            }
            let value = source.value().map_err(|error| SettingsError::Pcr { index, error })?;
            Ok((index, value))
        });
        values.collect()
    }
}
