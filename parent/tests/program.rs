//! The real program, with the test in the place of the enclave, the clients and the custodians.
//!
//! Deadlines are there only so that a broken build fails instead of hanging; nothing is asserted about time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "program/audit.rs"]
mod audit;
#[path = "program/command_line.rs"]
mod command_line;
#[path = "program/control.rs"]
mod control;
#[path = "program/dependencies.rs"]
mod dependencies;
#[path = "program/egress.rs"]
mod egress;
#[path = "program/fixture.rs"]
mod fixture;
#[path = "program/ingress.rs"]
mod ingress;
#[path = "program/instance_role.rs"]
mod instance_role;
#[path = "program/lifecycle.rs"]
mod lifecycle;
