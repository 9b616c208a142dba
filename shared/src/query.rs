//! Queries: what an administrator asks a custodian, and the custodian's signed answers.
//!
//! Guarantees: a query was signed by an administrator of the key store within [`limits::QUERY_AGE_MAX_MS`]; an answer was signed
//! by the custodian for exactly that query. A replayed query shows its sender nothing that the administrator did not already
//! ask for, and results stay encrypted.

use minicbor::bytes::ByteVec;
use ring::rand::SecureRandom;

use crate::alarm::RaisedAlarm;
use crate::attestation::Measurements;
use crate::cbor::{self, DecodeError, message};
use crate::channel::OverlayId;
use crate::command::SealedResult;
use crate::external_key::ExternalKeyId;
use crate::ids::{AdministratorId, BlobId, BootId, CommandId, CustodianId, KeyStoreId, LeaseId};
use crate::keystore::BudgetWindow;
use crate::labels;
use crate::limits;
use crate::manifest::Administrator;
use crate::release::{HeldEntry, ShareSet};
use crate::signature::{Envelope, SignatureError, SigningKey, VerifyingKey};

/// A question with everything that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Query {
    /// [`labels::QUERY`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Who is asked.
    #[n(2)]
    pub custodian_id: CustodianId,
    /// Random: the answer is bound to it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// Milliseconds since 1970.
    #[n(4)]
    pub issued_ms: u64,
    /// The question.
    #[n(5)]
    pub question: Question,
}

