//! Custody against a custodian in memory: real formats, real TLS, a clock that is stepped, and faults at chosen moments.
//!
//! Tokio's time is paused: pauses and time limits cost nothing. Leases run on the stepped clock and end only when a test says so.

use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use holdfast_link::control::KeyStoreStatus;
use holdfast_shared::attestation::Measurements;
use holdfast_shared::command::{self, Action, Command, Precondition};
use holdfast_shared::external_key::{ExternalKeyId, KeyUsage};
use holdfast_shared::manifest::{self, Administrator, Manifest, ReleasePolicy, Thresholds};
use holdfast_shared::sigv4::Regions;
use holdfast_shared::xks::{HostName, PathPrefix};
use holdfast_shared::{cbor, hpke, labels};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinHandle;

use self::custodian::{FakeCustodian, Fault, Wire, bytes_of, signing_key};
use std::sync::Arc;

use holdfast_link::control::KeyStoreState;
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::secrets::Secret;

use super::*;
use crate::audit::AuditKey;
use crate::clock::SteppedClock;
use crate::directory::Directory;
use crate::nsm::NsmDevice;
use crate::roster::{Authorities, Roster};

mod adversaries;
mod audit;
mod blocks;
mod budgets;
mod crashes;
mod custodian;
mod fleet;
mod hostile;
mod quorum;
mod races;
mod renewals;
mod succession;
mod tally;

const NOW_MS: u64 = 1_790_000_000_000;

/// An NSM whose documents are the three fields, each behind its length.
struct FakeNsm;

impl NsmDevice for FakeNsm {
    fn process_request(&mut self, request: Request) -> Response {
        match request {
            Request::Attestation { nonce, user_data, public_key } => {
                let mut document = Vec::new();
                for field in [nonce, user_data, public_key] {
                    let field = field.unwrap_or_default();
                    document.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
                    document.extend_from_slice(&field);
                }
                Response::Attestation { document }
            }
            Request::GetRandom => Response::GetRandom { random: random::<64>().to_vec() },
            _ => Response::Error(aws_nitro_enclaves_nsm_api::api::ErrorCode::InvalidOperation),
        }
    }
}

/// Nonce, `user_data` and public key of a [`FakeNsm`]'s document.
fn read_document(mut document: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut field = || {
        let (length, rest) = document.split_at(2);
        let (field, rest) = rest.split_at(usize::from(u16::from_be_bytes(length.try_into().unwrap())));
        document = rest;
        field.to_vec()
    };
    (field(), field(), field())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}

/// A key store of two administrators, its custodian, and one enclave that takes care of it.
struct World {
    clock: Arc<SteppedClock>,
    /// The home custodian.
    custodian: Arc<FakeCustodian>,
    custodians: Vec<Arc<FakeCustodian>>,
    administrators: [SigningKeys; 2],
    manifest: VerifiedManifest,
    id: KeyStoreId,
    reporter: Reporter,
    served: ServedStore,
    directory: Arc<Directory>,
    enclave: Arc<Enclave>,
    task: JoinHandle<()>,
    lines: tokio::sync::mpsc::Receiver<holdfast_link::control::ToParent>,
}

struct SigningKeys {
    signing: holdfast_shared::signature::SigningKey,
    public: Administrator,
}

impl SigningKeys {
    fn new(name: &str, encryption_key: hpke::PublicKey) -> Self {
        let signing = signing_key();
        let public =
            Administrator { name: name.to_owned(), signing_key: signing.verifying_key().unwrap(), encryption_key };
        Self { signing, public }
    }
}

impl World {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(prepare: impl FnOnce(&FakeCustodian)) -> Self {
        Self::start_quorum((1, 1, 0), |custodians| prepare(&custodians[0]))
    }

    /// n custodians, m shares needed, f hostile tolerated.
    fn start_quorum(numbers: (usize, u8, u8), prepare: impl FnOnce(&[Arc<FakeCustodian>])) -> Self {
        Self::start_beside(numbers, 0, prepare)
    }

