//! What the parent and the enclave say to each other: addresses, sockets, frames.
