//! What each stage of a request takes, alone: signature, parsing, guard, cipher, record, answer.
//!
//! ```console
//! $ cargo bench -p holdfast-enclave
//! ```
//!
//! Times of one run, to be compared with others of the same run. What a whole request takes, beside a bare server, `holdfast-dev load` measures.

#![expect(clippy::unwrap_used, reason = "a measurement stops where it fails")]

#[path = "../tests/xks/fixture.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod fixture;

use core::hint::black_box;
use core::time::Duration;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use holdfast_enclave::clock::SteppedClock;
use holdfast_enclave::xks::{PolicyInForce, Question, UseGuards, UseRules};
use holdfast_guard::Policy;
use holdfast_shared::audit::{AuditMode, Operation as Recorded, RequestRecord};
use holdfast_shared::external_key::{ExternalKey, ExternalKeyVersion, KeyState, KeyUsage, MessageRandomness};
use holdfast_shared::keystore::{Quota, UseLimits};
use holdfast_shared::secrets::Secret;
use holdfast_shared::sigv4::{AccessKeyId, Claim, Occurrence, Region, Regions, SignedRequest};
use holdfast_shared::xks::{self, EncryptAnswer, Operation};

use fixture::{ACCESS_KEY_ID, Call, HOST, REGION, WALL_MS, World, credentials, decrypt_body, encrypt_body, key_id};

/// Bytes of plaintext and of AAD: a data key's, and the most that KMS sends with the longest context.
const SIZES: [(usize, usize); 2] = [(32, 100), (4300, 8192)];
const RANDOMNESS: MessageRandomness = MessageRandomness { salt: [5; 16], iv: [6; 12] };
const PLENTY: Quota = Quota { requests_per_second: 1_000_000, burst: 1_000_000 };

fn key() -> ExternalKey {
    let version = ExternalKeyVersion::new(1, Secret::take(&mut [7; 32])).unwrap();
    ExternalKey::new(key_id("enabled"), KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, vec![version]).unwrap()
}

fn signature(criterion: &mut Criterion) {
    let (credentials, regions) = (credentials(), Regions::Only(vec![Region::parse(REGION).unwrap()]));
    for (plaintext, aad) in SIZES {
        let call = Call::new("keys/enabled/encrypt", &encrypt_body(&vec![7; plaintext], &vec![8; aad])).signed();
        let headers = call.headers();
        criterion.bench_function(&format!("signature/{plaintext}+{aad}"), |bench| {
            bench.iter(|| {
                let request = SignedRequest {
                    method: "POST",
                    path: call.uri().path(),
                    authority: HOST,
                    header: |name: &str| {
                        headers.get(name).map_or(Occurrence::Absent, |v| Occurrence::Once(v.as_bytes()))
                    },
                    body: call.body().as_bytes(),
                };
                Claim::parse(&request, &regions, WALL_MS).unwrap().verify(&credentials).unwrap()
            });
        });
    }
}

fn parsing(criterion: &mut Criterion) {
    for (plaintext, aad) in SIZES {
        let (plaintext, aad) = (vec![7; plaintext], vec![8; aad]);
        let body = encrypt_body(&plaintext, &aad).to_string();
        let name = format!("{}+{}", plaintext.len(), aad.len());
        criterion.bench_function(&format!("parse/encrypt/{name}"), |bench| {
            bench.iter(|| drop(black_box(xks::parse_encrypt(body.as_bytes()).unwrap())));
        });
        let message = key().encrypt(&RANDOMNESS, &aad, &plaintext).unwrap();
        let answer = EncryptAnswer { message: &message, integrity_value: None }.to_json();
        let body = decrypt_body(&serde_json::from_slice(&answer).unwrap(), &aad).to_string();
        criterion.bench_function(&format!("parse/decrypt/{name}"), |bench| {
            bench.iter(|| drop(black_box(xks::parse_decrypt(body.as_bytes()).unwrap())));
        });
    }
}

