//! The operator's tool on logs that the real programs wrote: `audit verify` names each way in which a log can be changed, `policy
//! replay` decides on its requests anew, and `audit reconcile` holds it against CloudTrail's files.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_link::audit::split_entry;
use holdfast_shared::audit::entry::Opening;
use holdfast_shared::audit::{Checkpoint, Entry, Event, LogId, Tree};
use holdfast_shared::cbor;
use holdfast_shared::ids::BootId;
use holdfast_shared::xks::ErrorName;
use holdfast_tests::audit::{KeptLog, kept_logs};
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::{DEADLINE, until};
use http::StatusCode;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustix::process::Signal;
use serde_json::{Value, json};

const ALICE: &str = "arn:aws:iam::123456789012:role/payments/Alice";
const BOB: &str = "arn:aws:iam::123456789012:role/sandbox/Bob";
const KEY_ARN: &str = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const HOUR_MS: u64 = 3_600_000;

fn folder(system: &System) -> PathBuf {
    system.layout.path("parent/audit")
}

fn logs(system: &System) -> Vec<KeptLog> {
    let reader = system.administrator.home_folder().administrator().unwrap().encryption_key;
    kept_logs(&folder(system), system.key_store_id(), &reader)
}

async fn encrypt(system: &System, principal: &str, id: &str) -> Option<StatusCode> {
    let client = system.client();
    let metadata = json!({
        "awsPrincipalArn": principal, "kmsOperation": "Encrypt", "kmsRequestId": id, "kmsKeyArn": KEY_ARN,
    });
    let body = json!({ "requestMetadata": metadata, "plaintext": "eA==", "encryptionAlgorithm": "AES_GCM" });
    client.post(&client.path(&format!("keys/{KEY}/encrypt")), &body).await.ok().map(|answer| answer.status)
}

/// Asks until the answer is this one, each time as another call. Returns the id of the last.
async fn asked(system: &System, principal: &str, status: StatusCode) -> String {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    until(&format!("an answer {status}"), || async {
        let id = format!("call-{}", CALLS.fetch_add(1, Ordering::Relaxed));
        (encrypt(system, principal, &id).await == Some(status)).then_some(id)
    })
    .await
}

/// Waits until requests with these ids are on the parent's disk.
async fn until_kept(system: &System, ids: &[String]) {
    until("requests are in the log", || async {
        let logs = logs(system);
        let kept: BTreeSet<&str> =
            logs.iter().flat_map(KeptLog::requests).filter_map(|request| request.kms_request_id.as_deref()).collect();
        ids.iter().all(|id| kept.contains(id.as_str())).then_some(())
    })
    .await;
}

/// A copy of the parent's folder, to be changed.
struct Copy {
    place: tempfile::TempDir,
    id: LogId,
}

impl Copy {
    fn of(system: &System, boot_id: BootId) -> Self {
        let copy =
            Self { place: tempfile::tempdir().unwrap(), id: LogId { key_store_id: system.key_store_id(), boot_id } };
        copy_all(&folder(system), copy.place.path());
        copy
    }

    fn boot(&self, boot: BootId) -> PathBuf {
        self.place.path().join(self.id.key_store_id.to_string()).join(boot.to_string())
    }

    fn log(&self) -> PathBuf {
        self.boot(self.id.boot_id).join("0000000000000000.log")
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(self.log()).unwrap();
        let (mut rest, mut entries) = (bytes.as_slice(), Vec::new());
        while let Some((entry, after)) = split_entry(rest) {
            entries.push(entry.to_vec());
            rest = after;
        }
        assert!(rest.is_empty(), "a boot that has ended leaves whole entries");
        entries
    }

    fn write(&self, entries: &[Vec<u8>]) {
        let framed = |entry: &Vec<u8>| [&u32::try_from(entry.len()).unwrap().to_be_bytes(), &entry[..]].concat();
        std::fs::write(self.log(), entries.iter().flat_map(framed).collect::<Vec<u8>>()).unwrap();
    }

