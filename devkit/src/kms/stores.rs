//! Custom key stores of type `EXTERNAL_KEY_STORE`.
//!
//! Guarantees: states and their exceptions are those of the API reference; an endpoint is asked for its health before a key store with a
//! public endpoint is made or changed, and whenever one is connected. A key store is connected in the background, as on AWS, but at once.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::{Failure, Told};
use super::parameters::{
    CONNECTIVITY, ENDPOINT, MARKER, NEW_STORE_NAME, PATH, PROXY_ACCESS_KEY_ID, PROXY_SECRET, Parameters, STORE_ID,
    STORE_NAME, STORE_TYPE, VPC_OWNER, VPC_SERVICE, invalid,
};
use super::service::{Call, Kms, page, seconds};
use super::state::{Connection, ProxyConfiguration, State, Store, new_store_id};
use crate::aws_json::{Answer, uuid};

/// Key stores of an account and region (AWS KMS quotas).
const STORES_MAX: usize = 10;
const VPC: &str = "VPC_ENDPOINT_SERVICE";

/// What Create and Update may say of a proxy.
#[derive(Default)]
struct Wanted {
    connectivity: Option<String>,
    endpoint: Option<String>,
    path: Option<String>,
    vpc_service_name: Option<String>,
    vpc_service_owner: Option<String>,
    credential: Option<(String, String)>,
}

impl Wanted {
    fn read(parameters: &mut Parameters) -> Self {
        let has_credential = parameters.fields().get("XksProxyAuthenticationCredential").is_some_and(|c| !c.is_null());
        Self {
            connectivity: parameters.optional(&CONNECTIVITY),
            endpoint: parameters.optional(&ENDPOINT),
            path: parameters.optional(&PATH),
            // An empty name stands for none, where a key store gets a public endpoint (API reference, `UpdateCustomKeyStore`).
            vpc_service_name: parameters.optional_unless_empty(&VPC_SERVICE),
            vpc_service_owner: parameters.optional(&VPC_OWNER),
            credential: has_credential
                .then(|| (parameters.required(&PROXY_ACCESS_KEY_ID), parameters.required(&PROXY_SECRET))),
        }
    }

    /// Whether nothing but what may change while connected is asked for.
    const fn is_harmless(&self) -> bool {
        self.connectivity.is_none()
            && self.endpoint.is_none()
            && self.vpc_service_name.is_none()
            && self.vpc_service_owner.is_none()
    }

    const fn is_nothing(&self) -> bool {
        self.is_harmless() && self.path.is_none() && self.credential.is_none()
    }

    /// With what was there before filled in.
    fn over(self, before: Option<&ProxyConfiguration>) -> Result<ProxyConfiguration, Answer> {
        let is_moved =
            |before: &ProxyConfiguration| self.connectivity.as_ref().is_some_and(|is| *is != before.connectivity);
        if self.endpoint.is_none() && before.is_some_and(is_moved) {
            return Err(invalid("XksProxyUriEndpoint must change together with XksProxyConnectivity"));
        }
        let missing = |name: &str| invalid(&format!("{name} is required for an external key store"));
        let was = |field: fn(&ProxyConfiguration) -> &String| before.map(field).cloned();
        let (access_key_id, secret_access_key) = self
            .credential
            .or_else(|| Some((was(|proxy| &proxy.access_key_id)?, was(|proxy| &proxy.secret_access_key)?)))
            .ok_or_else(|| missing("XksProxyAuthenticationCredential"))?;
        let connectivity = self
            .connectivity
            .or_else(|| was(|proxy| &proxy.connectivity))
            .ok_or_else(|| missing("XksProxyConnectivity"))?;
        let is_vpc = connectivity == VPC;
        let before_service = before.and_then(|proxy| proxy.vpc_service_name.clone());
        let before_owner = before.and_then(|proxy| proxy.vpc_service_owner.clone());
        if !is_vpc && (self.vpc_service_name.is_some() || self.vpc_service_owner.is_some()) {
            return Err(invalid("a VPC endpoint service goes with XksProxyConnectivity VPC_ENDPOINT_SERVICE only"));
        }
        let vpc_service_name = self.vpc_service_name.or(before_service).filter(|_| is_vpc);
        if is_vpc && vpc_service_name.is_none() {
            return Err(missing("XksProxyVpcEndpointServiceName"));
        }
        Ok(ProxyConfiguration {
            endpoint: self
                .endpoint
                .or_else(|| was(|proxy| &proxy.endpoint))
                .ok_or_else(|| missing("XksProxyUriEndpoint"))?,
            path: self.path.or_else(|| was(|proxy| &proxy.path)).ok_or_else(|| missing("XksProxyUriPath"))?,
            vpc_service_owner: self.vpc_service_owner.or(before_owner).filter(|_| is_vpc),
            connectivity,
            vpc_service_name,
            access_key_id,
            secret_access_key,
        })
    }
}

