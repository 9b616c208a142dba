//! No answer without a record: what stands in the log of a key store, and what happens where nothing can.

use core::task::Poll;

use bytes::Bytes;
use holdfast_enclave::xks::Denial;
use holdfast_shared::audit::{AuditMode, Entry, Event, Operation, Record, RequestRecord, SegmentKey, Tree};
use holdfast_shared::cbor;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::limits::{AUDIT_DURABLE_WAIT_MS, AUDIT_QUEUE_MAX, AUDIT_QUEUE_RESERVE};
use holdfast_shared::xks::ErrorName;
use serde_json::json;

use crate::fixture::{Call, World, decrypt_body, encrypt_body, health, metadata};
use crate::precedence::run;

const KEY_STORES: usize = 1024;

/// All records, opened with the reader's key; their leaves are those of the tree.
fn records(world: &World) -> Vec<Record> {
    let log = &world.audit.log;
    let (mut key, mut tree, mut records) = (None, Tree::default(), Vec::new());
    for bytes in log.entries(0, usize::MAX) {
        let index = tree.append(&bytes);
        match cbor::decode(&bytes).unwrap() {
            Entry::Segment(segment) => key = Some(SegmentKey::open(&segment, &log.id(), &world.reader).unwrap()),
            Entry::Sealed(sealed) => {
                records.push(key.as_ref().unwrap().open_record(&log.id(), index, &sealed).unwrap());
            }
            Entry::Opening(opening) => assert_eq!((index, opening.key_store_id), (0, log.id().key_store_id)),
            Entry::Closing => panic!("not closed"),
        }
    }
    log.tick();
    let head = log.head().unwrap();
    let head = holdfast_shared::audit::Checkpoint::parse(&head.text).unwrap();
    assert_eq!((head.size, head.root), (tree.size(), tree.root()));
    records
}

fn requests(world: &World) -> Vec<RequestRecord> {
    let request = |record: Record| if let Event::Request(request) = record.what { Some(*request) } else { None };
    records(world).into_iter().filter_map(request).collect()
}

#[tokio::test]
async fn every_request_with_a_valid_signature_has_a_record() {
    let world = World::new();
    let encrypt = |key: &str| Call::new(&format!("keys/{key}/encrypt"), &encrypt_body(b"text", b"aad"));
    let (status, encrypted) = run(&world, &encrypt("enabled")).await;
    assert_eq!(status, 200);
    run(&world, &Call::new("keys/enabled/decrypt", &decrypt_body(&encrypted, b"aad"))).await;
    run(&world, &Call::new("keys/enabled/decrypt", &decrypt_body(&encrypted, b"other"))).await;
    run(&world, &Call::new("keys/disabled/metadata", &json!({ "requestMetadata": metadata() }))).await;
    run(&world, &health()).await;
    run(&world, &encrypt("missing")).await;
    run(&world, &encrypt("blocked")).await;
    run(&world, &Call::new("keys/enabled/encrypt", &json!({}))).await;
    *world.guard.denial.lock().unwrap() = Some(Denial::policy(Some("night".into())));
    run(&world, &encrypt("enabled")).await;
    // These are no requests of KMS's, and are counted at most.
    let mut forged = encrypt("enabled");
    forged.secret.replace_range(..1, "G");
    assert_eq!(run(&world, &forged).await.0, 401);
    let mut elsewhere = encrypt("enabled");
    elsewhere.path = elsewhere.path.replace("tenant-1", "tenant-2");
    assert_eq!(run(&world, &elsewhere).await.0, 404);

    let (enabled, text) = (Some("enabled"), Some("arn:aws:iam::123456789012:user/Alice"));
    let expected = [
        (Operation::Encrypt, enabled, Some(2), None, text),
        (Operation::Decrypt, enabled, Some(2), None, text),
        (Operation::Decrypt, enabled, Some(2), Some(ErrorName::InvalidCiphertextException), text),
        (Operation::GetKeyMetadata, Some("disabled"), None, None, text),
        (Operation::GetHealthStatus, None, None, None, None),
        (Operation::Encrypt, Some("missing"), None, Some(ErrorName::KeyNotFoundException), text),
        (Operation::Encrypt, Some("blocked"), None, Some(ErrorName::InvalidStateException), text),
        (Operation::Encrypt, enabled, None, Some(ErrorName::ValidationException), None),
        (Operation::Encrypt, enabled, None, Some(ErrorName::AccessDeniedException), text),
    ];
    let requests = requests(&world);
    let seen: Vec<_> = requests
        .iter()
        .map(|request| {
            let key = request.key.as_ref().map(ExternalKeyId::as_str);
            (request.operation, key, request.key_version, request.error, request.principal.as_deref())
        })
        .collect();
    assert_eq!(seen, expected);
    let nameless: Vec<_> = requests.iter().filter(|request| request.kms_request_id.is_none()).collect();
    assert!(matches!(&nameless[..], [unread] if unread.error == Some(ErrorName::ValidationException)), "{nameless:?}");
    let rules: Vec<_> = requests.iter().filter_map(|request| request.rule.as_deref()).collect();
    assert_eq!(rules, ["night"]);
    assert_eq!(requests[0].kms_request_id.as_deref(), Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"));
    assert_eq!(requests[0].access_key_id.as_str(), crate::fixture::ACCESS_KEY_ID);

    let (uses, _) = world.store().tally.take();
    let told: Vec<_> = uses
        .iter()
        .map(|told| {
            assert_eq!(told.user.principal.as_deref(), text);
            (told.user.key.as_str(), told.count.used, told.count.refused)
        })
        .collect();
    assert_eq!(
        told,
        [("blocked", 0, 1), ("enabled", 2, 2), ("missing", 0, 1)],
        "what could be read of the same requests"
    );

    world.audit.clock.advance_ms(60_000);
    world.audit.log.tick();
    let counted = records(&world).pop().unwrap().what;
    assert_eq!(counted, Event::Uncounted { refused_unauthenticated: 1 });
}

/// What is not recorded was not answered, so it is no use.
#[tokio::test(start_paused = true)]
async fn a_use_without_a_record_is_not_counted() {
    let world = World::with_audit(AuditMode::Strict);
    let encrypt = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b"aad"));
    assert_eq!(run(&world, &encrypt).await.0, 503, "nobody stores it");
    assert!(world.store().tally.take().0.is_empty());
}

