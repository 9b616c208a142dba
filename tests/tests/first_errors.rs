//! The first errors that people see: mistakes that they make, and what docs/troubleshooting.md says of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use holdfast_tests::documents::root;
use holdfast_tests::programs::program;
use rustls::pki_types::PrivateKeyDer;

/// Messages that cannot be had on every machine, and where they are made.
const SHOWN_BY_UNIT_TESTS: [(&str, &str); 10] = [
    ("a port below 1024 needs the capability CAP_NET_BIND_SERVICE", "link/src/remedy.rs"),
    ("this machine has no vsock for enclaves", "link/src/remedy.rs"),
    ("by the clock here it ended", "client/src/remedy.rs"),
    ("by attested time: issue it again", "enclave/src/custody/commands.rs"),
    ("by this custodian's clock", "custodian/src/service/orders.rs"),
    ("update it first", "devkit/src/up/offer.rs"),
    ("make room: `df -h` shows which disk is full", "link/src/remedy.rs"),
    ("the resolver of this machine does not know the name", "client/src/remedy.rs"),
    ("the proxy's clock is ", "cli/src/doctor/api.rs"),
    ("another credential or region than the proxy's", "devkit/src/load/prepare.rs"),
];

/// The page's messages: what stands in code in the first column of its tables.
fn messages() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_start_matches("| `").split("` |").next().unwrap().to_owned()).collect()
}

/// Whether a text has the parts of a message in their order.
fn holds(text: &str, message: &str) -> bool {
    let mut rest = text;
    message.split('…').map(str::trim).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

fn text_of(what: &str, output: Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{what}: {said}");
    said
}

/// A folder in which mistakes are made.
struct Desk {
    folder: tempfile::TempDir,
    messages: Vec<String>,
    shown: RefCell<BTreeSet<String>>,
}

impl Desk {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Runs a program that is to fail, with a message that the page has.
    fn fails(&self, name: &str, words: &[&str], code: i32, expected: &str) {
        self.is_shown(&format!("{name} {words:?}"), self.output(name, words), code, expected);
    }

    /// Holds what was said against the message of the page that has `expected`.
    fn is_shown(&self, what: &str, output: Output, code: i32, expected: &str) {
        let said = text_of(what, output, code);
        let found = self.messages.iter().find(|message| message.contains(expected));
        let message = found.unwrap_or_else(|| panic!("the page has no message with {expected:?}"));
        assert!(holds(&said, message), "{what}\nthe page has {message}\nit says   {said}");
        self.shown.borrow_mut().insert(message.clone());
    }

    fn says(&self, name: &str, words: &[&str], code: i32) -> String {
        text_of(&format!("{name} {words:?}"), self.output(name, words), code)
    }

    fn output(&self, name: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program(name));
        command.args(words).current_dir(self.folder.path()).env_remove("HOLDFAST_HOME").stdin(Stdio::null());
        command.output().unwrap()
    }
}

fn parent(listen: &str, ready: &str, folder: &Path) -> String {
    let socket = |name: &str| format!("unix://{}/{name}.sock", folder.display());
    format!(
        "listen = \"{listen}\"\nready_listen = \"{ready}\"\nstatic_configuration = \"static.json\"\nkey_stores = \"key-stores\"\n\
         [enclave]\ningress = \"{}\"\n[control]\nlisten = \"{}\"\n[egress]\nlisten = \"{}\"\n[audit]\nlisten = \"{}\"\n\
         folder = \"audit\"\n",
        socket("ingress"),
        socket("control"),
        socket("egress"),
        socket("audit"),
    )
}

fn custodian(listen: &str) -> String {
    format!(
        "name = \"vault-1\"\nlisten = \"{listen}\"\naddress = \"localhost:{}\"\nstate = \"state\"\n",
        listen.rsplit(':').next().unwrap()
    )
}

#[tokio::test]
async fn each_mistake_is_told_as_the_page_has_it() {
    let desk = Desk { folder: tempfile::tempdir().unwrap(), messages: messages(), shown: RefCell::default() };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    parents(&desk, &address);
    custodians(&desk, &address);
    tools(&desk).await;
    desk.fails(
        "holdfast-dev",
        &["up", "--state", "up", "--listen", &address],
        1,
        "choose another address with --listen",
    );
    desk.fails("holdfast-enclave", &[], 1, "as its first process");
    desk.fails("holdfast-dev", &["load", "--endpoint", "nothing.json"], 1, "start `holdfast-dev up` first");
    prerequisites(&desk);

    let shown = desk.shown.borrow();
    for message in desk.messages.iter().filter(|message| !shown.contains(*message)) {
        let unit = SHOWN_BY_UNIT_TESTS.iter().find(|(part, _)| message.contains(part));
        let (part, file) = unit.unwrap_or_else(|| panic!("nothing shows {message}"));
        assert!(fs::read_to_string(root().join(file)).unwrap().contains(part), "{file} has no {part:?}");
    }
}