impl Kms {
    pub(super) async fn create_store(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let name = call.parameters.required(&STORE_NAME);
        let kind = call.parameters.optional(&STORE_TYPE);
        let wanted = Wanted::read(&mut call.parameters);
        call.parameters.finish()?;
        if kind.as_deref() != Some("EXTERNAL_KEY_STORE") {
            let reason = "only custom key stores of type EXTERNAL_KEY_STORE are emulated";
            return Err(Answer::bad("UnsupportedOperationException", reason));
        }
        let proxy = wanted.over(None)?;
        let check = |state: &State| {
            if state.stores.len() >= STORES_MAX {
                return Err(Answer::bad("LimitExceededException", "there are ten custom key stores already"));
            }
            check_name(state, &name, None)?;
            self.check_place(state, &proxy, None)
        };
        self.state.read(call.now_ms, check)?;
        if proxy.connectivity != VPC {
            self.check_health(&proxy, call).await?;
        }
        let store = Store {
            id: new_store_id(),
            name: name.clone(),
            proxy: proxy.clone(),
            created_ms: call.now_ms,
            connection: Connection::Disconnected,
        };
        let id = store.id.clone();
        self.state.change(call.now_ms, |state| {
            // Others may have come in between.
            check(state)?;
            state.stores.insert(store.id.clone(), store);
            Ok(())
        })?;
        let answer = json!({ "CustomKeyStoreId": id });
        call.marks.response = Some(json!({ "customKeyStoreId": id }));
        Ok(answer)
    }

    pub(super) async fn update_store(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let id = call.parameters.required(&STORE_ID);
        let name = call.parameters.optional(&NEW_STORE_NAME);
        let wanted = Wanted::read(&mut call.parameters);
        call.parameters.finish()?;
        // One by one: what is written rests on what was there, and the proxy is asked in between.
        let _turn = self.updates.lock().await;
        let before = self.state.read(call.now_ms, |state| store(state, &id).cloned())?;
        let is_connected = before.connection == Connection::Connected;
        if before.connection != Connection::Disconnected && !(is_connected && wanted.is_harmless()) {
            return Err(wrong_state(&before, "be disconnected before it is updated"));
        }
        let is_nothing = wanted.is_nothing();
        let proxy = wanted.over(Some(&before.proxy))?;
        let check = |state: &State| {
            if let Some(name) = &name {
                check_name(state, name, Some(&id))?;
            }
            if is_nothing { Ok(()) } else { self.check_place(state, &proxy, Some(&id)) }
        };
        self.state.read(call.now_ms, check)?;
        if !is_nothing && (is_connected || proxy.connectivity != VPC) {
            self.check_health(&proxy, call).await?;
        }
        self.state.change(call.now_ms, |state| {
            check(state)?;
            let store = store_mut(state, &id)?;
            if store.connection != before.connection {
                return Err(wrong_state(store, "stay as it is while it is updated"));
            }
            store.proxy = proxy.clone();
            if let Some(name) = &name {
                store.name.clone_from(name);
            }
            Ok(json!({}))
        })
    }

    pub(super) fn connect_store(self: &Arc<Self>, call: &mut Call<'_>) -> Result<Value, Answer> {
        let id = call.parameters.required(&STORE_ID);
        call.parameters.finish()?;
        let attempt = uuid();
        let begins = self.state.change(call.now_ms, |state| {
            let store = store_mut(state, &id)?;
            match store.connection {
                Connection::Failed { .. } => Err(wrong_state(store, "be disconnected before it is connected again")),
                Connection::Connecting { .. } | Connection::Connected => Ok(false),
                Connection::Disconnected => {
                    store.connection = Connection::Connecting { attempt: attempt.clone() };
                    Ok(true)
                }
            }
        })?;
        if begins {
            let (kms, request_id) = (Arc::clone(self), call.request_id.to_owned());
            tokio::spawn(async move { kms.finish_connecting(&id, attempt, &request_id).await });
        }
        Ok(json!({}))
    }

