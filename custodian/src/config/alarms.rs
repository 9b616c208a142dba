//! The section `[alarms]`: the rules by which alarms are raised, and where they are delivered to.
//!
//! Refuses: rules that would tell of everything or of nothing, webhooks without TLS to other machines, secrets in the configuration
//! itself: what signs a webhook's body comes from a file of mode 0600.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use holdfast_shared::alarm::{Hours, Rules};
use holdfast_shared::ids::KeyStoreId;
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source, host_of};

/// Webhooks, and as many syslog receivers: each has a connection of its own while something is delivered.
pub const DESTINATIONS_MAX: usize = 8;
/// Characters of a receiver's name.
const NAME_MAX: usize = 64;
/// Characters of a webhook's URL.
const URL_MAX: usize = 2048;
/// Bytes of the path of a Unix socket (unix(7): 108 with a zero at the end).
const SOCKET_PATH_MAX: usize = 107;
/// `authpriv` (RFC 5424, table 1).
const FACILITY_DEFAULT: u8 = 10;
/// The facilities of RFC 5424, table 1, by the names of syslog(3); the place is the number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// A quarter of a year is longer than any cycle of work.
const LEARN_DAYS: RangeInclusive<u32> = 0..=90;
/// Twice is the least that stands out; with a thousand nothing does.
const FACTOR: RangeInclusive<u32> = 2..=1_000;
/// As many as a budget may have ([`holdfast_shared::limits::BUDGET_USES`]).
const LEAST_USES: RangeInclusive<u32> = 1..=1_000_000_000;
/// 1,800 requests a second, the default limit of KMS, are a million in ten minutes.
const REFUSED_BURST: RangeInclusive<u32> = 1..=1_000_000;
/// Less than the way of a message takes, and more than a day, tells of nothing.
const CLOCK_DRIFT_SECONDS: RangeInclusive<u32> = 1..=86_400;
/// An hour, so that what goes on is no alarm every ten seconds; a month.
const QUIET_HOURS: RangeInclusive<u32> = 1..=720;

const HOUR_MS: u64 = 3_600_000;

/// When alarms are raised, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlarmsConfig {
    /// For all key stores but those of `key_stores`.
    pub rules: Rules,
    /// Those that have rules of their own.
    pub key_stores: BTreeMap<KeyStoreId, Rules>,
    /// HTTP receivers.
    pub webhooks: Vec<WebhookConfig>,
    /// Syslog receivers.
    pub syslog: Vec<SyslogConfig>,
}

impl AlarmsConfig {
    /// The rules of a key store.
    #[must_use]
    pub fn rules(&self, key_store_id: KeyStoreId) -> &Rules {
        self.key_stores.get(&key_store_id).unwrap_or(&self.rules)
    }

    /// Names of all receivers, by which the database knows what they have.
    #[must_use]
    pub fn destinations(&self) -> Vec<String> {
        let syslog = self.syslog.iter().map(|receiver| receiver.name.clone());
        self.webhooks.iter().map(|receiver| receiver.name.clone()).chain(syslog).collect()
    }
}

/// An HTTP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// For the database and the log: `webhook` and the configured name, or scheme, host and port. The path is not in it, which may
    /// change, and is what lets one in with some receivers.
    pub name: String,
    /// Whether with TLS.
    pub is_https: bool,
    /// `host:port`.
    pub address: String,
    /// Path and query.
    pub path: String,
    /// What signs the body, mode 0600.
    pub secret_file: Option<PathBuf>,
    /// Roots of the server's certificate, PEM; absent for those of the operating system.
    pub roots: Option<PathBuf>,
}

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogConfig {
    /// For the database and the log: `syslog` and the configured name, or the address.
    pub name: String,
    /// Where it is.
    pub address: SyslogAddress,
    /// Number of the facility, 0 to 23.
    pub facility: u8,
}

