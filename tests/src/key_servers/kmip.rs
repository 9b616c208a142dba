//! `PyKMIP`'s server, and its client as an administrator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::Certificates;
use crate::process::Process;
use crate::python::{Script, interpreter, script};
use crate::tap::{Tap, Target};
use crate::wait::until;

/// See the module.
#[derive(Debug)]
pub struct KmipServer {
    /// What stands before it.
    pub tap: Tap,
    /// Its certificate and authority, and that of its only client.
    pub certificates: Certificates,
    process: Option<Process>,
    administrator: Script,
    folder: PathBuf,
    port: u16,
    binds: bool,
}

impl KmipServer {
    /// Starts a server without keys in a folder.
    pub async fn start(folder: &Path) -> Self {
        Self::start_as(folder, true).await
    }

    /// One that passes over additional data.
    pub async fn start_unbound(folder: &Path) -> Self {
        Self::start_as(folder, false).await
    }

    async fn start_as(folder: &Path, binds: bool) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let certificates = Certificates::create(&folder.join("tls"));
        let administrator = {
            let client = &certificates.client;
            Script::start_with("kmip_client.py", &[&certificates.roots, &client.certificate, &client.private_key])
        };
        let tap = Tap::tcp("KMIP").await;
        let mut server =
            Self { tap, certificates, process: None, administrator, folder: folder.to_owned(), port: 0, binds };
        server.run().await;
        server
    }

    /// `host:port`, by way of the tap.
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.tap.address().port())
    }

    /// Starts the program again, with what it stored.
    pub async fn run(&mut self) {
        let log = self.folder.join("log");
        let mut command = Command::new(interpreter());
        command.args(["-W", "ignore"]).arg(script("kmip_server.py")).arg(&self.folder).arg(&self.certificates.roots);
        command.arg(&self.certificates.server.certificate).arg(&self.certificates.server.private_key);
        if !self.binds {
            command.arg("unbound");
        }
        let mut process = Process::start("the KMIP server", &mut command, &log);
        self.port = until("the KMIP server listens", || {
            assert!(process.ended().is_none(), "the KMIP server ended: {}", process.log());
            let said = process.log();
            async move {
                let said = said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
                u16::try_from(said["port"].as_u64()?).ok()
            }
        })
        .await;
        self.process = Some(process);
        self.tap.retarget(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], self.port))));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Makes an active key that may serve, but for what `settings` say. Returns its identifier.
    pub fn make_key(&mut self, settings: &Value) -> String {
        let mut question = settings.clone();
        question["do"] = json!("create");
        self.ask(&question)["key"].as_str().unwrap().to_owned()
    }

    /// Ends the use of a key.
    pub fn revoke(&mut self, key: &str) {
        self.ask(&json!({ "do": "revoke", "key": key }));
    }

    /// Removes a key that was revoked.
    pub fn destroy(&mut self, key: &str) {
        self.ask(&json!({ "do": "destroy", "key": key }));
    }

    /// Does what `tests/python/kmip_client.py` can.
    pub fn ask(&mut self, question: &Value) -> Value {
        let mut question = question.clone();
        question["port"] = json!(self.port);
        let answer = self.administrator.ask(&question);
        assert!(answer["error"].is_null(), "{question}: {answer}");
        answer
    }
}
