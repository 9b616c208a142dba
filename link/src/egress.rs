//! Egress: the enclave asks the parent for a connection to a named destination.
//!
//! Guarantees: after `connected` the stream carries the destination's bytes and nothing else.
//! Assumes: nothing. The parent may connect to whatever it likes and read everything; who is at the other end is proven
//! inside (TLS, signatures, HPKE), never here.
//! Refuses: destinations that are not exactly `host:port` in lower case.

use core::fmt::{self, Display};
use core::str::FromStr;
use core::time::Duration;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::address::Address;
use crate::frame::{FrameError, LimitError, Message, read_frame, write_frame};
use crate::limits::{DESTINATION_MAX, EGRESS_FRAME_MAX};
use crate::stream::{ConnectError, Stream, connect};

/// A named destination, `host:port`. The host is a DNS name in lower case, an IPv4 address, or an IPv6 address in
/// brackets; each destination has one spelling, so that an allow list is compared text by text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(String);

/// Why a text is no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected host:port with a host name in lower case, an IPv4 address or an [IPv6] address, and a port from 1 to 65535"
)]
pub struct DestinationError;

impl Destination {
    /// The text, as name resolution takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.len() > DESTINATION_MAX {
            return Err(DestinationError);
        }
        let (host, port) = text.rsplit_once(':').ok_or(DestinationError)?;
        let number: u16 = port.parse().map_err(|_| DestinationError)?;
        let host_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address),
            None => is_ipv4(host) || is_host_name(host),
        };
        if number == 0 || number.to_string() != port || !host_valid {
            return Err(DestinationError);
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_ipv4(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
}

/// RFC 1123 section 2.1: labels of letters, digits and hyphens, 1 to 63 each. A name whose last label is a number would
/// be taken for an IPv4 address by some resolvers.
fn is_host_name(host: &str) -> bool {
    let label_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let last_is_number = host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label_valid) && !last_is_number
}

impl Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The first frame of an egress connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressRequest {
    /// Where to.
    pub destination: Destination,
}

/// The parent's answer; after `connected` raw bytes follow both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EgressAnswer {
    /// The connection stands.
    Connected,
    /// There will be none.
    Refused {
        /// Why.
        reason: EgressRefusal,
    },
}

/// Why the parent did not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EgressRefusal {
    /// The destination is not on the parent's list.
    #[error("the destination is not on the parent's egress list")]
    NotAllowed,
    /// The name has no address.
    #[error("the destination's name does not resolve")]
    Unresolvable,
    /// No address of it took the connection.
    #[error("the destination does not take the connection")]
    Unreachable,
    /// The parent has too many egress connections.
    #[error("the parent has too many egress connections")]
    Busy,
}

impl Message for EgressRequest {
    const FRAME_MAX: usize = EGRESS_FRAME_MAX;

    fn check(&self) -> Result<(), LimitError> {
        Ok(())
    }
}

impl Message for EgressAnswer {
    const FRAME_MAX: usize = EGRESS_FRAME_MAX;

    fn check(&self) -> Result<(), LimitError> {
        Ok(())
    }
}

/// Why an egress connection was not opened.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The name is no destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The parent cannot be reached.
    #[error("the parent's egress address cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    /// The parent answered with something else.
    #[error("the parent's egress answer cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// The parent closed the connection instead of answering.
    #[error("the parent closed the egress connection without an answer")]
    Ended,
    /// The parent did not answer in time.
    #[error("the parent did not open the egress connection in time")]
    Timeout,
    /// The parent refused.
    #[error("egress refused: {0}")]
    Refused(EgressRefusal),
}

/// Opens a connection to `destination` through the parent's egress address.
///
/// # Errors
/// When the destination is no `host:port`, or the parent cannot be reached, refuses, talks nonsense, or takes longer than
/// `timeout` for all of it.
pub async fn open_egress(address: &Address, destination: &str, timeout: Duration) -> Result<Stream, EgressError> {
    let destination = destination.parse()?;
    let open = async {
        let mut stream = connect(address).await?;
        write_frame(&mut stream, &EgressRequest { destination }).await?;
        match read_frame(&mut stream).await? {
            Some(EgressAnswer::Connected) => Ok(stream),
            Some(EgressAnswer::Refused { reason }) => Err(EgressError::Refused(reason)),
            None => Err(EgressError::Ended),
        }
    };
    tokio::time::timeout(timeout, open).await.unwrap_or(Err(EgressError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn destinations_have_one_spelling() {
        for accepted in ["custodian.example.com:443", "localhost:8443", "10.0.0.1:1", "[::1]:65535", "a-1.b2:80"] {
            assert_eq!(accepted.parse::<Destination>().map(|name| name.to_string()), Ok(accepted.to_owned()));
        }
        let long = format!("{}.a:1", "a".repeat(64));
        for refused in [
            "",
            "host",
            "host:",
            ":443",
            "host:0",
            "host:0443",
            "host:65536",
            "host:+443",
            "Host:443",
            "host.:443",
            ".host:443",
            "ho st:443",
            "host/x:443",
            "-host:443",
            "::1:443",
            "[::1:443",
            "[0::1]:443",
            "1.2.3:443",
            "010.0.0.1:443",
            "user@host:443",
            "h\u{f6}st:443",
            "host\n:443",
            long.as_str(),
        ] {
            assert_eq!(refused.parse::<Destination>(), Err(DestinationError), "{refused}");
        }
    }

    #[test]
    fn messages_have_the_form_of_the_protocol() {
        let request = EgressRequest { destination: "a.example:443".parse().unwrap() };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"destination":"a.example:443"}"#);
        for (answer, json) in [
            (EgressAnswer::Connected, r#""connected""#),
            (EgressAnswer::Refused { reason: EgressRefusal::NotAllowed }, r#"{"refused":{"reason":"not_allowed"}}"#),
            (EgressAnswer::Refused { reason: EgressRefusal::Unresolvable }, r#"{"refused":{"reason":"unresolvable"}}"#),
            (EgressAnswer::Refused { reason: EgressRefusal::Unreachable }, r#"{"refused":{"reason":"unreachable"}}"#),
            (EgressAnswer::Refused { reason: EgressRefusal::Busy }, r#"{"refused":{"reason":"busy"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&answer).unwrap(), json);
            assert_eq!(serde_json::from_str::<EgressAnswer>(json).unwrap(), answer);
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "[\\[\\]a-z0-9.:-]{0,20}:[0-9]{0,6}") {
            if let Ok(destination) = text.parse::<Destination>() {
                prop_assert_eq!(destination.to_string(), text);
            }
        }
    }
}