/// Where a syslog receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A datagram socket of this machine.
    Unix(PathBuf),
    /// `host:port`, one datagram for each message.
    Udp(String),
    /// `host:port`, messages with their lengths before them.
    Tcp(String),
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlarms {
    /// For so many days after the first use of a key store everybody is learned.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *LEARN_DAYS.start(), max = *LEARN_DAYS.end()), extend("default" = 7)))]
    learn_days: Option<Spanned<u32>>,
    /// So many times the busiest hour, or day, of two weeks is unusual.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *FACTOR.start(), max = *FACTOR.end()), extend("default" = 3)))]
    factor: Option<Spanned<u32>>,
    /// Fewer uses in an hour than this are never unusual, nor fewer in a day than four times as many.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *LEAST_USES.start(), max = *LEAST_USES.end()), extend("default" = 100)))]
    least_uses: Option<Spanned<u32>>,
    /// So many refused requests of a key store in ten minutes are a burst.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *REFUSED_BURST.start(), max = *REFUSED_BURST.end()), extend("default" = 50)))]
    refused_burst: Option<Spanned<u32>>,
    /// Use outside of these hours is told of: `Mon-Fri` or `Mon-Sun`, from and to, UTC or an offset; or `any`. Without it: at no time.
    #[cfg_attr(test, schemars(with = "Option<String>", extend("examples" = ["Mon-Fri 08:00-18:30 +01:00", "any"])))]
    hours: Option<Spanned<String>>,
    /// Clocks of an enclave and the custodian that differ by more seconds are told of.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *CLOCK_DRIFT_SECONDS.start(), max = *CLOCK_DRIFT_SECONDS.end()), extend("default" = 30)))]
    clock_drift_seconds: Option<Spanned<u32>>,
    /// The same alarm is raised again after so many hours at the earliest.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *QUIET_HOURS.start(), max = *QUIET_HOURS.end()), extend("default" = 6)))]
    quiet_hours: Option<Spanned<u32>>,
    /// Any of these rules for one key store, each once.
    #[serde(default)]
    key_store: Vec<RawKeyStore>,
    /// Where alarms are sent as JSON.
    #[cfg_attr(test, schemars(with = "Vec<RawWebhook>", length(max = DESTINATIONS_MAX)))]
    #[serde(default)]
    webhook: Vec<Spanned<RawWebhook>>,
    /// Where alarms are sent as messages of RFC 5424.
    #[cfg_attr(test, schemars(with = "Vec<RawSyslog>", length(max = DESTINATIONS_MAX)))]
    #[serde(default)]
    syslog: Vec<Spanned<RawSyslog>>,
}

// Not flattened: serde has no unknown fields then.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawKeyStore {
    /// The key store's id.
    #[cfg_attr(test, schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$")))]
    id: Spanned<String>,
    /// For so many days after the first use of a key store everybody is learned. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *LEARN_DAYS.start(), max = *LEARN_DAYS.end())))]
    learn_days: Option<Spanned<u32>>,
    /// So many times the busiest hour, or day, of two weeks is unusual. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *FACTOR.start(), max = *FACTOR.end())))]
    factor: Option<Spanned<u32>>,
    /// Fewer uses in an hour than this are never unusual, nor fewer in a day than four times as many. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *LEAST_USES.start(), max = *LEAST_USES.end())))]
    least_uses: Option<Spanned<u32>>,
    /// So many refused requests of a key store in ten minutes are a burst. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *REFUSED_BURST.start(), max = *REFUSED_BURST.end())))]
    refused_burst: Option<Spanned<u32>>,
    /// Use outside of these hours is told of: `Mon-Fri` or `Mon-Sun`, from and to, UTC or an offset; or `any`. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<String>", extend("examples" = ["Mon-Fri 08:00-18:30 +01:00", "any"])))]
    hours: Option<Spanned<String>>,
    /// Clocks of an enclave and the custodian that differ by more seconds are told of. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *CLOCK_DRIFT_SECONDS.start(), max = *CLOCK_DRIFT_SECONDS.end())))]
    clock_drift_seconds: Option<Spanned<u32>>,
    /// The same alarm is raised again after so many hours at the earliest. Without it, what `alarms` says.
    #[cfg_attr(test, schemars(with = "Option<u32>", range(min = *QUIET_HOURS.start(), max = *QUIET_HOURS.end())))]
    quiet_hours: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    /// By which the database knows what it has, so keep it when the URL changes. Without it: scheme, host and port.
    #[cfg_attr(test, schemars(with = "Option<String>", regex(pattern = "^[A-Za-z0-9._-]{1,64}$")))]
    name: Option<Spanned<String>>,
    /// `https://`, or `http://` to this machine by number.
    #[cfg_attr(test, schemars(with = "String", length(max = URL_MAX), extend("examples" = ["https://alerts.example.com/holdfast"])))]
    url: Spanned<String>,
    /// Signs the body by HMAC-SHA256, mode 0600, 16 bytes at least.
    secret_file: Option<PathBuf>,
    /// Roots under which the server's certificate is verified, PEM. Without them those of the operating system.
    roots: Option<PathBuf>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawSyslog {
    /// By which the database knows what it has. Without it: the address.
    #[cfg_attr(test, schemars(with = "Option<String>", regex(pattern = "^[A-Za-z0-9._-]{1,64}$")))]
    name: Option<Spanned<String>>,
    /// `unix:` and a socket's path, or `udp://` or `tcp://` and `host:port`.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["unix:/dev/log", "tcp://logs.example.com:601"])))]
    address: Spanned<String>,
    /// The facility of syslog.
    #[cfg_attr(test, schemars(with = "Option<String>", extend("default" = "authpriv", "enum" = FACILITIES)))]
    facility: Option<Spanned<String>>,
}

