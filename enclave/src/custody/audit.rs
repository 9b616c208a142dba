//! What the audit log needs of a version before it is served: a key for its readers.

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::audit::Terms;
use holdfast_shared::keystore::Body;
use holdfast_shared::labels;
use holdfast_shared::manifest::VerifiedManifest;

use super::CustodyError;
use super::coordinator::Coordinator;
use crate::audit::{NextSegment, Readers};
use crate::entropy;

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// A new segment, where this version has other readers or terms than the one in service, or none is in service.
    pub(super) async fn next_segment(
        &self,
        body: &Body,
        manifest: &VerifiedManifest,
    ) -> Result<Option<NextSegment>, CustodyError> {
        let log = self.ledger.served.audit();
        let readers = Readers::of(body.audit.as_ref(), &manifest.manifest().administrators);
        let terms = Terms::of(body.audit.as_ref());
        if log.is_written_for(&readers, terms) {
            return Ok(None);
        }
        let enclave = &self.ledger.enclave;
        let drawn = entropy::secret(&enclave.nsm, labels::AUDIT_SEGMENT).await?;
        let (id, number, wanted) = (log.id(), log.next_segment(), readers.len());
        let sealing = move || NextSegment::seal(drawn, (&id, number), readers, terms);
        let next = enclave.workshop.work(sealing).await??;
        if next.readers() < wanted {
            let line = format!("{} of {wanted} readers of the audit log have a usable key", next.readers());
            self.ledger.log(Level::Warn, &line);
        }
        Ok(Some(next))
    }
}
