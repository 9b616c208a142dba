//! The life of a request (design, section 3), one type per station, each made only from the one before:
//!
//! ```text
//! RawRequest ─route─► RoutedRequest ─authenticate─► AuthenticatedRequest ─parse─► ParsedRequest<O> ─admit─► AdmittedRequest<O>
//!    404, 405            (a key store)   401           (a valid signature)  400, 501                 400, 503      (lease, keys)
//!
//! AdmittedRequest<O> ─find_key─► KeyedRequest<O> ─authorize─► AuthorizedRequest<O> ─perform─► Finished ─record─► Recorded ─release─► Response
//!                       404 (metadata is answered here: 403)   400, 403, 429         400               503            400, 503
//! ```
//!
//! `GetHealthStatus` goes from `AdmittedRequest` straight to `Finished`: it skips policy, quota and budget, nothing else. What is
//! refused after `AuthenticatedRequest` is recorded as well (`trail`).
//!
//! Guarantees: a [`Response`] with status 200 exists only after a valid signature and with a record in the audit log, with an
//! unexpired lease and unblocked store and key at the moment it was made. Errors carry static texts only. Assumes: the caller writes the response at
//! once. An authorized request cannot be made any other way:
//!
//! ```compile_fail,E0451
//! use holdfast_enclave::xks::{AuthorizedRequest, Decrypt};
//! fn swap_the_key(request: AuthorizedRequest<'_, Decrypt>, other: AuthorizedRequest<'_, Decrypt>) {
//!     let AuthorizedRequest { store, body, .. } = request;
//!     let AuthorizedRequest { key, .. } = other;
//!     let _mixed = AuthorizedRequest::<Decrypt> { store, key, body };
//! }
//! ```
//!
//! nor can a finished answer be sent without passing the gate again:
//!
//! ```compile_fail,E0624
//! use holdfast_enclave::audit::Receipt;
//! use holdfast_enclave::xks::{Response, ResponseBody};
//! fn skip_the_gate(body: ResponseBody, receipt: Receipt) -> Response {
//!     Response::success(body, receipt)
//! }
//! ```
//!
//! nor without a record of it:
//!
//! ```compile_fail,E0451
//! use holdfast_enclave::audit::Receipt;
//! use holdfast_enclave::xks::{Finished, Recorded};
//! fn skip_the_record(finished: Finished, receipt: Receipt) -> Recorded {
//!     Recorded { finished, receipt }
//! }
//! ```
//!
//! of which only an audit log makes the receipt:
//!
//! ```compile_fail,E0423
//! let receipt = holdfast_enclave::audit::Receipt(());
//! ```

mod bucket;
mod budgets;
mod decisions;
mod effort;
mod errors;
mod guard;
mod observer;
mod operation;
mod pipeline;
mod purse;
mod rates;
mod request;
mod response;
mod stages;
mod trail;
mod using;

pub(crate) use bucket::Bucket;
pub(crate) use budgets::Budgets;
pub use effort::Meter;
pub(crate) use effort::thread_time;
pub use errors::Refused;
pub(crate) use errors::{
    BAD_CHUNK, BAD_CODING, BAD_HOST, BODY_TOO_LONG, BUSY, HEAD_TOO_LONG, INTERNAL, NO_KEYS, PROOF_BODY,
    PROOF_KEY_STORE, PROOF_NONCE, PROOF_PARAMETERS, PROOF_SEVERAL, PROOF_TIMEOUT, PROOFS_BUSY, UNKNOWN_PATH,
    UNREADABLE_HEAD,
};
pub use guard::{Denial, DenialKind, Guard, OpenGuard, Permit, Question};
pub use observer::{LoggedRequestId, NoObserver, Outcome, RequestEvent, RequestObserver};
pub use operation::{Decrypt, Encrypt, GetHealthStatus, GetKeyMetadata};
pub use pipeline::{AdmittedRequest, AuthorizedRequest, Finished, KeyedRequest, ParsedRequest, Recorded, answer};
pub(crate) use purse::{Purse, Want};
pub use request::{AuthenticatedRequest, RawRequest, RoutedRequest};
pub use response::{Response, ResponseBody};
pub use stages::{Note, Stage, StageTimes, Stopwatch};
pub use using::{PolicyInForce, UseGuards, UseRules};
