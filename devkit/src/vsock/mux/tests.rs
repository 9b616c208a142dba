//! Packets in, packets and actions out.

use proptest::prelude::*;

use super::*;
use crate::vsock::limits::{PACKET_MAX, TO_GUEST_MAX, TO_HOST_MAX};
use crate::vsock::packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

const GUEST: u64 = 16;
const GUEST_PORT: u32 = 1024;
const PORT: u32 = 9000;
const ROOM: u32 = 100_000;
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A packet of the guest's first connection.
fn packet(operation: Operation) -> Header {
    Header {
        src_cid: GUEST,
        dst_cid: HOST_CID,
        src_port: GUEST_PORT,
        dst_port: PORT,
        len: 0,
        kind: TYPE_STREAM,
        operation: operation.number(),
        flags: 0,
        buf_alloc: ROOM,
        fwd_cnt: 0,
    }
}

fn data(length: usize) -> (Header, Vec<u8>) {
    (Header { len: length.try_into().unwrap(), ..packet(Operation::Data) }, vec![7; length])
}

fn shutdown(flags: u32) -> Header {
    Header { flags, ..packet(Operation::Shutdown) }
}

fn actions(mux: &mut Multiplexer) -> Vec<Action> {
    core::iter::from_fn(|| mux.next_action()).collect()
}

/// Everything for the guest, as operation, flags and payload.
fn sent(mux: &mut Multiplexer) -> Vec<(Operation, u32, usize)> {
    let mut payload = Vec::new();
    core::iter::from_fn(|| {
        let header = mux.transmit(PACKET_MAX, &mut payload)?;
        assert_eq!(header.dst_cid, GUEST);
        assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
        Some((Operation::from_number(header.operation).unwrap(), header.flags, payload.len()))
    })
    .collect()
}

/// A connection that the guest opened.
fn opened() -> (Multiplexer, ConnectionId) {
    let mut mux = Multiplexer::new(GUEST);
    mux.receive(&packet(Operation::Request), &[]);
    let [Action::Connect(id, PORT)] = actions(&mut mux)[..] else { panic!() };
    mux.connected(id);
    assert_eq!(sent(&mut mux), [(Operation::Response, 0, 0)]);
    actions(&mut mux);
    (mux, id)
}

#[test]
fn a_guest_reaches_the_host_and_the_parent_and_nobody_else() {
    for (cid, reached) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (4, false),
        (GUEST, false),
        (2 + (1 << 32), false),
        (u64::MAX, false),
    ] {
        let mut mux = Multiplexer::new(GUEST);
        let request = Header { dst_cid: cid, ..packet(Operation::Request) };
        mux.receive(&request, &[]);
        let asked = actions(&mut mux);
        if let [Action::Connect(id, PORT)] = asked[..] {
            mux.connected(id);
        }
        assert_eq!(asked.len(), usize::from(reached), "{cid}");
        let mut payload = Vec::new();
        let answer = mux.transmit(0, &mut payload).unwrap();
        let expected = if reached { Operation::Response } else { Operation::Reset };
        assert_eq!(answer.operation, expected.number(), "{cid}");
        assert_eq!((answer.src_cid, answer.src_port), (cid, PORT));
        assert_eq!((answer.dst_cid, answer.dst_port), (GUEST, GUEST_PORT));
        assert_eq!(answer.buf_alloc, if reached { TO_HOST_MAX } else { 0 });
    }
}

#[test]
fn a_connection_to_each_of_both_context_ids_from_one_port() {
    let mut mux = Multiplexer::new(GUEST);
    for cid in [HOST_CID, PARENT_CID] {
        mux.receive(&Header { dst_cid: cid, ..packet(Operation::Request) }, &[]);
    }
    assert_eq!(actions(&mut mux).len(), 2);
    assert_eq!(mux.len(), 2);
}

