//! An alarm as receivers see it: one JSON object in ASCII.
//!
//! Guarantees: one line without control characters: whatever stands in a principal's name, it moves no cursor and ends no message.

use std::io;

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BootId, KeyStoreId};
use serde::Serialize;
use serde_json::ser::Formatter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::WaitingDelivery;

/// Bytes of `who` and of `text` in a short message, as they are written there. With all else that is some 2,000, which a receiver of
/// syslog should take (RFC 5424, section 6.1).
const SHORT_WHO_MAX: usize = 384;
/// See [`SHORT_WHO_MAX`].
const SHORT_TEXT_MAX: usize = 896;

/// Fields in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) key_store_id: Option<KeyStoreId>,
    /// RFC 3339.
    pub(super) at: String,
    pub(super) kind: &'static str,
    pub(super) key: Option<String>,
    pub(super) who: String,
    pub(super) text: String,
    pub(super) boot_id: Option<BootId>,
    pub(super) custodian: String,
}

impl Message {
    pub(super) fn of(waiting: &WaitingDelivery, custodian: &str) -> Self {
        Self {
            id: waiting.id,
            key_store_id: Some(waiting.key_store_id),
            at: time_of(waiting.at_ms),
            kind: waiting.alarm.kind.name(),
            key: waiting.alarm.key.as_ref().map(ExternalKeyId::to_string),
            who: waiting.alarm.who.clone(),
            text: waiting.alarm.text.clone(),
            boot_id: waiting.boot_id,
            custodian: custodian.to_owned(),
        }
    }

    /// What no alarm is.
    pub(super) fn test(custodian: &str, now_ms: u64) -> Self {
        Self {
            id: 0,
            key_store_id: None,
            at: time_of(now_ms),
            kind: "test",
            key: None,
            who: String::new(),
            text: "this is a test of the delivery of alarms; nothing happened".to_owned(),
            boot_id: None,
            custodian: custodian.to_owned(),
        }
    }

    /// The same with what callers may make long cut.
    pub(super) fn short(&self) -> Self {
        Self { who: cut(&self.who, SHORT_WHO_MAX), text: cut(&self.text, SHORT_TEXT_MAX), ..self.clone() }
    }

    pub(super) fn json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        // Neither a vector nor these types fail.
        let _ = self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii));
        out
    }
}

/// As much of a text as takes `max` bytes in ASCII.
fn cut(text: &str, max: usize) -> String {
    let mut left = max;
    text.chars()
        .take_while(|character| {
            // A quotation mark and a backslash take two, escapes six for each unit of UTF-16.
            let width = match character {
                '"' | '\\' => 2,
                ' '..='~' => 1,
                character => character.len_utf16().saturating_mul(6),
            };
            let fits = width <= left;
            left = left.saturating_sub(width);
            fits
        })
        .collect()
}

fn time_of(at_ms: u64) -> String {
    let nanoseconds = i128::from(at_ms).saturating_mul(1_000_000);
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// Writes everything but printable ASCII as escapes; control characters below DEL come as such already.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut units = [0; 2];
        for character in fragment.chars() {
            if matches!(character, ' '..='~') {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::alarm::{Alarm, AlarmKind};

    use super::*;

    fn waiting(who: &str, text: &str) -> WaitingDelivery {
        WaitingDelivery {
            id: 7,
            key_store_id: KeyStoreId([1; 32]),
            at_ms: 1_700_000_000_123,
            boot_id: Some(BootId([8; 16])),
            alarm: Alarm {
                kind: AlarmKind::OffHours,
                key: Some("a".parse().unwrap()),
                who: who.to_owned(),
                text: text.to_owned(),
            },
            destination: "webhook".to_owned(),
            attempts: 0,
            next_ms: 0,
        }
    }

    #[test]
    fn a_message_is_one_line_of_ascii() {
        let message = Message::of(&waiting("gr\u{fc}n \u{1f511}\u{202e}", "a \"b\"\n\u{7f}\u{1b}[2J"), "vault-1");
        let json = String::from_utf8(message.json()).unwrap();
        let expected = format!(
            "{{\"id\":7,\"key_store_id\":\"{}\",\"at\":\"2023-11-14T22:13:20.123Z\",\"kind\":\"off-hours\",\"key\":\"a\",\
             \"who\":\"gr\\u00fcn \\ud83d\\udd11\\u202e\",\"text\":\"a \\\"b\\\"\\n\\u007f\\u001b[2J\",\"boot_id\":\"{}\",\
             \"custodian\":\"vault-1\"}}",
            "01".repeat(32),
            "08".repeat(16)
        );
        assert_eq!(json, expected);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["who"], "gr\u{fc}n \u{1f511}\u{202e}");
    }

    #[test]
    fn a_test_says_that_it_is_one() {
        let json: serde_json::Value = serde_json::from_slice(&Message::test("vault-1", 0).json()).unwrap();
        assert_eq!((&json["kind"], &json["at"]), (&"test".into(), &"1970-01-01T00:00:00Z".into()));
        assert!(json["key_store_id"].is_null() && json["text"].as_str().unwrap().contains("test"));
    }

    #[test]
    fn a_short_message_is_short_whatever_is_in_it() {
        for text in ["x", "\"", "\n", "\u{fc}", "\u{1f511}"] {
            let long = text.repeat(4096 / text.len());
            let mut waiting = waiting(&text.repeat(1024 / text.len()), &long);
            waiting.alarm.key = Some("k".repeat(128).parse().unwrap());
            waiting.id = u64::MAX;
            let message = Message::of(&waiting, &"\\".repeat(64)).short();
            assert!(message.json().len() <= 1_950, "{}: {text:?}", message.json().len());
            assert!(long.starts_with(&message.text) && !message.text.is_empty());
        }
    }

    #[test]
    fn a_time_that_no_calendar_has_is_written_too() {
        assert_eq!(time_of(u64::MAX), "1970-01-01T00:00:00Z");
    }
}
