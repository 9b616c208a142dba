//! Several custodians: some away, some hostile, and enclaves that end at any moment.

use holdfast_shared::keystore;

use super::*;

/// n, m and f.
const TWO_OF_THREE: (usize, u8, u8) = (3, 2, 0);
const TWO_OF_THREE_ONE_HOSTILE: (usize, u8, u8) = (3, 2, 1);
const THREE_OF_FIVE: (usize, u8, u8) = (5, 3, 0);
const FOUR_OF_FIVE_ONE_HOSTILE: (usize, u8, u8) = (5, 4, 1);

impl World {
    /// The custodians of the manifest that is in force at home.
    pub(super) fn members(&self) -> Vec<&Arc<FakeCustodian>> {
        let manifest = self.custodian.state().manifest().clone();
        let is_member = |fake: &&Arc<FakeCustodian>| manifest.manifest().custodians.contains(&fake.in_manifest());
        self.custodians.iter().filter(is_member).collect()
    }

    /// All custodians of the manifest in force hold the newest version, know that it is committed, and have their shares of the root key in use.
    pub(super) fn is_settled(&self) -> bool {
        let home = self.custodian.state();
        let Some(newest) = home.versions.last() else { return false };
        let generation = keystore::header(&newest.blob).unwrap().generation;
        let (entry, set) = (newest.entry.clone(), home.shares.last().map(|held| held.set.clone()));
        drop(home);
        self.members().iter().all(|custodian| {
            let state = custodian.state();
            state.versions.last().is_some_and(|held| held.entry == entry && held.is_committed)
                && state.shares.len() == 1
                && state.shares.last().map(|held| held.set.clone()) == set
                && set.as_ref().is_some_and(|set| set.generation == generation)
        })
    }

    pub(super) async fn settled(self) -> Self {
        self.until("all custodians up to date", Self::is_settled).await;
        self
    }

    /// The enclave ends, and another one boots.
    pub(super) async fn reboot(mut self) -> Self {
        self.task.abort();
        let (reporter, lines) = Reporter::new();
        let (served, task, directory, enclave) =
            Self::enclave(&self.clock, &self.custodians, &self.manifest, &reporter);
        self.reporter = reporter;
        self.served = served;
        self.task = task;
        self.directory = directory;
        self.enclave = enclave;
        self.lines = lines;
        tokio::task::yield_now().await;
        self
    }

    pub(super) fn away(&self, places: &[usize], is_away: bool) {
        for place in places {
            self.custodians[*place].change(|state| state.hostile.is_away = is_away);
        }
    }

    pub(super) fn reason(&self) -> String {
        self.report().reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default()
    }

    pub(super) async fn reasoned(&self, text: &str) {
        self.until(text, |world| world.reason().contains(text)).await;
    }

    pub(super) fn version(&self) -> Option<u64> {
        self.report().version
    }
}

async fn serving(numbers: (usize, u8, u8)) -> World {
    World::start_quorum(numbers, |_| {}).serving().await.settled().await
}

