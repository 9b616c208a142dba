//! A custodian that its owner turned against the others: with one share needed it knows the root key, so it can make any version.

use holdfast_shared::keystore::{self, Body, Place, UsePolicy};
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::{self, Operation};

use super::*;

/// Makes the next version out of the newest, as only a custodian that knows the root key can.
fn forge(world: &World, change: impl FnOnce(&mut Body)) {
    let (root, generation, blob, entry) = {
        let state = world.custodian.state();
        let held = state.shares.last().unwrap();
        let newest = state.versions.last().unwrap();
        (held.share.value.duplicate(), held.set.generation, newest.blob.clone(), newest.entry.clone())
    };
    let mut body = keystore::open(&root, &entry, &blob).unwrap().body;
    change(&mut body);
    let (version, previous) = (entry.version + 1, Some(entry.blob_id));
    let place = Place { key_store_id: world.id, version, previous, generation };
    let sealed = keystore::seal(&root, &place, &body, &SystemRandom::new()).unwrap();
    world.custodian.publish(version, previous, sealed.bytes, Vec::new(), Vec::new());
}

/// A certificate and its key, as any owner can make them for any name.
fn self_made(body: &mut Body, name: &str) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    body.tls.private_key = holdfast_shared::secrets::SecretBytes::new(made.signing_key.serialize_der());
    body.tls.chain = vec![DerCertificate(made.cert.der().to_vec())];
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_version_that_names_another_host_or_path_than_the_manifest_is_never_served() {
    let changes: [fn(&mut Body); 2] = [
        |body| {
            body.host_name = host("victim.example.com");
            self_made(body, "victim.example.com");
        },
        |body| {
            body.path_prefix = PathPrefix::parse("/victims").unwrap();
            self_made(body, "xks.example.com");
        },
    ];
    for change in changes {
        let world = World::start().serving().await;
        forge(&world, change);
        world.custodian.refuse_channel();
        world.clock.advance_ms(60_000);
        let refused = |world: &World| {
            world.report().reason.is_some_and(|reason| reason.as_str().contains("another host or path prefix"))
        };
        world.until("a refusal", refused).await;
        assert!(world.directory.host(&host("victim.example.com")).is_none());
        assert!(world.directory.host(&host("xks.example.com")).is_none());
        assert!(!world.serves());
    }
}

/// The version before had other keys, credentials and readers: what its owner changed must not go on.
#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_served_ends_the_use_of_keys_and_the_next_one_brings_it_back() {
    let world = World::start().serving().await;
    forge(&world, |body| body.path_prefix = PathPrefix::parse("/victims").unwrap());
    world.until("a wipe", |world| !world.served.holds_keys()).await;
    world.until("the reason", |world| world.reason().contains("another host or path prefix")).await;
    assert_eq!(world.report().version, None, "the ledger knows");
    let asked = |world: &World| world.custodian.state().asked("release");
    world.until("another release", |world| asked(world) > 1).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(asked(&world) < 5, "{} releases: no busy loop", asked(&world));
    forge(&world, |body| body.path_prefix = PathPrefix::parse("").unwrap());
    world.until("keys in use", World::serves).await;
    assert_eq!(world.report().version, Some(3));
}

/// Whether the policy in force permits a use.
fn permits(world: &World) -> bool {
    let text = r#"{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"Encrypt","kmsRequestId":"1",
        "kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:key/1","kmsViaService":"ebs"},"plaintext":"eA==","encryptionAlgorithm":"AES_GCM"}"#;
    let request = xks::parse_encrypt(text.as_bytes()).unwrap();
    let store = world.directory.store(&host("xks.example.com"), &PathPrefix::parse("").unwrap()).unwrap();
    let question = crate::xks::Question {
        key_store: world.id,
        key: &ExternalKeyId::parse("a").unwrap(),
        operation: Operation::Encrypt,
        metadata: &request.metadata,
        access_key_id: &AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
    };
    store.guard.permit(&question).is_ok()
}

