//! From a request's head to a verified signature.

use std::sync::Arc;

use holdfast_shared::sigv4::{Authenticated, Claim, Occurrence, SignedRequest};
use holdfast_shared::xks::{HostName, RequestPath};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::errors::{NOT_AUTHENTICATED, Refused, UNKNOWN_PATH};
use crate::clock::Clock;
use crate::directory::{Directory, ServedKeyStore};
use crate::tls::ClientCertificate;

/// The head of a request, on a connection whose server name agrees with its host.
pub struct RawRequest<'r> {
    parts: &'r Parts,
    path: &'r str,
    authority: &'r str,
    host_name: &'r HostName,
    client: Option<&'r ClientCertificate>,
}

impl<'r> RawRequest<'r> {
    /// Takes a request's head. `authority` is `Host` or `:authority` as received; `host_name` is the server name of the TLS
    /// connection, of which the caller has made sure that `authority` names it.
    #[must_use]
    pub fn new(parts: &'r Parts, authority: &'r str, host_name: &'r HostName) -> Self {
        let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        Self { parts, path, authority, host_name, client: None }
    }

    /// The certificate that the client of the TLS connection proved to hold, where it was asked for one.
    #[must_use]
    pub fn presenting(self, client: Option<&'r ClientCertificate>) -> Self {
        Self { client, ..self }
    }

    /// Finds the key store.
    ///
    /// # Errors
    /// 404 if there is none, 405 if the method is not POST.
    pub fn route(self, directory: &Directory) -> Result<RoutedRequest<'r>, Refused> {
        let path = RequestPath::parse(self.path).map_err(|_| UNKNOWN_PATH)?;
        let store = directory.store(self.host_name, path.prefix()).ok_or(UNKNOWN_PATH)?;
        if self.parts.method != Method::POST {
            return Err(Refused::MethodNotAllowed);
        }
        Ok(RoutedRequest { raw: self, store, path })
    }
}

/// A request to a key store that exists.
pub struct RoutedRequest<'r> {
    raw: RawRequest<'r>,
    store: Arc<ServedKeyStore>,
    path: RequestPath,
}

impl<'r> RoutedRequest<'r> {
    /// The key store.
    #[must_use]
    pub fn store(&self) -> &Arc<ServedKeyStore> {
        &self.store
    }

    /// What is asked of it.
    #[must_use]
    pub fn path(&self) -> &RequestPath {
        &self.path
    }

    /// Verifies the client's certificate, if the key store asks for one, and the signature over head and `body`.
    ///
    /// # Errors
    /// 401, the same for every cause. The audit log counts it.
    pub fn authenticate(self, body: &'r [u8], clock: &dyn Clock) -> Result<AuthenticatedRequest<'r>, Refused> {
        let audit = Arc::clone(&self.store.audit);
        self.verify(body, clock).inspect_err(|_| audit.unauthenticated())
    }

    fn verify(self, body: &'r [u8], clock: &dyn Clock) -> Result<AuthenticatedRequest<'r>, Refused> {
        // The handshake took what any key store under this host name takes, and may be older than the setting.
        let wall_ms = clock.wall_ms();
        if let Some(setting) = &self.store.client_authentication
            && !self.raw.client.is_some_and(|client| client.meets(setting, wall_ms))
        {
            return Err(NOT_AUTHENTICATED.into());
        }
        let headers = &self.raw.parts.headers;
        let request = SignedRequest {
            method: self.raw.parts.method.as_str(),
            path: self.raw.path,
            authority: self.raw.authority,
            header: |name: &str| occurrence(headers, name),
            body,
        };
        let proof = Claim::parse(&request, &self.store.regions, wall_ms)
            .and_then(|claim| claim.verify(&self.store.credentials))
            .map_err(|_| NOT_AUTHENTICATED)?;
        Ok(AuthenticatedRequest { store: self.store, path: self.path, body, proof })
    }
}

fn occurrence<'r>(headers: &'r HeaderMap, name: &str) -> Occurrence<'r> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Occurrence::Absent,
        (Some(value), None) => Occurrence::Once(value.as_bytes()),
        (Some(_), Some(_)) => Occurrence::Repeated,
    }
}

/// A request that KMS signed for this key store.
pub struct AuthenticatedRequest<'r> {
    pub(super) store: Arc<ServedKeyStore>,
    pub(super) path: RequestPath,
    pub(super) body: &'r [u8],
    pub(super) proof: Authenticated,
}