    /// Goes on with what an earlier run began.
    pub fn resume(self: &Arc<Self>, now_ms: u64) {
        let connecting = self.state.read(now_ms, |state| {
            let stores = state.stores.values().filter_map(|store| match &store.connection {
                Connection::Connecting { attempt } => Some((store.id.clone(), attempt.clone())),
                _ => None,
            });
            stores.collect::<Vec<_>>()
        });
        for (id, attempt) in connecting {
            let kms = Arc::clone(self);
            tokio::spawn(async move { kms.finish_connecting(&id, attempt, &uuid()).await });
        }
    }

    async fn finish_connecting(&self, id: &str, attempt: String, request_id: &str) {
        let now_ms = crate::aws_json::now_ms();
        let Ok(before) = self.state.read(now_ms, |state| store(state, id).cloned()) else { return };
        let is_there = |name: &String| self.vpc_services.contains(name);
        let connection = if before.proxy.vpc_service_name.as_ref().is_none_or(is_there) {
            let health = match self.proxy(&before) {
                Ok(proxy) => proxy.health("ConnectCustomKeyStore", request_id).await,
                Err(failure) => Err(failure),
            };
            match health {
                Ok(_) => Connection::Connected,
                Err(failure) => Connection::Failed { code: failure.connection_error_code().to_owned() },
            }
        } else {
            Connection::Failed { code: "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND".to_owned() }
        };
        eprintln!("kms: key store {id} ({}) is {}", before.name, connection.name());
        // Where the disk refuses, the key store stays as it is, and the next run goes on.
        let _ = self.state.change(now_ms, |state| {
            let store = store_mut(state, id)?;
            if store.connection == (Connection::Connecting { attempt }) {
                store.connection = connection;
            }
            Ok(())
        });
    }

    pub(super) fn disconnect_store(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let id = call.parameters.required(&STORE_ID);
        call.parameters.finish()?;
        self.state.change(call.now_ms, |state| {
            let store = store_mut(state, &id)?;
            if store.connection == Connection::Disconnected {
                return Err(wrong_state(store, "be connected before it is disconnected"));
            }
            store.connection = Connection::Disconnected;
            Ok(())
        })?;
        self.forget_proxy(&id);
        Ok(json!({}))
    }

    pub(super) fn delete_store(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let id = call.parameters.required(&STORE_ID);
        call.parameters.finish()?;
        self.state.change(call.now_ms, |state| {
            let found = store(state, &id)?;
            if found.connection != Connection::Disconnected {
                return Err(wrong_state(found, "be disconnected before it is deleted"));
            }
            if state.keys.values().any(|key| key.store_id == id) {
                let message = format!("The custom key store {id} contains KMS keys.");
                return Err(Answer::bad("CustomKeyStoreHasCMKsException", &message));
            }
            state.stores.remove(&id);
            Ok(())
        })?;
        self.forget_proxy(&id);
        Ok(json!({}))
    }

    pub(super) fn describe_stores(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let (id, name) = (call.parameters.optional(&STORE_ID), call.parameters.optional(&STORE_NAME));
        let limit = call.parameters.number("Limit", 1, 1000);
        let marker = call.parameters.optional(&MARKER);
        call.parameters.finish()?;
        if id.is_some() && name.is_some() {
            return Err(invalid("give CustomKeyStoreId or CustomKeyStoreName, not both"));
        }
        let is_wanted = |store: &&Store| {
            id.as_ref().is_none_or(|id| *id == store.id) && name.as_ref().is_none_or(|name| *name == store.name)
        };
        self.state.read(call.now_ms, |state| {
            let stores: Vec<_> = state.stores.values().filter(is_wanted).collect();
            if stores.is_empty() && (id.is_some() || name.is_some()) {
                return Err(not_found(id.as_deref().or(name.as_deref()).unwrap_or_default()));
            }
            let lines = stores.into_iter().map(|store| (store.id.clone(), store)).collect();
            Ok(page(lines, limit, marker.as_deref(), "CustomKeyStores", describe))
        })
    }

