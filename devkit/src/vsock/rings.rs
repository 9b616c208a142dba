//! Packets in and out of the guest's rings (virtio 1.2, sections 2.7 and 5.10.6).
//!
//! Guarantees: a packet may lie in any number of descriptors; nothing is read or written outside the guest's memory; each buffer
//! is given back once. Refuses: rings that are out of the guest's memory or claim more buffers than they have.

use std::io::{Read, Write};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::limits::{BATCH_MAX, PACKET_MAX, TO_HOST_MAX};
use super::mux::Multiplexer;
use super::packet::{HEADER_LEN, Header};

/// A ring that cannot be used any more until the guest sets it up anew.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RingError(#[from] virtio_queue::Error);

/// Takes packets from the guest's transmit ring. Gives the number of buffers given back.
pub(super) fn take_packets(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    mux: &mut Multiplexer,
) -> Result<usize, RingError> {
    let mut taken = 0;
    let mut payload = Vec::new();
    while taken < BATCH_MAX && mux.takes_packets() {
        let Some(chain) = queue.iter(memory)?.next() else {
            if queue.enable_notification(memory)? {
                continue;
            }
            break;
        };
        let head = chain.head_index();
        // A buffer that holds no packet is given back: nobody is there to be answered.
        if let Ok(mut reader) = chain.reader(memory)
            && let Some(header) = read_packet(&mut reader, &mut payload)
        {
            mux.receive(&header, &payload);
        }
        queue.add_used(memory, head, 0)?;
        taken += 1;
    }
    Ok(taken)
}

/// Reads as much of the payload as the header claims, the buffers hold, and a connection could ever take.
fn read_packet(reader: &mut impl Read, payload: &mut Vec<u8>) -> Option<Header> {
    let mut header = [0; HEADER_LEN];
    reader.read_exact(&mut header).ok()?;
    let header = Header::parse(&header);
    payload.clear();
    reader.take(u64::from(header.len.min(TO_HOST_MAX))).read_to_end(payload).ok()?;
    Some(header)
}

/// Puts packets into the guest's receive ring. Gives the number of buffers given back.
pub(super) fn give_packets(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    mux: &mut Multiplexer,
) -> Result<usize, RingError> {
    let mut given = 0;
    let mut payload = Vec::with_capacity(PACKET_MAX);
    while given < BATCH_MAX && mux.has_packets() {
        let Some(chain) = queue.iter(memory)?.next() else {
            // Packets wait: the guest is to say when there are buffers again.
            if queue.enable_notification(memory)? {
                continue;
            }
            break;
        };
        let head = chain.head_index();
        let mut written = 0;
        if let Ok(mut writer) = chain.writer(memory)
            && let Some(capacity) = writer.available_bytes().checked_sub(HEADER_LEN)
        {
            let Some(header) = mux.transmit(capacity, &mut payload) else {
                queue.go_to_previous_position();
                break;
            };
            // The writer has room for both.
            if writer.write_all(&header.encode()).and_then(|()| writer.write_all(&payload)).is_ok() {
                written = u32::try_from(writer.bytes_written()).unwrap_or(u32::MAX);
            }
        }
        queue.add_used(memory, head, written)?;
        given += 1;
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::vsock::mux::Action;
    use crate::vsock::packet::Operation;

    const GUEST: u64 = 16;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    /// Buffers for the guest's packets, of these lengths.
    fn offer(ring: &MockSplitQueue<'_, GuestMemoryMmap>, lengths: &[u32]) {
        for (slot, length) in (0_u16..).zip(lengths) {
            let address = 0x1_0000 * (u64::from(slot) + 1);
            let descriptor = Descriptor::new(address, *length, VRING_DESC_F_WRITE.try_into().unwrap(), 0);
            ring.desc_table().store(slot, RawDescriptor::from(descriptor)).unwrap();
            ring.avail().ring().ref_at(slot.into()).unwrap().store(slot);
        }
        ring.avail().idx().store(lengths.len().try_into().unwrap());
    }

    /// Heads and lengths of what was given back.
    fn used(ring: &MockSplitQueue<'_, GuestMemoryMmap>) -> Vec<(u32, u32)> {
        (0..usize::from(ring.used().idx().load()))
            .map(|index| ring.used().ring().ref_at(index).unwrap().load())
            .map(|element| (element.id(), element.len()))
            .collect()
    }

    #[test]
    fn a_buffer_for_which_there_is_no_packet_after_all_is_kept() {
        let memory = memory();
        let ring = MockSplitQueue::new(&memory, 16);
        offer(&ring, &[44]);
        let mut queue: Queue = ring.create_queue().unwrap();
        let mut mux = Multiplexer::new(GUEST);
        let id = mux.open(1).unwrap();
        mux.failed(id);
        assert!(mux.has_packets(), "it looks as if there were one");
        assert_eq!(give_packets(&mut queue, &memory, &mut mux).unwrap(), 0);
        mux.open(1).unwrap();
        assert_eq!(give_packets(&mut queue, &memory, &mut mux).unwrap(), 1);
        assert_eq!(used(&ring), [(0, 44)]);
    }

    #[test]
    fn packets_fit_their_buffers_and_what_holds_none_comes_back_empty() {
        let memory = memory();
        let ring = MockSplitQueue::new(&memory, 16);
        offer(&ring, &[0, 43, 44, 50, 54, 60]);
        let mut queue: Queue = ring.create_queue().unwrap();
        let mut mux = Multiplexer::new(GUEST);
        let id = mux.open(1).unwrap();
        assert_eq!(give_packets(&mut queue, &memory, &mut mux).unwrap(), 3);
        let request = header_at(&memory, 0x3_0000);
        mux.receive(&Header { operation: Operation::Response.number(), buf_alloc: 1000, ..request.refusal() }, &[]);
        while !matches!(mux.next_action(), None | Some(Action::Transfer(_))) {}
        mux.read(id, &[7; 20]);
        assert_eq!(give_packets(&mut queue, &memory, &mut mux).unwrap(), 3);
        assert_eq!(used(&ring), [(0, 0), (1, 0), (2, 44), (3, 50), (4, 54), (5, 48)]);
    }

    #[test]
    fn a_ring_that_claims_more_than_it_has_is_unusable() {
        let memory = memory();
        let ring = MockSplitQueue::new(&memory, 16);
        ring.avail().idx().store(17);
        let mut queue: Queue = ring.create_queue().unwrap();
        let mut mux = Multiplexer::new(GUEST);
        take_packets(&mut queue, &memory, &mut mux).unwrap_err();
        mux.open(1).unwrap();
        give_packets(&mut queue, &memory, &mut mux).unwrap_err();
    }

    fn header_at(memory: &GuestMemoryMmap, address: u64) -> Header {
        let mut bytes = [0; HEADER_LEN];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        Header::parse(&bytes)
    }
}
