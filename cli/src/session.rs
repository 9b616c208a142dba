//! One administrator's conversation with one key store's home custodian: sign, send, wait, open, verify.
//!
//! Guarantees: whatever is returned was signed by the custodian for this very query, and an outcome was made by an enclave that
//! the manifest accepts, for this very command. Assumes: the system clock is within five minutes of the custodian's. Refuses:
//! outcomes without valid evidence, however plausible.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_shared::block::{self, BlockError, BlockOverlay};
use holdfast_shared::cbor::{self, DecodeError};
use holdfast_shared::command::{self, Action, Command, CommandError, Outcome, Precondition, SealedResult};
use holdfast_shared::ids::CommandId;
use holdfast_shared::manifest::Custodian;
use holdfast_shared::query::{self, Answer, KeyStoreStatus, Query, QueryError, Question, ResultState};
use holdfast_shared::signature::SignatureError;
use holdfast_shared::{api, labels, limits};
use ring::rand::{SecureRandom, SystemRandom};

use crate::evidence::{self, EVIDENCE_AGE_MAX_MS, Evidence, EvidenceError};
use crate::files;
use crate::home::{AdministratorKeys, Home, HomeError, KeyStore};
use crate::moment;
use crate::output::{printable, tell};

/// Longest time for one exchange with a custodian.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer to a command or a block overlay: it is empty.
const EMPTY_ANSWER_MAX: usize = 1024;
/// Bytes of an answer to a query: at most as many leases with their documents as a custodian grants.
const ANSWER_MAX: usize = limits::CHANNEL_MESSAGE_MAX;
/// How long a command stays valid: long enough for an enclave that is being restarted, short enough to be forgotten.
const COMMAND_LIFE_MS: u64 = 24 * 3_600_000;
/// First and longest pause between two looks at a result.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long nothing is said about waiting.
const QUIET: Duration = Duration::from_secs(1);

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The keys or the manifest.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The custodian cannot be reached, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is not the custodian's.
    #[error("the custodian's answer is refused: {0}")]
    Query(#[from] QueryError),
    /// The answer is to another question.
    #[error("the custodian answered another question than the one it was asked")]
    OtherAnswer,
    /// A command or a result breaks a rule.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A result that is not what it claims.
    #[error("the result is refused: {0}")]
    Decode(#[from] DecodeError),
    /// A result that no accepted enclave vouches for.
    #[error("the result is refused: {0}")]
    Evidence(#[from] EvidenceError),
    /// The custodian's block overlay is not signed by administrators.
    #[error("the custodian's answer is refused: {0}")]
    Block(#[from] BlockError),
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Signature(#[from] SignatureError),
    /// The key does not belong to an administrator of this key store.
    #[error(
        "the administrator {name} of this folder is not an administrator of the key store {key_store}; use the --home of one who is"
    )]
    NotAdministrator {
        /// Whose keys these are.
        name: String,
        /// The key store's name.
        key_store: String,
    },
    /// The key store needs what this version does not have.
    #[error(
        "this version of the tool supports one administrator's signature; this key store demands more for that order"
    )]
    MoreSignatures,
    /// The custodian does not know the command.
    #[error("the custodian does not know the command {0} (any more): it was never sent there, or it expired")]
    UnknownCommand(CommandId),
    /// No enclave has dealt with the command in time.
    #[error(
        "no enclave has carried out the command {command_id} within {seconds} s; it stays queued for a day: look again with: holdfast command result {command_id}"
    )]
    Timeout {
        /// The command.
        command_id: CommandId,
        /// How long was waited.
        seconds: u64,
    },
    /// The ceremony has not taken place in time.
    #[error(
        "there was no ceremony within {seconds} s, so there is no credential yet: start an enclave with this manifest, then try again"
    )]
    NoCeremony {
        /// How long was waited.
        seconds: u64,
    },
    /// The conversation broke off after the command was sent.
    #[error(
        "{source}; the command {command_id} may have arrived, so do not repeat it: see what came of it with: holdfast command result {command_id}"
    )]
    Undecided {
        /// The command.
        command_id: CommandId,
        /// Why it broke off.
        source: ClientError,
    },
    /// The enclave said no.
    #[error("the enclave refused: {0}")]
    Refused(String),
    /// The enclave answered something else than the command asks for.
    #[error("the enclave answered with something else than the command asks for")]
    OtherOutcome,
    /// Nobody but the custodian can say that an overlay is in force, and it did not.
    #[error(
        "the custodian does not confirm the block overlay of epoch {ordered}: it shows {shown} as the one in force; what was ordered may not be in force: see holdfast status, and order it again"
    )]
    Unconfirmed {
        /// The epoch of the overlay that was sent.
        ordered: u64,
        /// The epoch that the custodian shows, 0 for none.
        shown: u64,
    },
    /// No lease that could take a credential.
    #[error("no enclave holds a lease, so there is none to encrypt the credential to; start one and try again")]
    NoLease,
}

