//! A certificate hierarchy shaped like AWS's, and every misshapen one that a verifier must refuse.
//!
//! Guarantees: [`EmulatedChain::standard`] has the names, lifetimes and path lengths observed below the AWS root.
//! Assumes: its key files are worth nothing outside development. Refuses nothing on the way out: a
//! [`CertificateSpec`] says what a certificate holds, right or wrong.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm,
};
use time::OffsetDateTime;

use super::NsmError;
use super::root::EmulatedRoot;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A certificate is made anew when less than this is left of it.
const RENEWAL_MARGIN: Duration = HOUR;

/// What one certificate below the root says.
#[derive(Clone, Debug)]
pub struct CertificateSpec {
    /// CN of the subject.
    pub common_name: String,
    /// CN of the issuer, where it is not the subject of the certificate above.
    pub issuer_name: Option<String>,
    /// Start of the validity, in milliseconds since 1970; certificates count in seconds.
    pub not_before_ms: u64,
    /// End of the validity, in milliseconds since 1970.
    pub not_after_ms: u64,
    /// basicConstraints.
    pub is_ca: IsCa,
    /// keyUsage; none leaves the extension out.
    pub key_usages: Vec<KeyUsagePurpose>,
    /// Further extensions, known, unknown or doubled.
    pub extensions: Vec<CustomExtension>,
    /// Whether its key is on P-256 instead of P-384.
    pub p256: bool,
}

impl CertificateSpec {
    /// A CA with a path length.
    pub fn ca(common_name: &str, now_ms: u64, age: Duration, life: Duration, path_length: u8) -> Self {
        Self {
            is_ca: IsCa::Ca(BasicConstraints::Constrained(path_length)),
            key_usages: vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            ..Self::leaf(common_name, now_ms, age, life)
        }
    }

    /// A certificate that signs documents. Its validity began `age` before now and lasts `life`.
    pub fn leaf(common_name: &str, now_ms: u64, age: Duration, life: Duration) -> Self {
        let not_before_ms = now_ms.saturating_sub(millis(age));
        Self {
            common_name: common_name.to_owned(),
            issuer_name: None,
            not_before_ms,
            not_after_ms: not_before_ms.saturating_add(millis(life)),
            is_ca: IsCa::ExplicitNoCa,
            key_usages: vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment],
            extensions: Vec::new(),
            p256: false,
        }
    }

    /// The four certificates below the AWS root: region, zone, instance, enclave.
    pub fn standard(module_id: &str, now_ms: u64) -> [Self; 4] {
        let instance = module_id.split_once("-enc").map_or(module_id, |(instance, _)| instance);
        [
            Self::ca("emulated.region.holdfast.nitro-enclaves", now_ms, DAY, 20 * DAY, 2),
            Self::ca("emulated.zonal.region.holdfast.nitro-enclaves", now_ms, DAY / 2, 137 * HOUR, 1),
            Self::ca(&format!("{instance}.region.holdfast.nitro-enclaves"), now_ms, HOUR, DAY, 0),
            Self::leaf(&format!("{module_id}.region.holdfast"), now_ms, MINUTE, 3 * HOUR),
        ]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        if self.p256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ECDSA_P384_SHA384 }
    }

    fn params(&self) -> Result<CertificateParams, NsmError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&self.common_name);
        params.not_before = moment(self.not_before_ms)?;
        params.not_after = moment(self.not_after_ms)?;
        params.is_ca = self.is_ca;
        params.key_usages.clone_from(&self.key_usages);
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions.clone_from(&self.extensions);
        Ok(params)
    }

    /// Whether it is valid now and will be for a while.
    fn is_fresh(&self, now_ms: u64) -> bool {
        self.not_before_ms <= now_ms && now_ms.saturating_add(millis(RENEWAL_MARGIN)) <= self.not_after_ms
    }
}

/// One certificate and its key.
struct Level {
    spec: CertificateSpec,
    der: Vec<u8>,
    key: KeyPair,
}

/// A path from a root to a key that signs documents.
pub struct EmulatedChain {
    root: Vec<u8>,
    levels: Vec<Level>,
}

impl EmulatedChain {
    /// A chain shaped like AWS's, valid now.
    ///
    /// # Errors
    /// A key or a certificate could not be made.
    pub fn standard(root: &EmulatedRoot, module_id: &str, now_ms: u64) -> Result<Self, NsmError> {
        Self::issue(root, &CertificateSpec::standard(module_id, now_ms))
    }

    /// A chain of exactly these certificates, the last one being the leaf.
    ///
    /// # Errors
    /// There is none, or a key or a certificate could not be made.
    pub fn issue(root: &EmulatedRoot, specs: &[CertificateSpec]) -> Result<Self, NsmError> {
        let mut chain = Self { root: root.der().to_vec(), levels: Vec::new() };
        for spec in specs {
            chain.push(root, spec)?;
        }
        if chain.levels.is_empty() {
            return Err(NsmError::EmptyChain);
        }
        Ok(chain)
    }

    /// Makes anew what runs out or was made for another enclave, from the first such certificate down.
    ///
    /// # Errors
    /// A key or a certificate could not be made.
    pub fn refresh(&mut self, root: &EmulatedRoot, module_id: &str, now_ms: u64) -> Result<(), NsmError> {
        for (depth, spec) in CertificateSpec::standard(module_id, now_ms).iter().enumerate() {
            let kept = self.levels.get(depth);
            let kept =
                kept.is_some_and(|level| level.spec.common_name == spec.common_name && level.spec.is_fresh(now_ms));
            if !kept {
                self.levels.truncate(depth);
                self.push(root, spec)?;
            }
        }
        Ok(())
    }

    /// `cabundle` of a document: the root first, then every CA certificate.
    pub fn cabundle(&self) -> Vec<Vec<u8>> {
        let below = self.levels.len().saturating_sub(1);
        std::iter::once(&self.root).chain(self.levels.iter().take(below).map(|level| &level.der)).cloned().collect()
    }

    /// `certificate` of a document.
    pub fn certificate(&self) -> &[u8] {
        self.levels.last().map(|leaf| leaf.der.as_slice()).unwrap_or_default()
    }

    /// The leaf's private key, PKCS #8.
    pub(super) fn leaf_key(&self) -> &[u8] {
        self.levels.last().map(|leaf| leaf.key.serialized_der()).unwrap_or_default()
    }

    fn push(&mut self, root: &EmulatedRoot, spec: &CertificateSpec) -> Result<(), NsmError> {
        let key = KeyPair::generate_for(spec.algorithm())?;
        let above = self.levels.last();
        let above_name = above.map_or_else(|| root.common_name(), |level| level.spec.common_name.as_str());
        let above_key = above.map_or_else(|| root.key(), |level| &level.key);
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished_name(spec.issuer_name.as_deref().unwrap_or(above_name));
        let certificate = spec.params()?.signed_by(&key, &Issuer::from_params(&issuer, above_key))?;
        self.levels.push(Level { spec: spec.clone(), der: certificate.der().to_vec(), key });
        Ok(())
    }
}

/// The name of everything in this hierarchy, but for its CN.
pub(super) fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "US");
    name.push(DnType::OrganizationName, "Holdfast emulation");
    name.push(DnType::OrganizationalUnitName, "not AWS");
    name.push(DnType::CommonName, common_name);
    name
}

fn moment(at_ms: u64) -> Result<OffsetDateTime, NsmError> {
    let seconds = i64::try_from(at_ms / 1000).map_err(|_| NsmError::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| NsmError::Time)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