fn parents(desk: &Desk, taken: &str) {
    const FREE: &str = "127.0.0.1:0";
    let checked = ["--config", "parent.toml", "--check-config"];
    let started = ["--config", "parent.toml"];
    let text = |listen: &str, ready: &str| parent(listen, ready, desk.folder.path());
    desk.fails("holdfast-parent", &checked, 2, "configuration: cannot read");
    desk.write("parent.toml", &text(FREE, FREE));
    desk.fails("holdfast-parent", &checked, 2, "configuration: cannot read");
    desk.write("static.json", r#"{"regions": ["us-east-1"]}"#);
    desk.fails("holdfast-parent", &checked, 2, "key_stores must be a folder");
    fs::create_dir(desk.folder.path().join("key-stores")).unwrap();
    desk.write("parent.toml", &format!("ingres = 1\n{}", text(FREE, FREE)));
    desk.fails("holdfast-parent", &checked, 2, "unknown field");
    desk.write("parent.toml", &text(taken, FREE));
    desk.fails("holdfast-parent", &started, 1, "cannot listen at listen = …: Address");
    let said = desk.says("holdfast-parent", &started, 1);
    assert!(said.contains(&format!("process {}", std::process::id())), "who has the port is named: {said}");
    desk.write("parent.toml", &text(FREE, taken));
    desk.fails("holdfast-parent", &started, 1, "cannot listen at ready_listen");
    desk.write("file", "");
    desk.write("parent.toml", &text(FREE, FREE).replace("folder = \"audit\"", "folder = \"file\""));
    desk.fails("holdfast-parent", &started, 1, "audit.folder = ");
    let nitro = "[nitro]\neif = \"holdfast.eif\"\ncpu_count = 2\nmemory_mib = 1048576\ncli = \"no-nitro-cli\"\n";
    desk.write("parent.toml", &format!("{}{nitro}", text(FREE, FREE).replace(".sock", "-{cid}.sock")));
    let instance = ["--config", "parent.toml", "--check-instance"];
    for expected in ["hugepages", "CPUs", "install the package aws-nitro-enclaves-cli"] {
        desk.fails("holdfast-parent", &instance, 1, expected);
    }
}

fn custodians(desk: &Desk, taken: &str) {
    let serve = ["serve", "--config", "custodian.toml"];
    desk.fails("holdfast-custodian", &serve, 2, "holdfast config example custodian");
    desk.write("custodian.toml", &format!("{}administrators = []\n", custodian(taken)));
    desk.fails("holdfast-custodian", &serve, 1, "is not an initialised state directory");
    desk.says("holdfast-custodian", &["init", "--config", "custodian.toml"], 0);
    let listening = desk.messages.iter().filter(|message| message.contains("cannot listen at listen =")).count();
    assert_eq!(listening, 2, "the parent's, and the custodian's in the same words");
    desk.fails("holdfast-custodian", &serve, 1, "cannot listen at listen = …: Address");
    let key = desk.folder.path().join("state/signing-key.pk8");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    desk.fails("holdfast-custodian", &serve, 1, "has mode 0644");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    files_of_custodians(desk, &serve, &key);
}

/// Files that a custodian's configuration names, or that are its own.
fn files_of_custodians(desk: &Desk, serve: &[&str], key: &Path) {
    let plain = format!("{}administrators = []\n", custodian("127.0.0.1:0").replace("localhost:0", "localhost:7443"));
    let tls = "[tls]\ncertificate = \"no.pem\"\nprivate_key = \"no-key.pem\"\nroots = \"no.pem\"\n";
    let database =
        "[database]\nhost = \"/nowhere\"\nname = \"vault\"\nuser = \"vault\"\npassword_file = \"password\"\n";
    let token = "[key_encryption_key]\npkcs11 = { module = \"no.so\", token = \"a\", key = \"b\", pin_file = \"pin\", iv = \"random\" }\n";
    for (section, code, expected) in [
        (tls, 2, "tls.certificate = …: No such file"),
        (database, 2, "[database]: …: No such file"),
        // As for the keys in the state directory: who mends the file need not touch the configuration.
        (token, 1, "key_encryption_key: …: No such file"),
    ] {
        desk.write("custodian.toml", &format!("{plain}{section}"));
        desk.fails("holdfast-custodian", serve, code, expected);
    }
    desk.write("password", "secret");
    fs::set_permissions(desk.folder.path().join("password"), fs::Permissions::from_mode(0o600)).unwrap();
    desk.write("custodian.toml", &format!("{plain}{database}"));
    desk.fails("holdfast-custodian", serve, 1, "cannot connect to PostgreSQL");
    desk.write("custodian.toml", &plain);
    let kept = fs::read(key).unwrap();
    fs::write(key, "cut off").unwrap();
    desk.fails("holdfast-custodian", serve, 1, "does not hold a usable key");
    fs::write(key, kept).unwrap();
    fs::remove_file(desk.folder.path().join("state/custodian.sqlite")).unwrap();
    desk.fails("holdfast-custodian", serve, 1, "unable to open database file");

    // No file may grow, so that the first of them cannot be written.
    desk.write("custodian.toml", &plain.replace("\"state\"", "\"begun\""));
    let line = "ulimit -f 0; trap '' XFSZ; exec \"$0\" init --config custodian.toml";
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", line]).arg(program("holdfast-custodian")).current_dir(desk.folder.path()).output();
    desk.is_shown("init without room", output.unwrap(), 1, "is half made");
}

/// What the scripts say where Rust is missing, or is older than the workspace takes.
fn prerequisites(desk: &Desk) {
    let tools = desk.folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for tool in ["dirname", "sed", "cut", "sort", "head"] {
        let found =
            ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool)).into_iter().find(|path| path.exists());
        symlink(found.unwrap(), tools.join(tool)).unwrap();
    }
    let run = || {
        let mut command = Command::new("/bin/bash");
        command.arg(root().join("scripts/install-prerequisites")).env("PATH", &tools).stdin(Stdio::null());
        command.output().unwrap()
    };
    desk.is_shown("no cargo", run(), 1, "Rust is missing");
    let cargo = tools.join("cargo");
    fs::write(&cargo, "#!/bin/bash\necho 'cargo 1.63.0 (fd9c4297c 2022-07-01)'\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    desk.is_shown("an old cargo", run(), 1, "or newer is needed");
}

