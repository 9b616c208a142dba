//! A PostgreSQL cluster of a test's own, in a temporary folder, on a Unix socket.
//!
//! Debian's package `postgresql` brings the programs; where they are missing, a test fails and says so. initdb and postgres
//! refuse to run as root, so root runs them as the package's own user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast_custodian::store::PostgresServer;
use tempfile::TempDir;

/// Guards against a hang only.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server. Ends with the value.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    settings: Vec<String>,
    port: u16,
    server: Option<Child>,
    databases: AtomicU32,
}

impl Cluster {
    /// A new cluster with the server's default settings.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        if let Some((user, group)) = other_user() {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let mut command = program("initdb");
        command.arg("-D").arg(directory.path().join("data"));
        command.args(["--auth=trust", "--username=holdfast", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let mut cluster =
            Self { directory, settings: Vec::new(), port: 5432, server: None, databases: AtomicU32::new(0) };
        cluster.resume();
        cluster
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let mut command = program("postgres");
        command.arg("-D").arg(self.directory.path().join("data")).arg("-k").arg(self.directory.path());
        command.args(["-c", "listen_addresses=", "-c", "max_connections=60"]);
        command.arg("-p").arg(self.port.to_string());
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        self.server = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while !self.psql("postgres", "SELECT 1").status.success() {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "the server does not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server and starts it with other settings, each `name=value`.
    #[allow(dead_code, reason = "not every test binary changes settings")]
    pub(crate) fn restart_with(&mut self, settings: &[&str]) {
        self.stop();
        self.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        self.resume();
    }

    /// Starts it anew so that it is reached by TCP, under TLS with this certificate and key in PEM, by a role with a password and
    /// a database of its own, all three named `vault`.
    #[allow(dead_code, reason = "not every test binary reaches its server by TCP")]
    pub(crate) fn restart_with_tls(&mut self, certificate: &str, key: &str) -> u16 {
        let role = self.psql("postgres", "CREATE ROLE vault LOGIN PASSWORD 'vault'");
        assert!(role.status.success() && self.psql("postgres", "CREATE DATABASE vault OWNER vault").status.success());
        let data = self.directory.path().join("data");
        let file = |name: &str, text: &str| {
            fs::write(data.join(name), text).unwrap();
            hand_over(&data.join(name), 0o600);
        };
        file("tls.pem", certificate);
        file("tls-key.pem", key);
        file("pg_hba.conf", "local all all trust\nhostssl all vault 127.0.0.1/32 scram-sha-256\n");
        self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = ["listen_addresses=127.0.0.1", "ssl=on", "ssl_cert_file=tls.pem", "ssl_key_file=tls-key.pem"];
        self.restart_with(&tls);
        self.port
    }

    /// Ends the server as a power cut would: nothing is written any more.
    pub(crate) fn crash(&mut self) {
        self.end("QUIT");
    }

    /// Ends the server in order; clients are thrown out.
    #[allow(dead_code, reason = "not every test binary stops its server")]
    pub(crate) fn stop(&mut self) {
        self.end("INT");
    }

    fn end(&mut self, signal: &str) {
        if let Some(mut server) = self.server.take() {
            let _ = Command::new("kill").arg(format!("-{signal}")).arg(server.id().to_string()).status();
            let _ = server.wait();
        }
    }

    /// An empty database, as a configuration names it.
    pub(crate) fn database(&self) -> PostgresServer {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::SeqCst));
        let output = self.psql("postgres", &format!("CREATE DATABASE {name}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.server(&name)
    }

    /// How a client names a database of this cluster.
    pub(crate) fn server(&self, name: &str) -> PostgresServer {
        PostgresServer {
            host: self.directory.path().to_str().unwrap().to_owned(),
            port: self.port,
            name: name.to_owned(),
            user: "holdfast".to_owned(),
            password: None,
            tls: None,
        }
    }

    /// Runs SQL in a database.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> std::process::Output {
        let mut command = Command::new(directory_of_programs().join("psql"));
        command
            .arg("-h")
            .arg(self.directory.path())
            .arg("-p")
            .arg(self.port.to_string())
            .args(["-U", "holdfast", "-d", database, "-X", "-A", "-t", "-c", sql]);
        command.output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.crash();
    }
}

/// One of the server's programs, as a user as whom it runs.
pub(crate) fn program(name: &str) -> Command {
    let file = directory_of_programs().join(name);
    let Some((user, group)) = other_user() else { return Command::new(file) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups").arg(file);
    // The folder of the tests need not be open to that user.
    command.current_dir("/");
    command
}

/// The newest of the versions that are installed.
fn directory_of_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is missing: run scripts/install-prerequisites tests")
}

/// User and group `postgres`, if this process is root.
fn other_user() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields =
        line.expect("the user `postgres` is missing: run scripts/install-prerequisites tests").split(':').skip(2);
    let mut number = || fields.next().unwrap().parse().unwrap();
    Some((number(), number()))
}

/// A file that the server's user can read, whatever its folder's mode.
fn hand_over(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    if let Some((user, group)) = other_user() {
        chown(file, Some(user), Some(group)).unwrap();
    }
}
