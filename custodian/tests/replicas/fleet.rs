//! Two replicas of one custodian, each a process with a folder of its own, and their administrator.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_custodian::clock::{Clock, SystemClock};
use holdfast_custodian::init::PublicRecord;
use holdfast_devkit::nsm::{EmulatedChain, EmulatedRoot};
use holdfast_shared::api;
use holdfast_shared::attestation::Measurements;
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::command::{self, Action, Precondition};
use holdfast_shared::hpke;
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::manifest::{
    self, Administrator, Custodian as CustodianEntry, DerCertificate, Manifest, ReleasePolicy, Thresholds,
};
use holdfast_shared::query::{self, Answer, Query, Question};
use holdfast_shared::signature::SigningKey;
use holdfast_tests::random::random_bytes;
use ring::rand::SystemRandom;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::server::Cluster;

pub(crate) const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";
const LEASE_MS: u64 = 600_000;
/// Guards against a hang only.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Fleet {
    directory: TempDir,
    cluster: Mutex<Cluster>,
    replicas: [Mutex<Option<Child>>; 2],
    pub(crate) chain: EmulatedChain,
    pub(crate) record: PublicRecord,
    pub(crate) manifest: Manifest,
    pub(crate) key_store_id: KeyStoreId,
    administrator: SigningKey,
    entry: CustodianEntry,
}

impl Fleet {
    /// A database, two replicas on it, one key store.
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start();
        let database = cluster.database().name;
        let directory = tempfile::tempdir().unwrap();
        let rng = SystemRandom::new();
        let administrator = SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
        let signing_key = administrator.verifying_key().unwrap();
        let encryption_key = *hpke::PrivateKey::generate().unwrap().public_key();
        let alice = Administrator { name: "alice".to_owned(), signing_key, encryption_key };
        let root = EmulatedRoot::generate().unwrap();
        for replica in 0..2 {
            let folder = folder(directory.path(), replica);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("root.pem"), root.pem()).unwrap();
            let text = format!(
                "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
                 administrators = [\"{}\"]\nports_file = \"ports.json\"\nemulated_root = \"root.pem\"\n[database]\n\
                 host = \"{}\"\nname = \"{database}\"\nuser = \"holdfast\"\n",
                alice.id(),
                cluster.directory.path().display()
            );
            fs::write(folder.join("custodian.toml"), text).unwrap();
        }
        let output = program(&folder(directory.path(), 0), "init").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let again = program(&folder(directory.path(), 1), "init").output().unwrap();
        let refusal = String::from_utf8_lossy(&again.stderr);
        assert!(!again.status.success() && refusal.contains("belongs to another custodian already"), "{refusal}");
        assert!(
            !folder(directory.path(), 1).join("state").exists(),
            "nothing is made before the database was looked at"
        );
        let state = |replica| folder(directory.path(), replica).join("state");
        assert!(Command::new("cp").arg("-a").args([state(0), state(1)]).status().unwrap().success());
        let record: PublicRecord = serde_json::from_slice(&fs::read(state(0).join("custodian.json")).unwrap()).unwrap();
        let entry = custodian_entry(&record);
        let manifest = manifest(&entry, &root, alice);
        let key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&manifest)]));
        let fleet = Self {
            cluster: Mutex::new(cluster),
            replicas: [Mutex::default(), Mutex::default()],
            chain: EmulatedChain::standard(&root, MODULE_ID, SystemClock.now_ms()).unwrap(),
            record,
            manifest,
            key_store_id,
            administrator,
            entry,
            directory,
        };
        fleet.wait_for(0).await;
        let signed = manifest::sign(&fleet.manifest, &fleet.administrator, &rng).unwrap();
        fleet.post(0, api::MANIFESTS, cbor::encode(&signed).to_vec()).await.unwrap();
        // The other one learns of it.
        fleet.wait_for(1).await;
        fleet
    }

    /// The caller holds the replica's place, so that there is one process at a time.
    fn launch(&self, replica: usize, place: &mut Option<Child>) {
        let folder = folder(self.directory.path(), replica);
        let _ = fs::remove_file(folder.join("ports.json"));
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let child = program(&folder, "serve").stderr(log).stdout(Stdio::null()).spawn().unwrap();
        *place = Some(child);
    }

    /// Ends a replica in the middle of whatever it does, and starts it again.
    pub(crate) fn kill(&self, replica: usize) {
        println!("kills replica {replica}");
        let mut place = self.replicas[replica].lock().unwrap();
        if let Some(mut child) = place.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.launch(replica, &mut place);
    }

    /// Ends the database server as a power cut would, and starts it again.
    pub(crate) fn crash_server(&self) {
        println!("crashes the server");
        let mut cluster = self.cluster.lock().unwrap();
        cluster.crash();
        cluster.resume();
    }

    /// Ends the database server for good.
    pub(crate) fn stop_server(&self) {
        self.cluster.lock().unwrap().stop();
    }

    /// Waits until a replica answers, its database included. One that did not find its database when it started is started anew.
    pub(crate) async fn wait_for(&self, replica: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let query = self.signed_query(Question::Status).1;
            match self.post(replica, api::QUERIES, query).await {
                Ok(_) => return,
                Err(error) => {
                    let refusal = error.refusal().map(|refusal| refusal.code);
                    // Nothing is enrolled yet, but it answers.
                    if refusal == Some(api::RefusalCode::NotFound) && replica == 0 {
                        return;
                    }
                    assert!(Instant::now() < deadline, "replica {replica} does not answer: {error}");
                }
            }
            self.relaunch_if_ended(replica);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn relaunch_if_ended(&self, replica: usize) {
        let mut place = self.replicas[replica].lock().unwrap();
        if place.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
            self.launch(replica, &mut place);
        }
    }

    /// Posts to a replica.
    pub(crate) async fn post(&self, replica: usize, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.relaunch_if_ended(replica);
        let ports = folder(self.directory.path(), replica).join("ports.json");
        let port = fs::read(ports).ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
        let port = port.and_then(|json| json["port"].as_u64()).unwrap_or(1);
        let entry = CustodianEntry { address: format!("localhost:{port}"), ..self.entry.clone() };
        let client = CustodianClient::new(Tcp, &entry)?;
        client.post(path, body, limits::CHANNEL_MESSAGE_MAX, Duration::from_secs(40)).await
    }

    /// A new command, signed.
    pub(crate) fn command(&self, action: Action) -> (CommandId, Vec<u8>) {
        let now_ms = SystemClock.now_ms();
        let command = command::Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.key_store_id,
            command_id: CommandId(random_bytes()),
            issued_ms: now_ms,
            expires_ms: now_ms + 3_600_000,
            precondition: Precondition::None,
            action,
        };
        let envelope = command::sign(&command, &self.administrator, &SystemRandom::new()).unwrap();
        (command.command_id, cbor::encode(&envelope).to_vec())
    }

    /// A signed overlay that blocks nothing.
    pub(crate) fn overlay(&self, epoch: u64) -> Vec<u8> {
        let overlay = BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: self.key_store_id,
            epoch,
            store: false,
            keys: Vec::new(),
            issued_ms: SystemClock.now_ms(),
        };
        cbor::encode(&block::sign(&overlay, &self.administrator, &SystemRandom::new()).unwrap()).to_vec()
    }

    fn signed_query(&self, question: Question) -> (Query, Vec<u8>) {
        let query = Query {
            label: labels::QUERY.to_owned(),
            key_store_id: self.key_store_id,
            custodian_id: self.record.id(),
            nonce: random_bytes(),
            issued_ms: SystemClock.now_ms(),
            question,
        };
        let signed = query::sign(&query, &self.administrator, &SystemRandom::new()).unwrap();
        (query, signed)
    }

    pub(crate) async fn query(&self, replica: usize, question: Question) -> Answer {
        let (query, signed) = self.signed_query(question);
        let answer = self.post(replica, api::QUERIES, signed).await.unwrap();
        query::open_answer(&answer, &query, &self.record.signing_key).unwrap()
    }

    /// Looks into the tables themselves: the versions are all there, one of each number, and no nonce obtained two releases.
    pub(crate) fn check_tables(&self, versions: &BTreeMap<u64, Vec<u8>>) {
        let cluster = self.cluster.lock().unwrap();
        let sql = |sql: &str| {
            let output = cluster.psql("d0", sql);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(sql("SELECT count(*) - max(version) FROM versions"), "0", "no number is missing");
        for (version, register) in versions {
            let kept = sql(&format!("SELECT encode(register, 'hex') FROM versions WHERE version = {version}"));
            assert_eq!(kept, hex::encode(register), "version {version}");
        }
        assert_eq!(sql("SELECT count(*) FROM releases WHERE released = 1"), sql("SELECT count(*) FROM nonces"));
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for replica in &self.replicas {
            if let Some(mut child) = replica.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for replica in 0..2 {
                let log = fs::read_to_string(folder(self.directory.path(), replica).join("log")).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(20).collect();
                println!("replica {replica}, newest first:\n{}", lines.join("\n"));
            }
        }
    }
}