/// How long to wait for an enclave, and whom to tell.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    /// At most this long.
    pub timeout: Duration,
    /// Receives a line now and then.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

impl Wait<'_> {
    /// Without telling anybody.
    #[must_use]
    pub const fn silent(timeout: Duration) -> Self {
        Wait { timeout, progress: &|_| {} }
    }
}

/// A command that was dealt with, and the proof that an accepted enclave did.
#[derive(Debug)]
pub struct Completed {
    /// The command.
    pub command_id: CommandId,
    /// What came of it. Never [`Outcome::Refused`], which is an error here.
    pub outcome: Outcome,
    /// Who says so.
    pub evidence: Evidence,
}

/// A conversation.
pub struct Session {
    keys: AdministratorKeys,
    store: KeyStore,
    custodian: Custodian,
    client: CustodianClient<Tcp>,
    overlay_file: PathBuf,
    rng: SystemRandom,
}

impl Session {
    /// Prepares a conversation about the key store `named` (none: the only one known). Nothing is sent yet.
    ///
    /// # Errors
    /// Missing keys or manifest, or keys that do not belong to the key store.
    pub fn open(home: &Home, named: Option<&str>) -> Result<Self, SessionError> {
        Self::about(home, home.key_store(named)?)
    }

    /// Prepares a conversation about `store`.
    ///
    /// # Errors
    /// Missing keys, or keys that do not belong to the key store.
    pub fn about(home: &Home, store: KeyStore) -> Result<Self, SessionError> {
        let keys = home.administrator()?;
        let manifest = store.manifest.manifest();
        if !manifest.administrators.contains(&keys.administrator) {
            let (name, key_store) = (keys.administrator.name, manifest.name.clone());
            return Err(SessionError::NotAdministrator { name, key_store });
        }
        let custodian = store.manifest.home_custodian().ok_or(HomeError::NoKeyStore)?.clone();
        let client = CustodianClient::new(Tcp, &custodian)?;
        let overlay_file = home.overlay_file(store.manifest.id());
        Ok(Self { keys, store, custodian, client, overlay_file, rng: SystemRandom::new() })
    }

    /// The key store.
    #[must_use]
    pub const fn store(&self) -> &KeyStore {
        &self.store
    }

    /// The home custodian.
    #[must_use]
    pub const fn custodian(&self) -> &Custodian {
        &self.custodian
    }

    /// Sends the signed manifest to the custodian, which then waits for a ceremony.
    ///
    /// # Errors
    /// [`SessionError::Client`].
    pub async fn enrol(&self) -> Result<(), SessionError> {
        self.send(api::MANIFESTS, self.store.manifest.signed_bytes().to_vec()).await
    }

    /// A fresh id for a command.
    ///
    /// # Errors
    /// [`SessionError::Signature`] when there is no randomness.
    pub fn new_command_id(&self) -> Result<CommandId, SessionError> {
        self.random().map(CommandId)
    }

