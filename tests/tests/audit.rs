//! The audit log across processes: every request that was answered is in it, whoever is killed; where it cannot be kept or has no
//! witness, nothing is answered.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_cli::session::{Session, Wait};
use holdfast_shared::audit::{AuditMode, AuditSettings, Checkpoint, Entry, Event, MaxUnwitnessed};
use holdfast_shared::command::Action;
use holdfast_shared::query::{Answer, AuditHead, Question};
use holdfast_tests::audit::{KeptLog, kept_logs};
use holdfast_tests::system::{Caller, KEY, Options, System};
use holdfast_tests::tap::{self, Direction, Fault, Tap};
use holdfast_tests::wait::{DEADLINE, until};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::json;

/// Time enough for the enclave to tell the ends of its logs.
fn options() -> Options {
    Options { drain_timeout_ms: 30_000, ..Options::default() }
}

fn logs(system: &System) -> Vec<KeptLog> {
    let reader = system.administrator.home_folder().administrator().unwrap().encryption_key;
    kept_logs(&folder(system), system.key_store_id(), &reader)
}

fn folder(system: &System) -> PathBuf {
    system.layout.path("parent/audit")
}

async fn set(system: &System, settings: AuditSettings) {
    let session = Session::open(&system.administrator.home_folder(), None).unwrap();
    session.order(Action::SetAudit { settings: Some(settings.clone()) }, Wait::silent(DEADLINE)).await.unwrap();
    until("the settings are in force", || async {
        let told = |log: &KeptLog| {
            log.records.iter().any(|record| match &record.what {
                Event::Setting { settings: Some(told) } => *told == settings,
                _ => false,
            })
        };
        logs(system).iter().any(told).then_some(())
    })
    .await;
}

