//! Orders in words: what a signed command does, who signed it, and what it still needs.
//!
//! Guarantees: everything that a signature covers is said, so that nobody signs what he has not seen; what others wrote cannot steer
//! the terminal.

mod manifests;

use core::fmt;

use holdfast_shared::audit::{AuditMode, AuditSettings, MaxUnwitnessed};
use holdfast_shared::command::{Action, Command, Precondition};
use holdfast_shared::external_key::{ExternalKeyId, KeyState};
use holdfast_shared::ids::{AdministratorId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{AcmeOrder, ClientAuthentication, Quota, UseBudgets, UseLimits};
use holdfast_shared::manifest::{Administrator, DerCertificate, Manifest, VerifiedManifest};
use serde::Serialize;

pub use self::manifests::changes;
use crate::commands::budget::BudgetLine;
use crate::commands::key::{usage_names, usage_text};
use crate::moment::{format_duration, format_ms};
use crate::output::printable;

/// An order as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderReport {
    /// The command.
    pub command_id: CommandId,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Its name.
    pub key_store: String,
    /// What it does.
    pub order: String,
    /// What comes of it.
    pub effect: Vec<String>,
    /// What must be true when it is carried out.
    pub precondition: String,
    /// Which threshold it needs: keys, credentials, identity, custody, or any one administrator's signature.
    pub kind: &'static str,
    /// Signatures that it needs.
    pub needed: u8,
    /// Who signed, first signer first: he alone can read the result.
    pub signed_by: Vec<String>,
    /// Whose signature would count besides.
    pub may_sign: Vec<String>,
    /// Milliseconds since 1970.
    pub issued_ms: u64,
    /// After this it is not carried out, milliseconds since 1970.
    pub expires_ms: u64,
}

impl OrderReport {
    /// Of a command with these signers, verified.
    #[must_use]
    pub fn new(command: &Command, signers: &[AdministratorId], manifest: &VerifiedManifest) -> Self {
        let contents = manifest.manifest();
        let (signed, unsigned): (Vec<_>, Vec<_>) =
            contents.administrators.iter().partition(|administrator| signers.contains(&administrator.id()));
        let names = |administrators: Vec<&Administrator>| {
            administrators.into_iter().map(|administrator| administrator.name.clone()).collect::<Vec<_>>()
        };
        let mut signed_by = names(signed);
        // First signer first.
        if let Some(first) = signers.first().map(|first| administrator_name(contents, *first)) {
            signed_by.retain(|name| *name != first);
            signed_by.insert(0, first);
        }
        Self {
            command_id: command.command_id,
            key_store_id: command.key_store_id,
            key_store: contents.name.clone(),
            order: order(&command.action),
            effect: effect(&command.action, manifest),
            precondition: precondition(command.precondition),
            kind: kind(&command.action),
            needed: command.action.threshold(&contents.thresholds),
            signed_by,
            may_sign: names(unsigned),
            issued_ms: command.issued_ms,
            expires_ms: command.expires_ms,
        }
    }

    /// Signatures that are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        usize::from(self.needed).saturating_sub(self.signed_by.len())
    }

    /// Enough digits of the id for people.
    #[must_use]
    pub fn short_id(&self) -> String {
        self.command_id.to_string().chars().take(8).collect()
    }

    /// What others must do.
    #[must_use]
    pub fn what_is_missing(&self) -> String {
        let (needed, has) = (self.needed, self.signed_by.len());
        match self.missing() {
            0 => "has all its signatures and waits for an enclave".to_owned(),
            1 => format!(
                "needs {needed} approvals, has {has}: another administrator ({}) runs: holdfast approve {}",
                self.may_sign.join(", "),
                self.short_id()
            ),
            missing => format!(
                "needs {needed} approvals, has {has}: {missing} more administrators (of {}) run: holdfast approve {}",
                self.may_sign.join(", "),
                self.short_id()
            ),
        }
    }
}

