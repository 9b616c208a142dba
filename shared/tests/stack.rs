//! What computations with long-lived secrets leave in memory: nothing but the secret. A stack is searched from another thread while the
//! one that computed sleeps, as a worker of the enclave does.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread;

use aes_gcm::AesGcm;
use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::aes::Aes256;
use holdfast_shared::audit::{Event, LogId, Record, SegmentKey};
use holdfast_shared::external_key::{
    Ciphertext, ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage, LegacyProfile, MessageRandomness,
};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::release::Share;
use holdfast_shared::secrets::{Secret, with_swept_stack};
use holdfast_shared::sharing::{self, Plan};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};

/// What is searched for lies in the test's own memory in this form only.
const MASK: u8 = 0xa5;
/// Bytes read at a time.
const BLOCK: usize = 1024 * 1024;

/// The optimizer may go by way of a copy.
fn masked(secret: &Secret<32>) -> [u8; 32] {
    with_swept_stack(|| core::array::from_fn(|at| secret.expose()[at] ^ MASK))
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

/// A key of AWS's sample proxy.
fn legacy_key(material: &Secret<32>) -> ExternalKey {
    let mut copy = material.expose().to_vec();
    let version = ExternalKeyVersion::new(1, Secret::take(copy.as_mut_slice().try_into().unwrap())).unwrap();
    let version = version.with_legacy(Some(LegacyProfile::AwsSample));
    let id = ExternalKeyId::parse("key").unwrap();
    ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, vec![version]).unwrap()
}

/// Ciphertext and tag of a message of the sample proxy, without AAD and metadata.
fn legacy_message(material: &Secret<32>, iv: &[u8; 16]) -> (Vec<u8>, Vec<u8>) {
    with_swept_stack(|| {
        let cipher = AesGcm::<Aes256, U16>::new_from_slice(material.expose()).unwrap();
        let mut text = b"of the sample proxy".to_vec();
        let tag = cipher.encrypt_inout_detached(iv.into(), &[0; 3], text.as_mut_slice().into()).unwrap();
        (text, tag.to_vec())
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

    let randomness = MessageRandomness { salt: [5; 16], iv: [6; 12] };
    let use_key = || {
        let material = fresh();
        let (key, masked) = (legacy_key(&material), masked(&material));
        drop(material);
        let (message, _) = key.encrypt_verified(&randomness, &[4; 8192], &[3; 4096]).unwrap().into_parts();
        key.decrypt(&message.as_ciphertext(), &[4; 8192]).unwrap();
        (key, masked)
    };
    assert_eq!(copies_after(use_key), 1, "the material of a key that was used");

    let use_legacy_key = |iv_len: usize| {
        move || {
            let material = fresh();
            let (key, masked) = (legacy_key(&material), masked(&material));
            let iv = [6; 16];
            let (ciphertext, tag) = legacy_message(&material, &iv);
            drop(material);
            let message = Ciphertext { ciphertext: &ciphertext, iv: &iv[..iv_len], tag: &tag, metadata: &[] };
            // Under the shorter one it does not authenticate, for which the key is expanded as well.
            assert_eq!(key.decrypt(&message, &[]).is_ok(), iv_len == 16);
            (key, masked)
        }
    };
    for iv_len in [12, 16] {
        assert_eq!(copies_after(use_legacy_key(iv_len)), 1, "the material of a legacy key, IV of {iv_len} bytes");
    }

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
