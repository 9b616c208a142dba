//! How long requests take, cold and warm, against the 250 ms after which KMS gives up.

use core::time::Duration;

use holdfast_shared::sigv4::Credential;

use super::api::{Api, Signing};
use super::health::Answering;
use super::millis_of;
use super::report::{Finding, Latency};
use super::table::causes;

/// KMS gives up after this (specification, "KMS Considerations" of each operation).
const PATIENCE: Duration = Duration::from_millis(250);
/// Requests on a connection that stands.
const SAMPLES: usize = 9;

/// Judges the first request, and more on a connection that stands.
pub(super) async fn judge(
    api: &mut Api<'_>,
    credential: &Credential,
    cold: &Answering,
    latency: &mut Latency,
    findings: &mut Vec<Finding>,
) {
    let mut round_trip = Duration::ZERO;
    latency.first_byte_ms = Some(millis_of(cold.first_byte));
    if let Some(opened) = cold.opened {
        round_trip = opened.tcp;
        let all = opened.tcp.saturating_add(opened.tls).saturating_add(cold.first_byte);
        (latency.tcp_ms, latency.tls_ms) = (Some(millis_of(opened.tcp)), Some(millis_of(opened.tls)));
        latency.cold_ms = Some(millis_of(all));
        let parts = [opened.tcp, opened.tls, cold.first_byte].map(|part| format!("{:.1}", millis_of(part)));
        let seen = format!("{:.1} ms: TCP {}, TLS {}, first byte {}", millis_of(all), parts[0], parts[1], parts[2]);
        findings.push(if all > PATIENCE {
            Finding::of("first request", &causes::SLOW_COLD, seen)
        } else {
            Finding::fine("first request", seen)
        });
    }
    let mut warm = Vec::new();
    for _ in 0..SAMPLES {
        let reply = api.post(credential, "health", &Api::health_body(), Signing::Right).await;
        warm.extend(reply.ok().filter(|reply| reply.opened.is_none()).map(|reply| reply.first_byte));
    }
    warm.sort_unstable();
    let (Some(median), Some(most)) = (warm.get(warm.len() / 2), warm.last()) else {
        return findings.push(Finding::skipped("further requests", "the proxy ends connections after each answer"));
    };
    (latency.warm_ms, latency.warm_max_ms) = (Some(millis_of(*median)), Some(millis_of(*most)));
    let seen = format!("{:.1} ms, at most {:.1} of {}", millis_of(*median), millis_of(*most), warm.len());
    findings.push(if median.saturating_sub(round_trip) > PATIENCE {
        Finding::of("further requests", &causes::SLOW_PROXY, seen)
    } else if *most > PATIENCE {
        Finding::of("further requests", &causes::SLOW_HERE, seen)
    } else {
        Finding::fine("further requests", seen)
    });
}
