//! Putting a successor manifest in force: under it a version is published, and where custodians or numbers change, the root key
//! changes and its shares go to the successor's custodians.
//!
//! Guarantees: nothing is published before enough custodians of the successor answer and, where shares change, hold theirs; the
//! version counts once enough of those that were and of those that will be hold it. Assumes: the custodians were handed the
//! successor before, and put it in force with the version that names it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::quorum::Quorum;

use super::CustodyError;
use super::coordinator::Coordinator;
use super::publish::Draft;

/// How long custodians that a successor brings in have to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Publishes a version under a successor. `false`: another one came first.
    pub(super) async fn adopt(
        &mut self,
        draft: Draft,
        successor: Arc<VerifiedManifest>,
        reshare: bool,
    ) -> Result<bool, CustodyError> {
        self.ledger.know(Arc::clone(&successor));
        let published = self.publish_under(draft, &successor, reshare).await;
        if !matches!(published, Ok(true)) {
            self.ledger.forget(&successor);
            self.keep_links();
        }
        published
    }

    async fn publish_under(
        &mut self,
        draft: Draft,
        successor: &VerifiedManifest,
        reshare: bool,
    ) -> Result<bool, CustodyError> {
        self.keep_links();
        let manifest = self.ledger.manifest();
        for manifest in [&*manifest, successor] {
            let needed = Quorum::of(manifest.manifest()).write();
            // Time is up: the check below says who is missing.
            let _ = tokio::time::timeout(ANSWER_WAIT, self.until_connected(manifest, needed)).await;
            self.check_connected(manifest, needed)?;
        }
        let draft = if reshare { self.under_new_root(draft, successor).await? } else { draft };
        self.publish(draft).await
    }

    async fn until_connected(&self, manifest: &VerifiedManifest, needed: usize) {
        let mut changes = self.ledger.changes();
        while self.ledger.connected(manifest) < needed && changes.changed().await.is_ok() {}
    }
}
