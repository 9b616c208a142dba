//! xks.
