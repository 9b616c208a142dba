//! Nitro attestation documents, from hostile bytes to evidence that a secret may be wrapped for.
//!
//! ```text
//! bytes ─parse→ ParsedDocument ─verify(root, now)→ VerifiedDocument ─appraise(expectations, now)→ VerifiedAttestation
//!       shape                   path and signature                   challenge, age, measurements, fields
//! ```
//!
//! Guarantees: section 6 of the design, in its order; each stage takes what only the one before returns; each error
//! names the first rule broken and has a stable text. Assumes: the caller's clock and its choice of root. Refuses:
//! whatever the NSM would not write, and every way around a stage. `docs/adr/0002-attestation-parser.md` says why the
//! parser is ours.

mod appraise;
mod certificate;
mod document;
mod image;
mod inspect;
pub mod measurements;
mod reader;
mod root;
mod verify;

pub use appraise::{AppraisalError, Expectations, Expected, VerifiedAttestation};
pub use certificate::{CertificateError, CertificateSummary, Position};
pub use document::{ParseError, ParsedDocument};
pub use image::{
    ImageFile, ImageFormat, ImageKernel, ImageKernelBuild, ImageMeasurements, ImageMeasurementsError, ImageSource,
    ImageToolchain,
};
pub use inspect::{BrokenRule, Report, Stage, Statement, inspect};
pub use measurements::{Measurements, extend_pcr, pcr_of_content};
pub use root::{AWS_ROOT_SHA256, RootError, TrustRoot};
pub use verify::{VerifiedDocument, VerifyError};
