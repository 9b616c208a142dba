//! `holdfast key`: external keys.

use core::fmt;

use holdfast_shared::command::{Action, KeyDescription, Outcome};
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage};
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
use crate::session::{Completed, Session, SessionError, Wait};

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
            state: match key.state {
                KeyState::Enabled => "enabled",
                KeyState::Disabled => "disabled",
                KeyState::PendingDestruction => "pending-destruction",
            },
            current_version: key.current_version,
            versions: key.versions,
        }
    }
}

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keys.is_empty() {
            writeln!(f, "no keys; make one with: holdfast key create ID")?;
        }
        for key in &self.keys {
            writeln!(f, "{}  {}  {}  version {}", key.id, usage_text(&key.usage), key.state, key.current_version)?;
        }
        write!(f, "  {}", self.evidence.summary())
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
    use super::*;

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
