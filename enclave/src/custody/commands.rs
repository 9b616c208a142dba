//! Carrying out commands, as a function from a key store's body to its next one.
//!
//! Guarantees: nothing is carried out that is expired, was carried out before, has too few signatures by the sealed list of
//! administrators, or finds its object in another state than its signer expected. Assumes: the caller drops the body unless the
//! effect is [`Effect::Changed`]; then it publishes body and outcome in one step, and shows neither before that succeeded.

use holdfast_shared::audit::AuditSettings;
use holdfast_shared::command::{self, Action, Command, CommandError, Outcome, Precondition, RenewalState};
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage, LegacyProfile};
use holdfast_shared::hpke;
use holdfast_shared::ids::CommandId;
use holdfast_shared::keystore::{
    self, AcmeOrder, Body, ClientAuthentication, CredentialRecord, ExecutedCommand, KeyVersionRecord, RenewalProgress,
    StandingRenewal,
};
use holdfast_shared::limits;
use holdfast_shared::manifest::{Administrator, VerifiedManifest};
use holdfast_shared::secrets::Secret;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::identity;

mod keys;
mod succession;
mod using;

pub(crate) use keys::{carry_out_due, is_due};

/// What a command is judged by, besides the body.
pub(crate) struct Situation<'a> {
    /// The manifest in force.
    pub(crate) manifest: &'a VerifiedManifest,
    /// Epoch of the block overlay in force, 0 for none.
    pub(crate) overlay_epoch: u64,
    /// Attested time.
    pub(crate) now_ms: u64,
    /// The version that the body was opened from.
    pub(crate) version: u64,
    /// The key to which imports are encrypted.
    pub(crate) attested_key: &'a hpke::PrivateKey,
    /// Fresh: becomes key material or a secret access key, if the command needs any.
    pub(crate) fresh: Secret<32>,
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) command_id: CommandId,
    /// To whom the outcome is encrypted: who signed first.
    pub(crate) recipient: Administrator,
    pub(crate) effect: Effect,
}

/// See [`Handled`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The body changed: publish it with the outcome.
    Changed(Outcome),
    /// The body changed, and the root key must change with it: publish the body under a new one, shared anew.
    ChangedRoot(Outcome),
    /// The body changed with the manifest: publish it under the successor.
    Adopted {
        /// The successor.
        manifest: Box<VerifiedManifest>,
        /// Whether the root key must be changed and shared anew among the successor's custodians.
        reshare: bool,
        /// What is told.
        outcome: Outcome,
    },
    /// The body did not change: report the outcome.
    Answered(Outcome),
    /// Not for this enclave, or done already: do nothing.
    Left,
    /// More administrators must sign: look again later. An answer would let one of them end what others have signed, by
    /// sending it in with their own signature alone.
    Waiting,
}

/// Judges and carries out one signed command.
///
/// # Errors
/// [`CommandError`] when there is nobody to answer: the bytes are no command signed by an administrator of this key store.
pub(crate) fn carry_out(signed: &[u8], body: &mut Body, situation: Situation<'_>) -> Result<Handled, CommandError> {
    let (command, signers) = command::open(signed, situation.manifest.id(), &body.administrators)?;
    // Before it is carried out: who orders may be no administrator afterwards.
    let recipient = body.administrators.iter().find(|administrator| signers.first() == Some(&administrator.id()));
    let recipient = recipient.cloned().ok_or(CommandError::OtherCommand)?;
    let command_id = command.command_id;
    let effect = effect_of(&command, signers.len(), body, situation);
    if let Effect::Changed(_) | Effect::ChangedRoot(_) | Effect::Adopted { .. } = effect {
        body.executed.push(ExecutedCommand { command_id, expires_ms: command.expires_ms });
        // Found out when it is sealed, it would be tried again until it expires.
        if !keystore::fits(body) {
            let effect = refused("the key store is full; destroy old versions of keys, or make another key store");
            return Ok(Handled { command_id, recipient, effect });
        }
    }
    Ok(Handled { command_id, recipient, effect })
}

