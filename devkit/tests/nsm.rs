//! The emulator keeps the device's rules, and its documents pass the verifier.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{Digest, ErrorCode, Request, Response};
use holdfast_devkit::nsm::root::{ROOT_FILE, ROOT_KEY_FILE};
use holdfast_devkit::nsm::settings::DEFAULT_MODULE_ID;
use holdfast_devkit::nsm::{
    EmulatedDevice, EmulatedNsm, EmulatedRoot, Emulator, ErrorName, Fault, NsmConfig, NsmError, NsmServer, PcrSource,
    Settings, SettingsChange, change_settings, serve,
};
use holdfast_devkit::unix_socket::BindError;
use holdfast_shared::attestation::{
    AppraisalError, CertificateError, Expectations, Expected, Measurements, ParseError, ParsedDocument, Position,
    TrustRoot, VerifiedAttestation, VerifyError, extend_pcr, inspect, pcr_of_content,
};
use serde_bytes::ByteBuf;
use tokio::sync::oneshot;

const NONCE: &[u8] = b"nonce";

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn emulator(settings: Settings) -> Emulator {
    Emulator::new(EmulatedRoot::generate().unwrap(), settings).unwrap()
}

fn measured() -> Settings {
    let content = |text: &str| PcrSource::Content(text.to_owned());
    Settings {
        pcrs: BTreeMap::from([(0, content("image")), (1, content("kernel")), (2, content("application"))]),
        ..Settings::default()
    }
}

fn attestation(nonce: Option<&[u8]>) -> Request {
    Request::Attestation {
        user_data: Some(ByteBuf::from(b"user data")),
        nonce: nonce.map(ByteBuf::from),
        public_key: Some(ByteBuf::from(b"public key")),
    }
}

fn document(response: Response) -> Vec<u8> {
    match response {
        Response::Attestation { document } => document,
        other => panic!("no document: {other:?}"),
    }
}

fn attest(device: &mut EmulatedDevice) -> Vec<u8> {
    document(device.process_request(attestation(Some(NONCE))))
}

/// An answer in a form that can be compared; the NSM's types cannot.
fn shown(response: &Response) -> String {
    format!("{response:?}")
}

fn error(code: ErrorCode) -> String {
    shown(&Response::Error(code))
}

fn appraise(
    document: &[u8],
    trust: &TrustRoot,
    accepted: &[Measurements],
) -> Result<VerifiedAttestation, AppraisalError> {
    let expected = Expectations {
        nonce: NONCE,
        max_age_ms: 60_000,
        accepted,
        user_data: Expected::Exactly(b"user data"),
        public_key: Expected::Exactly(b"public key"),
    };
    let now_ms = now_ms();
    ParsedDocument::parse(document).unwrap().verify(trust, now_ms).unwrap().appraise(&expected, now_ms)
}

// --- The device's rules ---------------------------------------------------------------------------------------------------

