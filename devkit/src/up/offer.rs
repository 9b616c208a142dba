//! What is up, and how to use it.

use core::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_cli::output::shell_quoted;
use serde::Serialize;

use super::layout::{Layout, LayoutError};

/// What a client needs.
#[derive(Serialize)]
pub struct Offer {
    /// `https://NAME:PORT`: `XksProxyUriEndpoint`, but for the port.
    pub uri_endpoint: String,
    /// `XksProxyUriPath`.
    pub uri_path: String,
    /// Where the parent listens.
    pub listen: SocketAddr,
    /// Name in the certificate.
    pub host_name: String,
    /// In whose name to sign.
    pub region: String,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half. It protects nothing here; real ones are never printed.
    pub secret_access_key: String,
    /// The authority to trust.
    pub ca_file: PathBuf,
    /// The keys.
    pub keys: Vec<String>,
    /// The one that the example uses.
    pub example_key: String,
    /// The key store's id.
    pub key_store_id: String,
    /// For `holdfast --home`.
    pub home: PathBuf,
    /// A request for `curl --data`.
    #[serde(skip)]
    pub encrypt_request: PathBuf,
}

/// Bytes of the plaintext of the example request, in base64: "Hello World!", as in the specification.
const EXAMPLE_PLAINTEXT: &str = "SGVsbG8gV29ybGQh";

impl Offer {
    /// Writes `endpoint.json` for programs and the example request for `curl`.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn write(&mut self, layout: &Layout) -> Result<(), LayoutError> {
        let request = serde_json::json!({
            "requestMetadata": {
                "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
                "kmsKeyArn": format!("arn:aws:kms:{}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", self.region),
                "kmsOperation": "Encrypt",
                "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
            },
            "plaintext": EXAMPLE_PLAINTEXT,
            "encryptionAlgorithm": "AES_GCM",
        });
        self.encrypt_request = layout.write("encrypt-request.json", format!("{request}\n").as_bytes(), 0o644)?;
        let text = serde_json::json!(self).to_string();
        layout.write("endpoint.json", format!("{text}\n").as_bytes(), 0o600)?;
        Ok(())
    }

    /// A line to paste into a shell.
    #[must_use]
    pub fn curl_line(&self) -> String {
        let user = format!("{}:{}", self.access_key_id, self.secret_access_key);
        let url = format!("{}{}/keys/{}/encrypt", self.uri_endpoint, self.uri_path, self.example_key);
        let resolve = match self.host_name.as_str() {
            "localhost" => String::new(),
            name => format!(" --resolve {name}:{}:{}", self.listen.port(), self.listen.ip()),
        };
        format!(
            "curl --silent --show-error --aws-sigv4 aws:amz:{}:kms-xks-proxy --user {}{resolve} --cacert {} \\\n  -H 'Content-Type: application/json' --data @{} {}",
            self.region,
            shell_quoted(&user),
            shell_quoted(&self.ca_file.to_string_lossy()),
            shell_quoted(&self.encrypt_request.to_string_lossy()),
            shell_quoted(&url),
        )
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "endpoint           {}", self.uri_endpoint)?;
        writeln!(f, "URI path           {}", self.uri_path)?;
        writeln!(f, "access key id      {}", self.access_key_id)?;
        writeln!(f, "secret access key  {}", self.secret_access_key)?;
        writeln!(f, "region             {}", self.region)?;
        writeln!(f, "keys               {}", self.keys.join(", "))?;
        writeln!(f, "CA to trust        {}", self.ca_file.display())?;
        writeln!(f, "operator's tool    holdfast --home {} status", shell_quoted(&self.home.to_string_lossy()))?;
        writeln!(f, "\nTry it (curl 7.75 or newer):\n\n{}", self.curl_line())
    }
}
