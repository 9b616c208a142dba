//! Formats and proofs that every Holdfast program agrees on: no I/O, no clock, no runtime.
