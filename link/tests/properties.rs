//! Round trips over generated messages of the link: what one side writes the other reads as it was, in any pieces.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use core::fmt::Debug;
use std::collections::BTreeMap;

use holdfast_link::control::{
    Hello, Histogram, KeyStoreMetrics, KeyStoreState, KeyStoreStatus, LeaseMetrics, Level, METRICS_FORMAT, Metrics,
    OPERATIONS, RefusedRequest, RequestTrace, STAGES, SignedManifest, Status, ToEnclave, ToParent, TracingOrder,
};
use holdfast_link::egress::{EgressAnswer, EgressRefusal, EgressRequest};
use holdfast_link::{BootId, FrameReader, KeyStoreId, Message, PrintableText, write_frame};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Writes all messages, hands the bytes over in pieces, and reads.
fn holds<M: Message + PartialEq + Debug>(
    messages: &[M],
    piece: usize,
    change: (usize, u8),
) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    for message in messages {
        run(write_frame(&mut bytes, message)).unwrap();
    }
    let read = read_all::<M>(&bytes, piece);
    prop_assert_eq!(read.0.as_slice(), messages);
    prop_assert!(read.1, "the end comes between frames");
    // A changed byte: nothing before its frame is touched, and what is read after all can be written.
    let index = change.0 % bytes.len();
    bytes[index] ^= change.1.max(1);
    for message in read_all::<M>(&bytes, piece).0 {
        let mut again = Vec::new();
        run(write_frame(&mut again, &message)).unwrap();
        prop_assert_eq!(read_all::<M>(&again, 1).0, vec![message]);
    }
    Ok(())
}

fn read_all<M: Message>(bytes: &[u8], piece: usize) -> (Vec<M>, bool) {
    run(async {
        let (mut sender, receiver) = tokio::io::duplex(piece.max(1));
        let mut reader = FrameReader::new(receiver);
        let send = async move {
            let _ = sender.write_all(bytes).await;
            drop(sender);
        };
        let receive = async {
            let mut messages = Vec::new();
            loop {
                match reader.next().await {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => return (messages, true),
                    Err(_) => {
                        // What is left is taken, so that the sender ends.
                        drop(reader);
                        return (messages, false);
                    }
                }
            }
        };
        tokio::join!(send, receive).1
    })
}

fn text<const MAX: usize>() -> impl Strategy<Value = PrintableText<MAX>> {
    any::<String>().prop_map(|text| PrintableText::new(&text))
}

fn state() -> impl Strategy<Value = KeyStoreState> {
    prop::sample::select(&[
        KeyStoreState::AwaitingCustodian,
        KeyStoreState::AwaitingCeremony,
        KeyStoreState::AwaitingCertificate,
        KeyStoreState::Serving,
        KeyStoreState::Blocked,
        KeyStoreState::LeaseExpired,
        KeyStoreState::Refused,
    ])
}

