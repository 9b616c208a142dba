//! Custodians and administrators that want what they have no right to, with manifests and overlays that somebody once signed; and
//! enclaves that meet them when they boot.

use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::manifest::Succession;

use super::*;

impl World {
    fn after(&self, before: &VerifiedManifest, change: impl FnOnce(&mut Manifest)) -> (VerifiedManifest, Vec<u8>) {
        let mut manifest = before.manifest().clone();
        let (sequence, predecessor) = (before.sequence() + 1, before.digest());
        manifest.succession = Some(Succession { key_store_id: self.id, sequence, predecessor, overlay_epoch: 0 });
        change(&mut manifest);
        let signed =
            bytes_of(&manifest::sign(&manifest, &self.administrators[0].signing, &SystemRandom::new()).unwrap());
        (before.succeed(&signed).unwrap(), signed)
    }

    async fn adopted(self, signed: Vec<u8>) -> Self {
        self.stage(&signed);
        let command = self.order(0, Action::AdoptManifest { signed });
        self.done(command).await;
        self.settled().await
    }

    fn hands_out(&self, place: usize, successors: Vec<Vec<u8>>) {
        self.custodians[place].change(|state| state.hostile.successors = Some(successors));
    }

    fn tells_overlay(&self, place: usize, epoch: u64, keys: &[&str], administrator: usize) {
        self.tells(place, epoch, false, keys, administrator);
    }

    fn tells(&self, place: usize, epoch: u64, store: bool, keys: &[&str], administrator: usize) {
        let overlay = BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: self.id,
            epoch,
            store,
            keys: keys.iter().map(|key| ExternalKeyId::parse(key).unwrap()).collect(),
            issued_ms: 0,
        };
        let signed = bytes_of(
            &block::sign(&overlay, &self.administrators[administrator].signing, &SystemRandom::new()).unwrap(),
        );
        self.custodians[place].change(|state| {
            state.signed_overlay = Some(signed);
            state.overlay = Some(overlay);
        });
    }

    fn key_is_blocked(&self, key: &str) -> bool {
        self.served.blocks_key(&ExternalKeyId::parse(key).unwrap())
    }
}

/// Fetches fail for a moment after a boot that knows only a first manifest most of whose custodians are gone.
async fn fetches_fail(faults: usize) {
    let world = World::start_beside((3, 2, 0), 2, |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| {
        manifest.custodians[1] = world.custodians[3].in_manifest();
        manifest.custodians[2] = world.custodians[4].in_manifest();
    });
    let world = world.adopted(signed).await;
    world.away(&[1, 2], true);
    for place in [0, 3, 4] {
        for _ in 0..faults {
            world.custodians[place].fail("fetch", Fault::Lost);
        }
    }
    world.reboot().await.serving().await;
}

#[tokio::test(start_paused = true)]
async fn fetches_that_fail_for_a_moment_strand_nobody() {
    fetches_fail(3).await;
}