impl fmt::Display for OrderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command    {}", self.command_id)?;
        writeln!(f, "key store  {} {}", printable(&self.key_store), self.key_store_id)?;
        writeln!(f, "order      {}", printable(&self.order))?;
        self.effect.iter().try_for_each(|line| writeln!(f, "           {}", printable(line)))?;
        if !self.precondition.is_empty() {
            writeln!(f, "only if    {}", self.precondition)?;
        }
        writeln!(f, "issued     {}, expires {}", format_ms(self.issued_ms), format_ms(self.expires_ms))?;
        if self.signed_by.is_empty() {
            let s = if self.needed == 1 { "" } else { "s" };
            return write!(
                f,
                "needs      {} signature{s} ({}); may sign: {}",
                self.needed,
                self.kind,
                self.may_sign.join(", ")
            );
        }
        writeln!(f, "signed by  {}", printable(&self.signed_by.join(", ")))?;
        write!(f, "           {}", printable(&self.what_is_missing()))
    }
}

/// An administrator's name in a manifest, or the beginning of the id.
#[must_use]
pub fn administrator_name(manifest: &Manifest, id: AdministratorId) -> String {
    let known = manifest.administrators.iter().find(|administrator| administrator.id() == id);
    known.map_or_else(|| format!("{}…", id.to_string().chars().take(8).collect::<String>()), |known| known.name.clone())
}

/// The key that an order is about.
#[must_use]
pub const fn key_of(action: &Action) -> Option<&ExternalKeyId> {
    match action {
        Action::CreateKey { id, .. }
        | Action::EnableKey { id }
        | Action::DisableKey { id }
        | Action::RotateKey { id }
        | Action::ImportKey { id, .. }
        | Action::DestroyKeyVersion { id, .. }
        | Action::ScheduleKeyDestruction { id, .. }
        | Action::CancelKeyDestruction { id }
        | Action::DestroyKey { id } => Some(id),
        _ => None,
    }
}

/// Which threshold counts, as `--threshold` names it.
#[must_use]
pub const fn kind(action: &Action) -> &'static str {
    match action {
        Action::CreateKey { .. }
        | Action::EnableKey { .. }
        | Action::DisableKey { .. }
        | Action::RotateKey { .. }
        | Action::ImportKey { .. }
        | Action::DestroyKeyVersion { .. }
        | Action::ScheduleKeyDestruction { .. }
        | Action::CancelKeyDestruction { .. }
        | Action::SetQuota { .. }
        | Action::SetPolicy { .. }
        | Action::SetLimits { .. }
        | Action::SetBudgets { .. } => "keys",
        Action::DestroyKey { .. } | Action::RotateRootKey | Action::AdoptManifest { .. } | Action::SetAudit { .. } => {
            "custody"
        }
        Action::CreateCredential | Action::ImportCredential { .. } | Action::RemoveCredential { .. } => "credentials",
        Action::InstallCertificate { .. } | Action::SetClientAuthentication { .. } | Action::SetRenewal { .. } => {
            "identity"
        }
        Action::ListKeys | Action::RequestCertificate | Action::ShowSettings | Action::ShowTls | Action::ShowPolicy => {
            "any administrator"
        }
    }
}

