//! Client certificates: who is let in where a key store asks for them (specification, section "Authentication").

use std::sync::Arc;

use holdfast_enclave::tls::provider;
use holdfast_shared::keystore::ClientAuthentication;
use holdfast_shared::manifest::DerCertificate;
use rcgen::string::{BmpString, PrintableString, TeletexString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;

use super::{Met, VERSIONS, client, health, meet, sessions, store};
use crate::fixture::{HOST, PREFIX, WALL_MS, World};
use crate::wire::{Client, connect_with, pipe};

const KMS: &str = "cks.kms.eu-west-1.amazonaws.com";
const OTHER_REGION: &str = "cks.kms.us-east-1.amazonaws.com";

const REFUSED: Met = Met::Alert(AlertDescription::HandshakeFailure);

/// An authority of client certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn as_authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = (as_authority(name), KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (as_authority(name), KeyPair::generate().unwrap());
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn certify(&self, params: &CertificateParams) -> Holder {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Holder { chain: vec![leaf], key: key.serialize_der() }
    }

    /// What KMS has.
    fn kms(&self) -> Holder {
        self.certify(&params(named(KMS)))
    }

    fn setting(&self, names: &[&str]) -> Arc<ClientAuthentication> {
        setting(&[self], names)
    }
}

fn setting(authorities: &[&Authority], names: &[&str]) -> Arc<ClientAuthentication> {
    Arc::new(ClientAuthentication {
        authorities: authorities.iter().map(|authority| DerCertificate(authority.der.clone())).collect(),
        subject_common_names: names.iter().map(|name| (*name).to_owned()).collect(),
    })
}

fn params(subject: DistinguishedName) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = subject;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn day(days: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(WALL_MS / 1000).unwrap() + days * 86_400).unwrap()
}

/// A certificate chain and its key.
struct Holder {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Holder {
    fn with(mut self, intermediates: &[&Authority]) -> Self {
        self.chain.extend(intermediates.iter().map(|authority| CertificateDer::from(authority.der.clone())));
        self
    }

    fn client(&self, world: &World, version: &'static SupportedProtocolVersion) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(world.ca.root.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(self.chain.clone(), self.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

fn subject(parts: Vec<(DnType, DnValue)>) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    for (kind, value) in parts {
        subject.push(kind, value);
    }
    params(subject)
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.to_owned())
}

/// rcgen keeps one entry for each type, so a second common name needs another way to write the same type.
fn second_common_name() -> DnType {
    DnType::CustomDnType(vec![2, 5, 4, 3])
}

/// Everything that differs from what the setting says, one thing at a time.
fn applicants(root: &Authority) -> Vec<(&'static str, Holder, Met)> {
    let ok = Met::Status(200);
    let stranger = Authority::root("clients");
    let middle = root.below("between");
    let deep: Vec<Authority> = (0..6).fold(Vec::new(), |mut chain, level| {
        let next = chain.last().unwrap_or(root).below(&format!("level {level}"));
        chain.push(next);
        chain
    });
    let six: Vec<&Authority> = deep.iter().rev().collect();
    let common_name = |value: DnValue| root.certify(&subject(vec![(DnType::CommonName, value)]));
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params(named(KMS));
        change(&mut params);
        root.certify(&params)
    };
    let printable = DnValue::PrintableString(PrintableString::try_from(KMS).unwrap());
    let teletex = DnValue::TeletexString(TeletexString::try_from(KMS).unwrap());
    let bmp = DnValue::BmpString(BmpString::try_from(KMS).unwrap());
    let with_more = vec![
        (DnType::CountryName, utf8("US")),
        (DnType::OrganizationName, utf8("Amazon.com, Inc.")),
        (DnType::CommonName, utf8(KMS)),
    ];
    let twice = |second: &str| {
        root.certify(&subject(vec![(DnType::CommonName, utf8(KMS)), (second_common_name(), utf8(second))]))
    };
    let only_alternative = changed(&|params| {
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::DnsName(KMS.try_into().unwrap())];
    });
    vec![
        ("as KMS", root.kms(), ok),
        ("a PrintableString", common_name(printable), Met::Status(200)),
        ("more in the subject", root.certify(&subject(with_more)), Met::Status(200)),
        ("an intermediate authority", middle.kms().with(&[&middle]), Met::Status(200)),
        ("no extended key usage", changed(&|params| params.extended_key_usages.clear()), Met::Status(200)),
        ("another region", common_name(utf8(OTHER_REGION)), REFUSED),
        ("another name", common_name(utf8("mallory")), REFUSED),
        ("upper case", common_name(utf8("CKS.KMS.EU-WEST-1.AMAZONAWS.COM")), REFUSED),
        ("a space behind", common_name(utf8("cks.kms.eu-west-1.amazonaws.com ")), REFUSED),
        ("a zero byte behind", common_name(utf8("cks.kms.eu-west-1.amazonaws.com\0")), REFUSED),
        ("a name below", common_name(utf8("a.cks.kms.eu-west-1.amazonaws.com")), REFUSED),
        ("a name above", common_name(utf8("kms.eu-west-1.amazonaws.com")), REFUSED),
        ("no name", common_name(utf8("")), REFUSED),
        ("an empty subject", root.certify(&params(DistinguishedName::new())), REFUSED),
        ("only an alternative name", only_alternative, REFUSED),
        ("the name as organization", root.certify(&subject(vec![(DnType::OrganizationName, utf8(KMS))])), REFUSED),
        ("two names, the second another's", twice("mallory"), REFUSED),
        ("two names, both right", twice(KMS), REFUSED),
        ("a TeletexString", common_name(teletex), REFUSED),
        ("a BMPString", common_name(bmp), REFUSED),
        ("another authority of the same name", stranger.kms(), REFUSED),
        ("the right authority only presented", stranger.kms().with(&[root]), REFUSED),
        ("an intermediate that is missing", middle.kms(), REFUSED),
        ("six intermediates", deep.last().unwrap().kms().with(&six), REFUSED),
        ("only for servers", changed(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), REFUSED),
        ("an authority itself", changed(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), REFUSED),
        ("expired", changed(&|p| p.not_after = day(-1)), REFUSED),
        ("not valid yet", changed(&|p| p.not_before = day(1)), REFUSED),
    ]
}

