//! What is recorded.
//!
//! Guarantees: no record holds a plaintext, a ciphertext or a secret: no field is there for one. Refuses: texts over their bounds;
//! whoever makes a record cuts them ([`super::cut`]).

use super::settings::AuditSettings;
use crate::cbor::{Message, message};
use crate::external_key::ExternalKeyId;
use crate::ids::{BlobId, CommandId, CustodianId};
use crate::limits;
use crate::sigv4::AccessKeyId;
use crate::xks::ErrorName;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Record {
    /// Attested time, milliseconds since 1970.
    #[n(0)]
    pub at_ms: u64,
    /// What happened.
    #[n(1)]
    pub what: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Event {
    /// A request with a valid signature, whatever came of it.
    #[n(0)]
    Request(#[n(0)] Box<RequestRecord>),
    /// A version came into service.
    #[n(1)]
    Version {
        /// The version.
        #[n(0)]
        version: u64,
        /// Its blob.
        #[n(1)]
        blob_id: BlobId,
        /// The commands that were carried out since the version before, as far as this enclave knows.
        #[n(2)]
        commands: Vec<CommandId>,
    },
    /// A block overlay came into force.
    #[n(2)]
    Overlay {
        /// Its epoch, by which custodians have the signed order.
        #[n(0)]
        epoch: u64,
        /// Whether the whole key store is blocked.
        #[n(1)]
        store: bool,
        /// How many keys are blocked.
        #[n(2)]
        key_count: u64,
        /// The first of them, [`limits::AUDIT_OVERLAY_KEYS_MAX`] at most.
        #[n(3)]
        keys: Vec<ExternalKeyId>,
    },
    /// A lease was obtained, or it ended.
    #[n(3)]
    Lease {
        /// Whether it was obtained.
        #[n(0)]
        granted: bool,
        /// Whose.
        #[n(1)]
        custodian_id: CustodianId,
        /// How long it lasts if it is not renewed, in milliseconds; 0 when it ended.
        #[n(2)]
        expires_in_ms: u64,
    },
    /// What has no record of its own, since the last event of this kind.
    #[n(4)]
    Uncounted {
        /// Requests without a valid signature.
        #[n(0)]
        refused_unauthenticated: u64,
    },
    /// Other audit settings came into force.
    #[n(5)]
    Setting {
        /// Absent for those of a key store without settings.
        #[n(0)]
        settings: Option<AuditSettings>,
    },
}

impl Event {
    /// A block overlay with as many keys as fit.
    #[must_use]
    pub fn overlay(epoch: u64, store: bool, keys: &[ExternalKeyId]) -> Self {
        Self::Overlay {
            epoch,
            store,
            key_count: u64::try_from(keys.len()).unwrap_or(u64::MAX),
            keys: keys.iter().take(limits::AUDIT_OVERLAY_KEYS_MAX).cloned().collect(),
        }
    }
}

/// What was asked for (specification, section "API operations").
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Operation {
    /// `Encrypt`.
    #[n(0)]
    Encrypt,
    /// `Decrypt`.
    #[n(1)]
    Decrypt,
    /// `GetKeyMetadata`.
    #[n(2)]
    GetKeyMetadata,
    /// `GetHealthStatus`.
    #[n(3)]
    GetHealthStatus,
}

impl Operation {
    /// The specification's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::GetKeyMetadata => "GetKeyMetadata",
            Self::GetHealthStatus => "GetHealthStatus",
        }
    }
}

/// A request with a valid signature. What its body said is absent where the body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RequestRecord {
    /// What was asked for.
    #[n(0)]
    pub operation: Operation,
    /// The key that the path named.
    #[n(1)]
    pub key: Option<ExternalKeyId>,
    /// The version of it that was used.
    #[n(2)]
    pub key_version: Option<u32>,
    /// The error that was answered; absent for a success.
    #[n(3)]
    pub error: Option<ErrorName>,
    /// The rule that decided.
    #[n(4)]
    pub rule: Option<String>,
    /// From the request's head to this record, in microseconds.
    #[n(5)]
    pub latency_us: u32,
    /// Who signed.
    #[n(6)]
    pub access_key_id: AccessKeyId,
    /// `kmsRequestId`.
    #[n(7)]
    pub kms_request_id: Option<String>,
    /// `kmsOperation`.
    #[n(8)]
    pub kms_operation: Option<String>,
    /// `awsPrincipalArn`.
    #[n(9)]
    pub principal: Option<String>,
    /// `kmsKeyArn`.
    #[n(10)]
    pub kms_key_arn: Option<String>,
    /// `kmsViaService`.
    #[n(11)]
    pub via_service: Option<String>,
    /// `awsSourceVpc`.
    #[n(12)]
    pub source_vpc: Option<String>,
    /// `awsSourceVpce`.
    #[n(13)]
    pub source_vpce: Option<String>,
    /// So many refusals alike; absent for one request. What of them need not be alike is absent, and the latency is the longest.
    #[n(14)]
    pub count: Option<u32>,
}