#[tokio::test(start_paused = true)]
async fn a_ceremony_and_a_change_reach_all_custodians() {
    for numbers in
        [TWO_OF_THREE, TWO_OF_THREE_ONE_HOSTILE, THREE_OF_FIVE, FOUR_OF_FIVE_ONE_HOSTILE, (2, 1, 0), (2, 2, 0)]
    {
        let world = serving(numbers).await;
        assert!(world.custodian.state().results.contains_key(&command::ceremony_id(world.id)), "{numbers:?}");
        let command = world.create("a");
        world.done(command).await;
        let world = world.settled().await;
        assert_eq!(world.version(), Some(2));
        let shares: Vec<_> = world.custodians.iter().map(|c| *c.state().shares[0].share.value.expose()).collect();
        for (place, share) in shares.iter().enumerate() {
            assert!(numbers.1 == 1 || !shares[..place].contains(share), "{numbers:?}: each has a share of its own");
        }
        let world = world.reboot().await.serving().await;
        assert_eq!(world.version(), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn any_that_are_enough_open_the_key_store() {
    let world = serving(TWO_OF_THREE).await;
    let mut world = Some(world);
    for away in 0..3 {
        let now = world.take().unwrap();
        now.away(&[away], true);
        let now = now.reboot().await.serving().await;
        now.reasoned(&now.custodians[away].in_manifest().name).await;
        now.away(&[away], false);
        world = Some(now);
    }
    let world = world.unwrap();
    world.away(&[1, 2], true);
    let world = world.reboot().await;
    world.reasoned("1 of 2 custodians answered").await;
    assert!(world.reason().contains("vault-1: ") && world.reason().contains("vault-2: "), "{}", world.reason());
    assert!(!world.serves());
    world.away(&[1], false);
    world.serving().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_away_is_given_version_and_share_later() {
    // One that misses the ceremony, and one that misses changes.
    let world = World::start_quorum(TWO_OF_THREE, |custodians| custodians[2].state().hostile.is_away = true);
    let world = world.serving().await;
    for name in ["a", "b"] {
        let command = world.create(name);
        world.done(command).await;
    }
    assert!(world.custodians[2].state().shares.is_empty());
    world.away(&[2], false);
    let world = world.settled().await;
    // It is as good as the others from now on.
    world.away(&[0], true);
    let world = world.reboot().await.serving().await;
    assert_eq!(world.version(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_until_enough_custodians_can_hold_it() {
    let world = serving(TWO_OF_THREE_ONE_HOSTILE).await;
    world.away(&[1], true);
    // Its link must have noticed.
    world.clock.advance_ms(30_000);
    world.until("a renewal", |world| world.custodians[1].state().asked("renew") > 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.reasoned("vault-1: ").await;
    let command = world.create("a");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!world.custodian.state().results.contains_key(&command));
    assert_eq!(world.custodian.state().versions.len(), 1, "nor is it begun");
    assert!(world.serves());
    world.away(&[1], false);
    world.until("it answers again", |world| !world.reason().contains("vault-1")).await;
    world.clock.advance_ms(10_000);
    world.done(command).await;
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_share_names_its_custodian_and_the_others_open() {
    wrong_shares(&[TWO_OF_THREE]).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_wrong_share_names_its_custodian_and_the_others_open() {
    wrong_shares(&[TWO_OF_THREE_ONE_HOSTILE, THREE_OF_FIVE, FOUR_OF_FIVE_ONE_HOSTILE]).await;
}

async fn wrong_shares(all: &[(usize, u8, u8)]) {
    for &numbers in all {
        for hostile in 0..numbers.0 {
            let world = serving(numbers).await;
            world.custodians[hostile].change(|state| state.hostile.wrong_share = Some(9));
            let world = world.reboot().await.serving().await;
            let name = world.custodians[hostile].in_manifest().name;
            world.reasoned(&format!("{name}: custodian {name} gave a wrong share")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_custodian_that_offers_an_old_version_is_outvoted() {
    old_versions(&[TWO_OF_THREE]).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_custodian_that_offers_an_old_version_is_outvoted() {
    old_versions(&[TWO_OF_THREE_ONE_HOSTILE, THREE_OF_FIVE, FOUR_OF_FIVE_ONE_HOSTILE]).await;
}

async fn old_versions(all: &[(usize, u8, u8)]) {
    for &numbers in all {
        for hostile in 0..numbers.0 {
            let world = serving(numbers).await;
            let command = world.create("a");
            world.done(command).await;
            let world = world.settled().await;
            world.custodians[hostile].change(|state| {
                state.hostile.offers_version = Some(1);
                state.hostile.lies_committed = true;
            });
            let others: Vec<_> = (0..numbers.0).filter(|place| *place != hostile).collect();
            // As few others as can be, so that its word weighs most.
            let needed = usize::from(numbers.1);
            world.away(&others[needed - 1..], true);
            let world = world.reboot().await;
            world.until("a decision", |world| world.serves() || world.reason().contains("must hold it")).await;
            if world.serves() {
                assert_eq!(world.version(), Some(2), "{numbers:?} {hostile}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_custodian_restored_from_a_backup_is_brought_up_to_date() {
    for restored in 0..3 {
        let world = serving(TWO_OF_THREE).await;
        for name in ["a", "b"] {
            let command = world.create(name);
            world.done(command).await;
        }
        let world = world.settled().await;
        world.custodians[restored].change(|state| state.versions.truncate(1));
        let world = world.reboot().await.serving().await.settled().await;
        assert_eq!(world.version(), Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_boot_has_seen_is_never_undone_by_a_quorum_of_old_custodians() {
    let world = serving(TWO_OF_THREE).await;
    let command = world.create("a");
    world.done(command).await;
    let world = world.settled().await;
    world.away(&[2], true);
    // One of them alone would be brought up to date; here both take no copy.
    for place in [0, 1] {
        world.custodians[place].change(|state| {
            state.versions.truncate(1);
            state.hostile.refuses_copies = true;
        });
        world.custodians[place].refuse_channel();
    }
    world.clock.advance_ms(60_000);
    world.reasoned("a rollback").await;
    world.until("a wipe", |world| !world.served.holds_keys()).await;
    assert!(world.reason().contains("vault, vault-1"), "{}", world.reason());
    for place in [0, 1] {
        assert_eq!(world.custodians[place].state().versions.len(), 1, "nothing is published over the loss");
    }
}

#[tokio::test(start_paused = true)]
async fn a_home_that_signs_two_versions_is_named() {
    let world = serving(TWO_OF_THREE_ONE_HOSTILE).await;
    let command = world.create("a");
    world.done(command).await;
    let world = world.settled().await;
    world.custodians[2].change(|state| {
        let newest = state.versions.pop().unwrap();
        let mut entry = newest.entry.clone();
        entry.blob_id = keystore::blob_id(b"other");
        state.versions.push(world.custodian.version(entry, b"other".to_vec()));
    });
    let world = world.reboot().await;
    world.reasoned("a fork").await;
    assert!(
        world.reason().contains("vault, vault-2") || world.reason().contains("vault-1, vault-2"),
        "{}",
        world.reason()
    );
    assert!(world.reason().contains("of vault, which orders versions"), "{}", world.reason());
    world.custodians[2].change(|state| state.versions.truncate(1));
    world.serving().await.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_replayed_release_opens_nothing() {
    for hostile in 0..3 {
        let world = serving(TWO_OF_THREE).await;
        world.custodians[hostile].change(|state| state.hostile.replays = true);
        let world = world.reboot().await.serving().await;
        let name = world.custodians[hostile].in_manifest().name;
        world.reasoned(&format!("{name}: ")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_withheld_block_is_delivered_by_any_other() {
    withheld_blocks(&[TWO_OF_THREE]).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_withheld_block_is_delivered_by_any_other() {
    withheld_blocks(&[TWO_OF_THREE_ONE_HOSTILE, THREE_OF_FIVE, FOUR_OF_FIVE_ONE_HOSTILE]).await;
}

async fn withheld_blocks(all: &[(usize, u8, u8)]) {
    for &numbers in all {
        for honest in 0..numbers.0 {
            let world = serving(numbers).await;
            world.block_at(&world.custodians[honest..=honest], true);
            world.until("blocked", |world| world.report().state == KeyStoreState::Blocked).await;
            assert!(!world.serves() && !world.served.holds_keys());
            let world = world.reboot().await;
            world.until("blocked after a boot", |world| world.report().state == KeyStoreState::Blocked).await;
            assert!(!world.served.holds_keys());
            world.block_at(&world.custodians[honest..=honest], false);
            world.serving().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_custodian_that_refuses_copies_stops_changes_only_where_its_copy_counts() {
    let world = serving(TWO_OF_THREE).await;
    world.custodians[1].change(|state| state.hostile.refuses_copies = true);
    let command = world.create("a");
    world.done(command).await;
    world.reasoned("vault-1: refuses to copy a version").await;

    let world = serving(TWO_OF_THREE_ONE_HOSTILE).await;
    world.custodians[1].change(|state| state.hostile.refuses_copies = true);
    let command = world.create("a");
    world.reasoned("version 2 is held by 2 of 3 custodians that must hold it; not by vault-1").await;
    assert_eq!(world.version(), Some(1), "the version before is served meanwhile");
    assert!(!world.custodian.state().results.contains_key(&command), "and no result is shown");
    world.custodians[1].change(|state| state.hostile.refuses_copies = false);
    world.done(command).await;
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_lie_that_a_version_is_committed_is_not_believed() {
    let world = serving(TWO_OF_THREE_ONE_HOSTILE).await;
    world.custodians[1].change(|state| state.hostile.refuses_copies = true);
    let _ = world.create("a");
    world.until("version 2 at home", |world| world.custodian.state().versions.len() == 2).await;
    world.until("a copy", |world| world.custodians[2].state().versions.len() == 2).await;
    world.custodian.change(|state| state.hostile.lies_committed = true);
    let world = world.reboot().await;
    world.reasoned("version 2 is held by 2 of 3").await;
    assert!(!world.serves());
}

#[tokio::test(start_paused = true)]
async fn leases_of_as_many_as_are_needed_keep_the_key_store_open() {
    let world = serving(TWO_OF_THREE).await;
    world.away(&[1], true);
    world.clock.advance_ms(30_000);
    world.until("renewals", |world| world.report().lease_remaining_ms.is_some_and(|left| left > 50_000)).await;
    // The lease of the second one that answers counts, not that of the first.
    world.away(&[2], true);
    world.clock.advance_ms(30_000);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(world.serves());
    world.until("half a minute left", |world| world.report().lease_remaining_ms == Some(30_000)).await;
    world.clock.advance_ms(30_000);
    assert!(!world.serves(), "one custodian that renews is not enough");
    world.until("a wipe", |world| !world.served.holds_keys()).await;
    assert_eq!(world.report().state, KeyStoreState::LeaseExpired);
    world.away(&[2], false);
    world.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_lease_counts_no_more_at_once() {
    let world = serving(TWO_OF_THREE).await;
    world.away(&[1], true);
    world.clock.advance_ms(60_000);
    world.until("renewals", World::serves).await;
    for place in [0, 2] {
        world.custodians[place].fail("challenge", Fault::Lost);
    }
    world.custodians[2].fail("watch", Fault::LeaseEnded);
    world.until("a wipe", |world| !world.served.holds_keys()).await;
    assert!(!world.serves());
}

#[tokio::test(start_paused = true)]
async fn an_old_word_and_an_old_register_make_no_quorum() {
    let world = World::start_quorum(TWO_OF_THREE, |custodians| {
        for custodian in custodians {
            custodian.state().lease_ms = 600_000;
        }
    });
    let world = world.serving().await.settled().await;
    world.away(&[0, 2], true);
    let world = world.reboot().await;
    world.reasoned("1 of 2 custodians answered").await;
    // Home and this one may hold more by now; only the third one, which may not, is heard.
    world.away(&[1], true);
    world.clock.advance_ms(60_001);
    world.away(&[2], false);
    let heard = |world: &World| world.custodians[2].state().log.iter().filter(|asked| **asked == "watch").count() > 3;
    world.until("the third one is heard", heard).await;
    assert!(!world.serves(), "its lease and that of the other run, and its word counts; the other's is old");
    world.away(&[1], false);
    world.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_opened_is_not_copied() {
    let world = serving(TWO_OF_THREE).await;
    let newest = world.custodian.state().versions[0].clone();
    let place =
        keystore::Place { key_store_id: world.id, version: 2, previous: Some(newest.entry.blob_id), generation: 1 };
    let other_root = Secret::take(&mut [9; 32]);
    let body = {
        let state = world.custodian.state();
        let other = world.custodians[1].state();
        let (one, two) = (&state.shares[0], &other.shares[0]);
        let root = holdfast_shared::sharing::combine(&one.set, &[&one.share, &two.share]).unwrap();
        keystore::open(&root, &newest.entry, &newest.blob).unwrap().body
    };
    let sealed = keystore::seal(&other_root, &place, &body, &SystemRandom::new()).unwrap();
    world.custodian.publish(2, place.previous, sealed.bytes, Vec::new(), Vec::new());
    world.reasoned("does not open under this root key").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(world.custodians[1..].iter().all(|custodian| custodian.state().versions.len() == 1));
    assert_eq!((world.serves(), world.version()), (true, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_one_without_a_share_does_not_count() {
    let world = World::start_quorum(TWO_OF_THREE, |custodians| custodians[2].state().hostile.refuses_deposits = true);
    let world = world.serving().await;
    world.reasoned("vault-2: refuses to keep its share").await;
    world.away(&[1], true);
    world.clock.advance_ms(30_000);
    world.until("renewals", |world| world.custodians[2].state().asked("renew") > 0).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.clock.advance_ms(30_000);
    assert!(!world.serves());
    world.until("a wipe", |world| !world.served.holds_keys()).await;
}

#[tokio::test(start_paused = true)]
async fn no_version_comes_before_enough_shares_and_none_before_that_of_home() {
    let refuse = |places: &'static [usize]| {
        move |custodians: &[Arc<FakeCustodian>]| {
            for place in places {
                custodians[*place].state().hostile.refuses_deposits = true;
            }
        }
    };
    let world = World::start_quorum(TWO_OF_THREE, refuse(&[1, 2]));
    world.until("deposits", |world| world.custodians[2].state().asked("deposit") > 1).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(world.custodian.state().versions.is_empty());

    let world = World::start_quorum(TWO_OF_THREE, refuse(&[0]));
    world.until("deposits", |world| world.custodian.state().asked("deposit") > 1).await;
    assert_eq!(world.custodians[1].state().asked("deposit"), 0);
    world.custodian.change(|state| state.hostile.refuses_deposits = false);
    world.serving().await.settled().await;
}

#[tokio::test(start_paused = true)]
async fn while_custodians_contradict_each_other_no_lease_is_lengthened() {
    let world = serving(TWO_OF_THREE_ONE_HOSTILE).await;
    world.custodians[2].change(|state| {
        let mut entry = state.versions.pop().unwrap().entry;
        entry.blob_id = keystore::blob_id(b"other");
        state.versions.push(world.custodian.version(entry, b"other".to_vec()));
    });
    world.custodians[2].refuse_channel();
    world.reasoned("a fork").await;
    world.clock.advance_ms(30_000);
    world.until("renewals", |world| world.custodian.state().asked("renew") > 0).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.until("half a minute left", |world| world.report().lease_remaining_ms == Some(30_000)).await;
    world.clock.advance_ms(30_000);
    assert!(!world.serves());
}