#[test]
fn a_refused_port_is_reset_and_forgotten() {
    let mut mux = Multiplexer::new(GUEST);
    mux.receive(&packet(Operation::Request), &[]);
    let [Action::Connect(id, PORT)] = actions(&mut mux)[..] else { panic!() };
    mux.refused(id);
    assert_eq!(mux.len(), 1, "remembered until the guest has been told");
    assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
    assert!(mux.is_empty());
}

#[test]
fn what_belongs_to_no_connection_is_reset_but_a_reset_is_not() {
    for number in 0..=9 {
        for kind in [0, TYPE_STREAM, 2] {
            let mut mux = Multiplexer::new(GUEST);
            let stray = Header { operation: number, kind, dst_cid: 99, ..packet(Operation::Data) };
            mux.receive(&stray, &[]);
            let mut payload = Vec::new();
            let answer = mux.transmit(0, &mut payload);
            let expected = (number != Operation::Reset.number()).then(|| stray.refusal());
            assert_eq!(answer, expected, "operation {number} of type {kind}");
            assert_eq!(answer.map_or(kind, |answer| answer.kind), kind);
        }
    }
}

#[test]
fn only_streams_are_connected() {
    for kind in [0, 2, u16::MAX] {
        let mut mux = Multiplexer::new(GUEST);
        mux.receive(&Header { kind, ..packet(Operation::Request) }, &[]);
        assert!(actions(&mut mux).is_empty() && mux.is_empty());
        assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
    }
}

#[test]
fn packets_in_another_name_are_dropped() {
    let (mut mux, id) = opened();
    for src_cid in [0, HOST_CID, PARENT_CID, GUEST + 1, GUEST + (1 << 32)] {
        for operation in [Operation::Request, Operation::Reset, Operation::Data] {
            mux.receive(&Header { src_cid, ..packet(operation) }, &[]);
        }
    }
    assert_eq!((sent(&mut mux), actions(&mut mux)), (vec![], vec![]));
    assert!(mux.is_open(id));
}

/// What a guest may not do on a connection that stands.
#[test]
fn violations_reset_the_connection() {
    let (long, payload) = data(10);
    for (header, payload) in [
        (packet(Operation::Request), vec![]),
        (packet(Operation::Response), vec![]),
        (Header { operation: 0, ..packet(Operation::Data) }, vec![]),
        (Header { operation: 8, ..packet(Operation::Data) }, vec![]),
        (Header { kind: 2, ..packet(Operation::CreditUpdate) }, vec![]),
        // Less payload in the descriptors than the header claims.
        (Header { len: 11, ..long }, payload.clone()),
        (Header { len: u32::MAX, ..long }, payload),
    ] {
        let (mut mux, id) = opened();
        mux.receive(&header, &payload);
        assert_eq!(actions(&mut mux), [Action::Close(id)], "{header:?}");
        assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)], "{header:?}");
        assert!(mux.is_empty());
    }
}

#[test]
fn a_guest_has_the_credit_it_was_told_and_not_a_byte_more() {
    let (mut mux, id) = opened();
    let quarter = usize::try_from(TO_HOST_MAX / 4).unwrap();
    for _ in 0..4 {
        let (header, payload) = data(quarter);
        mux.receive(&header, &payload);
    }
    assert!(mux.is_open(id));
    let (header, payload) = data(1);
    mux.receive(&header, &payload);
    assert!(!mux.is_open(id));
    assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
}

#[test]
fn credit_comes_back_when_half_of_it_has_been_passed_on() {
    let (mut mux, id) = opened();
    let half = usize::try_from(TO_HOST_MAX / 2).unwrap();
    let (header, payload) = data(half);
    mux.receive(&header, &payload);
    mux.written(id, half - 1);
    assert_eq!(sent(&mut mux), []);
    mux.written(id, 1);
    let mut payload = Vec::new();
    let update = mux.transmit(0, &mut payload).unwrap();
    assert_eq!(update.operation, Operation::CreditUpdate.number());
    assert_eq!((update.buf_alloc, update.fwd_cnt), (TO_HOST_MAX, TO_HOST_MAX / 2));
    assert_eq!(sent(&mut mux), []);
}

