//! One misshapen document for each rule of section 6 of the design, and the error that names the rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use holdfast_devkit::nsm::chain::{CertificateSpec, EmulatedChain};
use holdfast_devkit::nsm::document::DocumentBuilder;
use holdfast_devkit::nsm::root::EmulatedRoot;
use holdfast_shared::attestation::{
    AppraisalError, CertificateError, Expectations, Expected, Measurements, ParsedDocument, Position, TrustRoot,
    VerifiedAttestation, VerifyError,
};

#[path = "attestation_rules/appraisal.rs"]
mod appraisal;
#[path = "attestation_rules/path.rs"]
mod path;
#[path = "attestation_rules/shape.rs"]
mod shape;

const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";
/// 2027-01-15 08:00:00 UTC.
const NOW_MS: u64 = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const NONCE: &[u8] = b"a nonce of this challenge";
const PUBLIC_KEY: &[u8] = b"a public key";
const USER_DATA: &[u8] = b"user data";

struct Fixture {
    root: EmulatedRoot,
    trust: TrustRoot,
    chain: EmulatedChain,
}

impl Fixture {
    fn new() -> Self {
        let root = EmulatedRoot::generate().unwrap();
        Self {
            trust: root.trust_root().unwrap(),
            chain: EmulatedChain::standard(&root, MODULE_ID, NOW_MS).unwrap(),
            root,
        }
    }

    /// A document that passes every rule.
    fn good(&self) -> DocumentBuilder {
        good(&self.chain)
    }

    /// The verdict on a chain that differs from the standard in some certificate.
    fn verdict_on(&self, change: impl FnOnce(&mut [CertificateSpec; 4])) -> Result<(), VerifyError> {
        let mut specs = CertificateSpec::standard(MODULE_ID, NOW_MS);
        change(&mut specs);
        let chain = EmulatedChain::issue(&self.root, &specs).unwrap();
        let document = good(&chain);
        // A key on P-256 makes no signature of the document's kind.
        let document = if specs[3].p256 { document.signature(&[1; 96]) } else { document };
        verify(&document, &self.trust, NOW_MS)
    }

    fn appraise(
        &self,
        document: &DocumentBuilder,
        expected: &Expectations<'_>,
        now_ms: u64,
    ) -> Result<VerifiedAttestation, AppraisalError> {
        let parsed = ParsedDocument::parse(&document.build().unwrap()).unwrap();
        parsed.verify(&self.trust, NOW_MS).unwrap().appraise(expected, now_ms)
    }
}

fn good(chain: &EmulatedChain) -> DocumentBuilder {
    DocumentBuilder::new(chain, MODULE_ID, NOW_MS)
        .pcrs(&pcrs())
        .nonce(Some(NONCE))
        .public_key(Some(PUBLIC_KEY))
        .user_data(Some(USER_DATA))
}

fn pcrs() -> BTreeMap<u8, [u8; 48]> {
    let measured = |index: u8| if matches!(index, 3 | 5..=15) { 0 } else { index + 1 };
    (0..=16).map(|index| (index, [measured(index); 48])).collect()
}

fn accepted() -> Measurements {
    Measurements::shown_by(&pcrs()).unwrap()
}

fn expectations(accepted: &[Measurements]) -> Expectations<'_> {
    Expectations {
        nonce: NONCE,
        max_age_ms: 5 * MINUTE_MS,
        accepted,
        user_data: Expected::Exactly(USER_DATA),
        public_key: Expected::Present,
    }
}

fn verify(document: &DocumentBuilder, trust: &TrustRoot, now_ms: u64) -> Result<(), VerifyError> {
    ParsedDocument::parse(&document.build().unwrap()).unwrap().verify(trust, now_ms).map(|_| ())
}

fn refused<T>(position: Position, rule: CertificateError) -> Result<T, VerifyError> {
    Err(VerifyError::Certificate { position, rule })
}
