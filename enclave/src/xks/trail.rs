//! What the audit log, and the tally for alarms, are told of a request: gathered while it passes the stations, recorded at its end.
//!
//! Guarantees: a request whose signature was verified is recorded whatever came of it; where that is not possible, it is answered
//! with 503 and nothing else. No plaintext, no ciphertext and no secret gets here.

use std::sync::Arc;

use holdfast_shared::audit::{Operation as Recorded, RequestRecord, cut};
use holdfast_shared::external_key::version_of;
use holdfast_shared::limits::{AUDIT_RULE_MAX, METADATA_TEXT_MAX};
use holdfast_shared::xks::{Operation, RequestMetadata, Target, XksError};

use super::errors::NOT_RECORDED;
use super::observer::LoggedRequestId;
use super::request::AuthenticatedRequest;
use super::stages::{Note, Stage, Stopwatch};
use crate::audit::{AuditLog, Pending};
use crate::tally::UseTally;

/// See the module.
pub(super) struct Trail {
    log: Arc<AuditLog>,
    tally: Arc<UseTally>,
    record: RequestRecord,
    watch: Stopwatch,
}

impl Trail {
    /// Of a request of which the body was not read yet.
    pub(super) fn of(request: &AuthenticatedRequest<'_>, watch: Stopwatch) -> Self {
        let AuthenticatedRequest { store, path, proof, .. } = request;
        let mut record = RequestRecord::new(recorded(path.operation()), proof.access_key_id().clone());
        if let Target::Key { id, .. } = path.target() {
            record.key = Some(id.clone());
        }
        let (log, tally) = (Arc::clone(&store.audit), Arc::clone(&store.tally));
        Self { log, tally, record, watch }
    }

    /// Takes what KMS says about the request.
    pub(super) fn read(&mut self, metadata: &RequestMetadata<'_>) {
        // The parser's bound counts characters of JSON; ours is in bytes.
        let text = |text: &str| cut(text, METADATA_TEXT_MAX).to_owned();
        self.record.kms_request_id = Some(text(metadata.kms_request_id()));
        self.record.kms_operation = Some(text(metadata.kms_operation()));
        self.record.principal = metadata.aws_principal_arn().map(text);
        self.record.kms_key_arn = metadata.kms_key_arn().map(text);
        self.record.via_service = metadata.kms_via_service().map(text);
        self.record.source_vpc = metadata.aws_source_vpc().map(text);
        self.record.source_vpce = metadata.aws_source_vpce().map(text);
    }

    /// Takes the name of the policy or limit that decided.
    pub(super) fn decided(&mut self, rule: Option<&str>) {
        self.record.rule = rule.map(|rule| cut(rule, AUDIT_RULE_MAX).to_owned());
    }

    /// Takes the version of the key, which the ciphertext's metadata names.
    pub(super) fn used(&mut self, ciphertext_metadata: &[u8]) {
        self.record.key_version = version_of(ciphertext_metadata);
    }

    /// A stage is over.
    pub(super) fn lap(&mut self, stage: Stage) {
        self.watch.lap(stage);
    }

    /// The request is refused by the stage that is under way.
    pub(super) fn stopped(&mut self) {
        self.watch.refused();
    }

    /// For the event of the request.
    pub(super) fn note(&self) -> Note {
        let kms_request_id = self.record.kms_request_id.as_deref().map(LoggedRequestId::new);
        Note { kms_request_id, watch: self.watch }
    }

    /// Records a success.
    ///
    /// # Errors
    /// 503 if there is no record.
    pub(super) fn succeeded(self, log: &AuditLog) -> Result<Pending, XksError> {
        let record = RequestRecord { latency_us: self.latency_us(), ..self.record };
        log.success(record).map_err(|_| NOT_RECORDED)
    }

    /// Counts a refusal for alarms, and records it. Returns what to answer.
    pub(super) fn refused(self, error: XksError) -> XksError {
        let record = RequestRecord { latency_us: self.latency_us(), error: Some(error.name), ..self.record };
        self.tally.refused(&record);
        match self.log.refusal(record) {
            Ok(()) => error,
            Err(_) => NOT_RECORDED,
        }
    }

    /// Up to the last stage that is over.
    fn latency_us(&self) -> u32 {
        u32::try_from(self.watch.so_far().as_micros()).unwrap_or(u32::MAX)
    }
}

const fn recorded(operation: Operation) -> Recorded {
    match operation {
        Operation::Encrypt => Recorded::Encrypt,
        Operation::Decrypt => Recorded::Decrypt,
        Operation::GetKeyMetadata => Recorded::GetKeyMetadata,
        Operation::GetHealthStatus => Recorded::GetHealthStatus,
    }
}
