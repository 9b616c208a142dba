//! The header of a packet (virtio 1.2, section 5.10.6): 44 bytes, little endian.
//!
//! Guarantees: every 44 bytes are some header, and writing it gives the same bytes. What the values mean is judged by who
//! receives them.

use bytes::{Buf, BufMut};

/// Bytes of a header.
pub const HEADER_LEN: usize = 44;
/// Type of a packet that belongs to a byte stream.
pub const TYPE_STREAM: u16 = 1;
/// Flag of a shutdown: its sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of a shutdown: its sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `VIRTIO_VSOCK_OP_REQUEST`: opens a connection.
    Request,
    /// `VIRTIO_VSOCK_OP_RESPONSE`: accepts it.
    Response,
    /// `VIRTIO_VSOCK_OP_RST`: refuses or ends it.
    Reset,
    /// `VIRTIO_VSOCK_OP_SHUTDOWN`: ends one or both directions.
    Shutdown,
    /// `VIRTIO_VSOCK_OP_RW`: carries bytes.
    Data,
    /// `VIRTIO_VSOCK_OP_CREDIT_UPDATE`: tells how much the sender can take.
    CreditUpdate,
    /// `VIRTIO_VSOCK_OP_CREDIT_REQUEST`: asks for that.
    CreditRequest,
}

impl Operation {
    /// The operation of a number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    /// The operation's number.
    pub fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// A header as it stands in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: u64,
    /// Context id of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Kind of socket, [`TYPE_STREAM`] here.
    pub kind: u16,
    /// Number of an [`Operation`].
    pub operation: u16,
    /// Flags of a shutdown.
    pub flags: u32,
    /// Bytes that the sender has room for in all on this connection.
    pub buf_alloc: u32,
    /// Bytes that the sender has passed on so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut bytes = bytes.as_slice();
        Self {
            src_cid: bytes.get_u64_le(),
            dst_cid: bytes.get_u64_le(),
            src_port: bytes.get_u32_le(),
            dst_port: bytes.get_u32_le(),
            len: bytes.get_u32_le(),
            kind: bytes.get_u16_le(),
            operation: bytes.get_u16_le(),
            flags: bytes.get_u32_le(),
            buf_alloc: bytes.get_u32_le(),
            fwd_cnt: bytes.get_u32_le(),
        }
    }

    /// Writes it.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let mut bytes = header.as_mut_slice();
        bytes.put_u64_le(self.src_cid);
        bytes.put_u64_le(self.dst_cid);
        bytes.put_u32_le(self.src_port);
        bytes.put_u32_le(self.dst_port);
        bytes.put_u32_le(self.len);
        bytes.put_u16_le(self.kind);
        bytes.put_u16_le(self.operation);
        bytes.put_u32_le(self.flags);
        bytes.put_u32_le(self.buf_alloc);
        bytes.put_u32_le(self.fwd_cnt);
        header
    }

    /// The reset that answers this packet when it belongs to no connection.
    #[must_use]
    pub fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            // The peer looks the socket up by its kind, so an unknown kind is answered in kind.
            kind: self.kind,
            operation: Operation::Reset.number(),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_stands_as_the_specification_lays_it_out() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 3,
            src_port: 0x1122_3344,
            dst_port: 9000,
            len: 5,
            kind: TYPE_STREAM,
            operation: Operation::Data.number(),
            flags: SHUTDOWN_SEND,
            buf_alloc: 0x4_0000,
            fwd_cnt: u32::MAX,
        };
        let expected = "0807060504030201\
            0300000000000000\
            44332211\
            28230000\
            05000000\
            0100\
            0500\
            02000000\
            00000400\
            ffffffff";
        assert_eq!(hex::encode(header.encode()), expected);
    }

    #[test]
    fn each_operation_has_its_number() {
        for number in 0..=u16::MAX {
            let operation = Operation::from_number(number);
            assert_eq!(operation.is_some(), (1..=7).contains(&number));
            assert!(operation.is_none_or(|operation| operation.number() == number));
        }
    }

    proptest! {
        #[test]
        fn every_header_is_written_as_it_was_read(bytes in prop::collection::vec(any::<u8>(), HEADER_LEN)) {
            let bytes: [u8; HEADER_LEN] = bytes.try_into().unwrap();
            prop_assert_eq!(Header::parse(&bytes).encode(), bytes);
        }
    }
}
