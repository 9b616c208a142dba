//! What is wrong between custodians, and between them and what this folder has seen.
//!
//! A custodian that lags is brought up to date by enclaves; one that shows less than was seen before, or something else of the same
//! number, is told of loudly, since a backup that was restored and a rollback look the same.

use holdfast_shared::quorum::Quorum;
use serde::Serialize;

use super::super::block::BlockReport;
use super::custodian::{CustodianLine, View};
use crate::home::Seen;
use crate::moment::format_ms;

/// Something to look into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Whether nobody should go on before it is understood: the exit code is 1 then.
    pub severe: bool,
    /// What, where, and what to do.
    pub text: String,
}

fn warning(severe: bool, text: String) -> Warning {
    Warning { severe, text }
}

/// Everything that is worth a word.
pub(super) fn of(custodians: &[CustodianLine], blocked: &BlockReport, seen: &[Seen], quorum: Quorum) -> Vec<Warning> {
    let mut found = Vec::new();
    let views: Vec<_> =
        custodians.iter().filter_map(|line| Some((line.custodian.as_str(), line.view.as_ref()?))).collect();
    versions(&views, seen, &mut found);
    for (name, view) in &views {
        if let Some(error) = &view.overlay_error {
            found.push(warning(true, format!("{name} shows a block overlay that is refused: {error}")));
        }
        for lease in &view.leases {
            if let Some(error) = &lease.evidence_error {
                found.push(warning(
                    false,
                    format!("{name} holds a lease of boot {} whose evidence is refused: {error}", lease.boot_id),
                ));
            }
        }
    }
    differences(&views, &mut found);
    if let Some(epoch) = blocked.withheld_epoch {
        found.push(warning(
            true,
            format!("no custodian showed the block overlay of epoch {epoch}, which was signed or seen here: order the block again"),
        ));
    }
    if custodians.len() > 1 && views.len() < quorum.write() {
        let (have, write) = (views.len(), quorum.write());
        found.push(warning(false, format!("{have} custodians answered; changes need {write}")));
    }
    found
}

/// Alarms are looked into; nothing waits for that.
pub(super) fn alarms(of_this_hour: usize) -> Option<Warning> {
    (of_this_hour > 0)
        .then(|| warning(false, format!("{of_this_hour} of these alarms are of the last hour; see: holdfast alarms")))
}

fn versions(views: &[(&str, &View)], seen: &[Seen], found: &mut Vec<Warning>) {
    let highest = views.iter().filter_map(|(_, view)| Some(view.version.as_ref()?.version)).max().unwrap_or(0);
    for (place, (name, view)) in views.iter().enumerate() {
        let version = view.version.as_ref();
        for (other, other_view) in views.iter().skip(place.saturating_add(1)) {
            if let (Some(one), Some(two)) = (version, other_view.version.as_ref())
                && one.version == two.version
                && one.blob_id != two.blob_id
            {
                found.push(warning(
                    true,
                    format!(
                        "FORK: {name} and {other} hold different versions {}: the home custodian signed both",
                        one.version
                    ),
                ));
            }
        }
        let offered = version.map_or(0, |version| version.version);
        let higher = seen.iter().filter(|seen| offered < seen.version);
        // Its own word, or one that nobody shows any more: nothing that waiting mends.
        let gone = higher.clone().filter(|seen| seen.custodian == *name || seen.version > highest);
        if let Some(seen) = gone.max_by_key(|seen| seen.version) {
            found.push(warning(
                true,
                format!(
                    "{name} offers version {offered}, but version {} was seen here on {} (from {}): restored backup or rollback",
                    seen.version,
                    format_ms(seen.seen_ms),
                    seen.custodian
                ),
            ));
        } else if offered < highest {
            found.push(warning(
                false,
                format!("{name} has version {offered} of {highest}: an enclave that runs brings it up to date"),
            ));
        }
        let is_other = |seen: &&Seen| version.is_some_and(|v| v.version == seen.version && v.blob_id != seen.blob_id);
        if let Some(seen) = seen.iter().find(is_other) {
            found.push(warning(
                true,
                format!(
                    "{name} offers another version {offered} than the one that was seen here on {}: fork",
                    format_ms(seen.seen_ms)
                ),
            ));
        }
    }
}

fn differences(views: &[(&str, &View)], found: &mut Vec<Warning>) {
    let newest = |field: fn(&View) -> u64| views.iter().map(|(_, view)| field(view)).max().unwrap_or(0);
    let (policy, overlay) = (newest(|view| view.policy_epoch), newest(|view| view.overlay_epoch));
    let manifest = newest(|view| u64::from(view.manifest_sequence));
    let first = views.iter().find(|(_, view)| view.overlay_epoch == overlay);
    for (name, view) in views {
        if view.policy_epoch < policy {
            let text = format!(
                "{name} has release policy {} of {policy}; run: holdfast release-policy repeat",
                view.policy_epoch
            );
            found.push(warning(false, text));
        }
        if view.overlay_epoch < overlay {
            let text = format!(
                "{name} has block overlay {} of {overlay}; run: holdfast block again, with what is to stay blocked",
                view.overlay_epoch
            );
            found.push(warning(false, text));
        } else if let Some((other, other_view)) = first
            && view.overlay_sha256 != other_view.overlay_sha256
        {
            let text = format!(
                "{name} and {other} have different block overlays of epoch {overlay}; run: holdfast block again"
            );
            found.push(warning(true, text));
        }
        if u64::from(view.manifest_sequence) < manifest {
            let text = format!(
                "{name} has manifest {} of {manifest}; run: holdfast manifest enrol FILE with the newest chain",
                view.manifest_sequence
            );
            found.push(warning(false, text));
        }
    }
}