#[test]
fn a_request_for_credit_is_answered_at_once() {
    let (mut mux, _) = opened();
    mux.receive(&packet(Operation::CreditRequest), &[]);
    assert_eq!(sent(&mut mux), [(Operation::CreditUpdate, 0, 0)]);
    assert_eq!(sent(&mut mux), []);
}

#[test]
fn the_guest_is_sent_what_it_has_room_for() {
    let (mut mux, id) = opened();
    mux.receive(&Header { buf_alloc: 10, ..packet(Operation::CreditUpdate) }, &[]);
    mux.read(id, &[1; 25]);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 10), (Operation::CreditRequest, 0, 0)]);
    // An update that gives nothing asks for nothing.
    mux.receive(&Header { buf_alloc: 10, ..packet(Operation::CreditUpdate) }, &[]);
    assert_eq!(sent(&mut mux), []);
    mux.receive(&Header { buf_alloc: 10, fwd_cnt: 4, ..packet(Operation::CreditUpdate) }, &[]);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 4), (Operation::CreditRequest, 0, 0)]);
    // More passed on than was ever sent.
    mux.receive(&Header { buf_alloc: 10, fwd_cnt: 15, ..packet(Operation::CreditUpdate) }, &[]);
    assert_eq!(sent(&mut mux), []);
    mux.receive(&Header { buf_alloc: 100, fwd_cnt: 14, ..packet(Operation::CreditUpdate) }, &[]);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 11)]);
}

#[test]
fn a_packet_is_no_longer_than_its_buffer() {
    let (mut mux, id) = opened();
    mux.read(id, &[1; 10]);
    let mut payload = Vec::new();
    assert_eq!(mux.transmit(0, &mut payload), None);
    assert!(mux.has_packets());
    for expected in [4, 4, 2] {
        assert_eq!(mux.transmit(4, &mut payload).unwrap().len, expected);
    }
    assert!(!mux.has_packets());
}

#[test]
fn no_more_is_read_than_is_kept() {
    let (mut mux, id) = opened();
    assert_eq!(mux.room(id), TO_GUEST_MAX);
    mux.read(id, &vec![1; TO_GUEST_MAX]);
    assert_eq!(mux.room(id), 0);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, TO_GUEST_MAX)]);
    assert_eq!(actions(&mut mux), [Action::Transfer(id)]);
    assert_eq!(mux.room(id), TO_GUEST_MAX);
}

#[test]
fn the_guest_ends_its_sending_half_and_still_receives() {
    let (mut mux, id) = opened();
    let (header, payload) = data(5);
    mux.receive(&header, &payload);
    mux.receive(&shutdown(SHUTDOWN_SEND), &[]);
    assert_eq!(actions(&mut mux), [Action::Transfer(id)], "the end waits for the bytes before it");
    mux.written(id, 5);
    assert_eq!(actions(&mut mux), [Action::EndWriting(id)]);
    mux.read(id, b"answer");
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 6)]);
    // Data after the end.
    let (header, payload) = data(1);
    mux.receive(&header, &payload);
    assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
}

#[test]
fn the_guest_ends_its_receiving_half_and_still_sends() {
    let (mut mux, id) = opened();
    mux.read(id, b"unwanted");
    mux.receive(&shutdown(SHUTDOWN_RECEIVE), &[]);
    assert_eq!(actions(&mut mux), [Action::EndReading(id)]);
    assert_eq!((sent(&mut mux), mux.room(id)), (vec![], 0));
    let (header, payload) = data(5);
    mux.receive(&header, &payload);
    assert_eq!(mux.to_host(id), [7; 5]);
}