#[test]
fn registers_follow_the_devices_rules() {
    let zero = [0; 48];
    let extended = extend_pcr(zero, b"data");
    let described = |lock, data: [u8; 48]| shown(&Response::DescribePCR { lock, data: data.to_vec() });
    let steps: [(Request, String); 23] = [
        (Request::DescribePCR { index: 0 }, described(true, pcr_of_content(b"image"))),
        (Request::DescribePCR { index: 3 }, described(true, zero)),
        (Request::DescribePCR { index: 15 }, described(true, zero)),
        (Request::DescribePCR { index: 16 }, described(false, zero)),
        (Request::DescribePCR { index: 31 }, described(false, zero)),
        (Request::DescribePCR { index: 32 }, error(ErrorCode::InvalidIndex)),
        (Request::DescribePCR { index: u16::MAX }, error(ErrorCode::InvalidIndex)),
        (Request::ExtendPCR { index: 0, data: vec![1] }, error(ErrorCode::ReadOnlyIndex)),
        (Request::ExtendPCR { index: 15, data: vec![1] }, error(ErrorCode::ReadOnlyIndex)),
        (Request::ExtendPCR { index: 32, data: vec![1] }, error(ErrorCode::InvalidIndex)),
        (Request::ExtendPCR { index: 256, data: vec![1] }, error(ErrorCode::InvalidIndex)),
        (
            Request::ExtendPCR { index: 16, data: b"data".to_vec() },
            shown(&Response::ExtendPCR { data: extended.to_vec() }),
        ),
        (Request::DescribePCR { index: 16 }, described(false, extended)),
        (Request::LockPCR { index: 16 }, shown(&Response::LockPCR)),
        (Request::LockPCR { index: 16 }, error(ErrorCode::ReadOnlyIndex)),
        (Request::LockPCR { index: 32 }, error(ErrorCode::InvalidIndex)),
        (Request::LockPCR { index: 0 }, error(ErrorCode::ReadOnlyIndex)),
        (Request::ExtendPCR { index: 16, data: b"more".to_vec() }, error(ErrorCode::ReadOnlyIndex)),
        (Request::LockPCRs { range: 33 }, error(ErrorCode::InvalidIndex)),
        (Request::LockPCRs { range: 20 }, shown(&Response::LockPCRs)),
        (Request::ExtendPCR { index: 19, data: vec![1] }, error(ErrorCode::ReadOnlyIndex)),
        (Request::DescribePCR { index: 20 }, described(false, zero)),
        (Request::LockPCRs { range: 32 }, shown(&Response::LockPCRs)),
    ];
    let mut device = emulator(measured()).boot();
    for (number, (request, expected)) in steps.into_iter().enumerate() {
        let name = format!("step {number}: {request:?}");
        assert_eq!(shown(&device.process_request(request)), expected, "{name}");
    }
}

#[test]
fn the_device_describes_itself() {
    let mut device = emulator(measured()).boot();
    device.process_request(Request::LockPCR { index: 17 });
    let Response::DescribeNSM { module_id, max_pcrs, locked_pcrs, digest, version_major, .. } =
        device.process_request(Request::DescribeNSM)
    else {
        panic!("no description");
    };
    assert_eq!((module_id.as_str(), max_pcrs, version_major), (DEFAULT_MODULE_ID, 32, 1));
    assert_eq!(digest, Digest::SHA384);
    assert_eq!(locked_pcrs, (0..16).chain([17]).collect());
}

#[test]
fn random_bytes_are_256_and_differ() {
    let mut device = emulator(measured()).boot();
    let mut draw = || match device.process_request(Request::GetRandom) {
        Response::GetRandom { random } => random,
        other => panic!("no random bytes: {other:?}"),
    };
    let (first, second) = (draw(), draw());
    assert_eq!((first.len(), second.len()), (256, 256));
    assert_ne!(first, second);
}

#[test]
fn fields_are_bounded() {
    let mut device = emulator(measured()).boot();
    let field = |len: usize| Some(ByteBuf::from(vec![7; len]));
    for (user_data, nonce, public_key, fits) in [
        (None, None, None, true),
        (field(1024), field(1024), field(1024), true),
        (field(1025), None, None, false),
        (None, field(1025), None, false),
        (None, None, field(1025), false),
    ] {
        let answer = device.process_request(Request::Attestation { user_data, nonce, public_key });
        if fits {
            ParsedDocument::parse(&document(answer)).unwrap();
        } else {
            assert_eq!(shown(&answer), error(ErrorCode::InputTooLarge));
        }
    }
}

// --- Documents ------------------------------------------------------------------------------------------------------------

