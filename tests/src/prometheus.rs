//! Debian's Prometheus, reading a parent, and what stands in `deploy/observability`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::wait::{soon, until};

/// Whether Debian's package is there. Says so where it is not.
#[must_use]
pub fn is_installed() -> bool {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let both = is_there("promtool") && is_there("prometheus");
    if !both {
        eprintln!("SKIPPED: Debian's package prometheus is not installed (scripts/install-prerequisites tests)");
    }
    both
}

/// A file of `deploy/observability`.
#[must_use]
pub fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/observability").join(name)
}

/// Runs promtool in the folder of what is deployed; fails the test if it finds fault.
pub fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(deployed(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// Each expression of the dashboard, with its variables standing for everything.
#[must_use]
pub fn dashboard_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(deployed("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$job", ".*").replace("$key_store", ".*")).collect()
}

/// The names of metrics in a text, those that histograms make of their own left out.
#[must_use]
pub fn metric_names(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_' || character == ':'));
    let names = words.filter(|word| word.starts_with("holdfast_"));
    names
        .map(|name| {
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
        })
        .collect()
}

/// A server that reads one parent each second.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    /// Starts it with the rules that are deployed.
    #[must_use]
    pub fn start(folder: &Path, parent: SocketAddr) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let rules = deployed("holdfast-alerts.yml");
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs:\n  - job_name: holdfast\n    static_configs: [{{targets: ['{parent}']}}]\n",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        Self { address, _process: Process::start("prometheus", &mut command, &folder.join("log")) }
    }

    /// Waits until an expression has a value.
    pub async fn answers(&self, expression: &str) -> Value {
        until(&format!("Prometheus knows {expression}"), || async {
            let answer = self.get("/api/v1/query", expression).await?;
            assert_eq!(answer["status"], "success", "{expression}: {answer}");
            let found = answer["data"]["result"].clone();
            found.as_array().is_some_and(|found| !found.is_empty()).then_some(found)
        })
        .await
    }

    /// The alerts that fire, or wait to.
    pub async fn alerts(&self) -> Value {
        until("Prometheus has looked at its rules", || async {
            let answer = self.get("/api/v1/alerts", "").await?;
            (answer["status"] == "success").then(|| answer["data"]["alerts"].clone())
        })
        .await
    }

    async fn get(&self, path: &str, query: &str) -> Option<Value> {
        soon(path, async {
            let mut stream = TcpStream::connect(self.address).await.ok()?;
            let query = query.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
            // HTTP/1.0: the answer comes in one piece.
            let request = format!("GET {path}?query={query} HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.ok()?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
        })
        .await
    }
}
