//! `holdfast attestation inspect`: what a document proves, or the first rule that it breaks.

use core::fmt;

use holdfast_shared::attestation::{Report, Stage, TrustRoot, inspect as inspect_document};
use serde::Serialize;

use crate::moment::format_ms;

/// A report that can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct InspectionReport(pub Report);

/// Verifies `document` under `root` as of `at_ms`.
#[must_use]
pub fn inspect(document: &[u8], root: &TrustRoot, at_ms: u64) -> InspectionReport {
    InspectionReport(inspect_document(document, root, at_ms))
}

impl fmt::Display for InspectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.0;
        let at = format_ms(report.at_ms);
        match &report.broken {
            None if report.verified => writeln!(f, "VERIFIED as of {at}")?,
            None => writeln!(f, "REFUSED as of {at}")?,
            Some(broken) => {
                let stage = match broken.stage {
                    Stage::Parse => "its shape",
                    Stage::Verify => "its certificates or signature",
                };
                writeln!(f, "REFUSED as of {at}, because of {stage}: {}", broken.rule)?;
            }
        }
        let kind = if report.root_is_aws { "AWS Nitro Enclaves" } else { "EMULATED, not AWS's" };
        write!(f, "root        {kind}, SHA-256 {}", report.root_fingerprint)?;
        let Some(statement) = &report.statement else { return Ok(()) };
        if !report.verified {
            write!(f, "\nwhat it claims, UNPROVEN:")?;
        }
        write!(f, "\nmodule      {}", statement.module_id)?;
        write!(f, "\nmade at     {}", format_ms(statement.timestamp_ms))?;
        if statement.debug_mode {
            write!(f, "\nDEBUG MODE  PCR 0, 1 and 2 are zero: no release policy accepts this enclave")?;
        }
        for (index, value) in &statement.pcrs {
            write!(f, "\nPCR {index:<7} {value}")?;
        }
        let fields =
            [("public_key", &statement.public_key), ("user_data", &statement.user_data), ("nonce", &statement.nonce)];
        for (name, value) in fields {
            write!(f, "\n{name:<11} {}", value.as_deref().unwrap_or("none"))?;
        }
        for certificate in &report.chain {
            let until = |seconds: u64| format_ms(seconds.saturating_mul(1000));
            write!(
                f,
                "\ncertificate {} ({} to {})",
                certificate.subject,
                until(certificate.not_before_s),
                until(certificate.not_after_s)
            )?;
        }
        Ok(())
    }
}
