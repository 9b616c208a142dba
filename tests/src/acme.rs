//! A certificate authority that speaks ACME (RFC 8555), Let's Encrypt's `pebble`, and a client of it that is none of ours, `lego`.
//!
//! ```text
//! lego ─▶ pebble ─▶ [http tap] ─▶ lego's answer to HTTP-01
//!            └────▶ [tls tap]  ─▶ whoever is to answer TLS-ALPN-01
//!            └────▶ pebble-challtestsrv: every name is 127.0.0.1; TXT records for DNS-01
//! ```
//!
//! Guarantees: pebble validates for real (`PEBBLE_VA_ALWAYS_VALID` is not set) and refuses some good nonces, as it does by default;
//! both servers end with their value. Assumes: the three programs are installed (`scripts/install-prerequisites tests`); without
//! them a test fails.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::curl::curl;
use crate::key_servers::Certificates;
use crate::process::Process;
use crate::system::HOST_NAME;
use crate::tap::{Tap, Target};
use crate::wait::until;

/// How `lego` shows control over a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// A file under `/.well-known/acme-challenge/`.
    Http01,
    /// A TXT record.
    Dns01,
}

/// See the module.
#[derive(Debug)]
pub struct AcmeServer {
    /// Where pebble connects for HTTP-01.
    pub http: Tap,
    /// Where pebble connects for TLS-ALPN-01.
    pub tls: Tap,
    /// The authority of pebble's own HTTPS certificate, in PEM.
    pub roots: PathBuf,
    pebble: Process,
    names: Process,
    folder: PathBuf,
    ports: Ports,
    orders: usize,
}

/// Ports on the loopback interface.
#[derive(Clone, Copy, Debug)]
struct Ports {
    acme: u16,
    management: u16,
    dns: u16,
    dns_management: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl AcmeServer {
    /// Starts both servers in a folder.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let certificates = Certificates::create(&folder.join("pki"));
        let (http, tls) = (Tap::tcp("HTTP-01").await, Tap::tcp("TLS-ALPN-01").await);
        // Some other process may take a port between our choice and the servers' use of it.
        for _ in 0..5 {
            let ports =
                Ports { acme: free_port(), management: free_port(), dns: free_port(), dns_management: free_port() };
            let configuration = json!({ "pebble": {
                "listenAddress": format!("127.0.0.1:{}", ports.acme),
                "managementListenAddress": format!("127.0.0.1:{}", ports.management),
                "certificate": certificates.server.certificate,
                "privateKey": certificates.server.private_key,
                "httpPort": http.address().port(),
                "tlsPort": tls.address().port(),
                "ocspResponderURL": "",
                "externalAccountBindingRequired": false,
            } });
            std::fs::write(folder.join("pebble.json"), configuration.to_string()).unwrap();
            let mut names = start_names(folder, ports);
            let mut pebble = start_pebble(folder, ports);
            let addresses = [ports.acme, ports.management, ports.dns, ports.dns_management];
            let started = until("pebble and its names listen", || {
                let ended = names.ended().is_some() || pebble.ended().is_some();
                async move { if ended { Some(false) } else { all_listen(&addresses).await.then_some(true) } }
            })
            .await;
            if started {
                let (folder, roots) = (folder.to_owned(), certificates.roots);
                return Self { http, tls, roots, pebble, names, folder, ports, orders: 0 };
            }
        }
        panic!("pebble does not start");
    }

    /// The URL of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address())
    }

    /// Host and port of its ACME interface.
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.ports.acme)
    }

    /// A tap before its ACME interface. Its URLs name whatever address it is asked at.
    pub async fn line(&self) -> Tap {
        let tap = Tap::tcp("ACME").await;
        tap.retarget(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], self.ports.acme))));
        tap
    }

    /// The root of the certificates that it issues, in DER. It is another one after each start.
    #[must_use]
    pub fn issuing_root(&self) -> Vec<u8> {
        let url = format!("https://localhost:{}/roots/0", self.ports.management);
        let (status, pem) = curl(&["--cacert", &self.roots.display().to_string(), &url]);
        assert_eq!(status, 200, "{pem}");
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    /// Everything that pebble logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.pebble.log()
    }

    /// Has `lego` get a certificate for a request, which names [`HOST_NAME`]. Returns the file with the chain.
    pub fn lego(&mut self, request: &Path, solver: Solver) -> PathBuf {
        self.orders += 1;
        let folder = self.folder.join(format!("lego-{}", self.orders));
        let mut command = Command::new("lego");
        command.env_clear().env("LEGO_CA_CERTIFICATES", &self.roots);
        command.args(["--server", &self.directory(), "--accept-tos", "--email", "ops@example.com", "--path"]);
        command.arg(&folder).arg("--csr").arg(request);
        match solver {
            Solver::Http01 => {
                let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
                self.http.retarget(Target::Tcp(listen));
                command.args(["--http", "--http.port", &listen.to_string()]);
            }
            Solver::Dns01 => {
                command.env("EXEC_PATH", self.hook()).env("PATH", std::env::var_os("PATH").unwrap());
                let resolver = format!("127.0.0.1:{}", self.ports.dns);
                command.args(["--dns", "exec", "--dns.disable-cp", "--dns.resolvers", &resolver]);
            }
        }
        let output = command.arg("run").output();
        let output = output.expect("lego is missing: run scripts/install-prerequisites tests");
        assert!(output.status.success(), "lego: {}", String::from_utf8_lossy(&output.stderr));
        folder.join("certificates").join(format!("{HOST_NAME}.crt"))
    }

    /// A script that puts `lego`'s TXT records into the server of names.
    fn hook(&self) -> PathBuf {
        let script = self.folder.join("hook");
        let url = format!("http://127.0.0.1:{}", self.ports.dns_management);
        let text = format!(
            "#!/bin/sh\ncase \"$1\" in\n\
             present) curl -sSf -d \"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\" {url}/set-txt ;;\n\
             cleanup) curl -sSf -d \"{{\\\"host\\\":\\\"$2\\\"}}\" {url}/clear-txt ;;\nesac\n"
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    /// Whether both servers still run.
    pub fn runs(&mut self) -> bool {
        self.pebble.ended().is_none() && self.names.ended().is_none()
    }
}

fn start_names(folder: &Path, ports: Ports) -> Process {
    let mut command = Command::new("pebble-challtestsrv");
    command.args(["-dns01", &format!("127.0.0.1:{}", ports.dns)]);
    command.args(["-management", &format!("127.0.0.1:{}", ports.dns_management)]);
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]).env_clear();
    Process::start("pebble-challtestsrv", &mut command, &folder.join("names.log"))
}

fn start_pebble(folder: &Path, ports: Ports) -> Process {
    let mut command = Command::new("pebble");
    command.args(["-dnsserver", &format!("127.0.0.1:{}", ports.dns), "-config"]).arg(folder.join("pebble.json"));
    // Without it, pebble waits up to 15 s before each validation, to no purpose here.
    command.env_clear().env("PEBBLE_VA_NOSLEEP", "1");
    Process::start("pebble", &mut command, &folder.join("pebble.log"))
}

async fn all_listen(ports: &[u16]) -> bool {
    for port in ports {
        if tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
            return false;
        }
    }
    true
}
