//! Attestation documents: the parser against a second one, and nothing verifies that the pinned root's keys did not sign.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use holdfast_devkit::nsm::{DocumentBuilder, EmulatedChain, EmulatedRoot, document};
use holdfast_shared::attestation::{
    Expectations, Expected, Measurements, ParsedDocument, TrustRoot, VerifiedAttestation, inspect,
};
use holdfast_shared::limits::{
    ATTESTATION_CABUNDLE_MAX, ATTESTATION_CERTIFICATE_MAX, ATTESTATION_DOCUMENT_MAX, ATTESTATION_FIELD_MAX,
    ATTESTATION_PAYLOAD_MAX, ATTESTATION_SKEW_MS,
};
use x509_cert::der::{Decode, Encode};

use super::Verdict;
use super::cbor_reader::{self, Item};
use super::input::Input;
use super::party::NOW_MS;

/// The real document of an AWS Nitro enclave, and when it was made.
pub(super) static AWS_DOCUMENT: &[u8] = include_bytes!("../../vectors/attestation/nitro-attestation-2024-12-13.cbor");
const AWS_MADE_MS: u64 = 1_734_075_478_960;
/// Bytes of the signature at the end of a document.
const SIGNATURE_LEN: usize = 96;

/// An emulated root with a chain below it, new in each process: no file can hold what it signs.
struct Emulation {
    root: TrustRoot,
    chain: EmulatedChain,
}

static EMULATION: LazyLock<Emulation> = LazyLock::new(|| {
    let root = EmulatedRoot::generate().unwrap();
    let chain = EmulatedChain::standard(&root, MODULE, NOW_MS).unwrap();
    Emulation { root: root.trust_root().unwrap(), chain }
});

static AWS_ROOT: LazyLock<TrustRoot> = LazyLock::new(TrustRoot::aws);

const MODULE: &str = "i-0123456789abcdef0-enc0123456789abcdef";
const NONCE: &[u8] = b"nonce";
const PCR: [u8; 48] = [7; 48];

/// Documents as they come, under the AWS root.
pub fn attestation_document(data: &[u8]) -> Verdict {
    let parsed = ParsedDocument::parse(data);
    let second = read(data);
    assert_eq!(parsed.is_ok(), second.is_some(), "two readers disagree: {parsed:?}");
    let report = inspect(data, &AWS_ROOT, AWS_MADE_MS);
    assert_eq!(report.statement.is_some(), second.is_some());
    if let (Some(statement), Some(second)) = (&report.statement, &second) {
        let named = (statement.module_id.as_str(), statement.timestamp_ms);
        assert_eq!(named, (second.module_id, second.timestamp_ms));
        assert_eq!(statement.pcr_indexes, second.pcrs.keys().copied().collect::<Vec<_>>());
        let hexadecimal = |field: Option<&[u8]>| field.map(hex::encode);
        let fields = [&statement.public_key, &statement.user_data, &statement.nonce];
        assert_eq!(fields.map(Clone::clone), [second.public_key, second.user_data, second.nonce].map(hexadecimal));
    }
    if report.verified {
        // ECDSA allows a second signature for each, so the signature itself is left out.
        let signed = |document: &[u8]| {
            let untagged = document.strip_prefix(&[0xd2]).unwrap_or(document);
            untagged[..untagged.len() - SIGNATURE_LEN].to_vec()
        };
        assert_eq!(signed(data), signed(AWS_DOCUMENT), "what AWS never signed verifies");
    }
    Verdict::from(report.verified)
}

/// Documents that a genuine (emulated) NSM signed, whatever their payload became: `op` bytes with their operands, see
/// `change`. They verify exactly when the payload has the one shape and names the true chain, and are appraised by the rules.
pub fn attestation_signed(data: &[u8]) -> Verdict {
    let emulation = &*EMULATION;
    let mut flips = Vec::new();
    let document = build(Input::new(data), &mut flips, |builder| builder.nonce(Some(NONCE)).public_key(Some(b"key")));
    let verified = |document: &[u8]| {
        ParsedDocument::parse(document).ok().and_then(|parsed| parsed.verify(&emulation.root, NOW_MS).ok())
    };
    let second = read(&document).filter(|second| {
        second.certificate == emulation.chain.certificate() && second.cabundle.get(1..) == Some(&authorities()[..])
    });
    let genuine = verified(&document);
    assert_eq!(genuine.is_some(), second.is_some(), "a signed document of the one shape verifies, and no other");
    let mut changed = document.clone();
    for (position, flip) in flips {
        let at = position % changed.len();
        changed[at] ^= flip;
    }
    let same = |bytes: &[u8]| bytes.strip_prefix(&[0xd2]).unwrap_or(bytes).to_vec();
    assert!(same(&changed) == same(&document) || verified(&changed).is_none(), "a changed document verifies");
    let (Some(genuine), Some(second)) = (genuine, second) else { return Verdict::Refused };
    let accepted = [Measurements { pcr0: PCR, pcr1: PCR, pcr2: PCR, pcr16: PCR, pcr3: None, pcr4: None, pcr8: None }];
    let expected = Expectations {
        nonce: NONCE,
        max_age_ms: 1000,
        accepted: &accepted,
        user_data: Expected::Absent,
        public_key: Expected::Present,
    };
    let appraised = genuine.appraise(&expected, NOW_MS);
    assert_eq!(appraised.is_ok(), is_acceptable(&second), "{appraised:?}");
    Verdict::from(appraised.as_ref().map(VerifiedAttestation::nonce) == Ok(NONCE))
}

