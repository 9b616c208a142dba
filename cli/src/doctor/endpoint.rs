//! The endpoint's address, and AWS's rules for it: those of `XksProxyUriEndpoint` and `XksProxyUriPath` (AWS KMS API Reference,
//! `XksProxyConfigurationType`; specification, section "API operations").

use core::fmt;
use core::str::FromStr;

use holdfast_shared::limits::{XKS_URI_MAX, XKS_URI_PATH_MAX};
use holdfast_shared::xks::names::URI_PATH_SUFFIX;
use holdfast_shared::xks::{HostName, PathPrefix};

use super::report::Finding;
use super::table::causes;

/// Where HTTPS is, and where KMS connects.
const HTTPS_PORT: u16 = 443;
/// Characters of `XksProxyUriEndpoint`.
const URI_ENDPOINT_MAX: usize = 128;
/// Bytes of an address that is read at all.
const URL_MAX: usize = 1024;
/// Characters of the longest end of a URI but for the key's id.
const KEY_URI_ENDS: usize = "/keys//metadata".len();

/// Host, port and path of a proxy, as they were given: `judge` says what KMS thinks of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an IPv4 address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `XksProxyUriPath`: what ends in `/kms/xks/v1`.
    pub path: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected https://HOST[/PREFIX] as KMS takes it, with or without /kms/xks/v1 at its end";
        let rest = text.strip_prefix("https://").filter(|_| text.len() <= URL_MAX).ok_or(EXPECTED)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or(EXPECTED)?),
            None => (authority, HTTPS_PORT),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(format!("the host is no DNS name; {EXPECTED}"));
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%' | b'\\')) {
            return Err(format!("the path has a character that no path of KMS has; {EXPECTED}"));
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = if path.ends_with(URI_PATH_SUFFIX) { path.to_owned() } else { format!("{path}{URI_PATH_SUFFIX}") };
        Ok(Self { host: host.to_ascii_lowercase(), port, path })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

impl Endpoint {
    /// `host`, or `host:port` where that is not 443: what stands in `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.port {
            HTTPS_PORT => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether the name is one under a domain.
    pub(super) fn is_fqdn(&self) -> bool {
        let is_address = self.host.parse::<core::net::IpAddr>().is_ok();
        !is_address && self.host.contains('.') && HostName::parse(&self.host).is_ok()
    }

    /// Holds name, port, path and lengths against AWS's rules.
    pub(super) fn judge(&self, longest_key: usize, is_development: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.push(if self.is_fqdn() {
            Finding::fine("name", &self.host)
        } else {
            Finding::of("name", &causes::HOST_NOT_FQDN, &self.host).for_development(is_development)
        });
        findings.push(match self.port {
            HTTPS_PORT => Finding::fine("port", "443"),
            port => Finding::of("port", &causes::PORT_NOT_443, port.to_string()).for_development(is_development),
        });
        let prefix = self.path.strip_suffix(URI_PATH_SUFFIX).unwrap_or(&self.path);
        let is_path = self.path.len() <= XKS_URI_PATH_MAX && (prefix.is_empty() || PathPrefix::parse(prefix).is_ok());
        findings.push(if is_path {
            Finding::fine("path", &self.path)
        } else {
            Finding::of("path", &causes::PATH_NOT_ALLOWED, &self.path)
        });
        let endpoint = "https://".len().saturating_add(self.host.len());
        let uri = [self.path.len(), KEY_URI_ENDS, longest_key].into_iter().fold(endpoint, usize::saturating_add);
        if endpoint > URI_ENDPOINT_MAX || uri > XKS_URI_MAX {
            let seen = format!("{endpoint} characters, and {uri} with path and the longest key id");
            findings.push(Finding::of("length", &causes::ENDPOINT_LENGTH, seen));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::table::Grade;

    #[test]
    fn addresses_as_they_are_given() {
        let table = [
            ("https://xks.example.com", Some("https://xks.example.com/kms/xks/v1")),
            ("https://xks.example.com/", Some("https://xks.example.com/kms/xks/v1")),
            ("https://XKS.example.com/a/b/", Some("https://xks.example.com/a/b/kms/xks/v1")),
            ("https://xks.example.com:8443/a/kms/xks/v1", Some("https://xks.example.com:8443/a/kms/xks/v1")),
            ("https://192.0.2.7", Some("https://192.0.2.7/kms/xks/v1")),
            ("http://xks.example.com", None),
            ("https://", None),
            ("https://a:0", None),
            ("https://user@a", None),
            ("https://a/b?c", None),
            ("https://a/b%20c", None),
            ("https://a/b\r\nc", None),
        ];
        for (text, expected) in table {
            let read = text.parse::<Endpoint>().ok().map(|endpoint| endpoint.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_aws_does_not_take() {
        let ids = |url: &str, key: usize| -> Vec<_> {
            let findings = url.parse::<Endpoint>().unwrap().judge(key, false);
            findings.iter().filter_map(|finding| finding.cause).map(|cause| cause.id).collect()
        };
        let long = |count: usize| format!("https://x.example.com/{}", "a".repeat(count));
        assert!(ids("https://xks.example.com/a_b-c/D9", 128).is_empty());
        assert!(ids(&long(128 - 12), 1).is_empty());
        assert_eq!(ids(&long(128 - 11), 1), ["path-not-allowed"]);
        assert_eq!(ids("https://xks.example.com/a.b", 1), ["path-not-allowed"]);
        assert_eq!(ids("https://xks.example.com/a//b", 1), ["path-not-allowed"]);
        assert_eq!(ids("https://192.0.2.7", 1), ["host-not-fqdn"]);
        assert_eq!(ids("https://localhost:8443", 1), ["host-not-fqdn", "port-not-443"]);
        assert_eq!(ids(&long(100), 128), ["endpoint-length"]);
        let local = "https://localhost:8443".parse::<Endpoint>().unwrap().judge(1, true);
        assert!(local.iter().all(|finding| finding.grade <= Grade::Warning));
    }
}
