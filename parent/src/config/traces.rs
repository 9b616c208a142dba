//! `[tracing]`: where traces of single requests go.

use core::time::Duration;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use holdfast_link::Address;
use holdfast_link::control::TracingOrder;
use holdfast_link::limits::TRACES_PER_SECOND_MAX;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{defaults, positive_ms};

/// `[tracing]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TracingConfig {
    /// The OpenTelemetry collector, which takes OTLP over HTTP.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["http://127.0.0.1:4318"])))]
    pub collector: Collector,
    /// One of so many requests with a valid signature is traced.
    #[serde(default = "defaults::tracing_one_in", deserialize_with = "one_in")]
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub one_in: u32,
    /// All kinds of requests together, at most so many are traced each second, and of one key store half of it.
    #[serde(default = "defaults::tracing_per_second", deserialize_with = "per_second")]
    #[cfg_attr(test, schemars(range(min = 1, max = TRACES_PER_SECOND_MAX)))]
    pub per_second: u32,
    /// From so long on, a request is traced although it is not in the sample. So is one that was refused.
    #[serde(default = "defaults::tracing_slow", deserialize_with = "positive_ms", rename = "slow_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = crate::limits::DURATION_MAX_MS), extend("default" = 100)))]
    pub slow: Duration,
    /// Time for the collector to take one batch.
    #[serde(default = "defaults::tracing_timeout", deserialize_with = "positive_ms", rename = "timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = crate::limits::DURATION_MAX_MS), extend("default" = 5000)))]
    pub timeout: Duration,
}

impl TracingConfig {
    /// What the enclave is told to tell.
    pub(crate) fn order(&self) -> TracingOrder {
        let slow_ms = u32::try_from(self.slow.as_millis()).unwrap_or(u32::MAX);
        TracingOrder { one_in: self.one_in, per_second: self.per_second, slow_ms }
    }
}

/// Where a collector is. There is no TLS, so it must be near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collector {
    /// `http://ADDRESS:PORT`
    Http(SocketAddr),
    /// `unix:///PATH`
    Unix(Address),
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Unix(address) => write!(f, "{address}"),
        }
    }
}

impl<'de> Deserialize<'de> for Collector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = match text.strip_prefix("http://") {
            Some(address) => address.parse().ok().filter(|address: &SocketAddr| is_near(address.ip())).map(Self::Http),
            None => text.parse().ok().filter(|address| matches!(address, Address::Unix { .. })).map(Self::Unix),
        };
        found.ok_or_else(|| {
            let addresses = "ADDRESS is a loopback, link-local or private one";
            D::Error::custom(format!("must be http://ADDRESS:PORT, where {addresses}, or unix:///PATH"))
        })
    }
}

/// What travels there is in clear: it must not leave the machine or its network.
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

fn one_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("must be from 1 on")),
        one_in => Ok(one_in),
    }
}

fn per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let per_second = u32::deserialize(deserializer)?;
    let is_within = usize::try_from(per_second).is_ok_and(|count| (1..=TRACES_PER_SECOND_MAX).contains(&count));
    if is_within { Ok(per_second) } else { Err(D::Error::custom(format!("must be from 1 to {TRACES_PER_SECOND_MAX}"))) }
}