fn guard(criterion: &mut Criterion) {
    let text = r#"permit (principal, action, resource) when { principal has account && principal.account == "123456789012" };"#;
    let policy = Policy::parse(text).unwrap();
    let body = encrypt_body(b"plaintext", b"").to_string();
    let request = xks::parse_encrypt(body.as_bytes()).unwrap();
    let (key, access_key_id) = (key_id("enabled"), AccessKeyId::parse(ACCESS_KEY_ID).unwrap());
    let question = Question {
        key_store: holdfast_shared::ids::KeyStoreId([1; 32]),
        key: &key,
        operation: Operation::Encrypt,
        metadata: &request.metadata,
        access_key_id: &access_key_id,
    };
    let attributes = holdfast_guard::Attributes {
        operation: Operation::Encrypt,
        external_key_id: key.as_str(),
        principal: request.metadata.aws_principal_arn().unwrap(),
        kms_operation: request.metadata.kms_operation(),
        kms_key_arn: request.metadata.kms_key_arn(),
        via_service: None,
        source_vpc: None,
        source_vpce: None,
        access_key_id: ACCESS_KEY_ID,
        time_ms: WALL_MS,
    };
    criterion.bench_function("guard/policy", |bench| bench.iter(|| assert!(policy.decide(&attributes).is_permitted())));
    let limits = UseLimits { per_key: Some(PLENTY), keys: Vec::new(), per_principal: Some(PLENTY) };
    let clock = Arc::new(SteppedClock::at(WALL_MS));
    let guards = UseGuards::new(clock.clone(), || Duration::ZERO);
    let rules = UseRules {
        policy: PolicyInForce::Valid(Box::new(Policy::parse(text).unwrap())),
        quota: Some(PLENTY),
        limits: Some(limits),
        budgets: None,
        keys: vec![key.clone()],
    };
    let guard = guards.guard(rules);
    criterion.bench_function("guard/remembered, with limits", |bench| {
        bench.iter(|| {
            // More than it takes, or the buckets would be empty.
            clock.advance_ms(1);
            assert!(guard.permit(&question).is_ok());
        });
    });
}

fn cipher(criterion: &mut Criterion) {
    let key = key();
    for (plaintext, aad) in SIZES {
        let (plaintext, aad) = (vec![7; plaintext], vec![8; aad]);
        let name = format!("{}+{}", plaintext.len(), aad.len());
        criterion.bench_function(&format!("cipher/encrypt with CDIV/{name}"), |bench| {
            bench.iter(|| key.encrypt_verified(&RANDOMNESS, &aad, &plaintext).unwrap());
        });
        let message = key.encrypt(&RANDOMNESS, &aad, &plaintext).unwrap();
        criterion.bench_function(&format!("cipher/decrypt/{name}"), |bench| {
            bench.iter(|| key.decrypt(&message.as_ciphertext(), &aad).unwrap());
        });
        criterion.bench_function(&format!("answer/encrypt/{name}"), |bench| {
            bench.iter(|| EncryptAnswer { message: &message, integrity_value: Some(&[9; 32]) }.to_json());
        });
    }
}

fn record(criterion: &mut Criterion) {
    let world = World::with_audit(AuditMode::Relaxed);
    let log = &world.audit.log;
    let record = RequestRecord {
        key: Some(key_id("enabled")),
        key_version: Some(2),
        latency_us: 300,
        kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned()),
        kms_operation: Some("Encrypt".to_owned()),
        principal: Some("arn:aws:iam::123456789012:user/Alice".to_owned()),
        kms_key_arn: Some("arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab".to_owned()),
        ..RequestRecord::new(Recorded::Encrypt, ACCESS_KEY_ID.parse().unwrap())
    };
    let mut count = 0_u64;
    criterion.bench_function("record", |bench| {
        bench.iter_batched(
            || {
                count += 1;
                // The parent has everything so far.
                log.stored(count);
                record.clone()
            },
            |record| log.success(record).unwrap().settled().unwrap(),
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(stages, signature, parsing, guard, cipher, record);
criterion_main!(stages);