    /// The same, with more custodians that the manifest does not name.
    fn start_beside(numbers: (usize, u8, u8), others: usize, prepare: impl FnOnce(&[Arc<FakeCustodian>])) -> Self {
        let clock = Arc::new(SteppedClock::at(NOW_MS));
        let custodians: Vec<_> =
            (0..numbers.0 + others).map(|place| FakeCustodian::new(Arc::clone(&clock), place)).collect();
        let custodian = Arc::clone(&custodians[0]);
        let administrators = [
            SigningKeys::new("alice", *hpke::PrivateKey::generate().unwrap().public_key()),
            // No point of the curve: nothing can be encrypted to mallory.
            SigningKeys::new("mallory", hpke::PublicKey([4; 97])),
        ];
        let manifest = Self::manifest(&custodians[..numbers.0], numbers, &administrators);
        for fake in &custodians {
            fake.state().manifest = Some(manifest.clone());
        }
        prepare(&custodians);
        let (reporter, lines) = Reporter::new();
        let (served, task, directory, enclave) = Self::enclave(&clock, &custodians, &manifest, &reporter);
        let id = manifest.id();
        Self {
            clock,
            custodian,
            custodians,
            administrators,
            manifest,
            id,
            reporter,
            served,
            directory,
            enclave,
            task,
            lines,
        }
    }

    fn enclave(
        clock: &Arc<SteppedClock>,
        custodians: &[Arc<FakeCustodian>],
        manifest: &VerifiedManifest,
        reporter: &Reporter,
    ) -> (ServedStore, JoinHandle<()>, Arc<Directory>, Arc<Enclave>) {
        let seam: Arc<dyn Clock> = clock.clone();
        let directory = Arc::new(Directory::new(Arc::clone(&seam)));
        let roster = Arc::new(Roster::new(Arc::clone(&directory), reporter.clone(), Authorities::default()));
        let boot_id = BootId(random());
        let audit = Arc::new(AuditLogs::new(AuditKey::generate().unwrap(), boot_id, Arc::clone(&seam)));
        let log = audit.of(manifest.id()).unwrap();
        let served = ServedStore::new(manifest, roster, Regions::Any, Arc::clone(&seam), log);
        let enclave = Arc::new(Enclave {
            nsm: Nsm::start(Box::new(FakeNsm)).unwrap(),
            clock: seam,
            reporter: reporter.clone(),
            boot_id,
            audit,
            workshop: Workshop::new(),
            aws_credentials: tokio::sync::watch::channel(None).1,
        });
        let wire = Wire(custodians.to_vec());
        let custody = Custody::new(Arc::clone(&enclave), manifest.clone(), wire, served.clone());
        (served, tokio::spawn(custody.run()), directory, enclave)
    }

    fn manifest(
        custodians: &[Arc<FakeCustodian>],
        numbers: (usize, u8, u8),
        administrators: &[SigningKeys; 2],
    ) -> VerifiedManifest {
        VerifiedManifest::verify(&Self::signed_manifest(custodians, numbers, administrators)).unwrap()
    }

    fn signed_manifest(
        custodians: &[Arc<FakeCustodian>],
        (_, shares_needed, hostile_tolerated): (usize, u8, u8),
        administrators: &[SigningKeys; 2],
    ) -> Vec<u8> {
        let measurements = Measurements {
            pcr0: [1; 48],
            pcr1: [1; 48],
            pcr2: [1; 48],
            pcr16: [1; 48],
            pcr3: None,
            pcr4: None,
            pcr8: None,
        };
        let manifest = Manifest {
            label: labels::MANIFEST.to_owned(),
            nonce: random(),
            name: "test".to_owned(),
            administrators: administrators.iter().map(|keys| keys.public.clone()).collect(),
            thresholds: Thresholds::ONE,
            custodians: custodians.iter().map(|custodian| custodian.in_manifest()).collect(),
            shares_needed,
            hostile_tolerated,
            host_name: HostName::parse("xks.example.com").unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
            release_policy: ReleasePolicy::first([1; 32], vec![measurements], 60_000),
            succession: None,
            kms_share: None,
        };
        let rng = SystemRandom::new();
        let mut envelope = manifest::sign(&manifest, &administrators[0].signing, &rng).unwrap();
        envelope.add_signature(labels::MANIFEST, &administrators[1].signing, &rng).unwrap();
        cbor::encode(&envelope).to_vec()
    }

