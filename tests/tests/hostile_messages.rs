//! A parent that even holds the custodian's TLS key, and so sees and changes every message between enclave and custodian: what it
//! gains is a service that is closed, never a share, a longer lease, a wrong answer or a forgotten block.

#![expect(clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::time::{Duration, Instant};

use holdfast_shared::api::{CHALLENGE, CHANNEL, RELEASE};
use holdfast_tests::interceptor::{Deed, Half, Interceptor, Rule};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::{AAD, Encrypted, Front, KEY, Options, System};
use holdfast_tests::wait::until;
use http::StatusCode;

fn interceptor(system: &System) -> &Interceptor {
    match &system.custodian.front {
        Front::Interceptor(interceptor) => interceptor,
        Front::Tap(_) => panic!("no interceptor"),
    }
}

async fn start(lease: &'static str) -> System {
    System::start(Options { intercepted: true, lease, ..Options::default() }).await
}

/// A boot under one rule for the first message of a path: it fails that attempt at most, and the next one serves.
async fn one_message(system: &mut System, rule: Rule, old: &Encrypted) {
    eprintln!("{rule:?}");
    interceptor(system).set_rules(vec![rule]);
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(old).await;
    interceptor(system).set_rules(Vec::new());
}

fn deeds(path: &'static str) -> Vec<Deed> {
    let other = if path == CHALLENGE { RELEASE } else { CHALLENGE };
    vec![
        Deed::FlipBit(3, 0),
        Deed::FlipBit(60, 4),
        Deed::FlipBit(usize::MAX, 7),
        Deed::Cut(20),
        Deed::Drop,
        Deed::Replay,
        Deed::Swap(other),
        Deed::Instead(Vec::new()),
    ]
}

/// Each deed at the first challenge, release or channel message of a boot, two each way; the other profile has all of them everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn one_spoilt_message_costs_one_attempt() {
    let mut system = start("1h").await;
    let old = system.encrypt(KEY).await;
    for (place, path) in [CHALLENGE, RELEASE, CHANNEL].into_iter().enumerate() {
        for (way, half) in [Half::Request, Half::Answer].into_iter().enumerate() {
            for deed in deeds(path).into_iter().skip((2 * place + way) % 4).step_by(4) {
                one_message(&mut system, Rule { path, nth: Some(0), half, deed }, &old).await;
            }
        }
    }
    one_message(&mut system, Rule { path: RELEASE, nth: Some(0), half: Half::Request, deed: Deed::Twice }, &old).await;
    system.assert_no_panic();
}

/// All deeds, at each of the first messages, at more places.
#[tokio::test(flavor = "multi_thread")]
async fn long_one_spoilt_message_costs_one_attempt() {
    let mut system = start("1h").await;
    let old = system.encrypt(KEY).await;
    for path in [CHALLENGE, RELEASE, CHANNEL] {
        for half in [Half::Request, Half::Answer] {
            for nth in 0..2 {
                let flips = (0..40).map(|step| Deed::FlipBit(step * 37, u8::try_from(step % 8).unwrap()));
                for deed in deeds(path).into_iter().chain(flips).chain([Deed::Twice]) {
                    one_message(&mut system, Rule { path, nth: Some(nth), half, deed }, &old).await;
                }
            }
        }
    }
    system.assert_no_panic();
}

/// Several deeds at a time, others each time.
#[tokio::test(flavor = "multi_thread")]
async fn long_many_spoilt_messages() {
    let mut system = start("1h").await;
    let old = system.encrypt(KEY).await;
    let seed = fresh_seed();
    for plan in 0..120 {
        let seed = seed.wrapping_add(plan);
        let mut random = Random::seeded(seed);
        let rules: Vec<_> = (0..4).map(|_| Rule::random(&mut random, &[CHALLENGE, RELEASE, CHANNEL])).collect();
        eprintln!("seed {seed}: {rules:?}");
        interceptor(&system).set_rules(rules);
        system.start_enclave().await;
        system.serving().await;
        system.decrypt(&old).await;
        interceptor(&system).set_rules(Vec::new());
    }
    system.assert_no_panic();
}