/// What an order does, in one line.
#[must_use]
pub fn order(action: &Action) -> String {
    let legacy = |legacy: bool| if legacy { ", also for what AWS's sample proxy encrypted" } else { "" };
    match action {
        Action::CreateKey { id, usage } => format!("create key {id} for {}", usage_text(&usage_names(*usage))),
        Action::EnableKey { id } => format!("enable key {id}"),
        Action::DisableKey { id } => format!("disable key {id}"),
        Action::ListKeys => "list the keys".to_owned(),
        Action::CreateCredential => "create a SigV4 credential".to_owned(),
        Action::ImportCredential { .. } => {
            "import a SigV4 credential (its secret is encrypted to an enclave)".to_owned()
        }
        Action::RemoveCredential { access_key_id } => format!("remove SigV4 credential {access_key_id}"),
        Action::RequestCertificate => "make a certificate signing request".to_owned(),
        Action::InstallCertificate { chain } => {
            let leaf = chain.first().map(|leaf| hex::encode(holdfast_shared::sha256(&[&leaf.0]))).unwrap_or_default();
            format!("install a chain of {} certificates, leaf SHA-256 {leaf}", chain.len())
        }
        Action::RotateKey { id } => format!("rotate key {id}: a new version encrypts"),
        Action::ImportKey { id, usage, legacy: also, .. } => format!(
            "import key {id} for {}{} (its material is encrypted to an enclave)",
            usage_text(&usage_names(*usage)),
            legacy(*also)
        ),
        Action::DestroyKeyVersion { id, number } => format!("destroy version {number} of key {id}"),
        Action::SetQuota { quota: None } => "lift the quota".to_owned(),
        Action::SetQuota { quota: Some(quota) } => {
            format!("set the quota: {} requests per second, {} at once", quota.requests_per_second, quota.burst)
        }
        Action::SetClientAuthentication { settings: None } => "ask clients for no certificate".to_owned(),
        Action::SetClientAuthentication { settings: Some(settings) } => client_authentication(settings),
        Action::SetPolicy { policy: None } => "lift the policy of use".to_owned(),
        Action::SetPolicy { policy: Some(policy) } => {
            format!(
                "set the policy of use, SHA-256 {}:",
                hex::encode(holdfast_shared::sha256(&[policy.text.as_bytes()]))
            )
        }
        Action::ShowPolicy => "show the policy of use".to_owned(),
        Action::SetLimits { limits: None } => "lift the limits of keys and principals".to_owned(),
        Action::SetLimits { limits: Some(limits) } => use_limits(limits),
        Action::SetBudgets { budgets: None } => "lift the budgets of keys".to_owned(),
        Action::SetBudgets { budgets: Some(budgets) } => use_budgets(budgets),
        Action::ShowSettings => "show quota, limits, budgets, client authentication and audit settings".to_owned(),
        Action::ShowTls => "show TLS key and certificate".to_owned(),
        Action::SetAudit { settings } => audit(settings.as_ref()),
        Action::SetRenewal { order: None } => "withdraw the standing order to renew the certificate".to_owned(),
        Action::SetRenewal { order: Some(order) } => renewal(order),
        Action::ScheduleKeyDestruction { id, waiting_ms } => {
            format!("destroy key {id} {} after this is carried out", format_duration(*waiting_ms))
        }
        Action::CancelKeyDestruction { id } => format!("do not destroy key {id}"),
        Action::DestroyKey { id } => format!("destroy key {id} NOW"),
        Action::RotateRootKey => "change the root key and its shares".to_owned(),
        Action::AdoptManifest { signed } => {
            format!("put a successor manifest in force, SHA-256 {}", manifests::digest(signed))
        }
    }
}

fn audit(settings: Option<&AuditSettings>) -> String {
    let Some(settings) = settings else {
        return "keep the audit log for all administrators, under the default terms".to_owned();
    };
    let administrators = settings.administrators_read.then(|| "administrators".to_owned());
    let auditors = settings.auditors.iter().map(|auditor| {
        let fingerprint = hex::encode(holdfast_shared::audit::segment::fingerprint(&auditor.encryption_key));
        format!("{} (key SHA-256 {fingerprint})", auditor.name)
    });
    let readers: Vec<_> = administrators.into_iter().chain(auditors).collect();
    let mode = match settings.mode {
        AuditMode::Relaxed => "relaxed",
        AuditMode::Strict => "strict",
    };
    let MaxUnwitnessed { seconds, records } = settings.max_unwitnessed;
    format!(
        "keep the audit log for {}, {mode}; at most {seconds} seconds and {records} records unwitnessed",
        readers.join(", ")
    )
}

fn use_limits(limits: &UseLimits) -> String {
    let rate = |quota: &Quota| format!("{} requests per second, {} at once", quota.requests_per_second, quota.burst);
    let keys = limits.keys.iter().map(|limit| format!("key {}: {}", limit.id, rate(&limit.quota)));
    let others = limits.per_key.iter().map(|quota| format!("each other key: {}", rate(quota)));
    let principals = limits.per_principal.iter().map(|quota| format!("each principal: {}", rate(quota)));
    format!("set the limits of use: {}", keys.chain(others).chain(principals).collect::<Vec<_>>().join("; "))
}

