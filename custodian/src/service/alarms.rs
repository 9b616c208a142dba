//! Alarms: the home custodian judges what enclaves tell of the use of keys.
//!
//! Guarantees: a tally is counted and its alarms are on disk before the answer; one that comes again changes nothing. An alarm refuses
//! nothing. The log names kinds and key stores, never whom an alarm is about. Refuses: tallies where this is not the home custodian, since
//! two that remember would each know half.

use std::sync::Arc;

use holdfast_shared::alarm::{Alarm, AlarmKind, RaisedAlarm, Tally};
use holdfast_shared::channel::Reply;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;

use super::channel::refused;
use super::lease::Lease;
use super::{Custodian, ServiceError};
use crate::store::{NewAlarm, NewTally, Origin};

/// [`limits::ALARMS_PAGE_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const PAGE: u32 = limits::ALARMS_PAGE_MAX as u32;

impl Custodian {
    /// Counts and judges a tally.
    pub(super) async fn tally(
        self: &Arc<Self>,
        lease: &Lease,
        tally: &Tally,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        if !self.membership(&lease.key_store).await?.is_home() {
            return Ok(refused(lease, "this custodian is not the home custodian, which watches over the use of keys"));
        }
        let key_store_id = lease.key_store.id();
        let new = NewTally { key_store_id, tally, rules: self.alarms.rules(key_store_id) };
        Ok(Reply::Tallied { raised: self.store.tally(new, origin).await? })
    }

    /// The alarms before this one, newest first; 0: the newest.
    pub(super) async fn alarms(&self, id: KeyStoreId, before: u64) -> Result<Vec<RaisedAlarm>, ServiceError> {
        Ok(self.store.alarms(id, (before > 0).then_some(before), PAGE).await?)
    }

    /// What is told of a lease that ends because its enclave is not accepted any more.
    pub(super) fn lease_ended(&self, lease: &Lease, reason: &str) -> NewAlarm {
        let key_store_id = lease.key_store.id();
        let alarm = Alarm {
            kind: AlarmKind::LeaseTrouble,
            key: None,
            who: lease.boot_id.to_string(),
            text: format!("the lease of an enclave was ended: {reason}"),
        };
        let quiet_ms = self.alarms.rules(key_store_id).quiet_ms;
        NewAlarm { key_store_id, boot_id: Some(lease.boot_id), alarm, at_ms: self.clock.now_ms(), quiet_ms }
    }
}
