//! The one table of what goes wrong between AWS KMS and an external key store proxy: `holdfast doctor` takes its words from here,
//! and `holdfast explain` finds them by what KMS said.
//!
//! Guarantees: every [`Cause`] has an id of its own and can be found by each code that it names; every sentence is ours, after the
//! XKS Proxy API specification 1.0.3 ("Error codes") and the AWS KMS Developer Guide ("Troubleshooting external key stores").

pub mod causes;
pub mod symptoms;

use serde::Serialize;

/// How much a finding matters, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Could not be looked at, because of something before it or for want of an argument.
    Skipped,
    /// KMS works with it; it should be otherwise.
    Warning,
    /// KMS refuses it.
    Refused,
    /// KMS works with it, and keys or data are in danger.
    Danger,
}

/// Something that is wrong, with its remedy.
#[derive(Debug, Serialize)]
pub struct Cause {
    /// Its name, for programs: lower case and dashes.
    pub id: &'static str,
    /// One line.
    pub title: &'static str,
    /// How much it matters.
    #[serde(skip)]
    pub grade: Grade,
    /// The `ConnectionErrorCode` that `DescribeCustomKeyStores` shows after an attempt to connect.
    #[serde(rename = "connection_error_code")]
    pub code: Option<&'static str>,
    /// The exception of the KMS operation that meets it first.
    pub exception: Option<&'static str>,
    /// Why KMS minds.
    pub why: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Something that KMS or `CloudWatch` says.
#[derive(Debug, Serialize)]
pub struct Symptom {
    /// The code, exception or metric.
    pub name: &'static str,
    /// Parts of messages by which it is known: lower case, single spaces.
    #[serde(skip)]
    pub phrases: &'static [&'static str],
    /// Whether it says so little that anything else that is found comes instead.
    #[serde(skip)]
    pub is_generic: bool,
    /// What it means.
    pub meaning: &'static str,
    /// What is behind it, likeliest first.
    pub causes: &'static [&'static Cause],
}

#[cfg(test)]
mod tests {
    use super::causes::all;
    use super::symptoms::ALL as SYMPTOMS;

    #[test]
    fn every_cause_has_an_id_of_its_own_and_something_to_do() {
        let mut ids: Vec<_> = all().map(|cause| cause.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all().count());
        for cause in all() {
            assert!(cause.id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{}", cause.id);
            for text in [cause.why, cause.remedy] {
                assert!(text.ends_with('.') && text.len() > 20, "{}: {text}", cause.id);
            }
        }
    }

    #[test]
    fn what_a_cause_names_leads_back_to_it() {
        for cause in all() {
            for name in [cause.code, cause.exception].into_iter().flatten() {
                let symptom = SYMPTOMS.iter().find(|symptom| symptom.name == name);
                let symptom = symptom.unwrap_or_else(|| panic!("{}: no entry for {name}", cause.id));
                let leads = symptom.causes.iter().any(|found| found.id == cause.id);
                assert!(leads || symptom.is_generic, "{name} does not lead to {}", cause.id);
            }
        }
    }

    #[test]
    fn every_symptom_says_what_is_behind_it() {
        for symptom in SYMPTOMS {
            assert!(!symptom.causes.is_empty(), "{}", symptom.name);
            assert!(symptom.meaning.ends_with('.'), "{}", symptom.name);
            for phrase in symptom.phrases {
                assert_eq!(phrase.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "), *phrase);
            }
        }
    }
}
