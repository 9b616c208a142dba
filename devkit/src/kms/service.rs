//! From a request to an answer: who asks, for what, and what CloudTrail says of it.
//!
//! Guarantees: nothing is done without a valid signature; every call with one, and with
//! parameters in JSON, leaves an event before it is answered, also while the emulator
//! ends. Policies are not evaluated: the one caller may do everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::failure::Failure;
use super::parameters::Parameters;
use super::proxy::{Proxy, Reach};
use super::state::{Keeper, ProxyConfiguration, Store};
use super::trail::{Event, Marks, Trail};
use crate::aws_json::{self, Answer, Caller, Incoming};

/// Attempts at the proxy in one call: two halves of a `ReEncrypt`, each with one more.
const ATTEMPTS_MAX: u32 = 4;
/// For what a call does besides.
const SLACK: Duration = Duration::from_secs(1);

/// The emulator.
pub struct Kms {
    /// Region and account of all names.
    pub(super) region: String,
    pub(super) account: String,
    pub(super) state: Keeper,
    pub(super) reach: Arc<Reach>,
    /// VPC endpoint services that exist.
    pub(super) vpc_services: Vec<String>,
    caller: Caller,
    trail: Trail,
    proxies: Mutex<BTreeMap<String, Arc<Proxy>>>,
    /// Held for reading by each call, until its event is written.
    calls: tokio::sync::RwLock<()>,
    /// Held by who updates a key store, from when it is looked at until it is written.
    pub(super) updates: tokio::sync::Mutex<()>,
}

/// A call, while it is carried out.
pub struct Call<'a> {
    /// What it came with.
    pub parameters: Parameters,
    /// `kmsRequestId`, and CloudTrail's `requestID`.
    pub request_id: &'a str,
    /// Who asks.
    pub principal_arn: &'a str,
    /// The KMS operation.
    pub operation: &'a str,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// For CloudTrail.
    pub marks: Marks,
}

