//! Key stores, manifests, policies, shares, versions.

use holdfast_custodian::store::{
    Committed, Copied, Deposited, JudgedBy, JudgedOrders, NewShare, NewVersion, Origin, Published, Replaced,
    Replacement, Retired, Staged, StoreError, StoredManifest, StoredOverlay, StoredPolicy, StoredRegister, Successors,
    Version,
};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;
use holdfast_shared::manifest::ManifestId;

use crate::fixture::{
    BOOT, FIRST, KEY_STORE, NOW_MS, Place, blob_id, command, command_id, copy, first, judged_by, manifest, manifest_id,
    message, set_sha256, share, version,
};

pub(crate) async fn a_key_store_is_enrolled_once(place: Place) {
    let (one, two) = (&place.one, &place.two);
    let other = KeyStoreId([2; 32]);
    let first = first();
    let chain = [manifest(1, "other"), manifest(2, "its successor")];
    let (a, b) =
        tokio::join!(one.enrol(KEY_STORE, &first, b"policy", NOW_MS), two.enrol(KEY_STORE, &first, b"policy", NOW_MS));
    assert!(a.unwrap() ^ b.unwrap(), "one of them is the first");
    assert!(one.enrol(other, &chain, b"other policy", NOW_MS + 1).await.unwrap());
    assert!(!two.enrol(KEY_STORE, &chain, b"changed", NOW_MS).await.unwrap());
    let stored: Vec<_> = two.key_stores().await.unwrap().into_iter().map(|s| (s.key_store_id, s.manifests)).collect();
    assert_eq!(stored, [(KEY_STORE, first.to_vec()), (other, chain.to_vec())]);
    assert_eq!(two.release_policy(KEY_STORE).await.unwrap().policy, b"policy");
    assert!(matches!(one.release_policy(KeyStoreId([3; 32])).await, Err(StoreError::Damaged(_))));
}

/// Successors of the first manifest, or of `under`, which know of an overlay of this epoch.
fn successors(under: (u32, &str), manifests: &[(u32, &str)], overlay_epoch: u64) -> Successors {
    Successors {
        key_store_id: KEY_STORE,
        predecessor: manifest_id(under.0, under.1),
        manifests: manifests.iter().map(|(sequence, text)| manifest(*sequence, text)).collect(),
        overlay_epoch,
    }
}

/// How many manifests are in force, and which one is staged.
async fn kept(place: &Place) -> (usize, Option<StoredManifest>) {
    let kept = place.two.key_store(KEY_STORE).await.unwrap().unwrap();
    assert_eq!(usize::try_from(kept.mark.sequence).unwrap(), kept.manifests.len());
    (kept.manifests.len(), kept.staged)
}

/// A version that follows the first, made under this manifest; it is not committed.
fn made_under(number: u64, manifest: ManifestId) -> NewVersion {
    NewVersion { version: Version { manifest, ..copy(number, 1) }, commit_now: false, ..version(number, 1) }
}

