//! A client of the JSON protocol: signs, asks, and reads the answer or the error.
//!
//! Guarantees: answers are bounded in size and time. Assumes: plain HTTP on this machine.

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::{Connect as _, Tcp};
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::sign::OutgoingRequest;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{BODY_MAX, MEDIA_TYPE, TARGET, now_ms};

/// Longer than everything that a double does before it answers.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Why there is no success.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// The service refused.
    #[error("{operation}: {kind}: {message}")]
    Refused {
        /// What was asked.
        operation: String,
        /// `__type`.
        kind: String,
        /// `message`.
        message: String,
    },
    /// There is no answer, or none in JSON.
    #[error("{operation}: {reason}")]
    Unanswered {
        /// What was asked.
        operation: String,
        /// What went wrong.
        reason: String,
    },
}

impl AwsError {
    /// The exception's name, if it is one.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Refused { kind, .. } => Some(kind),
            Self::Unanswered { .. } => None,
        }
    }
}

/// A caller of KMS at an address of this machine.
pub struct AwsClient {
    /// `host:port`.
    pub address: String,
    /// Region of the signature.
    pub region: String,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Its secret half.
    pub secret_access_key: SecretBytes,
}

impl AwsClient {
    /// Asks for an operation of KMS.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn call(&self, operation: &str, parameters: &Value) -> Result<Value, AwsError> {
        let unanswered = |reason: &dyn core::fmt::Display| AwsError::Unanswered {
            operation: operation.to_owned(),
            reason: reason.to_string(),
        };
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(operation, parameters.to_string().into_bytes()));
        let (status, body) = exchange
            .await
            .map_err(|_| unanswered(&format!("no answer within {} s", TIMEOUT.as_secs())))?
            .map_err(|reason| unanswered(&reason))?;
        let answer: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).map_err(|error| unanswered(&error))?
        };
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(AwsError::Refused { operation: operation.to_owned(), kind: text("__type"), message: text("message") })
    }

    async fn exchange(&self, operation: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
        let target = format!("TrentService.{operation}");
        let headers = [("host", self.address.as_str()), (TARGET, target.as_str())];
        let (region, at_ms) = (self.region.as_str(), now_ms());
        let signature = OutgoingRequest { path: "/", headers: &headers, body: &body, region, service: "kms", at_ms }
            .sign(&self.access_key_id, &self.secret_access_key);
        let request = Request::post("/")
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .header(TARGET, target)
            .header("x-amz-date", signature.date)
            .header(header::AUTHORIZATION, signature.authorization)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let stream = Tcp.connect(&self.address).await.map_err(|error| format!("{}: {error}", self.address))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| error.to_string())?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        loop {
            tokio::select! {
                result = &mut exchange => return result,
                ended = &mut connection => if let Err(error) = ended { return Err(error.to_string()) },
            }
        }
    }
}
