//! The emulated device: one hierarchy, any number of enclaves.
//!
//! Guarantees: an [`EmulatedDevice`] answers as the NSM of one enclave would; [`Emulator::boot`] starts another enclave
//! with fresh registers. Assumes: nobody trusts its root but for development. Refuses: what the device refuses, with the
//! device's error codes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{Digest, ErrorCode, Request, Response};
use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::attestation::measurements::PCR_LEN;
use ring::rand::{SecureRandom, SystemRandom};

use super::NsmError;
use super::bank::{PCR_COUNT, PcrBank};
use super::chain::{EmulatedChain, millis};
use super::document::DocumentBuilder;
use super::root::EmulatedRoot;
use super::settings::{Fault, Settings, SettingsChange, SettingsError};
use super::signer::UnsignedDocument;

/// Bytes of `user_data`, `nonce` and `public_key` each (section 6 of the design).
pub const FIELD_MAX: usize = 1024;
/// Bytes of one answer to `GetRandom`.
pub const RANDOM_LEN: usize = 256;
/// Version that the emulator says it has: that of the devices in service.
const VERSION: (u16, u16, u16) = (1, 0, 0);

/// A device for any number of enclaves, all under one root.
#[derive(Clone)]
pub struct Emulator(Arc<Mutex<State>>);

struct State {
    settings: Settings,
    measured: BTreeMap<u8, [u8; PCR_LEN]>,
    root: EmulatedRoot,
    chain: Option<EmulatedChain>,
    /// For [`Fault::WrongRoot`].
    foreign: Option<(EmulatedRoot, EmulatedChain)>,
}

/// The device as one enclave sees it.
pub struct EmulatedDevice {
    emulator: Emulator,
    module_id: String,
    bank: PcrBank,
}

impl Emulator {
    /// A device under this root.
    ///
    /// # Errors
    /// A setting is refused.
    pub fn new(root: EmulatedRoot, settings: Settings) -> Result<Self, NsmError> {
        settings.check()?;
        Ok(Self(Arc::new(Mutex::new(State {
            measured: settings.boot_pcrs()?,
            settings,
            root,
            chain: None,
            foreign: None,
        }))))
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Changes settings; see [`Settings`] for what counts at once.
    ///
    /// # Errors
    /// The first value that is refused; nothing changed then.
    pub fn change(&self, change: SettingsChange) -> Result<Settings, SettingsError> {
        let mut state = self.state();
        let changed = state.settings.changed(change)?;
        state.measured = changed.boot_pcrs()?;
        state.settings = changed.clone();
        Ok(changed)
    }

    /// What a verifier of this emulator's documents trusts.
    ///
    /// # Errors
    /// Never for a root that this crate made.
    pub fn trust_root(&self) -> Result<TrustRoot, NsmError> {
        self.state().root.trust_root()
    }

    /// Starts another enclave.
    pub fn boot(&self) -> EmulatedDevice {
        let state = self.state();
        EmulatedDevice {
            emulator: self.clone(),
            module_id: state.settings.module_id.clone(),
            bank: PcrBank::boot(&state.measured),
        }
    }

    /// Signs the unsigned document of a virtual machine's NSM; see [`super::signer`].
    ///
    /// # Errors
    /// It has another form, or a certificate could not be made.
    pub fn sign(&self, document: &[u8]) -> Result<Vec<u8>, NsmError> {
        let unsigned = UnsignedDocument::read(document)?;
        unsigned.onto(self.state().document(unsigned.module_id)?).build()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The device's time, in milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since_1970).saturating_add_signed(self.settings.time_offset_ms)
    }

    /// A good document of this enclave.
    fn document(&mut self, module_id: &str) -> Result<DocumentBuilder, NsmError> {
        let now_ms = self.now_ms();
        if self.settings.faults.contains(&Fault::WrongRoot) {
            if self.foreign.is_none() {
                let root = EmulatedRoot::generate()?;
                let chain = EmulatedChain::standard(&root, module_id, now_ms)?;
                self.foreign = Some((root, chain));
            }
            if let Some((root, chain)) = &mut self.foreign {
                chain.refresh(root, module_id, now_ms)?;
                return Ok(DocumentBuilder::new(chain, module_id, now_ms));
            }
        }
        let mut chain = match self.chain.take() {
            Some(chain) => chain,
            None => EmulatedChain::standard(&self.root, module_id, now_ms)?,
        };
        chain.refresh(&self.root, module_id, now_ms)?;
        let document = DocumentBuilder::new(&chain, module_id, now_ms);
        self.chain = Some(chain);
        Ok(document)
    }

    /// The document with everything done to it that was asked for.
    fn faulty(&self, mut document: DocumentBuilder, nonce: Option<&[u8]>) -> Result<Vec<u8>, NsmError> {
        let now_ms = self.now_ms();
        let dated = |at_ms| super::document::unsigned(at_ms);
        for fault in &self.settings.faults {
            document = match fault {
                Fault::StaleTimestamp(by_ms) => document.field("timestamp", dated(now_ms.saturating_sub(*by_ms))),
                Fault::FutureTimestamp(by_ms) => document.field("timestamp", dated(now_ms.saturating_add(*by_ms))),
                Fault::ForeignNonce => {
                    let mut foreign = nonce.unwrap_or(&[0]).to_vec();
                    if let Some(byte) = foreign.first_mut() {
                        *byte ^= 1;
                    }
                    document.nonce(Some(&foreign))
                }
                Fault::NoDigest => document.without("digest"),
                Fault::Unsigned => document.protected(&[0xa1, 0x01, 0x20]).signature(&[0; 64]),
                Fault::FlipSignatureBit | Fault::WrongRoot | Fault::DropResponse | Fault::Error(_) => document,
            };
        }
        let mut bytes = document.build()?;
        if self.settings.faults.contains(&Fault::FlipSignatureBit)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        Ok(bytes)
    }
}

impl EmulatedDevice {
    /// Carries out one request; a dropped answer is an internal error, as a client would see it.
    pub fn process_request(&mut self, request: Request) -> Response {
        self.answer(request).unwrap_or(Response::Error(ErrorCode::InternalError))
    }

