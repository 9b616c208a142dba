//! The link to one custodian: release, watch, upkeep, and again.
//!
//! ```text
//!            ┌──────────── refused, unreachable, worth nothing: back off ───────────┐
//!            ▼                                                                      │
//!         obtain ── release ──▶ ledger ── worth something ──▶ watch ∥ upkeep ───────┤
//!            ▲                                                    │                 │
//!            └─────── a block was lifted, the root key changed ───┘                 │
//!            └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Beside watch and upkeep, the audit log's heads are told (`witness`).
//!
//! Guarantees: one link's trouble delays no other; nobody's answers make a busy loop; a fresh key pair and document for each
//! release.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Connect, CustodianClient};
use holdfast_link::control::Level;
use holdfast_shared::ids::CustodianId;
use holdfast_shared::manifest::Custodian;

use super::health::CustodianHealth;
use super::ledger::{Ledger, Order};
use super::release::{self, Applicant};
use super::{CustodyError, PAUSES};

/// After a lease that held this long, in milliseconds, the pause starts from the shortest again.
const LONG_LEASE_MS: u64 = 60_000;

/// See the module.
pub(super) struct Link<C> {
    pub(super) ledger: Arc<Ledger<C>>,
    pub(super) id: CustodianId,
    pub(super) custodian: Custodian,
    pub(super) client: Arc<CustodianClient<C>>,
    pub(super) health: Arc<CustodianHealth>,
    pub(super) is_home: bool,
    /// Least time between two questions for news.
    pub(super) pace: Duration,
}

impl<C: Connect + 'static> Link<C> {
    /// Runs until the task is dropped.
    pub(super) async fn run(self) {
        let mut pause = PAUSES.0;
        loop {
            let started_ms = self.now_ms();
            let Err(error) = self.hold_lease().await else {
                pause = PAUSES.0;
                tokio::time::sleep(pause).await;
                // Every block that is lifted makes a version to be opened again: that, too, is within the allowance.
                while self.ledger.is_spent() {
                    tokio::time::sleep(PAUSES.0).await;
                }
                continue;
            };
            self.ledger.failed(self.id, &error);
            if self.now_ms().saturating_sub(started_ms) > LONG_LEASE_MS {
                pause = PAUSES.0;
            }
            tokio::time::sleep(pause).await;
            pause = PAUSES.1.min(pause.saturating_mul(2));
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.ledger.enclave.clock.monotonic_ms()
    }

    /// One release and everything until another one is wanted.
    async fn hold_lease(&self) -> Result<(), CustodyError> {
        let enclave = &self.ledger.enclave;
        let applicant = Applicant {
            nsm: &enclave.nsm,
            clock: &enclave.clock,
            client: &self.client,
            custodian: &self.custodian,
            key_store_id: self.ledger.id(),
            boot_id: enclave.boot_id,
            audit_public_key: enclave.audit.public_key(),
            attesting: &self.ledger.attesting,
        };
        let granted = release::obtain(&applicant).await?;
        let (epoch, lease) = (granted.policy_epoch, granted.lease);
        self.ledger.released(self.id, granted)?;
        let name = &self.custodian.name;
        self.ledger.log(Level::Info, &format!("custodian {name}: lease granted under policy epoch {epoch}"));
        let session = self.ledger.session(self.id).ok_or(CustodyError::Wiped)?;
        let ended = tokio::select! {
            ended = self.watch(&session, lease) => ended,
            ended = self.keep_up(&session) => ended,
            error = self.witness(&session) => Err(error),
            order = self.ordered() => match order {
                Order::ReleaseAgain => Ok(()),
                Order::Fail(error) => Err(error),
            },
        };
        // What ended the lease may have been said to somebody else: then this link only hears that there is none.
        match (ended, self.ledger.take_order(self.id)) {
            (Err(_), Some(Order::Fail(error))) => Err(error),
            (ended, _) => ended,
        }
    }

    /// Returns when the link is told to begin anew.
    async fn ordered(&self) -> Order {
        let mut changes = self.ledger.changes();
        loop {
            if let Some(order) = self.ledger.take_order(self.id) {
                return order;
            }
            if changes.changed().await.is_err() {
                // The ledger lives as long as this link.
                tokio::time::sleep(Duration::MAX).await;
            }
        }
    }
}
