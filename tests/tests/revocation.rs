//! How fast and how surely a block bites: several enclaves under load, wires that are cut, answers that are held back and played
//! again. `docs/revocation.md` tells what comes of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_shared::api::{BLOCKS, CHANNEL, RELEASE};
use holdfast_tests::interceptor::{Deed, Half, Interceptor, Rule};
use holdfast_tests::system::{AAD, Caller, Front, Host, KEY, Options, System};
use holdfast_tests::wait::until;
use holdfast_tests::witness::{Seen, Witnesses};
use http::StatusCode;
use serde_json::json;

const KEYS: [(&str, &str); 3] = [(KEY, "encrypt,decrypt"), ("second", "encrypt,decrypt"), ("third", "encrypt,decrypt")];
/// What is blocked in the benchmark.
const SCOPES: [(&str, &[&str]); 3] = [
    ("one key", &["--key", KEY]),
    ("all three keys", &["--key", KEY, "--key", "second", "--key", "third"]),
    ("the key store", &["--store"]),
];

fn interceptor(system: &System) -> &Interceptor {
    match &system.custodian.front {
        Front::Interceptor(interceptor) => interceptor,
        Front::Tap(_) => panic!("no interceptor"),
    }
}

/// A system with so many enclaves, each with a parent of its own, and how to call each of them.
async fn fleet(enclaves: usize, options: Options) -> (System, Vec<Host>, Vec<Caller>) {
    let mut system = System::start(options).await;
    let mut hosts = Vec::new();
    for _ in 1..enclaves {
        hosts.push(system.add_host().await);
    }
    let further = hosts.iter().map(|host| host.caller(&system));
    let callers: Vec<_> = std::iter::once(system.caller()).chain(further).collect();
    for caller in &callers {
        caller.serving().await;
    }
    (system, hosts, callers)
}

fn order(system: &System, verb: &str, scope: &[&str]) {
    system.order(&[&[verb], scope].concat());
}

/// From an acknowledgement to the last 200 that any client was given, in milliseconds; below zero if that came first.
fn after(acknowledged: Instant, last: Instant) -> f64 {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    match last.checked_duration_since(acknowledged) {
        Some(later) => ms(later),
        None => -ms(acknowledged.duration_since(last)),
    }
}

/// Fails if a client that was refused once was served by a later request of its own.
fn assert_no_way_back(seen: &[Seen]) {
    for refused in seen.iter().filter(|seen| !seen.is_served()) {
        let served =
            seen.iter().find(|seen| seen.client == refused.client && seen.asked > refused.answered && seen.is_served());
        assert!(served.is_none(), "served after a refusal: {refused:?}, {served:?}");
    }
}

/// One block, seen from its acknowledgements: the custodian's, and the tool's return.
struct Bite {
    custodian_ms: f64,
    tool_ms: f64,
}

async fn bite(system: &System, witnesses: &Witnesses, scope: &[&str]) -> Bite {
    let start = Instant::now();
    witnesses.each(2, true, start).await;
    witnesses.forget();
    let start = Instant::now();
    order(system, "block", scope);
    let returned = Instant::now();
    let blocks = interceptor(system).exchanges().into_iter().filter(|e| e.path == BLOCKS && e.status == Some(200));
    let acknowledged = blocks.filter_map(|exchange| exchange.delivered).max().unwrap();
    assert!(acknowledged >= start, "the block went another way than through the interceptor");
    witnesses.each(3, false, returned).await;
    let seen = witnesses.since(start);
    assert_no_way_back(&seen);
    let last = seen.iter().filter(|seen| seen.is_served()).map(|seen| seen.answered).max().unwrap_or(start);
    order(system, "unblock", scope);
    Bite { custodian_ms: after(acknowledged, last), tool_ms: after(returned, last) }
}

/// Value at a share of the sorted values, nearest rank.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

fn print_row(what: &str, to: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&values, percent));
    eprintln!("{what:<34} {to:<10} {p50:>8.1} {p99:>8.1} {max:>8.1}   ({} blocks)", values.len());
}

fn print_rows(what: &str, bites: &[Bite]) {
    print_row(what, "custodian", bites.iter().map(|bite| bite.custodian_ms).collect());
    print_row(what, "tool", bites.iter().map(|bite| bite.tool_ms).collect());
}

