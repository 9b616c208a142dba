//! KMS as the proxies see it.
//!
//! Guarantees: the certificate is verified for the endpoint's name under the given authorities; an attempt, with all that its connection
//! needs, has a time; where it gets no answer there is one more, and no third; connections are kept for the next request; answers are read
//! strictly. Assumes: nothing of the proxy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use holdfast_shared::xks::ErrorName;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::failure::Failure;
use super::faults::{FaultFile, Faults};
use super::state::ProxyConfiguration;
use crate::xks_client::{XksAnswer, XksClient, XksClientError, XksClientSettings, XksConnection};

/// Connections that are kept to a proxy.
const KEPT_MAX: usize = 16;

/// What all proxies are reached with.
pub struct Reach {
    /// Region of signatures.
    pub region: String,
    /// Authorities, in DER.
    pub roots: Vec<Vec<u8>>,
    /// `host:port` to connect to instead of a name's port 443. The names are in lower case.
    pub places: BTreeMap<String, String>,
    /// How long an attempt may take.
    pub patience: Duration,
    /// What goes wrong on the way.
    pub faults: FaultFile,
}

/// A proxy.
pub struct Proxy {
    reach: Arc<Reach>,
    configuration: ProxyConfiguration,
    client: XksClient,
    kept: Mutex<Vec<XksConnection>>,
}

impl Proxy {
    /// Reaches nothing yet.
    ///
    /// # Errors
    /// [`Failure::NoConnection`] where the endpoint is no name.
    pub fn new(reach: Arc<Reach>, configuration: ProxyConfiguration) -> Result<Self, Failure> {
        let client = client(&reach, &configuration, &Faults::default())?;
        Ok(Self { reach, configuration, client, kept: Mutex::default() })
    }

    /// With what it is reached.
    #[must_use]
    pub const fn configuration(&self) -> &ProxyConfiguration {
        &self.configuration
    }

    /// `GetHealthStatus`: the answer, in which one key manager at least is available.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn health(&self, operation: &str, request_id: &str) -> Result<Value, Failure> {
        let body = json!({ "requestMetadata": { "kmsOperation": operation, "kmsRequestId": request_id } });
        let answer = self.ask("health", &body).await?.body;
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let fleet = answer.get("ekmFleetDetails").and_then(Value::as_array).ok_or(Failure::Malformed)?;
        let is_sized = answer.get("xksProxyFleetSize").and_then(Value::as_u64).is_some_and(|size| size > 0);
        let is_named =
            ["xksProxyVendor", "xksProxyModel", "ekmVendor"].iter().all(|name| text(&answer, name).is_some());
        let statuses: Option<Vec<String>> = fleet
            .iter()
            .map(|ekm| text(ekm, "id").and(text(ekm, "model")).and_then(|_| text(ekm, "healthStatus")))
            .collect();
        let known = |status: &String| ["ACTIVE", "DEGRADED", "UNAVAILABLE"].contains(&status.as_str());
        let statuses = statuses.filter(|all| (1..=10).contains(&all.len()) && all.iter().all(known));
        match statuses {
            Some(statuses) if is_sized && is_named => {
                let is_available = statuses.iter().any(|status| status != "UNAVAILABLE");
                if is_available { Ok(answer) } else { Err(Failure::AllUnavailable) }
            }
            _ => Err(Failure::Malformed),
        }
    }

    /// Asks for an operation at `PATH/end`: an answer with status 200.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn ask(&self, end: &str, body: &Value) -> Result<XksAnswer, Failure> {
        let first = match self.attempt(end, body, self.kept()).await {
            // On a connection of its own: what is kept may have ended unseen.
            Err(failure) if failure.is_worth_another_attempt() => self.attempt(end, body, None).await,
            first => first,
        };
        first.and_then(|answer| if answer.status == StatusCode::OK { Ok(answer) } else { Err(refusal(&answer)) })
    }

    async fn attempt(&self, end: &str, body: &Value, kept: Option<XksConnection>) -> Result<XksAnswer, Failure> {
        let faults = self.reach.faults.next().map_err(|reason| {
            eprintln!("kms: {reason}");
            Failure::NoConnection
        })?;
        if faults.unreachable {
            return Err(Failure::NoConnection);
        }
        let answer = tokio::time::timeout(self.reach.patience, self.exchange(end, body, kept, &faults)).await;
        answer.unwrap_or(Err(Failure::TimedOut))
    }

    async fn exchange(
        &self,
        end: &str,
        body: &Value,
        kept: Option<XksConnection>,
        faults: &Faults,
    ) -> Result<XksAnswer, Failure> {
        let other = (faults.bad_certificate || faults.wrong_credential)
            .then(|| client(&self.reach, &self.configuration, faults))
            .transpose()?;
        let client = other.as_ref().unwrap_or(&self.client);
        let request = self.request(client, end, body)?;
        let exchanged = async {
            let mut connection = match kept.filter(|_| !faults.bad_certificate) {
                Some(connection) => connection,
                None => client.open().await?,
            };
            let answer = connection.exchange(request).await?;
            Ok((connection, answer))
        };
        let (connection, answer) = exchanged.await.map_err(|error: XksClientError| Failure::from(&error))?;
        if faults.drop {
            return Err(Failure::Unanswered);
        }
        tokio::time::sleep(Duration::from_millis(faults.latency_ms)).await;
        self.keep(connection);
        Ok(answer)
    }

    fn request(&self, client: &XksClient, end: &str, body: &Value) -> Result<Request<bytes::Bytes>, Failure> {
        let path = format!("{}/{end}", self.configuration.path);
        let body = body.to_string().into_bytes().into();
        client.signed(&Method::POST, &path, body, SystemTime::now()).map_err(|error| Failure::from(&error))
    }

    fn kept(&self) -> Option<XksConnection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(XksConnection::is_open);
        kept.pop()
    }

    fn keep(&self, connection: XksConnection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(connection);
        }
    }
}

fn client(reach: &Reach, configuration: &ProxyConfiguration, faults: &Faults) -> Result<XksClient, Failure> {
    let host = configuration.host().to_owned();
    let mut secret_access_key = configuration.secret_access_key.clone();
    if faults.wrong_credential {
        secret_access_key.push('A');
    }
    let settings = XksClientSettings {
        address: reach.places.get(&host.to_ascii_lowercase()).cloned().unwrap_or_else(|| format!("{host}:443")),
        host_name: host,
        port: 443,
        roots: if faults.bad_certificate { Vec::new() } else { reach.roots.clone() },
        path_prefix: String::new(),
        access_key_id: configuration.access_key_id.clone(),
        secret_access_key,
        region: reach.region.clone(),
    };
    XksClient::new(settings).map_err(|_| Failure::NoConnection)
}

/// An error with a name that the specification knows; anything else is malformed.
fn refusal(answer: &XksAnswer) -> Failure {
    let name = answer.text("errorName");
    let known = ErrorName::ALL.into_iter().find(|known| Some(known.as_str()) == name);
    known.map_or(Failure::Malformed, Failure::Refused)
}
