//! Who may serve which host name: what the manifests claim, settled.
//!
//! Guarantees: the outcome depends on the manifests that the parent handed over and on which key stores have proven their host name,
//! and on nothing else: not on who came first, so it is the same in every enclave and after every start; what a key
//! store's blob says counts for nothing, since its owner can make any blob. Refuses: a host name of several owners, unless exactly
//! one of them has proven it; a path prefix that one owner claims twice.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::{Administrator, VerifiedManifest};
use holdfast_shared::xks::{HostName, PathPrefix};

use crate::directory::OwnerId;

/// What a manifest claims, under the signature of every administrator that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) owner: OwnerId,
    pub(crate) host_name: HostName,
    pub(crate) path_prefix: PathPrefix,
}

impl Claim {
    pub(crate) fn of(manifest: &VerifiedManifest) -> Self {
        let manifest = manifest.manifest();
        Self {
            owner: owner(&manifest.administrators),
            host_name: manifest.host_name.clone(),
            path_prefix: manifest.path_prefix.clone(),
        }
    }
}

/// Key stores belong to one owner when the same administrators order their changes: each of them signed both manifests.
fn owner(administrators: &[Administrator]) -> OwnerId {
    let mut ids: Vec<_> = administrators.iter().map(Administrator::id).collect();
    ids.sort_unstable();
    let parts: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    OwnerId(holdfast_shared::sha256(&parts))
}

/// Why a key store is not served under the name that it claims. The operator of the parent reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// Several owners claim the host name, and nobody has proven it.
    Unproven { host_name: HostName, rivals: Rivals },
    /// Several owners claim the host name, and more than one has proven it.
    AllProven { host_name: HostName, rivals: Rivals },
    /// Another owner has proven the host name.
    Lost { host_name: HostName, rivals: Rivals },
    /// One owner claims the path prefix twice.
    Prefix { host_name: HostName, rivals: Rivals },
}

/// Others that claim the same. One is named, so that a reason stays short, and costs the same however many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rivals {
    named: KeyStoreId,
    more: usize,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, host_name, rivals) = match self {
            Self::Unproven { host_name, rivals } => ("claimed by several owners, proven by none", host_name, rivals),
            Self::AllProven { host_name, rivals } => {
                ("claimed by several owners, proven by several", host_name, rivals)
            }
            Self::Lost { host_name, rivals } => ("claimed by several owners, proven by another", host_name, rivals),
            Self::Prefix { host_name, rivals } => ("this path prefix is claimed twice by its owner", host_name, rivals),
        };
        write!(f, "host name collision: {reason}; see {}", rivals.named)?;
        if rivals.more > 0 {
            write!(f, " and {} more", rivals.more)?;
        }
        // Last: it may be long, and what does not fit is cut.
        write!(f, "; {host_name}")
    }
}

/// Settles all claims. Returns whoever is not served, and why; everyone else's host name and prefix is theirs alone.
pub(crate) fn settle(
    claims: &BTreeMap<KeyStoreId, Claim>,
    proven: &BTreeSet<KeyStoreId>,
) -> BTreeMap<KeyStoreId, Withheld> {
    let mut by_host: BTreeMap<&HostName, Vec<(KeyStoreId, &Claim)>> = BTreeMap::new();
    for (id, claim) in claims {
        by_host.entry(&claim.host_name).or_default().push((*id, claim));
    }
    let mut withheld = BTreeMap::new();
    for (host_name, claimants) in by_host {
        let holder = holder(&claimants, proven);
        let strangers = Strangers::of(&claimants);
        let mut by_prefix: BTreeMap<&PathPrefix, Vec<KeyStoreId>> = BTreeMap::new();
        for (id, claim) in &claimants {
            let (host_name, rivals) = (host_name.clone(), strangers.to(claim.owner));
            let reason = match (holder, rivals) {
                (Holder::Nobody, Some(rivals)) => Withheld::Unproven { host_name, rivals },
                (Holder::Several, Some(rivals)) => Withheld::AllProven { host_name, rivals },
                (Holder::One(owner), Some(rivals)) if owner != claim.owner => Withheld::Lost { host_name, rivals },
                // Its owner's.
                _ => {
                    by_prefix.entry(&claim.path_prefix).or_default().push(*id);
                    continue;
                }
            };
            withheld.insert(*id, reason);
        }
        for ids in by_prefix.into_values() {
            for id in &ids {
                let Some(named) = ids.iter().copied().find(|other| other != id) else { continue };
                let rivals = Rivals { named, more: ids.len().saturating_sub(2) };
                withheld.insert(*id, Withheld::Prefix { host_name: host_name.clone(), rivals });
            }
        }
    }
    withheld
}

