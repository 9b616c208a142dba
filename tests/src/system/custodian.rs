//! A custodian as a process, and what stands before it.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_shared::ids::AdministratorId;
use serde_json::Value;

use crate::interceptor::{Interceptor, TlsFiles};
use crate::process::{Process, run};
use crate::programs::program;
use crate::tap::{Tap, Target};
use crate::wait::until;

/// What a custodian is told.
#[derive(Clone, Debug)]
pub struct CustodianOptions {
    /// Who may enrol manifests.
    pub administrators: Vec<AdministratorId>,
    /// An emulator's root to trust as well.
    pub emulated_root: Option<PathBuf>,
    /// Whether an interceptor with the custodian's TLS key stands before it, instead of a tap.
    pub intercepted: bool,
    /// What stands in its configuration under `[key_encryption_key]`, if not the default.
    pub key_encryption_key: Option<String>,
    /// What stands in its configuration under `[alarms]`, if not the default.
    pub alarms: Option<String>,
    /// What its process needs to reach that key.
    pub environment: Vec<(&'static str, String)>,
}

/// What stands before a custodian: its address in manifests.
pub enum Front {
    /// Sees TLS.
    Tap(Tap),
    /// Sees what is in it.
    Interceptor(Interceptor),
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap(_) => "Tap",
            Self::Interceptor(_) => "Interceptor",
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct CustodianProcess {
    /// While it runs.
    pub process: Option<Process>,
    /// What stands before it.
    pub front: Front,
    folder: PathBuf,
    log: PathBuf,
    tls: Option<TlsFiles>,
    options: CustodianOptions,
}

impl CustodianProcess {
    /// Initialises a custodian in a folder, after which it is named, and starts it.
    pub async fn init(folder: &Path, log: &Path, options: CustodianOptions) -> Self {
        let tls = options.intercepted.then(|| TlsFiles::create(&folder.join("tls")));
        let front = match &tls {
            Some(files) => Front::Interceptor(Interceptor::start(files).await),
            None => Front::Tap(Tap::tcp("custodian").await),
        };
        std::fs::create_dir_all(folder).unwrap();
        let mut custodian = Self { process: None, front, folder: folder.to_owned(), log: log.to_owned(), tls, options };
        custodian.write_configuration();
        let output = run(&mut custodian.command("init"));
        assert!(output.status.success(), "holdfast-custodian init: {}", String::from_utf8_lossy(&output.stderr));
        custodian.start().await;
        custodian
    }

    /// `host:port`, as manifests name it.
    #[must_use]
    pub fn address(&self) -> String {
        let address = match &self.front {
            Front::Tap(tap) => tap.address(),
            Front::Interceptor(interceptor) => interceptor.address(),
        };
        format!("localhost:{}", address.port())
    }

    /// `custodian.json`, for manifests.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.folder.join("state/custodian.json")
    }

    /// Starts it, in place of the one before, if there was one.
    pub async fn start(&mut self) {
        drop(self.process.take());
        let ports = self.folder.join("ports.json");
        let _ = std::fs::remove_file(&ports);
        self.process = Some(Process::start("the custodian", &mut self.command("serve"), &self.log));
        let ports: Value =
            until("the custodian listens", || async { serde_json::from_slice(&std::fs::read(&ports).ok()?).ok() })
                .await;
        let listen: SocketAddr = ports["listen"].as_str().unwrap().parse().unwrap();
        match &self.front {
            Front::Tap(tap) => tap.retarget(Target::Tcp(listen)),
            Front::Interceptor(interceptor) => interceptor.retarget(listen),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        self.process.take().unwrap().terminate();
    }

    /// Copies the state of a stopped custodian.
    pub fn back_up(&self, name: &str) {
        assert!(self.process.is_none(), "it runs");
        copy_folder(&self.folder.join("state"), &self.folder.join(name));
    }

    /// Puts such a copy in place of what a stopped custodian has.
    pub fn restore(&self, name: &str) {
        assert!(self.process.is_none(), "it runs");
        std::fs::remove_dir_all(self.folder.join("state")).unwrap();
        copy_folder(&self.folder.join(name), &self.folder.join("state"));
    }

    /// Lets another administrator enrol manifests, from a restart on.
    pub async fn admit(&mut self, administrator: AdministratorId) {
        if !self.options.administrators.contains(&administrator) {
            self.options.administrators.push(administrator);
            self.write_configuration();
            self.start().await;
        }
    }

    /// From its next start on, it trusts this emulated root, or none.
    pub fn set_emulated_root(&mut self, root: Option<PathBuf>) {
        self.options.emulated_root = root;
        self.write_configuration();
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(program("holdfast-custodian"));
        command.arg(verb).arg("--config").arg(self.folder.join("custodian.toml"));
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn write_configuration(&self) {
        let ids: Vec<_> = self.options.administrators.iter().map(|id| format!("\"{id}\"")).collect();
        let name = self.folder.file_name().and_then(|name| name.to_str()).unwrap();
        let mut text = format!(
            "name = \"{name}\"\nlisten = \"127.0.0.1:0\"\naddress = \"{}\"\nstate = \"state\"\n\
             ports_file = \"ports.json\"\nadministrators = [{}]\n",
            self.address(),
            ids.join(", ")
        );
        if let Some(root) = &self.options.emulated_root {
            writeln!(text, "emulated_root = \"{}\"", root.display()).unwrap();
        }
        if let Some(key) = &self.options.key_encryption_key {
            writeln!(text, "[key_encryption_key]\n{key}").unwrap();
        }
        if let Some(alarms) = &self.options.alarms {
            writeln!(text, "[alarms]\n{alarms}").unwrap();
        }
        if let Some(TlsFiles { certificate, private_key, roots }) = &self.tls {
            let [certificate, key, roots] = [certificate, private_key, roots].map(|path| path.display());
            writeln!(text, "[tls]\ncertificate = \"{certificate}\"\nprivate_key = \"{key}\"\nroots = \"{roots}\"")
                .unwrap();
        }
        std::fs::write(self.folder.join("custodian.toml"), text).unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
