//! The section `[database]`: a PostgreSQL server in place of the SQLite file.
//!
//! Refuses: a server over TCP without roots to verify it by, and secrets in the configuration itself: the password comes from a
//! file of mode 0600.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

use super::{ConfigError, Source};
use crate::state::{self, StateError};
use crate::store::{PostgresServer, PostgresTls};

/// PostgreSQL's own port.
const PORT_DEFAULT: u16 = 5432;
/// Bytes of a name in PostgreSQL (its manual, 4.1.1: NAMEDATALEN − 1).
const IDENTIFIER_MAX: usize = 63;

/// Where the tables are, if not in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// The server's name, or the directory of its Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database.
    pub name: String,
    /// The role.
    pub user: String,
    /// The role's password, mode 0600.
    pub password_file: Option<PathBuf>,
    /// How the server is known; none over a Unix socket.
    pub tls: Option<PostgresTls>,
}

impl DatabaseConfig {
    /// The server, with its password.
    ///
    /// # Errors
    /// [`StateError`] when a private file is missing or open to others.
    pub fn server(&self) -> Result<PostgresServer, StateError> {
        let password = match &self.password_file {
            None => None,
            Some(file) => {
                let bytes = state::read_private(file)?;
                let text =
                    std::str::from_utf8(bytes.expose()).map_err(|_| StateError::BadKey { file: file.clone() })?;
                Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        };
        if let Some(PostgresTls { client: Some((_, key)), .. }) = &self.tls {
            state::read_private(key)?;
        }
        Ok(PostgresServer {
            host: self.host.clone(),
            port: self.port,
            name: self.name.clone(),
            user: self.user.clone(),
            password,
            tls: self.tls.clone(),
        })
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawDatabase {
    /// The server's DNS name or IP address, or the directory of its Unix socket, which begins with `/`.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["db.example.com"])))]
    host: Spanned<String>,
    /// Its port.
    #[cfg_attr(test, schemars(extend("default" = PORT_DEFAULT)))]
    port: Option<u16>,
    /// The database.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = IDENTIFIER_MAX)))]
    name: Spanned<String>,
    /// The role.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = IDENTIFIER_MAX)))]
    user: Spanned<String>,
    /// The role's password, mode 0600.
    password_file: Option<PathBuf>,
    /// The roots under which the server's certificate is verified, PEM. Needed but over a Unix socket, where there is no TLS.
    roots: Option<PathBuf>,
    /// Our certificate for the server, PEM, leaf first. Needs `private_key`.
    certificate: Option<PathBuf>,
    /// Its key, PEM, mode 0600.
    private_key: Option<PathBuf>,
}

impl Source<'_> {
    pub(super) fn database(&self, raw: Option<Spanned<RawDatabase>>) -> Result<Option<DatabaseConfig>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let span = raw.span();
        let raw = raw.into_inner();
        let host = self.check(&raw.host, "database.host", |host| {
            let name = rustls_pki_types::ServerName::try_from(host).is_ok();
            if name || host.starts_with('/') {
                Ok(host.to_owned())
            } else {
                Err("must be a DNS name, an IP address, or the directory of a Unix socket, which begins with /")
            }
        })?;
        let identifier = |name: &str| {
            let fits = !name.is_empty() && name.len() <= IDENTIFIER_MAX && !name.contains('\0');
            if fits { Ok(name.to_owned()) } else { Err("must have 1 to 63 bytes") }
        };
        let is_socket = host.starts_with('/');
        let error = |reason: &str| self.error(Some(span), "database", reason);
        let client = match (raw.certificate, raw.private_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((self.path(&certificate), self.path(&key))),
            _ => return Err(error("needs `certificate` and `private_key` together")),
        };
        let tls = match (is_socket, raw.roots) {
            (true, None) if client.is_none() => None,
            (true, _) => return Err(error("takes no certificates for a Unix socket, over which there is no TLS")),
            (false, Some(roots)) => Some(PostgresTls { roots: self.path(&roots), client }),
            (false, None) => {
                return Err(error("needs `roots`: the PEM file under which the server's certificate is verified"));
            }
        };
        Ok(Some(DatabaseConfig {
            host,
            port: raw.port.unwrap_or(PORT_DEFAULT),
            name: self.check(&raw.name, "database.name", identifier)?,
            user: self.check(&raw.user, "database.user", identifier)?,
            password_file: raw.password_file.map(|file| self.path(&file)),
            tls,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn parse(section: &str) -> Result<Option<DatabaseConfig>, String> {
        let text = "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
                    administrators = []\n";
        let parsed = Config::parse(Path::new("/etc/holdfast/custodian.toml"), &format!("{text}{section}"));
        parsed.map(|config| config.database).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_the_default_and_a_server_is_verified() {
        assert_eq!(parse(""), Ok(None));
        let socket =
            parse("[database]\nhost = \"/run/postgresql\"\nname = \"vault\"\nuser = \"vault\"\n").unwrap().unwrap();
        assert_eq!((socket.port, socket.tls, socket.password_file), (5432, None, None));
        let server = parse(
            "[database]\nhost = \"db.example.com\"\nport = 6432\nname = \"vault\"\nuser = \"vault\"\n\
             password_file = \"password\"\nroots = \"roots.pem\"\ncertificate = \"c.pem\"\nprivate_key = \"k.pem\"\n",
        )
        .unwrap()
        .unwrap();
        let file = |name: &str| PathBuf::from("/etc/holdfast").join(name);
        let tls = PostgresTls { roots: file("roots.pem"), client: Some((file("c.pem"), file("k.pem"))) };
        assert_eq!((server.port, server.tls, server.password_file), (6432, Some(tls), Some(file("password"))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = "[database]\nhost = \"db.example.com\"\nname = \"vault\"\nuser = \"vault\"\n";
        for (section, expected) in [
            (base.to_owned(), "custodian.toml:6: database: needs `roots`"),
            (base.replace("db.example.com", "a b"), "custodian.toml:7: database.host: "),
            (
                format!("{}roots = \"r.pem\"\n", base.replace("\"vault\"\nuser", "\"\"\nuser")),
                "custodian.toml:8: database.name: ",
            ),
            (
                format!("{base}roots = \"r.pem\"\ncertificate = \"c.pem\"\n"),
                "custodian.toml:6: database: needs `certificate`",
            ),
            (format!("{base}password = \"secret\"\n"), "custodian.toml:10: password: unknown field"),
            (
                format!("{}roots = \"r.pem\"\n", base.replace("db.example.com", "/run/postgresql")),
                "custodian.toml:6: database: takes no certificates",
            ),
        ] {
            let error = parse(&section).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }
}