#[test]
fn register_16_is_attested_once_it_is_locked() {
    let emulator = emulator(measured());
    let trust = emulator.trust_root().unwrap();
    let accepted = [Measurements {
        pcr0: pcr_of_content(b"image"),
        pcr1: pcr_of_content(b"kernel"),
        pcr2: pcr_of_content(b"application"),
        pcr16: pcr_of_content(b"configuration"),
        pcr3: None,
        pcr4: None,
        pcr8: None,
    }];
    let mut device = emulator.boot();
    assert_eq!(appraise(&attest(&mut device), &trust, &accepted).unwrap_err(), AppraisalError::Measurements);
    let digest = holdfast_shared::attestation::measurements::sha384(b"configuration");
    device.process_request(Request::ExtendPCR { index: 16, data: digest.to_vec() });
    assert_eq!(appraise(&attest(&mut device), &trust, &accepted).unwrap_err(), AppraisalError::Measurements);
    device.process_request(Request::LockPCR { index: 16 });
    let attestation = appraise(&attest(&mut device), &trust, &accepted).unwrap();
    assert_eq!(attestation.measurements(), &accepted[0]);
    assert_eq!(attestation.pcrs().keys().copied().collect::<Vec<_>>(), (0..=16).collect::<Vec<_>>());
    assert_eq!(attestation.module_id(), DEFAULT_MODULE_ID);
    assert!(!trust.is_aws());
}

#[test]
fn the_chain_is_shaped_like_awss() {
    let emulator = emulator(measured());
    let report = inspect(&attest(&mut emulator.boot()), &emulator.trust_root().unwrap(), now_ms());
    assert!(report.verified);
    let shape: Vec<_> = report
        .chain
        .iter()
        .map(|certificate| {
            let life_h = (certificate.not_after_s - certificate.not_before_s) / 3600;
            (certificate.ca, certificate.path_length, life_h)
        })
        .skip(1)
        .collect();
    assert_eq!(shape, [(true, Some(2), 480), (true, Some(1), 137), (true, Some(0), 24), (false, None, 3)]);
    let subjects: Vec<&str> = report.chain.iter().map(|certificate| certificate.subject.as_str()).collect();
    let issuers: Vec<&str> = report.chain.iter().map(|certificate| certificate.issuer.as_str()).collect();
    assert_eq!(issuers.get(1..), subjects.get(..4));
    assert!(report.document_len < 0x3000);
}

#[test]
fn certificates_are_renewed_in_time() {
    const HOUR_MS: i64 = 3_600_000;
    let emulator = emulator(measured());
    let trust = emulator.trust_root().unwrap();
    let mut device = emulator.boot();
    let mut serials = |offset_ms: i64| -> Vec<String> {
        let change = SettingsChange { time_offset_ms: Some(offset_ms), ..SettingsChange::default() };
        emulator.change(change).unwrap();
        let at_ms = now_ms().checked_add_signed(offset_ms).unwrap();
        let report = inspect(&attest(&mut device), &trust, at_ms);
        assert_eq!(report.broken, None, "{offset_ms}");
        report.chain.into_iter().map(|certificate| certificate.serial_number).collect()
    };
    // How many certificates, from the root down, outlive the step from one time to the next.
    for (from_h, to_h, kept) in
        [(0, 1, 5), (1, 2, 4), (2, 24, 3), (24, 24 * 6, 2), (24 * 6, 24 * 30, 1), (24 * 30, -1, 1)]
    {
        let (before, after) = (serials(from_h * HOUR_MS), serials(to_h * HOUR_MS));
        let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
        assert_eq!(same, kept, "from {from_h} h to {to_h} h");
    }
}

#[test]
fn debug_mode_shows_zeros() {
    let emulator = emulator(Settings { debug_mode: true, ..measured() });
    let trust = emulator.trust_root().unwrap();
    let outcome = appraise(&attest(&mut emulator.boot()), &trust, &[]);
    assert_eq!(outcome.unwrap_err(), AppraisalError::DebugMode);
}

