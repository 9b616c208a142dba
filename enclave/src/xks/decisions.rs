//! What a policy said before.
//!
//! ```text
//! Attributes ─ all texts, operation, hour, weekday ─▶ place in the table ─▶ Decision, if the same was asked there last
//! ```
//! A policy sees the clock as hour and weekday and in no other way, so its decision is a function of what is compared here: nothing has to
//! be forgotten when time passes, and a policy that reads the clock needs no exception (ADR 0031).
//!
//! Guarantees: a decision is found only for attributes that are equal in everything that a policy sees, whatever their hashes are; a look-up
//! takes no lock and allocates nothing; memory is bounded by [`DECISIONS_MAX`] × [`DECISION_TEXT_MAX`] for each policy. Assumes: one table for each policy,
//! thrown away with it. Refuses: to keep what is longer. Two that meet in one place take turns in it: nobody can choose whom to meet.

use core::hash::BuildHasher;
use std::collections::hash_map::RandomState;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use holdfast_guard::{Attributes, Decision, Ground};
use holdfast_shared::limits::{DECISION_TEXT_MAX, DECISIONS_MAX};
use holdfast_shared::xks::Operation;

/// Texts that a policy sees of a request.
const TEXTS: usize = 8;

/// See the module.
pub(crate) struct Decisions {
    hasher: RandomState,
    places: Box<[ArcSwapOption<Known>]>,
}

/// What was asked, and what was decided.
struct Known {
    operation: Operation,
    hour: u8,
    weekday: u8,
    /// One after the other.
    text: Box<str>,
    /// Of each its length; nothing for one that was absent.
    lengths: [Option<usize>; TEXTS],
    decision: Decision,
}

fn texts<'a>(attributes: &Attributes<'a>) -> [Option<&'a str>; TEXTS] {
    // Without a rest, so that a new attribute is not forgotten here.
    let Attributes {
        operation: _,
        external_key_id,
        principal,
        kms_operation,
        kms_key_arn,
        via_service,
        source_vpc,
        source_vpce,
        access_key_id,
        time_ms: _,
    } = *attributes;
    let [key, principal] = [Some(external_key_id), Some(principal)];
    [key, principal, Some(kms_operation), kms_key_arn, via_service, source_vpc, source_vpce, Some(access_key_id)]
}

impl Known {
    fn new(attributes: &Attributes<'_>, decision: &Decision) -> Option<Self> {
        let texts = texts(attributes);
        let len: usize = texts.iter().flatten().map(|text| text.len()).sum();
        // That it could not be evaluated may depend on more than on the attributes.
        if len > DECISION_TEXT_MAX || decision.ground == Ground::Failed {
            return None;
        }
        Some(Self {
            operation: attributes.operation,
            hour: attributes.hour(),
            weekday: attributes.weekday(),
            text: texts.iter().flatten().copied().collect::<String>().into(),
            lengths: texts.map(|text| text.map(str::len)),
            decision: decision.clone(),
        })
    }

    fn is_of(&self, attributes: &Attributes<'_>) -> bool {
        let texts = texts(attributes);
        let is_alike = self.operation == attributes.operation
            && self.hour == attributes.hour()
            && self.weekday == attributes.weekday()
            && texts.iter().map(|text| text.map(str::len)).eq(self.lengths);
        let mut rest = &*self.text;
        // Of equal lengths, so the texts are equal if each is the beginning of what is left.
        is_alike
            && texts.iter().flatten().all(|text| {
                rest.strip_prefix(text).is_some_and(|after| {
                    rest = after;
                    true
                })
            })
    }
}

