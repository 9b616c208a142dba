//! What the DNS says: addresses, and who may issue certificates for the name.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::dns::{self, Caa, DnsError, Type};
use super::report::Finding;
use super::table::causes;
use super::{Question, millis_of};

/// Where systems name their resolvers.
const RESOLVERS_FILE: &str = "/etc/resolv.conf";
/// Bytes of that file that are read.
const RESOLVERS_MAX: usize = 64 * 1024;
/// The check of [`authorization`].
pub(super) const CAA: &str = "caa";

/// Looks the name up: the address to connect to, and how long it took in milliseconds.
pub(super) async fn look_up(question: &Question, findings: &mut Vec<Finding>) -> Option<(SocketAddr, Option<f64>)> {
    let endpoint = &question.endpoint;
    if let Some(address) = question.resolution {
        findings.push(Finding::fine("dns", format!("not asked: {} as --resolve says", address.ip())));
        return Some((address, None));
    }
    let start = Instant::now();
    let addresses = match addresses(question).await {
        Ok(addresses) => addresses,
        Err(reason) => {
            findings.push(Finding::of("dns", &causes::NAME_UNRESOLVED, format!("{}: {reason}", endpoint.host)));
            return None;
        }
    };
    let took = millis_of(start.elapsed());
    let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Some(first) = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) else {
        findings.push(Finding::of("dns", &causes::NAME_UNRESOLVED, &endpoint.host));
        return None;
    };
    let private = addresses.iter().any(|address| matches!(address, IpAddr::V4(address) if !is_public(*address)));
    findings.push(if first.is_ipv6() {
        Finding::of("dns", &causes::NO_IPV4, shown)
    } else if private {
        Finding::of("dns", &causes::ADDRESS_NOT_PUBLIC, shown)
    } else {
        Finding::fine("dns", shown)
    });
    Some((SocketAddr::new(*first, endpoint.port), Some(took)))
}

async fn addresses(question: &Question) -> Result<Vec<IpAddr>, String> {
    let host = &question.endpoint.host;
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if let Some(resolver) = question.resolver {
        let mut found = Vec::new();
        for kind in [Type::A, Type::Aaaa] {
            if found.is_empty() {
                let records = dns::ask(resolver, host, kind, question.timeout).await;
                let records = records.map_err(|error| error.to_string())?;
                found.extend(records.iter().filter_map(|data| dns::address_of(data)));
            }
        }
        return Ok(found);
    }
    let looking = tokio::net::lookup_host((host.as_str(), question.endpoint.port));
    match tokio::time::timeout(question.timeout, looking).await {
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(DnsError::Timeout.to_string()),
    }
}

/// Whether the internet routes it. Carriers' addresses (RFC 6598) are no public ones either.
fn is_public(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let is_carriers = first == 100 && (64..128).contains(&second);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || is_carriers)
}

/// Looks for CAA records with an account (RFC 8657), at the name and then above it (RFC 8659, section 3).
pub(super) async fn authorization(question: &Question) -> Finding {
    if !question.endpoint.is_fqdn() {
        return Finding::skipped(CAA, "the name is not under a domain");
    }
    let Some(resolver) = question.resolver.or_else(of_this_system) else {
        return Finding::of(CAA, &causes::CAA_UNKNOWN, format!("{RESOLVERS_FILE} names no resolver"));
    };
    let climbing = closest(resolver, &question.endpoint.host, question.timeout);
    let found = tokio::time::timeout(question.timeout, climbing).await.unwrap_or(Err(DnsError::Timeout));
    match found {
        Err(error) => Finding::of(CAA, &causes::CAA_UNKNOWN, error.to_string()),
        Ok(None) => Finding::of(CAA, &causes::CAA_MISSING, &question.endpoint.host),
        Ok(Some((name, records))) => judge_authorization(&name, &records),
    }
}

/// Records bind issuance where `issue` is among them, without which anybody may issue for the name itself (RFC 8659, section 4.3), and
/// each names an account.
fn judge_authorization(name: &str, records: &[Caa]) -> Finding {
    let issuing = || records.iter().filter(|record| matches!(record.tag.as_str(), "issue" | "issuewild"));
    let shown = issuing().map(|record| format!("{} {:?}", record.tag, record.value)).collect::<Vec<_>>();
    let shown = format!("{name}: {}", shown.join(", "));
    if issuing().all(|record| record.tag != "issue") {
        Finding::of(CAA, &causes::CAA_MISSING, shown)
    } else if issuing().all(Caa::is_bound) {
        Finding::fine(CAA, shown)
    } else {
        Finding::of(CAA, &causes::CAA_WITHOUT_ACCOUNT, shown)
    }
}

/// The records closest above `host`, and whose they are.
async fn closest(resolver: SocketAddr, host: &str, timeout: Duration) -> Result<Option<(String, Vec<Caa>)>, DnsError> {
    let mut rest = Some(host);
    while let Some(name) = rest {
        let records = dns::ask(resolver, name, Type::Caa, timeout).await?;
        if !records.is_empty() {
            let records = records.iter().map(|data| Caa::parse(data)).collect::<Option<_>>();
            return Ok(Some((name.to_owned(), records.ok_or(DnsError::Malformed)?)));
        }
        rest = name.split_once('.').map(|(_, above)| above);
    }
    Ok(None)
}

fn of_this_system() -> Option<SocketAddr> {
    let text = crate::files::read(RESOLVERS_FILE.as_ref(), RESOLVERS_MAX).ok()?;
    let text = String::from_utf8_lossy(&text);
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|server| server.trim().parse().ok()).map(|address| SocketAddr::new(address, 53)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_internet() {
        for (address, expected) in [
            ("192.0.2.7", true),
            ("10.0.0.1", false),
            ("172.16.9.9", false),
            ("192.168.1.1", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn records_that_bind_issuance() {
        let bound = ("issue", "ca.example; accounturi=https://ca.example/1");
        let wild = ("issuewild", bound.1);
        let table: [(&[(&str, &str)], &str); 6] = [
            (&[bound], ""),
            (&[bound, wild, ("iodef", "mailto:a@example.com")], ""),
            (&[bound, ("issue", "other.example")], "caa-without-account"),
            (&[bound, ("issuewild", "other.example")], "caa-without-account"),
            (&[wild], "caa-missing"),
            (&[("iodef", "mailto:a@example.com")], "caa-missing"),
        ];
        for (records, expected) in table {
            let caa = |(tag, value): &(&str, &str)| Caa { tag: (*tag).to_owned(), value: (*value).to_owned() };
            let finding = judge_authorization("a.example", &records.iter().map(caa).collect::<Vec<_>>());
            assert_eq!(finding.cause.map_or("", |cause| cause.id), expected, "{records:?}");
        }
    }
}
