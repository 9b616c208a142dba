//! What the cryptography of a request costs by itself.

use std::time::{Duration, Instant};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde::Serialize;

use super::cpu::own_thread_ns;
use super::measure::float;
use super::request::Sizes;

/// For how long each is done.
const TIME: Duration = Duration::from_millis(200);
/// Done between two looks at the clock.
const BATCH: u64 = 32;

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct Primitive {
    /// What it is.
    pub name: String,
    /// Processor time of one, in nanoseconds.
    pub ns: f64,
}

/// Measures them with *ring*, on the thread that asks, for requests of this size.
#[must_use]
pub fn measure(sizes: Sizes, body: usize) -> Vec<Primitive> {
    let mut found = Vec::new();
    if let Ok(key) = UnboundKey::new(&AES_256_GCM, &[7; 32]) {
        let (key, aad) = (LessSafeKey::new(key), vec![1; sizes.aad]);
        let mut buffer = vec![2; sizes.plaintext];
        let ns = time(|| {
            let nonce = Nonce::assume_unique_for_key([3; NONCE_LEN]);
            let _ = std::hint::black_box(key.seal_in_place_separate_tag(nonce, Aad::from(&aad), &mut buffer));
        });
        let name = format!("AES-256-GCM, {} bytes with {} bytes of AAD", sizes.plaintext, sizes.aad);
        found.push(Primitive { name, ns });
    }
    let (key, text) = (hmac::Key::new(hmac::HMAC_SHA256, &[4; 32]), vec![5; body]);
    let ns = time(|| _ = std::hint::black_box(hmac::sign(&key, &text)));
    found.push(Primitive { name: format!("HMAC-SHA-256, {body} bytes (the body of an Encrypt)"), ns });
    found
}

/// The signature of a TLS handshake.
#[must_use]
pub fn signature() -> Primitive {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
        .ok()
        .and_then(|document| EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).ok());
    let ns = key.map_or(0.0, |key| time(|| _ = std::hint::black_box(key.sign(&random, &[6; 64]).is_ok())));
    Primitive { name: "ECDSA P-256 signature (a full handshake has one)".to_owned(), ns }
}

fn time(mut work: impl FnMut()) -> f64 {
    let (started, before) = (Instant::now(), own_thread_ns());
    let mut count = 0;
    while started.elapsed() < TIME {
        for _ in 0..BATCH {
            work();
        }
        count += BATCH;
    }
    float(own_thread_ns() - before) / float(count)
}