/// The claimants of one host name as each owner sees them. This is looked at with every version of every key store, and there may
/// be as many claimants as an enclave has key stores: it must not be a list for each.
struct Strangers {
    first: Option<(KeyStoreId, OwnerId)>,
    /// The first of another owner than `first`'s.
    second: Option<KeyStoreId>,
    claims: HashMap<OwnerId, usize>,
    all: usize,
}

impl Strangers {
    fn of(claimants: &[(KeyStoreId, &Claim)]) -> Self {
        let first = claimants.first().map(|(id, claim)| (*id, claim.owner));
        let second = claimants.iter().find(|(_, claim)| first.is_some_and(|(_, owner)| owner != claim.owner));
        let mut claims: HashMap<OwnerId, usize> = HashMap::new();
        for (_, claim) in claimants {
            let count = claims.entry(claim.owner).or_default();
            *count = count.saturating_add(1);
        }
        Self { first, second: second.map(|(id, _)| *id), claims, all: claimants.len() }
    }

    /// Those of other owners, if there are any.
    fn to(&self, owner: OwnerId) -> Option<Rivals> {
        let own = self.claims.get(&owner).copied().unwrap_or_default();
        let named = self.first.filter(|(_, first)| *first != owner).map(|(id, _)| id).or(self.second)?;
        Some(Rivals { named, more: self.all.saturating_sub(own).saturating_sub(1) })
    }
}

/// To whom a host name belongs.
#[derive(Clone, Copy)]
enum Holder {
    One(OwnerId),
    Nobody,
    Several,
}

