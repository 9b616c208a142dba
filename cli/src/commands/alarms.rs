//! `holdfast alarms`: what the home custodian raised alarms about.

use core::fmt;
use std::collections::VecDeque;

use holdfast_shared::alarm::{AlarmKind, RaisedAlarm};
use holdfast_shared::ids::BootId;
use holdfast_shared::query::{Answer, Question};
use serde::Serialize;

use crate::moment::format_ms;
use crate::output::printable;
use crate::session::{Contact, Session, SessionError};

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlarmLine {
    /// Grows with each alarm of the custodian.
    pub id: u64,
    /// On the custodian's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// What kind.
    pub kind: &'static str,
    /// The key, where it is about one.
    pub key: Option<String>,
    /// The principal, service, VPC, custodian or boot that it is about.
    pub who: String,
    /// What was seen, and what is usual.
    pub text: String,
    /// The enclave that told of it, where one did.
    pub boot_id: Option<BootId>,
    /// Whether each receiver in the custodian's configuration has it.
    pub delivered: bool,
}

impl From<RaisedAlarm> for AlarmLine {
    fn from(raised: RaisedAlarm) -> Self {
        let RaisedAlarm { id, at_ms, boot_id, alarm, is_delivered } = raised;
        let key = alarm.key.as_ref().map(ToString::to_string);
        Self {
            id,
            at_ms,
            kind: alarm.kind.name(),
            key,
            who: alarm.who,
            text: alarm.text,
            boot_id,
            delivered: is_delivered,
        }
    }
}

impl fmt::Display for AlarmLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {:<13}  {}", format_ms(self.at_ms), self.kind, printable(&self.text))?;
        if self.delivered { Ok(()) } else { f.write_str("  (not delivered yet)") }
    }
}

/// Alarms, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlarmsReport {
    /// The alarms.
    pub alarms: Vec<AlarmLine>,
    /// Whether there are older ones of these kinds.
    pub more: bool,
}

impl fmt::Display for AlarmsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.alarms.is_empty() {
            return f.write_str("no alarms");
        }
        let mut end = "";
        for alarm in &self.alarms {
            write!(f, "{end}{alarm}")?;
            end = "\n";
        }
        if self.more { f.write_str("\nthere are older ones; see them with --limit") } else { Ok(()) }
    }
}

/// The alarms of these kinds, all kinds if none is named, at most `limit`.
///
/// # Errors
/// [`SessionError`]; the home custodian alone has them.
pub async fn alarms(session: &Session, kinds: &[AlarmKind], limit: usize) -> Result<AlarmsReport, SessionError> {
    let mut pages = Pages::of(session.home_contact()?);
    let (mut alarms, mut more) = (Vec::new(), false);
    while let Some(raised) = pages.next().await? {
        if kinds.is_empty() || kinds.contains(&raised.alarm.kind) {
            if alarms.len() == limit {
                more = true;
                break;
            }
            alarms.push(raised.into());
        }
    }
    Ok(AlarmsReport { alarms, more })
}

/// The alarms after this one, oldest first.
///
/// # Errors
/// As [`alarms`].
pub async fn after(session: &Session, id: u64) -> Result<Vec<RaisedAlarm>, SessionError> {
    let mut pages = Pages::of(session.home_contact()?);
    let mut alarms = Vec::new();
    while let Some(raised) = pages.next().await?.filter(|raised| raised.id > id) {
        alarms.push(raised);
    }
    alarms.reverse();
    Ok(alarms)
}

/// The newest of the last `within_ms` on the custodian's clock, at most `limit`.
///
/// # Errors
/// As [`alarms`].
pub(super) async fn newest(
    contact: &Contact,
    limit: usize,
    is_recent: impl Fn(u64) -> bool,
) -> Result<Vec<AlarmLine>, SessionError> {
    let page = ask(contact, 0).await?;
    Ok(page.into_iter().take_while(|raised| is_recent(raised.at_ms)).take(limit).map(AlarmLine::from).collect())
}

/// Newest first, a page at a time.
struct Pages<'c> {
    contact: &'c Contact,
    page: VecDeque<RaisedAlarm>,
    before: Option<u64>,
}

impl<'c> Pages<'c> {
    const fn of(contact: &'c Contact) -> Self {
        Self { contact, page: VecDeque::new(), before: Some(0) }
    }

    async fn next(&mut self) -> Result<Option<RaisedAlarm>, SessionError> {
        if self.page.is_empty()
            && let Some(before) = self.before
        {
            self.page = ask(self.contact, before).await?.into();
            // A custodian that shows the same again and again is asked no more.
            self.before = self.page.back().map(|last| last.id).filter(|last| before == 0 || *last < before);
        }
        Ok(self.page.pop_front())
    }
}

async fn ask(contact: &Contact, before: u64) -> Result<Vec<RaisedAlarm>, SessionError> {
    match contact.ask(Question::Alarms(before)).await? {
        Answer::Alarms(page) => Ok(page),
        _ => Err(SessionError::OtherAnswer),
    }
}

/// Reads a kind of alarms.
///
/// # Errors
/// The kinds that there are.
pub fn parse_kind(text: &str) -> Result<AlarmKind, String> {
    AlarmKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = AlarmKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use holdfast_shared::alarm::Alarm;

    use super::*;

    #[test]
    fn an_alarm_as_a_person_sees_it() {
        let raised = RaisedAlarm {
            id: 7,
            at_ms: 1_795_383_000_000,
            boot_id: None,
            alarm: Alarm {
                kind: AlarmKind::OffHours,
                key: Some("a".parse().unwrap()),
                who: "ann\u{1b}[2J".to_owned(),
                text: "ann\u{1b}[2J used key a".to_owned(),
            },
            is_delivered: false,
        };
        let line = AlarmLine::from(raised);
        assert_eq!(line.to_string(), "2026-11-22T21:30:00Z  off-hours      ann?[2J used key a  (not delivered yet)");
        let report = AlarmsReport { alarms: vec![AlarmLine { delivered: true, ..line }], more: true };
        assert!(report.to_string().ends_with("key a\nthere are older ones; see them with --limit"), "{report}");
        assert_eq!(AlarmsReport { alarms: Vec::new(), more: false }.to_string(), "no alarms");
    }

    #[test]
    fn kinds_by_their_names() {
        for kind in AlarmKind::ALL {
            assert_eq!(parse_kind(kind.name()), Ok(kind));
        }
        assert!(parse_kind("first_seen").unwrap_err().contains("first-seen, unusual-rate"));
    }
}
