//! The guard of a key store: its policy of use, then its rate limits, then its budgets.
//!
//! ```text
//! Question ─▶ decided before, or time for the policy (429) and policy (403) ─▶ quota of the key store ∧ limit of the key ∧ limit of the principal (429)
//!          ─▶ budgets of the key, for the hour and for the day (429) ─▶ Permit
//! ```
//! Guarantees: the policy is asked for each use of a key and for metadata, limits and budgets are for uses alone; a request that
//! one of them refuses is debited to none; buckets and purses go on over new versions with the same limits; however costly a policy is,
//! it takes no more than its share of a processor. Assumes: the caller keeps one [`UseGuards`] for each key store over all its versions. A
//! request takes no lock and waits for nothing.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_guard::{Attributes, Decision, Policy};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{Quota, UseBudgets, UseLimits};
use holdfast_shared::xks::Operation;

use super::budgets::Budgets;
use super::decisions::Decisions;
use super::effort::{Effort, Meter};
use super::guard::{Denial, Guard, OpenGuard, Permit, Question};
use super::rates::Rates;
use crate::clock::Clock;

/// What a policy is out of when it took too long, in records.
const POLICY_TIME: &str = "policy-time";

/// The policy of use that a version has.
pub enum PolicyInForce {
    /// None: everything is permitted.
    None,
    /// Permits what it says.
    Valid(Box<Policy>),
    /// This image does not understand it, as the one that took it did: nothing is permitted.
    Unreadable,
}

/// The name in records of what denies in the place of a policy that is not understood. It has spaces, and so is no policy's.
const UNREADABLE: &str = "policy not valid";

/// What a version says about the use of its keys.
pub struct UseRules {
    /// Who may use which key for what.
    pub policy: PolicyInForce,
    /// Of the key store.
    pub quota: Option<Quota>,
    /// For each key and each principal.
    pub limits: Option<UseLimits>,
    /// Of keys, for hours and days.
    pub budgets: Option<UseBudgets>,
    /// The keys that there are.
    pub keys: Vec<ExternalKeyId>,
}

/// The guards of one key store over its versions.
pub struct UseGuards {
    clock: Arc<dyn Clock>,
    effort: Arc<Effort>,
    rates: Mutex<Rates>,
    budgets: Mutex<Arc<Budgets>>,
}

impl UseGuards {
    /// Of a key store without a version.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, meter: Meter) -> Self {
        let effort = Arc::new(Effort::new(meter));
        Self { clock, effort, rates: Mutex::default(), budgets: Mutex::default() }
    }

    /// The guard of a version.
    #[must_use]
    pub fn guard(&self, rules: UseRules) -> Arc<dyn Guard> {
        let UseRules { policy, quota, limits, budgets: spent, keys } = rules;
        let budgets = self.follow(spent.as_ref(), &keys);
        let mut current = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = current.next(quota, limits.as_ref(), &keys);
        *current = rates.clone();
        let is_open = matches!(policy, PolicyInForce::None) && quota.is_none() && limits.is_none() && spent.is_none();
        if is_open {
            return Arc::new(OpenGuard);
        }
        let (effort, clock) = (Arc::clone(&self.effort), Arc::clone(&self.clock));
        Arc::new(UseGuard { policy, decisions: Decisions::new(), rates, budgets, effort, clock })
    }

    /// The purses of a version.
    fn follow(&self, settings: Option<&UseBudgets>, keys: &[ExternalKeyId]) -> Arc<Budgets> {
        let mut current = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(current.next(settings, keys));
        current.low().notify_one();
        Arc::clone(&current)
    }

    /// The purses of the newest version.
    pub(crate) fn budgets(&self) -> Arc<Budgets> {
        Arc::clone(&self.budgets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct UseGuard {
    policy: PolicyInForce,
    /// Of this policy.
    decisions: Decisions,
    rates: Rates,
    budgets: Arc<Budgets>,
    effort: Arc<Effort>,
    clock: Arc<dyn Clock>,
}

impl Guard for UseGuard {
    fn permit(&self, question: &Question<'_>) -> Result<Permit, Denial> {
        // Health requests alone name nobody, and no guard is asked about them.
        let principal = question.metadata.aws_principal_arn().unwrap_or_default();
        let rule = match &self.policy {
            PolicyInForce::Valid(policy) => {
                let decision = self.decide(policy, &self.attributes(question, principal))?;
                if !decision.is_permitted() {
                    return Err(Denial::policy(decision.rule));
                }
                decision.rule
            }
            PolicyInForce::None => None,
            PolicyInForce::Unreadable => return Err(Denial::policy(Some(Arc::from(UNREADABLE)))),
        };
        if matches!(question.operation, Operation::Encrypt | Operation::Decrypt) {
            self.rates.take(question.key, principal, self.clock.monotonic_ms()).map_err(Denial::throttled)?;
            self.budgets.take(question.key, self.clock.wall_ms()).map_err(|rule| {
                self.rates.give_back(question.key, principal);
                Denial::throttled(rule)
            })?;
        }
        Ok(Permit { rule })
    }
}

impl UseGuard {
    /// What the policy says, and said before if it was asked the same.
    fn decide(&self, policy: &Policy, attributes: &Attributes<'_>) -> Result<Decision, Denial> {
        if let Some(decision) = self.decisions.find(attributes) {
            return Ok(decision);
        }
        let decided = self.effort.spend(self.clock.monotonic_ms(), || policy.decide(attributes));
        let decision = decided.ok_or_else(|| Denial::throttled(POLICY_TIME))?;
        self.decisions.keep(attributes, &decision);
        Ok(decision)
    }

    fn attributes<'q>(&self, question: &'q Question<'_>, principal: &'q str) -> Attributes<'q> {
        let metadata = question.metadata;
        Attributes {
            operation: question.operation,
            external_key_id: question.key.as_str(),
            principal,
            kms_operation: metadata.kms_operation(),
            kms_key_arn: metadata.kms_key_arn(),
            via_service: metadata.kms_via_service(),
            source_vpc: metadata.aws_source_vpc(),
            source_vpce: metadata.aws_source_vpce(),
            access_key_id: question.access_key_id.as_str(),
            time_ms: self.clock.wall_ms(),
        }
    }
}

#[cfg(test)]
mod tests;
