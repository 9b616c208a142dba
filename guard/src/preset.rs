//! Policies for common wishes, as text to begin with.
//!
//! Guarantees: each is a valid policy set, whatever its settings; nothing of a setting gets into the text but names that cannot end
//! a string; what KMS asks when a KMS key is made, and tells neither its ARN nor a service, is thought of in each.

use core::fmt::Write as _;
use std::collections::BTreeSet;

/// A policy that is made of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Use by KMS keys of some regions only.
    RegionPin,
    /// Use by KMS keys of some accounts only, for callers of these accounts and AWS services.
    AccountOnly,
    /// Use through some AWS services only.
    Services,
    /// Use at some hours of working days only.
    BusinessHours,
}

/// What presets are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresetSettings {
    /// For `region-pin`: "eu-central-1".
    pub regions: Vec<String>,
    /// For `account-only`: 12 digits.
    pub accounts: Vec<String>,
    /// For `services`: "ebs", "s3", "rds".
    pub services: Vec<String>,
    /// For `business-hours`: the first hour, and the one at which it ends, UTC.
    pub hours: Option<(u8, u8)>,
}

/// Why a preset cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// A setting is missing.
    #[error("the preset {preset} needs {setting}")]
    Missing {
        /// Which preset.
        preset: &'static str,
        /// The flag.
        setting: &'static str,
    },
    /// A setting of another preset.
    #[error("the preset {preset} takes {setting} only")]
    Unused {
        /// Which preset.
        preset: &'static str,
        /// The flag.
        setting: &'static str,
    },
    /// A setting that is none.
    #[error("{value:?} is not {what}")]
    Malformed {
        /// What was given.
        value: String,
        /// What it should be.
        what: &'static str,
    },
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RegionPin, Self::AccountOnly, Self::Services, Self::BusinessHours];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RegionPin => "region-pin",
            Self::AccountOnly => "account-only",
            Self::Services => "services",
            Self::BusinessHours => "business-hours",
        }
    }

    /// The preset of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The flag that it takes.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::RegionPin => "--region",
            Self::AccountOnly => "--account",
            Self::Services => "--service",
            Self::BusinessHours => "--hours",
        }
    }

    /// What it permits.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::RegionPin => "use by KMS keys of these regions only",
            Self::AccountOnly => "use by KMS keys of these accounts only, for their own callers and AWS services",
            Self::Services => "use through these AWS services only; metadata for everybody",
            Self::BusinessHours => "use from Monday to Friday between these hours (UTC) only; metadata at any time",
        }
    }

    /// The policy's text.
    ///
    /// # Errors
    /// [`PresetError`].
    pub fn text(self, settings: &PresetSettings) -> Result<String, PresetError> {
        let PresetSettings { regions, accounts, services, hours } = settings;
        // What is given twice would have the same name twice.
        let [regions, accounts, services] = [regions, accounts, services].map(|values| once(values));
        let given = [!regions.is_empty(), !accounts.is_empty(), !services.is_empty(), hours.is_some()];
        for (preset, given) in Self::ALL.into_iter().zip(given) {
            if preset == self && !given {
                return Err(PresetError::Missing { preset: self.name(), setting: self.setting() });
            }
            if preset != self && given {
                return Err(PresetError::Unused { preset: self.name(), setting: self.setting() });
            }
        }
        match self {
            Self::RegionPin => Ok(region_pin(&list(&regions, "a region, as eu-central-1", is_label)?)),
            Self::AccountOnly => Ok(account_only(&list(&accounts, "an account's 12 digits", is_account)?)),
            Self::Services => {
                list(&services, "a service's short name, as ebs", is_label)?;
                Ok(through_services(&services))
            }
            Self::BusinessHours => business_hours(hours.unwrap_or_default()),
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Each once, in the order in which they were given.
fn once(values: &[String]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    values.iter().map(String::as_str).filter(|value| seen.insert(*value)).collect()
}

/// A set in Cedar's syntax.
fn list(values: &[&str], what: &'static str, is_one: fn(&str) -> bool) -> Result<String, PresetError> {
    if let Some(value) = values.iter().find(|value| !is_one(value)) {
        return Err(PresetError::Malformed { value: (*value).to_owned(), what });
    }
    Ok(format!("[{}]", values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")))
}

fn region_pin(regions: &str) -> String {
    format!(
        r#"// Use by KMS keys of these regions only.
@id("region-pin")
permit (principal, action, resource)
when {{ context has kmsRegion && {regions}.contains(context.kmsRegion) }};

// CreateKey asks for the key's metadata before there is a KMS key, so it names no region. No key is used by that.
@id("region-pin-create-key")
permit (principal, action == Holdfast::Action::"GetKeyMetadata", resource)
unless {{ context has kmsKeyArn }};
"#
    )
}

fn account_only(accounts: &str) -> String {
    format!(
        r#"// Use by KMS keys of these accounts, for callers of these accounts.
@id("account-only")
permit (principal, action, resource)
when {{ context has kmsAccount && {accounts}.contains(context.kmsAccount) }}
when {{ principal has account && {accounts}.contains(principal.account) }};

// The same for AWS services: they have no account of their own.
@id("account-only-services")
permit (principal, action, resource)
when {{ context has kmsAccount && {accounts}.contains(context.kmsAccount) }}
when {{ principal.kind == "service" || principal.kind == "aws-internal" }};

// CreateKey asks for the key's metadata before there is a KMS key: only the caller's account is known.
@id("account-only-create-key")
permit (principal, action == Holdfast::Action::"GetKeyMetadata", resource)
when {{ principal has account && {accounts}.contains(principal.account) }}
unless {{ context has kmsKeyArn }};
"#
    )
}

/// AWS names a service by its short name or by its endpoint in a region (`ebs`, `ec2.eu-central-1.amazonaws.com`).
fn through_services(services: &[&str]) -> String {
    let mut text = "// Use through these AWS services only.\n".to_owned();
    for name in services {
        let _ = write!(
            text,
            r#"@id("services-{name}")
permit (principal, action in [Holdfast::Action::"Encrypt", Holdfast::Action::"Decrypt"], resource)
when {{
    (context has viaService &&
        (context.viaService == "{name}" || context.viaService like "{name}.*.amazonaws.com" ||
         context.viaService like "{name}.*.amazonaws.com.cn")) ||
    (principal has service && (principal.service == "{name}.amazonaws.com" || principal.service == "{name}.amazonaws.com.cn"))
}};

"#
        );
    }
    text.push_str(
        r#"// People make and describe KMS keys, not services. No key is used by that.
@id("services-metadata")
permit (principal, action == Holdfast::Action::"GetKeyMetadata", resource);
"#,
    );
    text
}

fn business_hours((from, to): (u8, u8)) -> Result<String, PresetError> {
    if from >= to || to > 24 {
        let value = format!("{from}-{to}");
        return Err(PresetError::Malformed { value, what: "a span of hours, as 8-18, within one day" });
    }
    Ok(format!(
        r#"// Use from Monday to Friday, {from}:00 to {to}:00 UTC, by the enclave's attested clock.
@id("business-hours")
permit (principal, action, resource)
when {{ context.weekday <= 5 && context.hour >= {from} && context.hour < {to} }};

// KMS asks for metadata when somebody makes or looks at a KMS key. No key is used by that.
@id("business-hours-metadata")
permit (principal, action == Holdfast::Action::"GetKeyMetadata", resource);
"#
    ))
}

#[cfg(test)]
mod tests;
