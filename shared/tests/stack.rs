//! What computations with long-lived secrets leave in memory: nothing but the secret. A stack is searched from another thread while the
//! one that computed sleeps, as a worker of the enclave does.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread;

use holdfast_shared::audit::{Event, LogId, Record, SegmentKey};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::release::Share;
use holdfast_shared::secrets::Secret;
use holdfast_shared::sharing::{self, Plan};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};

/// What is searched for lies in the test's own memory in this form only.
const MASK: u8 = 0xa5;
/// Bytes read at a time.
const BLOCK: usize = 1024 * 1024;

/// Byte by byte: what takes the whole array takes a copy of it.
fn masked(secret: &Secret<32>) -> [u8; 32] {
    core::array::from_fn(|at| secret.expose()[at] ^ MASK)
}

/// How often a secret lies in this process's memory.
fn copies(masked: &[u8; 32]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = vec![0; BLOCK + masked.len()];
    let own = buffer.as_ptr().addr();
    let own = own..own + buffer.len();
    let mut count = 0;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap());
        while at < end {
            let want = buffer.len().min(end - at);
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..want], u64::try_from(at).unwrap()) else { break };
            let step = read.min(BLOCK);
            let first = masked[0] ^ MASK;
            let is_found = |window: &[u8]| {
                window[0] == first && window.iter().zip(masked).all(|(byte, masked)| byte ^ MASK == *masked)
            };
            let found = buffer[..read].windows(masked.len()).take(step).enumerate();
            count += found.filter(|(place, window)| !own.contains(&(at + place)) && is_found(window)).count();
            at += step;
        }
    }
    buffer.fill(0);
    count
}

fn fresh() -> Secret<32> {
    Secret::fill_with(|own| SystemRandom::new().fill(own)).unwrap()
}

/// Runs `work` on a thread of its own, which keeps what it returns, and sleeps; returns how often the secret that `work` names lies in
/// memory meanwhile.
fn copies_after<T>(work: impl FnOnce() -> (T, [u8; 32]) + Send) -> usize {
    let (tell, told) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (kept, masked) = work();
            tell.send(masked).unwrap();
            ended.recv().unwrap();
            drop(kept);
        });
        let count = copies(&told.recv().unwrap());
        end.send(()).unwrap();
        count
    })
}

// One test: a search reads the memory of all threads of this process.
#[test]
fn computing_with_a_secret_leaves_only_the_secret() {
    let a_copy = || {
        let secret = fresh();
        // From heap to heap: a box of the array would be made of one on the stack.
        let copy = secret.expose().to_vec();
        let masked = masked(&secret);
        ((secret, copy), masked)
    };
    assert_eq!(copies_after(a_copy), 2, "the search finds what is there");

    let derive = || {
        let input = fresh();
        let secret = Secret::fill_with(|own| {
            let key = Salt::new(HKDF_SHA256, b"salt").extract(input.expose());
            key.expand(&[b"info"], HKDF_SHA256)?.fill(own)
        });
        let secret = secret.unwrap();
        let masked = masked(&secret);
        (secret, masked)
    };
    assert_eq!(copies_after(derive), 1, "derived");

    let commit = || {
        let value = fresh();
        let masked = masked(&value);
        let share = Share { index: 1, value };
        let commitment = share.commitment();
        ((share, commitment), masked)
    };
    assert_eq!(copies_after(commit), 1, "committed to");

    let seal = |keeps: bool| {
        move || {
            let secret = fresh();
            let masked = masked(&secret);
            let key = SegmentKey::draw(secret);
            let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
            let record = Record { at_ms: 5, what: Event::Uncounted { refused_unauthenticated: 3 } };
            key.seal_record(&log, 0, &record).unwrap();
            (keeps.then_some(key), masked)
        }
    };
    // A key schedule of AES-256 begins with the key (FIPS 197, section 5.2).
    assert_eq!(copies_after(seal(true)), 2, "the key of a segment, and its schedule");
    assert_eq!(copies_after(seal(false)), 0, "the key of a segment that ended");

    for (shares_needed, shares, kept) in [(1, 1, 3), (2, 3, 2), (3, 5, 2)] {
        let share = || {
            let root = fresh();
            let masked = masked(&root);
            let plan = Plan { key_store_id: KeyStoreId([1; 32]), generation: 1, shares_needed, shares };
            let split = sharing::split(&root, &fresh(), &plan).unwrap();
            let combined = sharing::combine(&split.set, &split.shares.iter().collect::<Vec<_>>()).unwrap();
            ((root, split, combined), masked)
        };
        assert_eq!(copies_after(share), kept, "split into {shares} of which {shares_needed} are needed, and combined");
        let seed = || {
            let seed = fresh();
            let masked = masked(&seed);
            let plan = Plan { key_store_id: KeyStoreId([1; 32]), generation: 1, shares_needed, shares };
            let split = sharing::split(&fresh(), &seed, &plan).unwrap();
            ((seed, split), masked)
        };
        assert_eq!(copies_after(seed), 1, "the seed of {shares} shares");
    }
}
