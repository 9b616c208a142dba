//! Every command of our programs that a page names is one: it parses, with all of its flags and values; and what can be run on one machine
//! is run, in a local system. A block that is not run says why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::{CommandFactory as _, Parser as _};
use holdfast_tests::documents::{Block, blocks, in_sentences, outside, pages, programs, root};
use holdfast_tests::process::Process;
use holdfast_tests::programs::program;
use holdfast_tests::wait::until;

/// What a command line is for a program of ours; none for others.
fn ours(words: &[String]) -> Option<(String, Vec<String>)> {
    let mut words = words.to_vec();
    // Whoever runs it, and where.
    loop {
        let first = words.first()?.clone();
        let skip = match first.as_str() {
            // -u USER
            "sudo" | "runuser" => 3 + usize::from(words.get(3).is_some_and(|word| word == "--")),
            "taskset" => 3,
            "export" | "exec" => 1,
            _ => break,
        };
        words.drain(..skip.min(words.len()));
    }
    let first = words.first()?.clone();
    if first == "cargo" && words.get(1).is_some_and(|word| word == "run") {
        let package = words.iter().skip_while(|word| !matches!(word.as_str(), "-p" | "--package")).nth(1)?;
        let name = match package.as_str() {
            "holdfast-devkit" => "holdfast-dev",
            "holdfast-cli" => "holdfast",
            other => other,
        };
        if words.iter().any(|word| word == "--example") {
            return None;
        }
        let own = words.iter().skip_while(|word| *word != "--").skip(1).cloned().collect();
        return Some((name.to_owned(), own));
    }
    if first == "scripts/up" {
        let own = [vec!["up".to_owned()], words.split_off(1)].concat();
        return Some(("holdfast-dev".to_owned(), own));
    }
    let name = Path::new(&first).file_name()?.to_str()?.to_owned();
    name.starts_with("holdfast").then(|| (name, words.split_off(1)))
}

fn parse(name: &str, words: &[String]) -> Result<(), String> {
    let all = || std::iter::once(name.to_owned()).chain(words.iter().cloned());
    let told = |error: clap::Error| if error.use_stderr() { Err(error.to_string()) } else { Ok(()) };
    let of = |command: clap::Command| command.try_get_matches_from(all()).map(drop).or_else(told);
    match name {
        // Values are parsed by the types.
        "holdfast" => holdfast_cli::arguments::Arguments::try_parse_from(all()).map(drop).or_else(told),
        "holdfast-dev" => of(holdfast_devkit::app::Arguments::command()),
        "holdfast-parent" => of(holdfast_parent::cli::command_line()),
        "holdfast-custodian" => of(holdfast_custodian::program::command_line()),
        "holdfast-eif" => {
            // It has no library for its command line: what comes before a flag that nobody has is read first.
            let output = Command::new(program(name)).args(words).arg("--no-such-flag").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("unexpected argument '--no-such-flag'") { Ok(()) } else { Err(said) }
        }
        other => Err(format!("there is no program {other}")),
    }
}