async fn tools(desk: &Desk) {
    desk.fails("holdfast", &["--home", "nobody", "status"], 1, "no key store is known here");
    desk.fails("holdfast", &["--home", "nobody", "admin", "show"], 1, "holds no administrator's keys");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    desk.write(
        "elsewhere.toml",
        &format!("{}administrators = []\n", custodian(&format!("127.0.0.1:{port}")).replace("\"state\"", "\"other\"")),
    );
    desk.says("holdfast-custodian", &["init", "--config", "elsewhere.toml"], 0);
    let zeros = "00".repeat(47);
    let registers =
        format!(r#"{{"pcr0": "{zeros}01", "pcr1": "{zeros}02", "pcr2": "{zeros}03", "pcr16": "{zeros}04"}}"#);
    desk.write("measurements.json", &registers);
    desk.says("holdfast", &["--home", "alice", "admin", "init", "--name", "alice"], 0);
    desk.fails("holdfast", &["manifest", "show", "other/custodian.json"], 1, "is no valid manifest");
    let unlike = "--home alice manifest create --name payments --custodian measurements.json --host-name xks.example.com \
                  --measurements measurements.json --trust-root aws --out other.manifest";
    desk.fails("holdfast", &unlike.split(' ').collect::<Vec<_>>(), 1, "expected custodian.json");
    let create = [
        "--home",
        "alice",
        "manifest",
        "create",
        "--name",
        "payments",
        "--custodian",
        "other/custodian.json",
        "--host-name",
        "xks.example.com",
        "--measurements",
        "measurements.json",
        "--trust-root",
        "aws",
        "--out",
        "payments.manifest",
    ];
    desk.says("holdfast", &create, 0);
    let status = ["--home", "alice", "status"];
    // Somebody who answers in clear text; then with a certificate of his own; then nobody.
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    for (is_clear, expected) in [(true, "does not speak TLS"), (false, "another custodian than the manifest's")] {
        let answering = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if is_clear {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
                } else {
                    let _ = acceptor.accept(stream).await;
                }
            }
        };
        let asking = tokio::task::spawn_blocking({
            let (folder, tool) = (desk.folder.path().to_owned(), program("holdfast"));
            move || ask(&folder, &tool, &status)
        });
        let said = tokio::select! {
            said = asking => said.unwrap(),
            () = answering => unreachable!("it answers until it is dropped"),
        };
        let message = desk.messages.iter().find(|message| message.contains(expected)).unwrap();
        assert!(holds(&said, message), "{message}\n{said}");
        desk.shown.borrow_mut().insert(message.clone());
    }
    drop(listener);
    desk.fails("holdfast", &status, 1, "is the custodian running");
    let (url, store) = (format!("https://localhost:{port}"), "0a".repeat(32));
    let attest = ["attest", &url, "--key-store", &store, "--measurements", "measurements.json", "--ca", "other/ca.pem"];
    desk.fails("holdfast", &attest, 1, "is the service running");
}

fn ask(folder: &Path, tool: &Path, words: &[&str]) -> String {
    let output = Command::new(tool).args(words).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}
