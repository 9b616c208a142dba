//! `holdfast-dev kms` as a process, and clients of it: ours, and AWS's own.
//!
//! Guarantees: it ends with this value; its clients read no configuration but its own. Assumes: whoever measures no time gives proxies more
//! of it than KMS does, since this machine is busy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_devkit::aws_json::client::{AwsClient, AwsError};
use holdfast_shared::secrets::SecretBytes;
use serde_json::{Value, json};

use crate::process::{Process, run};
use crate::programs::program;
use crate::python::{interpreter, script};
use crate::wait::until;
use crate::xks_proxy::{HOST_NAME, PREFIX, XksProxy};

/// Where everything of it is.
pub const REGION: &str = crate::system::REGION;

/// A proxy, as KMS is told of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Name in the certificate.
    pub host_name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Ends in `/kms/xks/v1`.
    pub uri_path: String,
    /// PEM file of the authority.
    pub ca: PathBuf,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half of the credential.
    pub secret_access_key: String,
}

impl Told {
    /// Of a proxy of another make.
    #[must_use]
    pub fn of(proxy: &XksProxy) -> Self {
        let credential: Value = serde_json::from_slice(&std::fs::read(&proxy.credential).unwrap()).unwrap();
        let text = |name: &str| credential[name].as_str().unwrap().to_owned();
        Self {
            host_name: HOST_NAME.to_owned(),
            listen: proxy.address,
            uri_path: format!("{PREFIX}/kms/xks/v1"),
            ca: proxy.ca.clone(),
            access_key_id: text("AccessKeyId"),
            secret_access_key: text("RawSecretAccessKey"),
        }
    }

    /// Parameters of `CreateCustomKeyStore`.
    #[must_use]
    pub fn store(&self, name: &str) -> Value {
        json!({
            "CustomKeyStoreName": name,
            "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
            "XksProxyConnectivity": "PUBLIC_ENDPOINT",
            "XksProxyUriEndpoint": format!("https://{}", self.host_name),
            "XksProxyUriPath": self.uri_path,
            "XksProxyAuthenticationCredential": {
                "AccessKeyId": self.access_key_id,
                "RawSecretAccessKey": self.secret_access_key,
            },
        })
    }
}

/// See the module.
pub struct Kms {
    /// Its state folder.
    pub state: PathBuf,
    /// Our client.
    pub client: AwsClient,
    process: Process,
}

impl Kms {
    /// Starts it for one proxy. `flags` come last.
    pub async fn start(folder: &Path, told: &Told, flags: &[&str]) -> Self {
        let state = folder.join("kms");
        let endpoint = state.join("endpoint.json");
        let _ = std::fs::remove_file(&endpoint);
        let mut command = Command::new(program("holdfast-dev"));
        command
            .args(["kms", "--listen", "127.0.0.1:0", "--region", REGION, "--state"])
            .arg(&state)
            .arg("--proxy-ca")
            .arg(&told.ca)
            .args(["--connect", &format!("{}={}", told.host_name, told.listen)])
            .args(if flags.contains(&"--proxy-timeout") { &[][..] } else { &["--proxy-timeout", "30s"] })
            .args(flags);
        let process = Process::start("KMS", &mut command, &folder.join("kms.log"));
        let ready: Value = until("KMS listens", || async {
            let bytes = std::fs::read(&endpoint).ok()?;
            serde_json::from_slice(&bytes).ok()
        })
        .await;
        let config = std::fs::read_to_string(state.join("aws-config")).unwrap();
        let value = |name: &str| {
            let line = config.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.unwrap().to_owned()
        };
        let client = AwsClient {
            address: ready["address"].as_str().unwrap().to_owned(),
            region: REGION.to_owned(),
            access_key_id: value("aws_access_key_id"),
            secret_access_key: SecretBytes::new(value("aws_secret_access_key").into_bytes()),
        };
        Self { state, client, process }
    }

    /// SIGTERM, and the wait for its end.
    pub fn terminate(self) {
        self.process.terminate();
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.process.kill();
    }

    /// What it wrote to standard output and standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Asks, and has success.
    pub async fn ask(&self, operation: &str, parameters: &Value) -> Value {
        self.client.call(operation, parameters).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Asks, and is refused: the exception's name, and its message.
    pub async fn refusal(&self, operation: &str, parameters: &Value) -> (String, String) {
        match self.client.call(operation, parameters).await {
            Err(AwsError::Refused { kind, message, .. }) => (kind, message),
            Err(error) => panic!("{error}\n{}", self.log()),
            Ok(answer) => panic!("{operation} has success: {answer}"),
        }
    }

    /// Connects a key store: its state at the end, and the error's code.
    pub async fn connect(&self, id: &str) -> (String, Option<String>) {
        let id = json!({ "CustomKeyStoreId": id });
        self.ask("ConnectCustomKeyStore", &id).await;
        until("the key store is connected or failed", || async {
            let answer = self.ask("DescribeCustomKeyStores", &id).await;
            let store = &answer["CustomKeyStores"][0];
            let state = store["ConnectionState"].as_str().unwrap().to_owned();
            (state != "CONNECTING").then(|| (state, store["ConnectionErrorCode"].as_str().map(str::to_owned)))
        })
        .await
    }

    /// Makes a key store, connects it, and makes a KMS key from an external key: ids of both.
    pub async fn store_and_key(&self, told: &Told, xks_key_id: &str) -> (String, String) {
        let store = self.ask("CreateCustomKeyStore", &told.store("store")).await;
        let store = store["CustomKeyStoreId"].as_str().unwrap().to_owned();
        assert_eq!(self.connect(&store).await, ("CONNECTED".to_owned(), None));
        let key = json!({ "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": xks_key_id });
        let key = self.ask("CreateKey", &key).await;
        (store, key["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned())
    }

    /// Sets what goes wrong between KMS and proxies.
    pub fn set_faults(&self, faults: &Value) {
        std::fs::write(self.state.join("faults.json"), faults.to_string()).unwrap();
    }

    /// Runs lines of a shell as a person would, with AWS's CLI in the path.
    #[must_use]
    pub fn shell(&self, lines: &str, folder: &Path) -> Output {
        run(self.with_configuration(Command::new("bash").args(["-euo", "pipefail", "-c", lines]).current_dir(folder)))
    }

    /// Runs a script of `tests/python`.
    #[must_use]
    pub fn python(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(interpreter());
        run(self.with_configuration(command.args(["-W", "ignore"]).arg(script(name)).args(arguments)))
    }

    fn with_configuration<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let folder = interpreter().parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        for name in
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"]
        {
            command.env_remove(name);
        }
        command
            .env("PATH", format!("{folder}:{path}"))
            .env("AWS_CONFIG_FILE", self.state.join("aws-config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .env("AWS_PROFILE", "holdfast")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
    }
}

/// `CloudTrail`'s events so far, from the files in a state folder.
#[must_use]
pub fn events(state: &Path) -> Vec<Value> {
    let folder = std::fs::read_dir(state.join("cloudtrail")).unwrap();
    let files = folder.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    // Between two writes each file is whole.
    let records = files.filter_map(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    records.flat_map(|file| file["Records"].as_array().unwrap().clone()).collect()
}
