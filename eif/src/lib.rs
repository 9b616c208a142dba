//! Builds the enclave image file and measures any.
//!
//! ```text
//! kernel source ─┐
//! fragment ──────┴▶ bzImage ─┐
//! devices, folders ▶ ramdisk 1 ├─▶ EIF ─▶ PCR 0, 1, 2, 8 ─▶ measurements.json
//! enclave/ ─▶ static program ▶ ramdisk 2 ┘
//! ```
//!
//! Guarantees: the same source, toolchain and kernel give the same bytes, in whatever folder and whenever they are built; the
//! compilers, linker and packer that a build takes from the machine are named in `measurements.json` with their versions. Assumes:
//! a toolchain that the builder trusts (whoever doubts it builds on another machine and compares), and no configuration of
//! cargo's that changes what it builds: such files are named.

pub mod build;
pub mod cpio;
pub mod image;
pub mod kernel;
pub mod program;
pub mod registers;
pub mod signature;
mod tool;
