//! hpke.
