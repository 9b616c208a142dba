//! What is up, and how to use it.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use holdfast_cli::output::shell_quoted;
use serde::Serialize;

use super::kms::KmsOffer;
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
    /// The one that the example uses: it may both encrypt and decrypt.
    pub example_key: Option<String>,
    /// The key store's id.
    pub key_store_id: String,
    /// For `holdfast --home`.
    pub home: PathBuf,
    /// What the enclave measures, for `holdfast attest`.
    pub measurements: PathBuf,
    /// The emulator's root.
    pub trust_root: PathBuf,
    /// AWS KMS, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms: Option<KmsOffer>,
    /// Which curl the line below needs, and whether it is here.
    pub curl: String,
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

    /// A line to paste into a shell, if there is a key that it can use.
    #[must_use]
    pub fn curl_line(&self) -> Option<String> {
        let key = self.example_key.as_ref()?;
        let user = format!("{}:{}", self.access_key_id, self.secret_access_key);
        let url = format!("{}{}/keys/{key}/encrypt", self.uri_endpoint, self.uri_path);
        let resolve = self.resolve();
        Some(format!(
            "curl --silent --show-error --aws-sigv4 aws:amz:{}:kms-xks-proxy --user {}{resolve} --cacert {} \\\n  -H 'Content-Type: application/json' --data @{} {}",
            self.region,
            shell_quoted(&user),
            shell_quoted(&self.ca_file.to_string_lossy()),
            shell_quoted(&self.encrypt_request.to_string_lossy()),
            shell_quoted(&url),
        ))
    }
}

impl Offer {
    /// Leads the name to where the parent listens: everywhere but here, it may lead elsewhere.
    fn resolve(&self) -> String {
        let ip = reachable(self.listen).ip();
        let here = self.host_name == "localhost" && (ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST);
        match ip {
            _ if here => String::new(),
            IpAddr::V4(ip) => format!(" --resolve {}:{}:{ip}", self.host_name, self.listen.port()),
            IpAddr::V6(ip) => format!(" --resolve '{}:{}:[{ip}]'", self.host_name, self.listen.port()),
        }
    }

    /// A line that checks from outside where a connection ends.
    #[must_use]
    pub fn attest_line(&self) -> String {
        format!(
            "holdfast attest {}{} --key-store {} \\\n  --measurements {} --ca {} --trust-root {}",
            shell_quoted(&self.uri_endpoint),
            self.resolve(),
            self.key_store_id,
            shell_quoted(&self.measurements.to_string_lossy()),
            shell_quoted(&self.ca_file.to_string_lossy()),
            shell_quoted(&self.trust_root.to_string_lossy()),
        )
    }
}

/// Where a client on this machine reaches a listener, which may listen at every address.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
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
        writeln!(f, "\nSee from outside where a connection ends:\n\n{}", self.attest_line())?;
        if let Some(line) = self.curl_line() {
            writeln!(f, "\nTry it ({}):\n\n{line}", self.curl)?;
        }
        match self.kms.as_ref().and_then(KmsOffer::aws_line) {
            Some(line) => writeln!(f, "\nTry it with AWS's own client:\n\n{line}"),
            None => Ok(()),
        }
    }
}

/// What is said of the curl of this machine. The option `--aws-sigv4` came with 7.75.
#[must_use]
pub fn curl_here() -> String {
    let output = std::process::Command::new("curl").arg("--version").output();
    judged(output.ok().filter(|output| output.status.success()).map(|output| output.stdout).as_deref())
}

fn judged(said: Option<&[u8]>) -> String {
    const NEEDED: &str = "curl 7.75 or newer";
    let Some(said) = said else { return format!("needs {NEEDED}, and there is none here") };
    let said = String::from_utf8_lossy(said);
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if found >= (7, 75) {
        NEEDED.to_owned()
    } else {
        format!("needs {NEEDED}, and this is curl {version}: update it first")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(listen: &str, host_name: &str, example_key: Option<&str>) -> Offer {
        Offer {
            uri_endpoint: format!("https://{host_name}:8443"),
            uri_path: "/kms/xks/v1".to_owned(),
            listen: listen.parse().unwrap(),
            host_name: host_name.to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: "ID".to_owned(),
            secret_access_key: "SECRET".to_owned(),
            ca_file: PathBuf::from("ca.pem"),
            keys: Vec::new(),
            example_key: example_key.map(str::to_owned),
            key_store_id: String::new(),
            home: PathBuf::new(),
            measurements: PathBuf::from("measurements.json"),
            trust_root: PathBuf::from("root.pem"),
            kms: None,
            curl: judged(Some(b"curl 8.1.2 (x)")),
            encrypt_request: PathBuf::from("request.json"),
        }
    }

    #[test]
    fn the_line_leads_where_the_parent_listens() {
        let table = [
            ("127.0.0.1:8443", "localhost", None),
            ("0.0.0.0:8443", "localhost", None),
            ("[::1]:8443", "localhost", None),
            ("127.0.0.2:8443", "localhost", Some("--resolve localhost:8443:127.0.0.2")),
            ("0.0.0.0:8443", "xks.test", Some("--resolve xks.test:8443:127.0.0.1")),
            ("[::]:8443", "xks.test", Some("--resolve 'xks.test:8443:[::1]'")),
        ];
        for (listen, host_name, resolve) in table {
            let offer = offer(listen, host_name, Some("key"));
            for line in [offer.curl_line().unwrap(), offer.attest_line()] {
                match resolve {
                    Some(resolve) => assert!(line.contains(resolve), "{listen} {host_name}: {line}"),
                    None => assert!(!line.contains("--resolve"), "{listen} {host_name}: {line}"),
                }
            }
        }
        let shown = offer("127.0.0.1:8443", "localhost", None).to_string();
        assert!(!shown.contains("curl"), "{shown}");
    }

    #[test]
    fn an_old_curl_is_named() {
        assert_eq!(judged(Some(b"curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1")), "curl 7.75 or newer");
        assert!(judged(Some(b"curl 7.68.0 (x86_64)")).contains("this is curl 7.68.0"));
        assert!(judged(Some(b"?")).contains("update it"));
        assert!(judged(None).contains("none here"));
    }
}