/// What the parent does not store fills the queue; then nothing is answered, refusals neither, and nothing is lost of what was.
#[tokio::test]
async fn a_full_queue_stops_everything_until_there_is_room() {
    let world = World::new();
    // As beside a thousand others.
    world.audit.logs.share_among(KEY_STORES);
    let call = health();
    let mut answered = 0_u64;
    // The longest records there are, so that it takes fewer of them; and each of another principal, so that none is only counted.
    let long = |number: u64| {
        let mut long = metadata();
        long["awsPrincipalArn"] = json!(format!("{}{number:04}", "p".repeat(2_000)));
        long["kmsRequestId"] = json!("r".repeat(2_000));
        Call::new("keys/missing/metadata", &json!({ "requestMetadata": long }))
    };
    loop {
        match run(&world, &long(answered)).await.0 {
            404 => answered += 1,
            status => break assert_eq!(status, 503, "after {answered}"),
        }
    }
    let kept: usize = world.audit.log.entries(0, usize::MAX).iter().map(Bytes::len).sum();
    let room = AUDIT_QUEUE_MAX / KEY_STORES - AUDIT_QUEUE_RESERVE;
    assert!(kept <= room / 2 && kept > room / 4, "who is refused fills half of it: {kept}");
    while run(&world, &call).await.0 == 200 {
        answered += 1;
    }
    let kept: usize = world.audit.log.entries(0, usize::MAX).iter().map(Bytes::len).sum();
    assert!(kept < room && kept > room / 2, "{kept}");
    let (status, answer) = run(&world, &long(9_999)).await;
    assert_eq!((status, answer["errorName"].as_str()), (503, Some("DependencyTimeoutException")));
    let recorded = u64::try_from(requests(&world).len()).unwrap();
    assert_eq!(recorded, answered, "each that was answered, and no other");
    world.audit.log.stored(world.audit.log.size() - 1);
    assert_eq!(run(&world, &call).await.0, 200);
    assert_eq!(run(&world, &long(9_999)).await.0, 404);
}

#[tokio::test]
async fn too_much_without_a_witness_stops_successes_until_there_is_one() {
    let world = World::new();
    assert_eq!(run(&world, &health()).await.0, 200);
    world.audit.clock.advance_ms(86_400_000);
    assert_eq!(run(&world, &health()).await.0, 200, "a day old");
    world.audit.clock.advance_ms(1);
    assert_eq!(run(&world, &health()).await.0, 503);
    let missing = Call::new("keys/missing/metadata", &json!({ "requestMetadata": metadata() }));
    assert_eq!(run(&world, &missing).await.0, 404, "a refusal uses nothing");
    world.audit.log.tick();
    let size = world.audit.log.head().unwrap().size;
    world.audit.log.witnessed(size - 1);
    assert_eq!(world.audit.log.unwitnessed(), 1);
    world.audit.log.witnessed(size);
    assert_eq!(run(&world, &health()).await.0, 200);
}

/// In mode strict an answer waits until the parent has its record, and is none if that takes too long.
#[tokio::test(start_paused = true)]
async fn strict_waits_for_the_parents_disk() {
    let world = World::with_audit(AuditMode::Strict);
    let call = health();
    let mut answer = Box::pin(run(&world, &call));
    assert!(matches!(look_at(&mut answer), Poll::Pending));
    let size = world.audit.log.size();
    world.audit.log.stored(size - 1);
    assert!(matches!(look_at(&mut answer), Poll::Pending), "all but its own");
    world.audit.log.stored(size);
    assert_eq!(answer.await.0, 200);

    let started = tokio::time::Instant::now();
    assert_eq!(run(&world, &call).await.0, 503);
    assert_eq!(started.elapsed().as_millis(), u128::from(AUDIT_DURABLE_WAIT_MS));
    // A refusal waits for nothing.
    let missing = Call::new("keys/missing/metadata", &json!({ "requestMetadata": metadata() }));
    assert_eq!(run(&world, &missing).await.0, 404);
    assert_eq!(world.audit.log.size(), size + 2, "both are recorded all the same");
}

fn look_at<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    core::pin::Pin::new(future).poll(&mut core::task::Context::from_waker(core::task::Waker::noop()))
}

/// A block that comes while the record is stored is seen before the answer is written.
#[tokio::test(start_paused = true)]
async fn the_gate_is_asked_again_after_the_record() {
    let world = World::with_audit(AuditMode::Strict);
    let call = health();
    let mut answer = Box::pin(run(&world, &call));
    assert!(matches!(look_at(&mut answer), Poll::Pending));
    world.block_store();
    world.audit.log.stored(world.audit.log.size());
    assert_eq!(answer.await.0, 400);
}
