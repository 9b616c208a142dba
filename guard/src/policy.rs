//! A policy set: parsed, validated, and asked.
//!
//! Guarantees: a [`Policy`] obeys the bounds and the schema, and each of its policies has a name of its own; a decision is a function
//! of the attributes alone; it permits only where Cedar does and no policy failed, since a `forbid` that fails must open nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request, Response,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use holdfast_shared::limits::{USE_POLICY_NAME_MAX, USE_POLICY_PRINCIPAL_MAX};

use crate::SCHEMA;
use crate::principal::Principal;
use crate::problem::{Invalid, Problem};
use crate::request::{Attributes, KmsKey};
use crate::scan::scan;

/// What a schema that is part of the program would have to lack.
const BROKEN: &str = "this build's schema is not readable";

static VALIDATOR: LazyLock<Option<Validator>> =
    LazyLock::new(|| Schema::from_cedarschema_str(SCHEMA).ok().map(|(schema, _)| Validator::new(schema)));

/// A validated policy set.
pub struct Policy {
    set: PolicySet,
    authorizer: Authorizer,
    /// Place in the text and name.
    rules: HashMap<PolicyId, (usize, Arc<str>)>,
    types: Types,
    warnings: Vec<Problem>,
}

struct Types {
    principal: EntityTypeName,
    key: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    fn new() -> Option<Self> {
        let name = |text: &str| text.parse().ok();
        Some(Self {
            principal: name("Holdfast::Principal")?,
            key: name("Holdfast::Key")?,
            action: name("Holdfast::Action")?,
        })
    }
}

/// Why a decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A `permit` holds, and no `forbid`.
    Permitted,
    /// A `forbid` holds.
    Forbidden,
    /// No `permit` holds.
    NothingPermits,
    /// A policy could not be evaluated: an integer overflowed, or the principal is longer than [`USE_POLICY_PRINCIPAL_MAX`].
    Failed,
}

/// What a policy says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why.
    pub ground: Ground,
    /// The policy that decided, the first in the text of several; nothing where nothing permits.
    pub rule: Option<Arc<str>>,
}

impl Decision {
    /// Whether the request may go on.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        self.ground == Ground::Permitted
    }
}

impl core::fmt::Debug for Policy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Policy").field("rules", &self.names()).finish_non_exhaustive()
    }
}

