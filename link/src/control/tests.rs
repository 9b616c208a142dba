use super::*;
use crate::frame::{read_frame, write_frame};
use proptest::prelude::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    run(write_frame(&mut bytes, message)).unwrap();
    bytes
}

/// One line a message: the JSON of every message is part of the protocol.
#[test]
fn messages_have_the_form_of_the_protocol() {
    let to_parent = [
        (
            ToParent::Hello(Hello::new(BootId::from([0xab; 16]))),
            r#"{"hello":{"protocol":1,"boot_id":"abababababababababababababababab"}}"#.to_owned(),
        ),
        (
            ToParent::Status(Status {
                ready: true,
                detail: vec![KeyStoreStatus {
                    key_store_id: KeyStoreId::from([1; 32]),
                    state: KeyStoreState::LeaseExpired,
                    version: Some(3),
                    lease_remaining_ms: None,
                    reason: Some("gone".into()),
                }],
                connections: 2,
                counters: BTreeMap::from([("requests".to_owned(), 9)]),
            }),
            format!(
                r#"{{"status":{{"ready":true,"detail":[{{"key_store_id":"{}","state":"LeaseExpired","version":3,"lease_remaining_ms":null,"reason":"gone"}}],"connections":2,"counters":{{"requests":9}}}}}}"#,
                "01".repeat(32)
            ),
        ),
        (
            ToParent::Log { level: Level::Warn, text: "line\nbreak".into() },
            r#"{"log":{"level":"warn","text":"line\\nbreak"}}"#.to_owned(),
        ),
        (
            ToParent::Refusal(RefusedRequest {
                key_store_id: KeyStoreId::from([1; 32]),
                operation: "Decrypt".into(),
                error: "AccessDeniedException".into(),
                kms_request_id: Some("id".into()),
                latency_ms: 4,
            }),
            format!(
                r#"{{"refusal":{{"key_store_id":"{}","operation":"Decrypt","error":"AccessDeniedException","kms_request_id":"id","latency_ms":4}}}}"#,
                "01".repeat(32)
            ),
        ),
        (
            ToParent::Trace(RequestTrace {
                key_store_id: KeyStoreId::from([1; 32]),
                operation: "Decrypt".into(),
                outcome: "success".into(),
                kms_request_id: None,
                began_us: 5,
                stages_us: [Some(1), Some(2), Some(3), Some(4), None, Some(6), Some(7)],
            }),
            format!(
                r#"{{"trace":{{"key_store_id":"{}","operation":"Decrypt","outcome":"success","kms_request_id":null,"began_us":5,"stages_us":[1,2,3,4,null,6,7]}}}}"#,
                "01".repeat(32)
            ),
        ),
        (ToParent::Drained, r#""drained""#.to_owned()),
    ];
    for (message, json) in to_parent {
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert_eq!(serde_json::from_str::<ToParent>(&json).unwrap(), message);
    }
    let to_enclave = [
        (
            ToEnclave::Refused { protocol: 1, reason: "because".into() },
            r#"{"refused":{"protocol":1,"reason":"because"}}"#,
        ),
        (
            ToEnclave::AwsCredentials(AwsCredentials {
                access_key_id: "ASIA".to_owned(),
                secret_access_key: "secret".to_owned(),
                session_token: Some("token".to_owned()),
                expires_ms: Some(7),
            }),
            r#"{"aws_credentials":{"access_key_id":"ASIA","secret_access_key":"secret","session_token":"token","expires_ms":7}}"#,
        ),
        (
            ToEnclave::Configuration { static_configuration: "{ }\n".to_owned() },
            r#"{"configuration":{"static_configuration":"{ }\n"}}"#,
        ),
        (
            ToEnclave::KeyStores { manifests: vec![SignedManifest::new(vec![0, 1]).unwrap()] },
            r#"{"key_stores":{"manifests":["AAE="]}}"#,
        ),
        (
            ToEnclave::Tracing(TracingOrder { one_in: 100, per_second: 10, slow_ms: 50 }),
            r#"{"tracing":{"one_in":100,"per_second":10,"slow_ms":50}}"#,
        ),
        (ToEnclave::Drain, r#""drain""#),
    ];
    for (message, json) in to_enclave {
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert_eq!(serde_json::from_str::<ToEnclave>(json).unwrap(), message);
    }
}

#[test]
fn the_largest_status_fits_its_frame() {
    let detail = (0..KEY_STORES_MAX)
        .map(|_| KeyStoreStatus {
            key_store_id: KeyStoreId::from([0xff; 32]),
            state: KeyStoreState::AwaitingCertificate,
            version: Some(u64::MAX),
            lease_remaining_ms: Some(u64::MAX),
            reason: Some(PrintableText::new(&"\"".repeat(REASON_MAX))),
        })
        .collect();
    let counters = (0..COUNTERS_MAX).map(|number| (format!("{number:0>COUNTER_NAME_MAX$}"), u64::MAX)).collect();
    let status = Status { ready: true, detail, connections: u64::MAX, counters };
    assert!(encode(&ToParent::Status(status)).len() <= TO_PARENT_FRAME_MAX);
}

#[test]
fn the_largest_messages_to_the_enclave_fit_their_frame() {
    let manifest = SignedManifest::new(vec![0xff; MANIFEST_MAX]).unwrap();
    let manifests = vec![manifest; MANIFESTS_TOTAL_MAX / MANIFEST_MAX];
    assert!(encode(&ToEnclave::KeyStores { manifests }).len() <= TO_ENCLAVE_FRAME_MAX);
    let static_configuration = "\u{1}".repeat(STATIC_CONFIGURATION_MAX);
    assert!(encode(&ToEnclave::Configuration { static_configuration }).len() <= TO_ENCLAVE_FRAME_MAX);
}

#[test]
fn what_is_beyond_a_limit_is_refused_on_both_sides() {
    let manifest = SignedManifest::new(vec![1; MANIFEST_MAX]).unwrap();
    let counter =
        |name: &str| ToParent::Status(Status { counters: BTreeMap::from([(name.to_owned(), 1)]), ..Status::default() });
    let many = (0..=COUNTERS_MAX).map(|number| (format!("c{number}"), 1)).collect();
    assert!(ToEnclave::KeyStores { manifests: vec![manifest; 200] }.check().is_err());
    assert!(
        ToEnclave::KeyStores { manifests: vec![SignedManifest::new(vec![1]).unwrap(); KEY_STORES_MAX + 1] }
            .check()
            .is_err()
    );
    assert!(ToParent::Status(Status { counters: many, ..Status::default() }).check().is_err());
    assert!(counter("requests_total").check().is_ok());
    assert!(counter(&"x".repeat(COUNTER_NAME_MAX + 1)).check().is_err());
    assert!(counter("a\nb").check().is_err());
    assert!(SignedManifest::new(vec![]).is_err());
    assert!(SignedManifest::new(vec![0; MANIFEST_MAX + 1]).is_err());
}

#[test]
fn the_first_message_decides() {
    let hello = |protocol| ToParent::Hello(Hello { protocol, boot_id: BootId::from([7; 16]) });
    let receive = |message: ToParent| {
        let bytes = encode(&message);
        run(async move { receive_hello(&mut FrameReader::new(bytes.as_slice())).await })
    };
    assert_eq!(receive(hello(PROTOCOL)).unwrap().boot_id, BootId::from([7; 16]));
    assert!(matches!(receive(hello(2)), Err(HandshakeError::Protocol { theirs: 2 })));
    assert!(matches!(receive(ToParent::Drained), Err(HandshakeError::Order)));
    let nothing = run(receive_hello(&mut FrameReader::new([].as_slice())));
    assert!(matches!(nothing, Err(HandshakeError::Ended)));
}

#[test]
fn the_enclave_takes_the_configuration_or_the_refusal() {
    let receive = |message: ToEnclave| {
        let bytes = encode(&message);
        run(async move { receive_configuration(&mut FrameReader::new(bytes.as_slice())).await })
    };
    let configuration = ToEnclave::Configuration { static_configuration: "{}".to_owned() };
    assert_eq!(receive(configuration).unwrap(), "{}");
    let other = ToEnclave::Refused { protocol: 9, reason: "old".into() };
    assert!(matches!(receive(other), Err(HandshakeError::Protocol { theirs: 9 })));
    let refused = ToEnclave::Refused { protocol: PROTOCOL, reason: "no".into() };
    assert!(matches!(receive(refused), Err(HandshakeError::Refused { .. })));
    assert!(matches!(receive(ToEnclave::Drain), Err(HandshakeError::Order)));
}

proptest! {
    #[test]
    fn messages_round_trip(
        ready in any::<bool>(),
        text in any::<String>(),
        boot_id in any::<[u8; 16]>(),
        ids in proptest::collection::vec(any::<([u8; 32], Option<u64>, Option<u64>, Option<String>)>(), 0..4),
        counters in proptest::collection::btree_map("[a-z_]{1,20}", any::<u64>(), 0..5),
        manifests in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..4),
    ) {
        let detail = ids
            .into_iter()
            .map(|(id, version, lease_remaining_ms, reason)| KeyStoreStatus {
                key_store_id: KeyStoreId::from(id),
                state: KeyStoreState::Serving,
                version,
                lease_remaining_ms,
                reason: reason.map(|reason| PrintableText::new(&reason)),
            })
            .collect();
        for message in [
            ToParent::Hello(Hello::new(BootId::from(boot_id))),
            ToParent::Status(Status { ready, detail, connections: 4, counters }),
            ToParent::Log { level: Level::Info, text: PrintableText::new(&text) },
        ] {
            let bytes = encode(&message);
            let read: ToParent = run(read_frame(&mut bytes.as_slice())).unwrap().unwrap();
            prop_assert_eq!(encode(&read), bytes);
            prop_assert_eq!(read, message);
        }
        let manifests = manifests.into_iter().map(|bytes| SignedManifest::new(bytes).unwrap()).collect();
        let message = ToEnclave::KeyStores { manifests };
        let bytes = encode(&message);
        prop_assert_eq!(run(read_frame::<ToEnclave, _>(&mut bytes.as_slice())).unwrap(), Some(message));
    }
}

#[test]
fn aws_credentials_are_bounded_and_never_shown() {
    let credentials = |secret: usize, token: usize| {
        ToEnclave::AwsCredentials(AwsCredentials {
            access_key_id: "ASIA".to_owned(),
            secret_access_key: "s".repeat(secret),
            session_token: Some("t".repeat(token)),
            expires_ms: None,
        })
    };
    assert!(credentials(128, 8192).check().is_ok());
    assert!(credentials(129, 1).check().is_err() && credentials(1, 8193).check().is_err());
    assert_eq!(format!("{:?}", credentials(9, 9)), "AwsCredentials(AwsCredentials(..))");
}

#[test]
fn an_order_for_traces_has_bounds() {
    for (one_in, per_second, is_fine) in
        [(1, 1, true), (u32::MAX, 100, true), (0, 1, false), (1, 0, false), (1, 101, false)]
    {
        let order = TracingOrder { one_in, per_second, slow_ms: 0 };
        assert_eq!(ToEnclave::Tracing(order).check().is_ok(), is_fine, "{order:?}");
    }
}