fn key_store() -> impl Strategy<Value = KeyStoreStatus> {
    (any::<[u8; 32]>(), state(), any::<(Option<u64>, Option<u64>)>(), option::of(text())).prop_map(
        |(id, state, (version, lease_remaining_ms), reason)| KeyStoreStatus {
            key_store_id: KeyStoreId::from(id),
            state,
            version,
            lease_remaining_ms,
            reason,
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    let counters = btree_map("[a-z0-9_]{0,64}", any::<u64>(), 0..8);
    (any::<(bool, u64)>(), vec(key_store(), 0..4), counters).prop_map(
        |((ready, connections), detail, counters): (_, _, BTreeMap<_, _>)| Status {
            ready,
            detail,
            connections,
            counters,
        },
    )
}

fn histogram() -> impl Strategy<Value = Histogram> {
    any::<([u64; 16], u64, u64)>().prop_map(|(buckets, above, sum_us)| Histogram { buckets, above, sum_us })
}

fn metrics() -> impl Strategy<Value = Metrics> {
    (histogram(), any::<([u8; 32], u64, u16, [u64; 13], [u64; 7])>()).prop_map(
        |(handshake, (id, number, custodian, requests, alarms))| Metrics {
            format: METRICS_FORMAT,
            handshake,
            latency: [[handshake; STAGES.len()]; OPERATIONS.len()],
            key_stores: vec![KeyStoreMetrics {
                key_store_id: KeyStoreId::from(id),
                requests: [requests; OPERATIONS.len()],
                unsigned: requests,
                certificate_remaining_ms: number,
                credential_age_ms: Some(number),
                audit_queue_bytes: number,
                audit_unwitnessed: number,
                audit_unwitnessed_age_ms: number,
                alarms,
                leases: vec![LeaseMetrics { custodian, remaining_ms: number, granted_ms: number }],
            }],
            ..Metrics::default()
        },
    )
}

fn to_parent() -> impl Strategy<Value = ToParent> {
    let level = prop::sample::select(&[Level::Error, Level::Warn, Level::Info, Level::Debug]);
    prop_oneof![
        any::<(u32, [u8; 16])>()
            .prop_map(|(protocol, boot)| ToParent::Hello(Hello { protocol, boot_id: BootId::from(boot) })),
        status().prop_map(ToParent::Status),
        (level, text()).prop_map(|(level, text)| ToParent::Log { level, text }),
        metrics().prop_map(|metrics| ToParent::Metrics(Box::new(metrics))),
        (any::<([u8; 32], u64)>(), text(), text(), option::of(text())).prop_map(
            |((id, latency_ms), operation, error, kms_request_id)| {
                let key_store_id = KeyStoreId::from(id);
                ToParent::Refusal(RefusedRequest { key_store_id, operation, error, kms_request_id, latency_ms })
            },
        ),
        (any::<([u8; 32], u64, [Option<u64>; 7])>(), text(), text(), option::of(text())).prop_map(
            |((id, began_us, stages_us), operation, outcome, kms_request_id)| {
                let key_store_id = KeyStoreId::from(id);
                ToParent::Trace(RequestTrace { key_store_id, operation, outcome, kms_request_id, began_us, stages_us })
            },
        ),
        Just(ToParent::Drained),
    ]
}

fn to_enclave() -> impl Strategy<Value = ToEnclave> {
    let manifest = vec(any::<u8>(), 1..80).prop_map(|bytes| SignedManifest::new(bytes).unwrap());
    prop_oneof![
        (any::<u32>(), text()).prop_map(|(protocol, reason)| ToEnclave::Refused { protocol, reason }),
        any::<String>().prop_map(|static_configuration| ToEnclave::Configuration { static_configuration }),
        vec(manifest, 0..4).prop_map(|manifests| ToEnclave::KeyStores { manifests }),
        (1_u32.., 1..=100_u32, any::<u32>()).prop_map(|(one_in, per_second, slow_ms)| {
            ToEnclave::Tracing(TracingOrder { one_in, per_second, slow_ms })
        }),
        Just(ToEnclave::Drain),
    ]
}

fn refusal() -> impl Strategy<Value = EgressRefusal> {
    prop::sample::select(&[
        EgressRefusal::NotAllowed,
        EgressRefusal::Unresolvable,
        EgressRefusal::Unreachable,
        EgressRefusal::Busy,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn control_messages(
        to_parent in vec(to_parent(), 1..4),
        to_enclave in vec(to_enclave(), 1..4),
        piece in 1..200_usize,
        change: (usize, u8),
    ) {
        holds(&to_parent, piece, change)?;
        holds(&to_enclave, piece, change)?;
    }

    #[test]
    fn egress_messages(
        host in "[a-z0-9]{1,20}(\\.[a-z]{1,10}){0,3}",
        port in 1..=u16::MAX,
        refusal in option::of(refusal()),
        piece in 1..50_usize,
        change: (usize, u8),
    ) {
        if let Ok(destination) = format!("{host}:{port}").parse() {
            holds(&[EgressRequest { destination }], piece, change)?;
        }
        let answer = refusal.map_or(EgressAnswer::Connected, |reason| EgressAnswer::Refused { reason });
        holds(&[answer], piece, change)?;
    }
}
