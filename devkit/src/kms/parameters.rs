//! The parameters of a request, and KMS's constraints on them (AWS KMS API Reference; lengths and patterns as in the service model that
//! AWS publishes with its clients).
//!
//! Guarantees: every breach of a constraint is told, all at once, as KMS words it; the value of a secret is never repeated. Assumes: bodies
//! are bounded. Fields that are not asked for are ignored, as KMS does.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::aws_json::Answer;

/// What a text must be like.
pub struct Rule {
    /// The parameter, such as `XksProxyUriPath`.
    pub name: &'static str,
    /// Fewest characters.
    pub min: usize,
    /// Most characters.
    pub max: usize,
    /// As KMS words it, and as it is checked.
    pub pattern: Option<Pattern>,
    /// Whether it is repeated in errors.
    pub is_secret: bool,
}

/// A pattern.
pub enum Pattern {
    /// A regular expression, and the function that checks it.
    Expression(&'static str, fn(&str) -> bool),
    /// One of these.
    OneOf(&'static [&'static str]),
}

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal $min:literal..=$max:literal $($pattern:expr)?;)+) => {
        $(
            $(#[$doc])*
            pub const $rule: Rule =
                Rule { name: $name, min: $min, max: $max, pattern: rules!(@pattern $($pattern)?), is_secret: false };
        )+
    };
    (@pattern $pattern:expr) => { Some($pattern) };
    (@pattern) => { None };
}

rules! {
    /// Of a custom key store.
    STORE_ID = "CustomKeyStoreId" 1..=64;
    /// Of a custom key store.
    STORE_NAME = "CustomKeyStoreName" 1..=256;
    /// Of a custom key store, when it changes.
    NEW_STORE_NAME = "NewCustomKeyStoreName" 1..=256;
    /// CloudHSM or external.
    STORE_TYPE = "CustomKeyStoreType" 1..=64 Pattern::OneOf(&["AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"]);
    /// How KMS reaches the proxy.
    CONNECTIVITY = "XksProxyConnectivity" 1..=64 Pattern::OneOf(&["PUBLIC_ENDPOINT", "VPC_ENDPOINT_SERVICE"]);
    /// Where the proxy is; there is no port.
    ENDPOINT = "XksProxyUriEndpoint" 10..=128 Pattern::Expression("^https://[a-zA-Z0-9.-]+$", is_endpoint);
    /// Its path.
    PATH = "XksProxyUriPath" 10..=128
        Pattern::Expression(r"^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$", is_path);
    /// Its VPC endpoint service.
    VPC_SERVICE = "XksProxyVpcEndpointServiceName" 20..=64
        Pattern::Expression(r"^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$", is_vpc_service);
    /// The account of the VPC endpoint service.
    VPC_OWNER = "XksProxyVpcEndpointServiceOwner" 12..=12 Pattern::Expression("[0-9]{12}", all_digits);
    /// The external key.
    XKS_KEY_ID = "XksKeyId" 1..=128 Pattern::Expression("^[a-zA-Z0-9-_.]+$", is_xks_key_id);
    /// Of a KMS key: id, ARN, alias or alias ARN.
    KEY_ID = "KeyId" 1..=2048;
    /// The same, for an alias.
    TARGET_KEY_ID = "TargetKeyId" 1..=2048;
    /// The same, of the key to decrypt with.
    SOURCE_KEY_ID = "SourceKeyId" 1..=2048;
    /// The same, of the key to encrypt with.
    DESTINATION_KEY_ID = "DestinationKeyId" 1..=2048;
    /// `alias/…`.
    ALIAS_NAME = "AliasName" 1..=256 Pattern::Expression("^[a-zA-Z0-9:/_-]+$", is_alias);
    /// Of a KMS key.
    DESCRIPTION = "Description" 0..=8192;
    /// Of a KMS key.
    ORIGIN = "Origin" 1..=64 Pattern::OneOf(&["AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"]);
    /// Of a KMS key.
    KEY_USAGE = "KeyUsage" 1..=64;
    /// Of a KMS key.
    KEY_SPEC = "KeySpec" 1..=64;
    /// Of a data key.
    DATA_KEY_SPEC = "KeySpec" 1..=64 Pattern::OneOf(&["AES_256", "AES_128"]);
    /// Where a list goes on.
    MARKER = "Marker" 1..=1024;
}

