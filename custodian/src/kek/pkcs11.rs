//! A key-encryption key on a PKCS #11 token: AES-256-GCM in the token, from which the key never comes out.
//!
//! ```text
//! call ─ turn (a few at once) ─→ thread for blocking calls ─→ session: an idle one, or a new one
//!        new session: module → token by label → PIN → key by label → attributes
//! ```
//! Guarantees: the key was sensitive and not extractable when its session was opened; a PIN that the token refused is not
//! offered again until its file changes, and none is offered when only one try is left, so that nothing here locks a token;
//! after an error of the session, the token or the module all sessions are given up and opened anew, with pauses that grow.
//! Assumes: the module is the manufacturer's and is loaded into this process, as PKCS #11 has it. Refuses: two tokens or two keys
//! of one label; a token that was to make the initialization vector and did not.

mod errors;
mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use holdfast_shared::secrets::SecretBytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use super::{KekError, KeyEncryptionKey, Pending, Place};
use crate::config::{Pkcs11Config, Pkcs11Iv};
use crate::state;
use errors::{Failure, classify};
use token::{Opened, Token};

/// Sessions at once. Tokens have a bounded number, and a release needs one for some milliseconds.
const SESSIONS_MAX: usize = 4;
/// Bytes of the initialization vector: what GCM is fastest with, and what every token takes (SP 800-38D, section 5.2.1.1).
const IV_LEN: usize = 12;
/// Bits of the tag.
const TAG_BITS: u64 = 128;
/// The first pause after a failure to open the token; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A key on a token.
pub struct Pkcs11Key {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
}

struct Shared {
    config: Pkcs11Config,
    state: Mutex<State>,
}

struct State {
    token: Token,
    idle: Vec<Opened>,
    /// Counts how often all sessions were given up: one that was opened before is not kept.
    generation: u64,
    pause: Option<Pause>,
}

/// The token could not be opened, and is left alone for a moment.
struct Pause {
    until: Instant,
    length: Duration,
    failure: Failure,
}