    /// Where two records follow each other, half-way.
    fn middle(&self) -> usize {
        let entries = self.entries();
        let is_record = |at: usize| matches!(cbor::decode::<Entry>(&entries[at]), Ok(Entry::Sealed(_)));
        (entries.len() / 2..entries.len() - 1).find(|at| is_record(*at) && is_record(at + 1)).unwrap()
    }

    fn notes(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.boot(self.id.boot_id).join("checkpoints")).unwrap();
        let parts: Vec<_> = text.split("\n\n").filter(|part| !part.is_empty()).collect();
        parts.chunks_exact(2).map(|note| format!("{}\n\n{}\n", note[0], note[1])).collect()
    }

    fn write_notes(&self, notes: &[String]) {
        let text: String = notes.iter().flat_map(|note| [note.as_str(), "\n"]).collect();
        std::fs::write(self.boot(self.id.boot_id).join("checkpoints"), text).unwrap();
    }

    /// The kinds of findings, with the exit code checked against them.
    fn verified(&self, system: &System, heads: &Path) -> Vec<String> {
        let (log, heads) = (self.place.path().to_str().unwrap(), heads.to_str().unwrap());
        let said = system.administrator.holdfast(&["audit", "verify", "--log", log, "--heads", heads, "--json"]);
        let shown = said.shown();
        let findings = shown["findings"].as_array().unwrap();
        assert_eq!(said.code(), Some(i32::from(!findings.is_empty())), "{shown:#}");
        findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, place) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            copy_all(&entry, &place);
        } else {
            std::fs::copy(entry, place).unwrap();
        }
    }
}

/// What custodians say, as the tool writes it into a file.
fn heads(system: &System, name: &str) -> PathBuf {
    let path = system.layout.path(name);
    system.administrator.holdfast(&["audit", "heads", "--out", path.to_str().unwrap()]).success();
    path
}

/// As it will be once the leases of boots that broke off have ended; or once no custodian is asked.
fn change_heads(path: &Path, change: impl Fn(&mut Value)) {
    let mut heads: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut heads);
    std::fs::write(path, heads.to_string()).unwrap();
}

/// Two histories of one boot. No honest enclave signs them: here the test's own key stands in the opening, in place of the boot's.
fn fork(copy: &Copy) {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let mut entries = copy.entries();
    let Ok(Entry::Opening(opening)) = cbor::decode(&entries[0]) else { panic!("a log begins with its opening") };
    let audit_public_key = key.public_key().as_ref().try_into().unwrap();
    entries[0] = cbor::encode(&Entry::Opening(Opening { audit_public_key, ..opening })).to_vec();
    copy.write(&entries);
    let sign = |entries: &[Vec<u8>]| {
        let mut tree = Tree::default();
        for entry in entries {
            tree.append(entry);
        }
        Checkpoint { log: copy.id, size: tree.size(), root: tree.root(), time_ms: 1, closed: true }.sign(&key)
    };
    let mut other = entries.clone();
    let at = copy.middle();
    other.swap(at, at + 1);
    copy.write_notes(&[sign(&entries), sign(&other)]);
}

