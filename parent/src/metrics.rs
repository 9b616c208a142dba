//! `GET /metrics`: what the parent counts, and what its enclaves say of themselves, for Prometheus.
//!
//! Guarantees: a page is as long as the bounds of [`holdfast_link::limits`] allow, however much traffic there was; key stores stand
//! there under the first 8 digits of their ids, as long as these are not shared; no principal, no external key and no host name stands there. Assumes: nothing
//! of the enclaves' numbers. Refuses: to show what an enclave said too long ago; `holdfast_enclave_up` is 0 then.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Instant;

use holdfast_link::KeyStoreId;
use holdfast_link::control::{ALARMS, KeyStoreMetrics, KeyStoreState, Metrics, OPERATIONS, OUTCOMES, STAGES, Status};
use holdfast_link::limits::{METRICS_FRESH, STATUS_FRESH};

use crate::config::Slot;
use crate::counters::Counters;
use crate::state::{EnclaveView, State, age};
use crate::traces::SpanCounts;

mod families;
mod text;

use families::{Family, Kind};
use text::{Milliseconds, Text};

/// Digits of a key store's id that are its label.
const LABEL_DIGITS: usize = 8;

/// Of what the enclave counts in its status, that which only grows and is not among its metrics.
const EVENTS: [&str; 13] = [
    "handshakes_failed",
    "handshakes_timed_out",
    "handshakes_for_unknown_host",
    "connections_broken",
    "connections_unproven",
    "connections_unsigned",
    "connections_silent",
    "requests_no_room",
    "requests_misdirected",
    "requests_aborted",
    "requests_proof",
    "log_lines_dropped",
    "traces_dropped",
];

/// Outcomes that stand there before the first such request, so that an alert sees the first one as growth.
const ALWAYS: [&str; 5] =
    ["success", "AccessDeniedException", "ThrottlingException", "DependencyTimeoutException", "InternalException"];

/// The same for requests without a valid signature.
const ALWAYS_UNSIGNED: &str = "AuthenticationFailedException";

/// The parent's counters as metrics.
static COUNTED: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let family = |(name, help): &(&str, &'static str)| Family {
        // Made once, for as long as the program runs.
        name: String::leak(format!("holdfast_parent_{name}_total")),
        kind: Kind::Counter,
        labels: &[],
        help,
    };
    Counters::DESCRIBED.iter().map(family).collect()
});

fn all() -> impl Iterator<Item = Family> {
    families::FAMILIES.iter().chain(COUNTED.iter()).copied()
}

/// The page.
pub(crate) fn page(state: &State) -> String {
    let mut text = Text::default();
    of_parent(&mut text, state);
    let active = *state.active.borrow();
    for slot in [active, active.other()] {
        let view = state.seat(slot).enclave();
        // The place beside the one that serves is empty most of the time: that is no outage.
        if view.is_some() || slot == active {
            of_enclave(&mut text, slot, view, Instant::now());
        }
    }
    text.page(all())
}

