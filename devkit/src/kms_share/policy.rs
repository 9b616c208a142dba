//! A key policy, as KMS takes it.
//!
//! Guarantees: what no statement allows is denied, and a denial wins. Of a request's context it knows what KMS says of attested
//! requests: `kms:RecipientAttestation:ImageSha384`, `kms:RecipientAttestation:PCR…` and `kms:EncryptionContext:…`. Assumes: the one
//! caller is the principal of every statement. Refuses: every element, operator and key that it does not know.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What a request is, for a policy to judge: condition keys and their values, names in lower case.
pub type Context = BTreeMap<String, String>;

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON, or not in this form.
    #[error("key policy: {0}")]
    Json(String),
    /// A condition that is not emulated.
    #[error("key policy: the condition {0} is not emulated")]
    Condition(String),
    /// A resource that is not emulated.
    #[error("key policy: the resource of a key's policy is \"*\"")]
    Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::One(one) => matches(one),
            Self::More(more) => more.iter().any(|one| matches(one)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the names are IAM's")]
enum Operator {
    StringEquals,
    StringEqualsIgnoreCase,
    StringNotEquals,
    StringNotEqualsIgnoreCase,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(default, rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    #[serde(rename = "Principal")]
    _principal: Value,
    action: OneOrMore,
    resource: String,
    #[serde(default)]
    condition: BTreeMap<Operator, BTreeMap<String, OneOrMore>>,
}

/// A policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct KeyPolicy {
    #[serde(rename = "Version")]
    _version: String,
    #[serde(default, rename = "Id")]
    _id: Option<String>,
    statement: Vec<Statement>,
}

impl KeyPolicy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        let policy: Self = serde_json::from_slice(text).map_err(|error| PolicyError::Json(error.to_string()))?;
        for statement in &policy.statement {
            if statement.resource != "*" {
                return Err(PolicyError::Resource);
            }
            for key in statement.condition.values().flat_map(BTreeMap::keys) {
                let lower = key.to_ascii_lowercase();
                let known = ["kms:recipientattestation:", "kms:encryptioncontext:"];
                if !known.iter().any(|known| lower.starts_with(known)) {
                    return Err(PolicyError::Condition(key.clone()));
                }
            }
        }
        Ok(policy)
    }

    /// Whether `action` (`kms:Decrypt`) is allowed.
    #[must_use]
    pub fn allows(&self, action: &str, context: &Context) -> bool {
        let applies = |effect: Effect| {
            self.statement.iter().any(|statement| statement.effect == effect && statement.applies(action, context))
        };
        applies(Effect::Allow) && !applies(Effect::Deny)
    }
}

impl Statement {
    fn applies(&self, action: &str, context: &Context) -> bool {
        let names = |named: &str| named == "kms:*" || named.eq_ignore_ascii_case(action);
        self.action.any(names)
            && self.condition.iter().all(|(operator, keys)| {
                keys.iter().all(|(key, values)| operator.holds(context.get(&key.to_ascii_lowercase()), values))
            })
    }
}

impl Operator {
    /// A key that is not there equals nothing, and so is not equal to everything.
    fn holds(self, found: Option<&String>, values: &OneOrMore) -> bool {
        let equals = |ignores_case: bool| {
            found.is_some_and(|found| {
                values.any(|value| if ignores_case { found.eq_ignore_ascii_case(value) } else { found == value })
            })
        };
        match self {
            Self::StringEquals => equals(false),
            Self::StringEqualsIgnoreCase => equals(true),
            Self::StringNotEquals => !equals(false),
            Self::StringNotEqualsIgnoreCase => !equals(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(statements: &str) -> Result<KeyPolicy, PolicyError> {
        KeyPolicy::parse(format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#).as_bytes())
    }

    fn statement(effect: &str, action: &str, condition: &str) -> String {
        format!(r#"{{"Effect":"{effect}","Principal":"*","Action":{action},"Resource":"*","Condition":{condition}}}"#)
    }

    const IMAGE: &str = "kms:RecipientAttestation:ImageSha384";

    #[test]
    fn what_is_not_allowed_is_denied_and_a_denial_wins() {
        let allow = statement("Allow", r#"["kms:Encrypt","kms:Decrypt"]"#, "{}");
        let only = |operator: &str| format!(r#"{{"{operator}":{{"{IMAGE}":["AB","cd"]}}}}"#);
        let attested = statement("Allow", r#""kms:Decrypt""#, &only("StringEqualsIgnoreCase"));
        let exactly = statement("Allow", r#""kms:Decrypt""#, &only("StringEquals"));
        let deny_others = statement("Deny", r#""kms:Decrypt""#, &only("StringNotEqualsIgnoreCase"));
        let both = format!("{allow},{deny_others}");
        let table = [
            ("", "kms:Decrypt", None, false),
            (&*allow, "kms:Decrypt", None, true),
            (&*allow, "kms:ReEncryptFrom", None, false),
            (&*attested, "kms:Decrypt", None, false),
            (&*attested, "kms:Decrypt", Some("ab"), true),
            (&*attested, "kms:Decrypt", Some("cd"), true),
            (&*attested, "kms:Decrypt", Some("ef"), false),
            (&*attested, "kms:Encrypt", Some("ab"), false),
            (&*exactly, "kms:Decrypt", Some("ab"), false),
            (&*exactly, "kms:Decrypt", Some("AB"), true),
            (&*both, "kms:Decrypt", None, false),
            (&*both, "kms:Decrypt", Some("ef"), false),
            (&*both, "kms:Decrypt", Some("AB"), true),
            (&*both, "kms:Encrypt", None, true),
        ];
        for (statements, action, image, expected) in table {
            let context = image.map(|image| (IMAGE.to_ascii_lowercase(), image.to_owned())).into_iter().collect();
            assert_eq!(
                policy(statements).unwrap().allows(action, &context),
                expected,
                "{statements} {action} {image:?}"
            );
        }
    }

    #[test]
    fn what_is_not_emulated_is_refused() {
        let table = [
            (statement("Allow", r#""kms:*""#, r#"{"Bool":{"aws:SecureTransport":"true"}}"#), "unknown variant"),
            (statement("Allow", r#""kms:*""#, r#"{"StringEquals":{"aws:SourceVpce":"x"}}"#), "is not emulated"),
            (statement("Allow", r#""kms:*""#, "{}").replace(r#""Resource":"*""#, r#""Resource":"x""#), "resource"),
            (statement("Allow", r#""kms:*""#, "{}").replace("Action", "NotAction"), "unknown field"),
        ];
        for (statements, expected) in table {
            let error = policy(&statements).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
