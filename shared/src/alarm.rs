//! Alarms: what an enclave tells the home custodian of the use of keys, and what the custodian makes of it.
//!
//! ```text
//! enclave: one Tally each 10 s ─▶ home custodian: judge, with what it remembers of each user ─▶ webhook, syslog, `holdfast alarms`
//!     ▲ kinds and counts, for the parent's metrics ─┘
//! ```
//!
//! Guarantees: a tally is bounded whatever callers send: users beyond the bound are counted together. Assumes: the custodian may know who
//! uses which key; the parent may not, and learns kinds and counts. Alarms help people to look; nothing is refused because of one.

mod history;
mod rules;

pub use history::{DayPast, UseHistory};
pub use rules::{Hours, Known, Rules, RulesError, judge, shown};

use crate::cbor::message;
use crate::external_key::ExternalKeyId;
use crate::ids::{BootId, CustodianId};
use crate::limits;

/// What came to pass in a key store since the tally before, as one enclave saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Tally {
    /// Grows with each tally of a boot. One that was not answered is told again under its number, and counts once.
    #[n(0)]
    pub number: u64,
    /// The enclave's clock when this was sent, milliseconds since 1970.
    #[n(1)]
    pub at_ms: u64,
    /// Since when the uses were counted, milliseconds since 1970.
    #[n(2)]
    pub since_ms: u64,
    /// By user and key, sorted, each once.
    #[n(3)]
    pub uses: Vec<TalliedUse>,
    /// Of users beyond the bound.
    #[n(4)]
    pub others: UseCount,
    /// Leases that are overdue.
    #[n(5)]
    pub overdue: Vec<OverdueLease>,
}

message!(Tally, limits::TALLY_MAX, "tally", |tally| {
    if tally.uses.len() > limits::TALLY_USES_MAX || !tally.uses.is_sorted_by(|a, b| a.user < b.user) {
        return Err("a tally names at most 64 users, sorted, each once");
    }
    if tally.overdue.len() > limits::CUSTODIANS_MAX
        || !tally.overdue.is_sorted_by(|a, b| a.custodian_id < b.custodian_id)
    {
        return Err("a tally names each overdue lease once, sorted by custodian");
    }
    tally.uses.iter().try_for_each(|tallied| tallied.user.check())
});

impl Tally {
    /// The time in which the uses were counted, in milliseconds.
    #[must_use]
    pub const fn span_ms(&self) -> u64 {
        self.at_ms.saturating_sub(self.since_ms)
    }
}

/// Who used which key, and from where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct User {
    /// The key.
    #[n(0)]
    pub key: ExternalKeyId,
    /// `awsPrincipalArn`, an assumed role without its session ([`principal_of`]); absent where KMS names none.
    #[n(1)]
    pub principal: Option<String>,
    /// `kmsViaService`.
    #[n(2)]
    pub service: Option<String>,
    /// `awsSourceVpc`.
    #[n(3)]
    pub vpc: Option<String>,
}

impl User {
    fn texts(&self) -> [Option<&str>; 3] {
        [&self.principal, &self.service, &self.vpc].map(Option::as_deref)
    }

    /// Bytes of its texts.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.texts().into_iter().flatten().map(str::len).sum()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.texts().into_iter().flatten().all(|text| text.len() <= limits::TALLY_TEXT_MAX) {
            Ok(())
        } else {
            Err("a text of a tally is too long")
        }
    }
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct UseCount {
    /// `Encrypt` and `Decrypt` with success.
    #[n(0)]
    pub used: u32,
    /// Requests with a valid signature that were refused.
    #[n(1)]
    pub refused: u32,
}

impl UseCount {
    /// Adds another count. It never wraps.
    pub fn add(&mut self, other: Self) {
        self.used = self.used.saturating_add(other.used);
        self.refused = self.refused.saturating_add(other.refused);
    }

