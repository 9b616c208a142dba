//! The NSM's requests and answers on a stream: a length of four bytes, big endian, and the device's CBOR.
//!
//! The device itself has no framing, since an ioctl hands over one buffer each way; the bounds are those of that buffer.

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};

/// Bytes of a request (`NSM_REQUEST_MAX_SIZE` of AWS's driver).
pub const REQUEST_MAX: usize = 0x1000;
/// Bytes of an answer (`NSM_RESPONSE_MAX_SIZE` of AWS's driver).
pub const RESPONSE_MAX: usize = 0x3000;

/// A framed request.
///
/// # Errors
/// `InputTooLarge`, as the driver says it.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, ErrorCode> {
    let body = serde_cbor::to_vec(request).map_err(|_| ErrorCode::InvalidArgument)?;
    frame(body, REQUEST_MAX).ok_or(ErrorCode::InputTooLarge)
}

/// A framed answer; one that does not fit is the error that the driver makes of it.
pub(super) fn encode_response(response: &Response) -> Vec<u8> {
    let body = serde_cbor::to_vec(response).unwrap_or_default();
    frame(body, RESPONSE_MAX).unwrap_or_else(|| encode_response(&Response::Error(ErrorCode::BufferTooSmall)))
}

/// The request in a frame's body.
///
/// # Errors
/// `InvalidOperation` for whatever is no request.
pub(super) fn decode_request(body: &[u8]) -> Result<Request, ErrorCode> {
    serde_cbor::from_slice(body).map_err(|_| ErrorCode::InvalidOperation)
}

/// The answer in a frame's body; what is none counts as a fault of the device, as in AWS's driver.
pub(super) fn decode_response(body: &[u8]) -> Response {
    serde_cbor::from_slice(body).unwrap_or(Response::Error(ErrorCode::InternalError))
}

fn frame(body: Vec<u8>, max: usize) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= max)?;
    Some([length.to_be_bytes().to_vec(), body].concat())
}
