//! Requests to Vault's HTTP API (version 1), each on a connection of its own.
//!
//! Guarantees: an answer is bounded in size and number of headers; the token goes into no error. Bodies are zeroized when they
//! are done with; copies in the buffers of hyper and rustls are not. Refuses: redirects.

use bytes::Bytes;
use holdfast_shared::secrets::SecretBytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use zeroize::Zeroize;

use crate::kek::KekError;
use crate::kek::remote::{Connection, Endpoint, words};

/// Bytes of an answer's body. What is decrypted or encrypted for us has some kilobytes, a key's configuration one line for each
/// of its versions.
const ANSWER_MAX: usize = 64 * 1024;
/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// A body that is zeroized when hyper lets go of it.
struct Body(SecretBytes);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// What goes with every request.
pub(super) struct Credentials<'a> {
    pub(super) token: &'a SecretBytes,
    pub(super) namespace: Option<&'a str>,
}

/// Asks, and waits for the whole answer. A request with a body is a POST, one without a GET.
///
/// # Errors
/// [`KekError::Unavailable`]; what a status means is for the caller to say.
pub(super) async fn exchange(
    endpoint: &Endpoint,
    path: &str,
    credentials: &Credentials<'_>,
    body: Option<SecretBytes>,
) -> Result<(StatusCode, SecretBytes), KekError> {
    let request = request(endpoint, path, credentials, body)?;
    let Connection { stream, turn } = endpoint.connect().await?;
    let failed = |error: &dyn std::error::Error| {
        let said = words(&error.to_string(), 200);
        endpoint
            .unavailable(&format!("the request broke off: {said}"), "look at the server's log and at what is between")
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let driver = AbortOnDrop(tokio::spawn(connection));
    let (head, body) = sender.send_request(request).await.map_err(|error| failed(&error))?.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| failed(error.as_ref()))?.to_bytes();
    drop((driver, turn));
    // The only handle to these bytes can be zeroized; hyper's own buffers cannot.
    let body = match body.try_into_mut() {
        Ok(mut own) => {
            let copy = SecretBytes::new(own.to_vec());
            own.zeroize();
            copy
        }
        Err(shared) => SecretBytes::new(shared.to_vec()),
    };
    Ok((head.status, body))
}

fn request(
    endpoint: &Endpoint,
    path: &str,
    credentials: &Credentials<'_>,
    body: Option<SecretBytes>,
) -> Result<Request<Full<Bytes>>, KekError> {
    let bad = |what: &str| KekError::Misconfigured {
        what: format!("the {what} cannot stand in an HTTP request"),
        remedy: "use printable ASCII characters without spaces".to_owned(),
    };
    let mut token = HeaderValue::from_bytes(credentials.token.expose()).map_err(|_| bad("token"))?;
    token.set_sensitive(true);
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, endpoint.address())
        .header("X-Vault-Token", token)
        // Agents may insist on it, since no browser can be made to send it.
        .header("X-Vault-Request", "true");
    if let Some(namespace) = credentials.namespace {
        request = request.header("X-Vault-Namespace", HeaderValue::from_str(namespace).map_err(|_| bad("namespace"))?);
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Bytes::new, |body| Bytes::from_owner(Body(body)));
    request.body(Full::new(body)).map_err(|_| bad("path"))
}

/// Ends the task that drives a connection when the call is over or given up.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
