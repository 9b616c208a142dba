//! `holdfast explain`: what a code, an exception or a message of KMS or `CloudWatch` means.

use core::fmt;

use serde::Serialize;

use super::table::causes;
use super::table::symptoms;
use super::table::{Cause, Symptom};

/// Bytes of the longest message that is read.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Causes that a person is shown of each entry.
const SHOWN: usize = 6;

/// What is known of a message.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Entries that fit, the most telling first; none if the message is unknown.
    pub entries: Vec<&'static Symptom>,
    /// Findings of `holdfast doctor` that the message names by their id.
    pub findings: Vec<&'static Cause>,
}

impl Explanation {
    /// Whether anything was found.
    #[must_use]
    pub fn is_found(&self) -> bool {
        !self.entries.is_empty() || !self.findings.is_empty()
    }
}

/// Finds the entries that fit `message`.
#[must_use]
pub fn explain(message: &str) -> Explanation {
    let text = message.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).collect();
    let has_word = |name: &str| words.iter().any(|word| word.eq_ignore_ascii_case(name));
    let by_phrase = symptoms::ALL.iter().filter(|symptom| longest_phrase(symptom, &text) > 0);
    let mut entries: Vec<&Symptom> = by_phrase.collect();
    // Of two texts of which one holds the other, the longer tells more.
    entries.sort_by_key(|symptom| core::cmp::Reverse(longest_phrase(symptom, &text)));
    for symptom in symptoms::ALL.iter().filter(|symptom| has_word(symptom.name)) {
        if !entries.iter().any(|found| found.name == symptom.name) {
            entries.push(symptom);
        }
    }
    if entries.iter().any(|symptom| !symptom.is_generic) {
        entries.retain(|symptom| !symptom.is_generic);
    }
    Explanation { entries, findings: causes::all().filter(|cause| has_word(cause.id)).collect() }
}

/// Bytes of the longest phrase that `text` holds; 0 if none.
fn longest_phrase(symptom: &Symptom, text: &str) -> usize {
    symptom.phrases.iter().filter(|phrase| text.contains(**phrase)).map(|phrase| phrase.len()).max().unwrap_or_default()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_found() {
            return f.write_str(
                "UNKNOWN: nothing in this text is known: give the ConnectionErrorCode that DescribeCustomKeyStores shows, the exception's \
                 name, or the whole message; `holdfast doctor URL` looks for the cause from outside",
            );
        }
        let mut separator = "";
        for symptom in &self.entries {
            write!(f, "{separator}{}\n  {}", symptom.name, symptom.meaning)?;
            f.write_str("\n  usual causes, likeliest first:")?;
            for (cause, number) in symptom.causes.iter().take(SHOWN).zip(1..) {
                write!(
                    f,
                    "\n  {number}. {} ({})\n     why  {}\n     do   {}",
                    cause.title, cause.id, cause.why, cause.remedy
                )?;
            }
            if let Some(more) = symptom.causes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                write!(f, "\n  and {more} less likely: --json shows all")?;
            }
            separator = "\n";
        }
        for cause in &self.findings {
            write!(f, "{separator}{}\n  {}\n  why  {}\n  do   {}", cause.id, cause.title, cause.why, cause.remedy)?;
            if let Some(code) = cause.code {
                write!(f, "\n  kms  {code}")?;
            }
            separator = "\n";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(message: &str) -> Vec<&'static str> {
        explain(message).entries.iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn messages_lead_to_their_entries() {
        let table: [(&str, &[&str]); 14] = [
            ("XKS_PROXY_TIMED_OUT", &["XKS_PROXY_TIMED_OUT"]),
            ("\"ConnectionErrorCode\": \"INVALID_CREDENTIALS\",", &["INVALID_CREDENTIALS"]),
            ("xks_proxy_invalid_tls_configuration", &["XKS_PROXY_INVALID_TLS_CONFIGURATION"]),
            (
                "An error occurred (XksKeyNotFoundException) when calling the CreateKey operation",
                &["XksKeyNotFoundException"],
            ),
            (
                "KMSInvalidStateException: AWS KMS cannot establish a\nTLS connection to the external key store proxy.",
                &["XKS_PROXY_INVALID_TLS_CONFIGURATION"],
            ),
            ("KMSInvalidStateException", &["KMSInvalidStateException"]),
            (
                "The external key store proxy did not respond to the request in the time allotted.",
                &["XKS_PROXY_TIMED_OUT"],
            ),
            ("rejected the request due to a very high request rate", &["ThrottlingException"]),
            (
                "The external key store proxy rejected the request because it does not support the requested operation.",
                &["UnsupportedOperationException", "InvalidKeyUsageException"],
            ),
            ("XksProxyErrors", &["XksProxyErrors"]),
            ("the printer is on fire", &[]),
            ("", &[]),
            ("XKS_PROXY", &[]),
            ("NotXksKeyNotFoundException", &[]),
        ];
        for (message, expected) in table {
            assert_eq!(names(message), expected, "{message}");
        }
    }

    #[test]
    fn a_finding_is_explained_by_its_id() {
        let found = explain("doctor said certificate-expired");
        assert_eq!(found.findings.iter().map(|cause| cause.id).collect::<Vec<_>>(), ["certificate-expired"]);
        assert!(found.to_string().contains("XKS_PROXY_INVALID_TLS_CONFIGURATION"));
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        assert!(!explain("\u{1b}[2J").is_found());
        assert!(explain("nothing").to_string().starts_with("UNKNOWN"));
    }
}
