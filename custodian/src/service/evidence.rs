//! What was proven of an enclave, kept so that a renewal can judge it under the policy of its own day.

use std::collections::BTreeMap;

use holdfast_shared::attestation::measurements::CONFIGURATION_PCR;
use holdfast_shared::attestation::{Measurements, TrustRoot};
use holdfast_shared::cbor::Message;
use holdfast_shared::manifest::ReleasePolicy;

/// The roots that this custodian's own configuration trusts.
pub(super) struct TrustRoots {
    aws: TrustRoot,
    emulated: Option<TrustRoot>,
}

impl TrustRoots {
    pub(super) fn new(emulated: Option<TrustRoot>) -> Self {
        // Whoever names AWS's own root here gets no emulator by it.
        Self { aws: TrustRoot::aws(), emulated: emulated.filter(|root| !root.is_aws()) }
    }

    pub(super) const fn aws(&self) -> &TrustRoot {
        &self.aws
    }

    pub(super) const fn emulated(&self) -> Option<&TrustRoot> {
        self.emulated.as_ref()
    }

    /// The root that a policy names, if it is AWS's or this custodian's configuration names it too.
    pub(super) fn find(&self, fingerprint: &[u8; 32]) -> Option<&TrustRoot> {
        [Some(&self.aws), self.emulated.as_ref()].into_iter().flatten().find(|root| root.fingerprint() == *fingerprint)
    }

    /// Whether evidence under this root is an emulator's, trusted or not.
    pub(super) fn is_emulated(&self, fingerprint: &[u8; 32]) -> bool {
        *fingerprint != self.aws.fingerprint()
    }
}

/// What a document proved.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub(super) struct Evidence {
    #[n(0)]
    pub(super) measurements: Measurements,
    /// SHA-256 of the root's DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(super) trust_root: [u8; 32],
}

impl Message for Evidence {
    const MAX: usize = 1024;
    const NAME: &'static str = "stored evidence";

    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Evidence {
    /// Whether the policy in force, and this custodian's configuration, accept it.
    pub(super) fn satisfies(
        &self,
        policy: &ReleasePolicy,
        roots: &TrustRoots,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        if self.trust_root != policy.trust_root {
            return Err("the release policy names another trust root by now");
        }
        if roots.find(&self.trust_root).is_none() {
            return Err("this custodian's configuration does not name the emulated trust root (any more)");
        }
        let shown = &self.measurements;
        let mut pcrs =
            BTreeMap::from([(0, shown.pcr0), (1, shown.pcr1), (2, shown.pcr2), (CONFIGURATION_PCR, shown.pcr16)]);
        for (index, value) in [(3, shown.pcr3), (4, shown.pcr4), (8, shown.pcr8)] {
            pcrs.extend(value.map(|value| (index, value)));
        }
        if policy.accepted(now_ms).iter().any(|accepted| accepted.accepts(&pcrs)) {
            Ok(())
        } else {
            Err("the release policy no longer accepts these measurements")
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::cbor;

    use super::*;

    fn set(byte: u8) -> Measurements {
        let pcr = [byte; 48];
        Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None }
    }

    #[test]
    fn evidence_is_judged_by_the_policy_in_force_and_by_the_configuration() {
        let roots = TrustRoots::new(None);
        let aws = roots.aws().fingerprint();
        let policy =
            |trust_root, measurements: Vec<Measurements>| ReleasePolicy::first(trust_root, measurements, 60_000);
        let pinned = |pcr8| Measurements { pcr8: Some([pcr8; 48]), ..set(1) };
        let evidence = |measurements, trust_root| Evidence { measurements, trust_root };
        let table = [
            ("accepted", evidence(set(1), aws), policy(aws, vec![set(2), set(1)]), true),
            ("no longer listed", evidence(set(1), aws), policy(aws, vec![set(2)]), false),
            ("pinned and shown", evidence(pinned(5), aws), policy(aws, vec![pinned(5)]), true),
            ("pinned otherwise", evidence(pinned(5), aws), policy(aws, vec![pinned(6)]), false),
            ("pinned, not shown", evidence(set(1), aws), policy(aws, vec![pinned(5)]), false),
            ("shown, not pinned", evidence(pinned(5), aws), policy(aws, vec![set(1)]), true),
            ("other root", evidence(set(1), aws), policy([9; 32], vec![set(1)]), false),
            ("root not configured", evidence(set(1), [9; 32]), policy([9; 32], vec![set(1)]), false),
        ];
        for (what, evidence, policy, accepted) in table {
            assert_eq!(evidence.satisfies(&policy, &roots, 0).is_ok(), accepted, "{what}");
            let bytes = cbor::encode(&evidence);
            assert_eq!(cbor::decode::<Evidence>(&bytes), Ok(evidence), "{what}");
        }
    }
}