    fn report(&self) -> KeyStoreStatus {
        self.reporter.states(self.clock.monotonic_ms()).remove(0)
    }

    fn serves(&self) -> bool {
        self.served.may_use_keys(self.clock.monotonic_ms())
    }

    /// Waits until something is so. Time is paused, so waiting is free, and bounded.
    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let mut reported = Vec::new();
        for _ in 0..2_000 {
            if holds(self) {
                return;
            }
            let state = self.reporter.states(self.clock.monotonic_ms()).first().map(|status| status.state);
            if reported.last() != Some(&state) {
                reported.push(state);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The NSM's thread knows nothing of paused time; while this blocks, time stands still for all others.
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
        }
        panic!(
            "never: {what}; {:?} after {reported:?}; custodians: {:#?}",
            self.report(),
            self.custodians.iter().map(|custodian| custodian.state().account()).collect::<Vec<_>>()
        );
    }

    async fn serving(self) -> Self {
        self.until("keys in use", Self::serves).await;
        self
    }

    /// Queues a command and returns its id.
    fn order(&self, administrator: usize, action: Action) -> CommandId {
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.id,
            command_id: CommandId(random()),
            issued_ms: NOW_MS,
            expires_ms: NOW_MS + 3_600_000,
            precondition: Precondition::None,
            action,
        };
        let signed =
            command::sign(&command, &self.administrators[administrator].signing, &SystemRandom::new()).unwrap();
        self.custodian.change(|state| state.commands.push((command.command_id, bytes_of(&signed))));
        command.command_id
    }

    fn create(&self, name: &str) -> CommandId {
        let id = ExternalKeyId::parse(name).unwrap();
        self.order(0, Action::CreateKey { id, usage: KeyUsage::ENCRYPT_DECRYPT })
    }

    async fn done(&self, command_id: CommandId) {
        self.until("the command's result", |world| world.custodian.state().results.contains_key(&command_id)).await;
    }

    fn block(&self, store: bool) {
        self.block_at(&self.custodians, store);
    }

    fn block_at(&self, custodians: &[Arc<FakeCustodian>], store: bool) {
        for custodian in custodians {
            custodian.block(self.id, store, &self.administrators[0].signing);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_ceremony_ends_in_service_and_its_commands_in_versions() {
    let world = World::start().serving().await;
    assert_eq!(world.report().version, Some(1));
    assert!(world.custodian.state().results.contains_key(&command::ceremony_id(world.id)));
    let commands = [world.create("a"), world.create("b"), world.create("c")];
    for command in commands {
        world.done(command).await;
    }
    world.until("version 4", |world| world.report().version == Some(4)).await;
    assert_eq!(world.custodian.state().asked("release"), 1, "one lease for all of it");
}

#[tokio::test(start_paused = true)]
async fn a_crash_or_a_lost_answer_in_the_ceremony_is_made_up_for() {
    for (ask, fault) in [
        ("challenge", Fault::Lost),
        ("release", Fault::AnswerLost),
        ("deposit", Fault::Lost),
        ("deposit", Fault::AnswerLost),
        ("publish", Fault::Lost),
        ("publish", Fault::AnswerLost),
    ] {
        let world = World::start_with(|custodian| custodian.fail(ask, fault)).serving().await;
        assert_eq!(world.custodian.state().versions.len(), 1, "{ask} {fault:?}");
        assert_eq!(world.report().version, Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_publish_carries_the_command_out_once() {
    for fault in [Fault::Lost, Fault::AnswerLost] {
        let world = World::start().serving().await;
        world.custodian.fail("publish", fault);
        let command = world.create("a");
        world.until("the fault", |world| world.custodian.state().faults.is_empty()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.clock.advance_ms(5_000);
        world.done(command).await;
        world.until("version 2", |world| world.report().version == Some(2)).await;
        assert_eq!(world.custodian.state().versions.len(), 2, "{fault:?}");
        assert_eq!(world.custodian.state().asked("release"), 1, "the lease goes on");
        assert!(world.serves());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_ends_in_a_wipe_and_comes_back() {
    let world = World::start().serving().await;
    for _ in 0..40 {
        world.custodian.fail("renew", Fault::Lost);
    }
    world.custodian.change(|state| state.lease_ms = 100_000);
    world.clock.advance_ms(59_999);
    assert!(world.serves());
    for _ in 0..40 {
        world.custodian.fail("challenge", Fault::Lost);
    }
    world.clock.advance_ms(1);
    assert!(!world.serves(), "the gate closes by itself");
    world.until("a wipe", |world| !world.served.holds_keys()).await;
    assert_eq!(world.report().version, None, "the root key is gone");
    assert_eq!(world.report().lease_remaining_ms, None);
    let tries = world.custodian.state().asked("challenge");
    world.until("two tries that fail", |world| world.custodian.state().asked("challenge") >= tries + 2).await;
    assert_eq!(world.report().state, KeyStoreState::LeaseExpired, "and it is said for as long as it is so");
    world.custodian.change(|state| state.faults.clear());
    world.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_held_back_stretches_nothing() {
    let world = World::start().serving().await;
    world.custodian.fail("renew", Fault::HeldBack(25_000));
    world.clock.advance_ms(20_000);
    world.until("the renewal", |world| world.clock.monotonic_ms() >= 45_000).await;
    world.until("the renewed lease", |world| world.report().lease_remaining_ms == Some(35_000)).await;
    // Held back beyond the end of its own lease, an answer is worth nothing.
    world.custodian.fail("renew", Fault::HeldBack(60_001));
    world.custodian.fail("challenge", Fault::Lost);
    world.until("another renewal", |world| world.clock.monotonic_ms() >= 105_001).await;
    world.until("a wipe", |world| !world.served.holds_keys()).await;
}

#[tokio::test(start_paused = true)]
async fn a_block_wipes_waits_quietly_and_is_lifted() {
    let world = World::start().serving().await;
    let created = world.create("a");
    world.done(created).await;
    world.block(true);
    world.until("blocked", |world| world.report().state == KeyStoreState::Blocked).await;
    assert!(!world.serves() && !world.served.holds_keys());
    assert_eq!(world.report().version, None, "the root key is gone");
    // A command that comes while the key store is blocked waits, and makes no busy loop.
    let waiting = world.create("b");
    let before = world.custodian.state().asked("watch");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let asked = world.custodian.state().asked("watch") - before;
    assert!(asked < 20, "{asked} watches in a minute");
    assert!(!world.custodian.state().results.contains_key(&waiting));
    world.block(false);
    world.until("keys in use", World::serves).await;
    world.done(waiting).await;
    world.until("version 3", |world| world.report().version == Some(3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_blocked_key_store_says_so_while_its_custodian_is_away() {
    let world = World::start().serving().await;
    world.block(true);
    world.until("blocked", |world| world.report().state == KeyStoreState::Blocked).await;
    for fault in [Fault::Lost; 5] {
        world.custodian.fail("renew", fault);
        world.custodian.fail("challenge", fault);
    }
    world.clock.advance_ms(60_000);
    world.until("three challenges", |world| world.custodian.state().asked("challenge") >= 3).await;
    assert_eq!(world.report().state, KeyStoreState::Blocked);
}

#[tokio::test(start_paused = true)]
async fn what_the_custodian_ends_is_over_whatever_was_asked() {
    for ask in ["watch", "renew", "publish", "report", "fetch"] {
        let world = World::start().serving().await;
        for _ in 0..5 {
            world.custodian.fail("challenge", Fault::Lost);
        }
        world.custodian.fail(ask, Fault::LeaseEnded);
        match ask {
            "renew" => world.clock.advance_ms(20_000),
            "publish" => drop(world.create("a")),
            "report" => drop(world.order(0, Action::ListKeys)),
            "fetch" => world.custodian.publish_as_another_enclave(),
            _ => world.custodian.changed.notify_waiters(),
        }
        world.until(ask, |world| world.report().state == KeyStoreState::Refused).await;
        assert!(!world.serves() && !world.served.holds_keys(), "{ask}");
        assert_eq!(world.report().version, None, "{ask}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_be_answered_stops_no_other() {
    let world = World::start().serving().await;
    // Her result cannot be encrypted to her.
    let poisoned = world.order(1, Action::ListKeys);
    let good = world.create("a");
    world.done(good).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    let state = world.custodian.state();
    assert!(!state.results.contains_key(&poisoned));
    assert_eq!(state.asked("release"), 1, "the lease goes on");
    assert!(state.asked("watch") < 60, "no busy loop: {}", state.asked("watch"));
}

#[tokio::test(start_paused = true)]
async fn noise_instead_of_commands_makes_no_busy_loop() {
    let world = World::start().serving().await;
    world.custodian.change(|state| state.commands.push((CommandId([1; 16]), vec![0; 40])));
    let before = world.custodian.state().asked("watch");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = world.custodian.state().asked("watch") - before;
    assert!(asked <= 110, "{asked} watches in ten seconds");
    world.custodian.change(|state| state.commands.clear());
    assert!(world.serves());
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_custodian_is_not_followed_and_lengthens_nothing() {
    for keep in [0, 1] {
        let world = World::start().serving().await;
        let command = world.create("a");
        world.done(command).await;
        world.until("version 2", |world| world.report().version == Some(2)).await;
        world.custodian.change(|state| state.versions.truncate(keep));
        // A new release, while the old lease runs.
        world.custodian.refuse_channel();
        world.clock.advance_ms(30_000);
        world.until("releases", |world| world.custodian.state().asked("release") >= 4).await;
        assert_eq!(world.custodian.state().versions.len(), keep, "nothing is published over the loss");
        assert!(world.serves(), "the old lease still runs");
        world.clock.advance_ms(30_000);
        world.until("a wipe", |world| !world.served.holds_keys()).await;
        assert!(!world.serves());
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(!world.served.holds_keys());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fork_at_the_same_version_is_not_followed() {
    let world = World::start().serving().await;
    let command = world.create("a");
    world.done(command).await;
    world.until("version 2", |world| world.report().version == Some(2)).await;
    // The custodian is restored from a backup, and another enclave makes another version 2 there.
    world.custodian.change(|state| state.versions.truncate(1));
    let (other_reporter, _lines) = Reporter::new();
    let (other, task, ..) = World::enclave(&world.clock, &world.custodians, &world.manifest, &other_reporter);
    world.until("the other serves", |world| other.may_use_keys(world.clock.monotonic_ms())).await;
    let command = world.create("b");
    world.until("the fork", |world| world.custodian.state().versions.len() == 2).await;
    world.until("the result", |world| world.custodian.state().results.contains_key(&command)).await;
    task.abort();
    world.custodian.refuse_channel();
    world.clock.advance_ms(60_000);
    world
        .until("a refusal", |world| world.report().reason.is_some_and(|reason| reason.as_str().contains("a fork")))
        .await;
    world.until("the end of service", |world| !world.serves() && !world.served.holds_keys()).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_share_is_refused() {
    let world = World::start().serving().await;
    world.custodian.change(|state| {
        state.shares.last_mut().unwrap().share.value = Secret::take(&mut [9; 32]);
    });
    world.custodian.refuse_channel();
    world.clock.advance_ms(60_000);
    world
        .until("a refusal", |world| {
            world.report().reason.is_some_and(|reason| reason.as_str() == "custodian vault gave a wrong share")
        })
        .await;
    assert!(!world.serves() && !world.served.holds_keys());
}

#[tokio::test(start_paused = true)]
async fn of_two_enclaves_that_publish_one_wins_and_the_other_follows() {
    let world = World::start().serving().await;
    let (other_reporter, _lines) = Reporter::new();
    let (other, task, ..) = World::enclave(&world.clock, &world.custodians, &world.manifest, &other_reporter);
    world.until("the other serves", |world| other.may_use_keys(world.clock.monotonic_ms())).await;
    let commands: Vec<_> = (0..6).map(|n| world.create(&format!("key-{n}"))).collect();
    for command in commands {
        world.done(command).await;
    }
    world.until("version 7", |world| world.report().version == Some(7)).await;
    world
        .until("version 7 at the other", |world| {
            other_reporter.states(world.clock.monotonic_ms()).first().is_some_and(|status| status.version == Some(7))
        })
        .await;
    assert_eq!(world.custodian.state().versions.len(), 7, "each command once");
    task.abort();
}