fn effect_of(command: &Command, signatures: usize, body: &mut Body, situation: Situation<'_>) -> Effect {
    if body.executed.iter().any(|executed| executed.command_id == command.command_id) {
        return Effect::Left;
    }
    if let Some(late_ms) = situation.now_ms.checked_sub(command.expires_ms) {
        let late = late_ms.div_ceil(1000);
        return refused(&format!(
            "the command expired {late} s before an enclave saw it, by attested time: issue it again; if that is not so, the clock of the \
             machine that signed it is behind"
        ));
    }
    let needed = command.action.threshold(&body.thresholds);
    if signatures < usize::from(needed) {
        return Effect::Waiting;
    }
    // Its id is kept until it expires; nobody fills that memory for longer than a command may live.
    if command.expires_ms.saturating_sub(situation.now_ms) > limits::COMMAND_LIFE_MAX_MS {
        return refused("the command expires more than 31 days from now; issue it again, by a clock that is right");
    }
    if let Err(reason) = check_precondition(command, body, situation.version) {
        return refused(&reason);
    }
    body.executed.retain(|executed| executed.expires_ms > situation.now_ms);
    if body.executed.len() >= limits::EXECUTED_COMMANDS_MAX {
        return refused("too many commands that have not expired; issue commands with a shorter life");
    }
    act(command, body, situation)
}

fn refused(reason: &str) -> Effect {
    Effect::Answered(Outcome::Refused { reason: reason.to_owned() })
}

fn check_precondition(command: &Command, body: &Body, version: u64) -> Result<(), String> {
    match command.precondition {
        Precondition::None => Ok(()),
        Precondition::Version(expected) if expected == version => Ok(()),
        Precondition::Version(expected) => {
            Err(format!("the key store is at version {version}, not {expected}: look again and issue the command anew"))
        }
        Precondition::KeyState(expected) => {
            let (Action::EnableKey { id }
            | Action::DisableKey { id }
            | Action::RotateKey { id }
            | Action::ScheduleKeyDestruction { id, .. }
            | Action::CancelKeyDestruction { id }
            | Action::DestroyKey { id }
            | Action::DestroyKeyVersion { id, .. }) = &command.action
            else {
                return Err("a key's state is a precondition of orders about a key that exists only".to_owned());
            };
            keys::check_state(body, id, expected)
        }
    }
}

