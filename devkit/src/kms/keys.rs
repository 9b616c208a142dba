//! KMS keys in external key stores, and their aliases.
//!
//! Guarantees: key states and their exceptions are those of the developer guide ("Key states of KMS keys"); the external key is asked for
//! before a key is made from it. Policies, grants and tags are taken and play no part.

use holdfast_shared::secrets::Secret;
use serde_json::{Value, json};

use super::failure::{Failure, Told};
use super::parameters::{
    ALIAS_NAME, DESCRIPTION, KEY_ID, KEY_SPEC, KEY_USAGE, MARKER, ORIGIN, STORE_ID, TARGET_KEY_ID, XKS_KEY_ID, invalid,
};
use super::service::{Call, Kms, page, seconds};
use super::state::{Alias, Connection, Key, State, Store, random};
use super::stores::store;
use crate::aws_json::{Answer, uuid};

/// Days until a key is deleted, where none are given.
const WINDOW_DAYS: u64 = 30;
/// `keyUsage` values of an external key (specification, `GetKeyMetadata`).
const USAGES_MAX: usize = 10;
const DAY_MS: u64 = 86_400_000;

impl Kms {
    pub(super) async fn create_key(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let origin = call.parameters.optional(&ORIGIN);
        let store_id = call.parameters.optional(&STORE_ID);
        let xks_key_id = call.parameters.optional(&XKS_KEY_ID);
        let description = call.parameters.optional(&DESCRIPTION).unwrap_or_default();
        let usage = call.parameters.optional(&KEY_USAGE);
        let spec = call.parameters.optional(&KEY_SPEC);
        call.parameters.finish()?;
        if origin.as_deref() != Some("EXTERNAL_KEY_STORE") {
            let reason = "only keys of origin EXTERNAL_KEY_STORE are emulated";
            return Err(Answer::bad("UnsupportedOperationException", reason));
        }
        let is_symmetric = usage.is_none_or(|usage| usage == "ENCRYPT_DECRYPT")
            && spec.is_none_or(|spec| spec == "SYMMETRIC_DEFAULT")
            && !call.parameters.flag("MultiRegion")?;
        if !is_symmetric {
            let reason = "a key in an external key store is SYMMETRIC_DEFAULT, for ENCRYPT_DECRYPT, in one region";
            return Err(Answer::bad("UnsupportedOperationException", reason));
        }
        let (Some(store_id), Some(xks_key_id)) = (store_id, xks_key_id) else {
            return Err(invalid("CustomKeyStoreId and XksKeyId are required with Origin EXTERNAL_KEY_STORE"));
        };
        let check = |state: &State| {
            let store = store(state, &store_id)?.clone();
            if store.connection != Connection::Connected {
                return Err(Failure::NotConnected.answer(Told::CreateKey));
            }
            let is_taken = state.keys.values().any(|key| key.store_id == store_id && key.xks_key_id == xks_key_id);
            let message = || format!("The external key {xks_key_id} is associated with another KMS key already.");
            if is_taken { Err(Answer::bad("XksKeyAlreadyInUseException", &message())) } else { Ok(store) }
        };
        let store = self.state.read(call.now_ms, check)?;
        self.check_external_key(&store, &xks_key_id, call).await?;
        let material = random::<32>().map_err(|error| Answer::internal(&error.to_string()))?;
        let key = Key {
            id: uuid(),
            store_id: store_id.clone(),
            xks_key_id: xks_key_id.clone(),
            description,
            created_ms: call.now_ms,
            is_enabled: true,
            deletion_ms: None,
            material: hex::encode(material),
        };
        call.marks.keys.push(self.arn(&key.id));
        let answer = self.state.change(call.now_ms, |state| {
            check(state)?;
            state.keys.insert(key.id.clone(), key.clone());
            Ok(json!({ "KeyMetadata": self.metadata(state, &key) }))
        })?;
        call.marks.response = Some(json!({ "keyMetadata": { "arn": self.arn(&key.id), "keyId": key.id } }));
        Ok(answer)
    }