impl Policy {
    /// Parses and validates a policy set.
    ///
    /// # Errors
    /// What is wrong with it, with places.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        scan(text)?;
        let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            Invalid::new(errors.iter().map(|error| Problem::of(text, error)).collect())
        })?;
        if set.templates().next().is_some() {
            return Err(Problem::whole("templates (?principal, ?resource) are not supported").into());
        }
        let rules = names(&set)?;
        let (Some(validator), Some(types)) = (VALIDATOR.as_ref(), Types::new()) else {
            return Err(Problem::whole(BROKEN).into());
        };
        let validation = validator.validate(&set, ValidationMode::Strict);
        let errors: Vec<_> = validation.validation_errors().map(|error| Problem::of(text, error)).collect();
        if !errors.is_empty() {
            return Err(Invalid::new(errors));
        }
        let warnings = validation.validation_warnings().map(|warning| Problem::of(text, warning)).collect();
        let warnings = Invalid::new(warnings).problems;
        Ok(Self { set, authorizer: Authorizer::new(), rules, types, warnings })
    }

    /// What is allowed and looks like a mistake: a policy that never holds, letters of several scripts.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The names of the policies, in the order of the text.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut rules: Vec<_> = self.rules.values().collect();
        rules.sort();
        rules.into_iter().map(|(_, name)| Arc::clone(name)).collect()
    }

    /// Decides. Takes microseconds; what the worst policy takes is bounded with the text (`docs/policy.md`).
    #[must_use]
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(response) = self.respond(attributes) else { return Decision { ground: Ground::Failed, rule: None } };
        let diagnostics = response.diagnostics();
        let failed: Vec<_> = diagnostics
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| error.policy_id())
            .collect();
        if !failed.is_empty() {
            return Decision { ground: Ground::Failed, rule: self.first(failed.into_iter()) };
        }
        let rule = self.first(diagnostics.reason());
        let ground = match response.decision() {
            cedar_policy::Decision::Allow => Ground::Permitted,
            cedar_policy::Decision::Deny if rule.is_some() => Ground::Forbidden,
            cedar_policy::Decision::Deny => Ground::NothingPermits,
        };
        Decision { ground, rule }
    }

    fn first<'p>(&self, ids: impl Iterator<Item = &'p PolicyId>) -> Option<Arc<str>> {
        ids.filter_map(|id| self.rules.get(id)).min().map(|(_, name)| Arc::clone(name))
    }

    /// Cedar's answer; nothing where the principal is too long, or Cedar takes the request for malformed, which [`Self::request`] never
    /// makes.
    fn respond(&self, attributes: &Attributes<'_>) -> Option<Response> {
        if attributes.principal.len() > USE_POLICY_PRINCIPAL_MAX {
            return None;
        }
        let (request, entities) = self.request(attributes, None)?;
        Some(self.authorizer.is_authorized(&request, &self.set, &entities))
    }

    fn request(&self, attributes: &Attributes<'_>, schema: Option<&Schema>) -> Option<(Request, Entities)> {
        let uid = |name: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id));
        let principal = Principal::parse(attributes.principal);
        let principal_uid = uid(&self.types.principal, principal.arn);
        let key_uid = uid(&self.types.key, attributes.external_key_id);
        let mut described = Record::with_capacity(8);
        described.text("kind", principal.kind.as_str());
        described.text("arn", principal.arn);
        described.optional("partition", principal.partition);
        described.optional("account", principal.account);
        described.optional("path", principal.path);
        described.optional("userName", principal.user_name);
        described.optional("roleName", principal.role_name);
        described.optional("sessionName", principal.session_name);
        described.optional("service", principal.service);
        let mut key = Record::with_capacity(1);
        key.text("id", attributes.external_key_id);
        let kms_key = attributes.kms_key_arn.and_then(KmsKey::parse);
        let mut context = Record::with_capacity(11);
        context.text("externalKeyId", attributes.external_key_id);
        context.text("kmsOperation", attributes.kms_operation);
        context.optional("kmsKeyArn", attributes.kms_key_arn);
        context.optional("kmsRegion", kms_key.map(|key| key.region));
        context.optional("kmsAccount", kms_key.map(|key| key.account));
        context.optional("viaService", attributes.via_service);
        context.optional("sourceVpc", attributes.source_vpc);
        context.optional("sourceVpce", attributes.source_vpce);
        context.number("hour", attributes.hour());
        context.number("weekday", attributes.weekday());
        context.text("accessKeyId", attributes.access_key_id);
        let entities = [
            Entity::new(principal_uid.clone(), described.0.into_iter().collect(), HashSet::new()).ok()?,
            Entity::new(key_uid.clone(), key.0.into_iter().collect(), HashSet::new()).ok()?,
        ];
        let action = uid(&self.types.action, attributes.operation.as_str());
        let request =
            Request::new(principal_uid, action, key_uid, Context::from_pairs(context.0).ok()?, schema).ok()?;
        Some((request, Entities::from_entities(entities, None).ok()?))
    }
}

struct Record(Vec<(String, RestrictedExpression)>);

impl Record {
    fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    fn text(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), RestrictedExpression::new_string(value.to_owned())));
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &str, value: u8) {
        self.0.push((name.to_owned(), RestrictedExpression::new_long(value.into())));
    }
}

/// Each policy's name: its `@id`, or `policy0` for the first in the text, and so on.
fn names(set: &PolicySet) -> Result<HashMap<PolicyId, (usize, Arc<str>)>, Invalid> {
    let mut rules = HashMap::new();
    let mut taken = HashSet::new();
    for policy in set.policies() {
        let id: &str = policy.id().as_ref();
        let place = id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
        let name = policy.annotation("id").unwrap_or(id);
        let is_name =
            (1..=USE_POLICY_NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            let text = format!(
                "the @id of {id} must have 1 to {USE_POLICY_NAME_MAX} printable ASCII characters without spaces"
            );
            return Err(Problem::whole(text).into());
        }
        if !taken.insert(name.to_owned()) {
            return Err(Problem::whole(format!("two policies have the name {name}")).into());
        }
        rules.insert(policy.id().clone(), (place, Arc::from(name)));
    }
    if rules.is_empty() {
        let text = "there is no policy in it, and without one everything would be denied: to deny everything, block the key store";
        return Err(Problem::whole(text).into());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