#[test]
fn the_host_ends_its_sending_half_and_still_receives() {
    let (mut mux, id) = opened();
    mux.read(id, b"question");
    mux.ended(id);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 8), (Operation::Shutdown, SHUTDOWN_SEND, 0)]);
    let (header, payload) = data(5);
    mux.receive(&header, &payload);
    assert_eq!(mux.to_host(id), [7; 5]);
    assert!(mux.is_open(id));
}

#[test]
fn the_end_of_the_hosts_bytes_waits_for_credit_and_the_end_of_its_reading_does_not() {
    let (mut mux, id) = opened();
    mux.receive(&Header { buf_alloc: 0, ..packet(Operation::CreditUpdate) }, &[]);
    let (header, payload) = data(5);
    mux.receive(&Header { buf_alloc: 0, ..header }, &payload);
    mux.read(id, b"last");
    mux.ended(id);
    mux.unwritable(id);
    assert!(mux.to_host(id).is_empty());
    assert_eq!(sent(&mut mux), [(Operation::Shutdown, SHUTDOWN_RECEIVE, 0), (Operation::CreditRequest, 0, 0)]);
    mux.receive(&packet(Operation::CreditUpdate), &[]);
    assert_eq!(sent(&mut mux), [(Operation::Data, 0, 4), (Operation::Shutdown, BOTH, 0)]);
    mux.receive(&packet(Operation::Reset), &[]);
    assert!(actions(&mut mux).ends_with(&[Action::Close(id)]));
    assert!(mux.is_empty());
}

#[test]
fn the_guests_end_of_both_is_answered_when_its_bytes_are_delivered() {
    for one_by_one in [false, true] {
        let (mut mux, id) = opened();
        let (header, payload) = data(5);
        mux.receive(&header, &payload);
        if one_by_one {
            mux.receive(&shutdown(SHUTDOWN_SEND), &[]);
            mux.receive(&shutdown(SHUTDOWN_RECEIVE), &[]);
        } else {
            mux.receive(&shutdown(BOTH), &[]);
        }
        assert_eq!(sent(&mut mux), []);
        mux.written(id, 5);
        assert!(actions(&mut mux).ends_with(&[Action::Close(id)]));
        assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
        assert!(mux.is_empty());
    }
}

#[test]
fn bytes_before_an_orderly_end_outlive_the_guests_reset_and_others_do_not() {
    for orderly in [false, true] {
        let (mut mux, id) = opened();
        let (header, payload) = data(5);
        mux.receive(&header, &payload);
        if orderly {
            mux.receive(&shutdown(BOTH), &[]);
        }
        actions(&mut mux);
        mux.receive(&packet(Operation::Reset), &[]);
        if orderly {
            assert_eq!(mux.to_host(id).len(), 5);
            // Its address is free again, and it counts no more for the guest.
            mux.receive(&packet(Operation::Request), &[]);
            let [Action::Connect(again, PORT)] = actions(&mut mux)[..] else { panic!() };
            assert_ne!(again, id);
            mux.written(id, 5);
            assert_eq!(mux.len(), 1);
        } else {
            assert!(mux.is_empty());
        }
        assert_eq!(actions(&mut mux), [Action::Close(id)]);
        assert_eq!(sent(&mut mux), []);
    }
}

#[test]
fn a_client_reaches_the_guest_when_it_accepts() {
    let mut mux = Multiplexer::new(GUEST);
    let id = mux.open(5000).unwrap();
    let mut payload = Vec::new();
    let request = mux.transmit(0, &mut payload).unwrap();
    assert_eq!(request.operation, Operation::Request.number());
    assert_eq!((request.src_cid, request.dst_cid, request.dst_port), (PARENT_CID, GUEST, 5000));
    assert_eq!((request.kind, request.buf_alloc), (TYPE_STREAM, TO_HOST_MAX));
    assert_eq!((mux.room(id), mux.is_open(id)), (0, false));
    let answer = Header { operation: Operation::Response.number(), buf_alloc: 9, ..request.refusal() };
    mux.receive(&answer, &[]);
    assert_eq!(actions(&mut mux), [Action::Accepted(id, request.src_port), Action::Transfer(id)]);
    mux.read(id, &[1; 10]);
    assert_eq!(mux.transmit(PACKET_MAX, &mut payload).unwrap().len, 9);
}

