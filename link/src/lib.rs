//! What the parent and the enclave say to each other: addresses, sockets, frames, messages.
//!
//! Guarantees: whatever bytes the other side sends, the functions here return a value within the bounds of [`limits`] or
//! an error; they never panic and never hold more memory than a frame's bound.
//! Assumes: nothing about the other side. To the enclave every byte from the parent is hostile, and the parent does not
//! die from the enclave's bytes either.
//! Refuses: messages with unknown fields, another protocol number, and anything above a limit.
//!
//! There is no key code here, so that the parent may link this crate. The connections, by who opens them:
//!
//! ```text
//! control   enclave → parent   frames of control::ToParent and control::ToEnclave
//! audit     enclave → parent   frames of audit::ToParent and audit::ToEnclave
//! egress    enclave → parent   one egress::EgressRequest, one egress::EgressAnswer, then raw bytes both ways
//! ingress   parent → enclave   raw bytes (TLS records that only the enclave can read)
//! ```

pub mod address;
pub mod audit;
pub mod control;
pub mod egress;
pub mod frame;
pub mod limits;
pub mod listener;
pub mod ports;
pub mod remedy;
pub mod stream;
pub mod text;

pub use address::{Address, AddressError, SocketPath};
pub use frame::{Frame, FrameError, FrameReader, Message, read_frame, write_frame};
pub use listener::{BindError, Listener, Peer};
pub use stream::{ConnectError, Stream, connect};
pub use text::{BootId, Hex, HexError, KeyStoreId, PrintableText};