pub(crate) async fn a_successor_waits_for_the_version_that_names_it(place: Place) {
    let place = place.founded().await;
    let (one, two) = (&place.one, &place.two);
    let first = (1, FIRST);
    for (text, staged, expected) in [
        ("another first", successors((1, "another"), &[(2, "two")], 0), Staged::Conflict(1)),
        ("under another", successors((2, "two"), &[(3, "three")], 0), Staged::Conflict(1)),
        ("one", successors(first, &[(2, "two")], 0), Staged::Waits),
        ("again", successors(first, &[(2, "two")], 0), Staged::Waits),
        ("two at once", successors(first, &[(2, "two"), (3, "three")], 0), Staged::Conflict(1)),
        ("beyond all blocks", successors(first, &[(2, "ahead")], 1001), Staged::Ahead),
    ] {
        assert_eq!(one.stage_manifests(&staged, NOW_MS).await.unwrap(), expected, "{text}");
    }
    assert_eq!(kept(&place).await, (1, Some(manifest(2, "two"))));
    let better = successors(first, &[(2, "better two")], 0);
    assert_eq!(one.stage_manifests(&better, NOW_MS).await.unwrap(), Staged::Waits);
    assert_eq!(kept(&place).await, (1, Some(manifest(2, "better two"))));
    let withdrawn = made_under(1, manifest_id(2, "two"));
    assert_eq!(one.publish(&withdrawn, message(1)).await.unwrap(), Published::OtherManifest);
    let is_named = async || two.key_store(KEY_STORE).await.unwrap().unwrap().is_staged_named;
    let mark = two.manifest_mark(KEY_STORE).await.unwrap();
    assert!(!is_named().await);
    newest(one.publish(&made_under(1, manifest_id(2, "better two")), message(2)).await.unwrap());
    assert!(is_named().await);
    assert_ne!(two.manifest_mark(KEY_STORE).await.unwrap(), mark, "other replicas look at the manifests anew");
    let late = successors(first, &[(2, "two")], 0);
    assert_eq!(one.stage_manifests(&late, NOW_MS).await.unwrap(), Staged::Conflict(1), "another one comes into force");
    assert_eq!(kept(&place).await, (1, Some(manifest(2, "better two"))), "the version is not committed");
    one.commit(KEY_STORE, 1, blob_id(1, 1), message(3)).await.unwrap();
    assert_eq!(kept(&place).await, (2, None));
    assert_ne!(two.manifest_mark(KEY_STORE).await.unwrap(), mark);
    assert_eq!(one.stage_manifests(&better, NOW_MS).await.unwrap(), Staged::Adopted);
    assert_eq!(one.stage_manifests(&late, NOW_MS).await.unwrap(), Staged::Conflict(2));
    let back = made_under(2, manifest_id(1, FIRST));
    assert_eq!(one.publish(&back, message(4)).await.unwrap(), Published::Backwards);
    // A block that the successor does not know of came between.
    let overlay = StoredOverlay { epoch: 7, signed: vec![1] };
    let judged_by = JudgedBy { epoch: 0, manifest: manifest_id(2, "better two") };
    assert!(two.put_overlay(KEY_STORE, judged_by, &overlay, NOW_MS).await.unwrap());
    let third = |overlay_epoch| successors((2, "better two"), &[(3, "three")], overlay_epoch);
    assert_eq!(one.stage_manifests(&third(6), NOW_MS).await.unwrap(), Staged::Blocked(7));
    assert_eq!(one.stage_manifests(&third(7), NOW_MS).await.unwrap(), Staged::Waits);
}

pub(crate) async fn of_two_successors_that_one_comes_which_a_version_names(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    let stage = async |text| {
        let successors = successors((1, FIRST), &[(2, text)], 0);
        store.stage_manifests(&successors, NOW_MS).await.unwrap()
    };
    assert_eq!(stage("withdrawn").await, Staged::Waits);
    let copied = Version { manifest: manifest_id(2, "right"), ..copy(1, 1) };
    assert_eq!(store.copy(&copied, message(1)).await.unwrap(), Copied::Kept);
    assert!(!store.key_store(KEY_STORE).await.unwrap().unwrap().is_staged_named, "but the other one");
    store.commit(KEY_STORE, 1, blob_id(1, 1), message(2)).await.unwrap();
    assert_eq!(kept(&place).await, (1, Some(manifest(2, "withdrawn"))));
    // Home may have been restored from a backup: the version says which one is in force elsewhere.
    let lost = made_under(2, manifest_id(2, "withdrawn"));
    assert_eq!(store.publish(&lost, message(3)).await.unwrap(), Published::Backwards);
    assert_eq!(stage("withdrawn").await, Staged::Waits);
    assert_eq!(stage("right").await, Staged::Adopted);
    assert_eq!(kept(&place).await, (2, None));
    assert_eq!(stage("withdrawn").await, Staged::Conflict(2));
}

