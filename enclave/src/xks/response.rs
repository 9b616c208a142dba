//! Answers on their way to HTTP.

use bytes::Bytes;
use holdfast_shared::secrets::WipedBytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use super::errors::Refused;
use crate::audit::Receipt;

/// The body of an answer.
#[derive(Debug)]
pub enum ResponseBody {
    /// JSON without secrets.
    Plain(Vec<u8>),
    /// JSON that holds a plaintext: wiped as soon as HTTP has taken it over.
    Secret(WipedBytes),
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    body: ResponseBody,
    /// What this kind of answer says besides.
    header: Option<(HeaderName, &'static str)>,
}

impl Response {
    /// Reserved for [`super::Recorded::release`]. The receipt is spent: one record, one answer.
    pub(super) fn success(body: ResponseBody, _: Receipt) -> Self {
        Self { status: StatusCode::OK, body, header: None }
    }

    /// The answer to a refused request.
    #[must_use]
    pub fn refused(refused: Refused) -> Self {
        let error = refused.error();
        let status = match refused {
            Refused::Api(_) | Refused::Unreadable(_) | Refused::Later(_) => StatusCode::from_u16(error.status()),
            Refused::MethodNotAllowed | Refused::NotGet => Ok(StatusCode::METHOD_NOT_ALLOWED),
            Refused::Misdirected => Ok(StatusCode::MISDIRECTED_REQUEST),
        };
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let header = match refused {
            // RFC 9110, section 15.5.6.
            Refused::MethodNotAllowed => Some((ALLOW, "POST")),
            Refused::NotGet => Some((ALLOW, "GET")),
            // Seconds (RFC 9110, section 10.2.3).
            Refused::Later(_) => Some((RETRY_AFTER, "1")),
            // HTTP/1.1 ends the connection with it; HTTP/2 takes no such header.
            Refused::Unreadable(_) => Some((CONNECTION, "close")),
            Refused::Api(_) | Refused::Misdirected => None,
        };
        Self { status, body: ResponseBody::Plain(error.to_json()), header }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer as HTTP takes it, with all of its body.
    #[must_use]
    pub fn into_http(self) -> http::Response<Bytes> {
        let body = match self.body {
            ResponseBody::Plain(json) => Bytes::from(json),
            ResponseBody::Secret(json) => Bytes::from_owner(json),
        };
        let mut headers = HeaderMap::with_capacity(4);
        // Every answer, errors included: "with a Content-Type of `application/json`" (section "API content type").
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut response = http::Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}
