//! One batch to the collector: `POST /v1/traces` (OTLP 1.9, "OTLP/HTTP").
//!
//! Guarantees: takes no longer than the configured time and no more memory than its bounds; says whether trying again may help. Refuses:
//! redirects, answers over their bound.

use std::time::Duration;

use holdfast_link::connect;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{Collector, TracingConfig};
use crate::limits::{COLLECTOR_ANSWER_MAX, COLLECTOR_HEAD_MAX};

const PATH: &str = "/v1/traces";
/// "OTLP exporters SHOULD emit a User-Agent header".
const USER_AGENT: &str = concat!("holdfast-parent/", env!("CARGO_PKG_VERSION"));

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Trying again may help.
    #[error("the collector cannot be reached: {0}")]
    Unreachable(String),
    /// Trying again may help.
    #[error("the collector took longer than {} ms", .0.as_millis())]
    Late(Duration),
    /// Trying again may help, after a while that the collector may name.
    #[error("the collector is busy: {status}")]
    Busy { status: StatusCode, wait: Option<Duration> },
    /// "The client MUST NOT retry the request".
    #[error("the collector rejects traces: {0}")]
    Rejected(StatusCode),
}

fn unreachable(error: impl core::fmt::Display) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// Gives how many spans the collector rejected of those that it took.
pub(super) async fn post(config: &TracingConfig, json: &[u8]) -> Result<u64, Failure> {
    let posting = async {
        match &config.collector {
            Collector::Http(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                post_on(stream, &address.to_string(), json).await
            }
            Collector::Unix(address) => post_on(connect(address).await.map_err(unreachable)?, "localhost", json).await,
        }
    };
    timeout(config.timeout, posting).await.unwrap_or(Err(Failure::Late(config.timeout)))
}

/// One request on a connection of its own: there is one a second at most.
async fn post_on<S>(stream: S, host: &str, json: &[u8]) -> Result<u64, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::post(PATH)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::copy_from_slice(json)))
        .map_err(unreachable)?;
    let mut builder = http1::Builder::new();
    let (mut sender, connection) =
        builder.max_buf_size(COLLECTOR_HEAD_MAX).handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    // Dropped, and so ended, with this call.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(unreachable)?;
    match response.status() {
        status if status.is_success() => Ok(rejected_of(response).await),
        // "Retryable Response Codes"
        status @ (StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT) => Err(Failure::Busy { status, wait: retry_after(&response) }),
        status => Err(Failure::Rejected(status)),
    }
}

/// A date is not understood: it would need a clock that both sides agree on.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// `ExportTraceServiceResponse`, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    partial_success: PartialSuccess,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    rejected_spans: Number,
}

/// "64-bit integer numbers in JSON-encoded payloads are encoded as decimal strings, and either numbers or strings are accepted".
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// What it took it has taken, whatever it says about it.
async fn rejected_of(response: Response<Incoming>) -> u64 {
    let Ok(body) = Limited::new(response.into_body(), COLLECTOR_ANSWER_MAX).collect().await else { return 0 };
    let answer = serde_json::from_slice(&body.to_bytes());
    match answer.map(|Answer { partial_success }| partial_success.rejected_spans) {
        Ok(Number::Number(rejected)) => rejected,
        Ok(Number::Text(rejected)) => rejected.parse().unwrap_or(0),
        Err(_) => 0,
    }
}
