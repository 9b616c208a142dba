//! HTTPS in front of the service.
//!
//! Guarantees: one certificate for `localhost` and 127.0.0.1, under a root that outlives restarts; bodies are bounded. Assumes:
//! its clients are few and honest. Refuses: anything but `POST /`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::service::{Answer, Incoming as Asked, Service};
use super::{KmsError, TLS_ROOT_FILE, TLS_ROOT_KEY_FILE, write_private};

/// Bytes of a body: a document and a ciphertext at their largest, in base64, and slack.
const BODY_MAX: usize = 64 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A certificate that is made now under the root in the folder, which is made on first use.
pub(super) fn tls(state: &Path) -> Result<Arc<ServerConfig>, KmsError> {
    let (certificate, key) = (state.join(TLS_ROOT_FILE), state.join(TLS_ROOT_KEY_FILE));
    let root_key = if key.exists() {
        KeyPair::from_pem(&std::fs::read_to_string(&key).map_err(KmsError::at(&key))?)?
    } else {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write_private(&key, root_key.serialize_pem().as_bytes())?;
        let pem = root_parameters().self_signed(&root_key)?.pem();
        std::fs::write(&certificate, pem).map_err(KmsError::at(&certificate))?;
        root_key
    };
    let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.not_before = date_time_ymd(2020, 1, 1);
    leaf.not_after = date_time_ymd(2049, 12, 31);
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root_parameters(), root_key))?;
    let leaf_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], leaf_key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

fn root_parameters() -> CertificateParams {
    let mut root = CertificateParams::default();
    root.distinguished_name = DistinguishedName::new();
    root.distinguished_name.push(DnType::CommonName, "holdfast-dev kms, trust it nowhere else");
    root.not_before = date_time_ymd(2020, 1, 1);
    root.not_after = date_time_ymd(2049, 12, 31);
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    root
}

/// Serves until the task is dropped.
pub(super) async fn run(listener: TcpListener, tls: Arc<ServerConfig>, service: Service) {
    let (acceptor, service) = (TlsAcceptor::from(tls), Arc::new(service));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (acceptor, service) = (acceptor.clone(), Arc::clone(&service));
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
            let answer = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, core::convert::Infallible>(respond(request, &service).await) }
            });
            // A client that breaks off ends its own connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn respond(request: Request<Incoming>, service: &Service) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let answer = if head.method != Method::POST || head.uri.path() != "/" {
        Answer::error(StatusCode::NOT_FOUND, "UnknownOperationException", "")
    } else {
        match Limited::new(body, BODY_MAX).collect().await {
            Ok(body) => {
                let asked = Asked { headers: &head.headers, body: &body.to_bytes() };
                service.answer(&asked, now_ms())
            }
            Err(_) => Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "SerializationException", "the body is too long"),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let content_type = header::HeaderValue::from_static("application/x-amz-json-1.1");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