/// What is done to a log, and the findings.
type Case = (&'static str, fn(&Copy), &'static [&'static str]);

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_was_done_to_a_log_of_the_real_programs() {
    let mut system = System::start(Options { drain_timeout_ms: 30_000, ..Options::default() }).await;
    for _ in 0..20 {
        asked(&system, ALICE, StatusCode::OK).await;
    }
    // A checkpoint that is not the last: the parent keeps one each minute, and the closing one.
    until("a first checkpoint", || async { logs(&system).first()?.head }).await;
    asked(&system, ALICE, StatusCode::OK).await;
    let mut parent = system.parent.take().unwrap();
    parent.signal(Signal::TERM);
    assert!(parent.wait(DEADLINE).is_some_and(|status| status.success()), "{}", parent.log());
    let first = logs(&system)[0].id.boot_id;
    let closed = heads(&system, "closed.json");
    // As it will be once the boot's lease has ended: what is cut off is no log that still grows.
    let ended = heads(&system, "ended.json");
    change_heads(&ended, |heads| heads["custodians"][0]["running"] = json!([]));
    let nobody = heads(&system, "nobody.json");
    change_heads(&nobody, |heads| heads["custodians"] = json!([]));

    assert_eq!(Copy::of(&system, first).verified(&system, &closed), [""; 0], "as it was written");
    let table: [Case; 6] = [
        (
            "dropped",
            |copy| {
                let (mut entries, at) = (copy.entries(), copy.middle());
                entries.remove(at);
                copy.write(&entries);
            },
            &["dropped"],
        ),
        (
            "reordered",
            |copy| {
                let (mut entries, at) = (copy.entries(), copy.middle());
                entries.swap(at, at + 1);
                copy.write(&entries);
            },
            &["reordered", "reordered"],
        ),
        (
            "altered",
            |copy| {
                let (mut entries, at) = (copy.entries(), copy.middle());
                *entries[at].last_mut().unwrap() ^= 1;
                copy.write(&entries);
            },
            &["altered"],
        ),
        (
            "truncated",
            |copy| {
                let entries = copy.entries();
                copy.write(&entries[..entries.len() - 2]);
            },
            &["truncated", "unclosed"],
        ),
        (
            "replayed",
            |copy| {
                let note = copy.notes().remove(0);
                let size = usize::try_from(Checkpoint::parse(&note).unwrap().size).unwrap();
                copy.write(&copy.entries()[..size]);
                copy.write_notes(&[note]);
            },
            &["replayed", "unclosed"],
        ),
        ("missing", |copy| std::fs::remove_dir_all(copy.boot(copy.id.boot_id)).unwrap(), &["missing-boot"]),
    ];
    for (what, change, expected) in table {
        let copy = Copy::of(&system, first);
        change(&copy);
        assert_eq!(copy.verified(&system, &ended), expected, "{what}");
    }
    let forked = Copy::of(&system, first);
    fork(&forked);
    let found = forked.verified(&system, &nobody);
    assert!(found.contains(&"forked".to_owned()), "{found:?}");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_a_boot_that_was_killed_and_one_in_the_place_of_another() {
    let mut system = System::start(Options { drain_timeout_ms: 30_000, ..Options::default() }).await;
    asked(&system, ALICE, StatusCode::OK).await;
    let mut parent = system.parent.take().unwrap();
    parent.signal(Signal::TERM);
    assert!(parent.wait(DEADLINE).is_some_and(|status| status.success()), "{}", parent.log());
    let first = logs(&system)[0].id.boot_id;

    // A second boot, which is killed.
    system.start_parent().await;
    system.start_enclave().await;
    system.serving().await;
    let id = asked(&system, ALICE, StatusCode::OK).await;
    until_kept(&system, &[id]).await;
    let second = logs(&system).iter().map(|log| log.id.boot_id).find(|boot| *boot != first).unwrap();
    until("the second boot has a checkpoint", || async {
        logs(&system).into_iter().find(|log| log.id.boot_id == second)?.head
    })
    .await;
    system.kill_enclave().await;
    let broken = heads(&system, "broken.json");
    change_heads(&broken, |heads| heads["custodians"][0]["running"] = json!([]));
    let copy = Copy::of(&system, second);
    assert_eq!(copy.verified(&system, &broken), ["unclosed"]);
    let mixed = Copy::of(&system, first);
    std::fs::remove_dir_all(mixed.boot(first)).unwrap();
    copy_all(&copy.boot(second), &mixed.boot(first));
    let found: BTreeSet<String> = mixed.verified(&system, &broken).into_iter().collect();
    assert!(found.contains("mixed-up") && found.contains("unclosed"), "{found:?}");
    system.assert_no_panic();
}

/// CloudTrail's event of a recorded request.
fn event(log: &KeptLog, at: usize) -> Option<Value> {
    let record = &log.records[at];
    let Event::Request(request) = &record.what else { return None };
    let name = request.kms_operation.as_deref().filter(|name| *name != "KmsHealthCheck")?;
    Some(json!({
        "eventTime": time(record.at_ms),
        "eventSource": "kms.amazonaws.com",
        "eventName": name,
        "awsRegion": "us-east-1",
        "errorCode": request.error.map(|_| "KMSInvalidStateException"),
        "userIdentity": { "type": "AssumedRole", "arn": request.principal },
        "requestParameters": null,
        "additionalEventData": { "customKeyStoreId": "cks-1", "xksKeyId": request.key.as_ref().map(ToString::to_string) },
        "resources": request.kms_key_arn.iter().map(|arn| json!({ "ARN": arn })).collect::<Vec<_>>(),
        "requestID": request.kms_request_id,
    }))
}

/// In seconds, as CloudTrail has it.
fn time(at_ms: u64) -> String {
    holdfast_cli::moment::format_ms(at_ms / 1000 * 1000)
}

/// Writes events as AWS delivers them, one half compressed; with events of another service an hour before and after.
fn write_trail(folder: &Path, events: &[Value], at_ms: u64) {
    let day = folder.join("AWSLogs/123456789012/CloudTrail/us-east-1/2026/01/01");
    std::fs::create_dir_all(&day).unwrap();
    let other =
        |at_ms: u64| json!({ "eventTime": time(at_ms), "eventSource": "s3.amazonaws.com", "awsRegion": "us-east-1" });
    let (one, two) = events.split_at(events.len() / 2);
    let one = [one, &[other(at_ms - HOUR_MS), other(at_ms + HOUR_MS)]].concat();
    std::fs::write(day.join("plain.json"), json!({ "Records": one }).to_string()).unwrap();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(json!({ "Records": two }).to_string().as_bytes()).unwrap();
    std::fs::write(day.join("compressed.json.gz"), encoder.finish().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_the_real_programs_is_replayed_and_reconciled() {
    let system = System::start(Options::default()).await;
    for _ in 0..3 {
        asked(&system, BOB, StatusCode::OK).await;
    }
    let answered = asked(&system, ALICE, StatusCode::OK).await;
    system.order(&["policy", "set", "--preset", "account-only", "--account", "999999999999"]);
    let refused = asked(&system, ALICE, StatusCode::FORBIDDEN).await;
    until_kept(&system, &[answered.clone(), refused.clone()]).await;
    replays(&system);
    reconciles(&system, &answered, &refused);
    system.assert_no_panic();
}

fn replays(system: &System) {
    let place = tempfile::tempdir().unwrap();
    let policy = place.path().join("next.cedar");
    let log = folder(system).display().to_string();
    let replay = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        system.administrator.holdfast(&[
            "policy",
            "replay",
            "--policy",
            policy.to_str().unwrap(),
            "--log",
            &log,
            "--json",
        ])
    };
    let logs = logs(system);
    let count = |principal: &str, error: Option<ErrorName>| {
        let requests = logs.iter().flat_map(KeptLog::requests);
        requests.filter(|it| it.principal.as_deref() == Some(principal) && it.error == error).count()
    };
    let (bobs, alices) = (count(BOB, None), count(ALICE, Some(ErrorName::AccessDeniedException)));
    assert!(bobs >= 3 && alices >= 1);

    let said = replay(
        "@id(\"all\") permit (principal, action, resource);\n@id(\"no-sandbox\") forbid (principal, action, resource)\nwhen { \
         principal has path && principal.path == \"/sandbox/\" };",
    );
    let shown = said.shown();
    assert_eq!(said.code(), Some(1), "{shown:#}");
    assert_eq!((&shown["would_be_refused"], &shown["would_be_permitted"]), (&json!(bobs), &json!(alices)), "{shown:#}");
    let group = &shown["groups"][0];
    assert_eq!((&group["rule"], &group["principal"]), (&json!("no-sandbox"), &json!(BOB)));
    assert!(group["examples"][0]["kms_request_id"].as_str().unwrap().starts_with("call-"));
    assert_eq!(shown["log"]["findings"], json!([]));

    let said = replay("permit (principal, action, resource) when { context.kmsOperation == \"nothing\" };");
    assert_eq!((said.code(), &said.shown()["would_be_permitted"]), (Some(1), &json!(0)));
    let until = holdfast_cli::moment::format_ms(0);
    let arguments =
        ["policy", "replay", "--policy", policy.to_str().unwrap(), "--log", &log, "--until", &until, "--json"];
    let none = system.administrator.holdfast(&arguments);
    assert_eq!((none.code(), &none.shown()["decided"]), (Some(0), &json!(0)), "nothing was recorded then");
    let bad = replay("permit (principal, action, resource) when { context.nothing };");
    assert_eq!(bad.code(), Some(2), "{}", bad.complaint());
}

fn reconciles(system: &System, known: &str, refused: &str) {
    let logs = logs(system);
    let [log] = &logs[..] else { panic!("{} logs", logs.len()) };
    let events: Vec<Value> = (0..log.records.len()).filter_map(|at| event(log, at)).collect();
    let at_ms = log.records.last().unwrap().at_ms;
    let place = |id: &str| events.iter().position(|event| event["requestID"] == id).unwrap();
    let reconcile = |events: &[Value]| {
        let trail = tempfile::tempdir().unwrap();
        write_trail(trail.path(), events, at_ms);
        let (trail, log) = (trail.path().to_str().unwrap().to_owned(), folder(system).display().to_string());
        // Health checks and what is answered meanwhile come after.
        let until = (at_ms + 1).to_string();
        let arguments = ["audit", "reconcile", "--cloudtrail", &trail, "--log", &log, "--until", &until, "--json"];
        let said = system.administrator.holdfast(&arguments);
        let shown = said.shown();
        assert_eq!(said.code(), Some(i32::from(shown["reconciled"] != json!(true))), "{shown:#}");
        shown
    };
    let shown = reconcile(&events);
    assert_eq!((&shown["reconciled"], &shown["totals"]), (&json!(true), &json!({})), "{shown:#}");
    assert_eq!(shown["cloudtrail"]["calls"]["cks-1"], json!(distinct(&events)), "{shown:#}");

    let mut fewer = events.clone();
    fewer.remove(place(known));
    assert_eq!(named(&reconcile(&fewer)), [("unknown-call".to_owned(), known.to_owned())]);

    let mut more = events.clone();
    let mut invented = events[place(known)].clone();
    invented["requestID"] = json!("nobody-saw-it");
    more.push(invented);
    let mut answered = events[place(refused)].clone();
    answered["errorCode"] = Value::Null;
    more[place(refused)] = answered;
    let found: BTreeSet<_> = named(&reconcile(&more)).into_iter().collect();
    let impostor = |id: &str| ("impostor".to_owned(), id.to_owned());
    assert_eq!(found, BTreeSet::from([impostor("nobody-saw-it"), impostor(refused)]));

    for (path, value) in [
        ("/eventName", json!("Decrypt")),
        ("/userIdentity/arn", json!(BOB)),
        ("/resources/0/ARN", json!(KEY_ARN.replace("1234abcd", "00000000"))),
        ("/awsRegion", json!("eu-central-1")),
    ] {
        let mut changed = events.clone();
        *changed[place(known)].pointer_mut(path).unwrap() = value;
        assert_eq!(named(&reconcile(&changed)), [("mismatch".to_owned(), known.to_owned())], "{path}");
    }
    let shown = reconcile(&[]);
    assert_eq!(shown["reconciled"], json!(false), "{shown:#}");
}

/// Retries have one id.
fn distinct(events: &[Value]) -> usize {
    events.iter().map(|event| event["requestID"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
}

fn named(shown: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = shown["findings"].as_array().unwrap();
    findings.iter().map(|finding| (text(&finding["kind"]), text(&finding["kms_request_id"]))).collect()
}
