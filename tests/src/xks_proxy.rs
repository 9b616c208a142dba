//! A small XKS proxy of another make, which can be given a flaw: what `holdfast doctor` is tried on.
//!
//! Guarantees: without a flaw it keeps to the specification in everything that a client sees: TLS, signatures, the four operations with
//! real AES-GCM, and the table of errors. Assumes: one key, `both`, and the credential that it makes. Ends when dropped.

mod crypto;
mod dns;
mod identity;
mod service;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use dns::{Resolver, Zone};
use identity::Identity;
use service::Service;

/// The name in the certificate.
pub const HOST_NAME: &str = "xks.example.com";
/// The key that is there.
pub const KEY: &str = "both";
/// The path before `/kms/xks/v1`.
pub const PREFIX: &str = "/payments";

/// What is wrong with a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYet,
    /// The certificate expires tomorrow.
    Soon,
    /// The certificate ends before it begins.
    EndsFirst,
    /// The certificate is for another name.
    OtherName,
    /// The certificate is of an authority that nobody knows.
    UnknownAuthority,
    /// The certificate is signed by itself.
    SelfSigned,
    /// A cipher suite alone that KMS does not offer.
    OtherSuite,
    /// ALPN takes HTTP/2 alone.
    Http2Only,
    /// A client certificate is asked for.
    AsksForCertificate,
    /// HTTP without TLS.
    NoTls,
    /// TLS, and then something else than HTTP.
    NotHttp,
    /// Connections end before the TLS handshake.
    Hangs,
    /// Connections end before the answer.
    Closes,
    /// Requests are never answered.
    Stalls,
    /// Health is answered late.
    Slow,
    /// Another path than the key store's.
    OtherPath,
    /// A redirect.
    Redirects,
    /// An answer without end.
    Oversized,
    /// 201 instead of 200.
    OtherStatus,
    /// An HTML page.
    NotJson,
    /// JSON as plain text.
    OtherType,
    /// No `xksProxyFleetSize`.
    MissingField,
    /// Every key manager is UNAVAILABLE.
    Unavailable,
    /// One of two key managers is DEGRADED.
    Degraded,
    /// The clock is an hour late.
    OtherClock,
    /// Another secret is configured.
    OtherSecret,
    /// Internal errors.
    Fails,
    /// Requests without a signature are answered.
    TakesUnsigned,
    /// Any signature is taken, as long as there is one.
    TakesAnySignature,
    /// The body's hash is taken from a header instead of from the body.
    IgnoresBody,
    /// No date is too old.
    TakesOld,
    /// 403 instead of 401.
    OtherRefusal,
    /// An unknown key is a `ValidationException`.
    OtherUnknownKey,
    /// `errorMessage` is too long.
    LongMessage,
    /// GET is answered.
    TakesGet,
    /// The key is DISABLED.
    Disabled,
    /// The key has 128 bits.
    Short,
    /// The key cannot decrypt.
    EncryptOnly,
    /// The tag is left at the end of the ciphertext.
    TagAppended,
    /// No integrity value.
    NoIntegrity,
    /// An integrity value without the AAD.
    OtherIntegrity,
    /// Decrypt answers with other bytes.
    OtherPlaintext,
    /// The AAD is not bound.
    IgnoresAad,
    /// `ciphertextMetadata` is not bound.
    IgnoresMetadata,
    /// The tag is not verified.
    IgnoresTag,
    /// A wrong ciphertext is an `InternalException`.
    OtherInvalid,
    /// Bodies over 4 KiB are refused.
    SmallBodies,
}

/// See the module.
pub struct XksProxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// PEM of the authority.
    pub ca: PathBuf,
    /// The credential, as `kms config` writes it.
    pub credential: PathBuf,
    service: Arc<Service>,
    task: JoinHandle<()>,
}

impl Drop for XksProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl XksProxy {
    /// Starts one; its files go into `folder`.
    pub async fn start(folder: &Path, flaw: Flaw) -> Self {
        let identity = Identity::new(flaw);
        let service = Arc::new(Service::new(flaw));
        let (ca, credential) = (folder.join("ca.pem"), folder.join("credential.json"));
        std::fs::write(&ca, &identity.authority_pem).unwrap();
        service.write_credential(&credential);
        let acceptor = TlsAcceptor::from(Arc::new(identity.config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&service);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&served), flaw));
            }
        });
        Self { address, ca, credential, service, task }
    }

    /// Requests so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.service.asked()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, service: Arc<Service>, flaw: Flaw) {
    match flaw {
        Flaw::NoTls => return serve_http(stream, service).await,
        Flaw::Hangs => return,
        _ => {}
    }
    // A client that gives up is one that has seen enough.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    match flaw {
        Flaw::NotHttp => {
            let mut request = [0; 16];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n").await;
            let _ = stream.shutdown().await;
        }
        Flaw::Closes => {
            let mut request = [0; 16];
            let _ = stream.read(&mut request).await;
        }
        _ => serve_http(stream, service).await,
    }
}

async fn serve_http<S>(stream: S, service: Arc<Service>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
