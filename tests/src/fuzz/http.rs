//! The listener for KMS itself, over TLS in memory: whatever is sent ends in an answer or a closed connection, and nothing
//! unsigned is answered with 200.
//!
//! First byte: `1` or `2`, the rest is sent as it is on a connection of that HTTP version. `s`: the rest is `METHOD PATH`, header
//! lines, an empty line, a body, and is sent with a right signature: what KMS itself could be made to send.

use std::sync::{Arc, LazyLock};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request as NsmRequest, Response as NsmResponse};
use holdfast_enclave::audit::{AuditKey, AuditLog, AuditLogs, NextSegment, Readers, VersionInService};
use holdfast_enclave::clock::SteppedClock;
use holdfast_enclave::directory::{
    CustodianHealth, Directory, FleetHealth, Gate, KeyRing, KeySlot, OwnerId, ServedKeyStore,
};
use holdfast_enclave::nsm::{Nsm, NsmDevice};
use holdfast_enclave::server::{ServerContext, serve_connection};
use holdfast_enclave::tls::TlsIdentity;
use holdfast_enclave::xks::{Denial, Guard, Permit, Question};
use holdfast_shared::audit::{AuditSettings, Auditor, Terms};
use holdfast_shared::external_key::{ExternalKey, ExternalKeyVersion, KeyState, KeyUsage};
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BlobId, BootId, KeyStoreId};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::{AccessKeyId, Credential, CredentialSet, Regions};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;

use super::Verdict;
use super::link::run;
use super::{json, sigv4, xks};

const HOST: &str = "xks.example.com";
const PREFIX: &str = "/ward-7/kms/xks/v1/";

/// Permits everything.
struct Open;

impl Guard for Open {
    fn permit(&self, _: &Question<'_>) -> Result<Permit, Denial> {
        Ok(Permit::default())
    }
}

/// An NSM that attests nothing, so that a 200 without a signature stays a finding.
struct NoDevice;

impl NsmDevice for NoDevice {
    fn process_request(&mut self, _: NsmRequest) -> NsmResponse {
        NsmResponse::Error(ErrorCode::InternalError)
    }
}

struct Service {
    context: Arc<ServerContext>,
    root: CertificateDer<'static>,
    audit: Arc<AuditLog>,
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
    let (root, pkcs8) = (certificate.der().clone(), SecretBytes::new(key.serialize_der()));
    let clock = Arc::new(SteppedClock::at(sigv4::NOW_MS));
    let custodian = CustodianHealth::named("home".to_owned(), "home");
    custodian.set_lease(u64::MAX);
    let audit = audit_log(clock.clone());
    let store = ServedKeyStore {
        id: KeyStoreId([1; 32]),
        owner: OwnerId([1; 32]),
        host_name: HOST.parse().unwrap(),
        path_prefix: "/ward-7".parse().unwrap(),
        version: 1,
        blob_id: BlobId([1; 32]),
        credentials: credentials(),
        regions: Regions::Any,
        tls: Arc::new(TlsIdentity::new(vec![root.to_vec()], &pkcs8, 1).unwrap()),
        client_authentication: None,
        guard: Arc::new(Open),
        gate: Arc::new(Gate::new()),
        keys: Arc::new(KeySlot::new()),
        fleet: Arc::new(FleetHealth::new(vec![custodian])),
        audit: Arc::clone(&audit),
        tally: Arc::default(),
    };
    let version = ExternalKeyVersion::new(1, Secret::take(&mut [1; 32])).unwrap();
    let usage = KeyUsage::ENCRYPT_DECRYPT;
    let key = ExternalKey::new("key".parse().unwrap(), usage, KeyState::Enabled, vec![version]).unwrap();
    store.keys.install(KeyRing::new(vec![key], &super::party::rng()).unwrap());
    store.gate.set_lease_expiry(u64::MAX);
    let directory = Arc::new(Directory::new(clock.clone()));
    directory.replace(vec![Arc::new(store)]).unwrap();
    let nsm = Nsm::start(Box::new(NoDevice)).unwrap();
    Service { context: Arc::new(ServerContext::new(directory, clock, &nsm, 16)), root, audit }
});

/// A log that is open.
fn audit_log(clock: Arc<SteppedClock>) -> Arc<AuditLog> {
    let logs = AuditLogs::new(AuditKey::generate().unwrap(), BootId([1; 16]), clock);
    let log = logs.of(KeyStoreId([1; 32])).unwrap();
    let auditors =
        vec![Auditor { name: "a".to_owned(), encryption_key: *PrivateKey::generate().unwrap().public_key() }];
    let settings = AuditSettings { auditors, administrators_read: false, ..AuditSettings::default() };
    let readers = Readers::of(Some(&settings), &[]);
    let next = NextSegment::seal(Secret::take(&mut [7; 32]), (&log.id(), 0), readers, Terms::DEFAULT).unwrap();
    let version = VersionInService { version: 1, blob_id: BlobId([1; 32]), executed: vec![], settings: Some(settings) };
    log.enter(&version, Some(next), Vec::new, Vec::new).unwrap();
    log
}