    async fn check_external_key(&self, store: &Store, xks_key_id: &str, call: &Call<'_>) -> Result<(), Answer> {
        let body = json!({ "requestMetadata": {
            "awsPrincipalArn": call.principal_arn,
            "kmsOperation": call.operation,
            "kmsRequestId": call.request_id,
        } });
        let asked = async { self.proxy(store)?.ask(&format!("keys/{xks_key_id}/metadata"), &body).await };
        let answer = asked.await.map_err(|failure| failure.answer(Told::CreateKey))?;
        let usage = answer.body.get("keyUsage").and_then(Value::as_array).filter(|usage| usage.len() <= USAGES_MAX);
        let (Some(spec), Some(usage), Some(status)) = (answer.text("keySpec"), usage, answer.text("keyStatus")) else {
            return Err(Failure::Malformed.answer(Told::CreateKey));
        };
        let wrong = |flaw: Failure| Err(flaw.answer(Told::CreateKey));
        if spec != "AES_256" {
            return wrong(Failure::KeySpec);
        }
        if !["ENCRYPT", "DECRYPT"].iter().all(|wanted| usage.iter().any(|usage| usage == wanted)) {
            return wrong(Failure::KeyUsage);
        }
        match status {
            "ENABLED" => Ok(()),
            "DISABLED" => wrong(Failure::KeyStatus),
            _ => wrong(Failure::Malformed),
        }
    }

    pub(super) fn describe_key(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let key = self.key(call, &KEY_ID)?;
        Ok(self.state.read(call.now_ms, |state| json!({ "KeyMetadata": self.metadata(state, &key) })))
    }

    pub(super) fn set_enabled(&self, call: &mut Call<'_>, is_enabled: bool) -> Result<Value, Answer> {
        let key = self.managed_key(call)?;
        self.change_key(call.now_ms, &key.id, |key| {
            if key.deletion_ms.is_some() {
                return Err(self.pending_deletion(key));
            }
            key.is_enabled = is_enabled;
            Ok(json!({}))
        })
    }

    pub(super) fn schedule_deletion(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let days = call.parameters.number("PendingWindowInDays", 7, 30).unwrap_or(WINDOW_DAYS);
        let key = self.managed_key(call)?;
        let at_ms = call.now_ms.saturating_add(days.saturating_mul(DAY_MS));
        self.change_key(call.now_ms, &key.id, |key| {
            if key.deletion_ms.is_some() {
                return Err(self.pending_deletion(key));
            }
            key.deletion_ms = Some(at_ms);
            key.is_enabled = false;
            Ok(json!({
                "KeyId": self.arn(&key.id),
                "DeletionDate": seconds(at_ms),
                "KeyState": "PendingDeletion",
                "PendingWindowInDays": days,
            }))
        })
    }

    pub(super) fn cancel_deletion(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let key = self.managed_key(call)?;
        self.change_key(call.now_ms, &key.id, |key| {
            if key.deletion_ms.take().is_none() {
                let message = format!("{} is not pending deletion.", self.arn(&key.id));
                return Err(Answer::bad("KMSInvalidStateException", &message));
            }
            Ok(json!({ "KeyId": self.arn(&key.id) }))
        })
    }

    pub(super) fn list_keys(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let limit = call.parameters.number("Limit", 1, 1000);
        let marker = call.parameters.optional(&MARKER);
        call.parameters.finish()?;
        let ids: Vec<_> =
            self.state.read(call.now_ms, |state| state.keys.keys().map(|id| (id.clone(), id.clone())).collect());
        let line = |id: String| json!({ "KeyArn": self.arn(&id), "KeyId": id });
        Ok(page(ids, limit, marker.as_deref(), "Keys", line))
    }

    pub(super) fn create_alias(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let name = alias_name(call)?;
        let key = self.target_key(call)?;
        self.state.change(call.now_ms, |state| {
            self.check_kept(state, &key.id)?;
            if state.aliases.contains_key(&name) {
                let message = format!("An alias with the name {} already exists", self.alias_arn(&name));
                return Err(Answer::bad("AlreadyExistsException", &message));
            }
            let alias = Alias { key_id: key.id.clone(), created_ms: call.now_ms, updated_ms: call.now_ms };
            state.aliases.insert(name.clone(), alias);
            Ok(json!({}))
        })
    }

    pub(super) fn update_alias(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let name = alias_name(call)?;
        let key = self.target_key(call)?;
        self.state.change(call.now_ms, |state| {
            self.check_kept(state, &key.id)?;
            let alias = state.aliases.get_mut(&name).ok_or_else(|| self.no_alias(&name))?;
            alias.key_id.clone_from(&key.id);
            alias.updated_ms = call.now_ms;
            Ok(json!({}))
        })
    }