impl Kms {
    /// Sets the emulator up.
    #[must_use]
    pub fn new(state: Keeper, trail: Trail, reach: Reach, names: Names, vpc_services: Vec<String>) -> Self {
        Self {
            caller: state.caller(&names.principal_arn),
            region: reach.region.clone(),
            account: names.account,
            state,
            reach: Arc::new(reach),
            vpc_services,
            trail,
            proxies: Mutex::default(),
            calls: tokio::sync::RwLock::default(),
            updates: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until every call that has begun is finished, but no longer than that takes at most.
    pub async fn finish(&self) {
        let patience = self.reach.patience.saturating_mul(ATTEMPTS_MAX).saturating_add(SLACK);
        let _ = tokio::time::timeout(patience, self.calls.write()).await;
    }

    /// The proxy of a key store.
    ///
    /// # Errors
    /// [`Failure::NoConnection`] where its endpoint is no name.
    pub(super) fn proxy(&self, store: &Store) -> Result<Arc<Proxy>, Failure> {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        match proxies.get(&store.id) {
            Some(proxy) if *proxy.configuration() == store.proxy => Ok(Arc::clone(proxy)),
            _ => {
                let proxy = Arc::new(self.new_proxy(store.proxy.clone())?);
                proxies.insert(store.id.clone(), Arc::clone(&proxy));
                Ok(proxy)
            }
        }
    }

    /// A proxy that belongs to no key store yet.
    ///
    /// # Errors
    /// As [`Self::proxy`].
    pub(super) fn new_proxy(&self, configuration: ProxyConfiguration) -> Result<Proxy, Failure> {
        Proxy::new(Arc::clone(&self.reach), configuration)
    }

    /// Ends the connections to a key store's proxy.
    pub(super) fn forget_proxy(&self, store_id: &str) {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).remove(store_id);
    }

    async fn carry_out(self: &Arc<Self>, call: &mut Call<'_>) -> Result<Value, Answer> {
        match call.operation {
            "CreateCustomKeyStore" => self.create_store(call).await,
            "ConnectCustomKeyStore" => self.connect_store(call),
            "DisconnectCustomKeyStore" => self.disconnect_store(call),
            "DescribeCustomKeyStores" => self.describe_stores(call),
            "UpdateCustomKeyStore" => self.update_store(call).await,
            "DeleteCustomKeyStore" => self.delete_store(call),
            "CreateKey" => self.create_key(call).await,
            "DescribeKey" => self.describe_key(call),
            "EnableKey" => self.set_enabled(call, true),
            "DisableKey" => self.set_enabled(call, false),
            "ScheduleKeyDeletion" => self.schedule_deletion(call),
            "CancelKeyDeletion" => self.cancel_deletion(call),
            "ListKeys" => self.list_keys(call),
            "CreateAlias" => self.create_alias(call),
            "UpdateAlias" => self.update_alias(call),
            "DeleteAlias" => self.delete_alias(call),
            "ListAliases" => self.list_aliases(call),
            "Encrypt" => self.encrypt(call).await,
            "Decrypt" => self.decrypt(call).await,
            "ReEncrypt" => self.re_encrypt(call).await,
            "GenerateDataKey" => self.generate_data_key(call, true).await,
            "GenerateDataKeyWithoutPlaintext" => self.generate_data_key(call, false).await,
            other => Err(Answer::bad("UnsupportedOperationException", &format!("{other} is not emulated"))),
        }
    }

    async fn respond(self: &Arc<Self>, request: Incoming<'_>) -> Result<Value, Answer> {
        let unknown = || Answer::bad("UnknownOperationException", "");
        if request.method != Method::POST || request.path != "/" {
            return Err(Answer::error(StatusCode::NOT_FOUND, "UnknownOperationException", ""));
        }
        let caller = request.caller(core::slice::from_ref(&self.caller), &self.region)?;
        let operation = request.operation().ok_or_else(unknown)?;
        let _under_way = self.calls.read().await;
        let mut call = Call {
            parameters: Parameters::read(request.body)?,
            request_id: request.request_id,
            principal_arn: &caller.principal_arn,
            operation,
            now_ms: request.now_ms,
            marks: Marks::default(),
        };
        let result = self.carry_out(&mut call).await;
        let error = result.as_ref().err().map(error_of);
        let user_agent = request.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let event = Event {
            at_ms: call.now_ms,
            operation,
            request_id: call.request_id,
            principal_arn: &caller.principal_arn,
            access_key_id: &caller.access_key_id,
            region: &self.region,
            account: &self.account,
            user_agent: user_agent.unwrap_or_default(),
            parameters: call.parameters.fields(),
            marks: &call.marks,
            error: error.as_ref().map(|(kind, message)| (kind.as_str(), message.as_str())),
        };
        if let Err(error) = self.trail.write(&event) {
            eprintln!("kms: CloudTrail's file: {error}");
            return Err(Answer::internal("the emulator cannot write CloudTrail's event"));
        }
        result
    }
}

/// Who there is.
pub struct Names {
    /// Account of all names.
    pub account: String,
    /// ARN of the caller.
    pub principal_arn: String,
}

/// `__type` and `message` of an error.
fn error_of(answer: &Answer) -> (String, String) {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("__type"), text("message"))
}

/// [`Kms`] as the server takes it.
pub struct Served(pub Arc<Kms>);

impl aws_json::Service for Served {
    async fn answer(&self, request: Incoming<'_>) -> Answer {
        match self.0.respond(request).await {
            Ok(body) => Answer { status: StatusCode::OK, body: body.to_string() },
            Err(answer) => answer,
        }
    }
}

/// A page of a list whose lines have names, in their order: the lines, and the rest of the answer.
pub(super) fn page<T>(
    lines: Vec<(String, T)>,
    limit: Option<u64>,
    marker: Option<&str>,
    name: &str,
    to_json: impl Fn(T) -> Value,
) -> Value {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100);
    let mut lines = lines.into_iter().filter(|(key, _)| marker.is_none_or(|marker| key.as_str() > marker)).peekable();
    let mut last = None;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some((key, line)) = lines.next()
    {
        found.push(to_json(line));
        last = Some(key);
    }
    let mut answer = json!({ name: found, "Truncated": lines.peek().is_some() });
    if let (Some(_), Some(fields), Some(last)) = (lines.peek(), answer.as_object_mut(), last) {
        fields.insert("NextMarker".to_owned(), last.into());
    }
    answer
}

/// Seconds since 1970, as AWS's JSON has times.
pub(super) fn seconds(at_ms: u64) -> Value {
    json!(Duration::from_millis(at_ms).as_secs_f64())
}