/// Makes keys, one after the other, until it is told to stop: each is a version that every enclave must follow.
fn keep_ordering(system: &System, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    let (administrator, stop) = (system.administrator.clone(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut made = 0;
        while !stop.load(Ordering::SeqCst) {
            administrator.holdfast(&["key", "create", &format!("made-{made}")]).success();
            made += 1;
        }
        made
    })
}

/// Three enclaves under load: from the acknowledgement of a block to the last 200, in milliseconds.
///
/// `cargo nextest run -p holdfast-tests --test revocation --profile long --no-capture how_fast`
#[tokio::test(flavor = "multi_thread")]
async fn long_how_fast_a_block_bites() {
    const REPEATS: usize = 40;
    let (system, _hosts, callers) =
        fleet(3, Options { keys: KEYS.to_vec(), intercepted: true, ..Options::default() }).await;
    let message = system.encrypt(KEY).await;
    let witnesses = Witnesses::start(&callers, 2, &message);
    let mut rows = Vec::new();
    for (what, scope) in SCOPES {
        let mut bites = Vec::new();
        for _ in 0..REPEATS {
            bites.push(bite(&system, &witnesses, scope).await);
        }
        rows.push((what.to_owned(), bites));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let orders = keep_ordering(&system, &stop);
    let mut bites = Vec::new();
    for _ in 0..REPEATS {
        bites.push(bite(&system, &witnesses, SCOPES[0].1).await);
    }
    stop.store(true, Ordering::SeqCst);
    let made = tokio::task::spawn_blocking(|| orders.join().unwrap()).await.unwrap();
    rows.push(("one key, under commands".to_owned(), bites));
    eprintln!("{:<34} {:<10} {:>8} {:>8} {:>8}", "blocked", "since", "p50 ms", "p99 ms", "max ms");
    for (what, bites) in &rows {
        print_rows(what, bites);
    }
    eprintln!("{made} commands were carried out meanwhile");
    witnesses.stop().await;
    system.assert_no_panic();
}

/// After a block every enclave refuses, and goes on refusing.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_ends_service_at_every_enclave() {
    let (system, hosts, callers) = fleet(2, Options { intercepted: true, ..Options::default() }).await;
    let message = system.encrypt(KEY).await;
    let witnesses = Witnesses::start(&callers, 1, &message);
    for scope in [&["--key", KEY][..], &["--store"]] {
        let Bite { custodian_ms, .. } = bite(&system, &witnesses, scope).await;
        eprintln!("{scope:?}: the last 200 came {custodian_ms:.1} ms after the custodian's acknowledgement");
    }
    witnesses.each(1, true, Instant::now()).await;
    order(&system, "block", &["--store"]);
    system.reports("Blocked", "").await;
    for host in &hosts {
        host.reports("Blocked", "").await;
    }
    // Each enclave has said that the block is in force: nothing that is asked from now on is answered with 200.
    let blocked = Instant::now();
    witnesses.each(20, false, blocked).await;
    let seen = witnesses.stop().await;
    let served = seen.iter().filter(|seen| seen.asked >= blocked && seen.is_served()).count();
    assert_eq!(served, 0, "requests were served after every enclave had seen the block");
    system.assert_no_panic();
}

const LEASE: Duration = Duration::from_secs(10);

/// When the enclave asked the last thing that the custodian answered: with nothing new, that is a renewal or the release.
fn last_answered(system: &System) -> Instant {
    let exchanges = interceptor(system).exchanges();
    let answered = exchanges.iter().filter(|e| (e.path == CHANNEL || e.path == RELEASE) && e.delivered.is_some());
    answered.map(|exchange| exchange.asked).max().unwrap()
}

/// The wire is cut before the block is ordered, so the enclave never hears of it: it serves until its lease ends, counted from the
/// sending of the last renewal that was answered, and not a request longer.
#[tokio::test(flavor = "multi_thread")]
async fn long_behind_a_cut_wire_service_ends_with_the_lease() {
    let options = Options { lease: "10s", taps: true, intercepted: true, ..Options::default() };
    let (system, _, callers) = fleet(1, options).await;
    let message = system.encrypt(KEY).await;
    for round in 0..3 {
        let witnesses = Witnesses::start(&callers, 2, &message);
        witnesses.each(5, true, Instant::now()).await;
        let egress = &system.taps.as_ref().unwrap().egress;
        egress.close(true);
        let renewed = last_answered(&system);
        order(&system, "block", &["--store"]);
        system.reports("LeaseExpired", "").await;
        witnesses.each(5, false, Instant::now()).await;
        let seen = witnesses.stop().await;
        assert_no_way_back(&seen);
        assert_eq!(last_answered(&system), renewed, "something was answered behind the cut");
        let last = seen.iter().filter(|seen| seen.is_served()).map(|seen| seen.asked).max().unwrap();
        eprintln!(
            "round {round}: the last request that was served was sent {:?} after the last renewal",
            last - renewed
        );
        assert!(last < renewed + LEASE, "a request was served that was sent {:?} after it", last - renewed);
        egress.close(false);
        system.reports("Blocked", "").await;
        order(&system, "unblock", &["--store"]);
        system.serving().await;
    }
    system.assert_no_panic();
}

