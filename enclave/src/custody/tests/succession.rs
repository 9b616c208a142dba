//! The end of keys, new root keys, and other custodians.

use holdfast_shared::keystore;
use holdfast_shared::manifest::{ManifestId, Succession};

use super::custodian::Dawdles;
use super::*;

impl World {
    pub(super) fn successor(&self, change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
        let mut manifest = self.manifest.manifest().clone();
        let (sequence, predecessor) = (2, self.manifest.digest());
        manifest.succession = Some(Succession { key_store_id: self.id, sequence, predecessor, overlay_epoch: 0 });
        change(&mut manifest);
        bytes_of(&manifest::sign(&manifest, &self.administrators[0].signing, &SystemRandom::new()).unwrap())
    }

    /// The successor that puts the custodian that no manifest names in the place of the third.
    pub(super) fn with_another_third(&self) -> Vec<u8> {
        self.successor(|manifest| manifest.custodians[2] = self.custodians[3].in_manifest())
    }

    /// Hands a successor to those that are, and to those that it brings in, who know of no other.
    pub(super) fn stage(&self, signed: &[u8]) {
        for custodian in &self.custodians {
            let mut state = custodian.state();
            let successor = state.manifest().succeed(signed).unwrap();
            if self.manifest.manifest().custodians.contains(&custodian.in_manifest()) {
                state.staged = Some(successor);
            } else {
                state.manifest = Some(successor);
            }
        }
    }

    fn refuse_copies_from(&self, version: Option<u64>) {
        for fake in &self.custodians {
            fake.change(|state| state.hostile.refuses_copies_from = version);
        }
    }

