//! A server in the test's own process that answers as each case wants it.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_client::Connect;
use holdfast_shared::keystore::AcmeOrder;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::xks::HostName;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::DuplexStream;
use tokio_rustls::TlsAcceptor;

use super::{AcmeClient, AcmeError, Failure};
use crate::clock::SteppedClock;
use crate::custody::tls_key;
use crate::tls::{AttestedTime, provider};

const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21
const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

/// What one path is answered with.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Answer {
    fn json(body: &str) -> Self {
        let location = ("location", "https://ca.test/thing".to_owned());
        Self { status: 200, headers: vec![("replay-nonce", "n0".to_owned()), location], body: body.to_owned() }
    }

    fn refusal(status: u16, kind: &str) -> Self {
        let body = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"no"}}"#);
        Self { status, ..Self::json(&body) }
    }

    /// The connection ends without an answer.
    fn lost() -> Self {
        Self { status: 0, ..Self::json("") }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// An honest server's answer.
fn honest(path: &str) -> Answer {
    match path {
        "/directory" => Answer::json(
            r#"{"newNonce":"https://ca.test/nonce","newAccount":"https://ca.test/account","newOrder":"https://CA.test/order"}"#,
        ),
        "/order" => Answer::json(
            r#"{"status":"pending","authorizations":["https://ca.test/authz"],"finalize":"https://ca.test/finalize"}"#,
        ),
        "/authz" => Answer::json(&authorization("pending", "tls-alpn-01", TOKEN)),
        "/thing" => Answer::json(
            r#"{"status":"valid","authorizations":[],"finalize":"","certificate":"https://ca.test/certificate"}"#,
        ),
        "/certificate" => Answer::json(CHAIN),
        _ => Answer::json("{}"),
    }
}

fn authorization(status: &str, kind: &str, token: &str) -> String {
    format!(
        r#"{{"status":"{status}","challenges":[{{"type":"{kind}","url":"https://ca.test/challenge","token":"{token}","status":"{status}"}}]}}"#
    )
}

type Script = Arc<dyn Fn(&str, usize) -> Answer + Send + Sync>;

#[derive(Clone)]
struct Server {
    script: Script,
    tls: Arc<ServerConfig>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// And the root under which it is known.
    fn new(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> (Self, DerCertificate) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["ca.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let root = DerCertificate(certificate.der().to_vec());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        (Self { script: Arc::new(script), tls: Arc::new(tls), asked: Arc::default() }, root)
    }

    fn answer(&self, request: &Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|other| **other == path).count();
        asked.push(path.clone());
        let answer = (self.script)(&path, before);
        if answer.status == 0 {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        let mut response = Response::builder().status(StatusCode::from_u16(answer.status).unwrap());
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        Ok(response.body(Full::new(Bytes::from(answer.body))).unwrap())
    }
}

impl Connect for Server {
    type Stream = DuplexStream;

    async fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        assert_eq!(address, "ca.test:443");
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = self.clone();
        tokio::spawn(async move {
            let stream = TlsAcceptor::from(Arc::clone(&server.tls)).accept(theirs).await.ok()?;
            let service = service_fn(|request| {
                let response = server.answer(&request);
                async move { response }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok()
        });
        Ok(ours)
    }
}

async fn obtain(server: Server, root: DerCertificate, key: &SecretBytes) -> Result<Bytes, Failure> {
    let order = AcmeOrder {
        directory: "https://ca.test/directory".to_owned(),
        directory_roots: vec![root],
        contacts: vec!["mailto:ops@example.com".to_owned()],
        until_ms: u64::MAX,
        issuing_roots: vec![],
    };
    let time = Arc::new(AttestedTime(Arc::new(SteppedClock::at(NOW_MS))));
    let mut client = AcmeClient::open(server, &order, key, time).await?;
    assert_eq!(client.account(), "https://ca.test/thing");
    let begun = client.begin(&HostName::parse("xks.example.com").unwrap()).await?;
    client.finish(begun, b"request").await
}

#[tokio::test(start_paused = true)]
async fn an_honest_server_gives_a_chain() {
    let (server, root) = Server::new(|path, before| match (path, before) {
        // Validated at the third look; one nonce is refused, one connection is as good as lost.
        ("/authz", 3..) => Answer::json(&authorization("valid", "tls-alpn-01", TOKEN)),
        ("/challenge", 0) => Answer::refusal(400, "badNonce"),
        _ => honest(path),
    });
    let chain = obtain(server.clone(), root, &tls_key().unwrap()).await.unwrap();
    assert_eq!(chain, CHAIN.as_bytes());
    let asked = server.asked.lock().unwrap();
    assert_eq!(asked.iter().filter(|path| *path == "/challenge").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hostile_server_gets_nothing_but_an_error_in_bounded_time() {
    let elsewhere =
        r#"{"newNonce":"https://evil.test/n","newAccount":"https://evil.test/a","newOrder":"https://ca.test/o"}"#;
    let two = r#"{"status":"pending","authorizations":["https://ca.test/a","https://ca.test/b"],"finalize":"https://ca.test/f"}"#;
    let plain = r#"{"status":"pending","authorizations":["http://ca.test/authz"],"finalize":"https://ca.test/f"}"#;
    let no_url = r#"{"newNonce":"\u0000 no url","newAccount":"https://ca.test/a","newOrder":"https://ca.test/o"}"#;
    let table: Vec<(&str, Answer, &str)> = vec![
        ("/directory", Answer::json("[]"), "not what RFC 8555"),
        ("/directory", Answer::json(elsewhere), "another host"),
        ("/directory", Answer::json(no_url), "another host"),
        ("/directory", Answer { status: 302, ..Answer::json("{}") }, "302"),
        ("/nonce", Answer { headers: vec![], ..Answer::json("") }, "without a nonce"),
        ("/nonce", Answer { headers: vec![("replay-nonce", "a b".to_owned())], ..Answer::json("") }, "without a nonce"),
        ("/account", Answer::refusal(403, "unauthorized"), "unauthorized: no"),
        ("/account", Answer::refusal(400, "badNonce"), "badNonce"),
        ("/account", Answer { headers: vec![], ..Answer::json("{}") }, "without a location"),
        ("/account", Answer::json(&"x".repeat(100_000)), "over its limit"),
        ("/order", Answer::json(two), "one authorization"),
        ("/order", Answer::json(plain), "another host"),
        ("/authz", Answer::json(&authorization("pending", "http-01", TOKEN)), "no tls-alpn-01"),
        ("/authz", Answer::json(&authorization("pending", "tls-alpn-01", "a/b")), "token of another form"),
        ("/authz", Answer::json(&authorization("invalid", "tls-alpn-01", TOKEN)), "neither pending nor valid"),
        ("/authz", Answer::json(&authorization("pending", "tls-alpn-01", TOKEN)), "did not decide"),
        ("/authz", honest("/authz").with("retry-after", "18446744073709551615"), "did not decide"),
        ("/finalize", Answer::refusal(403, "orderNotReady"), "orderNotReady"),
        ("/certificate", Answer::refusal(500, "serverInternal"), "500"),
    ];
    let key = tls_key().unwrap();
    for (path, answer, expected) in table {
        let words = (path, expected);
        let is_authz = path == "/authz";
        let (server, root) = Server::new(move |asked, _| match asked {
            _ if asked == path => answer.clone(),
            "/authz" if !is_authz => Answer::json(&authorization("valid", "tls-alpn-01", TOKEN)),
            _ => honest(asked),
        });
        let failure = obtain(server.clone(), root, &key).await.unwrap_err();
        assert!(failure.error.to_string().contains(expected), "{words:?}: {}", failure.error);
        assert!(server.asked.lock().unwrap().len() < 120, "{words:?}");
    }
}

/// The server took it, its answer was lost, and it does not take it twice: the certificate is not lost with the answer.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_what_is_taken_once_loses_no_certificate() {
    let (server, root) = Server::new(|path, before| match (path, before) {
        ("/challenge" | "/finalize", 0) => Answer::lost(),
        ("/challenge", _) => Answer::refusal(400, "malformed"),
        ("/finalize", _) => Answer::refusal(403, "orderNotReady"),
        ("/authz", 1..) => Answer::json(&authorization("valid", "tls-alpn-01", TOKEN)),
        _ => honest(path),
    });
    let chain = obtain(server.clone(), root, &tls_key().unwrap()).await.unwrap();
    assert_eq!(chain, CHAIN.as_bytes());
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|path| *path == "/challenge" || *path == "/finalize").count(), 4);

    // A lost answer to the one makes no refusal of the other good.
    let (server, root) = Server::new(|path, before| match (path, before) {
        ("/challenge", 0) => Answer::lost(),
        ("/authz", 1..) => Answer::json(&authorization("valid", "tls-alpn-01", TOKEN)),
        ("/finalize", _) => Answer::refusal(403, "orderNotReady"),
        _ => honest(path),
    });
    let failure = obtain(server, root, &tls_key().unwrap()).await.unwrap_err();
    assert!(matches!(failure.error, AcmeError::Refused { status: 403, .. }), "{:?}", failure.error);
}

/// RFC 8555, section 7.3.2.
#[tokio::test(start_paused = true)]
async fn an_account_that_was_there_learns_of_other_contacts() {
    let ours = r#"{"status":"valid","contact":["mailto:ops@example.com"]}"#;
    let others = r#"{"status":"valid","contact":["mailto:before@example.com"]}"#;
    for (status, account, is_told) in [(201, others, false), (200, ours, false), (200, others, true), (200, "{}", true)]
    {
        let (server, root) = Server::new(move |path, before| match (path, before) {
            ("/account", _) => Answer { status, ..Answer::json(account) },
            ("/authz", 1..) => Answer::json(&authorization("valid", "tls-alpn-01", TOKEN)),
            _ => honest(path),
        });
        obtain(server.clone(), root, &tls_key().unwrap()).await.unwrap();
        let asked = server.asked.lock().unwrap();
        let before_the_order = asked.iter().take_while(|path| *path != "/order");
        let told = before_the_order.filter(|path| *path == "/thing").count();
        assert_eq!(told, usize::from(is_told), "{status} {account}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_asked_for_is_kept_within_bounds() {
    for (asked, expected) in [("120", Some(120)), ("18446744073709551615", Some(86_400)), ("soon", None)] {
        let (server, root) = Server::new(move |path, _| match path {
            "/order" => Answer::refusal(429, "rateLimited").with("retry-after", asked),
            _ => honest(path),
        });
        let failure = obtain(server, root, &tls_key().unwrap()).await.unwrap_err();
        assert!(matches!(failure.error, AcmeError::Refused { status: 429, .. }), "{:?}", failure.error);
        assert_eq!(failure.retry_after_s, expected, "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_under_another_root_is_told_nothing() {
    let (server, _) = Server::new(|path, _| honest(path));
    let (_, other_root) = Server::new(|path, _| honest(path));
    let failure = obtain(server.clone(), other_root, &tls_key().unwrap()).await.unwrap_err();
    assert!(failure.error.to_string().contains("TLS failed"), "{}", failure.error);
    assert!(server.asked.lock().unwrap().is_empty());
}
