//! Two processes of one custodian on one PostgreSQL server, with kills of both and of the server while they work: nothing that was
//! acknowledged is lost, and nothing happens twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests fail the test as tests do"
)]

mod enclave;
mod fleet;
#[path = "../support/postgres.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_shared::api;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::Action;
use holdfast_shared::ids::CommandId;
use holdfast_shared::query::{Answer, Question, ResultState};
use holdfast_shared::release::{ChallengeRequest, PROTOCOL};
use holdfast_tests::random::{Random, fresh_seed};

use enclave::{Enclave, Told};
use fleet::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    run(3, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_nothing_is_lost_and_nothing_happens_twice_in_many_crashes() {
    run(30, 100).await;
}

/// What was acknowledged to somebody.
#[derive(Default)]
struct Acknowledged {
    commands: BTreeSet<CommandId>,
    overlay_epoch: u64,
    versions: BTreeMap<u64, Vec<u8>>,
}

struct Run {
    fleet: Fleet,
    acknowledged: Mutex<Acknowledged>,
    crashing: AtomicBool,
}

async fn run(crashes: usize, orders: usize) {
    let seed = fresh_seed();
    println!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let fleet = Fleet::start().await;
    let run = Arc::new(Run { fleet, acknowledged: Mutex::default(), crashing: AtomicBool::new(true) });
    let mut founder = Enclave::obtain(&run.fleet, 0).await;
    founder.found(&run.fleet).await;

    let mut workers = Vec::new();
    for _ in 0..2 {
        let (run, random) = (Arc::clone(&run), Random::seeded(random.next()));
        workers.push(tokio::spawn(async move { run.serve(random).await }));
    }
    let orderer = {
        let (run, random) = (Arc::clone(&run), Random::seeded(random.next()));
        tokio::spawn(async move { run.order(random, orders).await })
    };
    for crash in 0..crashes {
        tokio::time::sleep(random.pause(600)).await;
        // The server once, replicas otherwise.
        if crash % 4 == 1 { run.fleet.crash_server() } else { run.fleet.kill(random.below(2)) }
    }
    orderer.await.unwrap();
    run.crashing.store(false, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    run.check().await;
}

impl Run {
    /// An administrator: commands and blocks, each tried until it is acknowledged, at whichever replica.
    async fn order(&self, mut random: Random, orders: usize) {
        for _ in 0..orders {
            let (id, bytes) = self.fleet.command(Action::ListKeys);
            self.until_acknowledged(&mut random, api::COMMANDS, bytes).await;
            self.acknowledged.lock().unwrap().commands.insert(id);
            let epoch = self.acknowledged.lock().unwrap().overlay_epoch + 1;
            self.until_acknowledged(&mut random, api::BLOCKS, self.fleet.overlay(epoch)).await;
            self.acknowledged.lock().unwrap().overlay_epoch = epoch;
            tokio::time::sleep(random.pause(100)).await;
        }
    }

    async fn until_acknowledged(&self, random: &mut Random, path: &str, body: Vec<u8>) {
        while let Err(error) = self.fleet.post(random.below(2), path, body.clone()).await {
            // A replica that is gone, or has no database, is asked again; what it says about the order itself is final.
            let refusal = error.refusal().map(|refusal| refusal.code);
            assert!(refusal.is_none_or(|code| code == api::RefusalCode::Internal), "{path}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An enclave: obtains releases, reports what came of commands, publishes versions, at whichever replica.
    async fn serve(&self, mut random: Random) {
        let mut enclave = Enclave::obtain(&self.fleet, random.below(2)).await;
        loop {
            let is_calm = !self.crashing.load(Ordering::SeqCst);
            let floor = self.acknowledged.lock().unwrap().overlay_epoch;
            match enclave.ask(&self.fleet, &mut random, &Ask::Watch { seen: Seen::default(), renew: true }).await {
                Told::Reply(Reply::News { overlay, commands, .. }) => {
                    assert!(enclave::epoch(overlay.as_deref()) >= floor, "a block that was acknowledged is not told");
                    if is_calm && commands.is_empty() {
                        return;
                    }
                    for command in commands {
                        self.carry_out(&mut enclave, &mut random, &command).await;
                    }
                }
                Told::Reply(other) => panic!("{other:?}"),
                Told::LeaseEnded => panic!("a lease that was granted is gone"),
                Told::Nothing => tokio::time::sleep(random.pause(50)).await,
            }
            if let Some((version, register)) = enclave.publish_next(&self.fleet, &mut random).await {
                let mut acknowledged = self.acknowledged.lock().unwrap();
                let first = acknowledged.versions.entry(version).or_insert_with(|| register.clone());
                assert_eq!(*first, register, "version {version} was acknowledged with two entries");
            }
            if random.below(4) == 0 {
                let floor = self.acknowledged.lock().unwrap().overlay_epoch;
                let next = Enclave::obtain_twice(&self.fleet, &mut random).await;
                assert!(enclave::epoch(next.overlay.as_deref()) >= floor, "a release does not know of a block");
                enclave = next;
            }
        }
    }

    /// Reports a result. If that is not acknowledged, the command is told again unless the report got through.
    async fn carry_out(&self, enclave: &mut Enclave, random: &mut Random, command: &[u8]) {
        let result = enclave.result_for(&self.fleet, command);
        match enclave.ask(&self.fleet, random, &Ask::Report { results: vec![result] }).await {
            Told::Reply(Reply::Reported) | Told::Nothing => {}
            Told::Reply(other) => panic!("{other:?}"),
            Told::LeaseEnded => panic!("a lease that was granted is gone"),
        }
    }

    async fn check(&self) {
        for replica in 0..2 {
            self.fleet.wait_for(replica).await;
            let Answer::Status(status) = self.fleet.query(replica, Question::Status).await else { panic!("no status") };
            let acknowledged = self.acknowledged.lock().unwrap();
            assert_eq!(status.overlay_epoch, acknowledged.overlay_epoch, "replica {replica}");
            assert_eq!(status.pending, [], "replica {replica}");
            let newest = acknowledged.versions.keys().max().copied().unwrap_or(1);
            assert!(status.version.unwrap().version >= newest, "replica {replica} lost version {newest}");
        }
        let commands = self.acknowledged.lock().unwrap().commands.clone();
        for id in commands {
            let Answer::Result(ResultState::Ready(_)) = self.fleet.query(0, Question::Result(id)).await else {
                panic!("command {id} was acknowledged and has no result")
            };
        }
        self.fleet.check_tables(&self.acknowledged.lock().unwrap().versions);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_challenges_and_made_up_leases_needs_no_database() {
    let fleet = Fleet::start().await;
    let request = cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id: fleet.key_store_id }).to_vec();
    fleet.post(0, api::CHALLENGE, request.clone()).await.unwrap();
    fleet.stop_server();
    for _ in 0..20 {
        fleet.post(0, api::CHALLENGE, request.clone()).await.unwrap();
        let made_up = fleet.post(0, api::CHANNEL, enclave::made_up_message()).await.unwrap_err();
        assert_eq!(made_up.refusal().map(|refusal| refusal.code), Some(api::RefusalCode::NotFound), "{made_up}");
    }
    let refused = fleet.post(0, api::COMMANDS, fleet.command(Action::ListKeys).1).await.unwrap_err();
    assert_eq!(refused.refusal().map(|refusal| refusal.code), Some(api::RefusalCode::Internal), "it has no database");
}