fn credentials() -> CredentialSet {
    let secret = SecretBytes::new(sigv4::SECRET.as_bytes().to_vec());
    let credential = Credential::new(AccessKeyId::parse(sigv4::ID).unwrap(), secret).unwrap();
    CredentialSet::new(vec![credential], &Secret::take(&mut [3; 32])).unwrap()
}

/// Bytes on a connection.
pub fn http_connection(data: &[u8]) -> Verdict {
    let Some((how, rest)) = data.split_first() else { return Verdict::Refused };
    match how {
        b'1' => {
            let answer = run(exchange(b"http/1.1", rest, Patience::Turns(32)));
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
            let ok = answer.windows(13).any(|window| window.starts_with(b"HTTP/1.") && window.ends_with(b" 200 "));
            assert!(!ok, "200 without a signature");
            Verdict::from(!answer.is_empty())
        }
        b'2' => {
            let answer = run(exchange(b"h2", rest, Patience::Turns(32)));
            Verdict::from(http2_answers(&answer) > 0)
        }
        b's' => signed(rest),
        _ => Verdict::Refused,
    }
}

/// The answers in the frames of an HTTP/2 connection, none of which may be 200.
fn http2_answers(mut frames: &[u8]) -> usize {
    let mut answers = 0;
    while let [high, middle, low, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        let (payload, tail) = rest.split_at(length.min(rest.len()));
        if *kind == 1 {
            answers += 1;
            // After size updates of the table (RFC 7541, section 6.3), `:status` comes first; entry 8 of the static table is 200.
            let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
            assert_ne!(status, Some(&0x88), "200 without a signature");
        }
        frames = tail;
    }
    answers
}

/// What the client waits for before it ends its side.
#[derive(Clone, Copy)]
enum Patience {
    /// So many turns of the other side.
    Turns(u32),
    /// An answer.
    FirstByte,
}

/// Sends `bytes`, then the end, and takes what comes back until the other side ends.
async fn exchange(alpn: &[u8], bytes: &[u8], patience: Patience) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(SERVICE.root.clone()).unwrap();
    let provider = Arc::new(holdfast_enclave::tls::provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (_drain, draining) = watch::channel(false);
    let client = async {
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, near).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let heard = Notify::new();
        let send = async {
            // The other side may have closed before it read everything.
            let _ = writer.write_all(bytes).await;
            match patience {
                Patience::Turns(turns) => {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                }
                Patience::FirstByte => heard.notified().await,
            }
            let _ = writer.shutdown().await;
        };
        let receive = async {
            let mut answer = Vec::new();
            let _ = reader.read_buf(&mut answer).await;
            heard.notify_one();
            let _ = reader.read_to_end(&mut answer).await;
            answer
        };
        tokio::join!(send, receive).1
    };
    let serve = serve_connection(far, Arc::clone(&SERVICE.context), draining);
    let (answer, _) = tokio::join!(client, serve);
    // As if parent and custodian had it: a run of the fuzzer goes on for longer than what the log may keep.
    SERVICE.audit.stored(SERVICE.audit.size());
    SERVICE.audit.witnessed(SERVICE.audit.size());
    answer
}

fn signed(data: &[u8]) -> Verdict {
    let Some(case) = sigv4::Case::unsigned(data, HOST) else { return Verdict::Refused };
    // What would make more than one request of it, or another signature, is for the raw bytes above.
    let own = ["host", "authorization", "content-length", "transfer-encoding", "expect", "connection", "upgrade"];
    let dates = case.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-date")).count();
    if dates != 1 || case.headers.iter().any(|(name, _)| own.iter().any(|own| name.trim().eq_ignore_ascii_case(own))) {
        return Verdict::Refused;
    }
    let mut request = format!("{} {} HTTP/1.1\r\nhost: {HOST}\r\n", case.method, case.path).into_bytes();
    for (name, value) in &case.headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    let authorization = case.sign();
    let length = case.body.len();
    request.extend(format!("authorization: {authorization}\r\ncontent-length: {length}\r\n\r\n").bytes());
    request.extend(case.body);
    let answer = run(exchange(b"http/1.1", &request, Patience::FirstByte));
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        assert!(answer.is_empty(), "{text}");
        return Verdict::Refused;
    };
    let status: u16 = head[9..12].parse().unwrap();
    let operation = match case.path.strip_prefix(PREFIX) {
        Some("health") => Some(b'h'),
        Some("keys/key/metadata") => Some(b'm'),
        Some("keys/key/encrypt") => Some(b'e'),
        Some("keys/key/decrypt") => Some(b'd'),
        _ => None,
    };
    if status == 200 {
        let fields = operation.map(|operation| xks::expected(operation, case.body));
        assert!(!matches!(fields, None | Some(Ok(None) | Err(json::Refusal::Malformed))), "200 for {text}");
        assert!(matches!(json::read(body.as_bytes()), Ok(json::Value::Object(_))));
    } else if !body.is_empty() && case.method != "HEAD" {
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(error["errorName"].is_string() && message.len() <= 511, "{body}");
        assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{body}");
    }
    Verdict::from(status == 200)
}
