//! Nitro attestation documents: parse, verify, appraise.

pub mod measurements;

pub use measurements::{Measurements, extend_pcr, pcr_of_content};