fn of_parent(text: &mut Text, state: &State) {
    text.add(&families::PARENT_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    let uptime = age(Instant::now(), state.started).as_millis();
    text.add(&families::PARENT_UPTIME, &[], Milliseconds(u64::try_from(uptime).unwrap_or(u64::MAX)));
    text.add(&families::PARENT_READY, &[], u8::from(state.readiness().is_ok()));
    text.add(&families::PARENT_CONNECTIONS, &[], state.ingress.taken());
    text.add(&families::PARENT_EGRESS, &[], state.egress.taken());
    let audit = state.audit.page();
    text.add(&families::PARENT_AUDIT_LOGS, &[], audit.logs);
    if let Some(free) = audit.free_bytes {
        text.add(&families::PARENT_AUDIT_FREE, &[], free);
    }
    text.add(&families::PARENT_AUDIT_FAILING, &[], u8::from(audit.failing.is_some()));
    let SpanCounts { exported, rejected, failed, dropped } = &state.traces.spans;
    let spans = [("exported", exported), ("rejected", rejected), ("failed", failed), ("dropped", dropped)];
    for (outcome, counter) in spans {
        text.add(&families::PARENT_SPANS, &[outcome], counter.count());
    }
    let counted = state.counters.snapshot();
    for (family, (name, _)) in COUNTED.iter().zip(Counters::DESCRIBED) {
        text.add(family, &[], counted.get(name).copied().unwrap_or(0));
    }
}

fn of_enclave(text: &mut Text, slot: Slot, view: Option<EnclaveView>, now: Instant) {
    let slot = slot.name();
    let (status, metrics) = view.map_or((None, None), |view| (view.status, view.metrics));
    let status = status.filter(|(received, _)| age(now, *received) <= STATUS_FRESH);
    text.add(&families::ENCLAVE_UP, &[slot], u8::from(status.is_some()));
    let Some((_, status)) = status else { return };
    let metrics = metrics.filter(|(received, _)| age(now, *received) <= METRICS_FRESH).map(|(_, metrics)| metrics);
    let known = status.detail.iter().map(|store| store.key_store_id);
    let measured = metrics.iter().flat_map(|metrics| metrics.key_stores.iter().map(|store| store.key_store_id));
    let labels = labels(known.chain(measured));
    of_status(text, slot, &status, &labels);
    if let Some(metrics) = metrics {
        of_metrics(text, slot, &metrics, &labels);
    }
}

/// What key stores are called.
pub(crate) type Labels = BTreeMap<KeyStoreId, String>;

/// What each key store is called. Anybody can make two whose ids begin alike; these are called by their whole ids, since two series
/// of one name would cost the whole page.
pub(crate) fn labels(ids: impl Iterator<Item = KeyStoreId>) -> Labels {
    let ids: BTreeMap<_, _> = ids.map(|id| (id, id.to_string())).collect();
    let mut short: BTreeMap<String, usize> = BTreeMap::new();
    for id in ids.values() {
        *short.entry(id.chars().take(LABEL_DIGITS).collect()).or_default() += 1;
    }
    let label = |id: String| {
        let begin: String = id.chars().take(LABEL_DIGITS).collect();
        if short.get(&begin) == Some(&1) { begin } else { id }
    };
    ids.into_iter().map(|(id, digits)| (id, label(digits))).collect()
}

fn of_status(text: &mut Text, slot: &str, status: &Status, labels: &Labels) {
    text.add(&families::ENCLAVE_READY, &[slot], u8::from(status.ready));
    text.add(&families::ENCLAVE_CONNECTIONS, &[slot], status.connections);
    for event in EVENTS {
        if let Some(count) = status.counters.get(event) {
            text.add(&families::ENCLAVE_EVENTS, &[slot, event], count);
        }
    }
    let mut told: Vec<_> = status.detail.iter().collect();
    // An enclave tells each key store once; another would cost the page.
    told.sort_by_key(|store| store.key_store_id);
    told.dedup_by_key(|store| store.key_store_id);
    for store in told {
        let Some(label) = labels.get(&store.key_store_id) else { continue };
        let values = [slot, label.as_str()];
        text.add(&families::STORE_SERVING, &values, u8::from(store.state == KeyStoreState::Serving));
        if let Some(version) = store.version {
            text.add(&families::STORE_VERSION, &values, version);
        }
        if let Some(remaining_ms) = store.lease_remaining_ms {
            text.add(&families::STORE_LEASE, &values, Milliseconds(remaining_ms));
        }
    }
}

fn of_metrics(text: &mut Text, slot: &str, metrics: &Metrics, labels: &Labels) {
    text.add(&families::ENCLAVE_INFO, &[slot, metrics.program.as_str()], 1);
    text.add(&families::CLOCK_HEALTHY, &[slot], u8::from(metrics.is_clock_healthy));
    text.add(&families::CLOCK_DRIFT, &[slot], Milliseconds(metrics.clock_drift_ms));
    text.add(&families::CLOCK_AGE, &[slot], Milliseconds(metrics.clock_anchor_age_ms));
    text.add(&families::NSM_WAITING, &[slot, "own"], metrics.nsm_waiting);
    text.add(&families::NSM_WAITING, &[slot, "strangers"], metrics.nsm_strangers_waiting);
    text.add(&families::AUDIT_SHARE, &[slot], metrics.audit_share_bytes);
    text.add(&families::STORES_LEFT_OUT, &[slot], metrics.key_stores_left_out);
    text.add_histogram(&families::HANDSHAKE, &[slot], &metrics.handshake);
    for (operation, stages) in OPERATIONS.iter().zip(&metrics.latency) {
        for (stage, histogram) in STAGES.iter().zip(stages) {
            text.add_histogram(&families::STAGE, &[slot, operation, stage], histogram);
        }
    }
    let mut measured: Vec<_> = metrics.key_stores.iter().collect();
    measured.sort_by_key(|store| store.key_store_id);
    measured.dedup_by_key(|store| store.key_store_id);
    for store in measured {
        if let Some(label) = labels.get(&store.key_store_id) {
            of_key_store(text, slot, label, store);
        }
    }
}

fn of_key_store(text: &mut Text, slot: &str, label: &str, store: &KeyStoreMetrics) {
    let values = [slot, label];
    text.add(&families::CERTIFICATE, &values, Milliseconds(store.certificate_remaining_ms));
    if let Some(age_ms) = store.credential_age_ms {
        text.add(&families::CREDENTIAL_AGE, &values, Milliseconds(age_ms));
    }
    text.add(&families::AUDIT_QUEUE, &values, store.audit_queue_bytes);
    text.add(&families::AUDIT_UNWITNESSED, &values, store.audit_unwitnessed);
    text.add(&families::AUDIT_UNWITNESSED_AGE, &values, Milliseconds(store.audit_unwitnessed_age_ms));
    for (kind, count) in ALARMS.iter().zip(store.alarms) {
        text.add(&families::ALARMS, &[slot, label, kind], count);
    }
    let leases: BTreeMap<_, _> = store.leases.iter().map(|lease| (lease.custodian, lease)).collect();
    for (custodian, lease) in leases {
        let values = [slot, label, &custodian.to_string()];
        text.add(&families::CUSTODIAN_LEASE, &values, Milliseconds(lease.remaining_ms));
        text.add(&families::CUSTODIAN_GRANTED, &values, Milliseconds(lease.granted_ms));
    }
    for (operation, outcomes) in OPERATIONS.iter().zip(&store.requests) {
        for (outcome, count) in OUTCOMES.iter().zip(outcomes) {
            // Four operations and thirteen outcomes for each of 512 key stores would mostly be zeros.
            if *count > 0 || ALWAYS.contains(outcome) {
                text.add(&families::REQUESTS, &[slot, label, operation, outcome], count);
            }
        }
    }
    for (outcome, count) in OUTCOMES.iter().zip(store.unsigned) {
        if count > 0 || *outcome == ALWAYS_UNSIGNED {
            text.add(&families::UNSIGNED, &[slot, label, outcome], count);
        }
    }
}

#[cfg(test)]
mod tests;