fn act(command: &Command, body: &mut Body, situation: Situation<'_>) -> Effect {
    match &command.action {
        Action::CreateKey { id, usage } => keys::create(body, id, *usage, KeyVersionRecord::new(1, situation.fresh)),
        Action::ImportKey { id, usage, legacy, recipient, sealed } => {
            if recipient != situation.attested_key.public_key() {
                return Effect::Left;
            }
            import_key(command.command_id, body, (id, *usage, *legacy), sealed, &situation)
        }
        Action::RotateKey { id } => keys::rotate(body, id, situation.fresh),
        Action::DestroyKeyVersion { id, number } => keys::destroy_version(body, id, *number),
        Action::EnableKey { id } => keys::set_state(body, id, KeyState::Enabled),
        Action::DisableKey { id } => keys::set_state(body, id, KeyState::Disabled),
        Action::ScheduleKeyDestruction { id, waiting_ms } => {
            keys::schedule_destruction(body, id, situation.now_ms.saturating_add(*waiting_ms))
        }
        Action::CancelKeyDestruction { id } => keys::cancel_destruction(body, id),
        Action::DestroyKey { id } => keys::destroy(body, id),
        Action::RotateRootKey => Effect::ChangedRoot(Outcome::Done),
        Action::AdoptManifest { signed } => succession::adopt(body, signed, &situation),
        Action::ListKeys => Effect::Answered(Outcome::Keys { keys: keys::list(body) }),
        Action::SetQuota { quota } => {
            body.quota = *quota;
            Effect::Changed(Outcome::Done)
        }
        Action::SetPolicy { policy } => using::set_policy(body, policy.as_ref()),
        Action::ShowPolicy => {
            Effect::Answered(Outcome::Policy { policy: body.policy.clone(), version: situation.version })
        }
        Action::SetLimits { limits } => using::set_limits(body, limits.as_ref()),
        Action::SetBudgets { budgets } => using::set_budgets(body, budgets.as_ref()),
        Action::ShowSettings => Effect::Answered(Outcome::Settings {
            quota: body.quota,
            limits: body.limits.clone(),
            budgets: body.budgets.clone(),
            client_authentication: body.client_authentication.clone(),
            audit: body.audit.clone(),
        }),
        Action::SetAudit { settings } => set_audit(body, settings.as_ref()),
        Action::SetClientAuthentication { settings } => set_client_authentication(body, settings.as_ref()),
        Action::CreateCredential => create_credential(body, &situation.fresh, situation.now_ms),
        Action::ImportCredential { recipient, sealed } => {
            if recipient != situation.attested_key.public_key() {
                return Effect::Left;
            }
            import_credential(command.command_id, sealed, body, &situation)
        }
        Action::RemoveCredential { access_key_id } => {
            let before = body.credentials.len();
            body.credentials.retain(|credential| credential.access_key_id != *access_key_id);
            if body.credentials.len() == before {
                return refused(&format!("there is no credential {access_key_id}"));
            }
            Effect::Changed(Outcome::Done)
        }
        Action::RequestCertificate => match identity::certificate_request(&body.tls.private_key, &body.host_name) {
            Ok(der) => Effect::Answered(Outcome::CertificateRequest { der }),
            Err(error) => refused(&error.to_string()),
        },
        Action::SetRenewal { order } => set_renewal(body, order.as_ref(), situation.now_ms),
        Action::ShowTls => match identity::public_key_sha256(&body.tls.private_key) {
            Ok(public_key_sha256) => Effect::Answered(Outcome::Tls {
                host_name: body.host_name.clone(),
                public_key_sha256,
                chain: body.tls.chain.clone(),
                renewal: body.renewal.as_ref().map(|renewal| {
                    let (order, progress) = (renewal.order.clone(), renewal.progress.clone());
                    Box::new(RenewalState { order, progress })
                }),
            }),
            Err(error) => refused(&error.to_string()),
        },
        Action::InstallCertificate { chain } => {
            match identity::check_chain(chain, &body.tls.private_key, &body.host_name, situation.now_ms) {
                Ok(()) => {
                    body.tls.chain.clone_from(chain);
                    // What administrators install is not replaced by an attempt that began before.
                    if let Some(renewal) = &mut body.renewal {
                        renewal.progress.begin_anew();
                    }
                    Effect::Changed(Outcome::Done)
                }
                Err(error) => refused(&error.to_string()),
            }
        }
    }
}

fn import_key(
    command_id: CommandId,
    body: &mut Body,
    (id, usage, legacy): (&ExternalKeyId, KeyUsage, bool),
    sealed: &hpke::Sealed,
    situation: &Situation<'_>,
) -> Effect {
    match command::open_material(sealed, situation.manifest.id(), command_id, situation.attested_key) {
        Ok(material) => {
            let legacy = legacy.then_some(LegacyProfile::AwsSample);
            keys::create(body, id, usage, KeyVersionRecord { legacy, ..KeyVersionRecord::new(1, material) })
        }
        Err(_) => refused("the key does not open with this enclave's key for this command"),
    }
}

/// A setting that could not be served must not come into the key store, which would then not be served at all.
fn set_client_authentication(body: &mut Body, settings: Option<&ClientAuthentication>) -> Effect {
    let mut roots = RootCertStore::empty();
    for authority in settings.into_iter().flat_map(|settings| &settings.authorities) {
        if roots.add(CertificateDer::from(authority.0.as_slice())).is_err() {
            return refused("an authority is not a readable X.509 certificate");
        }
    }
    body.client_authentication = settings.cloned();
    Effect::Changed(Outcome::Done)
}

