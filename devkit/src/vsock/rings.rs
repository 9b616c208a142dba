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