/// Rules as they are written, of all key stores or of one.
struct RawRules<'a> {
    /// `alarms` or `alarms.key_store`.
    section: &'static str,
    learn_days: Option<&'a Spanned<u32>>,
    factor: Option<&'a Spanned<u32>>,
    least_uses: Option<&'a Spanned<u32>>,
    refused_burst: Option<&'a Spanned<u32>>,
    hours: Option<&'a Spanned<String>>,
    clock_drift_seconds: Option<&'a Spanned<u32>>,
    quiet_hours: Option<&'a Spanned<u32>>,
}

/// The fields that both kinds of section have.
macro_rules! rules_of {
    ($raw:expr, $section:literal) => {
        RawRules {
            section: $section,
            learn_days: $raw.learn_days.as_ref(),
            factor: $raw.factor.as_ref(),
            least_uses: $raw.least_uses.as_ref(),
            refused_burst: $raw.refused_burst.as_ref(),
            hours: $raw.hours.as_ref(),
            clock_drift_seconds: $raw.clock_drift_seconds.as_ref(),
            quiet_hours: $raw.quiet_hours.as_ref(),
        }
    };
}

impl Source<'_> {
    pub(super) fn alarms(&self, raw: Option<RawAlarms>) -> Result<AlarmsConfig, ConfigError> {
        let raw = raw.unwrap_or_default();
        let rules = self.rules(&rules_of!(raw, "alarms"), &Rules::default())?;
        let mut key_stores = BTreeMap::new();
        for own in &raw.key_store {
            let id = self.check(&own.id, "alarms.key_store.id", |id| {
                id.parse::<KeyStoreId>().map_err(|_| "must be a key store's id of 64 hexadecimal digits")
            })?;
            if key_stores.insert(id, self.rules(&rules_of!(own, "alarms.key_store"), &rules)?).is_some() {
                return Err(self.error(Some(own.id.span()), "alarms.key_store.id", "is there twice"));
            }
        }
        for (field, spans) in [
            ("alarms.webhook", raw.webhook.iter().map(Spanned::span).collect::<Vec<_>>()),
            ("alarms.syslog", raw.syslog.iter().map(Spanned::span).collect()),
        ] {
            if let Some(span) = spans.get(DESTINATIONS_MAX) {
                return Err(self.error(Some(span.clone()), field, format!("there may be {DESTINATIONS_MAX} of them")));
            }
        }
        let mut names = BTreeSet::new();
        let mut webhooks = Vec::with_capacity(raw.webhook.len());
        for raw in raw.webhook {
            let span = raw.span();
            let webhook = self.webhook(&raw.into_inner())?;
            if !names.insert(webhook.name.clone()) {
                return Err(self.error(Some(span), "alarms.webhook", twice(&webhook.name)));
            }
            webhooks.push(webhook);
        }
        let mut syslog = Vec::with_capacity(raw.syslog.len());
        for raw in raw.syslog {
            let span = raw.span();
            let receiver = self.syslog(&raw.into_inner())?;
            if !names.insert(receiver.name.clone()) {
                return Err(self.error(Some(span), "alarms.syslog", twice(&receiver.name)));
            }
            syslog.push(receiver);
        }
        Ok(AlarmsConfig { rules, key_stores, webhooks, syslog })
    }

    fn rules(&self, raw: &RawRules<'_>, default: &Rules) -> Result<Rules, ConfigError> {
        let number = |value: Option<&Spanned<u32>>, name: &str, range: RangeInclusive<u32>| match value {
            Some(value) if !range.contains(value.get_ref()) => {
                let field = format!("{}.{name}", raw.section);
                let reason = format!("must be a number from {} to {}", range.start(), range.end());
                Err(self.error(Some(value.span()), &field, reason))
            }
            value => Ok(value.map(|value| *value.get_ref())),
        };
        let time = |value: Option<u32>, unit_ms: u64, default_ms: u64| {
            value.map_or(default_ms, |value| u64::from(value).saturating_mul(unit_ms))
        };
        let learn_days = number(raw.learn_days, "learn_days", LEARN_DAYS)?;
        let drift_seconds = number(raw.clock_drift_seconds, "clock_drift_seconds", CLOCK_DRIFT_SECONDS)?;
        let quiet_hours = number(raw.quiet_hours, "quiet_hours", QUIET_HOURS)?;
        let hours = match raw.hours {
            None => default.hours,
            // A key store has its own way to say that it has none.
            Some(hours) if hours.get_ref() == "any" => None,
            Some(hours) => Some(hours.get_ref().parse::<Hours>().map_err(|error| {
                self.error(Some(hours.span()), &format!("{}.hours", raw.section), format!("{error}, or \"any\""))
            })?),
        };
        Ok(Rules {
            learn_ms: time(learn_days, 24 * HOUR_MS, default.learn_ms),
            factor: number(raw.factor, "factor", FACTOR)?.unwrap_or(default.factor),
            least_uses: number(raw.least_uses, "least_uses", LEAST_USES)?.unwrap_or(default.least_uses),
            refused_burst: number(raw.refused_burst, "refused_burst", REFUSED_BURST)?.unwrap_or(default.refused_burst),
            hours,
            clock_drift_ms: time(drift_seconds, 1_000, default.clock_drift_ms),
            quiet_ms: time(quiet_hours, HOUR_MS, default.quiet_ms),
        })
    }

    fn webhook(&self, raw: &RawWebhook) -> Result<WebhookConfig, ConfigError> {
        let (is_https, address, path) = self.check(&raw.url, "alarms.webhook.url", webhook_url)?;
        if !is_https && raw.roots.is_some() {
            let reason = "takes `roots` for https:// only; over http:// there is no certificate";
            return Err(self.error(Some(raw.url.span()), "alarms.webhook.url", reason));
        }
        let scheme = if is_https { "https" } else { "http" };
        let name = self.receiver_name(raw.name.as_ref(), "alarms.webhook.name", || format!("{scheme}://{address}"))?;
        Ok(WebhookConfig {
            name: format!("webhook {name}"),
            is_https,
            address,
            path,
            secret_file: raw.secret_file.as_deref().map(|file| self.path(file)),
            roots: raw.roots.as_deref().map(|file| self.path(file)),
        })
    }

    fn syslog(&self, raw: &RawSyslog) -> Result<SyslogConfig, ConfigError> {
        let address = self.check(&raw.address, "alarms.syslog.address", |address| {
            syslog_address(address).ok_or(
                "must be unix: and a socket's path, such as unix:/dev/log, or udp:// or tcp:// and host:port in lower case",
            )
        })?;
        let facility = match &raw.facility {
            None => FACILITY_DEFAULT,
            Some(facility) => self.check(facility, "alarms.syslog.facility", |name| {
                let number = FACILITIES.iter().position(|known| *known == name);
                number.and_then(|number| u8::try_from(number).ok()).ok_or(
                    "must be a facility of syslog, such as \"authpriv\", \"daemon\", or \"local0\" to \"local7\"",
                )
            })?,
        };
        let name = self.receiver_name(raw.name.as_ref(), "alarms.syslog.name", || address.to_string())?;
        Ok(SyslogConfig { name: format!("syslog {name}"), address, facility })
    }

    /// A receiver's own name, or what stands for it.
    fn receiver_name(
        &self,
        own: Option<&Spanned<String>>,
        field: &str,
        default: impl FnOnce() -> String,
    ) -> Result<String, ConfigError> {
        let Some(own) = own else { return Ok(default()) };
        self.check(own, field, |name| {
            let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            if fits && (1..=NAME_MAX).contains(&name.len()) {
                Ok(name.to_owned())
            } else {
                Err("must have 1 to 64 letters, digits, '-', '_' or '.'")
            }
        })
    }
}