/// An auditor who could not open a segment would find that out when it is too late.
fn set_audit(body: &mut Body, settings: Option<&AuditSettings>) -> Effect {
    let mut auditors = settings.into_iter().flat_map(|settings| &settings.auditors);
    if let Some(auditor) = auditors.find(|auditor| !auditor.encryption_key.is_on_curve()) {
        return refused(&format!("the key of auditor {} is no point of the curve P-384", auditor.name));
    }
    body.audit = settings.cloned();
    Effect::Changed(Outcome::Done)
}

/// An order that could not be carried out must not look like one in force.
fn set_renewal(body: &mut Body, order: Option<&AcmeOrder>, now_ms: u64) -> Effect {
    let Some(order) = order else {
        return match body.renewal.take() {
            Some(_) => Effect::Changed(Outcome::Done),
            None => refused("there is no standing order"),
        };
    };
    let life_ms = order.until_ms.saturating_sub(now_ms);
    if life_ms == 0 || life_ms > limits::RENEWAL_ORDER_LIFE_MAX_MS {
        return refused("a standing order must end in the future, within 731 days (attested time)");
    }
    let mut roots = RootCertStore::empty();
    let mut named = order.directory_roots.iter().chain(&order.issuing_roots);
    if named.any(|root| roots.add(CertificateDer::from(root.0.as_slice())).is_err()) {
        return refused("a root of the directory or the issuer is not a readable X.509 certificate");
    }
    // The account stays while the authority does: CAA records may name it.
    let kept = body.renewal.take().filter(|before| before.order.directory == order.directory);
    let (account_key, account) = match kept {
        Some(before) => (before.account_key, before.progress.account),
        None => match identity::tls_key() {
            Ok(key) => (key, None),
            Err(error) => return refused(&error.to_string()),
        },
    };
    let progress = RenewalProgress { account, ..RenewalProgress::default() };
    body.renewal = Some(StandingRenewal { order: order.clone(), account_key, progress });
    Effect::Changed(Outcome::Done)
}

fn create_credential(body: &mut Body, fresh: &Secret<32>, now_ms: u64) -> Effect {
    if body.credentials.len() >= limits::CREDENTIALS_MAX {
        return refused("there are 8 credentials already; remove one first");
    }
    match identity::credential(fresh, now_ms) {
        Ok(record) => {
            let credential = issued(&record);
            body.credentials.push(record);
            Effect::Changed(Outcome::Credential { credential })
        }
        Err(error) => refused(&error.to_string()),
    }
}

/// The copy of a credential that goes to its administrator, whose tool may be older than dates are.
pub(crate) fn issued(record: &CredentialRecord) -> CredentialRecord {
    CredentialRecord {
        access_key_id: record.access_key_id.clone(),
        secret_access_key: record.secret_access_key.duplicate(),
        created_ms: None,
    }
}

fn import_credential(
    command_id: CommandId,
    sealed: &hpke::Sealed,
    body: &mut Body,
    situation: &Situation<'_>,
) -> Effect {
    let opened = command::open_credential(sealed, situation.manifest.id(), command_id, situation.attested_key);
    let Ok(imported) = opened else {
        return refused("the credential does not open with this enclave's key for this command");
    };
    if body.credentials.iter().any(|credential| credential.access_key_id == imported.access_key_id) {
        return refused(&format!("there is a credential {} already", imported.access_key_id));
    }
    if body.credentials.len() >= limits::CREDENTIALS_MAX {
        return refused("there are 8 credentials already; remove one first");
    }
    let (access_key_id, secret_access_key) = (imported.access_key_id, imported.secret_access_key);
    // Whatever its administrator says: the age that counts is that in this key store.
    let created_ms = Some(situation.now_ms);
    body.credentials.push(CredentialRecord { access_key_id, secret_access_key, created_ms });
    Effect::Changed(Outcome::Done)
}

#[cfg(test)]
mod tests;