#[test]
fn each_fault_breaks_its_rule() {
    /// Where a document with the fault ends.
    fn verdict(emulator: &Emulator) -> String {
        let document = match emulator.boot().process_request(attestation(Some(NONCE))) {
            Response::Attestation { document } => document,
            other => return shown(&other),
        };
        let parsed = match ParsedDocument::parse(&document) {
            Ok(parsed) => parsed,
            Err(error) => return error.to_string(),
        };
        if let Err(error) = parsed.verify(&emulator.trust_root().unwrap(), now_ms()) {
            return error.to_string();
        }
        appraise(&document, &emulator.trust_root().unwrap(), &[]).unwrap_err().to_string()
    }
    let emulator = emulator(measured());
    let region = Position::CaBundle(1);
    // Without an accepted set, a document that is good until there fails at the measurements.
    for (faults, expected) in [
        (vec![], AppraisalError::Measurements.to_string()),
        (vec![Fault::FlipSignatureBit], VerifyError::Signature.to_string()),
        (
            vec![Fault::WrongRoot],
            VerifyError::Certificate { position: region, rule: CertificateError::Signature }.to_string(),
        ),
        (vec![Fault::StaleTimestamp(600_000)], AppraisalError::Stale.to_string()),
        (vec![Fault::FutureTimestamp(600_000)], AppraisalError::Future.to_string()),
        (vec![Fault::ForeignNonce], AppraisalError::Nonce.to_string()),
        (vec![Fault::NoDigest], ParseError::Missing("digest").to_string()),
        (vec![Fault::Unsigned], ParseError::ProtectedHeader.to_string()),
        (vec![Fault::DropResponse], error(ErrorCode::InternalError)),
        (vec![Fault::Error(ErrorName::InvalidOperation)], error(ErrorCode::InvalidOperation)),
    ] {
        let change = SettingsChange { faults: Some(faults.clone()), ..SettingsChange::default() };
        emulator.change(change).unwrap();
        assert_eq!(verdict(&emulator), expected, "{faults:?}");
    }
}

#[test]
fn settings_are_checked() {
    let emulator = emulator(Settings::default());
    for json in [
        r#"{"pcrs":{"16":{"content":"x"}}}"#,
        r#"{"pcrs":{"5":{"content":"x"}}}"#,
        r#"{"pcrs":{"0":{"hex":"ab"}}}"#,
        r#"{"module_id":""}"#,
        r#"{"module_id":"a b"}"#,
    ] {
        assert!(emulator.change(serde_json::from_str(json).unwrap()).is_err(), "{json}");
        assert_eq!(emulator.settings(), Settings::default());
    }
    for json in [r#"{"pcr":{}}"#, r#"{"faults":["melt"]}"#, r#"{"pcrs":{"0":{"file":"x"}}}"#] {
        assert!(serde_json::from_str::<SettingsChange>(json).is_err(), "{json}");
    }
    let hex = hex::encode([7; 48]);
    let change = serde_json::from_str(&format!(r#"{{"pcrs":{{"0":{{"hex":"{hex}"}}}}}}"#)).unwrap();
    emulator.change(change).unwrap();
    let answer = emulator.boot().process_request(Request::DescribePCR { index: 0 });
    assert_eq!(shown(&answer), shown(&Response::DescribePCR { lock: true, data: vec![7; 48] }));
}

// --- The root's folder ----------------------------------------------------------------------------------------------------

#[test]
fn the_root_outlives_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("nsm");
    let first = EmulatedRoot::load_or_create(&state).unwrap();
    let second = EmulatedRoot::load_or_create(&state).unwrap();
    assert_eq!(first.der(), second.der());
    let named = TrustRoot::emulated_pem(&std::fs::read(state.join(ROOT_FILE)).unwrap()).unwrap();
    let emulator = Emulator::new(second, measured()).unwrap();
    assert!(inspect(&attest(&mut emulator.boot()), &named, now_ms()).verified);
    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(ROOT_KEY_FILE), 0o600);
}

#[test]
fn half_a_root_is_refused_or_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    EmulatedRoot::load_or_create(&one).unwrap();
    let other = EmulatedRoot::load_or_create(&two).unwrap();
    std::fs::copy(two.join(ROOT_KEY_FILE), one.join(ROOT_KEY_FILE)).unwrap();
    assert!(matches!(EmulatedRoot::load_or_create(&one).err(), Some(NsmError::RootKeyDiffers(_))));
    std::fs::remove_file(one.join(ROOT_KEY_FILE)).unwrap();
    assert!(matches!(EmulatedRoot::load_or_create(&one).err(), Some(NsmError::RootKeyMissing(_))));
    std::fs::remove_file(two.join(ROOT_FILE)).unwrap();
    assert_ne!(EmulatedRoot::load_or_create(&two).unwrap().der(), other.der());
    std::fs::write(two.join(ROOT_FILE), "not a certificate").unwrap();
    assert!(matches!(EmulatedRoot::load_or_create(&two).err(), Some(NsmError::Root(_))));
}