message!(Query, 1024, "query", |query| {
    if query.label == labels::QUERY { Ok(()) } else { Err("is not a query of this version") }
});

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Question {
    /// What came of a command?
    #[n(0)]
    Result(#[n(0)] CommandId),
    /// What is blocked?
    #[n(1)]
    Overlay,
    /// Who holds leases, at which version is the key store, what waits?
    #[n(2)]
    Status,
    /// Which commands wait, for an enclave or for approvals?
    #[n(3)]
    Pending,
    /// Which versions were there, from this one on?
    #[n(4)]
    History(#[n(0)] u64),
    /// Where do the shares come from, and which manifests and release policies were in force?
    #[n(5)]
    Custody,
    /// What was released and refused, before this entry? 0: the newest.
    #[n(6)]
    Records(#[n(0)] u64),
    /// Which boots wait for approval, and who approved them?
    #[n(7)]
    WaitingReleases,
    /// How far have the audit logs come, of boots after this one in the order of their ids? Absent: from the first.
    #[n(8)]
    AuditHeads(#[n(0)] Option<BootId>),
    /// To the home custodian: what is debited of budgets in this hour and this day?
    #[n(9)]
    Budgets,
    /// To the home custodian: which alarms were raised, before this one? 0: the newest.
    #[n(10)]
    Alarms(#[n(0)] u64),
}

/// The answer, bound to its query.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct QueryAnswer {
    /// SHA-256 of the query's payload.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub query_sha256: [u8; 32],
    /// The answer.
    #[n(1)]
    pub answer: Answer,
}

message!(QueryAnswer, limits::CHANNEL_MESSAGE_MAX, "query answer", |answer| match &answer.answer {
    Answer::AuditHeads(heads)
        if heads.len() > limits::AUDIT_HEADS_PAGE_MAX || !heads.is_sorted_by(|a, b| a.boot_id < b.boot_id) =>
    {
        Err("lists at most 64 audit heads, sorted by boot, each once")
    }
    Answer::Budgets(counts)
        if counts.len() > limits::BUDGET_COUNTS_MAX
            || !counts.is_sorted_by(|a, b| (&a.key, a.window) < (&b.key, b.window)) =>
    {
        Err("lists at most 8192 counts of budgets, sorted by key and window, each once")
    }
    Answer::Alarms(alarms)
        if alarms.len() > limits::ALARMS_PAGE_MAX || !alarms.is_sorted_by(|newer, older| newer.id > older.id) =>
    {
        Err("lists at most 64 alarms, newest first")
    }
    Answer::Alarms(alarms) => alarms.iter().try_for_each(|raised| raised.alarm.check()),
    _ => Ok(()),
});

/// What a custodian answers.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Answer {
    /// To [`Question::Result`].
    #[n(0)]
    Result(#[n(0)] ResultState),
    /// To [`Question::Overlay`]: the signed overlay in force, if there is one.
    #[n(1)]
    Overlay {
        /// As [`crate::block::open`] takes it.
        #[cbor(n(0), with = "minicbor::bytes")]
        overlay: Option<Vec<u8>>,
    },
    /// To [`Question::Status`].
    #[n(2)]
    Status(#[n(0)] KeyStoreStatus),
    /// To [`Question::Pending`]: signed commands, oldest first.
    #[n(3)]
    Pending(#[n(0)] Vec<ByteVec>),
    /// To [`Question::History`]: at most [`limits::HISTORY_PAGE_MAX`], oldest first; none when there are no more.
    #[n(4)]
    History(#[n(0)] Vec<HistoryEntry>),
    /// To [`Question::Custody`].
    #[n(5)]
    Custody(#[n(0)] CustodyRecord),
    /// To [`Question::Records`]: at most [`limits::RECORDS_PAGE_MAX`], newest first.
    #[n(6)]
    Records(#[n(0)] Vec<ReleaseEntry>),
    /// To [`Question::WaitingReleases`].
    #[n(7)]
    WaitingReleases(#[n(0)] Vec<WaitingRelease>),
    /// To [`Question::AuditHeads`]: at most [`limits::AUDIT_HEADS_PAGE_MAX`], sorted by boot; none when there are no more.
    #[n(8)]
    AuditHeads(#[n(0)] Vec<AuditHead>),
    /// To [`Question::Budgets`]: sorted by key and window; keys of which nothing is debited are not listed.
    #[n(9)]
    Budgets(#[n(0)] Vec<BudgetCount>),
    /// To [`Question::Alarms`]: at most [`limits::ALARMS_PAGE_MAX`], newest first; none when there are no more.
    #[n(10)]
    Alarms(#[n(0)] Vec<RaisedAlarm>),
}

/// What is debited of a key's budget.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct BudgetCount {
    /// The key.
    #[n(0)]
    pub key: ExternalKeyId,
    /// In which window.
    #[n(1)]
    pub window: BudgetWindow,
    /// How many uses enclaves have had debited.
    #[n(2)]
    pub counted: u32,
}

/// How far the audit log of a boot has come, as a custodian witnessed it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct AuditHead {
    /// The boot.
    #[n(0)]
    pub boot_id: BootId,
    /// The newest checkpoint: a signed note ([`crate::audit::Checkpoint`]).
    #[cbor(n(1), with = "minicbor::bytes")]
    pub checkpoint: Vec<u8>,
    /// Verifies it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub audit_public_key: [u8; 32],
    /// The attestation document on which the boot got its lease; it vouches for the key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub evidence: Vec<u8>,
    /// When it was received, milliseconds since 1970.
    #[n(4)]
    pub received_ms: u64,
    /// The first checkpoint that contradicts those before it, if there was one: signed, of the same size with another root, smaller, or
    /// after a closing one.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub contradiction: Option<Vec<u8>>,
}

/// A version as a custodian has it on record.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct HistoryEntry {
    /// The register entry, and whether it is committed.
    #[n(0)]
    pub entry: HeldEntry,
    /// The attestation document that vouches for it ([`crate::provenance`]).
    #[cbor(n(1), with = "minicbor::bytes")]
    pub evidence: Vec<u8>,
    /// The signed commands that made it, where this custodian has them.
    #[n(2)]
    pub commands: Vec<ByteVec>,
}

/// What a custodian has on record about custody.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct CustodyRecord {
    /// For each generation that it holds a share of, oldest first.
    #[n(0)]
    pub shares: Vec<ShareRecord>,
    /// The signed manifests, first to newest.
    #[n(1)]
    pub manifests: Vec<ByteVec>,
    /// The signed release policies after the first manifest's, oldest first; the newest ones if there are many.
    #[n(2)]
    pub policies: Vec<ByteVec>,
}

/// Where a share comes from.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ShareRecord {
    /// The public part of the sharing.
    #[n(0)]
    pub set: ShareSet,
    /// The attestation document on which the enclave that deposited it had its lease.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub document: Vec<u8>,
    /// When, milliseconds since 1970.
    #[n(2)]
    pub deposited_ms: u64,
}

/// A release, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseEntry {
    /// Grows with each entry.
    #[n(0)]
    pub id: u64,
    /// When, milliseconds since 1970.
    #[n(1)]
    pub at_ms: u64,
    /// Whether a lease was granted.
    #[n(2)]
    pub is_released: bool,
    /// What was released, or why not.
    #[n(3)]
    pub reason: String,
    /// Epoch of the policy by which it was decided.
    #[n(4)]
    pub policy_epoch: u64,
    /// The enclave's `module_id`, where that was proven.
    #[n(5)]
    pub module_id: Option<String>,
    /// The boot, where that was proven.
    #[n(6)]
    pub boot_id: Option<BootId>,
    /// What was measured, where that was proven.
    #[n(7)]
    pub measurements: Option<Measurements>,
}

/// A boot that satisfies the release policy and lacks approvals.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct WaitingRelease {
    /// The boot.
    #[n(0)]
    pub boot_id: BootId,
    /// The enclave's `module_id`.
    #[n(1)]
    pub module_id: String,
    /// What was measured.
    #[n(2)]
    pub measurements: Measurements,
    /// When it asked first, milliseconds since 1970.
    #[n(3)]
    pub first_ms: u64,
    /// When it asked last, milliseconds since 1970.
    #[n(4)]
    pub last_ms: u64,
    /// Who approved it.
    #[n(5)]
    pub approved_by: Vec<AdministratorId>,
    /// How many approvals it needs.
    #[n(6)]
    pub needed: u8,
    /// The newest attestation document with which it asked.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub document: Vec<u8>,
}

/// Where a command stands.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum ResultState {
    /// The custodian does not know the command (any more).
    #[n(0)]
    Unknown,
    /// It waits for an enclave, or for more signatures.
    #[n(1)]
    Pending,
    /// It was dealt with.
    #[n(2)]
    Ready(#[n(0)] SealedResult),
}

/// What a custodian knows about a key store.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KeyStoreStatus {
    /// The custodian's time, milliseconds since 1970.
    #[n(0)]
    pub now_ms: u64,
    /// Whether it holds a share: false before the ceremony.
    #[n(1)]
    pub holds_share: bool,
    /// The newest version and its blob.
    #[n(2)]
    pub version: Option<VersionInfo>,
    /// Epoch of the block overlay, 0 for none.
    #[n(3)]
    pub overlay_epoch: u64,
    /// Epoch of the release policy in force.
    #[n(4)]
    pub policy_epoch: u64,
    /// Whether its configuration names an emulated trust root, and the release policy of this key store uses it.
    #[n(5)]
    pub emulated_root: bool,
    /// Leases that have not ended.
    #[n(6)]
    pub leases: Vec<LeaseInfo>,
    /// Commands that wait.
    #[n(7)]
    pub pending: Vec<CommandId>,
    /// Generations of the root key of which it holds a share, ascending.
    #[n(8)]
    pub generations: Vec<u32>,
    /// Sequence of the manifest in force, 1 for the first.
    #[n(9)]
    pub manifest_sequence: u32,
    /// Whether the newest version is committed.
    #[n(10)]
    pub is_committed: bool,
    /// Boots that wait for approval.
    #[n(11)]
    pub waiting_releases: u32,
}

/// A version of a key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct VersionInfo {
    /// From 1.
    #[n(0)]
    pub version: u64,
    /// Its blob.
    #[n(1)]
    pub blob_id: BlobId,
    /// When it was recorded, milliseconds since 1970.
    #[n(2)]
    pub recorded_ms: u64,
}

/// A lease and the evidence on which it was granted.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct LeaseInfo {
    /// The lease.
    #[n(0)]
    pub lease_id: LeaseId,
    /// The boot that holds it.
    #[n(1)]
    pub boot_id: BootId,
    /// The enclave's `module_id`.
    #[n(2)]
    pub module_id: String,
    /// What was measured.
    #[n(3)]
    pub measurements: Measurements,
    /// When it was granted, milliseconds since 1970.
    #[n(4)]
    pub granted_ms: u64,
    /// When it ends unless renewed, milliseconds since 1970.
    #[n(5)]
    pub expires_ms: u64,
    /// When the enclave last asked, milliseconds since 1970.
    #[n(6)]
    pub seen_ms: u64,
    /// The attestation document, so that the administrator can verify it and encrypt to its `public_key`.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub document: Vec<u8>,
    /// The block overlay that the enclave said last it obeys; absent if it never spoke of one.
    #[n(8)]
    pub obeys: Option<Obeyed>,
}

/// That an enclave obeys a block overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Obeyed {
    /// Which.
    #[n(0)]
    pub overlay: OverlayId,
    /// When the custodian first heard so, milliseconds since 1970.
    #[n(1)]
    pub heard_ms: u64,
}

message!(Obeyed, 128, "what an enclave obeys");

/// Why a query or its answer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a query, or not an answer.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by whom it must be.
    #[error("query: {0}")]
    Signature(#[from] SignatureError),
    /// For another key store or custodian, or the answer to another query.
    #[error("query: belongs elsewhere")]
    Elsewhere,
    /// Too old, or from the future.
    #[error("query: signed more than five minutes from this custodian's time; check both clocks")]
    Stale,
}

/// Signs a query.
///
/// # Errors
/// [`QueryError::Signature`].
pub fn sign(query: &Query, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Vec<u8>, QueryError> {
    let envelope = Envelope::seal(labels::QUERY, &cbor::encode(query), key, rng)?;
    Ok(cbor::encode(&envelope).to_vec())
}

/// Which key store a signed query is about, unproven: to find the administrators with whom to [`open`] it.
///
/// # Errors
/// [`QueryError::Decode`].
pub fn key_store_of(signed: &[u8]) -> Result<KeyStoreId, QueryError> {
    let envelope: Envelope = cbor::decode(signed)?;
    Ok(cbor::decode::<Query>(envelope.unverified_payload())?.key_store_id)
}

/// Custodian: verifies a query at its time `now_ms`.
///
/// # Errors
/// [`QueryError`].
pub fn open(
    signed: &[u8],
    key_store_id: KeyStoreId,
    custodian_id: CustodianId,
    administrators: &[Administrator],
    now_ms: u64,
) -> Result<Query, QueryError> {
    let envelope: Envelope = cbor::decode(signed)?;
    let keys: Vec<_> = administrators.iter().map(|administrator| administrator.signing_key).collect();
    let (payload, _) = envelope.open(labels::QUERY, &keys, 1)?;
    let query: Query = cbor::decode(payload)?;
    if query.key_store_id != key_store_id || query.custodian_id != custodian_id {
        return Err(QueryError::Elsewhere);
    }
    if query.issued_ms.abs_diff(now_ms) > limits::QUERY_AGE_MAX_MS {
        return Err(QueryError::Stale);
    }
    Ok(query)
}

/// Custodian: signs an answer.
///
/// # Errors
/// [`QueryError::Signature`].
pub fn sign_answer(
    answer: Answer,
    query: &Query,
    key: &SigningKey,
    rng: &dyn SecureRandom,
) -> Result<Vec<u8>, QueryError> {
    let query_sha256 = crate::sha256(&[&cbor::encode(query)]);
    let envelope =
        Envelope::seal(labels::QUERY_ANSWER, &cbor::encode(&QueryAnswer { query_sha256, answer }), key, rng)?;
    Ok(cbor::encode(&envelope).to_vec())
}

/// Administrator: verifies the answer to `query`.
///
/// # Errors
/// [`QueryError`].
pub fn open_answer(signed: &[u8], query: &Query, custodian: &VerifyingKey) -> Result<Answer, QueryError> {
    let envelope: Envelope = cbor::decode(signed)?;
    let (payload, _) = envelope.open(labels::QUERY_ANSWER, &[*custodian], 1)?;
    let answer: QueryAnswer = cbor::decode(payload)?;
    if answer.query_sha256 != crate::sha256(&[&cbor::encode(query)]) {
        return Err(QueryError::Elsewhere);
    }
    Ok(answer.answer)
}