/// A host that recorded renewals from before the block plays them again, in any order, and holds new ones back: the lease ends when it
/// would have ended without them.
#[tokio::test(flavor = "multi_thread")]
async fn long_recorded_renewals_lengthen_nothing() {
    let options = Options { lease: "10s", taps: true, intercepted: true, ..Options::default() };
    let (system, _, callers) = fleet(1, options).await;
    let message = system.encrypt(KEY).await;
    // Enough renewals to play with: one for each third of the lease.
    let answers = until("some renewals were answered", || async {
        let exchanges = interceptor(&system).exchanges();
        let answers: Vec<_> =
            exchanges.into_iter().filter(|e| e.path == CHANNEL && e.status == Some(200)).map(|e| e.answer).collect();
        (answers.len() >= 12).then_some(answers)
    })
    .await;
    let newest = answers.last().unwrap().clone();
    let older = answers[answers.len() - 2].clone();
    let instead = |bytes: &[u8]| Deed::Instead(bytes.to_vec());
    let table = [
        ("the newest again", vec![instead(&newest)]),
        ("an older one", vec![instead(&older)]),
        ("the one before", vec![Deed::Replay]),
        ("held back for longer than the lease", vec![Deed::Hold(LEASE + Duration::from_secs(2))]),
    ];
    for (what, deeds) in table {
        let witnesses = Witnesses::start(&callers, 1, &message);
        witnesses.each(5, true, Instant::now()).await;
        let rule = |deed| Rule { path: CHANNEL, nth: None, half: Half::Answer, deed };
        let drop_releases = Rule { path: RELEASE, nth: None, half: Half::Request, deed: Deed::Drop };
        let renewed = last_answered(&system);
        interceptor(&system).set_rules(deeds.into_iter().map(rule).chain([drop_releases]).collect());
        // An answer may have been on its way when the rules changed.
        let renewed = renewed.max(last_honest(&system, Instant::now()));
        system.reports("LeaseExpired", "").await;
        witnesses.each(5, false, Instant::now()).await;
        let seen = witnesses.stop().await;
        let last = seen.iter().filter(|seen| seen.is_served()).map(|seen| seen.asked).max().unwrap();
        eprintln!(
            "{what}: the last request that was served was sent {:?} after the last honest renewal",
            last - renewed
        );
        assert!(last < renewed + LEASE, "{what}: served {:?} after the last honest renewal", last - renewed);
        assert_no_way_back(&seen);
        interceptor(&system).set_rules(Vec::new());
        system.serving().await;
        system.decrypt(&message).await;
    }
    system.assert_no_panic();
}

/// When the newest thing was asked that was answered before `until`.
fn last_honest(system: &System, until: Instant) -> Instant {
    let exchanges = interceptor(system).exchanges();
    let answered = |at: Option<Instant>| at.is_some_and(|at| at <= until);
    exchanges.iter().filter(|e| e.path == CHANNEL && answered(e.delivered)).map(|e| e.asked).max().unwrap()
}

/// A block that is not tried again for long where it failed.
const BLOCK_ONCE: [&str; 4] = ["block", "--store", "--timeout", "100ms"];