    /// Its part in the last `length_ms`, where it was counted in `span_ms`: what was held back counts as if it had come evenly.
    #[must_use]
    pub fn within(self, length_ms: u64, span_ms: u64) -> Self {
        let part = |count: u32| {
            let part = u128::from(count).saturating_mul(length_ms.min(span_ms).into()).checked_div(span_ms.into());
            part.and_then(|part| u32::try_from(part).ok()).unwrap_or(count)
        };
        Self { used: part(self.used), refused: part(self.refused) }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What a user did.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct TalliedUse {
    /// Who.
    #[n(0)]
    pub user: User,
    /// How often.
    #[n(1)]
    pub count: UseCount,
}

/// A lease of which less than half is left, though it is renewed when a third is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct OverdueLease {
    /// Whose.
    #[n(0)]
    pub custodian_id: CustodianId,
    /// What is left, in milliseconds; 0 when it ended.
    #[n(1)]
    pub left_ms: u64,
}

/// Kinds of alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum AlarmKind {
    /// A principal, a service or a VPC was never seen before in this key store.
    #[n(0)]
    FirstSeen,
    /// A principal used a key far more often than usual, or more principals did than are counted apart.
    #[n(1)]
    UnusualRate,
    /// A key was used outside of the hours of business.
    #[n(2)]
    OffHours,
    /// Most of a budget is debited.
    #[n(3)]
    Budget,
    /// The clocks of an enclave and the custodian differ.
    #[n(4)]
    ClockDrift,
    /// A lease is overdue, or was ended.
    #[n(5)]
    LeaseTrouble,
    /// Many requests were refused.
    #[n(6)]
    RefusedBurst,
}

impl AlarmKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::FirstSeen,
        Self::UnusualRate,
        Self::OffHours,
        Self::Budget,
        Self::ClockDrift,
        Self::LeaseTrouble,
        Self::RefusedBurst,
    ];

    /// As in metrics, webhooks and the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstSeen => "first-seen",
            Self::UnusualRate => "unusual-rate",
            Self::OffHours => "off-hours",
            Self::Budget => "budget",
            Self::ClockDrift => "clock-drift",
            Self::LeaseTrouble => "lease-trouble",
            Self::RefusedBurst => "refused-burst",
        }
    }

    /// The place in [`Self::ALL`], which never changes.
    #[must_use]
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or(Self::ALL.len())
    }
}

/// An alarm. Kind, key and `who` name it: the same is not raised again until [`Rules::quiet_ms`] are over.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Alarm {
    /// What kind.
    #[n(0)]
    pub kind: AlarmKind,
    /// Which key, where it is about one.
    #[n(1)]
    pub key: Option<ExternalKeyId>,
    /// The principal, service, VPC, custodian or boot that it is about; empty where there is none.
    #[n(2)]
    pub who: String,
    /// What was seen, and what is usual, for people. Printable.
    #[n(3)]
    pub text: String,
}

/// An alarm as a custodian has it on record.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RaisedAlarm {
    /// Grows with each alarm.
    #[n(0)]
    pub id: u64,
    /// When, on the custodian's clock, milliseconds since 1970.
    #[n(1)]
    pub at_ms: u64,
    /// The enclave that told of it, where one did.
    #[n(2)]
    pub boot_id: Option<BootId>,
    /// The alarm.
    #[n(3)]
    pub alarm: Alarm,
    /// Whether every place that the custodian delivers to has it.
    #[n(4)]
    pub is_delivered: bool,
}

impl Alarm {
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.who.len() > limits::TALLY_TEXT_MAX || self.text.len() > limits::ALARM_TEXT_MAX {
            Err("a text of an alarm is too long")
        } else {
            Ok(())
        }
    }
}

message!(Alarm, limits::ALARM_MAX, "alarm", Alarm::check);