    /// The proxy must answer before a key store with a public endpoint is made or changed. With a VPC endpoint service KMS has a way to it
    /// only while the key store is connected.
    async fn check_health(&self, proxy: &ProxyConfiguration, call: &Call<'_>) -> Result<(), Answer> {
        let asked = async { self.new_proxy(proxy.clone())?.health(call.operation, call.request_id).await };
        asked.await.map(drop).map_err(|failure: Failure| failure.answer(Told::Store))
    }

    /// What AWS demands of endpoints and services in one account and region.
    fn check_place(&self, state: &State, proxy: &ProxyConfiguration, but: Option<&str>) -> Result<(), Answer> {
        for other in state.stores.values().filter(|other| but != Some(other.id.as_str())) {
            let (other_id, other) = (&other.id, &other.proxy);
            let has_same_endpoint = other.endpoint.eq_ignore_ascii_case(&proxy.endpoint);
            if has_same_endpoint && other.path == proxy.path {
                let message = format!("The proxy URI is already in use by {other_id}.");
                return Err(Answer::bad("XksProxyUriInUseException", &message));
            }
            if has_same_endpoint && (proxy.connectivity == VPC || other.connectivity == VPC) {
                let message = format!("The proxy URI endpoint is already in use by {other_id}.");
                return Err(Answer::bad("XksProxyUriEndpointInUseException", &message));
            }
            if proxy.vpc_service_name.is_some() && other.vpc_service_name == proxy.vpc_service_name {
                let message = format!("The VPC endpoint service is already in use by {other_id}.");
                return Err(Answer::bad("XksProxyVpcEndpointServiceInUseException", &message));
            }
        }
        if proxy.host().parse::<std::net::IpAddr>().is_ok() {
            return Err(invalid("XksProxyUriEndpoint must have a domain name, not an address"));
        }
        match &proxy.vpc_service_name {
            Some(name) if !self.vpc_services.contains(name) => {
                let message = format!(
                    "The VPC endpoint service {name} was not found; --vpc-endpoint-service names those that there are."
                );
                Err(Answer::bad("XksProxyVpcEndpointServiceNotFoundException", &message))
            }
            _ => Ok(()),
        }
    }
}

/// A key store by its id.
pub(super) fn store<'s>(state: &'s State, id: &str) -> Result<&'s Store, Answer> {
    state.stores.get(id).ok_or_else(|| not_found(id))
}

fn store_mut<'s>(state: &'s mut State, id: &str) -> Result<&'s mut Store, Answer> {
    state.stores.get_mut(id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> Answer {
    Answer::bad("CustomKeyStoreNotFoundException", &format!("The custom key store {id} does not exist."))
}

fn check_name(state: &State, name: &str, but: Option<&str>) -> Result<(), Answer> {
    let is_taken = state.stores.values().any(|store| store.name == name && but != Some(store.id.as_str()));
    let message = || format!("A custom key store with the name {name} exists already.");
    if is_taken { Err(Answer::bad("CustomKeyStoreNameInUseException", &message())) } else { Ok(()) }
}

fn wrong_state(store: &Store, must: &str) -> Answer {
    let message = format!("The custom key store {} is {}; it must {must}.", store.id, store.connection.name());
    Answer::bad("CustomKeyStoreInvalidStateException", &message)
}

fn describe(store: &Store) -> Value {
    let proxy = &store.proxy;
    let mut configuration = json!({
        "Connectivity": proxy.connectivity,
        "AccessKeyId": proxy.access_key_id,
        "UriEndpoint": proxy.endpoint,
        "UriPath": proxy.path,
    });
    let vpc =
        [("VpcEndpointServiceName", &proxy.vpc_service_name), ("VpcEndpointServiceOwner", &proxy.vpc_service_owner)];
    for (name, value) in vpc {
        if let (Some(value), Some(fields)) = (value, configuration.as_object_mut()) {
            fields.insert(name.to_owned(), value.clone().into());
        }
    }
    let mut line = json!({
        "CustomKeyStoreId": store.id,
        "CustomKeyStoreName": store.name,
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "ConnectionState": store.connection.name(),
        "CreationDate": seconds(store.created_ms),
        "XksProxyConfiguration": configuration,
    });
    if let (Connection::Failed { code }, Some(fields)) = (&store.connection, line.as_object_mut()) {
        fields.insert("ConnectionErrorCode".to_owned(), code.clone().into());
    }
    line
}