pub(crate) async fn a_custodian_that_was_away_catches_up_with_manifests(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    let stage = async |under, manifests: &[(u32, &str)]| {
        store.stage_manifests(&successors(under, manifests, 0), NOW_MS).await.unwrap()
    };
    let (first, two, three, four) = ((1, FIRST), (2, "two"), (3, "three"), (4, "four"));
    let (five, six, seven) = ((5, "five"), (6, "six"), (7, "seven"));
    let names = |number, named: (u32, &str)| Version { manifest: manifest_id(named.0, named.1), ..copy(number, 1) };
    store.copy(&names(3, three), message(1)).await.unwrap();
    assert_eq!(stage(first, &[two]).await, Staged::Waits, "the version that names the third is not committed");
    store.commit(KEY_STORE, 3, blob_id(3, 1), message(2)).await.unwrap();
    assert_eq!(kept(&place).await, (1, Some(manifest(2, "two"))), "nobody knows here what the third succeeds");
    assert_eq!(stage(first, &[(2, "withdrawn"), (3, "its successor")]).await, Staged::Conflict(1));
    assert_eq!(kept(&place).await.0, 1);
    assert_eq!(stage(first, &[two, three]).await, Staged::Adopted);
    assert_eq!(kept(&place).await, (3, None));
    assert_eq!(stage(first, &[two, three]).await, Staged::Adopted, "again");
    store.copy(&names(4, four), message(3)).await.unwrap();
    assert_eq!(stage(three, &[four]).await, Staged::Waits, "the version that names it is not committed");
    store.commit(KEY_STORE, 4, blob_id(4, 1), message(4)).await.unwrap();
    assert_eq!(kept(&place).await, (4, None));
    // Beyond those that versions name one more is staged, and no more than one.
    store.copy(&names(5, five), message(5)).await.unwrap();
    store.copy(&names(6, six), message(6)).await.unwrap();
    store.commit(KEY_STORE, 6, blob_id(6, 1), message(7)).await.unwrap();
    assert_eq!(stage(three, &[four, five, six, seven, (8, "eight")]).await, Staged::Conflict(6));
    assert_eq!(kept(&place).await, (6, None));
    assert_eq!(stage(four, &[five, six, seven]).await, Staged::Waits);
    assert_eq!(kept(&place).await, (6, Some(manifest(7, "seven"))));
}

/// What a block is judged by may change before it is put in force, and the other way round.
pub(crate) async fn blocks_and_successors_do_not_slip_past_each_other(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    let overlay = |epoch| StoredOverlay { epoch, signed: vec![1] };
    let put = async |under: (u32, &str), epoch| {
        let judged_by = JudgedBy { epoch: epoch - 1, manifest: manifest_id(under.0, under.1) };
        store.put_overlay(KEY_STORE, judged_by, &overlay(epoch), NOW_MS).await.unwrap()
    };
    let (first, second) = ((1, FIRST), (2, "second"));
    store.stage_manifests(&successors(first, &[second], 0), NOW_MS).await.unwrap();
    assert!(!put(second, 1).await, "no version names it");
    assert!(put(first, 1).await);
    let named = made_under(1, manifest_id(2, "second"));
    assert_eq!(store.publish(&named, message(1)).await.unwrap(), Published::Blocked);
    assert_eq!(place.two.register(KEY_STORE).await.unwrap(), None);
    let knows = NewVersion { overlay_known: 1, ..named };
    newest(store.publish(&knows, message(2)).await.unwrap());
    assert!(!put(first, 2).await, "its administrators may count for nothing once the version is committed");
    assert!(put(second, 2).await);
    store.commit(KEY_STORE, 1, blob_id(1, 1), message(3)).await.unwrap();
    assert!(!put(first, 3).await);
    let next = NewVersion { overlay_known: 1, ..made_under(2, manifest_id(2, "second")) };
    newest(store.publish(&next, message(4)).await.unwrap());
    assert!(put(second, 3).await);
}

