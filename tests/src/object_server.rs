//! `SeaweedFS`'s server of S3's API: objects that are stored by other people's code, behind signatures that are really checked.
//!
//! Guarantees: it listens on this machine alone, over TLS; it keeps its data in the test's folder; it ends with its value. Assumes:
//! `scripts/test-python` made the environment that holds it; without it a test fails.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::curl::curl;
use crate::key_servers::{Certificates, write_private};
use crate::process::Process;
use crate::python::interpreter;
use crate::wait::until;

/// The one identity that may do anything.
pub const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// Its secret.
pub const SECRET_ACCESS_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// The bucket that there is.
pub const BUCKET: &str = "audit-logs";
/// Where it claims to be.
pub const REGION: &str = "eu-central-1";

/// Its services, each with a port for HTTP and one for gRPC; the last is the one of S3.
const SERVICES: [&str; 4] = ["master", "volume", "filer", "s3"];

/// See the module.
#[derive(Debug)]
pub struct ObjectServer {
    /// Its certificate and authority.
    pub certificates: Certificates,
    process: Option<Process>,
    folder: PathBuf,
    ports: Vec<u16>,
}

impl ObjectServer {
    /// Starts a server in a folder, and makes the bucket.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("data")).unwrap();
        let identity = json!({
            "name": "test",
            "credentials": [{ "accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY }],
            "actions": ["Admin", "Read", "Write", "List"],
        });
        write_private(&folder.join("s3.json"), &json!({ "identities": [identity] }).to_string());
        let certificates = Certificates::create(&folder.join("tls"));
        let mut server = Self { certificates, process: None, folder: folder.to_owned(), ports: Vec::new() };
        // Some other process may take a port between our choice and the server's use of it.
        for _ in 0..3 {
            if server.try_to_run().await {
                until("a bucket", || async { (server.call(&["--request", "PUT"], "").0 == 200).then_some(()) }).await;
                return server;
            }
        }
        panic!("weed server does not start: {}", server.process.take().unwrap().log());
    }

    async fn try_to_run(&mut self) -> bool {
        let free: Vec<_> = (0..2 * SERVICES.len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        self.ports = free.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(free);
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(interpreter().with_file_name("weed"));
        command.env_clear().env("HOME", &self.folder).current_dir(&self.folder);
        command.args(["-v=0", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
        command.args(["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=16", "-volume.minFreeSpace=1"]);
        for (service, ports) in SERVICES.iter().zip(self.ports.chunks(2)) {
            command.arg(format!("-{service}.port={}", ports[0])).arg(format!("-{service}.port.grpc={}", ports[1]));
        }
        for (flag, name) in [("filer.localSocket", "filer.sock"), ("s3.localSocket", "s3.sock"), ("dir", "data")] {
            command.arg(format!("-{flag}={}", path(name)));
        }
        let server = &self.certificates.server;
        command.arg(format!("-s3.config={}", path("s3.json")));
        command.arg(format!("-s3.cert.file={}", server.certificate.display()));
        command.arg(format!("-s3.key.file={}", server.private_key.display()));
        let mut process = Process::start("SeaweedFS", &mut command, &self.folder.join("log"));
        let address = SocketAddr::from(([127, 0, 0, 1], self.port()));
        let started = until("SeaweedFS listens", || {
            let ended = process.ended().is_some();
            async move {
                let listens = tokio::net::TcpStream::connect(address).await.is_ok();
                (ended || listens).then_some(listens)
            }
        })
        .await;
        self.process = Some(process);
        started
    }

    fn port(&self) -> u16 {
        self.ports[self.ports.len() - 2]
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port())
    }

    /// An object's bytes, as another client has them.
    #[must_use]
    pub fn object(&self, name: &str) -> Vec<u8> {
        let place = self.folder.join("object");
        let (status, _) = self.call(&["--output", place.to_str().unwrap()], name);
        assert_eq!(status, 200, "{name}");
        std::fs::read(place).unwrap()
    }

    /// Another client puts an object there, in the place of any other, with these headers.
    pub fn put(&self, name: &str, bytes: &[u8], headers: &[String]) {
        let place = self.folder.join("object");
        std::fs::write(&place, bytes).unwrap();
        let mut arguments = vec!["--upload-file", place.to_str().unwrap()];
        arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
        let (status, said) = self.call(&arguments, name);
        assert_eq!(status, 200, "{name}: {said}");
    }

    /// Another client puts an object there that nobody can read who does not have its key (SSE-C). curl signs its headers in the wrong order.
    pub fn put_unreadable(&self, name: &str, bytes: &[u8]) {
        let place = self.folder.join("object");
        std::fs::write(&place, bytes).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/put_encrypted.py");
        let mut command = Command::new(interpreter());
        command.env_clear().env("HOME", &self.folder);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        command.arg(script).arg(self.endpoint()).arg(&self.certificates.roots).args([REGION, BUCKET, name]).arg(place);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A request of curl's, signed by curl.
    fn call(&self, arguments: &[&str], name: &str) -> (u16, String) {
        let roots = self.certificates.roots.display().to_string();
        let (user, url) =
            (format!("{ACCESS_KEY_ID}:{SECRET_ACCESS_KEY}"), format!("{}/{BUCKET}/{name}", self.endpoint()));
        let signer = format!("aws:amz:{REGION}:s3");
        let identified = ["--cacert", &roots, "--user", &user, "--aws-sigv4", &signer];
        let unsigned = ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
        curl(&[&identified, &unsigned[..], arguments, &[url.trim_end_matches('/')]].concat())
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        // At SIGTERM it tells others for some time that it ends; there are none.
        if let Some(process) = self.process.take() {
            process.kill();
        }
        // Their place cannot be chosen.
        for (service, ports) in SERVICES.iter().zip(self.ports.chunks(2)) {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{service}-grpc-{}.sock", ports[1]));
        }
    }
}
