//! The virtio device of one guest: rings, connections and sockets together, as vhost-user's framework calls them.
//!
//! Guarantees: whatever the guest puts into its rings ends at worst its own device, until it sets it up anew; a device that is
//! stopped or reset keeps no connection. Assumes: one worker thread.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::limits::{QUEUE_SIZE_MAX, ROUNDS_MAX};
use super::log;
use super::mux::Multiplexer;
use super::rings::{RingError, give_packets, take_packets};
use super::sockets::Sockets;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringRwLock<Memory>;

/// Rings: to the guest, from the guest, and events (virtio 1.2, section 5.10.2), of which there are none: the one event tells of a
/// migration.
const QUEUES: usize = 3;
/// The event that the framework is given for the sockets: above the rings and its own.
pub(super) const SOCKETS_EVENT: u64 = 4;

/// A guest's device.
pub(super) struct Device {
    guest_cid: u64,
    mux: Multiplexer,
    sockets: Sockets,
    memory: Option<Memory>,
    /// A ring was misused; nothing is done until the device is stopped.
    broken: bool,
    /// What ends the worker, until the framework takes it. Without it the worker would never be joined.
    exit: Mutex<Option<(EventConsumer, EventNotifier)>>,
}

impl Device {
    pub(super) fn new(guest_cid: u64, guest_path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            mux: Multiplexer::new(guest_cid),
            sockets: Sockets::new(guest_path)?,
            memory: None,
            broken: false,
            exit: Mutex::new(Some(new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?)),
        })
    }

    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Forgets all connections.
    fn clear(&mut self) {
        if !self.mux.is_empty() {
            log(&format!("guest {}: {} connections end with its device", self.guest_cid, self.mux.len()));
        }
        self.mux = Multiplexer::new(self.guest_cid);
        self.sockets.clear();
    }

    /// Looks at sockets and rings until nothing more can be done, or the rounds are used up.
    fn work(&mut self, to_guest: &Vring, from_guest: &Vring) {
        if self.broken || !(in_use(to_guest) && in_use(from_guest)) {
            // Nobody is behind the device: whoever waits is turned away.
            return self.clear();
        }
        for _ in 0..ROUNDS_MAX {
            match self.round(to_guest, from_guest) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    log(&format!("guest {}: unusable ring: {error}", self.guest_cid));
                    self.clear();
                    self.broken = true;
                    return;
                }
            }
        }
        self.sockets.call_again();
    }

    fn round(&mut self, to_guest: &Vring, from_guest: &Vring) -> Result<bool, RingError> {
        let happened = self.sockets.poll(&mut self.mux);
        let taken = self.serve(from_guest, take_packets)?;
        self.sockets.act(&mut self.mux);
        let given = self.serve(to_guest, give_packets)?;
        self.sockets.act(&mut self.mux);
        Ok(happened || taken > 0 || given > 0)
    }

    /// One batch at one ring, with one notification for all of it.
    fn serve(
        &mut self,
        vring: &Vring,
        batch: impl FnOnce(&mut Queue, &GuestMemoryMmap, &mut Multiplexer) -> Result<usize, RingError>,
    ) -> Result<usize, RingError> {
        let Some(memory) = &self.memory else { return Ok(0) };
        let memory = memory.memory();
        let mut vring = vring.get_mut();
        let count = batch(vring.get_queue_mut(), &memory, &mut self.mux)?;
        if count > 0 && vring.needs_notification()? {
            // The monitor's end of the eventfd: it fails only when it was rung 2⁶⁴ − 2 times.
            let _ = vring.signal_used_queue();
        }
        Ok(count)
    }
}

fn in_use(vring: &Vring) -> bool {
    let vring = vring.get_ref();
    vring.is_enabled() && vring.get_queue().ready()
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE_MAX
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn reset_device(&mut self) {
        self.clear();
        self.broken = false;
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The rings know it themselves.
    }

    /// The guest's context id, eight bytes (virtio 1.2, section 5.10.4).
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let take = usize::try_from(size).unwrap_or(usize::MAX);
        self.guest_cid.to_le_bytes().into_iter().skip(skip).take(take).collect()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn stop_vring(&mut self, _queue_index: u32) -> io::Result<()> {
        self.clear();
        self.broken = false;
        Ok(())
    }

    /// Never fails: an error would end the worker and leave the monitor with a dead device.
    fn handle_event(
        &mut self,
        _device_event: u16,
        _events: EventSet,
        vrings: &[Self::Vring],
        _thread_id: usize,
    ) -> io::Result<()> {
        if let [to_guest, from_guest, ..] = vrings {
            self.work(to_guest, from_guest);
        }
        Ok(())
    }
}