/// What was ordered under successors that are replaced goes with them, and nothing slips past a replacement.
pub(crate) async fn other_successors_take_orders_with_them(place: Place) {
    let (one, two) = (&place.one, &place.two);
    let manifests = |text| vec![manifest(1, FIRST), manifest(2, text)];
    assert!(one.enrol(KEY_STORE, &manifests("withdrawn"), b"first", NOW_MS).await.unwrap());
    let by = |epoch, text| JudgedBy { epoch, manifest: manifest_id(2, text) };
    let judged = async || JudgedOrders {
        mark: two.manifest_mark(KEY_STORE).await.unwrap(),
        policy_epoch: two.release_policy(KEY_STORE).await.unwrap().epoch,
        overlay_epoch: two.overlay(KEY_STORE).await.unwrap().map_or(0, |overlay| overlay.epoch),
    };
    let replacement = |text, judged| Replacement {
        key_store_id: KEY_STORE,
        manifests: manifests(text),
        comes_new: true,
        judged,
        policies: vec![2],
        overlays: vec![4],
    };
    let overlay = |epoch| StoredOverlay { epoch, signed: vec![1] };
    for (against, new) in [(1, policy(2, "a")), (2, policy(3, "b"))] {
        let early = replacement("right", judged().await);
        assert!(one.put_policy(KEY_STORE, by(against, "withdrawn"), &new, NOW_MS).await.unwrap());
        assert_eq!(two.replace_successors(&early, NOW_MS).await.unwrap(), Replaced::Changed, "a policy came between");
    }
    for (against, epoch) in [(0, 4), (4, 5)] {
        let early = replacement("right", judged().await);
        assert!(one.put_overlay(KEY_STORE, by(against, "withdrawn"), &overlay(epoch), NOW_MS).await.unwrap());
        assert_eq!(two.replace_successors(&early, NOW_MS).await.unwrap(), Replaced::Changed, "a block came between");
    }
    let known = judged().await;
    let right = replacement("right", known);
    assert_eq!(one.replace_successors(&right, NOW_MS).await.unwrap(), Replaced::Done);
    assert_eq!(kept(&place).await, (2, None));
    assert_eq!(two.release_policies(KEY_STORE).await.unwrap().iter().map(|p| p.epoch).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(two.overlays(KEY_STORE).await.unwrap(), [overlay(4)]);
    assert_ne!(two.manifest_mark(KEY_STORE).await.unwrap(), known.mark, "other replicas look at the manifests anew");
    assert_eq!(one.replace_successors(&right, NOW_MS).await.unwrap(), Replaced::Changed);
    // Judged before, by those who count no more.
    assert!(!two.put_policy(KEY_STORE, by(2, "withdrawn"), &policy(3, "b"), NOW_MS).await.unwrap());
    assert!(!two.put_overlay(KEY_STORE, by(4, "withdrawn"), &overlay(5), NOW_MS).await.unwrap());
    assert!(two.put_policy(KEY_STORE, by(2, "right"), &policy(3, "c"), NOW_MS).await.unwrap());
    // One that the first manifest names adds nothing, and gives up only what no version names.
    let named = |manifests, judged| Replacement { comes_new: false, manifests, ..replacement("", judged) };
    let mut longer = manifests("right");
    longer.push(manifest(3, "third"));
    let known = judged().await;
    assert_eq!(one.replace_successors(&named(longer, known), NOW_MS).await.unwrap(), Replaced::Refused);
    assert_eq!(one.replace_successors(&named(manifests("other"), known), NOW_MS).await.unwrap(), Replaced::Done);
}

fn policy(epoch: u64, text: &str) -> StoredPolicy {
    let signed_update = Some(format!("signed {text}").into_bytes());
    StoredPolicy { epoch, policy: text.as_bytes().to_vec(), signed_update }
}

pub(crate) async fn policies_follow_each_other(place: Place) {
    let place = place.enrolled().await;
    let (one, two) = (&place.one, &place.two);
    for (against, new, expected) in [
        (0, policy(2, "a"), false),
        (1, policy(1, "b"), false),
        (1, policy(2, "c"), true),
        (1, policy(3, "d"), false),
        (2, policy(5, "e"), true),
    ] {
        assert_eq!(one.put_policy(KEY_STORE, judged_by(against), &new, NOW_MS).await.unwrap(), expected, "{new:?}");
    }
    assert_eq!(two.release_policy(KEY_STORE).await.unwrap(), policy(5, "e"));
    assert_eq!(two.policy_updates(KEY_STORE, 10).await.unwrap(), [b"signed c".to_vec(), b"signed e".to_vec()]);
    assert_eq!(two.policy_updates(KEY_STORE, 1).await.unwrap(), [b"signed e".to_vec()]);
}

/// Generations and first bytes of the shares that are kept.
async fn shares(place: &Place) -> Vec<(u32, u8)> {
    let shares = place.two.shares(KEY_STORE).await.unwrap();
    assert!(shares.iter().all(|share| share.share_set[0] == share.wrapped[0]));
    assert!(shares.is_sorted_by_key(|share| share.generation), "oldest first");
    let mut kept: Vec<_> = shares.iter().map(|share| (share.generation, share.wrapped[0])).collect();
    kept.sort_unstable();
    kept
}

pub(crate) async fn a_share_is_provisional_until_its_version_is_held(place: Place) {
    let place = place.enrolled().await;
    let store = &place.one;
    let kept = Deposited::Kept;
    let late = NewShare { may_start_late: true, ..share(3, 31) };
    for (counter, share, expected, held) in [
        (1, share(1, 12), kept, vec![(1, 12)]),
        (2, share(1, 12), kept, vec![(1, 12)]),
        (3, share(2, 21), Deposited::Conflict, vec![(1, 12)]),
        // A custodian that a successor brings in begins with the generation that is in force elsewhere.
        (4, late, kept, vec![(3, 31)]),
        // A ceremony that broke off is repeated with another root key.
        (5, share(1, 11), kept, vec![(1, 11)]),
        // Another one runs at the same time: which will be named is not known yet.
        (6, share(1, 13), kept, vec![(1, 11), (1, 13)]),
        (7, share(1, 11), kept, vec![(1, 11), (1, 13)]),
    ] {
        assert_eq!(store.deposit(&share, message(counter)).await.unwrap(), expected, "{counter}");
        assert_eq!(shares(&place).await, held, "{counter}");
    }
    assert!(matches!(store.publish(&version(1, 1), message(8)).await.unwrap(), Published::Newest(_)));
    assert_eq!(shares(&place).await, [(1, 11)], "the one that version 1 names");
    assert_eq!(store.deposit(&share(1, 13), message(9)).await.unwrap(), Deposited::Conflict);
    assert_eq!(store.deposit(&share(1, 11), message(10)).await.unwrap(), kept, "the same again");
    assert_eq!(shares(&place).await, [(1, 11)]);
}

pub(crate) async fn of_too_many_provisional_shares_the_oldest_goes(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    store.publish(&version(1, 1), message(2)).await.unwrap();
    for (counter, byte, at_ms, held) in [
        (3, 23, 3, &[23][..]),
        (4, 22, 1, &[22, 23]),
        (5, 24, 2, &[22, 23, 24]),
        (6, 21, 4, &[21, 22, 23, 24]),
        (7, 25, 5, &[21, 23, 24, 25]),
        (8, 21, 6, &[21, 23, 24, 25]),
        // The clock was set back. Whoever gave this one was just told that it is kept.
        (9, 26, 0, &[21, 23, 25, 26]),
        (10, 27, 7, &[21, 23, 25, 27]),
    ] {
        let origin = Origin { now_ms: NOW_MS + at_ms, ..message(counter) };
        assert_eq!(store.deposit(&share(2, byte), origin).await.unwrap(), Deposited::Kept, "{counter}");
        let expected: Vec<_> = [(1, 11)].into_iter().chain(held.iter().map(|byte| (2, *byte))).collect();
        assert_eq!(shares(&place).await, expected, "{counter}");
    }
}

/// A release carries five at most.
pub(crate) async fn of_too_many_shares_those_of_the_newest_generation_are_released(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    store.publish(&version(1, 1), message(2)).await.unwrap();
    let deposit = async |generation, byte, counter| {
        let origin = Origin { now_ms: NOW_MS + counter, ..message(counter) };
        assert_eq!(store.deposit(&share(generation, byte), origin).await.unwrap(), Deposited::Kept, "{byte}");
    };
    for (byte, counter) in [(24, 3), (21, 4), (23, 5), (22, 6)] {
        deposit(2, byte, counter).await;
    }
    // This custodian was away: the version of generation 3 comes, and its share does not.
    let third = Version { generation: 3, share_set_sha256: set_sha256(30), ..copy(3, 1) };
    assert_eq!(store.copy(&third, message(7)).await.unwrap(), Copied::Kept);
    store.commit(KEY_STORE, 3, blob_id(3, 1), message(8)).await.unwrap();
    deposit(4, 41, 9).await;
    assert_eq!(shares(&place).await, [(2, 21), (2, 22), (2, 23), (2, 24), (4, 41)]);
    for (byte, counter) in [(42, 10), (43, 11), (44, 12)] {
        deposit(4, byte, counter).await;
    }
    assert_eq!(shares(&place).await, [(2, 22), (4, 41), (4, 42), (4, 43), (4, 44)]);
    assert_eq!(shares(&place).await.len(), limits::RELEASED_SHARES_MAX);
}

pub(crate) async fn the_next_generation_may_come_and_the_old_one_go(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    store.publish(&version(1, 1), message(2)).await.unwrap();
    assert_eq!(store.deposit(&share(3, 31), message(3)).await.unwrap(), Deposited::Conflict, "skips one");
    // A rotation that broke off, or is slow, and the one after it.
    assert_eq!(store.deposit(&share(2, 22), message(4)).await.unwrap(), Deposited::Kept);
    assert_eq!(store.deposit(&share(2, 21), message(5)).await.unwrap(), Deposited::Kept);
    assert_eq!(shares(&place).await, [(1, 11), (2, 21), (2, 22)]);
    let retire =
        async |generation, counter| store.retire(KEY_STORE, generation, false, message(counter)).await.unwrap();
    assert_eq!(retire(2, 6).await, Retired::TooEarly, "no version is sealed under it");
    let second = Version { generation: 2, share_set_sha256: set_sha256(22), ..copy(2, 1) };
    let second = NewVersion { version: second, commit_now: false, ..version(2, 1) };
    newest(store.publish(&second, message(7)).await.unwrap());
    assert_eq!(shares(&place).await, [(1, 11), (2, 22)], "the other rotation lost");
    assert_eq!(retire(2, 8).await, Retired::TooEarly, "it is not committed");
    assert_eq!(
        store.deposit(&share(2, 23), message(9)).await.unwrap(),
        Deposited::Conflict,
        "it is not provisional now"
    );
    assert_eq!(store.commit(KEY_STORE, 2, blob_id(2, 1), message(10)).await.unwrap(), Committed::Done);
    assert_eq!(retire(3, 11).await, Retired::TooEarly);
    assert_eq!(retire(1, 12).await, Retired::TooEarly, "is not the one in force");
    assert_eq!(retire(2, 13).await, Retired::Deleted(1));
    assert_eq!(shares(&place).await, [(2, 22)]);
    assert_eq!(retire(2, 14).await, Retired::Deleted(0), "again");
    assert_eq!(
        store.deposit(&share(1, 11), message(15)).await.unwrap(),
        Deposited::Conflict,
        "what is gone stays gone"
    );
    let back = version(3, 1);
    assert_eq!(store.publish(&back, message(16)).await.unwrap(), Published::Backwards);
}

pub(crate) async fn old_shares_stay_until_the_new_one_is_here(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    store.copy(&copy(1, 1), message(2)).await.unwrap();
    store.deposit(&share(2, 21), message(3)).await.unwrap();
    let second = Version { generation: 2, share_set_sha256: set_sha256(22), ..copy(2, 1) };
    assert_eq!(store.copy(&second, message(4)).await.unwrap(), Copied::Kept);
    store.commit(KEY_STORE, 2, blob_id(2, 1), message(5)).await.unwrap();
    let retire = async |needs_none, counter| store.retire(KEY_STORE, 2, needs_none, message(counter)).await.unwrap();
    assert_eq!(retire(false, 6).await, Retired::TooEarly, "its share is of a set that lost");
    assert_eq!(shares(&place).await, [(1, 11)]);
    assert_eq!(retire(true, 7).await, Retired::Deleted(1), "a custodian that is not to hold one");
    assert_eq!(shares(&place).await, []);
    assert_eq!(store.deposit(&share(2, 22), message(8)).await.unwrap(), Deposited::Kept, "it may come back");
    assert_eq!(retire(false, 9).await, Retired::Deleted(0));
}

fn newest(published: Published) -> StoredRegister {
    match published {
        Published::Newest(register) => register,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_version_follows_the_one_before_it(place: Place) {
    let place = place.founded().await;
    let (store, two) = (&place.one, &place.two);
    assert_eq!(two.register(KEY_STORE).await.unwrap(), None);
    assert_eq!(store.publish(&version(2, 1), message(1)).await.unwrap(), Published::Conflict(None));
    let first = newest(store.publish(&version(1, 1), message(2)).await.unwrap());
    assert_eq!((first.version, first.blob_id, first.recorded_ms, first.committed), (1, blob_id(1, 1), NOW_MS, true));
    assert_eq!((first.signed.as_slice(), first.evidence.as_slice()), (&[1; 10][..], &[1; 20][..]));
    assert_eq!(newest(store.publish(&version(1, 1), message(3)).await.unwrap()), first, "the same again");
    assert_eq!(store.publish(&version(1, 2), message(4)).await.unwrap(), Published::Conflict(Some(first.clone())));
    assert_eq!(store.publish(&version(2, 2), message(5)).await.unwrap(), Published::Conflict(Some(first.clone())));
    assert_eq!(store.publish(&version(3, 1), message(6)).await.unwrap(), Published::Conflict(Some(first)));
    let second = newest(store.publish(&version(2, 1), message(7)).await.unwrap());
    assert_eq!(two.register(KEY_STORE).await.unwrap(), Some(second));
    for number in [1, 2] {
        let stored = two.blob(KEY_STORE, blob_id(number, 1)).await.unwrap().unwrap();
        assert_eq!((stored.blob, stored.evidence), (vec![1; 100], vec![1; 20]), "earlier blobs stay");
    }
    assert_eq!(two.blob(KeyStoreId([9; 32]), blob_id(1, 1)).await.unwrap(), None, "another key store's blob");
}

pub(crate) async fn a_version_names_its_shares(place: Place) {
    let place = place.enrolled().await;
    let store = &place.one;
    assert_eq!(store.publish(&version(1, 1), message(1)).await.unwrap(), Published::OtherShares, "there is no share");
    store.deposit(&share(1, 12), message(2)).await.unwrap();
    assert_eq!(store.publish(&version(1, 1), message(3)).await.unwrap(), Published::OtherShares, "is not here");
    store.deposit(&share(1, 11), message(4)).await.unwrap();
    let later = NewVersion { version: Version { generation: 2, ..copy(1, 1) }, ..version(1, 1) };
    assert_eq!(store.publish(&later, message(5)).await.unwrap(), Published::OtherShares, "of another generation");
    assert_eq!(place.two.register(KEY_STORE).await.unwrap(), None);
    let named = Version { share_set_sha256: set_sha256(12), ..copy(1, 1) };
    let named = NewVersion { version: named, ..version(1, 1) };
    newest(store.publish(&named, message(6)).await.unwrap());
    assert_eq!(shares(&place).await, [(1, 12)], "though it came first");
}

pub(crate) async fn results_show_once_their_version_is_committed(place: Place) {
    let place = place.founded().await;
    let (store, two) = (&place.one, &place.two);
    let results = vec![(command_id(1), b"result".to_vec())];
    let waiting = NewVersion { results, commit_now: false, ..version(1, 1) };
    let published = newest(store.publish(&waiting, message(1)).await.unwrap());
    assert!(!published.committed);
    assert_eq!(two.result(KEY_STORE, command_id(1)).await.unwrap(), None);
    let Committed::Unknown(newest) = store.commit(KEY_STORE, 1, blob_id(1, 2), message(2)).await.unwrap() else {
        panic!("another blob is not this version")
    };
    assert_eq!(newest, Some(published));
    assert!(matches!(store.commit(KEY_STORE, 2, blob_id(2, 1), message(3)).await.unwrap(), Committed::Unknown(_)));
    assert_eq!(two.result(KEY_STORE, command_id(1)).await.unwrap(), None);
    assert_eq!(store.commit(KEY_STORE, 1, blob_id(1, 1), message(4)).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(KEY_STORE, 1, blob_id(1, 1), message(5)).await.unwrap(), Committed::Done, "again");
    assert_eq!(two.result(KEY_STORE, command_id(1)).await.unwrap(), Some(b"result".to_vec()));
    assert!(two.register(KEY_STORE).await.unwrap().unwrap().committed);
    // A later version commits those before it.
    for number in [2, 3] {
        let results = vec![(command_id(number), b"result".to_vec())];
        let number = u64::from(number);
        let next = NewVersion { results, commit_now: number == 3, ..version(number, 1) };
        store.publish(&next, message(4 + number)).await.unwrap();
    }
    assert!(two.result(KEY_STORE, command_id(2)).await.unwrap().is_some());
    assert!(two.result(KEY_STORE, command_id(3)).await.unwrap().is_some());
}

pub(crate) async fn copies_are_kept_in_order(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    let held = async || store.register(KEY_STORE).await.unwrap().unwrap();
    assert_eq!(store.copy(&copy(3, 1), message(1)).await.unwrap(), Copied::Kept, "this custodian was away");
    let three = held().await;
    assert_eq!((three.version, three.committed), (3, false));
    for (counter, copy, expected) in [
        (2, copy(3, 1), Copied::Same),
        (3, copy(3, 2), Copied::Conflict(three.clone())),
        (4, copy(2, 1), Copied::Older(three.clone())),
        // It names another predecessor than the one that is held.
        (5, copy(4, 2), Copied::Conflict(three.clone())),
    ] {
        assert_eq!(store.copy(&copy, message(counter)).await.unwrap(), expected, "{counter}");
        assert_eq!(held().await, three, "{counter}");
    }
    assert_eq!(store.copy(&copy(4, 1), message(6)).await.unwrap(), Copied::Kept);
    assert_eq!(store.copy(&copy(3, 1), message(7)).await.unwrap(), Copied::Same, "is held, though not the newest");
    assert_eq!(store.copy(&copy(9, 5), message(8)).await.unwrap(), Copied::Kept, "away again");
    // Shares that lost to the one under which a version is sealed go, and the right one may come, or is here.
    store.deposit(&share(2, 21), message(9)).await.unwrap();
    let sealed = Version { generation: 2, share_set_sha256: set_sha256(22), ..copy(10, 5) };
    assert_eq!(store.copy(&sealed, message(10)).await.unwrap(), Copied::Kept);
    assert_eq!(shares(&place).await, [(1, 11)]);
    assert_eq!(store.deposit(&share(2, 22), message(11)).await.unwrap(), Deposited::Kept);
    assert_eq!(store.deposit(&share(2, 21), message(12)).await.unwrap(), Deposited::Conflict);
    assert_eq!(shares(&place).await, [(1, 11), (2, 22)]);
    store.deposit(&share(3, 32), message(13)).await.unwrap();
    store.deposit(&share(3, 31), message(14)).await.unwrap();
    let next = Version { generation: 3, share_set_sha256: set_sha256(32), ..copy(11, 5) };
    assert_eq!(store.copy(&next, message(15)).await.unwrap(), Copied::Kept);
    assert_eq!(shares(&place).await, [(2, 22), (3, 32)]);
}

pub(crate) async fn the_history_names_what_each_version_carried_out(place: Place) {
    let place = place.founded().await;
    let store = &place.one;
    for number in 1..=5_u8 {
        store.queue(&command(number, &[number]), NOW_MS, &|_| unreachable!()).await.unwrap();
        let results = vec![(command_id(number), vec![number])];
        let counter = u64::from(number);
        let new = NewVersion { results, commit_now: number < 5, ..version(counter, 1) };
        store.publish(&new, message(counter)).await.unwrap();
    }
    let page = place.two.history(KEY_STORE, 2, 2).await.unwrap();
    let seen: Vec<_> = page.iter().map(|entry| (entry.register.version, entry.commands.clone())).collect();
    assert_eq!(seen, [(2, vec![command_id(2)]), (3, vec![command_id(3)])]);
    assert!(page.iter().all(|entry| entry.boot_id == BOOT && entry.register.committed));
    let last = place.two.history(KEY_STORE, 5, 10).await.unwrap();
    assert!(last.len() == 1 && !last[0].register.committed);
    assert_eq!(place.two.history(KEY_STORE, 6, 10).await.unwrap(), []);
    assert_eq!(place.two.command(KEY_STORE, command_id(2)).await.unwrap(), Some(vec![2]));
}

pub(crate) async fn of_versions_that_race_one_wins(place: Place) {
    let place = place.founded().await;
    for number in 1..=5_u64 {
        let previous = place.one.register(KEY_STORE).await.unwrap().map(|newest| newest.blob_id);
        let racers = (0..6_u8).map(|racer| {
            let store = place.handle(racer.into());
            let new = NewVersion {
                version: Version { previous, ..copy(number, racer) },
                results: vec![(command_id(racer), vec![racer, u8::try_from(number).unwrap()])],
                ..version(number, racer)
            };
            tokio::spawn(async move { store.publish(&new, message(number * 6 + u64::from(racer))).await.unwrap() })
        });
        let mut won = Vec::new();
        for (racer, task) in racers.collect::<Vec<_>>().into_iter().enumerate() {
            match task.await.unwrap() {
                Published::Newest(register) => won.push((u8::try_from(racer).unwrap(), register)),
                Published::Conflict(Some(register)) => assert_eq!(register.version, number),
                other => panic!("{other:?}"),
            }
        }
        let [(winner, register)] = won.as_slice() else { panic!("{won:?}") };
        assert_eq!(place.two.register(KEY_STORE).await.unwrap().as_ref(), Some(register));
        let shown = place.two.result(KEY_STORE, command_id(*winner)).await.unwrap();
        assert_eq!(shown, Some(vec![*winner, u8::try_from(number).unwrap()]), "the loser's result would show here");
    }
}
