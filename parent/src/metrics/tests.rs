use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_link::BootId;
use holdfast_link::control::{KeyStoreStatus, LeaseMetrics, METRICS_FORMAT};

use super::*;

fn id(begin: u8, end: u8) -> KeyStoreId {
    let mut bytes = [begin; 32];
    bytes[31] = end;
    KeyStoreId::from(bytes)
}

fn store(id: KeyStoreId) -> KeyStoreMetrics {
    let mut requests = [[0; OUTCOMES.len()]; OPERATIONS.len()];
    requests[2][6] = 4;
    let mut unsigned = [0; OUTCOMES.len()];
    (unsigned[5], unsigned[9]) = (7, 8);
    let lease = LeaseMetrics { custodian: 1, remaining_ms: 5_000, granted_ms: 86_400_000 };
    KeyStoreMetrics {
        key_store_id: id,
        requests,
        unsigned,
        certificate_remaining_ms: 1_000,
        credential_age_ms: Some(86_400_000),
        audit_queue_bytes: 9,
        audit_unwitnessed: 2,
        audit_unwitnessed_age_ms: 1_500,
        alarms: [3, 0, 0, 0, 0, 0, 1],
        leases: vec![lease, lease],
    }
}

/// A parent whose enclave said this a while ago.
fn told(stores: &[KeyStoreId], ago: Duration) -> State {
    let state = State::new(4, 4);
    let seat = state.seat(Slot::First);
    let generation = seat.enclave_connected(BootId::from([1; 16]));
    let received = Instant::now().checked_sub(ago).unwrap();
    let detail = |id: &KeyStoreId| KeyStoreStatus {
        key_store_id: *id,
        state: KeyStoreState::Serving,
        version: Some(3),
        lease_remaining_ms: Some(7_500),
        reason: None,
    };
    let counters = BTreeMap::from([("handshakes_failed".to_owned(), 2), ("unheard_of".to_owned(), 3)]);
    let status = Status { ready: true, detail: stores.iter().map(detail).collect(), connections: 1, counters };
    let metrics = Metrics {
        format: METRICS_FORMAT,
        program: "1.2.3".into(),
        key_stores: stores.iter().copied().map(store).collect(),
        ..Metrics::default()
    };
    seat.update_enclave(generation, |view| {
        view.status = Some((received, status));
        view.metrics = Some((received, Arc::new(metrics)));
    });
    state
}

#[test]
fn a_fresh_enclave_is_shown_with_its_key_stores() {
    let page = page(&told(&[id(0xab, 1)], Duration::ZERO));
    for line in [
        "holdfast_enclave_up{slot=\"first\"} 1",
        "holdfast_enclave_info{slot=\"first\",version=\"1.2.3\"} 1",
        "holdfast_enclave_events_total{slot=\"first\",event=\"handshakes_failed\"} 2",
        "holdfast_key_store_serving{slot=\"first\",key_store=\"abababab\"} 1",
        "holdfast_key_store_lease_remaining_seconds{slot=\"first\",key_store=\"abababab\"} 7.500",
        "holdfast_key_store_requests_total{slot=\"first\",key_store=\"abababab\",operation=\"Decrypt\",outcome=\"success\"} 0",
        "holdfast_key_store_requests_total{slot=\"first\",key_store=\"abababab\",operation=\"Decrypt\",outcome=\"AccessDeniedException\"} 4",
        "holdfast_key_store_unsigned_requests_total{slot=\"first\",key_store=\"abababab\",outcome=\"AuthenticationFailedException\"} 7",
        "holdfast_key_store_unsigned_requests_total{slot=\"first\",key_store=\"abababab\",outcome=\"ThrottlingException\"} 8",
        "holdfast_key_store_audit_unwitnessed_age_seconds{slot=\"first\",key_store=\"abababab\"} 1.500",
        "holdfast_key_store_alarms_total{slot=\"first\",key_store=\"abababab\",kind=\"first-seen\"} 3",
        "holdfast_key_store_alarms_total{slot=\"first\",key_store=\"abababab\",kind=\"off-hours\"} 0",
        "holdfast_credential_age_seconds{slot=\"first\",key_store=\"abababab\"} 86400.000",
        "holdfast_parent_control_connected_total 0",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} in\n{page}");
    }
    assert!(!page.contains("unheard_of") && !page.contains("slot=\"second\""));
}

#[test]
fn a_silent_enclave_is_not_shown() {
    for state in [told(&[id(1, 1)], STATUS_FRESH + Duration::from_secs(1)), State::new(4, 4)] {
        let page = page(&state);
        assert!(page.contains("holdfast_enclave_up{slot=\"first\"} 0\n"));
        assert!(!page.contains("holdfast_key_store") && !page.contains("holdfast_enclave_ready"), "{page}");
        assert!(page.contains("holdfast_parent_ready 0\n"));
    }
}

#[test]
fn no_series_is_there_twice_whatever_the_enclave_says() {
    let page = page(&told(&[id(1, 1), id(1, 2), id(2, 1), id(2, 1)], Duration::ZERO));
    let mut series = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        assert!(series.insert(line.rsplit_once(' ').unwrap().0), "{line}");
    }
    for label in [id(1, 1).to_string(), id(1, 2).to_string(), "02020202".to_owned()] {
        assert!(page.contains(&format!("key_store=\"{label}\"")), "{label}");
    }
}

#[test]
fn samples_have_all_labels_of_their_family_and_no_family_is_named_twice() {
    let mut names = BTreeSet::new();
    for family in all() {
        assert!(names.insert(family.name), "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.help.trim().ends_with('.'), "{}", family.name);
    }
    let page = page(&told(&[id(1, 1)], Duration::ZERO));
    for family in all().filter(|family| family.kind != Kind::Histogram) {
        let samples = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(family.name));
        for sample in samples {
            assert_eq!(sample.matches("=\"").count(), family.labels.len(), "{sample}");
        }
    }
}

/// `HOLDFAST_WRITE_VECTORS=1` writes the table anew.
#[test]
fn the_documentation_has_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/observability.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let row = |family: Family| {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = family.kind.as_str();
        format!("| `{}` | {kind} | {} | {} |\n", family.name, labels.join(", "), family.help.trim())
    };
    let table: String = all().map(row).collect();
    let expected = format!("{before}{begin}| metric | kind | labels | |\n|---|---|---|---|\n{table}{end}{after}");
    if text != expected && std::env::var_os("HOLDFAST_WRITE_VECTORS").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        assert!(text == expected, "docs/observability.md: run this test with HOLDFAST_WRITE_VECTORS=1");
    }
}
