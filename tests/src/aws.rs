//! AWS KMS with one key, and an instance that has a role: `holdfast-dev kms-share` as a process behind a tap, and an instance metadata
//! service in the test's own process.
//!
//! Guarantees: address and root of the endpoint stay while the process comes and goes. Assumes: one caller, whose credentials the
//! service gives out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_devkit::nsm::{EmulatedRoot, PcrSource};
use holdfast_devkit::up::configurations::measured_content;
use holdfast_shared::ids::KeyStoreId;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::key_servers::write_private;
use crate::process::Process;
use crate::programs::program;
use crate::tap::{Tap, Target};
use crate::wait::until;

const KEY_ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ACCESS_KEY_ID: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE+/==";

/// What manifests and parents name.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The KMS key.
    pub key_arn: &'static str,
    /// `host:port`.
    pub address: String,
    /// PEM file of its certificate's root.
    pub root: PathBuf,
    /// Gives out the credentials of the role.
    pub instance_metadata: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Aws {
    /// Before the endpoint.
    pub tap: Tap,
    folder: PathBuf,
    process: Option<Process>,
    instance_metadata: SocketAddr,
    metadata: JoinHandle<()>,
}

impl Aws {
    /// Makes key, certificate and role in a folder. Nobody answers at the endpoint before [`Self::run`].
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance_metadata = listener.local_addr().unwrap();
        let mut aws = Self {
            tap: Tap::tcp("KMS").await,
            folder: folder.to_owned(),
            process: None,
            instance_metadata,
            metadata: tokio::spawn(serve_metadata(listener)),
        };
        // The manifest names the root of the certificate, and the policy the key store: the first run makes the one.
        let nobody = folder.join("nobody");
        EmulatedRoot::load_or_create(&nobody).unwrap();
        aws.run(KeyStoreId([0; 32]), "no image", &nobody.join("root.pem")).await;
        aws.kill();
        aws
    }

    /// What manifests and parents name.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            key_arn: KEY_ARN,
            address: format!("localhost:{}", self.tap.address().port()),
            root: self.folder.join("kms/tls-root.pem"),
            instance_metadata: self.instance_metadata,
        }
    }

    /// Starts KMS, in place of the one before, with the policy of the guide: this key store, and an image with this content.
    pub async fn run(&mut self, key_store: KeyStoreId, image: &str, nsm_root: &Path) {
        drop(self.process.take());
        let file = |name: &str, text: &str| {
            let path = self.folder.join(name);
            write_private(&path, text);
            path
        };
        let mut command = Command::new(program("holdfast-dev"));
        command
            .args(["kms-share", "--listen", "127.0.0.1:0", "--key-arn", KEY_ARN, "--access-key-id", ACCESS_KEY_ID])
            .arg("--state")
            .arg(self.folder.join("kms"))
            .arg("--policy")
            .arg(file("policy.json", &policy_of_the_guide(key_store, image)))
            .arg("--nsm-root")
            .arg(nsm_root)
            .arg("--secret-access-key-file")
            .arg(file("secret", SECRET))
            .arg("--session-token-file")
            .arg(file("token", TOKEN));
        let process = Process::start("the double of KMS", &mut command, &self.folder.join("log"));
        let listen = until("KMS listens", || async {
            let log = process.log();
            let ready = log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
            ready["address"].as_str()?.parse::<SocketAddr>().ok()
        })
        .await;
        self.tap.retarget(Target::Tcp(listen));
        self.process = Some(process);
    }

    /// SIGKILL for KMS.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.metadata.abort();
    }
}

/// The content of register 0 of the enclaves of these tests.
#[must_use]
pub fn image() -> String {
    measured_content(0)
}

fn policy_of_the_guide(key_store: KeyStoreId, image: &str) -> String {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kms-share.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let policy = guide.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let pcr = |content: &str| hex::encode(PcrSource::Content(content.to_owned()).value().unwrap());
    let values = [
        ("KEY_STORE_ID", key_store.to_string()),
        ("PCR0_OF_THE_IMAGE", pcr(image)),
        ("PCR1_OF_THE_IMAGE", pcr(&measured_content(1))),
        ("PCR2_OF_THE_IMAGE", pcr(&measured_content(2))),
    ];
    values.iter().fold(policy.to_owned(), |policy, (place, value)| {
        assert!(policy.contains(place), "the guide's policy has no {place}");
        policy.replace(place, value)
    })
}

/// Answers as EC2's does; whoever asks without the session is refused.
async fn serve_metadata(listener: TcpListener) {
    let credentials = json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": ACCESS_KEY_ID,
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": "2099-12-31T23:59:59Z",
    });
    loop {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut request = String::new();
        // A request that breaks off gets an answer that nobody hears.
        while !request.ends_with("\r\n\r\n") && stream.read_line(&mut request).await.is_ok_and(|read| read > 0) {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path {
            "/latest/api/token" if request.starts_with("PUT ") => (200, "session==".to_owned()),
            _ if !request.contains("x-aws-ec2-metadata-token: session==\r\n") => (401, String::new()),
            "/latest/meta-data/iam/security-credentials/" => (200, "holdfast-instances".to_owned()),
            "/latest/meta-data/iam/security-credentials/holdfast-instances" => (200, credentials.to_string()),
            _ => (404, String::new()),
        };
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}