fn use_budgets(budgets: &UseBudgets) -> String {
    let keys = budgets.keys.iter().map(|key| format!("key {}: {}", key.id, BudgetLine::from(key.budget)));
    let others = budgets.every_key.iter().map(|budget| format!("each other key: {}", BudgetLine::from(*budget)));
    format!("set the budgets of use: {}", keys.chain(others).collect::<Vec<_>>().join("; "))
}

fn renewal(order: &AcmeOrder) -> String {
    let sha256 = |root: &DerCertificate| hex::encode(holdfast_shared::sha256(&[&root.0]));
    let sha256 = |roots: &[DerCertificate]| roots.iter().map(sha256).collect::<Vec<_>>().join(", ");
    let contacts = if order.contacts.is_empty() { "nobody".to_owned() } else { order.contacts.join(", ") };
    format!(
        "get and renew certificates until {} from {} (its roots: SHA-256 {}; roots of the certificates: SHA-256 {}; contact: \
         {contacts})",
        format_ms(order.until_ms),
        order.directory,
        sha256(&order.directory_roots),
        sha256(&order.issuing_roots)
    )
}

fn client_authentication(settings: &ClientAuthentication) -> String {
    let sha256 = |authority: &DerCertificate| hex::encode(holdfast_shared::sha256(&[&authority.0]));
    let authorities: Vec<_> = settings.authorities.iter().map(sha256).collect();
    format!(
        "accept only clients with a certificate for {} from authorities with SHA-256 {}",
        settings.subject_common_names.join(", "),
        authorities.join(", ")
    )
}

/// What comes of an order, where that is not plain.
fn effect(action: &Action, manifest: &VerifiedManifest) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    match action {
        Action::DisableKey { .. } => one("no use until it is enabled again; to stop use whatever runs: holdfast block"),
        Action::RotateKey { .. } => one("versions before still decrypt"),
        Action::DestroyKeyVersion { .. } => one("what it encrypted can never be decrypted again"),
        Action::ScheduleKeyDestruction { .. } => {
            one("no use from then on; cancelled by: holdfast key cancel-destruction; then nothing brings it back")
        }
        Action::CancelKeyDestruction { .. } => one("the key is disabled then"),
        Action::DestroyKey { .. } => one(
            "what it encrypted can never be decrypted again; the root key changes, and custodians delete the old shares",
        ),
        Action::RotateRootKey => {
            one("custodians get new shares and delete the old ones; sealed key stores of before stay closed")
        }
        Action::SetRenewal { order: Some(_) } => {
            one("until then any enclave of the key store installs such certificates without a further signature")
        }
        Action::SetPolicy { policy: Some(policy) } => policy.text.lines().map(str::to_owned).collect(),
        Action::SetPolicy { policy: None } => one("whoever AWS KMS lets may use the keys"),
        Action::RemoveCredential { .. } => one("requests that are signed with it are refused"),
        Action::AdoptManifest { signed } => changes(manifest, signed),
        _ => Vec::new(),
    }
}

/// A precondition, empty for none.
#[must_use]
pub fn precondition(precondition: Precondition) -> String {
    match precondition {
        Precondition::None => String::new(),
        Precondition::Version(version) => format!("the key store is at version {version}"),
        Precondition::KeyState(state) => format!("the key is {}", state_name(state)),
    }
}

/// As `--if-state` takes it.
#[must_use]
pub const fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::PendingDestruction => "pending-destruction",
        KeyState::Destroyed => "destroyed",
    }
}

/// Reads a key's state.
///
/// # Errors
/// What the text should have been.
pub fn parse_state(text: &str) -> Result<KeyState, String> {
    let all = [KeyState::Enabled, KeyState::Disabled, KeyState::PendingDestruction, KeyState::Destroyed];
    let found = all.into_iter().find(|state| state_name(*state) == text);
    found.ok_or_else(|| "expected enabled, disabled, pending-destruction or destroyed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_one_name_each() {
        for state in [KeyState::Enabled, KeyState::Disabled, KeyState::PendingDestruction, KeyState::Destroyed] {
            assert_eq!(parse_state(state_name(state)), Ok(state));
        }
        assert!(parse_state("Enabled").is_err() && parse_state("").is_err());
    }
}
