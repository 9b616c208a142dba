//! Where enclaves' connections come in, and who may.
//!
//! Guarantees: where this program starts the enclaves, a connection counts as that of one of them only if it comes from the context id
//! that was given to it (which the hypervisor vouches for) or to the socket made for it, and only while it may run. Refuses:
//! every other machine's connections, without a word. Assumes: a socket's file keeps out whoever must not open it.

use core::sync::atomic::Ordering;
use std::io;

use holdfast_link::{BindError, Listener, Peer, Stream};

use crate::config::{Place, Places, Slot};
use crate::state::State;

/// One listener.
#[derive(Debug)]
pub(crate) struct Door {
    listener: Listener,
    guests: Guests,
}

/// Whose connections come to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Guests {
    /// Something else starts the enclave: whoever can connect is it.
    Anybody,
    /// The socket was made for the enclave in this slot.
    One(Slot),
    /// Enclaves tell themselves apart by their context ids.
    Cids(Vec<(u32, Slot)>),
}

impl Door {
    /// Listens wherever enclaves connect to, for one kind of connection.
    ///
    /// # Errors
    /// When an address is taken or cannot be used.
    pub(crate) async fn open(
        places: &Places,
        address: impl Fn(&Place) -> &holdfast_link::Address,
    ) -> Result<Vec<Self>, BindError> {
        let mut doors = Vec::new();
        for (slot, guests) in guests(places, &address) {
            let place = places.at(slot).unwrap_or(&places.first);
            doors.push(Self { listener: Listener::bind(address(place)).await?, guests });
        }
        Ok(doors)
    }

    /// The next connection of an enclave of ours. Others are closed and counted.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub(crate) async fn accept(&self, state: &State) -> io::Result<(Stream, Slot)> {
        loop {
            let (stream, peer) = self.listener.accept_from().await?;
            if let Some(slot) = self.guests.slot_of(peer, |slot| state.seat(slot).expected.load(Ordering::Acquire)) {
                return Ok((stream, slot));
            }
            state.counters.stranger_refused.increment();
            tracing::debug!(?peer, "a connection from where no enclave of ours is");
        }
    }
}

/// The listeners needed, each with the slot whose address it has, and who comes there.
fn guests(places: &Places, address: impl Fn(&Place) -> &holdfast_link::Address) -> Vec<(Slot, Guests)> {
    let Some(first_cid) = places.first.cid else { return vec![(Slot::First, Guests::Anybody)] };
    let second = places.second.as_ref();
    if matches!(address(&places.first), holdfast_link::Address::Vsock { .. }) {
        let second = second.and_then(|place| place.cid).map(|cid| (cid, Slot::Second));
        let cids = [(first_cid, Slot::First)].into_iter().chain(second).collect();
        return vec![(Slot::First, Guests::Cids(cids))];
    }
    let second = second.map(|_| (Slot::Second, Guests::One(Slot::Second)));
    [(Slot::First, Guests::One(Slot::First))].into_iter().chain(second).collect()
}

impl Guests {
    fn slot_of(&self, peer: Peer, expected: impl Fn(Slot) -> bool) -> Option<Slot> {
        let slot = match (self, peer) {
            (Self::Anybody, _) => return Some(Slot::First),
            (Self::One(slot), _) => *slot,
            (Self::Cids(cids), Peer::Vsock { cid }) => cids.iter().find(|(ours, _)| *ours == cid)?.1,
            (Self::Cids(_), Peer::Unix) => return None,
        };
        expected(slot).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cid: Option<u32>, control: &str) -> Place {
        let control: holdfast_link::Address = control.parse().unwrap();
        Place { cid, ingress: control.clone(), egress: control.clone(), audit: control.clone(), control }
    }

    #[test]
    fn only_an_enclave_that_we_started_comes_in_and_as_itself() {
        let vsock = "vsock://4294967295:9001";
        let places = Places { first: place(Some(16), vsock), second: Some(place(Some(17), vsock)) };
        let doors = guests(&places, |place| &place.control);
        let [(Slot::First, guests)] = doors.as_slice() else { panic!("one listener for all: {doors:?}") };
        let vsock = |cid| Peer::Vsock { cid };
        let (all, none) = (|_| true, |_| false);
        for (peer, expected) in [
            (vsock(16), Some(Slot::First)),
            (vsock(17), Some(Slot::Second)),
            (vsock(18), None),
            (vsock(3), None),
            (vsock(1), None),
            (Peer::Unix, None),
        ] {
            assert_eq!(guests.slot_of(peer, all), expected, "{peer:?}");
            assert_eq!(guests.slot_of(peer, none), None, "{peer:?}: no enclave runs");
        }
        let first_only = |slot| slot == Slot::First;
        assert_eq!(guests.slot_of(vsock(17), first_only), None);
    }

    #[test]
    fn a_socket_made_for_one_enclave_is_that_ones() {
        let places = Places {
            first: place(Some(16), "unix:///run/control-16"),
            second: Some(place(Some(17), "unix:///run/control-17")),
        };
        let doors = guests(&places, |place| &place.control);
        assert_eq!(doors, [(Slot::First, Guests::One(Slot::First)), (Slot::Second, Guests::One(Slot::Second))]);
        assert_eq!(Guests::One(Slot::Second).slot_of(Peer::Unix, |_| true), Some(Slot::Second));
        assert_eq!(Guests::One(Slot::Second).slot_of(Peer::Unix, |_| false), None);
        let alone = Places { first: place(None, "unix:///run/control"), second: None };
        assert_eq!(guests(&alone, |place| &place.control), [(Slot::First, Guests::Anybody)]);
    }
}