impl RequestRecord {
    /// A success of which nothing but this is known yet.
    #[must_use]
    pub const fn new(operation: Operation, access_key_id: AccessKeyId) -> Self {
        Self {
            operation,
            key: None,
            key_version: None,
            error: None,
            rule: None,
            latency_us: 0,
            access_key_id,
            kms_request_id: None,
            kms_operation: None,
            principal: None,
            kms_key_arn: None,
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            count: None,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let fits = |text: &Option<String>, max| text.as_ref().is_none_or(|text| text.len() <= max);
        let texts = [
            &self.kms_request_id,
            &self.kms_operation,
            &self.principal,
            &self.kms_key_arn,
            &self.via_service,
            &self.source_vpc,
            &self.source_vpce,
        ];
        if !texts.iter().all(|text| fits(text, limits::METADATA_TEXT_MAX)) {
            Err("a text of a request's metadata has more than 2048 bytes")
        } else if !fits(&self.rule, limits::AUDIT_RULE_MAX) {
            Err("a rule's name has more than 128 bytes")
        } else if self.count.is_some_and(|count| count < 2 || self.error.is_none()) {
            Err("only refusals are counted together, two or more")
        } else {
            Ok(())
        }
    }
}

message!(Record, limits::AUDIT_RECORD_MAX, "audit record", |record| match &record.what {
    Event::Request(request) => request.check(),
    Event::Version { commands, .. } if commands.len() > limits::PENDING_COMMANDS_MAX => Err("names too many commands"),
    Event::Overlay { keys, .. } if keys.len() > limits::AUDIT_OVERLAY_KEYS_MAX => Err("names too many keys"),
    Event::Setting { settings } => settings.iter().try_for_each(Message::check),
    Event::Version { .. } | Event::Overlay { .. } | Event::Lease { .. } | Event::Uncounted { .. } => Ok(()),
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn the_largest_records_fit() {
        let text = || Some("x".repeat(limits::METADATA_TEXT_MAX));
        let request = RequestRecord {
            key: Some(ExternalKeyId::parse(&"k".repeat(128)).unwrap()),
            key_version: Some(u32::MAX),
            error: Some(ErrorName::InternalException),
            rule: Some("r".repeat(limits::AUDIT_RULE_MAX)),
            latency_us: u32::MAX,
            kms_request_id: text(),
            kms_operation: text(),
            principal: text(),
            kms_key_arn: text(),
            via_service: text(),
            source_vpc: text(),
            source_vpce: text(),
            count: Some(u32::MAX),
            ..RequestRecord::new(Operation::Decrypt, "A".repeat(30).parse().unwrap())
        };
        let ids: Vec<_> =
            (0..4096).map(|at| ExternalKeyId::parse(&format!("{}{at:04}", "k".repeat(124))).unwrap()).collect();
        let auditors = (0..8)
            .map(|at| super::super::Auditor {
                name: format!("{}{at}", "n".repeat(63)),
                encryption_key: crate::hpke::PublicKey([at; 97]),
            })
            .collect();
        for what in [
            Event::Request(Box::new(request)),
            Event::Version { version: u64::MAX, blob_id: BlobId([1; 32]), commands: vec![CommandId([2; 16]); 64] },
            Event::overlay(u64::MAX, true, &ids),
            Event::Setting { settings: Some(AuditSettings { auditors, ..AuditSettings::default() }) },
        ] {
            let record = Record { at_ms: u64::MAX, what };
            assert_eq!(cbor::decode(&cbor::encode(&record)), Ok(record));
        }
    }

    #[test]
    fn requests_have_rules() {
        let request = || RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap());
        for (request, expected) in [
            (request(), true),
            (RequestRecord { principal: Some("p".repeat(2049)), ..request() }, false),
            (RequestRecord { rule: Some("r".repeat(129)), ..request() }, false),
            (RequestRecord { count: Some(2), ..request() }, false),
            (RequestRecord { count: Some(1), error: Some(ErrorName::AccessDeniedException), ..request() }, false),
            (RequestRecord { count: Some(2), error: Some(ErrorName::AccessDeniedException), ..request() }, true),
        ] {
            let record = Record { at_ms: 1, what: Event::Request(Box::new(request)) };
            assert_eq!(cbor::decode::<Record>(&cbor::encode(&record)).is_ok(), expected);
        }
    }
}
