//! An EC2 instance as far as the parent sees one: a `nitro-cli` (`instance/nitro-cli.sh`) that runs the local enclave, and images that
//! are files with any content.
//!
//! Guarantees: an enclave goes on without the parent, as enclaves do, and ends with this value. Assumes: the system has no
//! enclave of its own, and its parent is started after [`Instance::configure`].

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::program;
use crate::system::System;
use crate::wait::until;

/// See the module.
pub struct Instance {
    folder: PathBuf,
    configuration: PathBuf,
}

impl Instance {
    /// With so much memory in hugepages.
    #[must_use]
    pub fn new(system: &System, memory_mib: u64) -> Self {
        let folder = system.layout.path("nitro");
        std::fs::create_dir_all(folder.join("enclaves")).unwrap();
        let script = include_str!("instance/nitro-cli.sh")
            .replace("@FOLDER@", text(&folder))
            .replace("@ENCLAVE@", text(&program("holdfast-dev")))
            .replace("@NSM@", text(&system.nsm_socket()))
            .replace("@LOG@", text(&system.layout.log("enclave")));
        let cli = folder.join("nitro-cli");
        std::fs::write(&cli, script).unwrap();
        std::fs::set_permissions(&cli, std::fs::Permissions::from_mode(0o755)).unwrap();
        let instance = Self { folder, configuration: system.layout.path("parent/parent.toml") };
        instance.write("calls", "");
        instance.write("fail", "");
        instance.write("memory_mib", &memory_mib.to_string());
        instance.place_image("first");
        instance
    }

    /// Tells the parent to run enclaves with `[nitro]`, and `more` under `[enclave]`.
    pub fn configure(&self, system: &System, more: &str) {
        let folder = text(&self.folder);
        self.rewrite(system, &format!("cids = [16, 17]\n{more}"));
        let nitro = format!(
            "[nitro]\neif = \"{folder}/image.eif\"\ncpu_count = 2\nmemory_mib = 512\ncli = \"{folder}/nitro-cli\"\n"
        );
        let configuration = std::fs::read_to_string(&self.configuration).unwrap();
        std::fs::write(&self.configuration, configuration + &nitro).unwrap();
    }

    /// Tells the parent to run the local enclave as its own process; `mark` makes another command of the same.
    pub fn configure_command(&self, system: &System, mark: &str) {
        let folder = text(&self.folder);
        let (enclave, nsm) = (program("holdfast-dev"), system.nsm_socket());
        let command = format!(
            "exec {} enclave --nsm-socket {} --control unix://{folder}/control-{{cid}} --egress unix://{folder}/egress-{{cid}} \
             --audit unix://{folder}/audit-{{cid}} \
             --ingress unix://{folder}/ingress-{{cid}} # {mark}",
            text(&enclave),
            text(&nsm)
        );
        self.rewrite(system, &format!("cids = [16, 17]\ncommand = [\"sh\", \"-c\", \"{command}\"]"));
    }

    fn rewrite(&self, system: &System, enclave: &str) {
        let before = std::fs::read_to_string(&self.configuration).unwrap();
        let kept = before.split("[enclave]").next().unwrap();
        let allow = system.custodians().map(|custodian| format!("\"{}\"", custodian.address())).collect::<Vec<_>>();
        let at = |name: &str| format!("unix://{}/{name}-{{cid}}", text(&self.folder));
        let configuration = format!(
            "{kept}[enclave]\ningress = \"{}\"\n{enclave}\n[control]\nlisten = \"{}\"\n[egress]\nlisten = \"{}\"\nallow = [{}]\n\
             [audit]\nlisten = \"{}\"\nfolder = \"audit\"\n",
            at("ingress"),
            at("control"),
            at("egress"),
            allow.join(", "),
            at("audit")
        );
        std::fs::write(&self.configuration, configuration).unwrap();
    }

    /// Puts another image in place, as operators are told to. One with `silent` in it boots nothing that speaks.
    pub fn place_image(&self, content: &str) {
        self.write("image.tmp", content);
        std::fs::rename(self.folder.join("image.tmp"), self.folder.join("image.eif")).unwrap();
    }

    /// From now on `nitro-cli run-enclave` fails with this code and text; not any more with an empty code.
    pub fn fail_with(&self, code: &str, says: &str) {
        self.write("fail", &if code.is_empty() { String::new() } else { format!("{code}\n{says}\n") });
    }

    /// The next call of `nitro-cli` with this command goes wrong: it fails, or, if it is `run-enclave`, runs the enclave and says
    /// something that is not documented.
    pub fn stumble_once(&self, command: &str) {
        self.write(&format!("once-{command}"), "");
    }

    /// Changes how much memory there is in hugepages.
    pub fn set_memory(&self, memory_mib: u64) {
        self.write("memory_mib", &memory_mib.to_string());
    }

    /// An enclave that somebody else runs here, with the process that stands for it.
    pub fn add_foreign(&self, name: &str, cid: u32, pid: u32) {
        let described = format!(
            "{{ \"EnclaveName\": \"{name}\", \"EnclaveID\": \"i-0123456789abcdef0-encforeign\", \"ProcessID\": {pid}, \
             \"EnclaveCID\": {cid}, \"NumberOfCPUs\": 2, \"CPUIDs\": [1, 3], \"MemoryMiB\": 512, \"State\": \"RUNNING\", \
             \"Flags\": \"NONE\" }}"
        );
        self.write("enclaves/foreign", &format!("{pid}\n{described}\n512\n"));
    }

    /// The calls of `nitro-cli` with this command, in order.
    #[must_use]
    pub fn calls(&self, command: &str) -> Vec<String> {
        let calls = std::fs::read_to_string(self.folder.join("calls")).unwrap();
        calls.lines().filter(|line| line.starts_with(command)).map(str::to_owned).collect()
    }

    /// Waits until a command was called so often.
    pub async fn called(&self, command: &str, count: usize) {
        until(&format!("nitro-cli {command} was called {count} times"), || async {
            (self.calls(command).len() >= count).then_some(())
        })
        .await;
    }

    /// Process ids of the enclaves that run.
    #[must_use]
    pub fn enclaves(&self) -> Vec<u32> {
        let files = std::fs::read_dir(self.folder.join("enclaves")).unwrap().map(|entry| entry.unwrap());
        let files = files.filter(|file| file.file_name() != "foreign");
        let pids = files.filter_map(|file| std::fs::read_to_string(file.path()).ok()?.lines().next()?.parse().ok());
        pids.filter(|pid| is_alive(*pid)).collect()
    }

    /// SIGKILL for every enclave.
    pub fn kill_enclaves(&self) {
        for pid in self.enclaves() {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.folder.join(file), content).unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill_enclaves();
    }
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
