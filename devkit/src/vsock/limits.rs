//! Every bound of the device, each with its source.

use core::time::Duration;

/// Connections of one guest at a time, in both directions together. Each costs one file descriptor of the 1,024 that a process
/// has by default (getrlimit(2)), and at most [`TO_HOST_MAX`] + [`TO_GUEST_MAX`] bytes; the program raises the former.
pub const CONNECTIONS_MAX: usize = 1024;
/// Bytes from the guest that a connection holds for its Unix socket, announced to the guest as `buf_alloc`. As much as Linux
/// gives its own vsock sockets (`VIRTIO_VSOCK_DEFAULT_BUF_SIZE`, 256 KiB).
pub const TO_HOST_MAX: u32 = 256 * 1024;
/// Bytes from the Unix socket that a connection holds for the guest: one packet of Linux's size.
pub const TO_GUEST_MAX: usize = PACKET_MAX;
/// Bytes of payload of a packet to the guest (Linux: `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`, 64 KiB).
pub const PACKET_MAX: usize = 64 * 1024;
/// Resets owed to a guest for packets that belong to no connection. Beyond it the device takes no packets until the guest offers
/// buffers, as vhost of Linux does.
pub const REPLIES_MAX: usize = 256;
/// Descriptors of a ring: what the specification allows (virtio 1.2, section 2.7: at most 32,768) is far more than any driver of
/// a vsock asks for; QEMU's device has 128.
pub const QUEUE_SIZE_MAX: usize = 1024;
/// Packets that are taken from or put into a ring before the sockets are looked at again.
pub const BATCH_MAX: usize = 256;
/// Rounds over rings and sockets before the device lets go of its lock, so that the monitor's requests are answered however busy the guest is.
pub const ROUNDS_MAX: usize = 16;
/// Bytes of `CONNECT PORT\n`: eight, a port of at most ten digits, the line feed.
pub const CONNECT_LINE_MAX: usize = 19;
/// Clients of the host that have not yet said where they want to go. They cost no guest a connection.
pub const GREETINGS_MAX: usize = 256;
/// Time for a client to say where it wants to go: it has the line ready when it connects.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