#[test]
fn a_client_is_hung_up_on_when_the_guest_refuses_or_breaks_the_protocol() {
    for operation in [Operation::Reset, Operation::Data, Operation::Request, Operation::Shutdown] {
        let mut mux = Multiplexer::new(GUEST);
        let id = mux.open(5000).unwrap();
        let mut payload = Vec::new();
        let request = mux.transmit(0, &mut payload).unwrap();
        mux.receive(&Header { operation: operation.number(), ..request.refusal() }, &[]);
        assert_eq!(actions(&mut mux), [Action::Close(id)], "{operation:?}");
        sent(&mut mux);
        assert!(mux.is_empty());
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_is_withdrawn() {
    for asked in [false, true] {
        let mut mux = Multiplexer::new(GUEST);
        let id = mux.open(5000).unwrap();
        if asked {
            assert_eq!(sent(&mut mux), [(Operation::Request, 0, 0)]);
        }
        mux.failed(id);
        assert_eq!(actions(&mut mux), [Action::Close(id)]);
        let expected = if asked { vec![(Operation::Reset, 0, 0)] } else { vec![] };
        assert_eq!(sent(&mut mux), expected);
        assert!(mux.is_empty());
    }
}

#[test]
fn ports_of_clients_never_meet() {
    let mut mux = Multiplexer::new(GUEST);
    let mut ports = std::collections::BTreeSet::new();
    mux.next_port = u32::MAX - 2;
    let mut payload = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        mux.open(5000).unwrap();
        let port = mux.transmit(0, &mut payload).unwrap().src_port;
        assert!((FIRST_EPHEMERAL_PORT..u32::MAX).contains(&port));
        assert!(ports.insert(port));
        // The counter comes round to ports that are in use.
        mux.next_port = if mux.len() == 100 { u32::MAX - 1 } else { mux.next_port };
    }
}

#[test]
fn connections_have_a_bound_in_both_directions_together() {
    let mut mux = Multiplexer::new(GUEST);
    for count in 0..CONNECTIONS_MAX {
        if count % 2 == 0 {
            mux.open(5000).unwrap();
        } else {
            mux.receive(&Header { src_port: count.try_into().unwrap(), ..packet(Operation::Request) }, &[]);
        }
    }
    let opened = actions(&mut mux);
    assert_eq!(opened.len(), CONNECTIONS_MAX / 2);
    assert_eq!(mux.open(5000), None);
    let mut payload = Vec::new();
    while mux.transmit(0, &mut payload).is_some() {}
    mux.receive(&Header { src_port: 5_000_000, ..packet(Operation::Request) }, &[]);
    assert_eq!(sent(&mut mux), [(Operation::Reset, 0, 0)]);
    // One ends, one comes.
    let Action::Connect(id, _) = opened[0] else { panic!() };
    mux.refused(id);
    assert_eq!(mux.open(5000), None, "the guest does not know of the end yet");
    sent(&mut mux);
    assert!(mux.open(5000).is_some());
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to() {
    let mut mux = Multiplexer::new(GUEST);
    for _ in 0..REPLIES_MAX {
        assert!(mux.takes_packets());
        mux.receive(&packet(Operation::Data), &[]);
    }
    assert!(!mux.takes_packets());
    let mut payload = Vec::new();
    mux.transmit(0, &mut payload).unwrap();
    assert!(mux.takes_packets());
}

#[test]
fn counters_wrap_around() {
    let (mut mux, id) = opened();
    let chunk = PACKET_MAX;
    let mut fwd_cnt = 0_u32;
    let connection = mux.connections.get_mut(&id).unwrap();
    connection.set_counters(u32::MAX - 5);
    fwd_cnt = fwd_cnt.wrapping_sub(6);
    for _ in 0..4 {
        let (header, payload) = data(chunk);
        mux.receive(&Header { fwd_cnt, ..header }, &payload);
        mux.written(id, chunk);
        mux.read(id, &payload);
        assert!(sent(&mut mux).contains(&(Operation::Data, 0, chunk)));
        fwd_cnt = fwd_cnt.wrapping_add(u32::try_from(chunk).unwrap());
        mux.receive(&Header { fwd_cnt, ..packet(Operation::CreditUpdate) }, &[]);
    }
    assert!(mux.is_open(id));
}

/// Each pair leaves a turn of a connection that is gone, which nobody takes while the guest offers no buffers.
#[test]
fn connections_that_a_guest_opens_and_resets_leave_nothing_that_grows() {
    let mut mux = Multiplexer::new(GUEST);
    let most = CONNECTIONS_MAX + REPLIES_MAX;
    let mut pairs = 0;
    while mux.takes_packets() {
        mux.receive(&packet(Operation::Request), &[]);
        while let Some(action) = mux.next_action() {
            if let Action::Connect(id, _) = action {
                mux.refused(id);
            }
        }
        mux.receive(&packet(Operation::Reset), &[]);
        assert!(mux.is_empty());
        pairs += 1;
        assert!(pairs <= most, "they are taken without end");
    }
    let mut sent = Vec::new();
    mux.transmit(4096, &mut sent);
    assert!(mux.takes_packets(), "one buffer clears them all");
}

proptest! {
    /// A guest that says anything at all, and a host that does anything: no panic, and every bound holds.
    #[test]
    fn anything_goes_and_nothing_grows(
        steps in prop::collection::vec((0..14_u8, 0..4_u32, any::<u16>(), any::<u32>()), 0..400)
    ) {
        let mut mux = Multiplexer::new(GUEST);
        let mut ids = Vec::new();
        let mut payload = Vec::new();
        for (step, port, small, wide) in steps {
            let id = ids.get(usize::from(small) % ids.len().max(1)).copied().unwrap_or(ConnectionId::from_number(0));
            match step {
                0..=7 => {
                    let body = vec![0; usize::from(small)];
                    let header = Header {
                        src_port: port,
                        operation: step.into(),
                        len: if wide % 16 == 0 { wide } else { small.into() },
                        flags: wide,
                        buf_alloc: wide,
                        fwd_cnt: wide.rotate_left(7),
                        ..packet(Operation::Data)
                    };
                    if mux.takes_packets() {
                        mux.receive(&header, &body);
                    }
                }
                8 => ids.extend(mux.open(port)),
                9 => {
                    let count = usize::from(small).min(mux.room(id));
                    mux.read(id, &payload[..count.min(payload.len())]);
                }
                10 => mux.ended(id),
                11 => mux.unwritable(id),
                12 => mux.failed(id),
                _ => {
                    let written = mux.to_host(id).len().min(usize::from(small));
                    mux.written(id, written);
                    mux.transmit(usize::from(small), &mut payload);
                }
            }
            while let Some(action) = mux.next_action() {
                if let Action::Connect(id, _) = action {
                    ids.push(id);
                    if wide % 3 == 0 { mux.refused(id) } else { mux.connected(id) }
                }
            }
            prop_assert!(mux.ready.len() <= CONNECTIONS_MAX + REPLIES_MAX + mux.len());
            prop_assert!(mux.replies.len() <= REPLIES_MAX);
            prop_assert!(mux.by_key.len() <= mux.len());
            for connection in mux.connections.values() {
                prop_assert!(connection.buffered() <= usize::try_from(TO_HOST_MAX).unwrap() + TO_GUEST_MAX);
                prop_assert!(!connection.owes_host() || connection.state != State::Resetting);
            }
        }
    }
}