/// Public half of the proxy's credential.
pub const PROXY_ACCESS_KEY_ID: Rule = Rule {
    name: "XksProxyAuthenticationCredential.AccessKeyId",
    min: 20,
    max: 30,
    pattern: Some(Pattern::Expression("^[A-Z2-7]+$", is_base32)),
    // The service model has it so: whoever swaps the two halves gives the other one here.
    is_secret: true,
};

/// Secret half of the proxy's credential.
pub const PROXY_SECRET: Rule = Rule {
    name: "XksProxyAuthenticationCredential.RawSecretAccessKey",
    min: 43,
    max: 64,
    pattern: Some(Pattern::Expression(r"^[a-zA-Z0-9\/+=]+$", is_base64)),
    is_secret: true,
};

fn all(text: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(is_allowed)
}

fn is_endpoint(text: &str) -> bool {
    let host = text.strip_prefix("https://").unwrap_or_default();
    all(host, |byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

fn is_path(text: &str) -> bool {
    let Some((prefix, version)) = text.rsplit_once("/kms/xks/v") else { return false };
    let prefix_is_fine = prefix.is_empty()
        || prefix
            .strip_prefix('/')
            .is_some_and(|rest| all(rest, |byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte)));
    prefix_is_fine && version.len() <= 2 && all_digits(version)
}

fn is_vpc_service(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let [zone, "amazonaws", "vpce", region, service] = parts.as_slice() else { return false };
    let (words, number) = region.rsplit_once('-').unwrap_or_default();
    let words: Vec<&str> = words.split('-').collect();
    ["com", "eu"].contains(zone)
        && (2..=3).contains(&words.len())
        && words.iter().all(|word| all(word, |byte| byte.is_ascii_lowercase()))
        && all_digits(number)
        && service
            .strip_prefix("vpce-svc-")
            .is_some_and(|id| all(id, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
}

fn all_digits(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_digit())
}

fn is_base32(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte))
}

fn is_base64(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_alphanumeric() || b"/+=".contains(&byte))
}

fn is_xks_key_id(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_alias(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte))
}

/// The parameters of one request, and what is wrong with those that were asked for.
pub struct Parameters {
    fields: Map<String, Value>,
    breaches: Vec<String>,
}