// --- Sockets --------------------------------------------------------------------------------------------------------------

/// An emulator on sockets in a folder of its own, until it is dropped.
struct Running {
    config: NsmConfig,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = NsmConfig {
            socket: folder.path().join("nsm.sock"),
            control_socket: Some(folder.path().join("control.sock")),
            signer_socket: None,
            state_folder: folder.path().join("state"),
            settings: measured(),
        };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let for_thread = config.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = NsmServer::bind(for_thread).unwrap();
                ready.send(()).unwrap();
                server.run(async { stopped.await.unwrap_or(()) }).await;
            });
        });
        is_ready.recv().unwrap();
        Self { config, stop: Some(stop), thread: Some(thread), folder }
    }

    fn connect(&self) -> EmulatedNsm {
        EmulatedNsm::connect(&self.config.socket).unwrap()
    }

    fn control(&self, change: &SettingsChange) -> Result<Settings, NsmError> {
        change_settings(&self.control_path(), change)
    }

    fn control_path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn trust(&self) -> TrustRoot {
        let pem = std::fs::read(self.config.state_folder.join(ROOT_FILE)).unwrap();
        TrustRoot::emulated_pem(&pem).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_connection_is_an_enclave() {
    let running = Running::start();
    let extend = Request::ExtendPCR { index: 16, data: b"data".to_vec() };
    let describe = Request::DescribePCR { index: 16 };
    let mut first = running.connect();
    let mut second = running.connect();
    first.process_request(&extend);
    let extended = shown(&first.process_request(&describe));
    let fresh = shown(&second.process_request(&describe));
    assert_ne!(extended, fresh);
    drop(first);
    assert_eq!(shown(&running.connect().process_request(&describe)), fresh);
    let answer = document(second.process_request(&attestation(Some(NONCE))));
    assert!(inspect(&answer, &running.trust(), now_ms()).verified);
}

#[test]
fn settings_change_at_run_time() {
    let running = Running::start();
    let mut nsm = running.connect();
    let change = SettingsChange { faults: Some(vec![Fault::NoDigest]), ..SettingsChange::default() };
    assert_eq!(running.control(&change).unwrap().faults, [Fault::NoDigest]);
    let answer = document(nsm.process_request(&attestation(None)));
    assert_eq!(ParsedDocument::parse(&answer).unwrap_err(), ParseError::Missing("digest"));
    let bad = SettingsChange { module_id: Some(String::new()), ..SettingsChange::default() };
    assert!(matches!(running.control(&bad), Err(NsmError::Refused(_))));
    assert_eq!(running.control(&SettingsChange::default()).unwrap().faults, [Fault::NoDigest]);
    let mut raw = UnixStream::connect(running.control_path()).unwrap();
    raw.write_all(b"{\"what\":1}\n").unwrap();
    let mut answer = [0; 9];
    raw.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"{\"error\":");
}

#[test]
fn a_dropped_answer_ends_the_connection() {
    let running = Running::start();
    let mut nsm = running.connect();
    let drop_response = SettingsChange { faults: Some(vec![Fault::DropResponse]), ..SettingsChange::default() };
    running.control(&drop_response).unwrap();
    assert_eq!(shown(&nsm.process_request(&Request::DescribeNSM)), error(ErrorCode::InternalError));
    running.control(&SettingsChange { faults: Some(vec![]), ..SettingsChange::default() }).unwrap();
    // The enclave that lost its device does not get another one's registers.
    assert_eq!(shown(&nsm.process_request(&Request::DescribeNSM)), error(ErrorCode::InternalError));
    assert!(matches!(running.connect().process_request(&Request::DescribeNSM), Response::DescribeNSM { .. }));
}

