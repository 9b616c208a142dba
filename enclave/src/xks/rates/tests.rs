use core::sync::atomic::{AtomicU32, Ordering};

use holdfast_shared::keystore::KeyLimit;
use proptest::prelude::*;

use super::*;

const fn quota(requests_per_second: u32, burst: u32) -> Quota {
    Quota { requests_per_second, burst }
}

fn id(text: &str) -> ExternalKeyId {
    ExternalKeyId::parse(text).unwrap()
}

fn limits(per_key: Option<u32>, own: &[(&str, u32)], per_principal: Option<u32>) -> UseLimits {
    let keys = own.iter().map(|(key, burst)| KeyLimit { id: id(key), quota: quota(1, *burst) }).collect();
    UseLimits {
        per_key: per_key.map(|burst| quota(1, burst)),
        keys,
        per_principal: per_principal.map(|burst| quota(1, burst)),
    }
}

fn rates(store: Option<u32>, limits: Option<&UseLimits>) -> Rates {
    Rates::default().next(store.map(|burst| quota(1, burst)), limits, &[id("a"), id("b")])
}

/// How many of `asked` pass at one moment.
fn passed(rates: &Rates, key: &str, principal: &str, asked: usize) -> usize {
    (0..asked).filter(|_| rates.take(&id(key), principal, 0).is_ok()).count()
}

#[test]
fn each_level_counts_for_itself() {
    let all = limits(Some(3), &[("b", 2)], Some(4));
    let rates = rates(Some(6), Some(&all));
    assert_eq!(passed(&rates, "a", "alice", 9), 3, "the key's limit");
    assert_eq!(rates.take(&id("a"), "alice", 0), Err(KEY));
    assert_eq!(passed(&rates, "b", "alice", 9), 1, "what the key refused cost the principal nothing");
    assert_eq!(rates.take(&id("b"), "alice", 0), Err(PRINCIPAL));
    assert_eq!(passed(&rates, "b", "bob", 9), 1, "the key's own limit");
    assert_eq!(passed(&rates, "unknown", "carol", 9), 1, "a key without a bucket, up to the key store's quota");
    assert_eq!(rates.take(&id("unknown"), "carol", 0), Err(QUOTA));
    assert_eq!(rates.take(&id("a"), "alice", 0), Err(QUOTA), "the first level that is empty is named");
    assert_eq!(rates.take(&id("a"), "alice", 1_000), Ok(()), "all of them fill again");
}

#[test]
fn without_limits_nothing_is_refused() {
    let rates = rates(None, None);
    assert_eq!(passed(&rates, "a", "alice", 1_000), 1_000);
}

#[test]
fn buckets_outlive_versions_until_their_limit_changes() {
    let all = limits(Some(3), &[], Some(2));
    let first = rates(Some(9), Some(&all));
    assert_eq!(passed(&first, "a", "alice", 9), 2);
    let keys = [id("a"), id("c")];
    let same = first.next(Some(quota(1, 9)), Some(&all), &keys);
    assert_eq!(passed(&same, "a", "alice", 9), 0, "a new version is no new burst");
    assert_eq!(passed(&same, "a", "bob", 9), 1, "for the key neither");
    assert_eq!(passed(&same, "c", "carol", 9), 2, "a new key has a bucket of its own");
    let more = same.next(Some(quota(1, 9)), Some(&limits(Some(3), &[], Some(5))), &keys);
    assert_eq!(passed(&more, "c", "alice", 9), 1, "another limit is another table; the key goes on");
    let none = first.next(None, None, &keys);
    assert_eq!(passed(&none, "a", "alice", 100), 100);
}

#[test]
fn threads_share_all_levels() {
    let all = limits(Some(100), &[], Some(60));
    let rates = rates(Some(150), Some(&all));
    let counts = [AtomicU32::new(0), AtomicU32::new(0)];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (rates, count, principal) = (&rates, &counts[thread % 2], ["alice", "bob"][thread % 2]);
            scope.spawn(move || {
                for _ in 0..200 {
                    count.fetch_add(u32::from(rates.take(&id("a"), principal, 7).is_ok()), Ordering::SeqCst);
                }
            });
        }
    });
    let [alice, bob] = counts.map(AtomicU32::into_inner);
    assert!(alice <= 60 && bob <= 60, "{alice} {bob}");
    assert_eq!(alice + bob, 100, "what one level refused, another had for others");
}

proptest! {
    /// Whoever comes: nobody gets more than the limit of each level, and the table does not grow.
    #[test]
    fn no_level_gives_more_than_its_burst(
        requests in prop::collection::vec((0_usize..2, 0_usize..40), 1..300),
        (store, key, principal) in (1_u32..80, 1_u32..60, 1_u32..12),
    ) {
        let all = limits(Some(key), &[], Some(principal));
        let rates = rates(Some(store), Some(&all));
        let (mut by_key, mut by_principal) = ([0_u32; 2], [0_u32; 40]);
        for (key, principal) in requests {
            if rates.take(&id(["a", "b"][key]), &format!("principal-{principal}"), 0).is_ok() {
                by_key[key] += 1;
                by_principal[principal] += 1;
            }
        }
        prop_assert!(by_key.iter().sum::<u32>() <= store);
        prop_assert!(by_key.iter().all(|passed| *passed <= key));
        prop_assert!(by_principal.iter().all(|passed| *passed <= principal));
        let table = &rates.principals.as_ref().unwrap().1.spent_until;
        prop_assert_eq!(table.len(), PRINCIPAL_BUCKETS);
    }
}