/// An older image took a policy that this one does not understand: it permits nothing, and an order mends it.
#[tokio::test(start_paused = true)]
async fn a_policy_that_this_image_does_not_understand_permits_nothing_until_it_is_mended() {
    let world = World::start().serving().await;
    forge(&world, |body| self_made(body, "xks.example.com"));
    world.until("version 2", |world| world.report().version == Some(2)).await;
    assert!(permits(&world));
    forge(&world, |body| body.policy = Some(UsePolicy { text: "permit (principal, action,\n resources);".to_owned() }));
    world.until("version 3", |world| world.report().version == Some(3)).await;
    assert!(world.reason().contains("the policy of use is not valid in this image"), "{}", world.reason());
    assert!(!permits(&world));
    let text = "permit (principal, action, resource);".to_owned();
    let mended = world.order(0, Action::SetPolicy { policy: Some(UsePolicy { text }) });
    world.done(mended).await;
    world.until("version 4", |world| world.report().version == Some(4)).await;
    assert!(permits(&world));
    assert_eq!(world.report().reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_names_other_shares_is_not_served() {
    let world = World::start().serving().await;
    forge(&world, |body| body.sharing.as_mut().unwrap().set.commitments[0].0 = [9; 32]);
    let refused = |world: &World| world.reason().contains("names another set of shares of its root key");
    world.until("a refusal", refused).await;
    assert_eq!(world.report().version, Some(1));
}

#[tokio::test(start_paused = true)]
async fn one_custodian_that_lost_a_version_is_not_given_it_back() {
    let world = World::start().serving().await;
    let command = world.create("a");
    world.done(command).await;
    world.until("version 2", |world| world.report().version == Some(2)).await;
    world.custodian.change(|state| state.versions.truncate(1));
    world.create("b");
    world.until("a try", |world| world.custodian.state().asked("publish") > 2).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let state = world.custodian.state();
    assert_eq!((state.versions.len(), state.asked("copy")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn administrators_that_a_version_invents_change_no_owner() {
    let world = World::start().serving().await;
    forge(&world, |body| self_made(body, "xks.example.com"));
    let served = || {
        let prefix = PathPrefix::parse("").unwrap();
        world.directory.store(&host("xks.example.com"), &prefix)
    };
    world.until("it is served", |_| served().is_some()).await;
    let owner = served().unwrap().owner;
    // The other administrator alone: as if this were a key store of hers.
    forge(&world, |body| drop(body.administrators.remove(0)));
    world.until("version 3", |world| world.report().version == Some(3)).await;
    assert_eq!(served().unwrap().owner, owner);
}

#[tokio::test(start_paused = true)]
async fn a_version_without_a_certificate_takes_the_host_away() {
    let world = World::start().serving().await;
    forge(&world, |body| self_made(body, "xks.example.com"));
    world.until("it is served", |world| world.directory.host(&host("xks.example.com")).is_some()).await;
    forge(&world, |body| body.tls.chain.clear());
    world.until("it is not", |world| world.directory.host(&host("xks.example.com")).is_none()).await;
    assert_eq!(world.report().state, KeyStoreState::AwaitingCertificate);
}

/// Waits until a value stays as it is. The clock of the test runs ahead of those who work on other threads or wait for a socket: these get
/// real time here.
async fn until_settled<T: PartialEq>(look: impl Fn() -> T) {
    let mut unchanged = 0;
    let mut last = look();
    while unchanged < 300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
        let now = look();
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
    }
}

#[tokio::test(start_paused = true)]
async fn long_versions_and_commands_without_end_are_carried_out_within_the_allowance() {
    let world = World::start().serving().await;
    // The clock stands still, so nothing is earned: 512 pieces of work, and no more.
    let answered = || world.custodian.state().results.len() - 1;
    for batch in 1..=16 {
        for _ in 0..30 {
            world.order(0, Action::ListKeys);
        }
        world.until("a batch", |_| answered() == batch * 30).await;
    }
    for _ in 0..60 {
        world.order(0, Action::ListKeys);
    }
    world.until("the allowance is nearly spent", |_| answered() > 500).await;
    until_settled(answered).await;
    assert!((501..=512).contains(&answered()), "{}", answered());
    let version = world.report().version;
    forge(&world, |body| body.executed.clear());
    until_settled(|| world.report().version).await;
    assert_eq!(world.report().version, version, "nor is another version followed");
    // A block is no work.
    world.block(true);
    world.until("blocked", |world| world.report().state == KeyStoreState::Blocked).await;
    world.block(false);
    world.clock.advance_ms(10_000);
    world.until("keys in use", World::serves).await;
    world.until("all answers", |_| answered() == 540).await;
}

#[tokio::test(start_paused = true)]
async fn long_blocks_that_come_and_go_without_end_stay_within_the_allowance() {
    let world = World::start().serving().await;
    forge(&world, |body| {
        body.executed = (0..4_000_u32)
            .map(|n| {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&n.to_be_bytes());
                keystore::ExecutedCommand { command_id: CommandId(id), expires_ms: u64::MAX }
            })
            .collect();
    });
    world.until("version 2", |world| world.report().version == Some(2)).await;
    // The clock stands still: 32 MiB of work, here about 280 openings, and no more.
    let mut lifted = 0;
    while world.serves() && lifted < 400 {
        world.block(true);
        world.until("blocked", |world| world.report().state == KeyStoreState::Blocked).await;
        world.block(false);
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
            if world.serves() {
                break;
            }
        }
        lifted += 1;
    }
    assert!((100..400).contains(&lifted), "{lifted}");
    world.clock.advance_ms(1_000);
    world.until("keys in use", World::serves).await;
}

#[tokio::test(start_paused = true)]
async fn a_custodian_that_forgets_what_it_was_given_makes_no_busy_loop() {
    const TIMES: usize = 300;
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await.settled().await;
    world.custodians[2].change(|state| state.hostile.forgets = TIMES);
    let command = world.create("a");
    world.done(command).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let forgot = TIMES - world.custodians[2].state().hostile.forgets;
    assert!((3..30).contains(&forgot), "{forgot} times in a minute");
    // Once it keeps what it is given, that is soon over.
    world.custodians[2].change(|state| state.hostile.forgets = 0);
    let command = world.create("b");
    world.done(command).await;
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_store_larger_than_its_share_is_refused_and_says_so() {
    let world = World::start().serving().await;
    let many = |count: u32| {
        move |body: &mut Body| {
            body.executed = (0..count)
                .map(|n| {
                    let mut id = [0; 16];
                    id[..4].copy_from_slice(&n.to_be_bytes());
                    keystore::ExecutedCommand { command_id: CommandId(id), expires_ms: u64::MAX }
                })
                .collect();
        }
    };
    world.enclave.workshop.share_among(4 * holdfast_link::limits::KEY_STORES_MAX);
    forge(&world, many(1_000));
    world.until("version 2", |world| world.report().version == Some(2)).await;
    forge(&world, many(4_000));
    world.custodian.refuse_channel();
    world.clock.advance_ms(60_000);
    let refused =
        |world: &World| world.report().reason.is_some_and(|reason| reason.as_str().ends_with("each may have 65536"));
    world.until("a refusal", refused).await;
    world.enclave.workshop.share_among(10);
    world.serving().await;
}

/// More than the NSM's queue holds, at once: each waits for its turn, and the clock, which stands in no line, for none.
#[tokio::test]
async fn key_stores_stand_in_line_for_the_nsm_and_the_clock_does_not() {
    let nsm = Nsm::start(Box::new(FakeNsm)).unwrap();
    let line = nsm.in_line();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let line = line.clone();
        asking.spawn(async move { line.attest(None, None, None).await.map(drop) });
    }
    for _ in 0..100 {
        nsm.attest(None, None, None).await.unwrap();
        tokio::task::yield_now().await;
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap().unwrap();
    }
}
