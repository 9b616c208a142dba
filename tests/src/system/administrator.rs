//! An administrator with a home folder, working with the real tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_cli::commands::manifest::{read_custodian, read_measurements};
use holdfast_cli::home::{Home, read_trust_root};
use holdfast_cli::moment::parse_duration;
use holdfast_client::{CustodianClient, Tcp};
use holdfast_shared::ids::AdministratorId;
use holdfast_shared::manifest::{self, Manifest, ReleasePolicy, Thresholds, VerifiedManifest};
use holdfast_shared::xks::{HostName, PathPrefix};
use holdfast_shared::{api, cbor, labels};
use ring::rand::SystemRandom;
use serde_json::Value;

use super::{CustodianProcess, Options};
use crate::process::run;
use crate::programs::program;
use crate::random::random_bytes;
use crate::wait::DEADLINE;

/// See the module.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// As `holdfast --home` takes it.
    pub home: PathBuf,
}

impl Administrator {
    /// Makes the keys.
    pub fn init(home: PathBuf, name: &str) -> Self {
        let administrator = Self { home };
        administrator.holdfast(&["admin", "init", "--name", name]).success();
        administrator
    }

    /// The id, as custodians' configurations name it.
    #[must_use]
    pub fn id(&self) -> AdministratorId {
        self.home_folder().administrator().unwrap().administrator.id()
    }

    /// The same folder for the tool's library.
    #[must_use]
    pub fn home_folder(&self) -> Home {
        Home::at(self.home.clone())
    }

    /// Runs the tool.
    pub fn holdfast(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(program("holdfast"));
        command.arg("--home").arg(&self.home).args(arguments);
        Said { arguments: arguments.join(" "), output: run(&mut command) }
    }

    /// Makes and signs a manifest; the file lies beside the home folder.
    pub fn create_manifest(
        &self,
        name: &str,
        custodian: &CustodianProcess,
        host_name: &str,
        options: &Options,
        measurements: &Path,
        trust_root: &Path,
    ) -> PathBuf {
        self.create_manifest_for(name, &[custodian], host_name, options, measurements, trust_root)
    }

    /// The same for several custodians, the first of which is the home custodian.
    pub fn create_manifest_for(
        &self,
        name: &str,
        custodians: &[&CustodianProcess],
        host_name: &str,
        options: &Options,
        measurements: &Path,
        trust_root: &Path,
    ) -> PathBuf {
        let out = self.home.with_extension(format!("{name}.manifest"));
        let [custodian] = custodians else {
            let manifest = self.manifest_of(name, custodians, host_name, options, measurements, trust_root);
            std::fs::write(&out, manifest).unwrap();
            let (file, root) = (out.display().to_string(), trust_root.display().to_string());
            self.holdfast(&["manifest", "add", &file, "--trust-root", &root]).success();
            return out;
        };
        let text = |path: &Path| path.display().to_string();
        let (record, measurements, root) = (text(&custodian.record()), text(measurements), text(trust_root));
        let file = text(&out);
        let mut arguments = vec!["manifest", "create", "--name", name, "--custodian", &record];
        arguments.extend(["--host-name", host_name, "--path-prefix", options.path_prefix]);
        arguments.extend(["--measurements", &measurements, "--trust-root", &root]);
        arguments.extend(["--lease", options.lease, "--out", &file]);
        self.holdfast(&arguments).success();
        out
    }

    /// The tool makes manifests with one custodian; with more, it is made here of the same parts.
    fn manifest_of(
        &self,
        name: &str,
        custodians: &[&CustodianProcess],
        host_name: &str,
        options: &Options,
        measurements: &Path,
        trust_root: &Path,
    ) -> Vec<u8> {
        let keys = self.home_folder().administrator().unwrap();
        let lease = parse_duration(options.lease).unwrap();
        let manifest = Manifest {
            label: labels::MANIFEST.to_owned(),
            nonce: random_bytes(),
            name: name.to_owned(),
            administrators: vec![keys.administrator],
            thresholds: Thresholds::ONE,
            custodians: custodians.iter().map(|custodian| read_custodian(&custodian.record()).unwrap()).collect(),
            shares_needed: options.shares_needed,
            hostile_tolerated: options.hostile_tolerated,
            host_name: HostName::parse(host_name).unwrap(),
            path_prefix: PathPrefix::parse(options.path_prefix).unwrap(),
            release_policy: ReleasePolicy::first(
                read_trust_root(trust_root).unwrap().fingerprint(),
                read_measurements(measurements).unwrap(),
                u64::try_from(lease.as_millis()).unwrap(),
            ),
            succession: None,
            kms_share: None,
        };
        let envelope = manifest::sign(&manifest, &keys.signing_key, &SystemRandom::new()).unwrap();
        cbor::encode(&envelope).to_vec()
    }

    /// Sends a manifest to every custodian that it names.
    pub async fn enrol(&self, manifest: &Path) {
        self.holdfast(&["manifest", "enrol", &manifest.display().to_string()]).success();
        let signed = std::fs::read(manifest).unwrap();
        let verified = VerifiedManifest::verify(&signed).unwrap();
        for custodian in verified.manifest().custodians.iter().skip(1) {
            let client = CustodianClient::new(Tcp, custodian).unwrap();
            client.post(api::MANIFESTS, signed.clone(), 1024, DEADLINE).await.unwrap();
        }
    }
}

/// What the tool said.
#[derive(Debug)]
pub struct Said {
    arguments: String,
    output: Output,
}

impl Said {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Standard error.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Standard output of a call that worked.
    pub fn success(&self) -> String {
        let out = String::from_utf8_lossy(&self.output.stdout).into_owned();
        assert_eq!(self.code(), Some(0), "holdfast {}:\n{out}\n{}", self.arguments, self.complaint());
        out
    }

    /// The JSON that a call that worked printed.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("holdfast {}: {error}: {text}", self.arguments))
    }
}
