//! Audit logs that the real programs wrote, sent to a server of S3's API that is none of ours, and brought back.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_tests::audit::{KeptLog, kept_logs};
use holdfast_tests::key_servers::Certificates;
use holdfast_tests::object_server::{ACCESS_KEY_ID, BUCKET, ObjectServer, REGION, SECRET_ACCESS_KEY};
use holdfast_tests::process::{Process, run};
use holdfast_tests::programs::program;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::{DEADLINE, until};
use rustix::process::Signal;
use serde_json::Value;

/// A parent's folder, a bucket, and the tool between them.
struct Between<'a> {
    server: &'a ObjectServer,
    folder: PathBuf,
    state: PathBuf,
}

impl Between<'_> {
    /// The tool, without a home, with credentials in its environment.
    fn command(&self, arguments: &[&str], secret: &str, roots: &Path) -> Command {
        let mut command = Command::new(program("holdfast"));
        command.env_clear().env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", secret);
        command.arg("audit").args(arguments).args(["--json", "--region", REGION, "--endpoint"]);
        command.arg(self.server.endpoint()).arg("--roots").arg(roots);
        command
    }

    fn upload_with(&self, secret: &str, roots: &Path, state: &Path) -> Output {
        let to = format!("s3://{BUCKET}/fleet");
        let (folder, state) = (self.folder.to_str().unwrap(), state.to_str().unwrap());
        let arguments = ["upload", "--folder", folder, "--to", &to, "--state", state];
        run(&mut self.command(&arguments, secret, roots))
    }

    fn upload(&self) -> Output {
        self.upload_with(SECRET_ACCESS_KEY, &self.server.certificates.roots, &self.state)
    }

    /// What was uploaded, where nothing failed.
    fn uploaded(&self) -> u64 {
        let summary = success(&self.upload());
        assert_eq!(summary["failed"], 0, "{summary}");
        summary["uploaded"].as_u64().unwrap()
    }

    fn download(&self, folder: &Path) -> Output {
        let from = format!("s3://{BUCKET}/fleet");
        let arguments = ["download", "--from", &from, "--folder", folder.to_str().unwrap()];
        run(&mut self.command(&arguments, SECRET_ACCESS_KEY, &self.server.certificates.roots))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn success(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

/// Every file of a folder of logs, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found.remove("lock");
    found
}

fn logs(system: &System, folder: &Path) -> Vec<KeptLog> {
    let reader = system.administrator.home_folder().administrator().unwrap().encryption_key;
    kept_logs(folder, system.key_store_id(), &reader)
}

fn requests(system: &System, folder: &Path) -> usize {
    logs(system, folder).iter().map(|log| log.requests().count()).sum()
}

/// One more request, which is in the log.
async fn asked(system: &System, folder: &Path) {
    let before = requests(system, folder);
    system.encrypt(KEY).await;
    until("a request is in the log", || async { (requests(system, folder) > before).then_some(()) }).await;
}

fn findings(system: &System, folder: &Path, heads: &Path) -> Value {
    let (log, heads) = (folder.to_str().unwrap(), heads.to_str().unwrap());
    system.administrator.holdfast(&["audit", "verify", "--log", log, "--heads", heads, "--json"]).shown()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_stored_as_they_grow_and_come_back_as_they_were() {
    let place = tempfile::tempdir().unwrap();
    let at_server = place.path().join("server");
    let (server, mut system) = tokio::join!(
        ObjectServer::start(&at_server),
        System::start(Options { drain_timeout_ms: 30_000, ..Options::default() })
    );
    let folder = system.layout.path("parent/audit");
    let between = Between { server: &server, folder: folder.clone(), state: place.path().join("state.json") };
    asked(&system, &folder).await;

    // Whoever cannot sign stores nothing, and a service under another authority is not talked to.
    let roots = &server.certificates.roots;
    refused(&between.upload_with("wrong", roots, &between.state), &["SignatureDoesNotMatch", "credentials"]);
    let others = Certificates::create(&place.path().join("others")).roots;
    refused(
        &between.upload_with(SECRET_ACCESS_KEY, &others, &between.state),
        &["TLS session", "invalid peer certificate"],
    );

    // What is there, and what came after it. The parent keeps a checkpoint each minute, and the last one.
    assert_eq!(between.uploaded(), 1);
    asked(&system, &folder).await;
    assert_eq!(between.uploaded(), 1);

    // A watcher that is told to end sends what the parent wrote last.
    let to = format!("s3://{BUCKET}/fleet");
    let (text, state) = (folder.to_str().unwrap().to_owned(), between.state.to_str().unwrap().to_owned());
    let arguments = ["upload", "--folder", &text, "--to", &to, "--state", &state, "--watch"];
    let mut watching = between.command(&arguments, SECRET_ACCESS_KEY, roots);
    let mut watcher = Process::start("holdfast audit upload --watch", &mut watching, &place.path().join("watcher.log"));
    let known = std::fs::read(&between.state).unwrap();
    asked(&system, &folder).await;
    until("the watcher sent it", || async { (std::fs::read(&between.state).unwrap() != known).then_some(()) }).await;
    let mut parent = system.parent.take().unwrap();
    parent.signal(Signal::TERM);
    assert!(parent.wait(DEADLINE).is_some_and(|status| status.success()), "{}", parent.log());
    watcher.signal(Signal::TERM);
    assert!(watcher.wait(DEADLINE).is_some_and(|status| status.success()), "{}", watcher.log());
    assert_eq!(between.uploaded(), 0, "{}", watcher.log());

    // The same bytes, and the same findings.
    let back = place.path().join("back");
    assert_eq!(success(&between.download(&back))["downloaded"], 2);
    assert_eq!(success(&between.download(&back))["skipped"], 2);
    assert_eq!(files(&back), files(&folder));
    let heads = system.layout.path("heads.json");
    system.administrator.holdfast(&["audit", "heads", "--out", heads.to_str().unwrap()]).success();
    let report = findings(&system, &back, &heads);
    assert_eq!(report["verified"], true, "{report:#}");
    assert_eq!(report, findings(&system, &folder, &heads));

    altered(&between, place.path());
    system.assert_no_panic();
}

/// Somebody else writes into the bucket: it is noticed there and back, and left as it is.
fn altered(between: &Between<'_>, place: &Path) {
    let names: Vec<String> = files(&between.folder).into_keys().collect();
    let entries =
        names.iter().find(|name| Path::new(name).extension().is_some_and(|extension| extension == "log")).unwrap();
    let object = format!("fleet/{entries}");
    let original = between.server.object(&object);
    assert_eq!(original, std::fs::read(between.folder.join(entries)).unwrap());
    let mut other = original.clone();
    *other.last_mut().unwrap() ^= 1;
    between.server.put(&object, &other, &[]);
    refused(&between.upload(), &[entries, "altered", "left as it is"]);
    assert_eq!(between.server.object(&object), other);
    refused(
        &between.upload_with(SECRET_ACCESS_KEY, &between.server.certificates.roots, &place.join("none.json")),
        &["altered"],
    );
    refused(&between.download(&place.join("back")), &[entries, "choose another --folder"]);
    let fresh = place.join("fresh");
    let brought = between.download(&fresh);
    assert!(said(&brought).contains("1 objects have no SHA-256 recorded"), "{}", said(&brought));
    assert_eq!(files(&fresh)[entries], other, "it is for the verifier to say what is wrong with it");

    // Of the same length, and with the hash of what was there: that is what somebody says.
    let sha256 = hex::encode(ring::digest::digest(&ring::digest::SHA256, &original));
    between.server.put(&object, &other, &[format!("x-amz-meta-sha256: {sha256}")]);
    refused(&between.upload(), &[entries, "altered"]);
    refused(&between.download(&place.join("forged")), &[entries, "does not have the SHA-256"]);
    between.server.put(&object, &original, &[]);

    // One object that cannot be had, before all others.
    let key_store = entries.split('/').next().unwrap();
    let bad = format!("{key_store}/{}/0000000000000000.log", "0".repeat(32));
    between.server.put_unreadable(&format!("fleet/{bad}"), b"x");
    let others = place.join("all-others");
    refused(&between.download(&others), &[&bad]);
    assert!(files(&others) == files(&between.folder), "all others came");
}