/// While every message of a kind is spoilt there is no service at all, however often it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn while_every_message_is_spoilt_nothing_is_served() {
    let mut system = start("1h").await;
    let old = system.encrypt(KEY).await;
    let first = interceptor(&system).exchanges().into_iter().find(|exchange| exchange.path == CHALLENGE).unwrap();
    let table = [
        (CHALLENGE, Half::Answer, Deed::FlipBit(10, 0)),
        (CHALLENGE, Half::Answer, Deed::Instead(first.answer)),
        (RELEASE, Half::Request, Deed::FlipBit(2000, 3)),
        (RELEASE, Half::Request, Deed::Replay),
        (RELEASE, Half::Answer, Deed::FlipBit(200, 3)),
        (RELEASE, Half::Answer, Deed::Replay),
        (CHANNEL, Half::Answer, Deed::Replay),
        (CHANNEL, Half::Answer, Deed::FlipBit(100, 1)),
    ];
    for (path, half, deed) in table {
        eprintln!("{path}, {half:?}: {deed:?}");
        interceptor(&system).set_rules(vec![Rule { path, nth: None, half, deed }]);
        system.kill_enclave().await;
        let before = interceptor(&system).exchanges().len();
        system.start_enclave().await;
        until("it was tried again", || async {
            let exchanges = interceptor(&system).exchanges();
            let tried = exchanges.iter().skip(before).filter(|exchange| exchange.path == path).count();
            (tried >= 2).then_some(())
        })
        .await;
        assert!(system.client().health().await.is_err(), "an enclave without a key store has no certificate");
        interceptor(&system).set_rules(Vec::new());
        system.serving().await;
        system.decrypt(&old).await;
    }
    system.assert_no_panic();
}

/// A renewal that is held back is worth what was left of it when it was asked for: whenever the enclave serves, it has heard the
/// answer to something that it asked less than a lease's length ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_back_renewal_does_not_stretch_the_lease() {
    const LEASE: Duration = Duration::from_secs(10);
    let mut system = start("10s").await;
    let old = system.encrypt(KEY).await;
    system.start_enclave().await;
    system.serving().await;
    // From here on nothing new is released. A renewal asked for after a third of the lease is heard before the lease's end, and
    // lengthens it to 13 s; counted from the answer it would be 18. The one after it is heard too late.
    let hold = Deed::Hold(Duration::from_millis(5200));
    interceptor(&system).set_rules(vec![
        Rule { path: CHANNEL, nth: None, half: Half::Answer, deed: hold },
        Rule { path: RELEASE, nth: None, half: Half::Request, deed: Deed::Drop },
    ]);
    let start = Instant::now();
    let client = system.client();
    let (mut served, mut refused) = (Vec::new(), 0);
    while refused < 20 && start.elapsed() < 2 * LEASE {
        let asked = Instant::now();
        let answer = client.decrypt(KEY, &old.body, Some(AAD)).await.unwrap();
        if answer.status == StatusCode::OK {
            (served, refused) = ([served, vec![asked]].concat(), 0);
        } else {
            refused += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let exchanges = interceptor(&system).exchanges();
    for at in &served {
        let heard = exchanges.iter().filter(|exchange| exchange.delivered.is_some_and(|delivered| delivered <= *at));
        let newest = heard.map(|exchange| exchange.asked).max().unwrap();
        assert!(at.duration_since(newest) < LEASE, "served {:?} after the newest answered question", *at - newest);
    }
    assert!(refused == 20, "it is served for ever");
    let released = exchanges.iter().filter(|exchange| exchange.path == RELEASE && exchange.status == Some(200));
    let last = served.last().unwrap().duration_since(released.map(|exchange| exchange.asked).max().unwrap());
    eprintln!("last served {last:?} after the release was asked for");
    assert!(last > LEASE, "the held-back renewal counted for nothing: {last:?}");
    interceptor(&system).set_rules(Vec::new());
    system.serving().await;
    system.decrypt(&old).await;
}

/// A block that is on its way cannot be undone with an answer from before it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_block_does_not_hide_it() {
    let mut system = start("1h").await;
    let old = system.encrypt(KEY).await;
    system.order(&["block", "--store"]);
    until("the block is seen", || async {
        system.client().health().await.ok().filter(|answer| answer.status == StatusCode::BAD_REQUEST)
    })
    .await;
    // A boot that hears a release from before the block, or nothing: it gets no share.
    let exchanges = interceptor(&system).exchanges();
    let unblocked = exchanges.iter().find(|e| e.path == RELEASE && e.status == Some(200)).unwrap().answer.clone();
    let rule = Rule { path: RELEASE, nth: None, half: Half::Answer, deed: Deed::Instead(unblocked) };
    interceptor(&system).set_rules(vec![rule]);
    system.kill_enclave().await;
    let before = interceptor(&system).exchanges().len();
    system.start_enclave().await;
    until("it was tried again", || async {
        let tried = interceptor(&system).exchanges().iter().skip(before).filter(|e| e.path == RELEASE).count();
        (tried >= 2).then_some(())
    })
    .await;
    assert!(system.client().health().await.is_err());
    interceptor(&system).set_rules(Vec::new());
    system.reports("Blocked", "").await;
    assert!(system.client().health().await.is_err());
    system.order(&["unblock", "--store"]);
    system.serving().await;
    system.decrypt(&old).await;
    system.assert_no_panic();
}
