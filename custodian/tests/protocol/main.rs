//! The whole protocol against the custodian's library, with documents that an emulated chain signs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

mod alarms;
mod audit;
mod budgets;
mod channel;
mod enclave;
mod https;
mod joining;
mod orders;
mod policies;
mod quorum;
mod records;
mod release;
mod succession;
mod world;