impl Parameters {
    /// Reads a body.
    ///
    /// # Errors
    /// `SerializationException`.
    pub fn read(body: &[u8]) -> Result<Self, Answer> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, breaches: Vec::new() }),
            Ok(_) => Err(serialization("the body is no JSON object")),
            Err(error) => Err(serialization(&error.to_string())),
        }
    }

    /// The fields as they came.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// A text that may be missing.
    pub fn optional(&mut self, rule: &Rule) -> Option<String> {
        let found = rule.name.split('.').try_fold(None::<&Value>, |outer, name| {
            let value = outer.map_or_else(|| self.fields.get(name), |value| value.get(name))?;
            Some(Some(value))
        });
        let value = found.flatten().filter(|value| !value.is_null())?;
        let Some(text) = value.as_str().map(str::to_owned) else {
            self.breaches
                .push(format!("Value at '{}' failed to satisfy constraint: Member must be a string", at(rule)));
            return None;
        };
        self.check(rule, &text);
        Some(text)
    }

    /// A text that may be missing, or empty instead.
    pub fn optional_unless_empty(&mut self, rule: &Rule) -> Option<String> {
        if self.fields.get(rule.name).is_some_and(|value| value == "") { None } else { self.optional(rule) }
    }

    /// A text that must be there; an empty one stands for it until [`Self::finish`] refuses.
    pub fn required(&mut self, rule: &Rule) -> String {
        self.optional(rule).unwrap_or_else(|| {
            self.breaches
                .push(format!("Value at '{}' failed to satisfy constraint: Member must not be null", at(rule)));
            String::new()
        })
    }

    /// A number that may be missing.
    pub fn number(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let bound = if value.as_u64().is_some_and(|number| number > max) {
                format!("less than or equal to {max}")
            } else {
                format!("greater than or equal to {min}")
            };
            let breach = format!(
                "Value '{value}' at '{}' failed to satisfy constraint: Member must have value {bound}",
                camel(name)
            );
            self.breaches.push(breach);
        }
        number
    }

    /// Whether a flag is set.
    ///
    /// # Errors
    /// `SerializationException` where it is neither true nor false.
    pub fn flag(&self, name: &str) -> Result<bool, Answer> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(is_set)) => Ok(*is_set),
            Some(_) => Err(serialization(&format!("{name} is neither true nor false"))),
        }
    }

    /// Bytes in base64.
    ///
    /// # Errors
    /// `SerializationException` where it is not base64.
    pub fn blob(&mut self, name: &'static str, min: usize, max: usize) -> Result<Vec<u8>, Answer> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else {
            self.breaches
                .push(format!("Value at '{}' failed to satisfy constraint: Member must not be null", camel(name)));
            return Ok(Vec::new());
        };
        let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.ok_or_else(|| serialization(&format!("{name} is not base64")))?;
        let bound = match bytes.len() {
            length if length < min => format!("greater than or equal to {min}"),
            length if length > max => format!("less than or equal to {max}"),
            _ => return Ok(bytes),
        };
        self.breaches
            .push(format!("Value at '{}' failed to satisfy constraint: Member must have length {bound}", camel(name)));
        Ok(bytes)
    }

    /// An encryption context; none is an empty one.
    pub fn context(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else { return BTreeMap::new() };
        serde_json::from_value(value.clone()).unwrap_or_else(|_| {
            self.breaches
                .push(format!("Value at '{}' failed to satisfy constraint: Member must map strings", camel(name)));
            BTreeMap::new()
        })
    }

    /// Refuses if anything that was asked for breaks a constraint.
    ///
    /// # Errors
    /// `ValidationException`.
    pub fn finish(&self) -> Result<(), Answer> {
        match self.breaches.len() {
            0 => Ok(()),
            count => {
                let errors = if count == 1 { "error" } else { "errors" };
                let message = format!("{count} validation {errors} detected: {}", self.breaches.join("; "));
                Err(Answer::bad("ValidationException", &message))
            }
        }
    }

    fn check(&mut self, rule: &Rule, text: &str) {
        let value = if rule.is_secret { "Value".to_owned() } else { format!("Value '{text}'") };
        let at = at(rule);
        let length = text.chars().count();
        let mut breach = |constraint: String| {
            self.breaches.push(format!("{value} at '{at}' failed to satisfy constraint: Member must {constraint}"));
        };
        if length < rule.min {
            breach(format!("have length greater than or equal to {}", rule.min));
        }
        if length > rule.max {
            breach(format!("have length less than or equal to {}", rule.max));
        }
        match &rule.pattern {
            Some(Pattern::Expression(expression, is_so)) if !is_so(text) => {
                breach(format!("satisfy regular expression pattern: {expression}"));
            }
            Some(Pattern::OneOf(names)) if !names.contains(&text) => {
                breach(format!("satisfy enum value set: [{}]", names.join(", ")));
            }
            _ => {}
        }
    }
}

/// A refusal in KMS's words for what no single constraint says.
#[must_use]
pub fn invalid(message: &str) -> Answer {
    Answer::bad("ValidationException", message)
}

fn serialization(message: &str) -> Answer {
    Answer::bad("SerializationException", message)
}

fn at(rule: &Rule) -> String {
    rule.name.split('.').map(camel).collect::<Vec<_>>().join(".")
}

