//! The requirements of the XKS Proxy API specification, held against the tests that ran.
//!
//! ```text
//! requirements.toml ─ Requirements::read ─┬─ page::render ─▶ docs/spec-coverage.md
//! nextest list      ─ Inventory::read ────┤
//! nextest's JUnit   ─ Runs::add ──────────┴─ check::problems ─▶ nothing, or why not
//! ```
//!
//! Guarantees: a requirement counts as shown only by tests that ran and passed in the reports that were given; each requirement
//! has either tests or a reason why it has none. Assumes: the caller removed reports of earlier runs. Refuses: fields, levels
//! and names of tests that it does not know.

pub mod check;
pub mod page;
pub mod requirements;
pub mod runs;