/// One custodian hands out a chain of withdrawn successors on top of what is in force.
async fn chained(hostile: u8, withdrawn: usize) {
    let world = World::start_beside((3, 2, hostile), 1, |_| {}).serving().await.settled().await;
    let signed = world.with_another_third();
    let adopted = world.manifest.succeed(&signed).unwrap();
    let world = world.adopted(signed.clone()).await;
    let mut told = vec![signed];
    let mut newest = adopted;
    let first = world.manifest.manifest().custodians.clone();
    for n in 0..withdrawn {
        let (next, signed) = world.after(&newest, |manifest| {
            manifest.custodians = first.clone();
            manifest.name = format!("withdrawn-{n}");
        });
        newest = next;
        told.push(signed);
    }
    world.hands_out(1, told);
    world.reboot().await.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_successor_of_the_one_in_force_stops_no_boot() {
    chained(1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn nor_do_two() {
    chained(1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_where_no_custodian_may_be_hostile() {
    chained(0, 1).await;
}

/// Home published the version that adopts the next successor, and went away: the others hold all that is needed.
#[tokio::test(start_paused = true)]
async fn home_that_goes_away_amid_an_adoption_stops_no_enclave_that_boots() {
    let world = World::start_beside((3, 2, 0), 2, |_| {}).serving().await.settled().await;
    let signed = world.with_another_third();
    let second = world.manifest.succeed(&signed).unwrap();
    let world = world.adopted(signed).await;
    let fourth = world.custodians[4].in_manifest();
    let (third, signed) = world.after(&second, |manifest| manifest.custodians[2] = fourth);
    for place in [0, 1, 3] {
        world.custodians[place].state().staged = Some(third.clone());
    }
    let mut chain = world.manifest.clone();
    for next in third.successors() {
        chain = chain.succeed(next).unwrap();
    }
    world.custodians[4].state().manifest = Some(chain);
    for place in [1, 3, 4] {
        for _ in 0..200 {
            world.custodians[place].fail("copy", Fault::Lost);
        }
    }
    world.order(0, Action::AdoptManifest { signed });
    world.until("it is published", |world| world.custodian.state().versions.len() == 3).await;
    world.task.abort();
    let before = world.custodian.state().asked("watch");
    world.away(&[1, 3, 4], true);
    let world = world.reboot().await;
    world.until("home answered", |world| world.custodian.state().asked("watch") > before).await;
    world.away(&[0], true);
    world.away(&[1, 3, 4], false);
    for place in [1, 3, 4] {
        world.custodians[place].change(|state| state.faults.clear());
    }
    // What home said is old by now; its lease is over.
    world.clock.advance_ms(61_000);
    world.serving().await;
}

/// One custodian fills the memory for successors.
#[tokio::test(start_paused = true)]
async fn a_long_chain_of_withdrawn_successors_crowds_out_no_other() {
    let world = World::start_beside((3, 2, 1), 1, |_| {}).serving().await.settled().await;
    let signed = world.with_another_third();
    let mut told = Vec::new();
    let mut newest = world.manifest.clone();
    for n in 0..11 {
        let (next, signed) = world.after(&newest, |manifest| manifest.name = format!("withdrawn-{n}"));
        newest = next;
        told.push(signed);
    }
    world.hands_out(1, told);
    let (_, one_more) = world.after(&world.manifest, |manifest| manifest.name = "one more".to_owned());
    let world = world.adopted(signed).await;
    world.away(&[0, 2, 3], true);
    let before = world.custodians[1].state().asked("release");
    let answered = |world: &World, n: usize| world.custodians[1].state().asked("release") >= n;
    let world = world.reboot().await;
    world.until("it answered", |world| answered(world, before + 1)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.hands_out(1, vec![one_more]);
    world.custodians[1].refuse_channel();
    world.until("it answered again", |world| answered(world, before + 2)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.away(&[0, 2, 3], false);
    world.serving().await;
}

/// A removed administrator and one custodian against a block, at an enclave that boots.
#[tokio::test(start_paused = true)]
async fn a_removed_administrator_hides_no_block_from_an_enclave_that_boots() {
    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| drop(manifest.administrators.remove(1)));
    let world = world.adopted(signed).await;
    for place in 0..3 {
        world.tells_overlay(place, 1, &["a"], 0);
    }
    world.until("a block", |world| world.key_is_blocked("a")).await;
    // Mallory was removed.
    world.tells_overlay(1, 1_000_000, &[], 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.key_is_blocked("a"), "who runs knows better");
    world.hands_out(1, Vec::new());
    world.away(&[0, 2], true);
    let before = world.custodians[1].state().asked("watch");
    let world = world.reboot().await;
    world.until("it answered", |world| world.custodians[1].state().asked("watch") > before).await;
    world.away(&[0, 2], false);
    let world = world.serving().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(world.key_is_blocked("a"), "the block counts");
}

#[tokio::test(start_paused = true)]
async fn a_removed_administrator_blocks_no_enclave_that_boots() {
    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| drop(manifest.administrators.remove(1)));
    let world = world.adopted(signed).await;
    world.hands_out(1, Vec::new());
    world.tells(1, 1_000_000, true, &[], 1);
    world.away(&[0, 2], true);
    let before = world.custodians[1].state().asked("watch");
    let world = world.reboot().await;
    world.until("it answered", |world| world.custodians[1].state().asked("watch") > before).await;
    world.away(&[0, 2], false);
    world.serving().await;
}

/// One administrator and one custodian against a block that needs two to be lifted.
async fn one_against_two(boots: bool) {
    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| manifest.thresholds.unblock = 2);
    let world = world.adopted(signed).await;
    if boots {
        for place in [0, 2] {
            world.tells_overlay(place, 1, &["a"], 0);
        }
        world.until("a block", |world| world.key_is_blocked("a")).await;
    }
    let world = if boots {
        world.away(&[0, 2], true);
        world.reboot().await
    } else {
        world
    };
    let before = world.custodians[1].state().asked("watch");
    world.tells_overlay(1, u64::MAX >> 1, &[], 0);
    world.until("it answered", |world| world.custodians[1].state().asked("watch") > before + 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.away(&[0, 2], false);
    for place in [0, 2] {
        world.tells_overlay(place, 1, &["a"], 0);
    }
    let world = world.serving().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(world.key_is_blocked("a"), "the block counts");
}

#[tokio::test(start_paused = true)]
async fn one_administrator_lifts_nothing_at_an_enclave_that_boots() {
    one_against_two(true).await;
}

#[tokio::test(start_paused = true)]
async fn one_administrator_uses_up_no_epochs() {
    one_against_two(false).await;
}

/// Where lifting needs more signatures than blocking, one administrator may block one key after the other.
#[tokio::test(start_paused = true)]
async fn many_blocks_one_after_the_other_block_no_more_than_they_say() {
    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let signed = world.successor(|manifest| manifest.thresholds.unblock = 2);
    let world = world.adopted(signed).await;
    let names: Vec<_> = (10..60).map(|number| format!("key-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (epoch, last) in (1..).zip(0..names.len()) {
        world.tells_overlay(0, epoch, &names[..=last], 0);
        world.until("a block", |world| world.key_is_blocked(names[last])).await;
    }
    assert!(world.serves(), "the key store is not blocked");
    assert!(names.iter().all(|name| world.key_is_blocked(name)));
}

/// A withdrawn successor says that the others moved.
#[tokio::test(start_paused = true)]
async fn a_withdrawn_move_leads_nobody_astray() {
    let world = World::start_beside((3, 2, 1), 1, |_| {}).serving().await.settled().await;
    let nowhere = world.custodians[3].in_manifest().address;
    let (_, withdrawn) = world.after(&world.manifest, |manifest| {
        for place in [0, 2] {
            manifest.custodians[place].address.clone_from(&nowhere);
        }
    });
    world.hands_out(1, vec![withdrawn]);
    world.away(&[0, 2], true);
    let before = world.custodians[1].state().asked("watch");
    let world = world.reboot().await;
    world.until("it answered", |world| world.custodians[1].state().asked("watch") > before).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.away(&[0, 2], false);
    world.serving().await;
}

/// Home alone hands out a withdrawn successor before the ceremony.
#[tokio::test(start_paused = true)]
async fn no_ceremony_under_a_withdrawn_successor() {
    let world = World::start_quorum((3, 2, 1), |custodians| {
        custodians[0].state().hostile.is_away = true;
    });
    let (withdrawn, signed) = world.after(&world.manifest, |manifest| {
        manifest.custodians.truncate(1);
        manifest.shares_needed = 1;
        manifest.hostile_tolerated = 0;
    });
    world.hands_out(0, vec![signed]);
    world.away(&[0], false);
    world.until("a ceremony", |world| !world.custodian.state().versions.is_empty()).await;
    let named = world.custodian.state().versions[0].manifest().unwrap();
    assert_ne!(named, withdrawn.manifest_id(), "only home says so");
}

/// Eve was to be an administrator, by a successor that was withdrawn.
async fn eve(blocks_all: bool) {
    let world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    let eve = SigningKeys::new("eve", *hpke::PrivateKey::generate().unwrap().public_key());
    let (_, withdrawn) = world.after(&world.manifest, |manifest| manifest.administrators.push(eve.public.clone()));
    world.hands_out(1, vec![withdrawn]);
    let overlay = BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id: world.id,
        epoch: u64::MAX >> 1,
        store: blocks_all,
        keys: Vec::new(),
        issued_ms: 0,
    };
    let signed = bytes_of(&block::sign(&overlay, &eve.signing, &SystemRandom::new()).unwrap());
    world.custodians[1].change(|state| {
        state.signed_overlay = Some(signed);
        state.overlay = Some(overlay);
    });
    tokio::time::sleep(Duration::from_secs(30)).await;
    if blocks_all {
        assert!(world.serves(), "eve never had a say");
        return;
    }
    world.block_at(&[Arc::clone(&world.custodians[0]), Arc::clone(&world.custodians[2])], true);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!world.serves(), "two of three custodians say that the key store is blocked");
}

#[tokio::test(start_paused = true)]
async fn an_administrator_of_a_withdrawn_successor_uses_up_no_epochs() {
    eve(false).await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_of_a_withdrawn_successor_blocks_nothing_for_good() {
    eve(true).await;
}

/// KMS, or a fetch, that fails for a moment while the first manifest's custodians are all there.
#[tokio::test(start_paused = true)]
async fn fetches_that_fail_for_a_moment_under_one_manifest() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await.settled().await;
    for fake in &world.custodians {
        for _ in 0..3 {
            fake.fail("fetch", Fault::Lost);
        }
    }
    world.reboot().await.serving().await;
}

/// One is away while the root key changes, and one lies about its share.
async fn liar(numbers: (usize, u8, u8)) {
    let world = World::start_quorum(numbers, |_| {}).serving().await.settled().await;
    let last = numbers.0 - 1;
    world.away(&[last], true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.order(0, Action::RotateRootKey);
    // Whether it is carried out or waits: nothing is lost.
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.clock.advance_ms(100);
    }
    world.custodians[1].change(|state| state.hostile.wrong_share = Some(9));
    world.task.abort();
    world.away(&[last], false);
    world.reboot().await.serving().await;
}

#[tokio::test(start_paused = true)]
async fn a_liar_and_one_that_was_away_lose_no_root_key_4_of_5() {
    liar((5, 4, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_liar_and_one_that_was_away_lose_no_root_key_3_of_5() {
    liar((5, 3, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_liar_and_one_that_was_away_lose_no_root_key_2_of_3() {
    liar((3, 2, 1)).await;
}
