//! `bao server` with its storage on disk, one unseal key, and a Transit engine.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Certificates, write_private};
use crate::curl::curl;
use crate::process::Process;
use crate::python::interpreter;
use crate::tap::{Tap, Target};
use crate::wait::until;

/// See the module.
#[derive(Debug)]
pub struct OpenBao {
    /// What stands before it.
    pub tap: Tap,
    /// Its certificate and authority.
    pub certificates: Certificates,
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    unseal_key: String,
    root_token: String,
}

impl OpenBao {
    /// Starts a server in a folder, initialises and unseals it, and mounts Transit at `transit`.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("data")).unwrap();
        let certificates = Certificates::create(&folder.join("tls"));
        let mut server = Self {
            tap: Tap::tcp("OpenBao").await,
            certificates,
            process: None,
            folder: folder.to_owned(),
            port: 0,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        server.run().await;
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = server.call("POST", "sys/init", Some(&shares)).1;
        made["keys_base64"][0].as_str().unwrap().clone_into(&mut server.unseal_key);
        made["root_token"].as_str().unwrap().clone_into(&mut server.root_token);
        server.unseal().await;
        server.order("sys/mounts/transit", &json!({ "type": "transit" }));
        server
    }

    /// Its URL, by way of the tap.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.tap.address().port())
    }

    /// Starts the program again, sealed, with what it stored.
    pub async fn run(&mut self) {
        // Some other process may take the port between our choice and the server's use of it.
        for _ in 0..5 {
            if self.port == 0 || self.process.is_none() {
                self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            }
            if self.try_to_run().await {
                return;
            }
        }
        panic!("bao server does not start: {}", self.process.take().unwrap().log());
    }

    async fn try_to_run(&mut self) -> bool {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let server = &self.certificates.server;
        let configuration = json!({
            "storage": { "raft": { "path": path("data"), "node_id": "one", "performance_multiplier": "1" } },
            "listener": { "tcp": {
                "address": format!("127.0.0.1:{}", self.port),
                "cluster_address": "127.0.0.1:0",
                "tls_cert_file": server.certificate,
                "tls_key_file": server.private_key,
            } },
            "api_addr": format!("https://127.0.0.1:{}", self.port),
            "cluster_addr": "https://127.0.0.1:0",
        });
        std::fs::write(self.folder.join("bao.json"), configuration.to_string()).unwrap();
        // `bao` of the wheel is a script that becomes the server.
        let mut command = Command::new(interpreter().with_file_name("bao"));
        command.args(["server", "-log-level=warn", "-config"]).arg(self.folder.join("bao.json")).env_clear();
        let mut process = Process::start("OpenBao", &mut command, &self.folder.join("log"));
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let started = until("OpenBao listens", || {
            let ended = process.ended().is_some();
            async move {
                let listens = tokio::net::TcpStream::connect(address).await.is_ok();
                (ended || listens).then_some(listens)
            }
        })
        .await;
        self.process = started.then_some(process);
        self.tap.retarget(Target::Tcp(address));
        started
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Opens the vault with its key, and waits until it serves.
    pub async fn unseal(&self) {
        let (status, said) = self.call("POST", "sys/unseal", Some(&json!({ "key": self.unseal_key })));
        assert_eq!(status, 200, "unseal: {said}");
        until("OpenBao serves", || async { (self.call("GET", "sys/health", None).0 == 200).then_some(()) }).await;
    }

    /// Closes the vault.
    pub fn seal(&self) {
        self.order("sys/seal", &json!({}));
    }

    /// Makes a key of the Transit engine.
    pub fn make_key(&self, name: &str, settings: &Value) {
        self.order(&format!("transit/keys/{name}"), settings);
    }

    /// A token that may use a key and, if it says so, read its configuration.
    #[must_use]
    pub fn token(&self, key: &str, reads: bool) -> String {
        let mut paths = vec![
            format!("path \"transit/encrypt/{key}\" {{ capabilities = [\"update\"] }}"),
            format!("path \"transit/decrypt/{key}\" {{ capabilities = [\"update\"] }}"),
        ];
        if reads {
            paths.push(format!("path \"transit/keys/{key}\" {{ capabilities = [\"read\"] }}"));
        }
        let policy = format!("{key}-{reads}");
        self.order(&format!("sys/policies/acl/{policy}"), &json!({ "policy": paths.join("\n") }));
        let request = json!({ "policies": [policy], "no_default_policy": true });
        self.order("auth/token/create", &request)["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Makes a token useless.
    pub fn revoke(&self, token: &str) {
        self.order("auth/token/revoke", &json!({ "token": token }));
    }

    /// A call that must succeed, with the root token.
    #[expect(clippy::must_use_candidate, reason = "most orders are given for what they do")]
    pub fn order(&self, path: &str, body: &Value) -> Value {
        let (status, said) = self.call("POST", path, Some(body));
        assert!((200..300).contains(&status), "{path}: {status} {said}");
        said
    }

    /// A call with the root token, past the tap.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("https://localhost:{}/v1/{path}", self.port);
        let roots = self.certificates.roots.display().to_string();
        // The token stays out of the list of processes.
        let secrets = self.folder.join("root-token");
        write_private(&secrets, &format!("header = \"X-Vault-Token: {}\"\n", self.root_token));
        let secrets = secrets.display().to_string();
        let body = body.map(ToString::to_string);
        let mut arguments = vec!["--cacert", &roots, "--config", &secrets, "--request", method];
        if let Some(body) = &body {
            arguments.extend(["--data", body]);
        }
        arguments.push(&url);
        let (status, said) = curl(&arguments);
        (status, serde_json::from_str(&said).unwrap_or(Value::String(said)))
    }
}