impl Pkcs11Key {
    /// Names the key, and looks at the file with the PIN. Nothing is loaded before the first call.
    ///
    /// # Errors
    /// [`KekError::File`].
    pub fn open(config: Pkcs11Config) -> Result<Self, KekError> {
        state::read_private(&config.pin_file)?;
        let state = State { token: Token::new(config.clone()), idle: Vec::new(), generation: 0, pause: None };
        let shared = Shared { config, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared), turns: Arc::new(Semaphore::new(SESSIONS_MAX)) })
    }

    /// Makes the key in the token if there is none of its label: AES-256, sensitive, not extractable. True if it was made.
    ///
    /// # Errors
    /// [`KekError`].
    pub async fn create(&self) -> Result<bool, KekError> {
        self.in_turn(|shared| shared.state().token.create_key().map_err(|failure| shared.explain(failure))).await
    }

    /// Runs a call on a thread that may block, a few at once. A call that hangs keeps its turn: it may hold a session.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, KekError> + Send + 'static,
    ) -> Result<T, KekError> {
        let stopping =
            || KekError::Unavailable { what: "the program is stopping".to_owned(), remedy: "start it".to_owned() };
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| stopping())?;
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&shared);
            drop(turn);
            result
        });
        task.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl KeyEncryptionKey for Pkcs11Key {
    fn place(&self) -> Place {
        Place::Pkcs11
    }

    fn describe(&self) -> String {
        let Pkcs11Config { module, token, key, .. } = &self.shared.config;
        format!("pkcs11 key {key:?} on token {token:?} ({})", module.display())
    }

    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>> {
        let (aad, secret) = (aad.to_vec(), SecretBytes::new(secret.to_vec()));
        Box::pin(self.in_turn(move |shared| shared.wrap(&aad, &secret)))
    }

    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes> {
        let (aad, wrapped) = (aad.to_vec(), wrapped.to_vec());
        Box::pin(self.in_turn(move |shared| shared.unwrap(&aad, &wrapped)))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, failure: Failure) -> KekError {
        failure.explain(&self.config)
    }

    fn wrap(&self, aad: &[u8], secret: &SecretBytes) -> Result<Vec<u8>, KekError> {
        self.with_session(|opened| self.encrypt(opened, aad, secret.expose())).map_err(|failure| self.explain(failure))
    }

    fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let (iv, ciphertext) = wrapped.split_first_chunk::<IV_LEN>().ok_or(KekError::OpenFailed)?;
        self.with_session(|opened| {
            decrypt(opened, *iv, aad, ciphertext).map_err(|failure| match failure {
                // A token may say "general error" of a wrong tag; one that still works says so of this secret only.
                Failure::Session(_) if self.works(opened) => Failure::OpenFailed,
                other => other,
            })
        })
        .map_err(|failure| self.explain(failure))
    }

    fn encrypt(&self, opened: &Opened, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut iv = [0; IV_LEN];
        if self.config.iv == Pkcs11Iv::Random {
            SystemRandom::new().fill(&mut iv).map_err(|_| Failure::Random)?;
        }
        let offered = iv;
        let ciphertext = {
            let params = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(|error| classify(&error))?;
            opened.session.encrypt(&Mechanism::AesGcm(params), opened.key, secret).map_err(|error| classify(&error))?
        };
        // All zeros again and again would give the key away: such a ciphertext goes nowhere.
        match self.config.iv {
            Pkcs11Iv::Token if iv == offered => return Err(Failure::NoIv),
            Pkcs11Iv::Random if iv != offered => return Err(Failure::OwnIv),
            _ => {}
        }
        // A token that puts more behind the tag than the tag would not open it again.
        if ciphertext.len() != secret.len().saturating_add(16) {
            return Err(Failure::Shape);
        }
        Ok([iv.as_slice(), &ciphertext].concat())
    }

    fn works(&self, opened: &Opened) -> bool {
        let probe = [0x5A; 16];
        let wrapped = self.encrypt(opened, b"probe", &probe).ok();
        let back = wrapped.as_deref().and_then(|wrapped| {
            let (iv, ciphertext) = wrapped.split_first_chunk::<IV_LEN>()?;
            decrypt(opened, *iv, b"probe", ciphertext).ok()
        });
        back.is_some_and(|back| back.expose() == probe)
    }

    /// Runs `work` in a session; once more in a new one if the session was lost, as when a token was away for a moment.
    fn with_session<T>(&self, work: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T, Failure> {
        for last in [false, true] {
            let (opened, generation) = self.take()?;
            match work(&opened) {
                Err(Failure::Session(error)) => {
                    drop(opened);
                    self.give_up();
                    tracing::debug!("PKCS #11 session given up: {error}");
                    if last {
                        return Err(self.pause(Failure::Session(error)));
                    }
                }
                result => {
                    self.put_back(opened, generation);
                    return result;
                }
            }
        }
        Err(Failure::Session("no session".to_owned()))
    }

    /// An idle session, or a new one.
    fn take(&self) -> Result<(Opened, u64), Failure> {
        let mut state = self.state();
        let generation = state.generation;
        if let Some(opened) = state.idle.pop() {
            return Ok((opened, generation));
        }
        if let Some(pause) = &state.pause
            && Instant::now() < pause.until
        {
            return Err(pause.failure.clone());
        }
        match state.token.open() {
            Ok(opened) => {
                state.pause = None;
                Ok((opened, generation))
            }
            Err(failure) => {
                drop(state);
                self.give_up();
                Err(self.pause(failure))
            }
        }
    }

    fn put_back(&self, opened: Opened, generation: u64) {
        let mut state = self.state();
        if state.generation == generation && state.idle.len() < SESSIONS_MAX {
            state.idle.push(opened);
        }
    }

    /// Gives up every session and, once none is in use, the module's state: some see a token come back only then.
    fn give_up(&self) {
        let mut state = self.state();
        state.generation = state.generation.saturating_add(1);
        state.idle.clear();
        state.token.reload();
    }

    /// Leaves the token alone for a while.
    fn pause(&self, failure: Failure) -> Failure {
        let mut state = self.state();
        let length = state.pause.as_ref().map_or(PAUSE_MIN, |pause| pause.length.saturating_mul(2).min(PAUSE_MAX));
        let until = Instant::now().checked_add(length).unwrap_or_else(Instant::now);
        state.pause = Some(Pause { until, length, failure: failure.clone() });
        failure
    }
}

fn decrypt(opened: &Opened, mut iv: [u8; IV_LEN], aad: &[u8], ciphertext: &[u8]) -> Result<SecretBytes, Failure> {
    let params = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(|error| classify(&error))?;
    let plaintext =
        opened.session.decrypt(&Mechanism::AesGcm(params), opened.key, ciphertext).map_err(|error| classify(&error))?;
    Ok(SecretBytes::new(plaintext))
}