    /// The generations of the shares that each custodian holds.
    pub(super) fn generations(&self) -> Vec<Vec<u32>> {
        self.custodians.iter().map(|custodian| custodian.state().generations()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_root_key_replaces_all_shares_and_other_enclaves_follow() {
    for numbers in [(1, 1, 0), (3, 2, 0), (3, 2, 1)] {
        let world = World::start_quorum(numbers, |_| {}).serving().await.settled().await;
        let (other_reporter, _lines) = Reporter::new();
        let (other, task, ..) = World::enclave(&world.clock, &world.custodians, &world.manifest, &other_reporter);
        world.until("the other serves", |world| other.may_use_keys(world.clock.monotonic_ms())).await;
        let old: Vec<_> = world.custodians.iter().map(|c| *c.state().shares[0].share.value.expose()).collect();
        let command = world.order(0, Action::RotateRootKey);
        world.done(command).await;
        world.until("new shares", |world| world.generations().iter().all(|held| held == &[2])).await;
        for (custodian, old) in world.custodians.iter().zip(&old) {
            assert_ne!(custodian.state().shares[0].share.value.expose(), old);
        }
        let both = |world: &World| {
            let told = other_reporter.states(world.clock.monotonic_ms());
            world.version() == Some(2) && told.first().is_some_and(|status| status.version == Some(2))
        };
        world.until("version 2 at both", both).await;
        assert!(world.serves() && other.may_use_keys(world.clock.monotonic_ms()), "{numbers:?}: without a gap");
        task.abort();
        let world = world.reboot().await.serving().await;
        assert_eq!(world.version(), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_waiting_period_is_over_is_destroyed_and_the_root_key_changes() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let world = World::start_quorum((3, 2, 0), |custodians| {
        for custodian in custodians {
            custodian.state().lease_ms = 3 * DAY_MS;
        }
    });
    let world = world.serving().await.settled().await;
    let created = world.create("a");
    world.done(created).await;
    let id = ExternalKeyId::parse("a").unwrap();
    let command = world.order(0, Action::ScheduleKeyDestruction { id, waiting_ms: DAY_MS });
    world.done(command).await;
    let world = world.settled().await;
    world.clock.advance_ms(DAY_MS - 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(world.version(), Some(3));
    world.clock.advance_ms(1);
    world.until("version 4", |world| world.version() == Some(4)).await;
    world.until("new shares", |world| world.generations().iter().all(|held| held == &[2])).await;
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn custodians_change_by_a_successor_and_the_removed_one_keeps_no_share() {
    let world = World::start_beside((3, 2, 0), 1, |_| {});
    let world = world.serving().await;

    let signed = world.with_another_third();
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    let expected = [vec![2], vec![2], vec![], vec![2]];
    world.until("shares", |world| world.generations() == expected).await;
    assert!(world.serves());
    let command = world.create("a");
    world.done(command).await;
    world.until("version 3 at the new one", |world| world.custodians[3].state().versions.len() == 3).await;
    assert_eq!(world.custodians[2].state().versions.len(), 2, "the removed one holds the version that removed it");
    // Another boot knows the first manifest only.
    let world = world.reboot().await.serving().await;
    assert_eq!(world.version(), Some(3));
    // Nor does it need the home custodian, or the removed one: any other hands out the successor.
    world.away(&[0, 2], true);
    let world = world.reboot().await.serving().await;
    assert_eq!(world.version(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn one_custodian_becomes_three_and_three_become_one() {
    let world = World::start_beside((1, 1, 0), 2, |_| {});
    let world = world.serving().await;
    let signed = world.successor(|manifest| {
        manifest.custodians = world.custodians.iter().map(|custodian| custodian.in_manifest()).collect();
        manifest.shares_needed = 2;
    });
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    let world = world.settled().await;
    assert_eq!(world.generations(), [[2], [2], [2]]);
    world.away(&[1], true);
    world.reboot().await.serving().await;

    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| {
        manifest.custodians.truncate(1);
        manifest.shares_needed = 1;
        manifest.hostile_tolerated = 0;
    });
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    world.until("shares", |world| world.generations() == [vec![2], vec![], vec![]]).await;
    world.away(&[1, 2], true);
    let world = world.reboot().await.serving().await;
    assert_eq!(keystore::header(&world.custodian.state().versions[1].blob).unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn administrators_change_without_new_shares() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| manifest.administrators.truncate(1));
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    let world = world.settled().await;
    assert_eq!(world.generations(), [[1], [1], [1]]);
    let world = world.reboot().await.serving().await;
    assert_eq!(world.version(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_successor_whose_custodians_do_not_answer_is_not_begun() {
    let world = World::start_beside((3, 2, 1), 1, |_| {});
    let world = world.serving().await;
    world.away(&[3], true);
    let signed = world.with_another_third();
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!world.custodian.state().results.contains_key(&command));
    assert_eq!((world.version(), world.custodian.state().versions.len()), (Some(1), 1));
    assert!(world.serves());
    world.away(&[3], false);
    world.clock.advance_ms(10_000);
    world.done(command).await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_counts_once_those_that_were_and_those_that_will_be_hold_it() {
    // The one that goes, and the one that comes.
    for hostile in [2, 3] {
        let world = World::start_beside((3, 2, 1), 1, |_| {});
        let world = world.serving().await;
        world.until("all copies", |world| world.custodians[2].state().versions.len() == 1).await;
        let signed = world.with_another_third();
        world.stage(&signed);
        world.custodians[hostile].change(|state| state.hostile.refuses_copies_from = Some(2));
        let command = world.order(0, Action::AdoptManifest { signed });
        world.until("version 2", |world| world.custodian.state().versions.len() == 2).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(!world.custodian.state().results.contains_key(&command), "{hostile}");
        assert_eq!(world.version(), Some(1));
        assert!(world.serves());
        world.custodians[hostile].change(|state| state.hostile.refuses_copies_from = None);
        world.done(command).await;
        world.until("version 2 in service", |world| world.version() == Some(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn old_shares_stay_where_the_new_version_is_not_held() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await.settled().await;
    world.custodians[2].change(|state| state.hostile.refuses_copies = true);
    let command = world.order(0, Action::RotateRootKey);
    world.done(command).await;
    let expected = [vec![2], vec![2], vec![1, 2]];
    world.until("shares", |world| world.generations() == expected).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.custodians[2].state().asked("retire"), 0);
    world.custodians[2].change(|state| state.hostile.refuses_copies = false);
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_ends_after_publishing_is_made_up_for() {
    for numbers in [(3, 2, 0), (3, 2, 1)] {
        let world = World::start_beside(numbers, 1, |_| {}).serving().await.settled().await;
        let signed = world.with_another_third();
        world.stage(&signed);
        world.refuse_copies_from(Some(2));
        world.custodian.fail("publish", Fault::AnswerLost);
        let command = world.order(0, Action::AdoptManifest { signed });
        world.until("version 2 at home", |world| world.custodian.state().versions.len() == 2).await;
        world.task.abort();
        world.refuse_copies_from(None);
        // Whoever comes next knows the first manifest only.
        let world = world.reboot().await.serving().await;
        world.done(command).await;
        world.until("shares", |world| world.generations() == [vec![2], vec![2], vec![], vec![2]]).await;
        assert_eq!(world.settled().await.version(), Some(2), "{numbers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_custodian_deletes_its_shares_whoever_tells_it() {
    let world = World::start_beside((3, 2, 0), 1, |_| {}).serving().await.settled().await;
    let signed = world.with_another_third();
    world.stage(&signed);
    world.custodians[2].fail("retire", Fault::Lost);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    world.until("it is told", |world| world.custodians[2].state().asked("retire") == 1).await;
    world.task.abort();
    assert_eq!(world.custodians[2].state().generations(), [1]);
    // From now on it shows no share to anybody.
    let world = world.reboot().await.serving().await;
    world.until("nothing is left", |world| world.custodians[2].state().shares.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn who_lags_behind_where_it_was_removed_or_got_another_place_catches_up() {
    let world = World::start_beside((3, 2, 0), 1, |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| {
        // The third comes second, and the new one third.
        manifest.custodians.remove(1);
        manifest.custodians.push(world.custodians[3].in_manifest());
    });
    world.stage(&signed);
    world.custodians[1].change(|state| state.hostile.refuses_copies_from = Some(2));
    world.custodians[2].change(|state| state.hostile.refuses_deposits = true);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    world.until("the successor is in force", |world| world.version() == Some(2)).await;
    // Each shows the share of its old place once more.
    for custodian in &world.custodians[1..3] {
        custodian.refuse_channel();
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.generations(), [vec![2], vec![1], vec![1], vec![2]]);
    world.custodians[1].change(|state| state.hostile.refuses_copies_from = None);
    world.custodians[2].change(|state| state.hostile.refuses_deposits = false);
    world.until("all shares", |world| world.generations() == [vec![2], vec![], vec![2], vec![2]]).await;
}

/// A successor that all who must have signed, and that was withdrawn before it was adopted.
type Withdrawn = fn(&World, &mut Manifest);

const WITHDRAWN: [Withdrawn; 3] = [
    |world, manifest| manifest.custodians[1] = world.custodians[3].in_manifest(),
    |_, manifest| drop(manifest.administrators.remove(0)),
    |_, manifest| {
        manifest.custodians.truncate(1);
        manifest.shares_needed = 1;
    },
];

impl World {
    /// The manifest under which the newest version was made.
    fn made_under(&self) -> ManifestId {
        self.custodian.state().versions.last().and_then(custodian::Version::manifest).unwrap()
    }

    /// Changes something, and boots anew with none away, and with each of these.
    async fn served_under(mut self, manifest: ManifestId, away: &[usize]) -> Self {
        let command = self.create(&format!("key-{}", self.version().unwrap()));
        self.done(command).await;
        self = self.settled().await;
        assert_eq!(self.made_under(), manifest);
        let version = self.custodian.state().versions.last().map(|newest| newest.entry.version);
        self = self.reboot().await.serving().await;
        for away in away {
            self.away(&[*away], true);
            self = self.reboot().await.serving().await;
            assert_eq!(self.version(), version, "{away} away");
            self.away(&[*away], false);
        }
        self.settled().await
    }
}

async fn withdrawn(hostile: usize, change: Withdrawn) {
    let world = World::start_beside((3, 2, 0), 1, |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| change(&world, manifest));
    world.custodians[hostile].change(|state| state.hostile.successors = Some(vec![signed]));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let first = world.manifest.manifest_id();
    let world = world.served_under(first, &[0, 1, 2]).await;
    let signed = world.with_another_third();
    let adopted = world.manifest.succeed(&signed).unwrap().manifest_id();
    world.stage(&signed);
    let command = world.order(0, Action::AdoptManifest { signed });
    world.done(command).await;
    let world = world.settled().await;
    assert_eq!(world.made_under(), adopted);
    // Of the first two, one must be there that hands out what was adopted: nobody else knows the one that came.
    let away: &[usize] = if hostile == 2 { &[0, 1, 2, 3] } else { &[2, 3] };
    world.served_under(adopted, away).await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_successor_that_a_custodian_hands_out_is_never_in_force() {
    for change in WITHDRAWN {
        withdrawn(1, change).await;
    }
}

#[tokio::test(start_paused = true)]
async fn long_a_withdrawn_successor_that_a_custodian_hands_out_is_never_in_force() {
    for change in WITHDRAWN {
        for hostile in [0, 2] {
            withdrawn(hostile, change).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_is_in_force_where_another_was_handed_in() {
    for change in WITHDRAWN {
        let world = World::start_beside((3, 2, 0), 1, |_| {}).serving().await.settled().await;
        let other = world.successor(|manifest| change(&world, manifest));
        let signed = world.with_another_third();
        let adopted = world.manifest.succeed(&signed).unwrap().manifest_id();
        world.stage(&signed);
        world.custodians[1].state().staged = Some(world.manifest.succeed(&other).unwrap());
        let command = world.order(0, Action::AdoptManifest { signed });
        world.done(command).await;
        let world = world.settled().await.served_under(adopted, &[1, 2, 3]).await;
        assert_eq!(world.custodians[1].state().manifest(), &world.manifest, "no version names what it was handed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_custodian_gets_its_share_once_it_knows_what_the_others_know() {
    type Change = fn(&World, &[Arc<FakeCustodian>]);
    let policy: Change = |_, custodians| custodians.iter().for_each(|one| one.change(|state| state.policy_epoch = 2));
    let overlay: Change = |world, custodians| {
        for custodian in custodians {
            custodian.block(world.id, false, &world.administrators[0].signing);
        }
    };
    for teach in [policy, overlay] {
        let world = World::start_beside((3, 2, 0), 1, |_| {}).serving().await.settled().await;
        teach(&world, &world.custodians[..3]);
        let world = world.reboot().await.serving().await;
        let signed = {
            let third = world.custodians[3].in_manifest();
            let epoch = world.custodian.state().overlay.as_ref().map_or(0, |overlay| overlay.epoch);
            world.successor(|manifest| {
                manifest.custodians[2] = third;
                manifest.succession.as_mut().unwrap().overlay_epoch = epoch;
            })
        };
        world.stage(&signed);
        // When others are to sign overlays, each tells its own again: slowly, while the new one takes what it is given at once.
        for custodian in &world.custodians[..3] {
            custodian.change(|state| state.hostile.dawdles = Some(Dawdles::of(7)));
        }
        let command = world.order(0, Action::AdoptManifest { signed });
        world.done(command).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(world.generations(), [vec![2], vec![2], vec![], vec![]], "it would release what the others refuse");
        teach(&world, &world.custodians[3..]);
        world.until("all shares", |world| world.generations() == [vec![2], vec![2], vec![], vec![2]]).await;
    }
}
