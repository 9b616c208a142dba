//! `holdfast key`: external keys.
//!
//! Guarantees: material is imported only to a key that an accepted enclave of this key store was attested to hold.

use core::fmt;

use holdfast_shared::command::{self, Action, KeyDescription, Outcome, VersionRun};
use holdfast_shared::external_key::{ExternalKeyId, KeyUsage};
use holdfast_shared::keystore::VersionState;
use holdfast_shared::secrets::{Secret, SecretBytes};
use serde::Serialize;

use super::Done;
use super::credential::attested_key;
use crate::evidence::Evidence;
use crate::moment::format_ms;
use crate::session::{Completed, Session, SessionError, Wait};
use crate::words::state_name;

/// A list of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyList {
    /// Sorted by id.
    pub keys: Vec<KeyLine>,
    /// Who says so.
    pub evidence: Evidence,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// As in `--xks-key-id`.
    pub id: String,
    /// `ENCRYPT`, `DECRYPT`, as the specification names them.
    pub usage: Vec<&'static str>,
    /// `enabled`, `disabled` or `pending-destruction`.
    pub state: &'static str,
    /// Number of the version that encrypts.
    pub current_version: u32,
    /// How many versions decrypt.
    pub versions: u32,
    /// Consecutive versions in one state, upwards; empty where the list would be too long.
    pub version_states: Vec<VersionLine>,
    /// When it is destroyed unless that is cancelled, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy_after_ms: Option<u64>,
}

/// Consecutive versions in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VersionLine {
    /// The lowest number.
    pub first: u32,
    /// The highest number.
    pub last: u32,
    /// `live`, `live-with-legacy` or `destroyed`.
    pub state: &'static str,
}

impl From<&VersionRun> for VersionLine {
    fn from(run: &VersionRun) -> Self {
        let state = match run.state {
            VersionState::Live => "live",
            VersionState::LiveWithLegacy => "live-with-legacy",
            VersionState::Destroyed => "destroyed",
        };
        Self { first: run.first, last: run.last, state }
    }
}

impl fmt::Display for VersionLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{} {}", self.first, self.state)
        } else {
            write!(f, "{}-{} {}", self.first, self.last, self.state)
        }
    }
}

impl KeyList {
    /// The list in an outcome.
    ///
    /// # Errors
    /// [`SessionError::OtherOutcome`].
    pub fn new(completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::Keys { keys } => {
                Ok(Self { keys: keys.iter().map(KeyLine::from).collect(), evidence: completed.evidence })
            }
            _ => Err(SessionError::OtherOutcome),
        }
    }
}

impl From<&KeyDescription> for KeyLine {
    fn from(key: &KeyDescription) -> Self {
        Self {
            id: key.id.to_string(),
            usage: usage_names(key.usage),
            state: state_name(key.state),
            current_version: key.current_version,
            versions: key.versions,
            version_states: key.runs.iter().map(VersionLine::from).collect(),
            destroy_after_ms: key.destroy_after_ms,
        }
    }
}

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keys.is_empty() {
            writeln!(f, "no keys; make one with: holdfast key create ID")?;
        }
        for key in &self.keys {
            writeln!(f, "{key}")?;
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

impl fmt::Display for KeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {}  version {}", self.id, usage_text(&self.usage), self.state, self.current_version)?;
        if let Some(at_ms) = self.destroy_after_ms {
            write!(f, ", destroyed at {}", format_ms(at_ms))?;
        }
        let nothing_to_see =
            matches!(self.version_states.as_slice(), [] | [VersionLine { first: 1, state: "live", .. }]);
        if nothing_to_see {
            return Ok(());
        }
        let states: Vec<_> = self.version_states.iter().map(ToString::to_string).collect();
        write!(f, "  ({})", states.join(", "))
    }
}

