//! Names that requests carry and key stores are found by.
//!
//! Guarantees: a [`HostName`] is a lower-case DNS name, never an address; a [`PathPrefix`] joined with `/kms/xks/v1` is a valid
//! `XksProxyUriPath`. Refuses: anything that a URI parser could normalise to something else (dots, doubled slashes, escapes).

use crate::limits::{HOST_NAME_MAX, XKS_URI_PATH_MAX};

/// What every `XksProxyUriPath` ends in (specification, section "API operations").
pub const URI_PATH_SUFFIX: &str = "/kms/xks/v1";

/// Characters of one DNS label (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// Why a name was refused. Holds no part of the input, so it may travel in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Shorter or longer than the rules allow.
    #[error("the name is too short or too long")]
    Length,
    /// Holds a character outside the allowed set.
    #[error("the name holds a character that is not allowed")]
    Character,
    /// The characters are fine, but not their arrangement.
    #[error("the name does not have the required shape")]
    Shape,
}

/// Declares a string type with one check: construction, CBOR (text) and borrowed look-up all pass through `$check`.
macro_rules! validated_text {
    ($(#[$doc:meta])* $name:ident, $error:ty, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text` and keeps a copy.
            ///
            /// # Errors
            /// If `text` breaks the rules of this type.
            pub fn parse(text: &str) -> Result<Self, $error> {
                let check: fn(&str) -> Result<(), $error> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl core::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl core::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?;
                Ok(())
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::parse(d.str()?).map_err(|error| minicbor::decode::Error::message(error).at(at))
            }
        }
    };
}
pub(crate) use validated_text;

validated_text! {
    /// A host name that a key store is served under: a lower-case, fully qualified DNS name ("rather than an IP address",
    /// specification, section "API operations"), or `localhost` for local mode.
    HostName, NameError, check_host_name
}

impl HostName {
    /// Reads a name as it came over the wire, where case does not matter (RFC 4343).
    ///
    /// # Errors
    /// As [`HostName::parse`].
    pub fn from_wire(text: &str) -> Result<Self, NameError> {
        if text.len() > HOST_NAME_MAX {
            return Err(NameError::Length);
        }
        Self::parse(&text.to_ascii_lowercase())
    }
}

fn check_host_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > HOST_NAME_MAX {
        return Err(NameError::Length);
    }
    if text == "localhost" {
        return Ok(());
    }
    let mut labels = 0_usize;
    let mut last = "";
    for label in text.split('.') {
        if label.len() > LABEL_MAX {
            return Err(NameError::Length);
        }
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::Shape);
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Err(NameError::Character);
        }
        labels += 1;
        last = label;
    }
    // One label is not fully qualified; a last label of digits is an IPv4 address in one of its spellings.
    if labels < 2 || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::Shape);
    }
    Ok(())
}

validated_text! {
    /// The optional path prefix before `/kms/xks/v1`: empty, or `/segment[/segment…]` of `a-z A-Z 0-9 / - _`
    /// (specification, section "API operations").
    PathPrefix, NameError, check_path_prefix
}

impl PathPrefix {
    /// The `XksProxyUriPath` that KMS is configured with.
    #[must_use]
    pub fn uri_path(&self) -> String {
        format!("{}{URI_PATH_SUFFIX}", self.as_str())
    }
}

fn check_path_prefix(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Ok(());
    }
    if text.len() + URI_PATH_SUFFIX.len() > XKS_URI_PATH_MAX {
        return Err(NameError::Length);
    }
    let Some(segments) = text.strip_prefix('/') else {
        return Err(NameError::Shape);
    };
    for segment in segments.split('/') {
        if segment.is_empty() {
            return Err(NameError::Shape);
        }
        if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(NameError::Character);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        let long_label = format!("{}.example", "a".repeat(64));
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        let too_long = format!("{longest}d");
        let cases: &[(&str, Result<(), NameError>)] = &[
            ("xks.example.com", Ok(())),
            ("localhost", Ok(())),
            ("a.b", Ok(())),
            ("xn--bcher-kva.example", Ok(())),
            ("4a.1b", Ok(())),
            (&longest, Ok(())),
            (&too_long, Err(NameError::Length)),
            (&long_label, Err(NameError::Length)),
            ("", Err(NameError::Length)),
            ("example", Err(NameError::Shape)),
            ("XKS.example.com", Err(NameError::Character)),
            ("xks_1.example.com", Err(NameError::Character)),
            ("xks.example.com.", Err(NameError::Shape)),
            (".example.com", Err(NameError::Shape)),
            ("a..b", Err(NameError::Shape)),
            ("-a.example", Err(NameError::Shape)),
            ("a-.example", Err(NameError::Shape)),
            ("192.0.2.1", Err(NameError::Shape)),
            ("[::1]", Err(NameError::Character)),
            ("*.example.com", Err(NameError::Character)),
            ("a.example:443", Err(NameError::Character)),
            ("b\u{fc}cher.example", Err(NameError::Character)),
        ];
        for (text, expected) in cases {
            assert_eq!(HostName::parse(text).map(|_| ()), *expected, "{text:?}");
        }
        assert_eq!(HostName::from_wire("XKS.Example.COM").unwrap().as_str(), "xks.example.com");
    }

    #[test]
    fn path_prefixes() {
        let longest = format!("/{}", "a".repeat(116));
        let too_long = format!("/{}", "a".repeat(117));
        let cases: &[(&str, Result<(), NameError>)] = &[
            ("", Ok(())),
            ("/path", Ok(())),
            ("/keystores/4a0d79d6-1d1b-49fd-9dbe-799cb9c0fb3f", Ok(())),
            ("/A_z/0-9", Ok(())),
            (&longest, Ok(())),
            (&too_long, Err(NameError::Length)),
            ("path", Err(NameError::Shape)),
            ("/", Err(NameError::Shape)),
            ("/path/", Err(NameError::Shape)),
            ("//path", Err(NameError::Shape)),
            ("/a//b", Err(NameError::Shape)),
            ("/.", Err(NameError::Character)),
            ("/a%20b", Err(NameError::Character)),
            ("/a?b", Err(NameError::Character)),
        ];
        for (text, expected) in cases {
            assert_eq!(PathPrefix::parse(text).map(|_| ()), *expected, "{text:?}");
        }
        let example = PathPrefix::parse("/keystores/4a0d79d6-1d1b-49fd-9dbe-799cb9c0fb3f").unwrap();
        assert_eq!(example.uri_path(), "/keystores/4a0d79d6-1d1b-49fd-9dbe-799cb9c0fb3f/kms/xks/v1");
    }

    #[test]
    fn cbor_passes_the_same_check() {
        let name = HostName::parse("xks.example.com").unwrap();
        let bytes = minicbor::to_vec(&name).unwrap();
        assert_eq!(minicbor::decode::<HostName>(&bytes).unwrap(), name);
        let bad = minicbor::to_vec("XKS.example.com").unwrap();
        assert!(minicbor::decode::<HostName>(&bad).is_err());
    }
}
