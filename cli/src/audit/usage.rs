//! Who used which keys, by the audit log.
//!
//! Guarantees: only what was answered with success counts. Assumes: the records are those of the log, which is for [`super::verify`] to
//! say. Bounded: [`USERS_MAX`] users are told apart, others are counted together.

use core::fmt;
use std::collections::BTreeMap;

use holdfast_shared::audit::{Event, Operation};
use holdfast_shared::external_key::ExternalKeyId;
use serde::Serialize;

use super::records::Line;
use crate::moment::format_ms;
use crate::output::printable;

/// Users that are told apart: more than anybody reads.
pub const USERS_MAX: usize = 1_000;

/// Somebody who used keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// `awsPrincipalArn`.
    pub principal: String,
    /// `kmsViaService`, where a service called KMS for the principal.
    pub via_service: Option<String>,
    /// Answered Encrypts.
    pub encrypts: u64,
    /// Answered Decrypts.
    pub decrypts: u64,
    /// When it was answered last, milliseconds since 1970.
    pub last_ms: u64,
}

/// Everybody who used keys since a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Who, last one first.
    pub users: Vec<User>,
    /// Uses of further users.
    pub by_others: u64,
    /// Records that the reader's key does not open: there may be more users.
    pub unopened: u64,
}

/// A [`Usage`] on its way through a log.
#[derive(Debug)]
pub struct Counting {
    keys: Vec<ExternalKeyId>,
    since_ms: u64,
    users: BTreeMap<(String, Option<String>), User>,
    by_others: u64,
}

impl Counting {
    /// Of these keys, or of all where none is named.
    #[must_use]
    pub const fn of(keys: Vec<ExternalKeyId>, since_ms: u64) -> Self {
        Self { keys, since_ms, users: BTreeMap::new(), by_others: 0 }
    }

    /// Takes a record.
    pub fn take(&mut self, line: &Line) {
        let Event::Request(request) = &line.record.what else { return };
        let is_use = matches!(request.operation, Operation::Encrypt | Operation::Decrypt) && request.error.is_none();
        let is_meant =
            self.keys.is_empty() || request.key.as_ref().is_some_and(|key| self.keys.iter().any(|meant| meant == key));
        if !is_use || !is_meant || line.record.at_ms < self.since_ms {
            return;
        }
        let principal = request.principal.clone().unwrap_or_default();
        let who = (principal, request.via_service.clone());
        if !self.users.contains_key(&who) && self.users.len() >= USERS_MAX {
            self.by_others = self.by_others.saturating_add(1);
            return;
        }
        let (principal, via_service) = who.clone();
        let user =
            self.users.entry(who).or_insert(User { principal, via_service, encrypts: 0, decrypts: 0, last_ms: 0 });
        let count = if request.operation == Operation::Encrypt { &mut user.encrypts } else { &mut user.decrypts };
        *count = count.saturating_add(1);
        user.last_ms = user.last_ms.max(line.record.at_ms);
    }

    /// What came of it.
    #[must_use]
    pub fn finish(self, unopened: u64) -> Usage {
        let mut users: Vec<_> = self.users.into_values().collect();
        users.sort_by(|a, b| b.last_ms.cmp(&a.last_ms).then_with(|| a.principal.cmp(&b.principal)));
        Usage { since_ms: self.since_ms, users, by_others: self.by_others, unopened }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = format_ms(self.since_ms);
        if self.users.is_empty() {
            write!(f, "used since {since}: by nobody, as far as the log goes")?;
        } else {
            write!(f, "used since {since} by {}:", self.users.len())?;
        }
        for user in &self.users {
            let via = user.via_service.as_deref().map(|via| format!(" through {}", printable(via))).unwrap_or_default();
            let (encrypts, decrypts, last) = (user.encrypts, user.decrypts, format_ms(user.last_ms));
            write!(f, "\n  {}{via}: {encrypts} Encrypt, {decrypts} Decrypt, last {last}", printable(&user.principal))?;
        }
        if self.by_others > 0 {
            write!(f, "\n  and {} uses by others", self.by_others)?;
        }
        if self.unopened > 0 {
            write!(f, "\n  WARNING: {} records are for another reader's key; there may be more users", self.unopened)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::audit::{LogId, Record, RequestRecord};
    use holdfast_shared::ids::{BootId, KeyStoreId};
    use holdfast_shared::xks::ErrorName;

    use super::*;

    fn line(at_ms: u64, operation: Operation, edit: impl FnOnce(&mut RequestRecord)) -> Line {
        let mut request = RequestRecord::new(operation, "A".repeat(20).parse().unwrap());
        request.key = Some(ExternalKeyId::parse("a").unwrap());
        request.principal = Some("alice".to_owned());
        edit(&mut request);
        let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
        Line { log, index: 1, record: Record { at_ms, what: Event::Request(Box::new(request)) } }
    }

    #[test]
    fn only_answered_uses_of_the_keys_in_question_count() {
        let lines = [
            line(100, Operation::Encrypt, |_| {}),
            line(300, Operation::Decrypt, |_| {}),
            line(200, Operation::Decrypt, |request| request.via_service = Some("s3".to_owned())),
            line(400, Operation::Decrypt, |request| request.error = Some(ErrorName::AccessDeniedException)),
            line(400, Operation::GetKeyMetadata, |_| {}),
            line(400, Operation::Decrypt, |request| request.key = Some(ExternalKeyId::parse("b").unwrap())),
            line(99, Operation::Encrypt, |_| {}),
        ];
        let counted = |keys: &[&str]| {
            let keys = keys.iter().map(|key| ExternalKeyId::parse(key).unwrap()).collect();
            let mut counting = Counting::of(keys, 100);
            for line in &lines {
                counting.take(line);
            }
            counting.finish(0)
        };
        let user = |via: Option<&str>, encrypts, decrypts, last_ms| User {
            principal: "alice".to_owned(),
            via_service: via.map(str::to_owned),
            encrypts,
            decrypts,
            last_ms,
        };
        assert_eq!(counted(&["a"]).users, [user(None, 1, 1, 300), user(Some("s3"), 0, 1, 200)]);
        assert_eq!(counted(&[]).users, [user(None, 1, 2, 400), user(Some("s3"), 0, 1, 200)]);
        assert_eq!(counted(&["c"]).users, []);
    }

    #[test]
    fn users_are_bounded_and_none_is_forgotten() {
        let mut counting = Counting::of(Vec::new(), 0);
        for number in 0..USERS_MAX + 5 {
            counting
                .take(&line(1, Operation::Encrypt, |request| request.principal = Some(format!("user-{number:05}"))));
        }
        let usage = counting.finish(2);
        assert_eq!((usage.users.len(), usage.by_others), (USERS_MAX, 5));
        assert!(usage.to_string().contains("and 5 uses by others") && usage.to_string().contains("2 records"));
    }
}
