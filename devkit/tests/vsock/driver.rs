//! A guest's driver: guest memory, two rings and vhost-user, as a virtual machine and its kernel have them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_devkit::vsock::packet::{HEADER_LEN, Header, Operation, TYPE_STREAM};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Longer than anything here takes on any machine.
pub(crate) const CEILING: Duration = Duration::from_mins(2);
pub(crate) const GUEST_CID: u64 = 16;

const MEMORY_LEN: usize = 16 << 20;
const RING_LEN: u64 = 64 << 10;
/// Buffers of each ring, so that many descriptors of one packet lie apart.
const BUFFERS: [u64; 2] = [1 << 20, 8 << 20];
const SIZE: u16 = 128;
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
/// Linux gives buffers of a page, minus what its own bookkeeping takes.
const RECEIVE_BUFFER: u32 = 3776;

struct Ring {
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    last_used: u16,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    fn new(index: usize) -> Self {
        let descriptors = u64::try_from(index).unwrap() * RING_LEN;
        Self {
            descriptors,
            available: descriptors + 0x4000,
            used: descriptors + 0x8000,
            next_available: 0,
            last_used: 0,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
        }
    }
}

pub(crate) struct Driver {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    rings: [Ring; 2],
    event_idx: bool,
}

impl Driver {
    /// A virtual machine that connects and whose driver starts.
    pub(crate) fn connect(socket: &Path, event_idx: bool) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY_LEN.try_into().unwrap()).unwrap();
        let backing = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY_LEN, Some(backing))]).unwrap();
        let mut frontend = Frontend::connect(socket, 3).unwrap();
        negotiate(&mut frontend, event_idx);
        share(&frontend, &file);
        let mut driver = Self { frontend, memory, rings: [Ring::new(0), Ring::new(1)], event_idx };
        driver.start();
        driver
    }

    /// Sets both rings up, as a driver does that starts.
    pub(crate) fn start(&mut self) {
        for index in [TO_GUEST, FROM_GUEST] {
            self.rings[index] = Ring::new(index);
            let ring = &self.rings[index];
            self.memory.write_slice(&vec![0; RING_LEN.try_into().unwrap()], GuestAddress(ring.descriptors)).unwrap();
            self.frontend.set_vring_num(index, SIZE).unwrap();
            self.frontend.set_vring_base(index, 0).unwrap();
            let config = VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: ring.descriptors,
                used_ring_addr: ring.used,
                avail_ring_addr: ring.available,
                log_addr: None,
            };
            self.frontend.set_vring_addr(index, &config).unwrap();
            self.frontend.set_vring_call(index, &ring.call).unwrap();
            self.frontend.set_vring_kick(index, &ring.kick).unwrap();
            self.frontend.set_vring_enable(index, true).unwrap();
        }
        for slot in 0..SIZE {
            self.offer_receive_buffer(slot);
        }
        // Requests are answered in order: the rings are in use once this is.
        self.frontend.get_features().unwrap();
    }

    /// Stops both rings, as QEMU does when the guest resets its device.
    pub(crate) fn stop(&mut self) {
        for index in [TO_GUEST, FROM_GUEST] {
            self.frontend.set_vring_enable(index, false).unwrap();
        }
        for index in [TO_GUEST, FROM_GUEST] {
            self.frontend.get_vring_base(index).unwrap();
        }
    }

    /// The device's configuration space.
    pub(crate) fn guest_cid(&mut self) -> u64 {
        let (_, bytes) = self.frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn write<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    pub(crate) fn write_descriptor(&self, index: u16, address: u64, length: u32, flags: u32, next: u16) {
        let at = self.rings[FROM_GUEST].descriptors + u64::from(index) * 16;
        self.write_descriptor_at(at, address, length, flags, next);
    }

    fn write_descriptor_at(&self, at: u64, address: u64, length: u32, flags: u32, next: u16) {
        self.write(at, address);
        self.write(at + 8, length);
        self.write(at + 12, u16::try_from(flags).unwrap());
        self.write(at + 14, next);
    }

    fn offer_receive_buffer(&mut self, slot: u16) {
        let at = self.rings[TO_GUEST].descriptors + u64::from(slot) * 16;
        let buffer = BUFFERS[TO_GUEST] + u64::from(slot) * 0x1000;
        self.write_descriptor_at(at, buffer, RECEIVE_BUFFER, VRING_DESC_F_WRITE, 0);
        self.publish(TO_GUEST, slot);
    }

    /// Makes a chain available, and kicks where the device asked for it.
    fn publish(&mut self, index: usize, head: u16) {
        let ring = &self.rings[index];
        self.write(ring.available + 4 + u64::from(ring.next_available % SIZE) * 2, head);
        let next = ring.next_available.wrapping_add(1);
        self.set_available(index, next);
    }

    /// Moves the available index, wherever to.
    pub(crate) fn claim_available(&mut self, ahead: u16) {
        let next = self.rings[FROM_GUEST].next_available.wrapping_add(ahead);
        self.set_available(FROM_GUEST, next);
    }

    fn set_available(&mut self, index: usize, next: u16) {
        let old = self.rings[index].next_available;
        self.rings[index].next_available = next;
        let ring = &self.rings[index];
        self.memory.store(next, GuestAddress(ring.available + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let wanted: u16 = self.memory.read_obj(GuestAddress(ring.used + 4 + u64::from(SIZE) * 8)).unwrap();
        // Virtio 1.2, section 2.7.10.
        if !self.event_idx || next.wrapping_sub(wanted).wrapping_sub(1) < next.wrapping_sub(old) {
            ring.kick.write(1).unwrap();
        }
    }

    /// The next buffer that the device has given back: head and length. Waits for the device's notification.
    fn take_used(&mut self, index: usize) -> Option<(u16, u32)> {
        let deadline = Instant::now() + CEILING;
        loop {
            if let Some(used) = self.look_used(index) {
                return Some(used);
            }
            // The device may look at this before it notifies.
            let ring = &self.rings[index];
            self.write(ring.available + 4 + u64::from(SIZE) * 2, ring.last_used);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if let Some(used) = self.look_used(index) {
                return Some(used);
            }
            while self.rings[index].call.read().is_err() {
                if Instant::now() > deadline {
                    return None;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Until the device has given back every buffer for packets to the guest.
    pub(crate) fn wait_until_out_of_buffers(&self) {
        let ring = &self.rings[TO_GUEST];
        let deadline = Instant::now() + CEILING;
        while self.memory.read_obj::<u16>(GuestAddress(ring.used + 2)).unwrap() != ring.next_available {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn look_used(&mut self, index: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[index];
        let now: u16 = self.memory.load(GuestAddress(ring.used + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
        if now == ring.last_used {
            return None;
        }
        let at = ring.used + 4 + u64::from(ring.last_used % SIZE) * 8;
        ring.last_used = ring.last_used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        Some((head.try_into().unwrap(), length))
    }

    /// Sends bytes in one chain of descriptors of these lengths (the last has the rest), and waits until it is given back.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for cut in cuts {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        let last = pieces.len() - 1;
        let mut address = BUFFERS[FROM_GUEST];
        for (index, piece) in pieces.iter().enumerate() {
            self.memory.write_slice(piece, GuestAddress(address)).unwrap();
            let flags = if index == last { 0 } else { VRING_DESC_F_NEXT };
            let index = u16::try_from(index).unwrap();
            self.write_descriptor(index, address, piece.len().try_into().unwrap(), flags, index + 1);
            // Nothing beside a piece belongs to the packet.
            address += u64::try_from(piece.len()).unwrap() + 100;
        }
        self.send_chain(0);
    }

    /// Sends the chain at a descriptor and waits until it is given back.
    pub(crate) fn send_chain(&mut self, head: u16) {
        self.publish(FROM_GUEST, head);
        assert_eq!(self.take_used(FROM_GUEST).expect("the buffer comes back"), (head, 0));
    }

    pub(crate) fn send(&mut self, header: &Header, payload: &[u8]) {
        self.send_bytes(&[header.encode().as_slice(), payload].concat(), &[HEADER_LEN]);
    }

    /// The next packet.
    pub(crate) fn receive(&mut self) -> (Header, Vec<u8>) {
        let (slot, length) = self.take_used(TO_GUEST).expect("a packet comes");
        let mut bytes = vec![0; length.try_into().unwrap()];
        self.memory.read_slice(&mut bytes, GuestAddress(BUFFERS[TO_GUEST] + u64::from(slot) * 0x1000)).unwrap();
        self.offer_receive_buffer(slot);
        let payload = bytes.split_off(HEADER_LEN);
        let header = Header::parse(&bytes.try_into().unwrap());
        assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
        (header, payload)
    }
}

fn negotiate(frontend: &mut Frontend, event_idx: bool) {
    frontend.set_owner().unwrap();
    let event_idx = if event_idx { 1 << VIRTIO_RING_F_EVENT_IDX } else { 0 };
    let wanted = (1 << VIRTIO_F_VERSION_1) | event_idx | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    assert_eq!(frontend.get_features().unwrap() & wanted, wanted);
    let protocol = frontend.get_protocol_features().unwrap();
    frontend.set_protocol_features(protocol & !VhostUserProtocolFeatures::REPLY_ACK).unwrap();
    frontend.set_features(wanted).unwrap();
}

fn share(frontend: &Frontend, file: &File) {
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY_LEN.try_into().unwrap(),
        // Ring addresses are given in this space too, so it is the guest's own.
        userspace_addr: 0,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    frontend.set_mem_table(&[region]).unwrap();
}

/// One connection as the guest's kernel sees it.
pub(crate) struct Socket {
    pub(crate) host_cid: u64,
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
    /// Room that the guest has.
    pub(crate) buf_alloc: u32,
    /// Bytes received, all of which the guest has passed on.
    pub(crate) received: u32,
    sent: u32,
    host_buf_alloc: u32,
    host_fwd_cnt: u32,
}

impl Socket {
    pub(crate) fn new(host_cid: u64, host_port: u32, guest_port: u32) -> Self {
        Self {
            host_cid,
            host_port,
            guest_port,
            buf_alloc: 256 << 10,
            received: 0,
            sent: 0,
            host_buf_alloc: 0,
            host_fwd_cnt: 0,
        }
    }

    pub(crate) fn header(&self, operation: Operation) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: self.host_cid,
            src_port: self.guest_port,
            dst_port: self.host_port,
            len: 0,
            kind: TYPE_STREAM,
            operation: operation.number(),
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.received,
        }
    }

    pub(crate) fn tell(&self, driver: &mut Driver, operation: Operation) {
        driver.send(&self.header(operation), &[]);
    }

    pub(crate) fn shut_down(&self, driver: &mut Driver, flags: u32) {
        driver.send(&Header { flags, ..self.header(Operation::Shutdown) }, &[]);
    }

    /// The next packet, which must be of this connection.
    pub(crate) fn hear(&mut self, driver: &mut Driver) -> (Operation, u32, Vec<u8>) {
        let (header, payload) = driver.receive();
        let expected = (self.host_cid, self.host_port, GUEST_CID, self.guest_port);
        assert_eq!((header.src_cid, header.src_port, header.dst_cid, header.dst_port), expected);
        self.received = self.received.wrapping_add(header.len);
        (self.host_buf_alloc, self.host_fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
        (Operation::from_number(header.operation).unwrap(), header.flags, payload)
    }

    pub(crate) fn credit(&self) -> usize {
        (self.host_buf_alloc - self.sent.wrapping_sub(self.host_fwd_cnt)).try_into().unwrap()
    }

    /// Sends one packet of data, cut into descriptors.
    pub(crate) fn send(&mut self, driver: &mut Driver, payload: &[u8], cuts: &[usize]) {
        let length = u32::try_from(payload.len()).unwrap();
        let header = Header { len: length, ..self.header(Operation::Data) };
        driver.send_bytes(&[header.encode().as_slice(), payload].concat(), cuts);
        self.sent = self.sent.wrapping_add(length);
    }

    /// A guest's connection that is accepted.
    pub(crate) fn connect(driver: &mut Driver, host_cid: u64, host_port: u32, guest_port: u32) -> Self {
        let mut socket = Self::new(host_cid, host_port, guest_port);
        socket.tell(driver, Operation::Request);
        assert_eq!(socket.hear(driver), (Operation::Response, 0, vec![]));
        socket
    }

    /// Accepts the next connection from the host.
    pub(crate) fn accept(driver: &mut Driver, guest_port: u32) -> Self {
        let (request, _) = driver.receive();
        assert_eq!((request.operation, request.dst_port), (Operation::Request.number(), guest_port));
        let socket = Self::new(request.src_cid, request.src_port, guest_port);
        socket.tell(driver, Operation::Response);
        socket
    }
}