/// Reads a usage: `encrypt,decrypt`, `encrypt`, `decrypt` or `none`.
///
/// # Errors
/// What the text should have been.
pub fn parse_usage(text: &str) -> Result<KeyUsage, String> {
    let mut usage = KeyUsage { encrypt: false, decrypt: false };
    if text == "none" {
        return Ok(usage);
    }
    for word in text.split(',') {
        let flag = match word {
            "encrypt" => &mut usage.encrypt,
            "decrypt" => &mut usage.decrypt,
            _ => return Err("expected encrypt, decrypt, both with a comma between them, or none".to_owned()),
        };
        if std::mem::replace(flag, true) {
            return Err(format!("{word} is named twice"));
        }
    }
    Ok(usage)
}

/// For people.
#[must_use]
pub fn usage_text(names: &[&str]) -> String {
    if names.is_empty() { "no use".to_owned() } else { names.join(",") }
}

/// As the specification names them.
#[must_use]
pub fn usage_names(usage: KeyUsage) -> Vec<&'static str> {
    [(usage.encrypt, "ENCRYPT"), (usage.decrypt, "DECRYPT")]
        .into_iter()
        .filter_map(|(allowed, name)| allowed.then_some(name))
        .collect()
}

/// Has a key made in the enclave.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when the id is taken.
pub async fn create(
    session: &Session,
    id: ExternalKeyId,
    usage: KeyUsage,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let done = format!("key {id} created");
    Done::new(done, session.order(Action::CreateKey { id, usage }, wait).await?)
}

/// Brings the material of a key into an enclave, which makes a key of it.
///
/// # Errors
/// [`SessionError`]; [`SessionError::NoLease`] when no enclave runs, [`SessionError::Refused`] when the id is taken.
pub async fn import(
    session: &Session,
    id: ExternalKeyId,
    usage: KeyUsage,
    material: &Secret<32>,
    legacy: bool,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let recipient = attested_key(session).await?;
    let done = format!("key {id} imported");
    let command_id = session.new_command_id()?;
    let sealed = command::seal_material(material, session.store().manifest.id(), command_id, &recipient)?;
    let action = Action::ImportKey { id, usage, legacy, recipient, sealed };
    Done::new(done, session.order_as(command_id, action, wait).await?)
}

/// Bytes of a file with key material, at most: 64 digits and a line end.
pub const MATERIAL_FILE_MAX: usize = 66;

/// Reads key material: exactly 32 bytes, or exactly 64 hexadecimal digits and at most one line end. Bytes that are all
/// hexadecimal digits are refused: a random key is never such, and an AES-128 key written out would be half a key.
///
/// # Errors
/// What the file should have held.
pub fn parse_material(file: &SecretBytes) -> Result<Secret<32>, &'static str> {
    const EXPECTED: &str = "key material is 32 bytes, or 64 hexadecimal digits";
    let bytes = file.expose();
    Secret::fill_with(|material| {
        if bytes.len() == material.len() && !bytes.iter().all(u8::is_ascii_hexdigit) {
            material.copy_from_slice(bytes);
            return Ok(());
        }
        let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        hex::decode_to_slice(digits, material).map_err(|_| EXPECTED)
    })
}

/// Has a key rotated.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when there is no such key.
pub async fn rotate(session: &Session, id: ExternalKeyId, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("key {id} rotated: a new version encrypts, those before still decrypt");
    Done::new(done, session.order(Action::RotateKey { id }, wait).await?)
}

/// Has a version of a key destroyed.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when there is no such version, or it is the one that encrypts.
pub async fn destroy_version(
    session: &Session,
    id: ExternalKeyId,
    number: u32,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let done = format!("version {number} of key {id} destroyed");
    Done::new(done, session.order(Action::DestroyKeyVersion { id, number }, wait).await?)
}

/// Has a key enabled.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when there is no such key.
pub async fn enable(session: &Session, id: ExternalKeyId, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("key {id} enabled");
    Done::new(done, session.order(Action::EnableKey { id }, wait).await?)
}

/// Has a key disabled.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when there is no such key.
pub async fn disable(session: &Session, id: ExternalKeyId, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("key {id} disabled");
    Done::new(done, session.order(Action::DisableKey { id }, wait).await?)
}

