//! `holdfast kms config`: what AWS KMS must be told.
//!
//! Guarantees: the secret goes into files that only their owner can read, and into what is printed only where that was asked
//! for. The file for the console has the form of the specification's section "XKS proxy configuration in AWS KMS console"; the
//! AWS CLI takes another, so it gets a file of its own.

use core::fmt;
use std::path::{Path, PathBuf};

use holdfast_shared::secrets::SecretBytes;
use serde::Serialize;

use super::credential::{Issued, credential_json, secret_text};
use crate::files::{self, FileError};
use crate::home::{KeyStore, to_json};
use crate::output::shell_quoted;

/// Where KMS finds the proxy, and how it is told.
#[derive(Debug, Serialize)]
pub struct KmsConfiguration {
    /// For the console's "Upload configuration file".
    pub console_file: PathBuf,
    /// For the AWS CLI's `--xks-proxy-authentication-credential`.
    pub credential_file: PathBuf,
    /// `XksProxyUriEndpoint`.
    pub uri_endpoint: String,
    /// `XksProxyUriPath`.
    pub uri_path: String,
    /// The access key id.
    pub access_key_id: String,
    /// The lines to paste.
    pub commands: Vec<String>,
}

/// How the lines are made.
#[derive(Clone, Debug)]
pub struct KmsOptions {
    /// The region of the KMS key store.
    pub region: String,
    /// The keys for which `create-key` lines are wanted.
    pub keys: Vec<String>,
    /// The credential in the command instead of a reference to the file.
    pub show_secret: bool,
}

/// The file for the console.
#[must_use]
pub fn console_json(store: &KeyStore, issued: &Issued) -> SecretBytes {
    #[derive(Serialize)]
    struct File<'a> {
        #[serde(rename = "XksProxyUriPath")]
        uri_path: &'a str,
        #[serde(rename = "XksProxyAuthenticationCredential")]
        credential: Credential<'a>,
    }
    #[derive(Serialize)]
    struct Credential<'a> {
        #[serde(rename = "AccessKeyId")]
        access_key_id: &'a str,
        #[serde(rename = "RawSecretAccessKey")]
        raw_secret_access_key: &'a str,
    }
    let file = File {
        uri_path: &store.manifest.manifest().path_prefix.uri_path(),
        credential: Credential {
            access_key_id: issued.credential.access_key_id.as_str(),
            raw_secret_access_key: secret_text(&issued.credential.secret_access_key),
        },
    };
    SecretBytes::new(to_json(&file).into_bytes())
}

/// Writes both files and makes the lines.
///
/// # Errors
/// [`FileError`].
pub fn configure(
    store: &KeyStore,
    issued: &Issued,
    out: &Path,
    options: &KmsOptions,
) -> Result<KmsConfiguration, FileError> {
    let credential_file = out.with_extension("credential.json");
    // Both or none: half of them would be a secret that nobody was told of.
    files::check_new(out)?;
    files::check_new(&credential_file)?;
    files::write_new_secret(out, console_json(store, issued).expose())?;
    files::write_new_secret(&credential_file, credential_json(&issued.credential).expose())?;
    let absolute = std::path::absolute(&credential_file).unwrap_or_else(|_| credential_file.clone());
    let credential = if options.show_secret {
        String::from_utf8_lossy(credential_json(&issued.credential).expose()).replace(['\n', ' '], "")
    } else {
        format!("file://{}", absolute.display())
    };
    let manifest = store.manifest.manifest();
    let uri_endpoint = format!("https://{}", manifest.host_name);
    let uri_path = manifest.path_prefix.uri_path();
    let region = shell_quoted(&options.region);
    let mut commands = vec![
        format!(
            "CUSTOM_KEY_STORE_ID=$(aws kms create-custom-key-store --region {region} --custom-key-store-name {} \
             --custom-key-store-type EXTERNAL_KEY_STORE --xks-proxy-connectivity PUBLIC_ENDPOINT \
             --xks-proxy-uri-endpoint {uri_endpoint} --xks-proxy-uri-path {uri_path} \
             --xks-proxy-authentication-credential {} --query CustomKeyStoreId --output text)",
            shell_quoted(&manifest.name),
            shell_quoted(&credential),
        ),
        format!("aws kms connect-custom-key-store --region {region} --custom-key-store-id \"$CUSTOM_KEY_STORE_ID\""),
    ];
    let placeholder = ["KEY_ID".to_owned()];
    let keys = if options.keys.is_empty() { placeholder.as_slice() } else { &options.keys };
    commands.extend(keys.iter().map(|key| {
        format!(
            "aws kms create-key --region {region} --origin EXTERNAL_KEY_STORE \
             --custom-key-store-id \"$CUSTOM_KEY_STORE_ID\" --xks-key-id {}",
            shell_quoted(key)
        )
    }));
    Ok(KmsConfiguration {
        console_file: out.to_owned(),
        credential_file,
        uri_endpoint,
        uri_path,
        access_key_id: issued.credential.access_key_id.to_string(),
        commands,
    })
}

impl fmt::Display for KmsConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# For the KMS console, under \"Upload configuration file\": {}", self.console_file.display())?;
        writeln!(f, "# For the AWS CLI, the credential: {}", self.credential_file.display())?;
        writeln!(f, "# Both hold the secret access key. Remove them when KMS has it.")?;
        writeln!(f, "# Through a VPC endpoint service: --xks-proxy-connectivity VPC_ENDPOINT_SERVICE and")?;
        writeln!(
            f,
            "# --xks-proxy-vpc-endpoint-service-name com.amazonaws.vpce.REGION.vpce-svc-ID instead of PUBLIC_ENDPOINT."
        )?;
        writeln!(
            f,
            "# Version 1 of the AWS CLI would fetch https://… itself: aws configure set cli_follow_urlparam false"
        )?;
        writeln!(f, "# Connecting takes some minutes; create keys once describe-custom-key-stores says CONNECTED.")?;
        write!(f, "{}", self.commands.join("\n"))
    }
}