fn folder(directory: &Path, replica: usize) -> PathBuf {
    directory.join(format!("replica-{replica}"))
}

fn program(folder: &Path, command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_holdfast-custodian"));
    program.env_remove("RUST_LOG").arg(command).arg("--config").arg(folder.join("custodian.toml"));
    program
}

fn custodian_entry(record: &PublicRecord) -> CustodianEntry {
    let der = |pem: &String| DerCertificate(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec());
    CustodianEntry {
        name: record.name.clone(),
        signing_key: record.signing_key,
        encryption_key: record.encryption_key,
        address: record.address.clone(),
        tls_roots: record.tls_roots.iter().map(der).collect(),
    }
}

fn manifest(entry: &CustodianEntry, root: &EmulatedRoot, alice: Administrator) -> Manifest {
    let pcr = |byte| [byte; 48];
    let image =
        Measurements { pcr0: pcr(1), pcr1: pcr(2), pcr2: pcr(3), pcr16: pcr(16), pcr3: None, pcr4: None, pcr8: None };
    let trust_root = root.trust_root().unwrap().fingerprint();
    Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: random_bytes(),
        name: "orders".to_owned(),
        administrators: vec![alice],
        thresholds: Thresholds::ONE,
        custodians: vec![entry.clone()],
        shares_needed: 1,
        hostile_tolerated: 0,
        host_name: "kms.example.com".parse().unwrap(),
        path_prefix: "/orders".parse().unwrap(),
        release_policy: ReleasePolicy::first(trust_root, vec![image], LEASE_MS),
        kms_share: None,
        succession: None,
    }
}
