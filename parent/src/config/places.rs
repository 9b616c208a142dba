//! Where enclaves are: fixed addresses, or one set for each context id that the parent may give an enclave.
//!
//! Guarantees: a connection from an enclave can be told from that of another, by its context id or by the socket that it
//! came to. Refuses: addresses at which two enclaves would be one, and context ids that no enclave can have.

use core::fmt::{self, Display};

use holdfast_link::Address;
use holdfast_link::limits::ADDRESS_TEXT_MAX;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Stands for the context id in addresses and commands.
pub(crate) const CID_MARK: &str = "{cid}";
/// The least context id of an enclave: 0 to 2 are reserved (vsock(7)), and 3 is the parent's own, seen from an enclave.
pub(super) const CID_MIN: u32 = 4;
/// Where two enclaves may run side by side.
pub(super) const CIDS_MAX: usize = 2;

/// An address in which `{cid}` may stand for the enclave's context id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPattern(String);

impl AddressPattern {
    /// At this vsock port, for whichever enclave.
    pub(super) fn at_vsock_port(port: u32) -> Self {
        Self(format!("vsock://{}:{port}", u32::MAX))
    }

    fn has_mark(&self) -> bool {
        self.0.contains(CID_MARK)
    }

    fn is_vsock(&self) -> bool {
        self.0.starts_with("vsock:")
    }

    /// The address for an enclave.
    fn at(&self, cid: Option<u32>) -> Result<Address, String> {
        let text = cid.map_or_else(|| self.0.clone(), |cid| with_cid(&self.0, cid));
        text.parse().map_err(|error| format!("{text}: {error}"))
    }
}

impl Display for AddressPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AddressPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The bound of what it can become comes with the address; this one is for what is kept.
        if text.len() > ADDRESS_TEXT_MAX {
            return Err(D::Error::custom(format!("longer than {ADDRESS_TEXT_MAX} bytes")));
        }
        with_cid(&text, CID_MIN).parse::<Address>().map_err(D::Error::custom)?;
        Ok(Self(text))
    }
}

/// A text with the context id in its place.
pub(crate) fn with_cid(text: &str, cid: u32) -> String {
    text.replace(CID_MARK, &cid.to_string())
}

/// Which of the places for an enclave. With one enclave at a time there is only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The first context id, or the only place.
    First,
    /// The second context id.
    Second,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// What metrics and traces call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }
}

/// The addresses of one enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its context id, where it is given one.
    pub cid: Option<u32>,
    /// Where it takes clients' connections.
    pub ingress: Address,
    /// Where we take its control connection.
    pub control: Address,
    /// Where we take its egress connections.
    pub egress: Address,
    /// Where we take its audit connections.
    pub audit: Address,
}

/// The addresses of every enclave that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// That of [`Slot::First`].
    pub first: Place,
    /// That of [`Slot::Second`], where two may run side by side.
    pub second: Option<Place>,
}

impl Places {
    /// From the patterns and the context ids, of which there may be none.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn of(
        cids: &[u32],
        ingress: &AddressPattern,
        control: &AddressPattern,
        egress: &AddressPattern,
        audit: &AddressPattern,
    ) -> Result<Self, String> {
        let [ingress, control, egress, audit] = [
            ("enclave.ingress", ingress),
            ("control.listen", control),
            ("egress.listen", egress),
            ("audit.listen", audit),
        ];
        check(cids, [ingress, control, egress, audit])?;
        let place = |cid| {
            let at = |(field, pattern): (&str, &AddressPattern)| {
                pattern.at(cid).map_err(|error| format!("{field}: {error}"))
            };
            let (ingress, control) = (at(ingress)?, at(control)?);
            Ok::<_, String>(Place { cid, ingress, control, egress: at(egress)?, audit: at(audit)? })
        };
        let first = place(cids.first().copied())?;
        let second = cids.get(1).map(|cid| place(Some(*cid))).transpose()?;
        Ok(Self { first, second })
    }

    /// The place of a slot.
    pub const fn at(&self, slot: Slot) -> Option<&Place> {
        match slot {
            Slot::First => Some(&self.first),
            Slot::Second => self.second.as_ref(),
        }
    }
}

fn check(cids: &[u32], fields: [(&str, &AddressPattern); 4]) -> Result<(), String> {
    let [(_, ingress), listening @ ..] = fields;
    if cids.is_empty() {
        return match fields.into_iter().find(|(_, pattern)| pattern.has_mark()) {
            Some((field, _)) => Err(format!("{field}: {CID_MARK} needs enclave.cids")),
            None => Ok(()),
        };
    }
    if cids.len() > CIDS_MAX || cids.iter().any(|cid| *cid < CID_MIN || *cid == u32::MAX) {
        return Err(format!("enclave.cids: one or two context ids from {CID_MIN} to {}", u32::MAX - 1));
    }
    if cids.first() == cids.get(1) {
        return Err("enclave.cids: the two must differ".to_owned());
    }
    if !ingress.has_mark() {
        return Err(format!("enclave.ingress: must contain {CID_MARK}, since enclave.cids is given"));
    }
    for (field, pattern) in listening {
        if pattern.is_vsock() == pattern.has_mark() {
            return Err(format!(
                "{field}: with enclave.cids, a vsock address has no {CID_MARK} (connections tell theirs), and any other has it"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(cids: &[u32], ingress: &str, control: &str, egress: &str) -> Result<Places, String> {
        let pattern = |text: &str| AddressPattern(text.to_owned());
        Places::of(cids, &pattern(ingress), &pattern(control), &pattern(egress), &pattern("vsock://3:9003"))
    }

    #[test]
    fn each_context_id_has_its_addresses() {
        let found = places(&[16, 17], "vsock://{cid}:8443", "vsock://3:9001", "unix:///run/egress-{cid}").unwrap();
        let second = found.at(Slot::Second).unwrap();
        assert_eq!(found.first.ingress.to_string(), "vsock://16:8443");
        assert_eq!(second.ingress.to_string(), "vsock://17:8443");
        assert_eq!(second.control, found.first.control);
        assert_eq!(second.egress.to_string(), "unix:///run/egress-17");
        let alone = places(&[], "vsock://16:8443", "vsock://3:9001", "vsock://3:9002").unwrap();
        assert_eq!((alone.first.cid, alone.second), (None, None));
    }

    #[test]
    fn addresses_at_which_two_enclaves_are_one_are_refused() {
        for (cids, ingress, control, egress, expected) in [
            (&[][..], "vsock://{cid}:1", "vsock://3:1", "vsock://3:2", "enclave.ingress: {cid} needs enclave.cids"),
            (&[16], "vsock://16:1", "vsock://3:1", "vsock://3:2", "enclave.ingress: must contain {cid}"),
            (&[3], "vsock://{cid}:1", "vsock://3:1", "vsock://3:2", "enclave.cids: one or two context ids from 4"),
            (&[u32::MAX], "vsock://{cid}:1", "vsock://3:1", "vsock://3:2", "enclave.cids: one or two"),
            (&[16, 17, 18], "vsock://{cid}:1", "vsock://3:1", "vsock://3:2", "enclave.cids: one or two"),
            (&[16, 16], "vsock://{cid}:1", "vsock://3:1", "vsock://3:2", "the two must differ"),
            (&[16, 17], "vsock://{cid}:1", "unix:///c", "vsock://3:2", "control.listen: with enclave.cids"),
            (&[16, 17], "vsock://{cid}:1", "vsock://3:1", "vsock://{cid}:2", "egress.listen: with enclave.cids"),
        ] {
            let error = places(cids, ingress, control, egress).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould have: {expected}");
        }
    }
}