/// An unblock from before a block, played again on its way to the custodian or in the answers to an enclave, lifts nothing; and the
/// tool does not take another answer for the custodian's.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_unblock_played_again_lifts_nothing() {
    let (system, _, _) = fleet(1, Options { intercepted: true, ..Options::default() }).await;
    let message = system.encrypt(KEY).await;
    order(&system, "block", &["--store"]);
    order(&system, "unblock", &["--store"]);
    system.serving().await;
    let posted: Vec<_> = interceptor(&system).exchanges().into_iter().filter(|e| e.path == BLOCKS).collect();
    let (old_block, old_unblock) = (posted[0].request.clone(), posted[1].request.clone());

    // The new block is exchanged for the old unblock on its way: refused, and the tool says so.
    for old in [&old_unblock, &old_block] {
        let rule = Rule { path: BLOCKS, nth: None, half: Half::Request, deed: Deed::Instead(old.clone()) };
        interceptor(&system).set_rules(vec![rule]);
        assert_eq!(system.administrator.holdfast(&BLOCK_ONCE).code(), Some(1), "the tool took it for done");
    }
    // Nothing reached the custodian, and somebody who holds its TLS key says that it did.
    let forged = [
        Rule { path: BLOCKS, nth: None, half: Half::Request, deed: Deed::Instead(old_unblock.clone()) },
        Rule { path: BLOCKS, nth: None, half: Half::Answer, deed: Deed::Instead(Vec::new()) },
    ];
    interceptor(&system).set_rules(forged.to_vec());
    interceptor(&system).set_status(BLOCKS, Some(StatusCode::OK));
    let said = system.administrator.holdfast(&BLOCK_ONCE);
    assert_eq!(said.code(), Some(1), "the tool took somebody else's answer for the custodian's: {}", said.complaint());
    interceptor(&system).set_status(BLOCKS, None);
    interceptor(&system).set_rules(Vec::new());
    system.decrypt(&message).await;

    // The block arrives; every answer that the enclave gets from then on is one from before it.
    let before = interceptor(&system).exchanges();
    let unblocked = before.iter().rev().find(|e| e.path == CHANNEL && e.status == Some(200)).unwrap().answer.clone();
    order(&system, "block", &["--store"]);
    system.reports("Blocked", "").await;
    interceptor(&system).set_rules(vec![Rule {
        path: CHANNEL,
        nth: None,
        half: Half::Answer,
        deed: Deed::Instead(unblocked),
    }]);
    // News end the question that was asked before the rule, and then one that was asked under it.
    let heard = interceptor(&system).exchanges().len();
    let asked_since = |is_answered: bool| {
        let exchanges = interceptor(&system).exchanges();
        let mut since = exchanges.into_iter().skip(heard).filter(|exchange| exchange.path == CHANNEL);
        since.any(|exchange| !is_answered || exchange.status.is_some()).then_some(())
    };
    order(&system, "block", &["--key", KEY]);
    until("the enclave asks again", || async { asked_since(false) }).await;
    order(&system, "block", &["--key", "second"]);
    until("the enclave was answered", || async { asked_since(true) }).await;
    let answer = system.client().decrypt(KEY, &message.body, Some(AAD)).await.unwrap();
    assert_eq!(answer.text("errorName"), Some("InvalidStateException"), "{}", answer.body);
    interceptor(&system).set_rules(Vec::new());
    assert_eq!(system.order(&["status"])["blocked"]["store"], json!(true));
    order(&system, "unblock", &["--store", "--key", KEY, "--key", "second"]);
    system.serving().await;
    system.assert_no_panic();
}

/// Blocked is blocked, whichever processes are killed and started again, one by one and all together.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_outlives_every_process() {
    let (mut system, mut hosts, _) = fleet(2, Options::default()).await;
    order(&system, "block", &["--store"]);
    for part in ["parent", "enclave", "NSM", "custodian", "all"] {
        let is = |name: &str| part == name || part == "all";
        if is("custodian") {
            system.custodian.kill();
        }
        if is("parent") {
            hosts[0].parent.take().unwrap().kill();
            system.parent.take().unwrap().kill();
        }
        if is("NSM") {
            hosts[0].start_nsm().await;
            drop(system.nsm.take());
            system.start_nsm().await;
        }
        if is("custodian") {
            system.custodian.start().await;
        }
        if is("parent") {
            hosts[0].start_parent().await;
            system.start_parent().await;
        }
        if is("enclave") || is("NSM") {
            hosts[0].start_enclave().await;
            system.start_enclave().await;
        }
        hosts[0].reports("Blocked", "").await;
        system.reports("Blocked", "").await;
        assert_eq!(system.order(&["status"])["blocked"]["store"], json!(true), "after {part}");
        for caller in [system.caller(), hosts[0].caller(&system)] {
            let answer = caller.client().health().await;
            assert!(!answer.is_ok_and(|answer| answer.status == StatusCode::OK), "served after {part}");
        }
    }
    order(&system, "unblock", &["--store"]);
    system.caller().serving().await;
    hosts[0].caller(&system).serving().await;
    system.assert_no_panic();
}
