//! What an ACME server answers (RFC 8555, section 7.1). Fields that we do not need are passed over, as section 7.1 asks for.

use serde::Deserialize;

/// Characters of a server's own words that are kept.
const WORDS_MAX: usize = 200;
/// Characters of a token: 128 bits are 22; every CA sends 43.
const TOKEN_LEN: core::ops::RangeInclusive<usize> = 22..=128;

/// Section 7.1.1.
#[derive(Debug, Deserialize)]
pub(super) struct Directory {
    #[serde(rename = "newNonce")]
    pub(super) nonce: String,
    #[serde(rename = "newAccount")]
    pub(super) account: String,
    #[serde(rename = "newOrder")]
    pub(super) order: String,
}

/// Section 7.1.2.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Account {
    #[serde(default)]
    pub(super) contact: Vec<String>,
}

/// Section 7.1.6: of orders, authorizations and challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

/// Section 7.1.3.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    pub(super) status: Status,
    pub(super) authorizations: Vec<String>,
    pub(super) finalize: String,
    pub(super) certificate: Option<String>,
    pub(super) error: Option<Problem>,
}

/// Section 7.1.4.
#[derive(Debug, Deserialize)]
pub(super) struct Authorization {
    pub(super) status: Status,
    #[serde(default)]
    pub(super) challenges: Vec<Challenge>,
}

/// Section 8.
#[derive(Debug, Deserialize)]
pub(super) struct Challenge {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) token: Option<String>,
    pub(super) error: Option<Problem>,
}

impl Challenge {
    /// The token, if it has the form that section 8.3 fixes.
    pub(super) fn token(&self) -> Option<&str> {
        let is_token = |token: &&str| {
            TOKEN_LEN.contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        self.token.as_deref().filter(is_token)
    }
}

/// Section 6.7.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) detail: String,
}

impl Problem {
    /// Whether the same message with another nonce may be taken (section 6.5).
    pub(super) fn is_bad_nonce(&self) -> bool {
        self.kind == "urn:ietf:params:acme:error:badNonce"
    }

    /// In one line, fit for a log.
    pub(super) fn words(&self) -> String {
        let kind = self.kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(&self.kind);
        printable(&format!("{kind}: {}", self.detail))
    }
}

/// What a server wrote: short, and printable ASCII.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(WORDS_MAX).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_another_form_are_none() {
        let challenge = |token: &str| Challenge {
            kind: "tls-alpn-01".to_owned(),
            url: String::new(),
            token: Some(token.to_owned()),
            error: None,
        };
        for (token, expected) in [
            ("DGyRejmCefe7v4NfDGDKfA", true),
            ("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA", true),
            ("short", false),
            ("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ.PCt92wr-oA", false),
            ("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ+PCt92wr/oA", false),
            ("", false),
        ] {
            assert_eq!(challenge(token).token().is_some(), expected, "{token}");
        }
        assert_eq!(challenge(&"a".repeat(129)).token(), None);
    }

    #[test]
    fn a_problem_is_short_and_printable() {
        let problem: Problem = serde_json::from_str(
            "{\"type\":\"urn:ietf:params:acme:error:dns\",\"detail\":\"no\\u001b[2J \\u202eway\",\"status\":400}",
        )
        .unwrap();
        assert_eq!(problem.words(), "dns: no?[2J ?way");
        let long = Problem { kind: String::new(), detail: "x".repeat(10_000) };
        assert_eq!(long.words().len(), WORDS_MAX);
        assert!(Problem { kind: "urn:ietf:params:acme:error:badNonce".to_owned(), ..long }.is_bad_nonce());
    }
}