    pub(super) fn delete_alias(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let name = alias_name(call)?;
        call.parameters.finish()?;
        self.state.change(call.now_ms, |state| {
            state.aliases.remove(&name).ok_or_else(|| self.no_alias(&name)).map(|_| json!({}))
        })
    }

    pub(super) fn list_aliases(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let limit = call.parameters.number("Limit", 1, 100).or(Some(50));
        let marker = call.parameters.optional(&MARKER);
        let is_narrowed = call.parameters.fields().get("KeyId").is_some_and(|name| !name.is_null());
        let wanted = if is_narrowed { Some(self.managed_key(call)?.id) } else { None };
        call.parameters.finish()?;
        let lines: Vec<_> = self.state.read(call.now_ms, |state| {
            let aliases = state.aliases.iter();
            let aliases = aliases.filter(|(_, alias)| wanted.as_ref().is_none_or(|wanted| *wanted == alias.key_id));
            aliases.map(|(name, alias)| (name.clone(), (name.clone(), alias.clone()))).collect()
        });
        let line = |(name, alias): (String, Alias)| {
            json!({
                "AliasName": name,
                "AliasArn": self.alias_arn(&name),
                "TargetKeyId": alias.key_id,
                "CreationDate": seconds(alias.created_ms),
                "LastUpdatedDate": seconds(alias.updated_ms),
            })
        };
        Ok(page(lines, limit, marker.as_deref(), "Aliases", line))
    }

    /// The key that `KeyId` names by its id or ARN.
    fn managed_key(&self, call: &mut Call<'_>) -> Result<Key, Answer> {
        let name = call.parameters.required(&KEY_ID);
        call.parameters.finish()?;
        if names_alias(&name) {
            return Err(not_found(&format!("Invalid keyId {name}")));
        }
        self.key(call, &KEY_ID)
    }

    /// The key that an alias is to lead to, by its id or ARN.
    fn target_key(&self, call: &mut Call<'_>) -> Result<Key, Answer> {
        let name = call.parameters.required(&TARGET_KEY_ID);
        call.parameters.finish()?;
        if names_alias(&name) {
            return Err(invalid("Aliases must refer to keys. Not aliases"));
        }
        self.key(call, &TARGET_KEY_ID)
    }

    /// The key that a parameter names, as id, ARN, alias or ARN of an alias.
    pub(super) fn key(&self, call: &mut Call<'_>, rule: &super::parameters::Rule) -> Result<Key, Answer> {
        let name = call.parameters.required(rule);
        call.parameters.finish()?;
        self.check_account(call, &name)?;
        let key = self.state.read(call.now_ms, |state| self.find_key(state, &name).cloned())?;
        call.marks.keys.push(self.arn(&key.id));
        call.marks.custom_key_store_id = Some(key.store_id.clone());
        call.marks.xks_key_id = Some(key.xks_key_id.clone());
        Ok(key)
    }

    /// Another account says nothing of its keys to whom it does not know.
    fn check_account(&self, call: &Call<'_>, name: &str) -> Result<(), Answer> {
        let other = name.strip_prefix(&format!("arn:aws:kms:{}:", self.region)).and_then(|rest| rest.split_once(':'));
        if other.is_none_or(|(account, _)| account == self.account) {
            return Ok(());
        }
        let message = format!(
            "User: {} is not authorized to perform: kms:{} on resource: {name} because the resource does not exist in this Region, no \
             resource-based policies allow access, or a resource-based policy explicitly denies access",
            call.principal_arn, call.operation
        );
        Err(Answer::bad("AccessDeniedException", &message))
    }