fn twice(name: &str) -> String {
    format!(
        "two receivers have the name \"{name}\", by which it is known what they have; give one of them another by `name`"
    )
}

/// Scheme, `host:port`, and path with query.
fn webhook_url(url: &str) -> Result<(bool, String, String), &'static str> {
    const FORM: &str = "must be https://host/path, or http:// and a loopback address by number, in printable ASCII";
    let fits = url.len() <= URL_MAX && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let uri: http::Uri = if fits { url.parse().map_err(|_| FORM)? } else { return Err(FORM) };
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or(FORM)?;
    let (is_https, port) = match scheme {
        "https" => (true, 443),
        "http" => (false, 80),
        _ => return Err(FORM),
    };
    if authority.as_str().contains('@') {
        return Err("takes no user and password; sign the body by `secret_file`");
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip: Option<IpAddr> = bare.parse().ok();
    if rustls_pki_types::ServerName::try_from(bare).is_err() {
        return Err(FORM);
    }
    // `localhost` is a name like others: who answers for it is for the resolver to say.
    if !is_https && !ip.is_some_and(|ip| ip.is_loopback()) {
        return Err(
            "is http:// to another machine, where everybody on the way would read who uses keys; use https://, or \
                    http:// and 127.0.0.1 or [::1]",
        );
    }
    let port = match authority.port_u16() {
        Some(0) => return Err(FORM),
        // What stands behind the host, and is no port.
        None if authority.as_str().len() != host.len() => return Err(FORM),
        named => named.unwrap_or(port),
    };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Ok((is_https, format!("{host}:{port}"), path.to_owned()))
}