    /// Carries out one request; `None` where the settings ask for no answer.
    pub(super) fn answer(&mut self, request: Request) -> Option<Response> {
        for fault in &self.emulator.state().settings.faults {
            match fault {
                Fault::DropResponse => return None,
                Fault::Error(name) => return Some(Response::Error((*name).into())),
                _ => {}
            }
        }
        Some(self.respond(request).unwrap_or_else(Response::Error))
    }

    fn respond(&mut self, request: Request) -> Result<Response, ErrorCode> {
        match request {
            Request::DescribeNSM => Ok(self.describe()),
            Request::DescribePCR { index } => {
                let (lock, value) = self.bank.describe(index)?;
                let data = value.to_vec();
                Ok(Response::DescribePCR { lock, data })
            }
            Request::ExtendPCR { index, data } => {
                let data = self.bank.extend(index, &data)?.to_vec();
                Ok(Response::ExtendPCR { data })
            }
            Request::LockPCR { index } => self.bank.lock(index).map(|()| Response::LockPCR),
            Request::LockPCRs { range } => self.bank.lock_range(range).map(|()| Response::LockPCRs),
            Request::Attestation { user_data, nonce, public_key } => self.attest(
                user_data.as_ref().map(AsRef::as_ref),
                nonce.as_ref().map(AsRef::as_ref),
                public_key.as_ref().map(AsRef::as_ref),
            ),
            Request::GetRandom => {
                let mut random = vec![0; RANDOM_LEN];
                SystemRandom::new().fill(&mut random).map_err(|_| ErrorCode::InternalError)?;
                Ok(Response::GetRandom { random })
            }
            _ => Err(ErrorCode::InvalidOperation),
        }
    }

    fn describe(&self) -> Response {
        let (version_major, version_minor, version_patch) = VERSION;
        Response::DescribeNSM {
            version_major,
            version_minor,
            version_patch,
            module_id: self.module_id.clone(),
            max_pcrs: u16::from(PCR_COUNT),
            locked_pcrs: self.bank.locked(),
            digest: Digest::SHA384,
        }
    }

    fn attest(
        &mut self,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
        public_key: Option<&[u8]>,
    ) -> Result<Response, ErrorCode> {
        let fields = [user_data, nonce, public_key];
        if fields.into_iter().flatten().any(|field| field.len() > FIELD_MAX) {
            return Err(ErrorCode::InputTooLarge);
        }
        let mut state = self.emulator.state();
        let mut pcrs = self.bank.attested();
        if state.settings.debug_mode {
            for value in pcrs.values_mut() {
                *value = [0; PCR_LEN];
            }
        }
        let document = state.document(&self.module_id).and_then(|document| {
            let document = document.pcrs(&pcrs).user_data(user_data).nonce(nonce).public_key(public_key);
            state.faulty(document, nonce)
        });
        let document = document.map_err(|_| ErrorCode::InternalError)?;
        Ok(Response::Attestation { document })
    }
}