fn holder(claimants: &[(KeyStoreId, &Claim)], proven: &BTreeSet<KeyStoreId>) -> Holder {
    let of = |only_proven: bool| {
        let mut owners = claimants.iter().filter(|(id, _)| !only_proven || proven.contains(id)).map(|(_, c)| c.owner);
        match owners.next() {
            None => Holder::Nobody,
            Some(first) if owners.all(|owner| owner == first) => Holder::One(first),
            Some(_) => Holder::Several,
        }
    };
    match of(false) {
        // Where nobody contests a name, no proof is needed: the authority may be one that only the owner knows.
        Holder::One(owner) => Holder::One(owner),
        Holder::Nobody | Holder::Several => of(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> KeyStoreId {
        KeyStoreId([n; 32])
    }

    /// Owner, host, prefix, whether it has proven its host.
    type Row = (u8, &'static str, &'static str, bool);

    /// What it shows, the claims, and who is withheld and why.
    type Case = (&'static str, &'static [Row], &'static [(u8, &'static str)]);

    /// Key store n is row n.
    fn withheld(table: &[Row]) -> Vec<(u8, &'static str)> {
        let claims: BTreeMap<_, _> = (0..)
            .zip(table)
            .map(|(n, (owner, host, prefix, _))| {
                let host_name = HostName::parse(host).unwrap();
                let path_prefix = PathPrefix::parse(prefix).unwrap();
                (id(n), Claim { owner: OwnerId([*owner; 32]), host_name, path_prefix })
            })
            .collect();
        let proven = (0..).zip(table).filter(|(_, claim)| claim.3).map(|(n, _)| id(n)).collect();
        let kind = |withheld: &Withheld| match withheld {
            Withheld::Unproven { .. } => "unproven",
            Withheld::AllProven { .. } => "all proven",
            Withheld::Lost { .. } => "lost",
            Withheld::Prefix { .. } => "prefix",
        };
        settle(&claims, &proven).iter().map(|(id, withheld)| (id.as_bytes()[0], kind(withheld))).collect()
    }

    #[test]
    fn claims_are_settled() {
        let table: [Case; 10] = [
            ("strangers on hosts of their own", &[(1, "a.test", "", false), (2, "b.test", "", false)], &[]),
            ("one prefix on two hosts", &[(1, "a.test", "/p", false), (2, "b.test", "/p", false)], &[]),
            ("one owner, several prefixes", &[(1, "a.test", "/p", false), (1, "a.test", "/q", true)], &[]),
            (
                "one owner, one prefix twice",
                &[(1, "a.test", "/p", true), (1, "a.test", "/p", false), (1, "a.test", "/q", false)],
                &[(0, "prefix"), (1, "prefix")],
            ),
            (
                "nobody proves it",
                &[(1, "a.test", "/p", false), (2, "a.test", "/q", false)],
                &[(0, "unproven"), (1, "unproven")],
            ),
            ("one proves it", &[(1, "a.test", "/p", false), (2, "a.test", "/q", true)], &[(0, "lost")]),
            (
                "who proves it for one prefix has proven it for all",
                &[(1, "a.test", "/p", true), (1, "a.test", "/q", false), (2, "a.test", "/r", false)],
                &[(2, "lost")],
            ),
            (
                "several prove it",
                &[(1, "a.test", "/p", true), (2, "a.test", "/q", true), (3, "a.test", "/r", false)],
                &[(0, "all proven"), (1, "all proven"), (2, "all proven")],
            ),
            ("a proof for another host proves nothing here", &[(1, "a.test", "", false), (2, "b.test", "", true)], &[]),
            (
                "a loser's twin is lost, not twice",
                &[(1, "a.test", "/p", true), (2, "a.test", "/q", false), (2, "a.test", "/q", false)],
                &[(1, "lost"), (2, "lost")],
            ),
        ];
        for (what, claims, expected) in table {
            assert_eq!(withheld(claims), expected, "{what}");
            // Who comes first changes nothing.
            let mut reversed = claims.to_vec();
            reversed.reverse();
            let last = u8::try_from(claims.len()).unwrap() - 1;
            let mut mirrored: Vec<_> = withheld(&reversed).into_iter().map(|(n, kind)| (last - n, kind)).collect();
            mirrored.sort_unstable();
            assert_eq!(mirrored, expected, "{what}, reversed");
        }
    }

    #[test]
    fn a_rival_is_of_another_owner_and_all_of_them_are_counted() {
        let host_name = HostName::parse("a.test").unwrap();
        let owners = [1, 1, 2, 3, 2];
        let claim = |owner: u8| Claim {
            owner: OwnerId([owner; 32]),
            host_name: host_name.clone(),
            path_prefix: PathPrefix::parse("").unwrap(),
        };
        let claims: BTreeMap<_, _> = (0..).zip(owners).map(|(n, owner)| (id(n), claim(owner))).collect();
        let told: Vec<_> = settle(&claims, &BTreeSet::new())
            .values()
            .map(|withheld| match withheld {
                Withheld::Unproven { rivals, .. } => (rivals.named.as_bytes()[0], rivals.more),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(2, 2), (2, 2), (0, 2), (0, 3), (0, 2)]);
        let twins: BTreeMap<_, _> = (0..3).map(|n| (id(n), claim(1))).collect();
        let told: Vec<_> = settle(&twins, &BTreeSet::new())
            .values()
            .map(|withheld| match withheld {
                Withheld::Prefix { rivals, .. } => (rivals.named.as_bytes()[0], rivals.more),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(1, 1), (0, 1), (0, 1)]);
    }

    #[test]
    fn a_reason_fits_and_begins_with_what_matters() {
        let host_name = HostName::parse(&format!("{}.test", "a".repeat(60))).unwrap();
        let rivals = Rivals { named: id(0), more: 8 };
        let text = Withheld::AllProven { host_name, rivals }.to_string();
        assert!(text.starts_with("host name collision: claimed by several owners"), "{text}");
        assert!(text.contains(" and 8 more; aaa"), "{text}");
        assert!(text.len() <= holdfast_link::limits::REASON_MAX, "{}", text.len());
    }
}