fn syslog_address(text: &str) -> Option<SyslogAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        let fits = path.starts_with('/') && path.len() <= SOCKET_PATH_MAX && path.bytes().all(|b| b.is_ascii_graphic());
        return fits.then(|| SyslogAddress::Unix(PathBuf::from(path)));
    }
    let (address, make): (_, fn(String) -> SyslogAddress) = match text.split_once("://")? {
        ("udp", address) => (address, SyslogAddress::Udp),
        ("tcp", address) => (address, SyslogAddress::Tcp),
        _ => return None,
    };
    // Names as in manifests, or an address by number.
    let fits = host_of(address).is_some() || address.parse::<std::net::SocketAddr>().is_ok_and(|ip| ip.port() != 0);
    fits.then(|| make(address.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const BASE: &str = "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:1\"\nstate = \"state\"\nadministrators = []\n";
    const ID: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    fn parse(section: &str) -> Result<AlarmsConfig, String> {
        Config::parse(Path::new("/etc/holdfast/custodian.toml"), &format!("{BASE}{section}"))
            .map(|config| config.alarms)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_the_section_there_are_rules_and_no_receivers() {
        assert_eq!(parse(""), Ok(AlarmsConfig::default()));
        assert_eq!(parse("[alarms]\n"), Ok(AlarmsConfig::default()));
        assert_eq!(AlarmsConfig::default().destinations(), Vec::<String>::new());
    }

    #[test]
    fn a_key_store_changes_some_of_the_rules() {
        let config = parse(&format!(
            "[alarms]\nlearn_days = 2\nfactor = 5\nhours = \"Mon-Fri 08:00-18:00 UTC\"\n\
             [[alarms.key_store]]\nid = \"{ID}\"\nfactor = 9\nhours = \"any\"\nquiet_hours = 1\n"
        ))
        .unwrap();
        let (all, own) = (config.rules(KeyStoreId([2; 32])), config.rules(KeyStoreId([1; 32])));
        assert_eq!((all.learn_ms, all.factor, all.quiet_ms), (48 * HOUR_MS, 5, Rules::default().quiet_ms));
        assert!(all.hours.is_some());
        assert_eq!(own, &Rules { factor: 9, hours: None, quiet_ms: HOUR_MS, ..all.clone() });
        let config = parse("[alarms]\nleast_uses = 7\nrefused_burst = 8\nclock_drift_seconds = 9\n");
        let expected = Rules { least_uses: 7, refused_burst: 8, clock_drift_ms: 9_000, ..Rules::default() };
        assert_eq!(config.map(|config| config.rules), Ok(expected));
    }

    #[test]
    fn receivers_are_taken_with_defaults_and_paths() {
        let config = parse(
            "[[alarms.webhook]]\nurl = \"https://alerts.example.com/hook/T0/x?team=keys\"\nsecret_file = \"secret\"\nroots = \"r.pem\"\n\
             [[alarms.webhook]]\nurl = \"http://[::1]:8080\"\n\
             [[alarms.syslog]]\naddress = \"unix:/dev/log\"\n\
             [[alarms.syslog]]\naddress = \"udp://log.example.com:514\"\nfacility = \"local0\"\n\
             [[alarms.syslog]]\naddress = \"tcp://[2001:db8::1]:601\"\nfacility = \"daemon\"\n",
        )
        .unwrap();
        let [first, second] = &config.webhooks[..] else { panic!("{config:?}") };
        assert_eq!((first.address.as_str(), first.path.as_str()), ("alerts.example.com:443", "/hook/T0/x?team=keys"));
        assert_eq!(first.secret_file.as_deref(), Some(Path::new("/etc/holdfast/secret")));
        assert_eq!(first.roots.as_deref(), Some(Path::new("/etc/holdfast/r.pem")));
        assert_eq!((second.is_https, second.address.as_str(), second.path.as_str()), (false, "[::1]:8080", "/"));
        let facilities: Vec<_> = config.syslog.iter().map(|receiver| receiver.facility).collect();
        assert_eq!(facilities, [10, 16, 3]);
        let names = config.destinations();
        assert_eq!(
            names,
            [
                // A path can be a secret.
                "webhook https://alerts.example.com:443",
                "webhook http://[::1]:8080",
                "syslog unix:/dev/log",
                "syslog udp://log.example.com:514",
                "syslog tcp://[2001:db8::1]:601"
            ]
        );
    }

    #[test]
    fn a_receiver_is_known_by_its_name_whatever_else_changes() {
        let names = |section: &str| parse(section).unwrap().destinations();
        let one = names("[[alarms.webhook]]\nname = \"pager\"\nurl = \"https://a.example/1\"\nsecret_file = \"one\"\n");
        assert_eq!(one, ["webhook pager"]);
        assert_eq!(one, names("[[alarms.webhook]]\nname = \"pager\"\nurl = \"https://b.example/2\"\n"));
        let unnamed = |path: &str| names(&format!("[[alarms.webhook]]\nurl = \"https://a.example/{path}\"\n"));
        assert_eq!(unnamed("1"), unnamed("2"));
        let two = "[[alarms.webhook]]\nurl = \"https://a.example/1\"\n\
                   [[alarms.webhook]]\nname = \"x-1_.\"\nurl = \"https://a.example/2\"\n\
                   [[alarms.syslog]]\nname = \"x-1_.\"\naddress = \"unix:/dev/log\"\n\
                   [[alarms.syslog]]\naddress = \"unix:/dev/log\"\n";
        assert_eq!(
            names(two),
            ["webhook https://a.example:443", "webhook x-1_.", "syslog x-1_.", "syslog unix:/dev/log"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let own = |more: &str| format!("[[alarms.key_store]]\nid = \"{ID}\"\n{more}");
        let webhook = |url: &str| format!("[[alarms.webhook]]\nurl = \"{url}\"\n");
        let syslog = |address: &str| format!("[[alarms.syslog]]\naddress = \"{address}\"\n");
        let table = [
            ("[alarms]\nlearn_days = 91\n".to_owned(), "toml:7: alarms.learn_days: must be a number from 0 to 90"),
            ("[alarms]\nfactor = 1\n".to_owned(), "toml:7: alarms.factor: "),
            ("[alarms]\nleast_uses = 0\n".to_owned(), "alarms.least_uses: "),
            ("[alarms]\nrefused_burst = 0\n".to_owned(), "alarms.refused_burst: "),
            ("[alarms]\nclock_drift_seconds = 0\n".to_owned(), "alarms.clock_drift_seconds: "),
            ("[alarms]\nquiet_hours = 0\n".to_owned(), "alarms.quiet_hours: "),
            ("[alarms]\nquiet_hours = -1\n".to_owned(), "toml:7: quiet_hours: "),
            ("[alarms]\nhours = \"always\"\n".to_owned(), "toml:7: alarms.hours: hours of business are like"),
            ("[alarms]\nlearn = 1\n".to_owned(), "toml:7: learn: unknown field"),
            (own("factor = 1\n"), "toml:8: alarms.key_store.factor: "),
            (own("days = 1\n"), "toml:8: days: unknown field"),
            (own(&own("")), "toml:9: alarms.key_store.id: is there twice"),
            (own("").replace("01\"", "\""), "toml:7: alarms.key_store.id: must be a key store's id"),
            (webhook("http://alerts.example.com/"), "toml:7: alarms.webhook.url: is http:// to another machine"),
            (webhook("http://localhost:80/"), "alarms.webhook.url: is http:// to another machine"),
            (webhook("https://user:secret@alerts.example.com/"), "alarms.webhook.url: takes no user"),
            (webhook("ftp://alerts.example.com/"), "alarms.webhook.url: must be https://"),
            (webhook("alerts.example.com"), "alarms.webhook.url: must be https://"),
            (webhook("https://alerts.example.com/#top"), "alarms.webhook.url: must be https://"),
            (webhook("https://alerts.example.com:/"), "alarms.webhook.url: must be https://"),
            (webhook("https://alerts.example.com:70000/"), "alarms.webhook.url: must be https://"),
            (webhook(&format!("https://a.example/{}", "x".repeat(URL_MAX))), "alarms.webhook.url: must be https://"),
            (webhook("http://127.0.0.1/") + "roots = \"r.pem\"\n", "alarms.webhook.url: takes `roots`"),
            (
                webhook("https://a.example/") + &webhook("https://a.example:443/"),
                "toml:8: alarms.webhook: two receivers have the name \"webhook https://a.example:443\"",
            ),
            (
                (1..=2).map(|n| webhook(&format!("https://{n}.example/")) + "name = \"a\"\n").collect(),
                "toml:9: alarms.webhook: two receivers have the name \"webhook a\"",
            ),
            (webhook("https://a.example/") + "name = \"\"\n", "toml:8: alarms.webhook.name: must have 1 to 64"),
            (syslog("unix:/dev/log") + "name = \"a b\"\n", "toml:8: alarms.syslog.name: must have 1 to 64"),
            (syslog("unix:/dev/log") + &format!("name = \"{}\"\n", "x".repeat(65)), "alarms.syslog.name: must have"),
            (webhook("https://a.example/") + "secret = \"x\"\n", "toml:8: secret: unknown field"),
            ((0..9).map(|n| webhook(&format!("https://a.example/{n}"))).collect(), "alarms.webhook: there may be 8"),
            ((1..=9).map(|n| syslog(&format!("udp://127.0.0.{n}:514"))).collect(), "alarms.syslog: there may be 8"),
            (syslog("unix:log"), "toml:7: alarms.syslog.address: "),
            (syslog("udp://log.example.com"), "alarms.syslog.address: "),
            (syslog("tls://log.example.com:6514"), "alarms.syslog.address: "),
            (syslog("udp://127.0.0.1:0"), "alarms.syslog.address: "),
            (syslog("unix:/dev/log") + &syslog("unix:/dev/log"), "toml:8: alarms.syslog: two receivers have the name"),
            (syslog("unix:/dev/log") + "facility = \"10\"\n", "toml:8: alarms.syslog.facility: must be a facility"),
        ];
        for (section, expected) in table {
            let error = parse(&section).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }
}