/// A document that the emulated NSM signs: what `start` makes of a good one, with all changes of `input`. Changes after the
/// signature are added to `flips`.
pub(super) fn build(
    mut input: Input<'_>,
    flips: &mut Vec<(usize, u8)>,
    start: impl FnOnce(DocumentBuilder) -> DocumentBuilder,
) -> Vec<u8> {
    let builder = DocumentBuilder::new(&EMULATION.chain, MODULE, NOW_MS);
    let mut builder = start(builder.pcrs(&BTreeMap::from([(0, PCR), (1, PCR), (2, PCR), (16, PCR)])));
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        builder = change(builder, &mut input, flips);
    }
    builder.build().unwrap()
}

/// The emulated root.
pub(super) fn root() -> &'static TrustRoot {
    &EMULATION.root
}

/// Rule 6 of section 6 of the design, once more.
fn is_acceptable(second: &Payload<'_>) -> bool {
    let oldest = NOW_MS - 1000 - ATTESTATION_SKEW_MS;
    second.nonce == Some(NONCE)
        && (oldest..=NOW_MS + ATTESTATION_SKEW_MS).contains(&second.timestamp_ms)
        && [0, 1, 2, 16].iter().all(|index| second.pcrs.get(index) == Some(&PCR.as_slice()))
        && second.user_data.is_none()
        && second.public_key.is_some()
}

fn authorities() -> Vec<Vec<u8>> {
    EMULATION.chain.cabundle()[1..].to_vec()
}

const FIELDS: [&str; 10] = [
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
    "public_key",
    "user_data",
    "nonce",
    "unknown",
];

/// One change of a document.
fn change(builder: DocumentBuilder, input: &mut Input<'_>, flips: &mut Vec<(usize, u8)>) -> DocumentBuilder {
    let name = |input: &mut Input<'_>| FIELDS[usize::from(input.byte()) % FIELDS.len()];
    match input.byte() {
        b'f' => builder.field(name(input), input.field().to_vec()),
        b'd' => builder.duplicate(name(input), input.field().to_vec()),
        b'w' => builder.without(name(input)),
        b'r' => builder.reversed(),
        b't' => builder.tag(input.byte() % 24),
        b'p' => builder.protected(input.field()),
        b'u' => builder.unprotected(input.field()),
        b'n' => builder.nonce(Some(input.field())),
        b'k' => builder.public_key(Some(input.field())),
        b's' => builder.user_data(Some(input.field())),
        b'm' => {
            builder.field("timestamp", document::unsigned(NOW_MS - 70_000 + u64::try_from(input.number()).unwrap() * 4))
        }
        b'c' => {
            // The true chain, in another order or number.
            let all = EMULATION.chain.cabundle();
            let count = usize::from(input.byte()) % 12;
            let chosen: Vec<_> = (0..count).map(|_| all[usize::from(input.byte()) % all.len()].clone()).collect();
            builder.cabundle(&chosen)
        }
        b'q' => {
            let mut pcrs = BTreeMap::new();
            for _ in 0..input.byte() % 33 {
                let fill = input.byte();
                pcrs.insert(input.byte(), [fill; 48]);
            }
            builder.pcrs(&pcrs)
        }
        b'i' => {
            let mut payload = builder.payload_bytes();
            let at = input.number() % (payload.len() + 1);
            let end = (at + usize::from(input.byte())).min(payload.len());
            payload.splice(at..end, input.field().iter().copied());
            builder.payload(&payload)
        }
        b'x' => {
            flips.push((input.number(), input.byte()));
            builder
        }
        _ => builder,
    }
}