    /// Signs and sends `action`, waits until an enclave has dealt with it, and verifies the outcome.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn order(&self, action: Action, wait: Wait<'_>) -> Result<Completed, SessionError> {
        self.order_as(self.new_command_id()?, action, wait).await
    }

    /// Like [`Session::order`] with an id that `action` is bound to already.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn order_as(
        &self,
        command_id: CommandId,
        action: Action,
        wait: Wait<'_>,
    ) -> Result<Completed, SessionError> {
        if action.threshold(&self.store.manifest.manifest().thresholds) > 1 {
            return Err(SessionError::MoreSignatures);
        }
        let issued_ms = moment::now_ms();
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.store.manifest.id(),
            command_id,
            issued_ms,
            expires_ms: issued_ms.saturating_add(COMMAND_LIFE_MS),
            precondition: Precondition::None,
            action,
        };
        let envelope = command::sign(&command, &self.keys.signing_key, &self.rng)?;
        let sent = self.send(api::COMMANDS, cbor::encode(&envelope).to_vec()).await;
        sent.map_err(|error| match error {
            SessionError::Client(source @ (ClientError::Http { .. } | ClientError::Timeout { .. })) => {
                SessionError::Undecided { command_id, source }
            }
            error => error,
        })?;
        let sealed = self.wait_for(command_id, wait).await.map_err(|error| match error {
            SessionError::Client(source) => SessionError::Undecided { command_id, source },
            error => error,
        })?;
        // Nothing about this command can have been attested before it was signed.
        self.open_result(&sealed, command_id, moment::now_ms().saturating_sub(issued_ms))
    }

    /// What came of a command that was ordered earlier, or of the ceremony.
    ///
    /// # Errors
    /// [`SessionError::UnknownCommand`], [`SessionError::Timeout`], or a result that is refused.
    pub async fn result_of(&self, command_id: CommandId, wait: Wait<'_>) -> Result<Completed, SessionError> {
        let sealed = self.wait_for(command_id, wait).await?;
        self.open_result(&sealed, command_id, EVIDENCE_AGE_MAX_MS)
    }

    /// Waits for the end of the ceremony and returns its result: the first credential. A ceremony is no command of this
    /// administrator's, so the custodian does not know it before it has ended.
    ///
    /// # Errors
    /// [`SessionError::NoCeremony`], or a result that is refused.
    pub async fn ceremony(&self, wait: Wait<'_>) -> Result<Completed, SessionError> {
        let command_id = command::ceremony_id(self.store.manifest.id());
        let mut patience = Patience::new(wait);
        let sealed = loop {
            match self.result_state(command_id).await? {
                ResultState::Ready(sealed) => break sealed,
                ResultState::Unknown | ResultState::Pending => {
                    patience.pause(command_id, "the ceremony").await.map_err(|error| match error {
                        SessionError::Timeout { seconds, .. } => SessionError::NoCeremony { seconds },
                        error => error,
                    })?;
                }
            }
        };
        self.open_result(&sealed, command_id, EVIDENCE_AGE_MAX_MS)
    }

    async fn wait_for(&self, command_id: CommandId, wait: Wait<'_>) -> Result<SealedResult, SessionError> {
        let mut patience = Patience::new(wait);
        loop {
            match self.result_state(command_id).await? {
                ResultState::Ready(sealed) => return Ok(sealed),
                ResultState::Unknown => return Err(SessionError::UnknownCommand(command_id)),
                ResultState::Pending => patience.pause(command_id, "an enclave").await?,
            }
        }
    }

    fn open_result(
        &self,
        sealed: &SealedResult,
        command_id: CommandId,
        max_age_ms: u64,
    ) -> Result<Completed, SessionError> {
        let key_store_id = self.store.manifest.id();
        let own_id = self.keys.administrator.id();
        let content = command::open_result(sealed, key_store_id, command_id, own_id, &self.keys.encryption_key)?;
        let outcome = content.outcome.expose();
        let evidence =
            evidence::of_result(&content.document, outcome, &self.store, command_id, max_age_ms, moment::now_ms())?;
        match cbor::decode(outcome)? {
            Outcome::Refused { reason } => Err(SessionError::Refused(printable(&reason))),
            outcome => Ok(Completed { command_id, outcome, evidence }),
        }
    }

    async fn result_state(&self, command_id: CommandId) -> Result<ResultState, SessionError> {
        match self.ask(Question::Result(command_id)).await? {
            Answer::Result(state) => Ok(state),
            _ => Err(SessionError::OtherAnswer),
        }
    }

    /// The custodian's view of the key store.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn status(&self) -> Result<KeyStoreStatus, SessionError> {
        match self.ask(Question::Status).await? {
            Answer::Status(status) => Ok(status),
            _ => Err(SessionError::OtherAnswer),
        }
    }

    /// The block overlay in force, with its signatures verified.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn overlay(&self) -> Result<Option<BlockOverlay>, SessionError> {
        let Answer::Overlay { overlay } = self.ask(Question::Overlay).await? else {
            return Err(SessionError::OtherAnswer);
        };
        let Some(signed) = overlay else { return Ok(None) };
        let overlay = self.open_overlay(&signed)?;
        self.note_overlay(&overlay, &signed);
        Ok(Some(overlay))
    }

    /// The newest block overlay that was signed or seen with this folder.
    #[must_use]
    pub fn known_overlay(&self) -> Option<BlockOverlay> {
        // One that cannot be read is as none: a damaged note must not stand in the way of a block.
        let signed = files::read(&self.overlay_file, limits::BLOCK_OVERLAY_MAX).ok()?;
        self.open_overlay(&signed).ok()
    }

    fn open_overlay(&self, signed: &[u8]) -> Result<BlockOverlay, BlockError> {
        block::open_under(signed, &self.store.manifest, None)
    }

    fn note_overlay(&self, overlay: &BlockOverlay, signed: &[u8]) {
        if self.known_overlay().is_some_and(|known| known.epoch >= overlay.epoch) {
            return;
        }
        if let Err(error) = files::replace(&self.overlay_file, signed) {
            tell(&format!("holdfast: the block overlay is not noted here: {error}"));
        }
    }

    /// Signs an overlay and sends it; when this returns, the custodian has said under its signature that exactly this is in force. The
    /// empty answer to the overlay itself is worth no more than the TLS connection that it came over.
    ///
    /// # Errors
    /// [`SessionError`]; [`SessionError::Unconfirmed`] also when another administrator's overlay replaced it in between.
    pub async fn put_overlay(&self, overlay: &BlockOverlay) -> Result<(), SessionError> {
        let envelope = block::sign(overlay, &self.keys.signing_key, &self.rng)?;
        let signed = cbor::encode(&envelope).to_vec();
        // Before it is sent: an answer that is lost does not unsign it.
        self.note_overlay(overlay, &signed);
        self.send(api::BLOCKS, signed).await?;
        let shown = self.overlay().await?;
        if shown.as_ref() == Some(overlay) {
            return Ok(());
        }
        Err(SessionError::Unconfirmed { ordered: overlay.epoch, shown: shown.map_or(0, |shown| shown.epoch) })
    }

    async fn ask(&self, question: Question) -> Result<Answer, SessionError> {
        let query = Query {
            label: labels::QUERY.to_owned(),
            key_store_id: self.store.manifest.id(),
            custodian_id: self.custodian.id(),
            nonce: self.random()?,
            issued_ms: moment::now_ms(),
            question,
        };
        let signed = query::sign(&query, &self.keys.signing_key, &self.rng)?;
        let answer = self.client.post(api::QUERIES, signed, ANSWER_MAX, EXCHANGE_TIMEOUT).await?;
        Ok(query::open_answer(&answer, &query, &self.custodian.signing_key)?)
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<(), SessionError> {
        self.client.post(path, body, EMPTY_ANSWER_MAX, EXCHANGE_TIMEOUT).await?;
        Ok(())
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], SessionError> {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes).map_err(|_| SignatureError::SigningFailed)?;
        Ok(bytes)
    }
}

/// Pauses that grow, a deadline, and a line for people once it takes longer than a moment.
struct Patience<'a> {
    wait: Wait<'a>,
    started: Instant,
    pause: Duration,
    said: Option<Instant>,
}

impl<'a> Patience<'a> {
    fn new(wait: Wait<'a>) -> Self {
        Self { wait, started: Instant::now(), pause: POLL.0, said: None }
    }

    async fn pause(&mut self, command_id: CommandId, whom: &str) -> Result<(), SessionError> {
        let waited = self.started.elapsed();
        let Some(left) = self.wait.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(SessionError::Timeout { command_id, seconds: self.wait.timeout.as_secs() });
        };
        if waited >= QUIET && self.said.is_none_or(|said| said.elapsed() >= Duration::from_secs(10)) {
            self.said = Some(Instant::now());
            let (waited, timeout) = (waited.as_secs(), self.wait.timeout.as_secs());
            (self.wait.progress)(&format!("waiting for {whom} ({waited} s of at most {timeout} s)"));
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = self.pause.saturating_mul(3).checked_div(2).unwrap_or(POLL.1).min(POLL.1);
        Ok(())
    }
}
