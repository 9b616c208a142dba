//! Who reads the audit log, and how much of it may be unwitnessed.
//!
//! Guarantees: there is always a reader. Without settings, each administrator reads, the mode is relaxed and the bounds are
//! [`MaxUnwitnessed::DEFAULT`]: so every key store has its log from its first version on. Refuses: two readers of one key or one name.

use std::collections::BTreeSet;

use crate::cbor::message;
use crate::hpke;
use crate::limits;
use crate::manifest::Administrator;

/// One who reads the log and orders nothing.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Auditor {
    /// For people: "internal-audit".
    #[n(0)]
    pub name: String,
    /// Segment keys are encrypted to it.
    #[n(1)]
    pub encryption_key: hpke::PublicKey,
}

/// When a request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum AuditMode {
    /// Its record is in the tree.
    #[default]
    #[n(0)]
    Relaxed,
    /// Its record is on the parent's disk, too.
    #[n(1)]
    Strict,
}

/// How much of a log may be witnessed by too few custodians before the key store is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct MaxUnwitnessed {
    /// Age of the oldest such record, in seconds.
    #[n(0)]
    pub seconds: u32,
    /// Number of such records.
    #[n(1)]
    pub records: u64,
}

impl MaxUnwitnessed {
    /// As long as a lease lasts unless the owner says otherwise: a custodian that is away ends service by the lease and no sooner. Ten
    /// million records are so many at 115 requests per second.
    pub const DEFAULT: Self = Self { seconds: 86_400, records: 10_000_000 };

    fn check(self) -> Result<(), &'static str> {
        if limits::AUDIT_UNWITNESSED_SECONDS.contains(&self.seconds)
            && limits::AUDIT_UNWITNESSED_RECORDS.contains(&self.records)
        {
            Ok(())
        } else {
            Err("2 to 86400 seconds and 10 to 100000000 records may be unwitnessed")
        }
    }
}

/// What a segment of a log was made under. In clear, so that whoever verifies knows how much may be missing at a log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Terms {
    /// When a request is answered.
    #[n(0)]
    pub mode: AuditMode,
    /// How much may be unwitnessed.
    #[n(1)]
    pub max_unwitnessed: MaxUnwitnessed,
}

impl Terms {
    /// Those of a key store without settings.
    pub const DEFAULT: Self = Self { mode: AuditMode::Relaxed, max_unwitnessed: MaxUnwitnessed::DEFAULT };

    /// Those of a version's settings.
    #[must_use]
    pub fn of(settings: Option<&AuditSettings>) -> Self {
        settings
            .map_or(Self::DEFAULT, |settings| Self { mode: settings.mode, max_unwitnessed: settings.max_unwitnessed })
    }

    pub(super) fn check(self) -> Result<(), &'static str> {
        self.max_unwitnessed.check()
    }
}

/// What administrators may set.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct AuditSettings {
    /// Who reads besides administrators, or instead of them.
    #[n(0)]
    pub auditors: Vec<Auditor>,
    /// Whether the administrators of the manifest in force read.
    #[n(1)]
    pub administrators_read: bool,
    /// When a request is answered.
    #[n(2)]
    pub mode: AuditMode,
    /// How much may be unwitnessed.
    #[n(3)]
    pub max_unwitnessed: MaxUnwitnessed,
}

impl Default for AuditSettings {
    fn default() -> Self {
        let Terms { mode, max_unwitnessed } = Terms::DEFAULT;
        Self { auditors: Vec::new(), administrators_read: true, mode, max_unwitnessed }
    }
}

message!(AuditSettings, limits::COMMAND_MAX, "audit settings", |settings| {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    let auditors = &settings.auditors;
    rule(auditors.len() <= limits::AUDITORS_MAX, "there are at most 8 auditors")?;
    rule(
        auditors.iter().all(|auditor| {
            (1..=limits::NAME_MAX).contains(&auditor.name.len())
                && auditor.name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        }),
        "each auditor needs a name of 1 to 64 printable ASCII characters",
    )?;
    let names: BTreeSet<_> = auditors.iter().map(|auditor| &auditor.name).collect();
    let keys: BTreeSet<_> = auditors.iter().map(|auditor| auditor.encryption_key.0).collect();
    rule(names.len() == auditors.len() && keys.len() == auditors.len(), "two auditors share a name or a key")?;
    rule(settings.administrators_read || !auditors.is_empty(), "somebody must read: administrators or auditors")?;
    settings.max_unwitnessed.check()
});

/// To whom segment keys are encrypted: each reader's key once.
#[must_use]
pub fn readers(settings: Option<&AuditSettings>, administrators: &[Administrator]) -> Vec<hpke::PublicKey> {
    let auditors = settings.into_iter().flat_map(|settings| &settings.auditors).map(|auditor| auditor.encryption_key);
    let read = settings.is_none_or(|settings| settings.administrators_read);
    let administrators = administrators.iter().filter(|_| read).map(|administrator| administrator.encryption_key);
    let mut readers: Vec<hpke::PublicKey> = Vec::new();
    for key in auditors.chain(administrators) {
        if !readers.contains(&key) {
            readers.push(key);
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::Message as _;
    use crate::signature::VerifyingKey;

    fn auditor(name: &str, key: u8) -> Auditor {
        Auditor { name: name.to_owned(), encryption_key: hpke::PublicKey([key; 97]) }
    }

    #[test]
    fn settings_have_rules() {
        type Case = (&'static str, fn(&mut AuditSettings), bool);
        let table: [Case; 11] = [
            ("the default", |_| (), true),
            ("auditors besides", |it| it.auditors = vec![auditor("a", 1), auditor("b", 2)], true),
            ("auditors instead", |it| (it.auditors, it.administrators_read) = (vec![auditor("a", 1)], false), true),
            ("nobody", |it| it.administrators_read = false, false),
            ("one key twice", |it| it.auditors = vec![auditor("a", 1), auditor("b", 1)], false),
            ("one name twice", |it| it.auditors = vec![auditor("a", 1), auditor("a", 2)], false),
            ("no name", |it| it.auditors = vec![auditor("", 1)], false),
            ("too many", |it| it.auditors = (0..9).map(|at| auditor(&at.to_string(), at)).collect(), false),
            ("no time", |it| it.max_unwitnessed.seconds = 1, false),
            ("too long a time", |it| it.max_unwitnessed.seconds = 86_401, false),
            ("no record", |it| it.max_unwitnessed.records = 9, false),
        ];
        for (what, change, expected) in table {
            let mut settings = AuditSettings::default();
            change(&mut settings);
            assert_eq!(settings.check().is_ok(), expected, "{what}");
        }
    }

    #[test]
    fn administrators_read_unless_that_is_switched_off() {
        let administrator = |key: u8| Administrator {
            name: "alice".to_owned(),
            signing_key: VerifyingKey([key; 97]),
            encryption_key: hpke::PublicKey([key; 97]),
        };
        let administrators = [administrator(1), administrator(2)];
        let keys = |keys: &[u8]| keys.iter().map(|&key| hpke::PublicKey([key; 97])).collect::<Vec<_>>();
        assert_eq!(readers(None, &administrators), keys(&[1, 2]));
        let mut settings = AuditSettings { auditors: vec![auditor("a", 3), auditor("b", 2)], ..Default::default() };
        assert_eq!(readers(Some(&settings), &administrators), keys(&[3, 2, 1]));
        settings.administrators_read = false;
        assert_eq!(readers(Some(&settings), &administrators), keys(&[3, 2]));
    }
}
