//! How much stack the cipher of a message takes: less than is overwritten behind it.

#![expect(
    clippy::unwrap_used,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking, and takes up stack on purpose"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread;

use holdfast_shared::external_key::integrity::Hashed;
use holdfast_shared::external_key::{ExternalKeyVersion, MessageRandomness};
use holdfast_shared::secrets::Secret;

const PAINT: u64 = 0x5aa5_c33c_a55a_3cc3;
/// Words that are painted, more than anything here takes.
const PAINTED: usize = 8192;
/// Bytes that are overwritten behind a message: `CIPHER_WORDS` of `secrets`.
const SWEPT: usize = if cfg!(debug_assertions) { 16 } else { 8 } * 1024;

#[inline(never)]
fn paint() {
    core::hint::black_box([PAINT; PAINTED]);
}

#[inline(never)]
fn run(work: impl FnOnce()) {
    work();
}

/// Bytes of stack below its caller that `work` wrote to.
fn depth(work: impl FnOnce() + Send) -> usize {
    let (tell, told) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let here = 0_u64;
            paint();
            run(work);
            tell.send(core::hint::black_box(&raw const here).addr()).unwrap();
            ended.recv().unwrap();
        });
        // The other thread sleeps meanwhile, and has used less for that than for its work.
        let top = told.recv().unwrap();
        let mut words = vec![0; (PAINTED - 512) * 8];
        let bottom = top - words.len();
        File::open("/proc/self/mem").unwrap().read_exact_at(&mut words, u64::try_from(bottom).unwrap()).unwrap();
        end.send(()).unwrap();
        let untouched = words.chunks_exact(8).take_while(|word| **word == PAINT.to_ne_bytes()).count();
        words.len() - untouched * 8
    })
}

#[test]
fn a_message_takes_less_than_is_swept() {
    assert!(depth(|| ()) < 2048, "the paint is found");
    let deep = depth(|| core::hint::black_box([1_u8; 20_000]).fill(2));
    assert!((20_000..50_000).contains(&deep), "depth is found: {deep}");

    let key = ExternalKeyVersion::new(1, Secret::take(&mut [7; 32])).unwrap();
    let randomness = MessageRandomness { salt: [5; 16], iv: [6; 12] };
    let (aad, plaintext) = ([4; 8192], [3; 8192]);
    let message = key.encrypt(&randomness, &aad, &plaintext).unwrap();
    let encrypted = depth(|| drop(key.encrypt(&randomness, &aad, &plaintext).unwrap()));
    let decrypted = depth(|| drop(key.decrypt(&message.as_ciphertext(), &aad).unwrap()));
    // In the order of the specification's Appendix C: the verification lies deeper.
    let verified = depth(|| {
        let message = key.encrypt(&randomness, &aad, &plaintext).unwrap();
        drop(Hashed::compute(message, &aad).verify(&key, &aad, &plaintext).unwrap());
    });
    let deepest = encrypted.max(decrypted).max(verified);
    // The closures' own frames lie above what is swept, and so the margin is larger than it looks.
    assert!(deepest + 1024 < SWEPT, "{encrypted}, {decrypted}, {verified}");
}
