//! Orders about the use of keys.

use holdfast_guard::Policy;
use holdfast_shared::command::Outcome;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{Body, UseBudgets, UseLimits, UsePolicy};

use super::{Effect, refused};

/// A policy that is not valid must not come into the key store, where it would permit nothing.
pub(super) fn set_policy(body: &mut Body, policy: Option<&UsePolicy>) -> Effect {
    if let Some(Err(invalid)) = policy.map(|policy| Policy::parse(&policy.text)) {
        return refused(&format!("the policy is not valid: {invalid}"));
    }
    body.policy = policy.cloned();
    Effect::Changed(Outcome::Done)
}

/// A limit of a key that is not there would be a slip of the pen.
pub(super) fn set_limits(body: &mut Body, limits: Option<&UseLimits>) -> Effect {
    let named = limits.into_iter().flat_map(|limits| &limits.keys).map(|limit| &limit.id);
    if let Some(effect) = refuse_unknown(body, named) {
        return effect;
    }
    body.limits = limits.cloned();
    Effect::Changed(Outcome::Done)
}

/// As with limits.
pub(super) fn set_budgets(body: &mut Body, budgets: Option<&UseBudgets>) -> Effect {
    let named = budgets.into_iter().flat_map(|budgets| &budgets.keys).map(|key| &key.id);
    if let Some(effect) = refuse_unknown(body, named) {
        return effect;
    }
    body.budgets = budgets.cloned();
    Effect::Changed(Outcome::Done)
}

fn refuse_unknown<'i>(body: &Body, mut named: impl Iterator<Item = &'i ExternalKeyId>) -> Option<Effect> {
    let unknown = named.find(|id| !body.external_keys.iter().any(|key| key.id == **id))?;
    Some(refused(&format!("there is no key {unknown}")))
}
