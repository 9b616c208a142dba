//! What administrators may order, and under which conditions.

use crate::audit::AuditSettings;
use crate::cbor::Message as _;
use crate::external_key::{ExternalKeyId, KeyState, KeyUsage};
use crate::hpke;
use crate::keystore::{AcmeOrder, ClientAuthentication, Quota, UseBudgets, UseLimits, UsePolicy};
use crate::limits;
use crate::manifest::{DerCertificate, Thresholds};
use crate::sigv4::AccessKeyId;

/// What must be true of a command's object when it is carried out: an order given in ignorance of a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Precondition {
    /// Nothing.
    #[n(0)]
    None,
    /// The key store has this version.
    #[n(1)]
    Version(#[n(0)] u64),
    /// The key is in this state.
    #[n(2)]
    KeyState(#[n(0)] KeyState),
}

/// What an administrator may order.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Action {
    /// Make an external key; its material is drawn in the enclave. Refused if the id exists.
    #[n(0)]
    CreateKey {
        /// As in the URI.
        #[n(0)]
        id: ExternalKeyId,
        /// What it may be used for.
        #[n(1)]
        usage: KeyUsage,
    },
    /// Allow the use of a key.
    #[n(1)]
    EnableKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Forbid the use of a key.
    #[n(2)]
    DisableKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Answer with the keys and their states.
    #[n(3)]
    ListKeys,
    /// Make a SigV4 credential and answer with it.
    #[n(4)]
    CreateCredential,
    /// Accept this SigV4 credential.
    #[n(5)]
    ImportCredential {
        /// The attested key to which it is encrypted: an enclave with another key leaves the command to the one that has it.
        #[n(0)]
        recipient: hpke::PublicKey,
        /// [`CredentialRecord`](crate::keystore::CredentialRecord), made by [`seal_credential`](super::seal_credential).
        #[n(1)]
        sealed: hpke::Sealed,
    },
    /// Accept this SigV4 credential no longer.
    #[n(6)]
    RemoveCredential {
        /// The credential.
        #[n(0)]
        access_key_id: AccessKeyId,
    },
    /// Answer with a certificate signing request for the TLS key.
    #[n(7)]
    RequestCertificate,
    /// Serve this certificate chain, whose leaf must hold the TLS key and the host name.
    #[n(8)]
    InstallCertificate {
        /// Leaf first.
        #[n(0)]
        chain: Vec<DerCertificate>,
    },
    /// Give a key a new version, drawn in the enclave: it encrypts from now on, and those before still decrypt.
    #[n(9)]
    RotateKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Make an external key of this material. Refused if the id exists.
    #[n(10)]
    ImportKey {
        /// As in the URI.
        #[n(0)]
        id: ExternalKeyId,
        /// What it may be used for.
        #[n(1)]
        usage: KeyUsage,
        /// Whether it also decrypts what AWS's sample proxy encrypted under it.
        #[n(2)]
        legacy: bool,
        /// The attested key to which it is encrypted: an enclave with another key leaves the command to the one that has it.
        #[n(3)]
        recipient: hpke::PublicKey,
        /// 32 bytes, sealed by [`seal_material`](super::seal_material).
        #[n(4)]
        sealed: hpke::Sealed,
    },
    /// Destroy a version's material. Refused for the version that encrypts.
    #[n(11)]
    DestroyKeyVersion {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
        /// The version.
        #[n(1)]
        number: u32,
    },
    /// Limit how often the key store's keys are used, or lift the limit.
    #[n(12)]
    SetQuota {
        /// The limit.
        #[n(0)]
        quota: Option<Quota>,
    },
    /// Demand certificates of clients (mTLS), or demand none.
    #[n(13)]
    SetClientAuthentication {
        /// Whose, and by whom they must be issued.
        #[n(0)]
        settings: Option<ClientAuthentication>,
    },
    /// Answer with quota, limits, budgets, client authentication and audit settings.
    #[n(14)]
    ShowSettings,
    /// Forbid the use of a key, and destroy it after a waiting period unless that is cancelled: a standing order, carried out by
    /// any enclave whose attested clock has come so far.
    #[n(15)]
    ScheduleKeyDestruction {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
        /// How long after the command is carried out, in milliseconds ([`limits::DESTRUCTION_WAIT_MS`]).
        #[n(1)]
        waiting_ms: u64,
    },
    /// Do not destroy a key that is pending destruction; it is disabled then.
    #[n(16)]
    CancelKeyDestruction {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Destroy a key that is pending destruction, without waiting any longer: its material goes, the root key changes, and the shares
    /// of the old one are deleted.
    #[n(17)]
    DestroyKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Change the root key and its shares; old shares are deleted.
    #[n(18)]
    RotateRootKey,
    /// Put a successor manifest in force: administrators, thresholds, custodians, host name. Where custodians or numbers change, the
    /// root key is changed and shared anew.
    #[n(19)]
    AdoptManifest {
        /// The signed successor ([`crate::manifest::VerifiedManifest::succeed`]).
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
    },
    /// Answer with the public part of the TLS identity.
    #[n(20)]
    ShowTls,
    /// Have certificates renewed by a standing order from now on, instead of the one before; or by none.
    #[n(21)]
    SetRenewal {
        /// What may be done without a further signature.
        #[n(0)]
        order: Option<AcmeOrder>,
    },
    /// Have the policy of use decide on each use of a key from now on, or none. Refused if it is not valid in the enclave's image.
    #[n(22)]
    SetPolicy {
        /// The policy.
        #[n(0)]
        policy: Option<UsePolicy>,
    },
    /// Answer with the policy of use.
    #[n(23)]
    ShowPolicy,
    /// Limit how often keys and principals come, or lift these limits; the quota is another.
    #[n(24)]
    SetLimits {
        /// The limits.
        #[n(0)]
        limits: Option<UseLimits>,
    },
    /// Give keys so many uses in an hour and in a day, in all enclaves together, or as many as KMS asks for. What is debited in a window
    /// stays debited.
    #[n(25)]
    SetBudgets {
        /// The budgets.
        #[n(0)]
        budgets: Option<UseBudgets>,
    },
    /// Change who reads the audit log and under which terms it is kept, or go back to those of a key store without settings.
    #[n(27)]
    SetAudit {
        /// The settings.
        #[n(0)]
        settings: Option<AuditSettings>,
    },
}

impl Action {
    /// Rules beyond the types.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::InstallCertificate { chain }
                if !(1..=limits::CERTIFICATE_CHAIN_MAX).contains(&chain.len())
                    || chain.iter().any(|certificate| certificate.0.len() > limits::CERTIFICATE_DER_MAX) =>
            {
                Err("a certificate chain has 1 to 6 certificates of at most 8 KiB")
            }
            Self::ScheduleKeyDestruction { waiting_ms, .. } if !limits::DESTRUCTION_WAIT_MS.contains(waiting_ms) => {
                Err("a key is destroyed after a waiting period of 1 to 366 days")
            }
            Self::SetQuota { quota: Some(quota) } => quota.check(),
            Self::SetRenewal { order: Some(order) } => order.check(),
            Self::SetClientAuthentication { settings: Some(settings) } => settings.check(),
            Self::SetAudit { settings: Some(settings) } => settings.check(),
            Self::SetPolicy { policy: Some(policy) } => policy.check(),
            Self::SetLimits { limits: Some(limits) } => limits.check(),
            Self::SetBudgets { budgets: Some(budgets) } => budgets.check(),
            _ => Ok(()),
        }
    }

    /// Signatures that the action needs.
    #[must_use]
    pub const fn threshold(&self, thresholds: &Thresholds) -> u8 {
        match self {
            Self::CreateKey { .. }
            | Self::EnableKey { .. }
            | Self::DisableKey { .. }
            | Self::RotateKey { .. }
            | Self::ImportKey { .. }
            | Self::DestroyKeyVersion { .. }
            | Self::ScheduleKeyDestruction { .. }
            | Self::CancelKeyDestruction { .. }
            | Self::SetQuota { .. }
            | Self::SetPolicy { .. }
            | Self::SetLimits { .. }
            | Self::SetBudgets { .. } => thresholds.keys,
            // Without the waiting period, an error cannot be mended; and custody is what the others change. Who could switch readers
            // alone could hide from the others what is done with the keys, so that takes as many as exchanging an administrator.
            Self::DestroyKey { .. } | Self::RotateRootKey | Self::AdoptManifest { .. } | Self::SetAudit { .. } => {
                thresholds.custody
            }
            Self::CreateCredential | Self::ImportCredential { .. } | Self::RemoveCredential { .. } => {
                thresholds.credentials
            }
            Self::InstallCertificate { .. } | Self::SetClientAuthentication { .. } | Self::SetRenewal { .. } => {
                thresholds.identity
            }
            // Neither changes anything nor shows a secret.
            Self::ListKeys | Self::RequestCertificate | Self::ShowSettings | Self::ShowTls | Self::ShowPolicy => 1,
        }
    }
}