/// As KMS names parameters in errors and CloudTrail: `xksProxyUriPath`.
#[must_use]
pub fn camel(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(fields: &Value, rules: &[&Rule]) -> Option<String> {
        let mut parameters = Parameters::read(fields.to_string().as_bytes()).unwrap();
        for rule in rules {
            parameters.required(rule);
        }
        parameters.finish().err().map(|answer| answer.body)
    }

    #[test]
    fn texts_are_taken_as_kms_takes_them() {
        let table: &[(&Rule, &str, bool)] = &[
            (&ENDPOINT, "https://xks.example.com", true),
            (&ENDPOINT, "https://ab", true),
            (&ENDPOINT, "https://a", false),
            (&ENDPOINT, "https://", false),
            (&ENDPOINT, "https://xks.example.com:8443", false),
            (&ENDPOINT, "http://xks.example.com", false),
            (&ENDPOINT, "https://xks.example.com/", false),
            (&PATH, "/kms/xks/v1", true),
            (&PATH, "/a/b_c-d/kms/xks/v12", true),
            (&PATH, "/kms/xks/v123", false),
            (&PATH, "/kms/xks/v", false),
            (&PATH, "//kms/xks/v1", false),
            (&PATH, "/a.b/kms/xks/v1", false),
            (&PATH, "/kms/xks/v1/", false),
            (&VPC_SERVICE, "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0", true),
            (&VPC_SERVICE, "com.amazonaws.vpce.us-gov-east-1.vpce-svc-0123", true),
            (&VPC_SERVICE, "com.amazonaws.vpce.us-1.vpce-svc-0123456789abcdef0", false),
            (&VPC_SERVICE, "com.amazonaws.vpce.us-east-1.vpce-0123456789abcdef0", false),
            (&XKS_KEY_ID, "a-b_c.9", true),
            (&XKS_KEY_ID, "a/b", false),
            (&ALIAS_NAME, "alias/a:b", true),
            (&ALIAS_NAME, "alias/ä", false),
            (&CONNECTIVITY, "PUBLIC_ENDPOINT", true),
            (&CONNECTIVITY, "public", false),
        ];
        for (rule, text, is_taken) in table {
            let refusal = refusal(&json!({ rule.name: text }), &[rule]);
            assert_eq!(refusal.is_none(), *is_taken, "{text}: {refusal:?}");
        }
    }

    #[test]
    fn every_breach_is_told_and_no_secret() {
        let fields = json!({
            "XksProxyUriEndpoint": "https://a:1",
            "XksProxyAuthenticationCredential": { "AccessKeyId": "short", "RawSecretAccessKey": "topsecret!" },
        });
        let told = refusal(&fields, &[&ENDPOINT, &PATH, &PROXY_ACCESS_KEY_ID, &PROXY_SECRET]).unwrap();
        for part in [
            "6 validation errors detected",
            "Value 'https://a:1' at 'xksProxyUriEndpoint' failed to satisfy constraint: Member must satisfy regular expression pattern",
            "Value at 'xksProxyUriPath' failed to satisfy constraint: Member must not be null",
            "Value at 'xksProxyAuthenticationCredential.accessKeyId' failed to satisfy constraint: Member must have length greater than or equal to 20",
            "Value at 'xksProxyAuthenticationCredential.rawSecretAccessKey' failed to satisfy constraint: Member must have length greater than or equal to 43",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("topsecret"), "{told}");
    }

    #[test]
    fn numbers_and_blobs_have_bounds() {
        let read = |fields: Value| Parameters::read(fields.to_string().as_bytes()).unwrap();
        let mut fine = read(json!({ "NumberOfBytes": 1024, "Plaintext": "AA==" }));
        assert_eq!(fine.number("NumberOfBytes", 1, 1024), Some(1024));
        assert_eq!(fine.blob("Plaintext", 1, 4096).unwrap(), [0]);
        fine.finish().unwrap();
        let mut wrong = read(json!({ "NumberOfBytes": 1025, "Limit": 0, "Plaintext": "" }));
        wrong.number("NumberOfBytes", 1, 1024);
        wrong.number("Limit", 1, 1000);
        wrong.blob("Plaintext", 1, 4096).unwrap();
        let told = wrong.finish().unwrap_err().body;
        assert!(told.contains("3 validation errors") && told.contains("less than or equal to 1024"), "{told}");
        let not_base64 = read(json!({ "Plaintext": "!" })).blob("Plaintext", 1, 4096).unwrap_err();
        assert!(not_base64.body.contains("SerializationException"));
    }
}