/// By whom a principal is remembered: an assumed role by its name, because sessions are made up anew each time.
///
/// ```
/// # use holdfast_shared::alarm::principal_of;
/// assert_eq!(principal_of("arn:aws:sts::111122223333:assumed-role/app/i-0abc"), "arn:aws:sts::111122223333:assumed-role/app");
/// assert_eq!(principal_of("arn:aws:iam::111122223333:user/team/ann"), "arn:aws:iam::111122223333:user/team/ann");
/// ```
#[must_use]
pub fn principal_of(arn: &str) -> &str {
    // A search for one character, byte by byte: the texts between are short.
    let nth = |mark: u8, from: usize, nth: usize| {
        let marks = arn.bytes().enumerate().skip(from).filter(move |(_, byte)| *byte == mark);
        marks.map(|(at, _)| at).nth(nth)
    };
    // The resource is the rest of the ARN, but for colons in a session's name.
    let resource = nth(b':', 0, 4).map(|colon| colon + 1);
    let role = resource.filter(|from| arn.get(*from..).is_some_and(|resource| resource.starts_with("assumed-role/")));
    let slash =
        role.and_then(|from| nth(b'/', from, 1).filter(|slash| nth(b':', from, 0).is_none_or(|colon| *slash < colon)));
    slash.and_then(|slash| arn.get(..slash)).unwrap_or(arn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn kinds_are_numbered_in_the_order_of_the_wire() {
        for (number, kind) in AlarmKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number(), number);
            assert_eq!(kind.name().parse::<f64>().ok(), None);
        }
    }

    #[test]
    fn what_was_held_back_counts_evenly() {
        let count = UseCount { used: 600, refused: 6 };
        for (length_ms, span_ms, expected) in [
            (10, 10, count),
            (10, 0, count),
            (60, 10, count),
            (10, 60, UseCount { used: 100, refused: 1 }),
            (1, u64::MAX, UseCount::default()),
        ] {
            assert_eq!(count.within(length_ms, span_ms), expected, "{length_ms} of {span_ms}");
        }
        assert_eq!(UseCount { used: u32::MAX, refused: 0 }.within(u64::MAX, u64::MAX).used, u32::MAX);
    }

    #[test]
    fn a_role_is_remembered_without_its_sessions() {
        for (arn, principal) in [
            ("arn:aws:sts::1:assumed-role/app/a:b/c", "arn:aws:sts::1:assumed-role/app"),
            ("arn:aws:sts::1:assumed-role/app", "arn:aws:sts::1:assumed-role/app"),
            ("arn:aws:iam::1:role/path/app", "arn:aws:iam::1:role/path/app"),
            ("arn:aws:sts::1:federated-user/ann", "arn:aws:sts::1:federated-user/ann"),
            ("AWS Internal", "AWS Internal"),
            ("", ""),
        ] {
            assert_eq!(principal_of(arn), principal);
        }
    }

    #[test]
    fn a_tally_is_sorted_and_bounded() {
        let user = |key: &str, principal: &str| TalliedUse {
            user: User { key: key.parse().unwrap(), principal: Some(principal.to_owned()), service: None, vpc: None },
            count: UseCount { used: 1, refused: 0 },
        };
        let tally = |uses: Vec<TalliedUse>| Tally { at_ms: 1, uses, ..Tally::default() };
        let many = |count: usize| (0..count).map(|number| user("a", &format!("{number:03}"))).collect::<Vec<_>>();
        for (tally, holds) in [
            (tally(Vec::new()), true),
            (tally(vec![user("a", "x"), user("b", "x")]), true),
            (tally(vec![user("b", "x"), user("a", "x")]), false),
            (tally(vec![user("a", "x"), user("a", "x")]), false),
            (tally(vec![user("a", &"x".repeat(limits::TALLY_TEXT_MAX))]), true),
            (tally(vec![user("a", &"x".repeat(limits::TALLY_TEXT_MAX + 1))]), false),
            (tally(many(limits::TALLY_USES_MAX)), true),
            (tally(many(limits::TALLY_USES_MAX + 1)), false),
            (
                Tally {
                    overdue: vec![OverdueLease { custodian_id: CustodianId([1; 32]), left_ms: 0 }; 2],
                    ..tally(Vec::new())
                },
                false,
            ),
        ] {
            assert_eq!(cbor::decode::<Tally>(&cbor::encode(&tally)).is_ok(), holds, "{tally:?}");
        }
    }
}