#[test]
fn frames_are_bounded_and_must_be_requests() {
    let running = Running::start();
    // The client says of a large request what AWS's driver says, and the connection lives on.
    let mut nsm = running.connect();
    let large = Request::ExtendPCR { index: 16, data: vec![0; 0x1000] };
    assert_eq!(shown(&nsm.process_request(&large)), error(ErrorCode::InputTooLarge));
    assert!(matches!(nsm.process_request(&Request::GetRandom), Response::GetRandom { .. }));

    let exchange = |frame: &[u8]| -> String {
        let mut stream = UnixStream::connect(&running.config.socket).unwrap();
        stream.write_all(frame).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.get(4..).map_or_else(String::new, |body| String::from_utf8_lossy(body).into_owned())
    };
    for (frame, expected) in [
        (&[0xff, 0xff, 0xff, 0xff][..], "InputTooLarge"),
        (&[0, 0, 0x10, 1], "InputTooLarge"),
        (&[0, 0, 0, 0], "InvalidOperation"),
        (&[0, 0, 0, 1, 0xff], "InvalidOperation"),
        (b"\0\0\0\x04\x63abc", "InvalidOperation"),
        (b"\0\0\0\x09\x68FormatAll", "InvalidOperation"),
        (&[0, 0, 0, 9, 0], ""),
        (&[0, 0], ""),
    ] {
        let answer = exchange(frame);
        assert!(answer.ends_with(expected) && answer.is_empty() == expected.is_empty(), "{frame:?}: {answer}");
    }
}

#[tokio::test]
async fn sockets_are_private_taken_over_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let config = NsmConfig {
        socket: folder.path().join("nsm.sock"),
        control_socket: None,
        signer_socket: None,
        state_folder: folder.path().join("state"),
        settings: Settings::default(),
    };
    // A socket that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&config.socket).unwrap());
    let server = NsmServer::bind(config.clone()).unwrap();
    assert_eq!(std::fs::metadata(&config.socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(NsmServer::bind(config.clone()).err(), Some(NsmError::Bind(BindError::InUse(_)))));
    server.run(async {}).await;
    assert!(!config.socket.exists());
    std::fs::write(&config.socket, "precious").unwrap();
    assert!(matches!(serve(config, async {}).await, Err(NsmError::Bind(BindError::NotASocket(_)))));
}

mod properties {
    use holdfast_devkit::nsm::{DocumentBuilder, EmulatedChain, EmulatedRoot};
    use holdfast_shared::attestation::{ParsedDocument, inspect};
    use proptest::prelude::*;

    const AT_MS: u64 = 1_800_000_000_000;

    fn field() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=1024))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_the_device_writes_is_read_as_written(
            module_id in "[ -~]{1,64}",
            timestamp_ms in 1..=u64::MAX,
            pcrs in proptest::collection::btree_map(0..32_u8, prop::array::uniform32(any::<u8>()), 1..=32),
            public_key in field(),
            user_data in field(),
            nonce in field(),
        ) {
            let root = EmulatedRoot::generate().unwrap();
            let chain = EmulatedChain::standard(&root, "i-0-enc0", AT_MS).unwrap();
            let pcrs = pcrs.into_iter().map(|(index, half)| {
                let mut value = [0; 48];
                value[..32].copy_from_slice(&half);
                (index, value)
            }).collect();
            let document = DocumentBuilder::new(&chain, &module_id, timestamp_ms)
                .pcrs(&pcrs)
                .public_key(public_key.as_deref())
                .user_data(user_data.as_deref())
                .nonce(nonce.as_deref())
                .build()
                .unwrap();
            let trust = root.trust_root().unwrap();
            let statement = inspect(&document, &trust, AT_MS).statement.unwrap();
            prop_assert_eq!(statement.module_id, module_id.clone());
            prop_assert_eq!(statement.public_key, public_key.map(hex::encode));
            prop_assert_eq!(statement.user_data, user_data.map(hex::encode));
            prop_assert_eq!(statement.nonce, nonce.map(hex::encode));
            let verified = ParsedDocument::parse(&document).unwrap().verify(&trust, AT_MS).unwrap();
            prop_assert_eq!(verified.timestamp_ms(), timestamp_ms);
            prop_assert_eq!(verified.module_id(), module_id);
            prop_assert_eq!(verified.pcrs(), &pcrs);
        }
    }
}
