//! The static configuration: whatever changes what the code may do for everyone.
//!
//! It comes from the parent and is measured: the enclave extends PCR 16 with the SHA-384 of its exact bytes and locks the
//! register before the first attestation document, so a release policy accepts the configuration or refuses the enclave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Regions from which requests are accepted, at most. AWS has fewer than 50.
const REGIONS_MAX: usize = 64;

/// Certificate authorities, at most. The whole configuration is bounded by the link.
const AUTHORITIES_MAX: usize = 64;

/// The parsed configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StaticConfiguration {
    /// AWS regions in whose name requests may be signed (`us-east-1`).
    #[cfg_attr(test, schemars(length(min = 1, max = REGIONS_MAX), inner(regex(pattern = r"^[a-z0-9-]{1,32}$"))))]
    pub regions: Vec<String>,
    /// Connections served at the same time.
    #[serde(default = "default_connections_max")]
    #[cfg_attr(test, schemars(range(min = 1, max = 65_536)))]
    pub connections_max: usize,
    /// Certificate authorities (DER in base64) whose certificates prove a host name that several owners claim. Without any,
    /// such a name is served to nobody.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = AUTHORITIES_MAX)))]
    pub host_name_authorities: Vec<String>,
}

const fn default_connections_max() -> usize {
    4096
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not the JSON that it should be.
    #[error("static configuration: {0}")]
    Json(String),
    /// A field with an impossible value.
    #[error("static configuration: {field} {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its rule.
        rule: &'static str,
    },
}

impl StaticConfiguration {
    /// Parses and checks the text.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn parse(text: &str) -> Result<Self, ConfigurationError> {
        let parsed: Self = serde_json::from_str(text).map_err(|error| ConfigurationError::Json(error.to_string()))?;
        let rule =
            |holds: bool, field, rule| if holds { Ok(()) } else { Err(ConfigurationError::Field { field, rule }) };
        rule((1..=REGIONS_MAX).contains(&parsed.regions.len()), "regions", "must name 1 to 64 regions")?;
        let is_region = |region: &String| {
            (1..=32).contains(&region.len())
                && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        rule(parsed.regions.iter().all(is_region), "regions", "must have a-z, 0-9 and dashes only")?;
        rule((1..=65_536).contains(&parsed.connections_max), "connections_max", "must be between 1 and 65536")?;
        rule(parsed.host_name_authorities.len() <= AUTHORITIES_MAX, "host_name_authorities", "may name at most 64")?;
        let is_base64 = |authority: &String| STANDARD.decode(authority).is_ok();
        let all = parsed.host_name_authorities.iter().all(is_base64);
        rule(all, "host_name_authorities", "must be certificates in base64 (DER)")?;
        Ok(parsed)
    }

    /// The certificate authorities, in DER.
    #[must_use]
    pub fn host_name_authorities(&self) -> Vec<Vec<u8>> {
        self.host_name_authorities.iter().filter_map(|authority| STANDARD.decode(authority).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_impossible_values_are_refused() {
        assert!(StaticConfiguration::parse(r#"{"regions":["us-east-1"]}"#).is_ok());
        let table = [
            (r#"{"regions":[]}"#, "regions must name"),
            (r#"{"regions":["US"]}"#, "regions must have"),
            (r#"{"regions":["a"],"connections_max":0}"#, "connections_max must be"),
            (r#"{"regions":["a"],"host_name_authorities":["%"]}"#, "host_name_authorities must be"),
            (r#"{"regions":["a"],"skip_attestation":true}"#, "unknown field"),
            ("{", "EOF"),
        ];
        for (text, expected) in table {
            let error = StaticConfiguration::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_schema_says_what_is_taken() {
        use holdfast_tests::reference::{assert_agreement, assert_schema_current, schema_of};

        let schema = schema_of::<StaticConfiguration>(
            "static.json",
            "What changes what an enclave may do for everyone. The parent hands it to the enclave byte for byte; the enclave measures it \
             (PCR 16), so that a release policy accepts exactly this text.",
        );
        assert_schema_current("static.schema.json", &schema);
        let base = serde_json::json!({ "regions": ["us-east-1"], "host_name_authorities": ["AA=="] });
        assert_agreement(&schema, &[base], &|document| {
            let parsed = StaticConfiguration::parse(&document.to_string());
            parsed.map(|parsed| format!("{parsed:?}")).map_err(|error| error.to_string())
        });
    }
}