/// Has the world's key store ask for KMS's certificate. Gives a client with another's, and one with KMS's.
pub(super) fn refused_and_accepted(
    world: &World,
    version: &'static SupportedProtocolVersion,
) -> (ClientConfig, ClientConfig) {
    let root = Authority::root("clients");
    world.directory.replace(vec![store(world, 1, PREFIX, Some(&root.setting(&[KMS])))]).unwrap();
    let other = root.certify(&params(named("mallory")));
    (other.client(world, version), root.kms().client(world, version))
}

/// "The XKS proxy MUST terminate the TLS handshake if the client presents a certificate containing a different subject name
/// or chained to a different certificate authority."
#[tokio::test]
async fn only_the_named_subject_under_the_named_authority_is_let_in() {
    let world = World::new();
    let root = Authority::root("clients");
    world.directory.replace(vec![store(&world, 1, PREFIX, Some(&root.setting(&[KMS])))]).unwrap();
    let mut wrong = Vec::new();
    for (what, holder, expected) in applicants(&root) {
        for version in VERSIONS {
            let met = meet(&world, &holder.client(&world, version), &health(PREFIX)).await;
            if met != expected {
                wrong.push((what, version.version, met));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The proof that the client holds the key is part of the handshake.
#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let world = World::new();
    let root = Authority::root("clients");
    world.directory.replace(vec![store(&world, 1, PREFIX, Some(&root.setting(&[KMS])))]).unwrap();
    let mut thief = root.kms();
    let key = KeyPair::generate().unwrap();
    thief.key = key.serialize_der();
    for version in VERSIONS {
        let mut config = client(&world, provider(), version);
        let signing_key = provider().key_provider.load_private_key(thief.private_key()).unwrap();
        config.client_auth_cert_resolver =
            Arc::new(Thief(Arc::new(rustls::sign::CertifiedKey::new(thief.chain.clone(), signing_key))));
        let met = meet(&world, &config, &health(PREFIX)).await;
        assert_eq!(met, Met::Alert(AlertDescription::DecryptError), "{version:?}");
    }
}

/// Shows a certificate and signs with a key that does not belong to it.
#[derive(Debug)]
struct Thief(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Off by default; where it is on, nobody gets in without a certificate.
#[tokio::test]
async fn certificates_are_asked_for_only_where_a_key_store_says_so() {
    let world = World::new();
    let root = Authority::root("clients");
    for version in VERSIONS {
        let (with, without) = (root.kms().client(&world, version), client(&world, provider(), version));
        world.directory.replace(vec![store(&world, 1, PREFIX, None)]).unwrap();
        assert_eq!(meet(&world, &without, &health(PREFIX)).await, Met::Status(200));
        assert_eq!(meet(&world, &with, &health(PREFIX)).await, Met::Status(200), "nobody asks");
        world.directory.replace(vec![store(&world, 1, PREFIX, Some(&root.setting(&[KMS])))]).unwrap();
        let met = meet(&world, &without, &health(PREFIX)).await;
        assert_eq!(met, Met::Alert(AlertDescription::CertificateRequired));
        assert_eq!(meet(&world, &with, &health(PREFIX)).await, Met::Status(200));
    }
}

/// An authority of one setting lends nothing to the names of another; in the handshake either is enough, and each request
/// must meet its own key store's.
#[tokio::test]
async fn key_stores_under_one_host_keep_their_own_settings() {
    let world = World::new();
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let stores = [("/a", Some(a.setting(&[KMS]))), ("/b", Some(b.setting(&[OTHER_REGION]))), ("/open", None)];
    let stores = stores.iter().zip(1..).map(|((prefix, setting), id)| store(&world, id, prefix, setting.as_ref()));
    assert_eq!(world.directory.replace(stores.collect()).unwrap(), []);
    let of = |authority: &Authority, name: &str| authority.certify(&params(named(name)));
    let cases = [
        (of(&a, KMS), [Met::Status(200), Met::Status(401), Met::Status(200)]),
        (of(&b, OTHER_REGION), [Met::Status(401), Met::Status(200), Met::Status(200)]),
        (of(&a, OTHER_REGION), [REFUSED, REFUSED, REFUSED]),
        (of(&b, KMS), [REFUSED, REFUSED, REFUSED]),
    ];
    for (number, (holder, expected)) in cases.iter().enumerate() {
        for version in VERSIONS {
            for (prefix, expected) in ["/a", "/b", "/open"].iter().zip(expected) {
                let met = meet(&world, &holder.client(&world, version), &health(prefix)).await;
                assert_eq!(met, *expected, "{number} {prefix} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn several_authorities_and_names_are_alternatives() {
    let world = World::new();
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let both = setting(&[&a, &b], &[KMS, OTHER_REGION]);
    world.directory.replace(vec![store(&world, 1, PREFIX, Some(&both))]).unwrap();
    for authority in [&a, &b] {
        for (name, expected) in [(KMS, Met::Status(200)), (OTHER_REGION, Met::Status(200)), ("third", REFUSED)] {
            let holder = authority.certify(&params(named(name)));
            assert_eq!(meet(&world, &holder.client(&world, &TLS13), &health(PREFIX)).await, expected, "{name}");
        }
    }
}

/// A setting counts from the next request on, also for connections that are open: a 401 as for a wrong signature.
#[tokio::test]
async fn open_connections_are_held_against_the_setting_of_now() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (a, b) = (Authority::root("a"), Authority::root("b"));
        world.directory.replace(vec![store(&world, 1, PREFIX, None)]).unwrap();
        let (mut stranger, _served) = Client::open(&world, protocol).await;
        assert_eq!(stranger.call(&health(PREFIX)).await.0, 200);
        world.directory.replace(vec![store(&world, 1, PREFIX, Some(&a.setting(&[KMS])))]).unwrap();
        let (status, answer) = stranger.call(&health(PREFIX)).await;
        assert_eq!((status, answer["errorName"].as_str()), (401, Some("AuthenticationFailedException")));

        let (stream, _served) = pipe(world.context());
        let mut config = a.kms().client(&world, &TLS13);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let mut kms = Client::over(connect_with(config, HOST, stream).await.unwrap(), protocol).await;
        for (setting, expected) in [
            (Some(a.setting(&[KMS])), 200),
            (Some(a.setting(&[OTHER_REGION])), 401),
            (Some(b.setting(&[KMS])), 401),
            (Some(a.setting(&[OTHER_REGION, KMS])), 200),
            (None, 200),
        ] {
            world.directory.replace(vec![store(&world, 1, PREFIX, setting.as_ref())]).unwrap();
            for _ in 0..2 {
                assert_eq!(kms.call(&health(PREFIX)).await.0, expected, "{protocol} {setting:?}");
            }
        }
    }
}

/// A certificate may expire while its connection is open; that is noticed within a minute.
#[tokio::test]
async fn an_expired_certificate_ends_an_open_connections_rights() {
    let world = World::new();
    let root = Authority::root("clients");
    world.directory.replace(vec![store(&world, 1, PREFIX, Some(&root.setting(&[KMS])))]).unwrap();
    world.gate.set_lease_expiry(u64::MAX);
    let mut short = params(named(KMS));
    short.not_after = day(1);
    let config = root.certify(&short).client(&world, &TLS13);
    let (stream, _served) = pipe(world.context());
    let mut kms = Client::over(connect_with(config, HOST, stream).await.unwrap(), "http/1.1").await;
    assert_eq!(kms.call(&health(PREFIX)).await.0, 200);
    let mut elapsed_ms = 0;
    for (at_ms, expected) in [(86_400_000 - 1000, 200), (86_400_000 + 60_000, 401)] {
        world.clock.advance_ms(at_ms - elapsed_ms);
        elapsed_ms = at_ms;
        let call = crate::fixture::Call { wall_ms: WALL_MS + at_ms, ..health(PREFIX) };
        assert_eq!(kms.call(&call).await.0, expected, "after {at_ms} ms");
    }
}

/// A resumed session stands for the certificate of the handshake that made it; another setting ends it.
#[tokio::test]
async fn a_resumed_session_keeps_its_client_until_the_setting_changes() {
    for version in VERSIONS {
        let world = World::new();
        let (a, b) = (Authority::root("a"), Authority::root("b"));
        let serve = |first: &Arc<ClientAuthentication>| {
            let stores = vec![store(&world, 1, PREFIX, Some(first)), store(&world, 2, "/b", Some(&b.setting(&[KMS])))];
            world.directory.replace(stores).unwrap();
        };
        serve(&a.setting(&[KMS]));
        let mut config = a.kms().client(&world, version);
        sessions::remembering(&mut config);
        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Full);
        let (stream, _served) = pipe(world.context());
        let stream = connect_with(config.clone(), HOST, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        let mut kms = Client::over(stream, "http/1.1").await;
        assert_eq!(kms.call(&health(PREFIX)).await.0, 200, "{version:?}");
        assert_eq!(kms.call(&health("/b")).await.0, 401, "{version:?}");

        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Resumed);
        serve(&a.setting(&[KMS]));
        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Resumed, "an equal setting");
        serve(&a.setting(&[KMS, OTHER_REGION]));
        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Full, "another setting");
        world.directory.replace(vec![store(&world, 1, PREFIX, None)]).unwrap();
        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Full, "none");
        serve(&a.setting(&[KMS]));
        assert_eq!(sessions::shake(&world, &config, HOST).await, HandshakeKind::Full, "the first again");
    }
}

/// A setting that nobody can meet closes its own host and no other.
#[tokio::test]
async fn an_unreadable_authority_closes_its_own_host_only() {
    let world = World::new();
    let root = Authority::root("clients");
    let broken = Arc::new(ClientAuthentication {
        authorities: vec![DerCertificate(vec![0x30, 0])],
        subject_common_names: vec![KMS.to_owned()],
    });
    let identity = world.ca.identity("other.example.com", 1);
    let other = crate::fixture::key_store(2, 2, "other.example.com", PREFIX, &identity);
    let stores = vec![store(&world, 1, PREFIX, Some(&broken)), Arc::new(other)];
    assert_eq!(world.directory.replace(stores).unwrap(), []);
    assert_eq!(meet(&world, &root.kms().client(&world, &TLS13), &health(PREFIX)).await, REFUSED);
    let (stream, _served) = pipe(world.context());
    assert!(connect_with(client(&world, provider(), &TLS13), "other.example.com", stream).await.is_ok());
}