/// The heads that the home custodian hands out, each verified by the key with it.
async fn witnessed(system: &System) -> Vec<Checkpoint> {
    let session = Session::open(&system.administrator.home_folder(), None).unwrap();
    match session.home_contact().unwrap().ask(Question::AuditHeads(None)).await.unwrap() {
        Answer::AuditHeads(heads) => {
            assert!(heads.iter().all(|head| head.contradiction.is_none()), "no fork");
            let text = |head: &AuditHead| String::from_utf8(head.checkpoint.clone()).unwrap();
            heads.iter().map(|head| Checkpoint::verify(&text(head), &head.audit_public_key).unwrap()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn strict() -> AuditSettings {
    AuditSettings { mode: AuditMode::Strict, ..AuditSettings::default() }
}

/// Sends one request with this id; whether it was answered with success.
async fn ask(caller: &Caller, id: &str) -> Option<StatusCode> {
    let client = caller.client();
    let metadata = json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1",
        "kmsOperation": "Encrypt",
        "kmsRequestId": id,
    });
    let body = json!({ "requestMetadata": metadata, "plaintext": "eA==", "encryptionAlgorithm": "AES_GCM" });
    let path = client.path(&format!("keys/{KEY}/encrypt"));
    let asked = client.post(&path, &body);
    tokio::time::timeout(Duration::from_secs(10), asked).await.ok()?.ok().map(|answer| answer.status)
}

/// Sends requests with this id until one is answered: on a slow machine, a disk or a witness may take longer than the enclave waits.
async fn answered(caller: &Caller, id: &str) {
    until(&format!("{id} is answered"), || async { (ask(caller, id).await == Some(StatusCode::OK)).then_some(()) })
        .await;
}

/// Clients that go on asking, whatever happens, and remember what was answered.
struct Clients {
    answered: Arc<Mutex<BTreeSet<String>>>,
    end: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    fn start(caller: &Arc<Mutex<Caller>>) -> Self {
        let (answered, end) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<AtomicBool>::default());
        let client = |number: usize| {
            let (caller, answered, end) = (Arc::clone(caller), Arc::clone(&answered), Arc::clone(&end));
            tokio::spawn(async move {
                for round in 0.. {
                    if end.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = format!("client-{number}-{round}");
                    let caller = caller.lock().unwrap().clone();
                    match ask(&caller, &id).await {
                        Some(StatusCode::OK) => drop(answered.lock().unwrap().insert(id)),
                        // Nobody is there at the moment.
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            })
        };
        let tasks = (0..3).map(client).collect();
        Self { answered, end, tasks }
    }

    /// Waits until more requests were answered.
    async fn go_on(&self, more: usize) {
        let wanted = self.answered.lock().unwrap().len() + more;
        until("requests are answered", || async { (self.answered.lock().unwrap().len() >= wanted).then_some(()) })
            .await;
    }

    async fn finish(self) -> BTreeSet<String> {
        self.end.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.lock().unwrap().clone()
    }
}

/// The parent is told to end, and everything with it.
fn end_in_order(system: &mut System) {
    let mut parent = system.parent.take().unwrap();
    parent.signal(Signal::TERM);
    assert!(parent.wait(DEADLINE).is_some_and(|status| status.success()), "{}", parent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_in_the_log_which_ends_in_order() {
    let mut system = System::start(options()).await;
    let caller = system.caller();
    let mut asked = BTreeSet::new();
    for number in 0..100 {
        let id = format!("request-{number}");
        assert_eq!(ask(&caller, &id).await, Some(StatusCode::OK));
        asked.insert(id);
    }
    until("a missing key is refused", || async {
        let missing = system.client().metadata("missing").await.ok()?;
        (missing.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    end_in_order(&mut system);

    let logs = logs(&system);
    let [log] = &logs[..] else { panic!("{} logs", logs.len()) };
    let recorded: Vec<_> = log.answered().filter(|id| id.starts_with("request-")).map(str::to_owned).collect();
    assert_eq!(recorded.len(), asked.len(), "each once");
    assert_eq!(recorded.into_iter().collect::<BTreeSet<_>>(), asked);
    assert!(log.requests().any(|request| request.key.as_ref().is_some_and(|key| key.as_str() == "missing")));
    let happened = |test: fn(&Event) -> bool| log.records.iter().any(|record| test(&record.what));
    assert!(happened(|what| matches!(what, Event::Version { version: 1, .. })));
    assert!(happened(|what| matches!(what, Event::Version { commands, .. } if !commands.is_empty())));
    assert!(happened(|what| matches!(what, Event::Lease { granted: true, .. })));

    // Closed, and nothing came after.
    assert_eq!(log.entries.last(), Some(&Entry::Closing));
    let head = log.head.unwrap();
    assert_eq!((head.closed, head.size), (true, u64::try_from(log.entries.len()).unwrap()));
    until("the custodian knows the end", || async { (witnessed(&system).await == [head]).then_some(()) }).await;
    let folder = folder(&system).display().to_string();
    system.administrator.holdfast(&["audit", "verify", "--log", &folder]).success();
    system.assert_no_panic();
}

/// What was answered in mode strict is on the parent's disk at that moment, whoever dies in the next.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_strict_nothing_that_was_answered_is_lost() {
    let mut system = System::start(options()).await;
    set(&system, strict()).await;
    let caller = Arc::new(Mutex::new(system.caller()));
    let clients = Clients::start(&caller);
    clients.go_on(30).await;

    // The parent, and with it what it was writing.
    system.parent.take().unwrap().kill();
    system.start_parent().await;
    *caller.lock().unwrap() = system.caller();
    clients.go_on(30).await;

    // The enclave, and with it what it had not sent. The next boot has the settings of the version.
    for _ in 0..2 {
        system.kill_enclave().await;
        system.start_enclave().await;
        clients.go_on(30).await;
    }

    // The custodian.
    system.custodian.kill();
    clients.go_on(30).await;
    system.custodian.start().await;
    clients.go_on(30).await;

    // Enclave and parent at once.
    system.parent.take().unwrap().kill();
    system.kill_enclave().await;
    system.start_parent().await;
    *caller.lock().unwrap() = system.caller();
    system.start_enclave().await;
    clients.go_on(30).await;

    let answered = clients.finish().await;
    let logs = logs(&system);
    let recorded: BTreeSet<String> = logs.iter().flat_map(KeptLog::answered).map(str::to_owned).collect();
    let lost: Vec<_> = answered.difference(&recorded).collect();
    assert!(lost.is_empty(), "{lost:?} of {} were answered and are not in the logs", answered.len());
    assert_eq!(logs.len(), 4, "one for each boot");
    system.assert_no_panic();
}

/// In mode relaxed the enclave keeps what a parent did not store, and sends it to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_relaxed_a_killed_parent_costs_nothing() {
    let mut system = System::start(options()).await;
    let caller = Arc::new(Mutex::new(system.caller()));
    let clients = Clients::start(&caller);
    for _ in 0..3 {
        clients.go_on(30).await;
        system.parent.take().unwrap().kill();
        system.start_parent().await;
        *caller.lock().unwrap() = system.caller();
    }
    clients.go_on(30).await;
    let answered = clients.finish().await;
    // A parent that no enclave has come back to has nobody to wait for.
    system.reports("Serving", "").await;
    end_in_order(&mut system);
    let logs = logs(&system);
    let recorded: BTreeSet<String> = logs.iter().flat_map(KeptLog::answered).map(str::to_owned).collect();
    assert!(answered.is_subset(&recorded), "{:?}", answered.difference(&recorded).collect::<Vec<_>>());
    assert_eq!(logs.len(), 1, "one boot");
    assert!(logs[0].head.unwrap().closed);
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_witness_the_service_stops_and_comes_back_with_one() {
    let mut system = System::start(options()).await;
    set(
        &system,
        AuditSettings { max_unwitnessed: MaxUnwitnessed { seconds: 10, records: 1_000 }, ..AuditSettings::default() },
    )
    .await;
    system.serving().await;
    system.custodian.kill();
    until("nothing is answered", || async {
        (ask(&system.caller(), "unseen").await == Some(StatusCode::SERVICE_UNAVAILABLE)).then_some(())
    })
    .await;
    system.logged("parent", "too much of the audit log has no witness").await;
    system.custodian.start().await;
    system.serving().await;
    answered(&system.caller(), "seen").await;
    system.assert_no_panic();
}

/// A place for the log that takes nothing: a file where the folder should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_stops_the_service_and_it_comes_back() {
    let system = System::start(options()).await;
    set(&system, strict()).await;
    answered(&system.caller(), "before").await;
    let place = folder(&system).join(system.key_store_id().to_string());
    let aside = place.with_extension("aside");
    std::fs::rename(&place, &aside).unwrap();
    std::fs::write(&place, b"").unwrap();
    until("nothing is answered", || async {
        (ask(&system.caller(), "while").await == Some(StatusCode::SERVICE_UNAVAILABLE)).then_some(())
    })
    .await;
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    system.serving().await;
    answered(&system.caller(), "after").await;
    until("all is stored", || async {
        let logs = logs(&system);
        let answered: Vec<&str> = logs.iter().flat_map(KeptLog::answered).collect();
        (answered.contains(&"before") && answered.contains(&"after")).then_some(())
    })
    .await;
    system.assert_no_panic();
}

/// A key store that leaves and comes back has one log in a boot.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_store_that_comes_back_goes_on_in_its_log() {
    let mut system = System::start(options()).await;
    answered(&system.caller(), "first").await;
    let place = system.layout.path("parent/key-stores/store.manifest");
    let manifest = std::fs::read(&place).unwrap();
    std::fs::remove_file(&place).unwrap();
    until("it is gone", || async {
        ask(&system.caller(), "none").await.is_none_or(|s| s != StatusCode::OK).then_some(())
    })
    .await;
    std::fs::write(place.with_extension("tmp"), manifest).unwrap();
    std::fs::rename(place.with_extension("tmp"), &place).unwrap();
    system.serving().await;
    answered(&system.caller(), "second").await;
    end_in_order(&mut system);
    let logs = logs(&system);
    let [log] = &logs[..] else { panic!("{} logs", logs.len()) };
    let answered: BTreeSet<_> = log.answered().collect();
    assert!(answered.contains("first") && answered.contains("second"));
    let segments = log.entries.iter().filter(|entry| matches!(entry, Entry::Segment(_))).count();
    assert_eq!(segments, 2);
    assert!(log.head.unwrap().closed);
    system.assert_no_panic();
}

/// A new boot says how far the one before had come, by its custodian's word.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_names_those_before_it() {
    let mut system = System::start(options()).await;
    let boots = |system: &System| logs(system).iter().map(|log| log.id.boot_id).collect::<BTreeSet<_>>();
    let first = boots(&system);
    until("the custodian is a witness", || async {
        let witnessed = witnessed(&system).await;
        witnessed.iter().any(|head| first.contains(&head.log.boot_id)).then_some(())
    })
    .await;
    system.start_enclave().await;
    system.serving().await;
    let second = until("the second boot's log", || async {
        // Its folder is there before its first entry.
        logs(&system).into_iter().find(|log| !first.contains(&log.id.boot_id) && !log.entries.is_empty())
    })
    .await;
    assert_eq!(second.previous(), first);
    system.assert_no_panic();
}

fn tapped() -> Options {
    Options { taps: true, ..options() }
}

fn audit_tap(system: &System) -> &Tap {
    &system.taps.as_ref().unwrap().audit
}

/// On every connection from now on; those that there are end.
fn spoil(system: &System, direction: Direction, offset: usize, action: tap::Action) {
    audit_tap(system).set_plan(vec![Fault { connection: None, direction, offset, action }]);
    audit_tap(system).cut();
}

fn heal(system: &System) {
    audit_tap(system).set_plan(Vec::new());
    audit_tap(system).cut();
}

/// What the parent would say if all below an index were on its disk: length, kind, key store, index.
fn durable(system: &System, next_index: u64) -> Vec<u8> {
    let id = system.key_store_id();
    [&[0, 0, 0, 41, 5], id.as_bytes().as_slice(), &next_index.to_be_bytes()].concat()
}

/// A parent that drops or reorders what it gets, or that says more than is true, gains nothing: the enclave sends again
/// what was not stored, and the log is whole when the parent is honest again.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_parent_does_to_the_connection_the_log_is_whole_afterwards() {
    let mut system = System::start(tapped()).await;
    let caller = system.caller();
    let mut asked = BTreeSet::new();
    // Behind the hello and the opening, which have 21 and 45 bytes.
    let plans = [
        (Direction::ToServer, 70, tap::Action::Drop),
        (Direction::ToServer, 300, tap::Action::Drop),
        (Direction::ToServer, 66, tap::Action::Swap(120)),
        (Direction::ToServer, 66, tap::Action::FlipBit(7)),
        (Direction::ToServer, 66, tap::Action::Replay(0)),
        (Direction::ToClient, 0, tap::Action::Insert(durable(&system, u64::MAX))),
        (Direction::ToClient, 45, tap::Action::Insert(durable(&system, 1_000_000))),
        (Direction::ToClient, 45, tap::Action::Drop),
        (Direction::ToClient, 0, tap::Action::Truncate),
    ];
    for (number, (direction, offset, action)) in plans.into_iter().enumerate() {
        spoil(&system, direction, offset, action);
        for round in 0..3 {
            let id = format!("plan-{number}-{round}");
            assert_eq!(ask(&caller, &id).await, Some(StatusCode::OK), "in mode relaxed nobody waits");
            asked.insert(id);
        }
    }
    heal(&system);
    until("all is stored", || async {
        let logs = logs(&system);
        let answered: BTreeSet<&str> = logs.iter().flat_map(KeptLog::answered).collect();
        asked.iter().all(|id| answered.contains(id.as_str())).then_some(())
    })
    .await;
    end_in_order(&mut system);
    let folder = folder(&system).display().to_string();
    system.administrator.holdfast(&["audit", "verify", "--log", &folder]).success();
    system.assert_no_panic();
}

/// In mode strict a parent that answers nothing, or says that it has what it was never sent, has nothing answered.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_strict_a_silent_or_lying_parent_stops_the_service() {
    let system = System::start(tapped()).await;
    set(&system, strict()).await;
    let caller = system.caller();
    assert_eq!(ask(&caller, "before").await, Some(StatusCode::OK));
    let silences = [
        tap::Action::Hold(Duration::from_mins(10)),
        tap::Action::Insert(durable(&system, u64::MAX)),
        tap::Action::Insert(durable(&system, 1_000_000)),
        tap::Action::Truncate,
    ];
    for silence in silences {
        spoil(&system, Direction::ToClient, 0, silence);
        for _ in 0..2 {
            assert_eq!(ask(&caller, "while").await, Some(StatusCode::SERVICE_UNAVAILABLE));
        }
        heal(&system);
        until("it is answered again", || async { (ask(&caller, "after").await == Some(StatusCode::OK)).then_some(()) })
            .await;
    }
    system.assert_no_panic();
}