#[test]
fn every_command_in_a_page_is_one() {
    let mut looked = 0;
    let mut wrong = Vec::new();
    for block in pages().iter().flat_map(|page| blocks(page)) {
        for command in &block.commands {
            for (name, words) in programs(&command.text).iter().filter_map(|words| ours(words)) {
                looked += 1;
                // What another program prints is an id; what is left to the reader to fill in is missing.
                let id = |word: String| if word == "$" { "94".repeat(32) } else { word };
                let is_part = words.iter().any(|word| word == "…");
                let words: Vec<String> = words.into_iter().filter(|word| word != "…").map(id).collect();
                if let Err(error) = parse(&name, &words)
                    && !(is_part && error.contains("required arguments were not provided"))
                {
                    wrong.push(format!("{}:{}: {name} {}\n{error}", block.page, block.line, words.join(" ")));
                }
            }
        }
    }
    let written = pages().into_iter().filter(|page| page != "docs/spec-coverage.md"); // generated: names of tests
    for (page, line, text) in written.flat_map(|page| in_sentences(&page)) {
        // What is signed or hashed begins with names like `holdfast attest connection v1`.
        if text.ends_with(" v1") {
            continue;
        }
        for (name, words) in programs(&text).iter().filter_map(|words| ours(words)) {
            // A program's name, or a file's, or any command's.
            if words.first().is_none_or(|word| word == "COMMAND") {
                continue;
            }
            looked += 1;
            let words: Vec<String> = words.into_iter().filter(|word| word != "…").collect();
            if let Err(error) = parse(&name, &words)
                && !is_about_a_part(&error)
            {
                wrong.push(format!("{page}:{line}: {text}\n{error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked > 300, "the search finds what is there: {looked}");
}

/// Whether all that is wrong with a command is that a sentence leaves out its rest, or has a name in a value's place.
fn is_about_a_part(error: &str) -> bool {
    let is_help = error.contains("Usage: ") && !error.contains("error:");
    let parts =
        ["required arguments were not provided", "a value is required for", "requires a subcommand", "invalid value"];
    is_help || parts.iter().any(|part| error.contains(part))
}

#[test]
fn a_command_stands_between_fences() {
    let ours = ["holdfast", "scripts/", "cargo run"];
    let wrong: Vec<String> = pages()
        .iter()
        .flat_map(|page| outside(page))
        .filter(|(.., line)| {
            let text = line.trim_start();
            let text = text.strip_prefix("$ ").unwrap_or(text);
            let program = text.split(' ').next().unwrap_or_default();
            let is_indented = line.len() >= text.len() + 4;
            is_indented && ours.iter().any(|name| program == *name || program.starts_with(&format!("{name}-")))
        })
        .map(|(page, number, line)| format!("{page}:{number}: {line}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What becomes of a block.
enum Fate {
    /// It is run, in the order of this list, in one local system; before it, what a reader has by then is made.
    Run(&'static str),
    /// It is run, and prints other numbers and moments than the page shows.
    RunLoosely(&'static str),
    /// It is not run, because.
    Not(&'static str),
}
use Fate::{Not, Run, RunLoosely};

const AWS: &str = "needs AWS";
const ROOT: &str = "changes the machine";
const ELSEWHERE: &str = "what it does is shown by a test of its own";
const WALK: &str = "run in docs/walk-through.md, with what people and authorities do between its lines";
const PLACEHOLDERS: &str = "has names for the reader to fill in";
const MEASURES: &str = "a measurement of minutes, in a release build";
const MANY: &str = "needs several people or custodians, whom other tests have";
const SERVER: &str = "needs a server of another maker, which other tests have";

const BUILDS: &str = "minutes of building, in a test of its own";
const MACHINE: &str = "needs a virtual machine, which tests of their own have";
/// In place of a beginning: the blocks whose lines `tests/tests/walk_through.rs` runs.
const WALKED: &str = "(every block of the part for one machine)";

const CEDAR: &str = "echo 'permit (principal, action, resource);' > use.cedar; cp use.cedar next.cedar";

/// Page, how the block's first command begins, and what becomes of it. The first that fits counts.
const FATES: &[(&str, &str, Fate)] = &[
    ("README.md", "scripts/up", Not(ELSEWHERE)),
    ("README.md", "AWS_CONFIG_FILE", Not(ELSEWHERE)),
    ("README.md", "scripts/test", Not("runs this test")),
    ("docs/walk-through.md", WALKED, Not(ELSEWHERE)),
    ("docs/walk-through.md", "cargo run --package holdfast-eif", Not(BUILDS)),
    ("docs/walk-through.md", "holdfast manifest create", Not(MANY)),
    ("docs/walk-through.md", "runuser", Not(ROOT)),
    ("docs/walk-through.md", "holdfast doctor https://xks.example.com", Not(PLACEHOLDERS)),
    ("docs/walk-through.md", "aws kms", Not(AWS)),
    // Keys, in the order of their lives.
    ("docs/keys.md", "holdfast key create payments-1", Run("")),
    ("docs/keys.md", "holdfast key destroy-version", Run("")),
    ("docs/keys.md", "(umask 077; xxd", Run("head -c 32 /dev/urandom > exported-key")),
    ("docs/keys.md", "holdfast quota set", Run("")),
    ("docs/keys.md", "holdfast client-auth set", Run("cp .holdfast/tls/ca.pem amazon-trust-services.pem")),
    ("docs/operations.md", "holdfast key rotate", RunLoosely("")),
    ("docs/operations.md", "holdfast root-key rotate", RunLoosely("")),
    ("docs/operations.md", "holdfast tls show", RunLoosely("")),
    ("docs/tls.md", "holdfast tls show", RunLoosely("")),
    ("docs/tls.md", "holdfast client-auth set", Run("cp .holdfast/tls/ca.pem amazon-roots.pem")),
    ("docs/operations.md", "holdfast admin init", RunLoosely("export HOLDFAST_HOME=$PWD/dave")),
    ("docs/budgets.md", "holdfast budget set", RunLoosely("")),
    ("docs/policy.md", "holdfast policy schema", RunLoosely(CEDAR_AND_CASES)),
    ("docs/policy.md", "holdfast policy replay", RunLoosely(CEDAR)),
    ("docs/policy.md", "holdfast limit set", RunLoosely("")),
    ("docs/alarms.md", "holdfast alarms --kind", RunLoosely("")),
    ("docs/attest.md", "holdfast attest https://localhost", RunLoosely("")),
    ("docs/audit.md", "holdfast audit verify", Not(ELSEWHERE)),
    (
        "docs/custodian-database.md",
        "holdfast-custodian backup",
        Run("cp .holdfast/custodian/custodian.toml . && mkdir backup"),
    ),
    ("docs/doctor.md", "holdfast explain", RunLoosely("")),
    ("docs/kms.md", "echo '{\"latency_ms\"", Run("mkdir .holdfast-kms")),
    ("docs/observability.md", "curl -s", RunLoosely("")),
    ("docs/operator.md", "{ head -c 48", RunLoosely("cp .holdfast/parent/static.json .")),
    ("docs/operator.md", "holdfast history", RunLoosely("")),
    ("docs/operator.md", "holdfast audit verify", RunLoosely("")),
    (
        "docs/operator.md",
        "holdfast attestation inspect",
        RunLoosely("cp \"$VECTORS/attestation/nitro-attestation-2024-12-13.cbor\" document.cbor"),
    ),
    ("docs/sigv4.md", "curl -sv --aws-sigv4", RunLoosely(SIGNED)),
    ("docs/operator.md", "holdfast block --key", RunLoosely("")),
    // Not run.
    ("docs/alarms.md", "cargo run --release", Not(MEASURES)),
    ("docs/alarms.md", "holdfast-custodian alarms test", Not(ELSEWHERE)),
    ("docs/attest.md", "holdfast attest https://xks.example.com", Not(PLACEHOLDERS)),
    ("docs/attest.md", "openssl s_client", Not(PLACEHOLDERS)),
    ("docs/audit-folder.md", "holdfast audit upload", Not(SERVER)),
    ("docs/audit.md", "aws s3 sync", Not(AWS)),
    ("docs/audit.md", "cargo build --release", Not(MEASURES)),
    ("docs/custodian-database.md", "sudo -u postgres", Not(ROOT)),
    ("docs/custody.md", "holdfast manifest create", Not(MANY)),
    ("docs/custody.md", "holdfast key create ledger-2026", Not(MANY)),
    ("docs/custody.md", "holdfast unblock --store --out", Not(MANY)),
    ("docs/custody.md", "holdfast manifest succeed", Not(MANY)),
    ("docs/doctor.md", "holdfast doctor", Not(WALK)),
    ("docs/doctor.md", "aws kms create-key", Not(AWS)),
    ("docs/ec2.md", "scripts/install-prerequisites image", Not(BUILDS)),
    ("docs/ec2.md", "useradd", Not(ROOT)),
    ("docs/ec2.md", "echo '{ \"regions\"", Not(WALK)),
    ("docs/ec2.md", "mkdir -p release", Not(AWS)),
    ("docs/ec2.md", "aws", Not(AWS)),
    ("docs/ec2.md", "dnf", Not(ROOT)),
    ("docs/ec2.md", "holdfast status", Not(WALK)),
    ("docs/ec2.md", "holdfast tls install", Not(WALK)),
    ("docs/ec2.md", "holdfast kms config", Not(WALK)),
    ("docs/ec2.md", "holdfast release-policy", Not("needs the build of an image, which a test of its own has")),
    ("docs/ec2.md", "install -m 644", Not(ROOT)),
    ("docs/fuzzing.md", "rustup", Not("needs a nightly compiler")),
    ("docs/key-encryption-key.md", "apt-get", Not(ROOT)),
    ("docs/key-encryption-key.md", "bao", Not(SERVER)),
    ("docs/kms-share.md", "holdfast manifest create", Not(PLACEHOLDERS)),
    ("docs/kms-share.md", "holdfast-dev kms-share", Not(ELSEWHERE)),
    ("docs/kms.md", "holdfast-dev up --kms", Not(ELSEWHERE)),
    ("docs/kms.md", "AWS_CONFIG_FILE", Not(ELSEWHERE)),
    ("docs/kms.md", "holdfast-dev kms", Not(WALK)),
    ("docs/limits.md", "cargo run --release", Not(MEASURES)),
    ("docs/load.md", "holdfast-dev load", Not(MEASURES)),
    ("docs/load.md", "holdfast-dev capacity", Not(MEASURES)),
    ("docs/local.md", "scripts/up", Not(ELSEWHERE)),
    ("docs/operations.md", "aws kms", Not(AWS)),
    ("docs/operations.md", "holdfast audit query", Not(PLACEHOLDERS)),
    ("docs/operations.md", "holdfast manifest succeed", Not(MANY)),
    ("docs/operations.md", "holdfast-custodian init", Not(MANY)),
    ("docs/operations.md", "holdfast release-policy", Not("needs the build of an image, which a test of its own has")),
    ("docs/operations.md", "holdfast kill", Not(WALK)),
    ("docs/operations.md", "holdfast audit download", Not(SERVER)),
    ("docs/operator.md", "holdfast admin init", Not(WALK)),
    ("docs/operator.md", "holdfast manifest create", Not(WALK)),
    ("docs/operator.md", "holdfast status", Not(WALK)),
    ("docs/operator.md", "holdfast doctor", Not(WALK)),
    ("docs/operator.md", "holdfast kill", Not(WALK)),
    ("docs/operator.md", "holdfast key create ledger-2026", Not(MANY)),
    ("docs/operator.md", "holdfast unblock --store --out", Not(MANY)),
    ("docs/operator.md", "holdfast release-policy", Not(PLACEHOLDERS)),
    ("docs/performance.md", "holdfast-dev load", Not(MEASURES)),
    ("docs/performance.md", "holdfast-dev capacity", Not(MEASURES)),
    ("docs/relay.md", "cargo run --release", Not(MEASURES)),
    ("docs/reproduce.md", "git clone REPOSITORY", Not(PLACEHOLDERS)),
    ("docs/reproduce.md", "diff published-measurements.json", Not(PLACEHOLDERS)),
    ("docs/reproduce.md", "scripts/boot-test", Not("runs tests")),
    ("docs/reproduce.md", "cargo run --package holdfast-eif", Not(BUILDS)),
    ("docs/revocation.md", "cargo nextest", Not("runs a test")),
    ("docs/sigv4.md", "# sign.sh", Not(ELSEWHERE)),
    ("docs/tls.md", "curl --resolve", Not(PLACEHOLDERS)),
    (
        "docs/tls.md",
        "holdfast tls csr",
        Not("needs a public authority; tests/tests/certificates.rs has one of its own"),
    ),
    (
        "docs/tls.md",
        "holdfast tls auto --directory",
        Not("needs a public authority; tests/tests/certificates.rs has one of its own"),
    ),
    ("docs/vsock.md", "holdfast-dev vsock", Not(MACHINE)),
    ("docs/vsock.md", "qemu-system-x86_64 -M nitro-enclave", Not(MACHINE)),
    ("docs/vsock.md", "qemu-system-x86_64 -M microvm", Not(MACHINE)),
    ("docs/vsock.md", "cargo nextest", Not("runs a test")),
];

/// The page's own policy is about others; its form of cases is what is run.
const CEDAR_AND_CASES: &str = r#"echo '@id("all") permit (principal, action, resource);' > use.cedar
cat > cases.toml <<EOF
policy = "use.cedar"
[[case]]
name = "everybody encrypts"
operation = "Encrypt"
key = "payments-1"
principal = "arn:aws:iam::123456789012:role/payments-eu-writer"
kms_operation = "GenerateDataKey"
kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
expect = "permit"
rule = "all"
EOF"#;

/// A credential as `kms config` writes it, and a request's body.
const SIGNED: &str = r#"ID=$(jq -r .access_key_id .holdfast/endpoint.json)
SECRET=$(jq -r .secret_access_key .holdfast/endpoint.json)
jq '{AccessKeyId: .access_key_id, RawSecretAccessKey: .secret_access_key}' .holdfast/endpoint.json > credential.json
chmod 600 credential.json
cp .holdfast/tls/ca.pem ca.pem
echo '{"requestMetadata": {"kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae", "kmsOperation": "KmsHealthCheck"}}' > body.json"#;

/// A local system, with the folder that pages name.
struct Local {
    folder: tempfile::TempDir,
    listen: String,
    ready_listen: String,
    _up: Process,
}

impl Local {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap();
        let mut command = Command::new(program("holdfast-dev"));
        command.args(["up", "--state", ".holdfast", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
        let up = Process::start("up", &mut command, &folder.path().join("up.log"));
        let endpoint = folder.path().join(".holdfast/endpoint.json");
        until("the local system", || async { endpoint.exists().then_some(()) }).await;
        let ports = fs::read_to_string(folder.path().join(".holdfast/parent/ports.json")).unwrap();
        let ports: serde_json::Value = serde_json::from_str(&ports).unwrap();
        let address = |name: &str| ports.get(name).and_then(serde_json::Value::as_str).unwrap().to_owned();
        Self { listen: address("listen"), ready_listen: address("ready_listen"), folder, _up: up }
    }

    /// A page's text, with the names of this system.
    fn named(&self, text: &str) -> String {
        let port = self.listen.rsplit(':').next().unwrap();
        let mut named = text
            .replace("/var/lib/holdfast/audit", ".holdfast/parent/audit")
            .replace("--log AUDIT", "--log .holdfast/parent/audit")
            .replace("localhost:8443", &format!("localhost:{port}"))
            .replace("127.0.0.1:9080", &self.ready_listen)
            .replace(" /backup/", " backup/")
            // The pages mean AWS's root, which verifies nothing here.
            .replace("provenance verify", "provenance verify --trust-root .holdfast/nsm/root.pem");
        for flag in [" --watch", " --follow"] {
            // What goes on until it is ended is ended, once it has had time to begin.
            let lines = named.lines().map(|line| {
                let command = line.split(" # ").next().unwrap();
                if line.contains(flag) { format!("timeout 2 {command} || [ $? -eq 124 ]") } else { line.to_owned() }
            });
            named = lines.collect::<Vec<_>>().join("\n");
        }
        named
    }

    fn run(&self, block: &Block, before: &str, is_exact: bool) {
        let place = format!("{}:{}", block.page, block.line);
        for command in &block.commands {
            assert!(!command.text.contains('…'), "{place}: what is left out cannot be run: {}", command.text);
        }
        let texts: Vec<String> = block.commands.iter().map(|command| self.named(&command.text)).collect();
        let script = format!("set -euo pipefail\n{before}\n{}\n", texts.join("\n"));
        let own = program("holdfast");
        let folders = [own.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")];
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::join_paths(folders).unwrap())
            .env("HOME", self.folder.path())
            .env("HOLDFAST_HOME", self.folder.path().join(".holdfast/home"))
            .env("VECTORS", root().join("tests/vectors"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{place}: {}\n{script}\n{said}", output.status);
        for line in block.commands.iter().flat_map(|command| &command.printed).filter(|_| is_exact) {
            assert!(said.lines().any(|said| said == line), "{place}: the page shows {line:?}\n{said}");
        }
    }
}

#[tokio::test]
async fn what_one_machine_can_run_is_run() {
    let local = Local::start().await;
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    for (index, (.., fate)) in FATES.iter().enumerate() {
        let (before, is_exact) = match fate {
            Run(before) => (before, true),
            RunLoosely(before) => (before, false),
            Not(_) => continue,
        };
        let own = all.iter().filter(|block| fate_of(block).is_some_and(|(found, _)| found == index));
        for block in own {
            local.run(block, before, is_exact);
        }
    }
}

/// The first that fits a block, with its place.
fn fate_of(block: &Block) -> Option<(usize, &'static Fate)> {
    let fits = |(page, begins, _): &(&str, &str, Fate)| {
        let is_walked = *begins == WALKED && block.is_script;
        *page == block.page && (is_walked || block.first().starts_with(begins))
    };
    let place = FATES.iter().position(fits)?;
    FATES.get(place).map(|(.., fate)| (place, fate))
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    let mut used = BTreeSet::new();
    let mut missing = Vec::new();
    for block in &all {
        match fate_of(block) {
            Some((_, Not(""))) => panic!("{}:{}: a reason", block.page, block.line),
            Some((place, _)) => {
                used.insert(place);
            }
            None => missing.push(format!("{}:{}: {}", block.page, block.line, block.first())),
        }
    }
    assert!(missing.is_empty(), "run these, or say why not:\n{}", missing.join("\n"));
    for (place, (page, begins, _)) in FATES.iter().enumerate() {
        assert!(!begins.is_empty(), "{page}: each block is named");
        assert!(used.contains(&place), "{page} has no block that begins with {begins}");
    }
}