impl Decisions {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), places: (0..DECISIONS_MAX).map(|_| ArcSwapOption::empty()).collect() }
    }

    /// What was decided before, if it is still known.
    pub(crate) fn find(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let known = self.place(attributes)?.load();
        known.as_ref().filter(|known| known.is_of(attributes)).map(|known| known.decision.clone())
    }

    /// Keeps a decision, in the place of another.
    pub(crate) fn keep(&self, attributes: &Attributes<'_>, decision: &Decision) {
        if let (Some(place), Some(known)) = (self.place(attributes), Known::new(attributes, decision)) {
            place.store(Some(Arc::new(known)));
        }
    }

    fn place(&self, attributes: &Attributes<'_>) -> Option<&ArcSwapOption<Known>> {
        let asked = (texts(attributes), attributes.operation == Operation::Decrypt, attributes.hour());
        let hash = usize::try_from(self.hasher.hash_one(asked)).unwrap_or_default();
        self.places.get(hash.checked_rem(self.places.len())?)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_guard::Policy;
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Permits by day and text; its rules tell apart what was decided.
    const POLICY: &str = r#"
        @id("early") permit (principal, action, resource) when { context.hour < 12 && context.weekday < 6 };
        @id("vpc") permit (principal, action, resource) when { context has sourceVpc && context.sourceVpc == "ab" };
        @id("ebs") permit (principal, action == Holdfast::Action::"Decrypt", resource) when { context has viaService };
        @id("no-a") forbid (principal, action, resource) when { context.kmsOperation == "a" && context.accessKeyId == "b" };
    "#;

    fn plain() -> Attributes<'static> {
        Attributes {
            operation: Operation::Encrypt,
            external_key_id: "k",
            principal: "p",
            kms_operation: "o",
            kms_key_arn: Some("arn"),
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "A",
            time_ms: 0,
        }
    }

    fn decision(rule: &str) -> Decision {
        Decision { ground: Ground::Permitted, rule: Some(rule.into()) }
    }

    #[test]
    fn whatever_differs_is_another_question() {
        let decisions = Decisions::new();
        let asked = plain();
        assert_eq!(decisions.find(&asked), None);
        decisions.keep(&asked, &decision("r"));
        assert_eq!(decisions.find(&asked), Some(decision("r")));
        assert_eq!(decisions.find(&Attributes { time_ms: HOUR_MS - 1, ..asked }), Some(decision("r")), "the same hour");
        let failed = Attributes { access_key_id: "F", ..asked };
        decisions.keep(&failed, &Decision { ground: Ground::Failed, rule: None });
        assert_eq!(decisions.find(&failed), None, "a failure is not kept");
        for other in [
            Attributes { operation: Operation::Decrypt, ..asked },
            Attributes { external_key_id: "", principal: "kp", ..asked },
            Attributes { principal: "q", ..asked },
            Attributes { kms_operation: "oa", kms_key_arn: Some("rn"), ..asked },
            Attributes { kms_key_arn: None, via_service: Some("arn"), ..asked },
            Attributes { via_service: Some(""), ..asked },
            Attributes { source_vpc: Some("v"), ..asked },
            Attributes { source_vpce: Some("v"), ..asked },
            Attributes { access_key_id: "B", ..asked },
            Attributes { time_ms: HOUR_MS, ..asked },
            Attributes { time_ms: 24 * HOUR_MS, ..asked },
        ] {
            assert_eq!(decisions.find(&other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_long_is_not_kept_and_the_table_stays_as_large_as_it_is() {
        let decisions = Decisions::new();
        let long = "p".repeat(DECISION_TEXT_MAX);
        decisions.keep(&Attributes { principal: &long, ..plain() }, &decision("r"));
        assert_eq!(decisions.find(&Attributes { principal: &long, ..plain() }), None);
        let names: Vec<String> = (0..10 * DECISIONS_MAX).map(|n| n.to_string()).collect();
        for name in &names {
            decisions.keep(&Attributes { principal: name, ..plain() }, &decision(name));
        }
        let kept = |name: &&String| decisions.find(&Attributes { principal: name, ..plain() }) == Some(decision(name));
        let count = names.iter().filter(kept).count();
        assert!((DECISIONS_MAX / 2..=DECISIONS_MAX).contains(&count), "{count}");
    }

    fn text() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "ab", "ba"])
    }

    proptest! {
        /// Whatever is asked in whatever order, the table says what the policy says.
        #[test]
        fn a_decision_that_is_found_is_the_policy_s(
            asked in prop::collection::vec(
                ((text(), text(), text(), text()), prop::collection::vec(prop::option::of(text()), 4), any::<bool>(), 0_u64..200),
                1..60,
            ),
        ) {
            let policy = Policy::parse(POLICY).unwrap();
            let decisions = Decisions::new();
            for ((key, principal, kms_operation, access_key_id), optional, encrypts, hours) in asked {
                let attributes = Attributes {
                    operation: if encrypts { Operation::Encrypt } else { Operation::Decrypt },
                    external_key_id: key,
                    principal,
                    kms_operation,
                    kms_key_arn: optional[0],
                    via_service: optional[1],
                    source_vpc: optional[2],
                    source_vpce: optional[3],
                    access_key_id,
                    time_ms: hours * HOUR_MS,
                };
                let decided = policy.decide(&attributes);
                if let Some(found) = decisions.find(&attributes) {
                    prop_assert_eq!(&found, &decided);
                }
                decisions.keep(&attributes, &decided);
                prop_assert_eq!(decisions.find(&attributes), Some(decided));
            }
        }
    }
}
