//! The untrusted relay beside the enclave.
//!
//! Guarantees: it moves bytes and hands over files; what it holds in memory is at most [`limits::RELAY_READ`] bytes per
//! direction of a connection whose reader is slow, and those are TLS records that it cannot read; audit logs come encrypted and go to
//! files as they came. Nothing that the enclave or a client sends makes it stop, and no log line holds bytes of the traffic.
//! Assumes: nothing about clients; of the enclave only that it wants to be reachable.
//! Refuses: connections beyond the cap (those that send nothing make place for others), clients that send nothing, egress to any destination that is not on its list.
//!
//! It parses no TLS and no XKS and links no crate with key code (`tests/program.rs` checks the dependencies).
//!
//! ```text
//!              TCP                          vsock or Unix socket
//! client  ──────────▶ ingress ──▶ relay ──────────────▶ enclave
//! custodian ◀─────── egress (allow list) ◀───────────── enclave
//! audit folder ◀──── audit ◀─────────────────────────── enclave (encrypted entries)
//!                    control: configuration, key stores ─▶ enclave; status, log ◀─ enclave
//! instance metadata ◀─ instance_role: credentials ─▶ control ─▶ enclave, where a key store has a share in AWS KMS
//! load balancer ───▶ ready_page ◀─── Prometheus (metrics)
//! OpenTelemetry collector ◀─ traces ◀─ control: single requests, where they are wanted
//! supervisor ─▶ keeper ─▶ runner: a command, or nitro (nitro-cli) ─▶ enclave
//! ```

pub mod cli;
pub mod config;
pub mod limits;
pub mod run;

mod admission;
mod audit;
mod control;
mod counters;
mod door;
mod egress;
mod ingress;
mod instance_role;
mod keeper;
mod log;
mod manifests;
mod metrics;
mod nitro;
mod ready_page;
mod relay;
mod reload;
mod runner;
mod state;
mod supervisor;
mod traces;