/// A certificate, as every place of a document may hold it.
pub fn attestation_certificate(data: &[u8]) -> Verdict {
    let emulation = &*EMULATION;
    let root = TrustRoot::emulated(data);
    let mut bundle = emulation.chain.cabundle();
    bundle.truncate(2);
    bundle.push(data.to_vec());
    let builder = DocumentBuilder::new(&emulation.chain, MODULE, NOW_MS).signature(&[1; SIGNATURE_LEN]);
    let document = builder.field("certificate", document::bytes(data)).cabundle(&bundle).build().unwrap();
    let report = inspect(&document, &emulation.root, NOW_MS);
    assert!(!report.verified, "nobody signed this document");
    let accepted = !report.chain.is_empty();
    assert!(accepted || root.is_err(), "a root that is no certificate");
    if accepted {
        assert!((1..=ATTESTATION_CERTIFICATE_MAX).contains(&data.len()));
        let certificate = x509_cert::Certificate::from_der(data).unwrap();
        assert_eq!(certificate.to_der().unwrap(), data, "not the one encoding of this certificate");
    }
    if let Ok(root) = root {
        assert_eq!(root.fingerprint(), holdfast_shared::sha256(&[data]));
    }
    Verdict::from(accepted)
}

/// What the second reader found in a document.
pub(super) struct Payload<'a> {
    module_id: &'a str,
    pub(super) timestamp_ms: u64,
    pcrs: BTreeMap<u8, &'a [u8]>,
    certificate: &'a [u8],
    cabundle: Vec<Vec<u8>>,
    pub(super) public_key: Option<&'a [u8]>,
    pub(super) user_data: Option<&'a [u8]>,
    pub(super) nonce: Option<&'a [u8]>,
}

/// Rules 1 to 3 of section 6 of the design, once more.
pub(super) fn read(document: &[u8]) -> Option<Payload<'_>> {
    let envelope = cbor_reader::read(document).filter(|_| document.len() <= ATTESTATION_DOCUMENT_MAX)?;
    let envelope = if let Item::Tag(18, inner) = envelope { *inner } else { envelope };
    let [protected, unprotected, payload, signature] = envelope.array()? else { return None };
    let payload = payload.bytes()?;
    let fits = protected.bytes() == Some(&[0xa1, 0x01, 0x38, 0x22])
        && *unprotected == Item::Map(Vec::new())
        && payload.len() <= ATTESTATION_PAYLOAD_MAX
        && signature.bytes()?.len() == SIGNATURE_LEN;
    let Item::Map(entries) = cbor_reader::read(payload).filter(|_| fits)? else { return None };
    let mut fields = BTreeMap::new();
    for (name, value) in entries {
        let Item::Text(name) = name else { return None };
        if !FIELDS[..9].contains(&name) || fields.insert(name, value).is_some() {
            return None;
        }
    }
    let optional = |name: &str| match fields.get(name) {
        None | Some(Item::Simple(22)) => Some(None),
        Some(value) => value.bytes().filter(|bytes| bytes.len() <= ATTESTATION_FIELD_MAX).map(Some),
    };
    let is_certificate = |bytes: &&[u8]| (1..=ATTESTATION_CERTIFICATE_MAX).contains(&bytes.len());
    let Item::Text(module_id) = fields.get("module_id")? else { return None };
    let Item::Unsigned(timestamp_ms) = *fields.get("timestamp")? else { return None };
    let Item::Map(registers) = fields.get("pcrs")? else { return None };
    let mut pcrs = BTreeMap::new();
    for (index, value) in registers {
        let Item::Unsigned(index) = *index else { return None };
        let value = value.bytes().filter(|value| value.len() == 48)?;
        let index = u8::try_from(index).ok().filter(|index| *index < 32)?;
        if pcrs.insert(index, value).is_some() {
            return None;
        }
    }
    let bundle = fields.get("cabundle")?.array()?;
    let cabundle: Option<Vec<_>> = bundle.iter().map(|entry| entry.bytes().filter(is_certificate)).collect();
    let cabundle: Vec<_> = cabundle?.into_iter().map(<[u8]>::to_vec).collect();
    let rules = !module_id.is_empty()
        && fields.get("digest") == Some(&Item::Text("SHA384"))
        && timestamp_ms > 0
        && !pcrs.is_empty()
        && (1..=ATTESTATION_CABUNDLE_MAX).contains(&cabundle.len());
    rules.then_some(Payload {
        module_id,
        timestamp_ms,
        pcrs,
        certificate: fields.get("certificate")?.bytes().filter(is_certificate)?,
        cabundle,
        public_key: optional("public_key")?,
        user_data: optional("user_data")?,
        nonce: optional("nonce")?,
    })
}
