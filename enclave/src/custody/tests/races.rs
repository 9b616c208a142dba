//! Two enclaves that draw a root key at once: the shares of the one that loses do no harm, whenever they come.

use holdfast_shared::provenance::share_set_sha256;
use holdfast_shared::{keystore, sharing};

use super::custodian::Dawdles;
use super::*;

const TWO_OF_THREE: (usize, u8, u8) = (3, 2, 0);
const DAY_MS: u64 = 24 * 3_600_000;

/// Another enclave beside that of the world.
struct Other {
    served: ServedStore,
    reporter: Reporter,
    task: JoinHandle<()>,
    _lines: tokio::sync::mpsc::Receiver<holdfast_link::control::ToParent>,
}

impl Other {
    fn start(world: &World) -> Self {
        let (reporter, lines) = Reporter::new();
        let (served, task, ..) = World::enclave(&world.clock, &world.custodians, &world.manifest, &reporter);
        Self { served, reporter, task, _lines: lines }
    }

    fn serves(&self, world: &World) -> bool {
        self.served.may_use_keys(world.clock.monotonic_ms())
    }

    fn version(&self, world: &World) -> Option<u64> {
        self.reporter.states(world.clock.monotonic_ms()).first().and_then(|status| status.version)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// Each custodian of the manifest in force has its share of the set in use, and any two of them open the newest version.
    pub(super) fn assert_any_two_open(&self, what: &str) {
        assert_eq!(self.assert_open(what), self.members().len(), "{what}: each has its share");
    }

    /// Shares of the set in use are with so many custodians, any two of which open the newest version.
    fn assert_open(&self, what: &str) -> usize {
        let newest = self.custodian.state().versions.last().unwrap().clone();
        let members = self.members();
        let named = newest.user_data().unwrap().share_set_sha256;
        let states: Vec<_> = members.iter().map(|fake| fake.state()).collect();
        let shares: Vec<_> =
            states.iter().flat_map(|state| &state.shares).filter(|held| share_set_sha256(&held.set) == named).collect();
        for (place, one) in shares.iter().enumerate() {
            for two in &shares[..place] {
                let root = sharing::combine(&one.set, &[&one.share, &two.share]).unwrap();
                keystore::open(&root, &newest.entry, &newest.blob).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
        shares.len()
    }

    /// From now on custodians take no share any more of the generation that is in use, or take it again. As long as they do not, none
    /// that was lost comes back.
    fn refuse_late_shares(&self, refuses: bool) {
        for fake in &self.custodians {
            fake.change(|state| state.hostile.refuses_late_shares = refuses);
        }
    }

    /// Waits until both enclaves serve this version, and looks whether enough shares are there before any could be given again.
    async fn both_at(&self, other: &Other, version: u64, what: &str) {
        let is_held = |fake: &Arc<FakeCustodian>| {
            fake.state().versions.last().is_some_and(|newest| newest.entry.version == version && newest.is_committed)
        };
        let is_there = |world: &Self| {
            let both_serve = world.serves() && other.serves(world);
            both_serve
                && (world.version(), other.version(world)) == (Some(version), Some(version))
                && world.members().into_iter().all(is_held)
        };
        self.until(what, is_there).await;
        assert!(self.assert_open(what) >= 2, "{what}: without any that is given again");
        self.refuse_late_shares(false);
        self.until(what, |world| is_there(world) && world.is_settled()).await;
        // Whatever comes late comes now.
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert!(is_there(self) && self.is_settled(), "{what}");
        self.assert_any_two_open(what);
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_a_lost_ceremony_that_comes_late_does_no_harm() {
    let world = World::start_quorum(TWO_OF_THREE, |custodians| {
        custodians[1..].iter().for_each(|fake| fake.state().hostile.delays_deposit = true);
    });
    world.refuse_late_shares(true);
    let late = |world: &World| world.custodians.iter().filter(|fake| fake.state().late.is_some()).count();
    world.until("two on their way", |world| late(world) == 2).await;
    let other = Other::start(&world);
    world.until("the other serves", |world| other.serves(world)).await;
    world.until("their arrival", |world| late(world) == 0).await;
    world.both_at(&other, 1, "version 1 at both").await;
    drop(other);
    let mut world = world;
    for away in 0..3 {
        world.away(&[away], true);
        world = world.reboot().await.serving().await;
        world.away(&[away], false);
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_made_room_for_others_is_given_again() {
    let crowd_out =
        |world: &World| world.custodians[1..].iter().for_each(|fake| fake.state().hostile.crowds_out = true);
    let world = World::start_quorum(TWO_OF_THREE, |_| {});
    crowd_out(&world);
    let world = world.serving().await.settled().await;
    crowd_out(&world);
    let command = world.order(0, Action::RotateRootKey);
    world.done(command).await;
    world.until("new shares", |world| world.generations() == [[2], [2], [2]]).await;
    world.settled().await.assert_any_two_open("in the end");
}

#[tokio::test(start_paused = true)]
async fn old_shares_stay_until_enough_hold_the_new_version_and_its_shares() {
    let world = World::start_quorum(TWO_OF_THREE, |_| {}).serving().await.settled().await;
    world.refuse_late_shares(true);
    let command = world.order(0, Action::RotateRootKey);
    world.done(command).await;
    world.until("copies", |world| world.custodians.iter().all(|fake| fake.state().versions.len() == 2)).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.generations(), [[1, 2], [1, 2], [1, 2]]);
    assert!(world.custodians.iter().all(|fake| fake.state().asked("retire") == 0));
    world.custodians[1].change(|state| state.hostile.refuses_late_shares = false);
    let expected = [vec![2], vec![2], vec![1, 2]];
    world.until("those that confirmed their shares", |world| world.generations() == expected).await;
    world.refuse_late_shares(false);
    world.settled().await;
}

/// More sets of one generation come than custodians keep.
#[tokio::test(start_paused = true)]
async fn root_keys_without_a_version_leave_shares_that_do_no_harm() {
    let break_off = |world: &World| (0..6).for_each(|_| world.custodian.fail("publish", Fault::Lost));
    let tried = |world: &World| world.custodian.state().faults.is_empty();
    let world = World::start_quorum(TWO_OF_THREE, |_| {});
    break_off(&world);
    world.until("four sets", |world| world.generations() == [[1; 4]; 3]).await;
    let world = world.reboot().await;
    world.until("six tries", tried).await;
    let world = world.serving().await.settled().await;
    world.assert_any_two_open("a ceremony");
    break_off(&world);
    let command = world.order(0, Action::RotateRootKey);
    let again = |world: &World| {
        // A command that failed is put off.
        world.clock.advance_ms(100);
        tried(world)
    };
    world.until("six tries", again).await;
    assert_eq!(world.generations(), [[1, 2, 2, 2, 2]; 3]);
    let world = world.reboot().await.serving().await;
    world.done(command).await;
    world.settled().await.assert_any_two_open("a new root key");
}

fn dawdle(custodians: &[Arc<FakeCustodian>], seed: u64) {
    let dawdles = Dawdles::of(seed);
    for fake in custodians {
        fake.state().hostile.dawdles = Some(Arc::clone(&dawdles));
    }
}

/// What two enclaves do at once.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Ceremony,
    RotateRootKey,
    /// As a standing order, whose time has come.
    DestroyKey,
    ExchangeCustodian,
}

#[tokio::test(start_paused = true)]
async fn of_two_new_root_keys_one_wins_and_any_two_custodians_open_the_key_store() {
    race_all(0..3).await;
}

#[tokio::test(start_paused = true)]
async fn long_of_two_new_root_keys_one_wins_and_any_two_custodians_open_the_key_store() {
    race_all(3..24).await;
}

async fn race_all(seeds: core::ops::Range<u64>) {
    for seed in seeds {
        for deed in [Deed::Ceremony, Deed::RotateRootKey, Deed::DestroyKey, Deed::ExchangeCustodian] {
            race(deed, seed).await;
        }
    }
}

async fn race(deed: Deed, seed: u64) {
    let what = format!("{deed:?}, seed {seed}");
    let world = World::start_beside(TWO_OF_THREE, 1, |custodians| {
        for fake in custodians {
            fake.state().lease_ms = 3 * DAY_MS;
        }
        if let Deed::Ceremony = deed {
            dawdle(custodians, seed);
        }
    });
    if let Deed::Ceremony = deed {
        world.refuse_late_shares(true);
        let other = Other::start(&world);
        world.both_at(&other, 1, &what).await;
        return;
    }
    let world = world.serving().await.settled().await;
    let other = Other::start(&world);
    let version = match deed {
        Deed::DestroyKey => {
            let created = world.create("a");
            world.done(created).await;
            let id = ExternalKeyId::parse("a").unwrap();
            let scheduled = world.order(0, Action::ScheduleKeyDestruction { id, waiting_ms: DAY_MS });
            world.done(scheduled).await;
            3
        }
        _ => 1,
    };
    world.both_at(&other, version, &what).await;
    dawdle(&world.custodians, seed);
    world.refuse_late_shares(true);
    match deed {
        Deed::DestroyKey => world.clock.advance_ms(DAY_MS),
        Deed::ExchangeCustodian => {
            let signed = world.with_another_third();
            world.stage(&signed);
            world.order(0, Action::AdoptManifest { signed });
        }
        _ => drop(world.order(0, Action::RotateRootKey)),
    }
    world.both_at(&other, version + 1, &what).await;
    let (third, fourth) = if let Deed::ExchangeCustodian = deed { (vec![], vec![2]) } else { (vec![2], vec![]) };
    assert_eq!(world.generations(), [vec![2], vec![2], third, fourth], "{what}");
}
