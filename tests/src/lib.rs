//! Tests across processes, on the real binaries.