    pub(super) fn find_key<'s>(&self, state: &'s State, name: &str) -> Result<&'s Key, Answer> {
        let here = format!("arn:aws:kms:{}:{}:", self.region, self.account);
        let (id, alias) = match name.strip_prefix(&here) {
            Some(resource) => (resource.strip_prefix("key/"), resource.starts_with("alias/").then_some(resource)),
            None if name.starts_with("arn:") => (None, None),
            None => (Some(name).filter(|name| !name.contains('/')), name.starts_with("alias/").then_some(name)),
        };
        match (id, alias) {
            (_, Some(alias)) => {
                let missing = || self.no_alias(alias);
                state.keys.get(&state.aliases.get(alias).ok_or_else(missing)?.key_id).ok_or_else(missing)
            }
            (Some(id), None) => {
                let missing = || not_found(&format!("Key '{}' does not exist", self.arn(id)));
                state.keys.get(id).ok_or_else(missing)
            }
            (None, None) if name.starts_with("arn:") => Err(not_found(&format!("Invalid arn {name}"))),
            (None, None) => Err(not_found(&format!("Invalid keyId {name}"))),
        }
    }

    fn change_key<T>(
        &self,
        now_ms: u64,
        id: &str,
        change: impl FnOnce(&mut Key) -> Result<T, Answer>,
    ) -> Result<T, Answer> {
        self.state.change(now_ms, |state| {
            let missing = || not_found(&format!("Key '{}' does not exist", self.arn(id)));
            change(state.keys.get_mut(id).ok_or_else(missing)?)
        })
    }

    /// ARN of a key.
    pub(super) fn arn(&self, id: &str) -> String {
        format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account)
    }

    fn alias_arn(&self, name: &str) -> String {
        format!("arn:aws:kms:{}:{}:{name}", self.region, self.account)
    }

    fn no_alias(&self, name: &str) -> Answer {
        not_found(&format!("Alias {} is not found.", self.alias_arn(name)))
    }

    /// Refuses a key that is pending deletion.
    fn check_kept(&self, state: &State, id: &str) -> Result<(), Answer> {
        let key = self.find_key(state, id)?;
        if key.deletion_ms.is_some() { Err(self.pending_deletion(key)) } else { Ok(()) }
    }

    fn pending_deletion(&self, key: &Key) -> Answer {
        Answer::bad("KMSInvalidStateException", &format!("{} is pending deletion.", self.arn(&key.id)))
    }

    /// The key store and the material of a key that may be used, as they are now: the key may have changed since it was looked up.
    pub(super) fn usable(&self, id: &str, now_ms: u64) -> Result<(Store, Secret<32>), Answer> {
        let (key, store) = self.state.read(now_ms, |state| {
            let key = self.find_key(state, id)?;
            Ok((key.clone(), store(state, &key.store_id)?.clone()))
        })?;
        if key.deletion_ms.is_some() {
            return Err(self.pending_deletion(&key));
        }
        if !key.is_enabled {
            return Err(Answer::bad("DisabledException", &format!("{} is disabled.", self.arn(&key.id))));
        }
        if store.connection != Connection::Connected {
            return Err(Failure::NotConnected.answer(Told::Use));
        }
        let mut material = [0; 32];
        hex::decode_to_slice(&key.material, &mut material)
            .map_err(|_| Answer::internal("the emulator's state is damaged"))?;
        Ok((store, Secret::take(&mut material)))
    }

    fn metadata(&self, state: &State, key: &Key) -> Value {
        let is_connected =
            state.stores.get(&key.store_id).is_some_and(|store| store.connection == Connection::Connected);
        let key_state = match key {
            Key { deletion_ms: Some(_), .. } => "PendingDeletion",
            _ if !is_connected => "Unavailable",
            Key { is_enabled: false, .. } => "Disabled",
            _ => "Enabled",
        };
        let mut metadata = json!({
            "AWSAccountId": self.account,
            "KeyId": key.id,
            "Arn": self.arn(&key.id),
            "CreationDate": seconds(key.created_ms),
            "Enabled": key_state == "Enabled",
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": key_state,
            "Origin": "EXTERNAL_KEY_STORE",
            "CustomKeyStoreId": key.store_id,
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": false,
            "XksKeyConfiguration": { "Id": key.xks_key_id },
        });
        if let (Some(at_ms), Some(fields)) = (key.deletion_ms, metadata.as_object_mut()) {
            fields.insert("DeletionDate".to_owned(), seconds(at_ms));
        }
        metadata
    }
}

fn alias_name(call: &mut Call<'_>) -> Result<String, Answer> {
    let name = call.parameters.required(&ALIAS_NAME);
    call.parameters.finish()?;
    let end = name.strip_prefix("alias/").filter(|end| !end.is_empty() && !end.starts_with("aws/"));
    let wrong = || Answer::bad("InvalidAliasNameException", "an alias begins with alias/ and not with alias/aws/");
    end.map(|_| name.clone()).ok_or_else(wrong)
}

/// Whether a name is an alias or the ARN of one.
fn names_alias(name: &str) -> bool {
    name.starts_with("alias/") || name.starts_with("arn:") && name.contains(":alias/")
}

fn not_found(message: &str) -> Answer {
    Answer::bad("NotFoundException", message)
}
