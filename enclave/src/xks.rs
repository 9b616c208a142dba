//! The life of a request (design, section 3), one type per station, each made only from the one before:
//!
//! ```text
//! RawRequest ─route─► RoutedRequest ─authenticate─► AuthenticatedRequest ─parse─► ParsedRequest<O> ─admit─► AdmittedRequest<O>
//!    404, 405            (a key store)   401           (a valid signature)  400, 501                 400, 503      (lease, keys)
//!
//! AdmittedRequest<O> ─find_key─► KeyedRequest<O> ─authorize─► AuthorizedRequest<O> ─perform─► Finished ─release─► Response
//!                       404      (metadata is answered here)  400, 403, 429         400                  400, 503
//! ```
//!
//! `GetHealthStatus` goes from `AdmittedRequest` straight to `Finished`: it skips policy, quota and budget, nothing else.
//!
//! Guarantees: a [`Response`] with status 200 exists only after a valid signature, with an unexpired lease and unblocked
//! store and key at the moment it was made. Errors carry static texts only. Assumes: the caller writes the response at
//! once. An authorized request cannot be made any other way:
//!
//! ```compile_fail,E0451
//! use holdfast_enclave::xks::{AuthorizedRequest, Decrypt};
//! fn swap_the_key(request: AuthorizedRequest<'_, Decrypt>, other: AuthorizedRequest<'_, Decrypt>) {
//!     let AuthorizedRequest { store, body, .. } = request;
//!     let AuthorizedRequest { key, .. } = other;
//!     AuthorizedRequest::<Decrypt> { store, key, body }.perform();
//! }
//! ```
//!
//! nor can a finished answer be sent without passing the gate again:
//!
//! ```compile_fail,E0624
//! use holdfast_enclave::xks::{Response, ResponseBody};
//! fn skip_the_gate(body: ResponseBody) -> Response {
//!     Response::success(body)
//! }
//! ```

mod errors;
mod guard;
mod observer;
mod operation;
mod pipeline;
mod quota;
mod request;
mod response;

pub use errors::Refused;
pub(crate) use errors::{
    BAD_CHUNK, BAD_CODING, BAD_HOST, BODY_TOO_LONG, BUSY, HEAD_TOO_LONG, INTERNAL, NO_KEYS, PROOF_BODY,
    PROOF_KEY_STORE, PROOF_NONCE, PROOF_PARAMETERS, PROOF_SEVERAL, PROOF_TIMEOUT, PROOFS_BUSY, UNKNOWN_PATH,
    UNREADABLE_HEAD,
};
pub use guard::{Denial, Guard, OpenGuard, Question};
pub use observer::{LoggedRequestId, NoObserver, Outcome, RequestEvent, RequestObserver};
pub use operation::{Decrypt, Encrypt, GetHealthStatus, GetKeyMetadata};
pub use pipeline::{AdmittedRequest, AuthorizedRequest, Finished, KeyedRequest, ParsedRequest, answer};
pub(crate) use quota::{Bucket, Quotas};
pub use request::{AuthenticatedRequest, RawRequest, RoutedRequest};
pub use response::{Response, ResponseBody};
