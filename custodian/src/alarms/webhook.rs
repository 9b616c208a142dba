//! A webhook: one POST for each alarm, on a connection of its own.
//!
//! Guarantees: TLS to a certificate under the configured roots, or the operating system's, unless the receiver is on this machine; with a
//! secret, the body is signed. Of an answer the status is read, and nothing more. Refuses: redirects.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::task::JoinSet;

use super::message::Message;
use super::{DeliveryError, ReceiverError};
use crate::config::WebhookConfig;
use crate::kek::{Connection, Endpoint, KekError, words};
use crate::state;

/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;
/// Bytes of a secret that nobody guesses.
const SECRET_MIN: usize = 16;
/// Where operating systems keep the roots that they trust: Debian, Alpine and Arch; Fedora, RHEL and Amazon Linux; SUSE; BSD.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// See the module.
pub(super) struct Webhook {
    endpoint: Endpoint,
    /// As in the URL: without the port that everybody expects.
    host: String,
    path: String,
    secret: Option<hmac::Key>,
}

impl Webhook {
    pub(super) fn open(config: &WebhookConfig) -> Result<Self, ReceiverError> {
        let endpoint = if config.is_https {
            match &config.roots {
                Some(roots) => Endpoint::tls(&config.address, roots, None),
                None => {
                    Endpoint::tls_under_system_roots(&config.address, &system_roots().ok_or(ReceiverError::NoRoots)?)
                }
            }
        } else {
            Endpoint::loopback(&config.address)
        };
        let endpoint = endpoint.map_err(unusable)?;
        let port = if config.is_https { ":443" } else { ":80" };
        let host = config.address.strip_suffix(port).unwrap_or(&config.address).to_owned();
        let secret = config.secret_file.as_deref().map(secret).transpose()?;
        Ok(Self { endpoint, host, path: config.path.clone(), secret })
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), DeliveryError> {
        let failed = DeliveryError::Failed;
        let request = self.request(message).map_err(|error| failed(error.to_string()))?;
        let Connection { stream, turn } = self.endpoint.connect().await.map_err(|error| failed(unreachable(error)))?;
        let broke_off =
            |error: hyper::Error| failed(format!("the request broke off: {}", words(&error.to_string(), 200)));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        // Ends with this call.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let status = sender.send_request(request).await.map_err(broke_off)?.status();
        drop((driver, turn));
        judge(status)
    }

    fn request(&self, message: &Message) -> Result<Request<Full<Bytes>>, http::Error> {
        let body = message.json();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(HOST, &self.host)
            .header(USER_AGENT, "holdfast-custodian")
            .header(CONTENT_TYPE, "application/json");
        if let Some(secret) = &self.secret {
            request = request.header("Holdfast-Signature", signature(secret, &body));
        }
        request.body(Full::new(Bytes::from(body)))
    }
}

/// An endpoint's words, without those about the key-encryption key, for which it was made first.
fn unusable(error: KekError) -> ReceiverError {
    match error {
        KekError::Misconfigured { what, remedy } => ReceiverError::Endpoint { what, remedy },
        error => ReceiverError::Endpoint { what: error.to_string(), remedy: "look at its URL and files".to_owned() },
    }
}

/// See [`unusable`].
fn unreachable(error: KekError) -> String {
    match error {
        KekError::Unavailable { what, remedy } => format!("{what}; {remedy}"),
        error => error.to_string(),
    }
}

fn signature(secret: &hmac::Key, body: &[u8]) -> String {
    format!("sha256={}", hex::encode(hmac::sign(secret, body)))
}

/// What a status says of the alarm, and what of the receiver.
fn judge(status: StatusCode) -> Result<(), DeliveryError> {
    let number = status.as_u16();
    match number {
        200..=299 => Ok(()),
        // Bad Request, Not Acceptable, Content Too Large, Unsupported Media Type, Unprocessable Content.
        400 | 406 | 413 | 415 | 422 => Err(DeliveryError::Refused(format!("status {number}"))),
        300..=399 => Err(DeliveryError::Failed(format!(
            "status {number}: the receiver sends us elsewhere; name that place by its own URL"
        ))),
        _ => Err(DeliveryError::Failed(format!("status {number}; look at the receiver's log"))),
    }
}

fn secret(file: &Path) -> Result<hmac::Key, ReceiverError> {
    let bytes = state::read_private(file)?;
    let secret = bytes.expose().trim_ascii_end();
    if secret.len() < SECRET_MIN {
        return Err(ReceiverError::Secret { file: file.to_owned() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

fn system_roots() -> Option<PathBuf> {
    SYSTEM_ROOTS.iter().map(PathBuf::from).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn a_body_is_signed_by_hmac_sha256() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(&key, b"what do ya want for nothing?"), expected);
    }

    #[tokio::test]
    async fn nothing_is_said_of_keys_where_a_receiver_fails() {
        let config = |address: &str, roots: Option<&str>| WebhookConfig {
            name: "webhook".to_owned(),
            is_https: roots.is_some(),
            address: address.to_owned(),
            path: "/".to_owned(),
            secret_file: None,
            roots: roots.map(PathBuf::from),
        };
        let error = Webhook::open(&config("a.example:443", Some("/nonexistent/roots.pem"))).err().unwrap().to_string();
        assert!(error.starts_with("alarms.webhook: /nonexistent/roots.pem: "), "{error}");
        // Port 1 of this machine.
        let webhook = Webhook::open(&config("127.0.0.1:1", None)).unwrap();
        let DeliveryError::Failed(said) = webhook.send(&Message::test("vault-1", 0)).await.unwrap_err() else {
            panic!()
        };
        assert!(said.starts_with("127.0.0.1:1: cannot connect: "), "{said}");
        assert!(!(error + &said).contains("key"));
    }

    #[test]
    fn only_what_is_said_of_the_alarm_lets_others_pass() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap()), Ok(()));
        }
        for (status, is_refused) in [
            (302, false),
            (400, true),
            (401, false),
            (403, false),
            (404, false),
            (406, true),
            (413, true),
            (415, true),
            (422, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let error = judge(StatusCode::from_u16(status).unwrap()).unwrap_err();
            assert_eq!(matches!(error, DeliveryError::Refused(_)), is_refused, "{status}");
            assert!(error.to_string().contains(&status.to_string()));
        }
    }
}