/// What is to be noted of the versions that custodians show, if anything is new.
pub(super) fn newly_seen(custodians: &[CustodianLine], seen: &[Seen], now_ms: u64) -> Option<Vec<Seen>> {
    let mut noted = seen.to_vec();
    for line in custodians {
        // An uncommitted version may be lost without harm.
        let Some(version) = line.view.as_ref().filter(|view| view.committed).and_then(|view| view.version.as_ref())
        else {
            continue;
        };
        if noted.iter().any(|seen| seen.custodian == line.custodian && seen.version >= version.version) {
            continue;
        }
        noted.retain(|seen| seen.custodian != line.custodian);
        noted.push(Seen {
            version: version.version,
            blob_id: version.blob_id,
            seen_ms: now_ms,
            custodian: line.custodian.clone(),
        });
    }
    (noted != seen).then_some(noted)
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::BlobId;

    use super::super::VersionLine;
    use super::*;

    fn line(name: &str, version: u64, blob: u8) -> CustodianLine {
        let version = (version > 0).then_some(VersionLine { version, blob_id: BlobId([blob; 32]), recorded_ms: 0 });
        let view = View {
            now_ms: 0,
            version,
            committed: true,
            generations: vec![1],
            policy_epoch: 1,
            manifest_sequence: 1,
            overlay_epoch: 0,
            overlay_sha256: None,
            overlay_error: None,
            emulated_root: false,
            leases: Vec::new(),
            pending: Vec::new(),
            waiting_releases: 0,
        };
        CustodianLine { custodian: name.to_owned(), view: Some(view), error: None }
    }

    fn changed(mut line: CustodianLine, change: impl FnOnce(&mut View)) -> CustodianLine {
        change(line.view.as_mut().unwrap());
        line
    }

    fn none() -> BlockReport {
        BlockReport { epoch: 0, store: false, keys: Vec::new(), withheld_epoch: None }
    }

    fn seen(version: u64, blob: u8, custodian: &str) -> Seen {
        Seen { version, blob_id: BlobId([blob; 32]), seen_ms: 0, custodian: custodian.to_owned() }
    }

    #[test]
    fn what_is_less_or_other_than_was_seen_is_severe_and_names_its_custodian() {
        let (a, b) = ("vault-1", "vault-2");
        let table = [
            ("nothing seen", vec![line(a, 7, 7), line(b, 7, 7)], vec![], vec![]),
            ("as seen", vec![line(a, 7, 7), line(b, 7, 7)], vec![seen(7, 7, a), seen(6, 6, b)], vec![]),
            ("a laggard beside it", vec![line(a, 7, 7), line(b, 6, 6)], vec![seen(7, 7, a), seen(6, 6, b)], vec![]),
            ("its own word", vec![line(a, 7, 7), line(b, 6, 6)], vec![seen(7, 7, b)], vec!["vault-2 offers version 6"]),
            (
                "nobody has it",
                vec![line(a, 6, 6), line(b, 6, 6)],
                vec![seen(7, 7, "vault-3")],
                vec!["vault-1 offers", "vault-2 offers"],
            ),
            ("all is gone", vec![line(a, 0, 0)], vec![seen(7, 7, a)], vec!["vault-1 offers version 0, but version 7"]),
            ("a fork", vec![line(a, 7, 7), line(b, 7, 8)], vec![], vec!["FORK: vault-1 and vault-2"]),
            ("another than seen", vec![line(a, 7, 9)], vec![seen(7, 7, a)], vec!["vault-1 offers another version 7"]),
        ];
        for (what, custodians, seen, expected) in table {
            let found = of(&custodians, &none(), &seen, Quorum::new(custodians.len(), 1, 0));
            let severe: Vec<_> = found.iter().filter(|warning| warning.severe).collect();
            assert_eq!(severe.len(), expected.len(), "{what}: {found:?}");
            for (warning, expected) in severe.iter().zip(expected) {
                assert!(warning.text.contains(expected), "{what}: {}", warning.text);
            }
        }
    }

    #[test]
    fn custodians_that_differ_are_named_with_what_to_run() {
        let custodians = [
            line("vault-1", 7, 7),
            changed(line("vault-2", 7, 7), |view| view.policy_epoch = 2),
            changed(line("vault-3", 7, 7), |view| view.overlay_epoch = 4),
        ];
        let text: Vec<_> =
            of(&custodians, &none(), &[], Quorum::new(3, 2, 0)).into_iter().map(|warning| warning.text).collect();
        let all = text.join("\n");
        for expected in [
            "vault-1 has release policy 1 of 2; run: holdfast release-policy repeat",
            "vault-3 has release policy 1 of 2",
            "vault-1 has block overlay 0 of 4",
            "vault-2 has block overlay 0 of 4",
        ] {
            assert!(all.contains(expected), "{expected}: {all}");
        }
    }

    #[test]
    fn the_highest_committed_version_of_each_custodian_is_noted() {
        let custodians = [line("vault-1", 7, 7), changed(line("vault-2", 8, 8), |view| view.committed = false)];
        let expected = vec![Seen { seen_ms: 5, ..seen(7, 7, "vault-1") }];
        assert_eq!(newly_seen(&custodians, &[], 5), Some(expected.clone()));
        assert_eq!(newly_seen(&custodians, &expected, 9), None);
        assert_eq!(newly_seen(&custodians, &[seen(9, 9, "vault-1")], 5), None);
        assert_eq!(newly_seen(&custodians, &[seen(6, 6, "vault-1")], 5), Some(expected));
    }
}
