//! `up --kms`: AWS KMS in front of the proxy, with a key store and a KMS key for each external key.
//!
//! Guarantees: everything is made through KMS's own API, as on AWS; a second run makes nothing twice, and goes on wherever the first was
//! ended; no two external keys have the same alias. Assumes: the proxy answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::output::shell_quoted;
use holdfast_shared::secrets::SecretBytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::UpError;
use super::layout::Layout;
use super::offer::{Offer, reachable};
use super::processes::{Processes, beside};
use crate::aws_json::client::{AwsClient, AwsError};
use crate::kms::{CONFIG_FILE, ENDPOINT_FILE, PROFILE};

/// The folder below the state folder.
const FOLDER: &str = "kms";
/// `CustomKeyStoreName`.
const STORE_NAME: &str = "holdfast-local";
/// How long a key store may take to be connected.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
const PLAINTEXT: &[u8] = b"Hello World!";

/// What AWS's clients need.
#[derive(Serialize)]
pub struct KmsOffer {
    /// `http://ADDRESS`.
    pub endpoint_url: String,
    /// For `AWS_CONFIG_FILE`.
    pub config_file: PathBuf,
    /// In that file.
    pub profile: &'static str,
    /// The key store, as KMS names it.
    pub custom_key_store_id: String,
    /// A key's alias for each external key that may both encrypt and decrypt.
    pub aliases: Vec<String>,
}

impl KmsOffer {
    /// A line to paste into a shell, if there is a key for it.
    #[must_use]
    pub fn aws_line(&self) -> Option<String> {
        let alias = self.aliases.first()?;
        Some(format!(
            "AWS_CONFIG_FILE={} aws --profile {} --endpoint-url {} \\\n  kms encrypt --key-id {} --plaintext {}",
            shell_quoted(&self.config_file.to_string_lossy()),
            self.profile,
            self.endpoint_url,
            shell_quoted(alias),
            STANDARD.encode(PLAINTEXT),
        ))
    }
}

#[derive(Deserialize)]
struct Ready {
    address: SocketAddr,
    endpoint_url: String,
}

/// Starts KMS as a process; it is ready when [`Started::is_ready`] says so.
pub(super) struct Started {
    folder: PathBuf,
}

impl Started {
    pub(super) fn start(
        layout: &Layout,
        processes: &Processes,
        listen: SocketAddr,
        offer: &Offer,
    ) -> Result<Self, UpError> {
        let folder = layout.path(FOLDER);
        // Of an earlier run.
        let _ = std::fs::remove_file(folder.join(ENDPOINT_FILE));
        let mut command = Command::new(beside("holdfast-dev", "holdfast-devkit")?);
        command
            .args(["kms", "--listen", &listen.to_string(), "--region", &offer.region, "--state"])
            .arg(&folder)
            .arg("--proxy-ca")
            .arg(&offer.ca_file)
            .arg("--connect")
            .arg(format!("{}={}", offer.host_name, reachable(offer.listen)));
        processes.start("KMS", command, layout.log("kms"))?;
        Ok(Self { folder })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.folder.join(ENDPOINT_FILE).exists()
    }

    /// Makes what is missing, and encrypts and decrypts through KMS: what to offer, and lines for the report.
    ///
    /// # Errors
    /// [`UpError`].
    pub(super) async fn set_up(self, offer: &Offer, keys: &[String]) -> Result<(KmsOffer, Vec<String>), UpError> {
        let config_file = self.folder.join(CONFIG_FILE);
        let ready: Ready = parse(&self.folder.join(ENDPOINT_FILE))?;
        let client = client(&config_file, &ready, &offer.region)?;
        let custom_key_store_id = connected_store(&client, offer).await?;
        let mut lines =
            vec![format!("key store {custom_key_store_id} ({STORE_NAME}) is CONNECTED to https://{}", offer.host_name)];
        let mut aliases = Vec::new();
        for key in keys {
            let alias = alias_of(key);
            lines.push(format!("{alias} is {}", key_behind(&client, &custom_key_store_id, key, &alias).await?));
            aliases.push(alias);
        }
        if let Some(alias) = aliases.first() {
            round_trip(&client, alias).await?;
            lines.push(format!("Encrypt and Decrypt with {alias}: encrypted by KMS and by the enclave, and back"));
        }
        let offer =
            KmsOffer { endpoint_url: ready.endpoint_url, config_file, profile: PROFILE, custom_key_store_id, aliases };
        Ok((offer, lines))
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, UpError> {
    let wrong = |reason: String| UpError::File { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}

fn client(config_file: &Path, ready: &Ready, region: &str) -> Result<AwsClient, UpError> {
    let wrong = |reason: String| UpError::File { path: config_file.to_owned(), reason };
    let text = std::fs::read_to_string(config_file).map_err(|error| wrong(error.to_string()))?;
    let value = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(" = "));
        let found = lines.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).next();
        found.ok_or_else(|| wrong(format!("has no {name}")))
    };
    Ok(AwsClient {
        address: ready.address.to_string(),
        region: region.to_owned(),
        access_key_id: value("aws_access_key_id")?,
        secret_access_key: SecretBytes::new(value("aws_secret_access_key")?.into_bytes()),
    })
}