/// Asks an enclave for the keys.
///
/// # Errors
/// [`SessionError`].
pub async fn list(session: &Session, wait: Wait<'_>) -> Result<KeyList, SessionError> {
    KeyList::new(session.order(Action::ListKeys, wait).await?)
}

#[cfg(test)]
mod tests {
    use holdfast_shared::external_key::KeyState;

    use super::*;

    #[test]
    fn material_is_32_bytes_or_64_digits_and_nothing_else() {
        let digits = "0123456789abcdefABCDEF00112233440123456789abcdefABCDEF0011223344";
        let decoded = hex::decode(digits).unwrap();
        let with = |end: &str| Some((format!("{digits}{end}").into_bytes(), decoded.clone()));
        let good = [
            with(""),
            with("\n"),
            with("\r\n"),
            Some((vec![b'z'; 32], vec![b'z'; 32])),
            Some((vec![0; 32], vec![0; 32])),
        ];
        for (file, expected) in good.into_iter().flatten() {
            assert_eq!(parse_material(&SecretBytes::new(file)).unwrap().expose().as_slice(), expected);
        }
        let bad = [
            Vec::new(),
            vec![1; 31],
            vec![1; 33],
            vec![b'a'; 32],
            vec![b'a'; 63],
            vec![b'g'; 64],
            format!("{digits} ").into_bytes(),
            format!(" {digits}").into_bytes(),
            format!("{digits}\n\n").into_bytes(),
            format!("0x{}", &digits[2..]).into_bytes(),
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_vec(),
        ];
        for file in bad {
            assert!(parse_material(&SecretBytes::new(file.clone())).is_err(), "{file:?}");
        }
    }

    #[test]
    fn versions_show_where_there_is_something_to_see() {
        let line = |runs: &[(u32, u32, VersionState)]| {
            let runs = runs.iter().map(|&(first, last, state)| VersionRun { first, last, state }).collect();
            let key = KeyDescription {
                destroy_after_ms: None,
                id: ExternalKeyId::parse("a").unwrap(),
                usage: KeyUsage::DECRYPT,
                state: KeyState::Enabled,
                current_version: 3,
                versions: 2,
                runs,
            };
            KeyLine::from(&key).to_string()
        };
        assert_eq!(line(&[(1, 3, VersionState::Live)]), "a  DECRYPT  enabled  version 3");
        assert_eq!(line(&[]), "a  DECRYPT  enabled  version 3");
        let mixed = [(1, 1, VersionState::LiveWithLegacy), (2, 2, VersionState::Destroyed), (3, 4, VersionState::Live)];
        let expected = "a  DECRYPT  enabled  version 3  (1 live-with-legacy, 2 destroyed, 3-4 live)";
        assert_eq!(line(&mixed), expected);
        let pending = KeyLine {
            state: "pending-destruction",
            destroy_after_ms: Some(1_734_075_478_960),
            ..KeyLine::from(&KeyDescription {
                destroy_after_ms: None,
                id: ExternalKeyId::parse("a").unwrap(),
                usage: KeyUsage::DECRYPT,
                state: KeyState::Enabled,
                current_version: 1,
                versions: 1,
                runs: Vec::new(),
            })
        };
        assert_eq!(
            pending.to_string(),
            "a  DECRYPT  pending-destruction  version 1, destroyed at 2024-12-13T07:37:58.96Z"
        );
    }

    #[test]
    fn usages() {
        for (text, expected) in [
            ("encrypt,decrypt", Some((true, true))),
            ("decrypt,encrypt", Some((true, true))),
            ("encrypt", Some((true, false))),
            ("decrypt", Some((false, true))),
            ("none", Some((false, false))),
            ("", None),
            ("encrypt,", None),
            ("encrypt,encrypt", None),
            ("sign", None),
            ("none,encrypt", None),
        ] {
            let found = parse_usage(text).ok().map(|usage| (usage.encrypt, usage.decrypt));
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
