//! Builds the enclave image file and measures any.
//!
//! ```text
//! kernel source ─┐
//! fragment ──────┴▶ bzImage ─┐
//! devices, folders ▶ ramdisk 1 ├─▶ EIF ─▶ PCR 0, 1, 2, 8 ─▶ measurements.json
//! enclave/ ─▶ static program ▶ ramdisk 2 ┘
//! ```
//!
//! Guarantees: the same source, toolchain and kernel give the same bytes, in whatever folder and whenever they are built; all
//! that a build takes from the machine is named in `measurements.json`. Assumes: a toolchain that the builder trusts: whoever
//! doubts it builds on another machine and compares.

pub mod build;
pub mod cpio;
pub mod image;
pub mod kernel;
pub mod program;
pub mod registers;
pub mod signature;
mod tool;