/// The id of the key store, made or brought up to date, and connected.
async fn connected_store(client: &AwsClient, offer: &Offer) -> Result<String, UpError> {
    let credential = json!({ "AccessKeyId": offer.access_key_id, "RawSecretAccessKey": offer.secret_access_key });
    let id = match described(client, &json!({ "CustomKeyStoreName": STORE_NAME })).await {
        Ok(store) => {
            let id = text(&store, "CustomKeyStoreId");
            // Where an earlier run has left it FAILED or CONNECTING, it takes neither changes nor another order to connect.
            if !["CONNECTED", "DISCONNECTED"].contains(&text(&store, "ConnectionState").as_str()) {
                client.call("DisconnectCustomKeyStore", &json!({ "CustomKeyStoreId": id })).await?;
            }
            let is_current = store.pointer("/XksProxyConfiguration/AccessKeyId") == Some(&json!(offer.access_key_id));
            if !is_current {
                let update = json!({ "CustomKeyStoreId": id, "XksProxyAuthenticationCredential": credential });
                client.call("UpdateCustomKeyStore", &update).await?;
            }
            id
        }
        Err(error) if error.kind() == Some("CustomKeyStoreNotFoundException") => {
            let create = json!({
                "CustomKeyStoreName": STORE_NAME,
                "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
                "XksProxyConnectivity": "PUBLIC_ENDPOINT",
                "XksProxyUriEndpoint": format!("https://{}", offer.host_name),
                "XksProxyUriPath": offer.uri_path,
                "XksProxyAuthenticationCredential": credential,
            });
            text(&client.call("CreateCustomKeyStore", &create).await?, "CustomKeyStoreId")
        }
        Err(error) => return Err(error.into()),
    };
    let by_id = json!({ "CustomKeyStoreId": id });
    client.call("ConnectCustomKeyStore", &by_id).await?;
    let started = Instant::now();
    loop {
        let store = described(client, &by_id).await?;
        match text(&store, "ConnectionState").as_str() {
            "CONNECTED" => return Ok(id),
            "FAILED" => return Err(UpError::NotConnected { code: text(&store, "ConnectionErrorCode") }),
            _ if started.elapsed() > CONNECT_PATIENCE => {
                return Err(UpError::NotUp { name: "KMS's key store", seconds: CONNECT_PATIENCE.as_secs() });
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn described(client: &AwsClient, which: &Value) -> Result<Value, AwsError> {
    let answer = client.call("DescribeCustomKeyStores", which).await?;
    Ok(answer.pointer("/CustomKeyStores/0").cloned().unwrap_or_default())
}

/// An alias may have colons, which external keys' ids have not, and no points.
fn alias_of(xks_key_id: &str) -> String {
    format!("alias/{}", xks_key_id.replace('.', ":"))
}

/// The ARN of an external key's KMS key, to which the alias leads; both are made where they are missing.
async fn key_behind(client: &AwsClient, store_id: &str, xks_key_id: &str, alias: &str) -> Result<String, UpError> {
    let is_of = |key: &Value| {
        key.pointer("/XksKeyConfiguration/Id").and_then(Value::as_str) == Some(xks_key_id)
            && text(key, "CustomKeyStoreId") == store_id
    };
    let set_alias = match described_key(client, alias).await {
        Ok(key) if is_of(&key) => return Ok(text(&key, "Arn")),
        // Somebody gave the name to another key.
        Ok(_) => "UpdateAlias",
        Err(error) if error.kind() == Some("NotFoundException") => "CreateAlias",
        Err(error) => return Err(error.into()),
    };
    let create = json!({ "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": xks_key_id });
    let arn = match client.call("CreateKey", &create).await {
        Ok(answer) => answer.get("KeyMetadata").map(|key| text(key, "Arn")).unwrap_or_default(),
        // An earlier run was ended before it gave the name.
        Err(error) if error.kind() == Some("XksKeyAlreadyInUseException") => {
            found_key(client, is_of).await?.ok_or(error)?
        }
        Err(error) => return Err(error.into()),
    };
    client.call(set_alias, &json!({ "AliasName": alias, "TargetKeyId": arn })).await?;
    Ok(arn)
}

/// The ARN of the first key that is wanted.
async fn found_key(client: &AwsClient, is_wanted: impl Fn(&Value) -> bool) -> Result<Option<String>, AwsError> {
    let mut next = json!({});
    loop {
        let page = client.call("ListKeys", &next).await?;
        for line in page.get("Keys").and_then(Value::as_array).into_iter().flatten() {
            let key = described_key(client, &text(line, "KeyId")).await?;
            if is_wanted(&key) {
                return Ok(Some(text(&key, "Arn")));
            }
        }
        match page.get("NextMarker") {
            Some(marker) => next = json!({ "Marker": marker }),
            None => return Ok(None),
        }
    }
}

async fn described_key(client: &AwsClient, name: &str) -> Result<Value, AwsError> {
    let answer = client.call("DescribeKey", &json!({ "KeyId": name })).await?;
    Ok(answer.get("KeyMetadata").cloned().unwrap_or_default())
}

async fn round_trip(client: &AwsClient, alias: &str) -> Result<(), UpError> {
    let context = json!({ "made by": "holdfast-dev up" });
    let plaintext = STANDARD.encode(PLAINTEXT);
    let encrypt = json!({ "KeyId": alias, "Plaintext": plaintext, "EncryptionContext": context });
    let blob = text(&client.call("Encrypt", &encrypt).await?, "CiphertextBlob");
    let decrypt = json!({ "CiphertextBlob": blob, "EncryptionContext": context });
    let back = text(&client.call("Decrypt", &decrypt).await?, "Plaintext");
    if back == plaintext { Ok(()) } else { Err(UpError::KmsRoundTrip) }
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
