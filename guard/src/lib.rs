//! The policy of use: who may use which key for what.
//!
//! ```text
//! text ─ bounds (scan) ─ Cedar's parser ─ strict validation by our schema ─▶ Policy
//! Policy + Attributes (what a request says, and the attested clock) ─▶ Decision, with the rule that decided
//! ```
//! The enclave and the operator's tool use the same code: what the tool accepts, the enclave accepts, and both decide alike.
//!
//! Guarantees: nothing is permitted but by a `permit` that holds while no `forbid` holds and no policy fails; text of any content
//! stops neither the process nor a thread for long, since length, depth and width are bounded before the parser sees them. Assumes:
//! what attributes say is true, for which AWS vouches. Refuses: templates, and whatever the schema does not know.

mod policy;
mod preset;
mod principal;
mod problem;
mod request;
mod scan;

pub use policy::{Decision, Ground, Policy};
pub use preset::{Preset, PresetError, PresetSettings};
pub use principal::{Principal, PrincipalKind};
pub use problem::{Invalid, Problem};
pub use request::{Attributes, KmsKey};

/// The published schema, in Cedar's human syntax.
pub const SCHEMA: &str = include_str!("../schema/holdfast.cedarschema");
