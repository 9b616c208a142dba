//! `holdfast kill`: a block, with what it will hit before it, and the time until the last enclave stopped after it.
//!
//! Guarantees: an enclave counts as stopped once f + 1 custodians heard from it that it obeys the block, or one that blocks as much, which
//! it says after it refuses; what did not say so is named, with the moment at which its lease ends. Assumes: at most f custodians lie.
//! Refuses to call a kill complete while any enclave with a lease has not said so, or custodians are missing that may know of one.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::channel::OverlayId;
use holdfast_shared::ids::BootId;
use holdfast_shared::limits::ENCLAVE_SILENT_MS;
use holdfast_shared::query::{KeyStoreStatus, LeaseInfo};
use serde::Serialize;

use super::block::{SpreadReport, in_force, nobody};
use crate::audit::usage::Usage;
use crate::moment::format_ms;
use crate::session::{Heard, Patience, Session, SessionError, Wait};

/// What keeps working for a while, by the beginning of `kmsViaService`. Sources: AWS KMS Developer Guide, "How unusable KMS keys affect
/// data keys"; Amazon S3 User Guide, "Reducing the cost of SSE-KMS with Amazon S3 Bucket Keys"; Amazon `DynamoDB` Developer Guide,
/// "`DynamoDB` encryption at rest: how it works"; AWS Encryption SDK Developer Guide, "Data key caching".
const REMAINDERS: [(&str, &str); 4] = [
    ("ebs", "EBS: volumes that are attached stay readable until they are detached or their instance stops"),
    ("ec2", "EBS: volumes that are attached stay readable until they are detached or their instance stops"),
    (
        "s3",
        "S3: with S3 Bucket Keys, objects stay readable for as long as S3 keeps the bucket's key, which AWS bounds and does not say",
    ),
    ("dynamodb", "DynamoDB: tables stay readable for about five minutes, for which table keys are cached"),
];
/// What is true whoever uses a key.
const ALWAYS: [&str; 2] = [
    "data keys that applications and services hold in memory work until they forget them; the AWS Encryption SDK's cache, for as long as it was told to keep them",
    "what was decrypted before stays decrypted",
];

/// What a block will hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlastRadius {
    /// The key store.
    pub key_store: String,
    /// What will be blocked.
    pub scope: String,
    /// Enclaves that hold leases and will stop.
    pub enclaves: usize,
    /// Who used the keys lately; nothing where no log was given.
    pub usage: Option<Usage>,
    /// What will go on for a while all the same.
    pub remains: Vec<&'static str>,
}

impl BlastRadius {
    /// Asks which enclaves there are.
    ///
    /// # Errors
    /// [`SessionError::Nobody`] when no custodian answers.
    pub async fn of(session: &Session, scope: String) -> Result<Self, SessionError> {
        let heard = session.statuses().await;
        let enclaves = boots(&heard).len();
        if heard.iter().all(|(_, said)| !matches!(said, Some(Ok(_)))) {
            return Err(nobody(heard));
        }
        let key_store = session.store().manifest.manifest().name.clone();
        Ok(Self { key_store, scope, enclaves, usage: None, remains: remains(None) })
    }

    /// Takes note of who used the keys lately, where that is known.
    pub fn used_by(&mut self, usage: Option<Usage>) {
        self.remains = remains(usage.as_ref());
        self.usage = usage;
    }
}

fn remains(usage: Option<&Usage>) -> Vec<&'static str> {
    let used_by = |prefix: &str| {
        // Without a log nobody knows, so everything is told.
        usage.is_none_or(|usage| {
            let is_partial = usage.by_others > 0 || usage.unopened > 0;
            is_partial
                || usage.users.iter().filter_map(|user| user.via_service.as_deref()).any(|via| via.starts_with(prefix))
        })
    };
    let mut lines: Vec<_> = REMAINDERS.iter().filter(|(prefix, _)| used_by(prefix)).map(|(_, line)| *line).collect();
    lines.dedup();
    lines.extend(ALWAYS);
    lines
}

impl fmt::Display for BlastRadius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "This blocks {} of {}, in {} enclaves.", self.scope, self.key_store, self.enclaves)?;
        match &self.usage {
            Some(usage) => writeln!(f, "{usage}")?,
            None => writeln!(f, "who used it lately is not known here: give the parent's audit folder with --log")?,
        }
        write!(f, "what keeps working for a while:")?;
        self.remains.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What custodians said of one boot of an enclave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Heed {
    /// What it obeys, as each custodian that has it heard last.
    obeys: Vec<Option<OverlayId>>,
    /// When its last lease ends, milliseconds since 1970.
    expires_ms: u64,
    /// Whether all that said something have heard nothing of it for [`ENCLAVE_SILENT_MS`].
    is_silent: bool,
}

type Boots = BTreeMap<BootId, Heed>;

/// Every boot that holds a lease at some custodian.
fn boots(heard: &Heard<KeyStoreStatus>) -> Boots {
    let mut boots = Boots::new();
    for status in heard.iter().filter_map(|(_, said)| said.as_ref()?.as_ref().ok()) {
        // A boot may have several leases at one custodian, of which the older ones tell nothing new.
        let mut here: BTreeMap<BootId, &LeaseInfo> = BTreeMap::new();
        for lease in &status.leases {
            let newest = here.entry(lease.boot_id).or_insert(lease);
            if lease.seen_ms > newest.seen_ms {
                *newest = lease;
            }
        }
        for (boot_id, lease) in here {
            let is_silent = status.now_ms.saturating_sub(lease.seen_ms) > ENCLAVE_SILENT_MS;
            let heed = boots.entry(boot_id).or_insert(Heed { is_silent: true, ..Heed::default() });
            heed.obeys.push(lease.obeys.map(|obeyed| obeyed.overlay));
            heed.expires_ms = heed.expires_ms.max(lease.expires_ms);
            heed.is_silent &= is_silent;
        }
    }
    boots
}

/// An enclave that has not said that it obeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unheard {
    /// Which boot.
    pub boot_id: BootId,
    /// When its lease ends, and with it its keys, milliseconds since 1970.
    pub lease_ends_ms: u64,
    /// Whether no custodian has heard of it lately: it ended without saying so, or somebody cut its wires.
    pub is_silent: bool,
}

/// Who stopped, and how soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// Enclaves that said that they obey the block.
    pub stopped: usize,
    /// Until the last of them was known to, from the moment at which the block was sent, in milliseconds: it stopped before that.
    pub last_after_ms: Option<u64>,
    /// Those that did not say so.
    pub unheard: Vec<Unheard>,
    /// Whether so many custodians said who holds leases that none can be missing.
    pub all_known: bool,
}

/// Waits until every enclave that holds a lease has said that it obeys `order`, or a later overlay that blocks as much.
pub async fn stopped(session: &Session, order: &BlockOverlay, sent: Instant, wait: Wait<'_>) -> Stopped {
    let quorum = session.quorum();
    let mut patience = Patience::new(wait);
    let mut watching = Watching { believed: quorum.believed(), needed: quorum.write(), ..Watching::default() };
    loop {
        let (heard, overlays) = tokio::join!(session.statuses(), session.overlays());
        let shown = in_force(&overlays).into_iter().filter(|shown| blocks_as_much(shown, order));
        let orders: BTreeSet<_> = shown.chain([order]).map(OverlayId::of).map(|id| (id.epoch, id.sha256)).collect();
        let answered = heard.iter().filter(|(_, said)| matches!(said, Some(Ok(_)))).count();
        let is_over = watching.look(&boots(&heard), answered, &orders, sent.elapsed().as_millis());
        if is_over || patience.pause("the enclaves to stop").await.is_err() {
            return watching.finish();
        }
    }
}

/// An older one that blocked as much may have been lifted since.
fn blocks_as_much(overlay: &BlockOverlay, order: &BlockOverlay) -> bool {
    overlay.epoch >= order.epoch
        && (overlay.store || (!order.store && order.keys.iter().all(|key| overlay.keys.contains(key))))
}

#[derive(Default)]
struct Watching {
    /// Custodians that must say the same of an enclave.
    believed: usize,
    /// Custodians that must answer, so that every enclave that serves has a lease at an honest one of them.
    needed: usize,
    stopped: BTreeMap<BootId, u64>,
    unheard: BTreeMap<BootId, Unheard>,
    all_known: bool,
}

impl Watching {
    /// Notes what was heard so long after the block was sent. Whether there is nothing to wait for.
    fn look(&mut self, boots: &Boots, answered: usize, orders: &BTreeSet<(u64, [u8; 32])>, after_ms: u128) -> bool {
        let after_ms = u64::try_from(after_ms).unwrap_or(u64::MAX);
        self.all_known |= answered >= self.needed;
        for (boot_id, heed) in boots {
            let obeys = heed.obeys.iter().flatten().filter(|id| orders.contains(&(id.epoch, id.sha256))).count();
            if obeys >= self.believed {
                self.unheard.remove(boot_id);
                self.stopped.entry(*boot_id).or_insert(after_ms);
            } else if !self.stopped.contains_key(boot_id) {
                let (lease_ends_ms, is_silent) = (heed.expires_ms, heed.is_silent);
                self.unheard.insert(*boot_id, Unheard { boot_id: *boot_id, lease_ends_ms, is_silent });
            }
        }
        self.all_known && self.unheard.values().all(|unheard| unheard.is_silent)
    }

    fn finish(self) -> Stopped {
        Stopped {
            stopped: self.stopped.len(),
            last_after_ms: self.stopped.into_values().max(),
            unheard: self.unheard.into_values().collect(),
            all_known: self.all_known,
        }
    }
}

/// What came of a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KillReport {
    /// What it hit.
    pub radius: BlastRadius,
    /// The block, and which custodians have it.
    pub block: SpreadReport,
    /// Who stopped.
    pub enclaves: Stopped,
}

impl KillReport {
    /// Whether enough custodians have it and every enclave has stopped.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.block.spread.complete && self.enclaves.all_known && self.enclaves.unheard.is_empty()
    }
}

impl fmt::Display for KillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.block)?;
        match self.enclaves.last_after_ms {
            Some(after_ms) => write!(
                f,
                "stopped       {} enclaves, the last within {after_ms} ms after the block was sent",
                self.enclaves.stopped
            )?,
            None => write!(f, "stopped       no enclave")?,
        }
        if !self.enclaves.all_known {
            write!(f, "\nWARNING       too few custodians answered to know every enclave that holds a lease")?;
        }
        for unheard in &self.enclaves.unheard {
            let ends = format_ms(unheard.lease_ends_ms);
            let boot_id = unheard.boot_id;
            if unheard.is_silent {
                let why = "was silent before: it ended without a word, or is cut off";
                write!(f, "\nWARNING       boot {boot_id} {why}; if it runs, its keys end with its lease, {ends}")?;
            } else {
                write!(
                    f,
                    "\nWARNING       boot {boot_id} has not said that it stopped; its keys end with its lease, {ends}"
                )?;
            }
        }
        write!(f, "\nto lift it    holdfast unblock, with the same scope")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::usage::User;

    const ORDER: OverlayId = OverlayId { epoch: 5, sha256: [5; 32] };
    /// Of the same epoch, signed by another administrator; and one that lifted it.
    const OTHERS: [OverlayId; 2] =
        [OverlayId { epoch: 5, sha256: [6; 32] }, OverlayId { epoch: u64::MAX, sha256: [7; 32] }];

    fn heed(obeys: &[Option<OverlayId>]) -> Heed {
        Heed { obeys: obeys.to_vec(), expires_ms: 9_000, is_silent: false }
    }

    fn watching(believed: usize, needed: usize) -> Watching {
        Watching { believed, needed, ..Watching::default() }
    }

    fn orders() -> BTreeSet<(u64, [u8; 32])> {
        BTreeSet::from([(ORDER.epoch, ORDER.sha256)])
    }

    #[test]
    fn a_kill_is_complete_when_every_enclave_with_a_lease_said_so() {
        let (a, b) = (BootId([1; 16]), BootId([2; 16]));
        let mut watching = watching(1, 1);
        let boots = |first: &[Option<OverlayId>], second: &[Option<OverlayId>]| {
            Boots::from([(a, heed(first)), (b, heed(second))])
        };
        assert!(!watching.look(&boots(&[None], &[None]), 1, &orders(), 10));
        assert!(!watching.look(&boots(&[Some(ORDER)], &[Some(OTHERS[0])]), 1, &orders(), 20));
        // A custodian that is behind takes nothing back.
        assert!(!watching.look(&boots(&[None], &[Some(OTHERS[1])]), 1, &orders(), 30));
        assert!(watching.look(&boots(&[Some(ORDER)], &[Some(ORDER)]), 1, &orders(), 40));
        let unheard = Vec::new();
        assert_eq!(watching.finish(), Stopped { stopped: 2, last_after_ms: Some(40), unheard, all_known: true });
    }

    #[test]
    fn neither_silence_nor_one_liar_completes_a_kill() {
        let a = BootId([1; 16]);
        let one = |obeys: &[Option<OverlayId>]| Boots::from([(a, heed(obeys))]);
        let mut nobody = watching(1, 2);
        assert!(!nobody.look(&Boots::new(), 0, &orders(), 1));
        assert!(!nobody.look(&one(&[Some(ORDER)]), 1, &orders(), 1), "custodians are missing");
        assert!(!nobody.finish().all_known);

        let mut liar = watching(2, 3);
        assert!(!liar.look(&one(&[Some(ORDER), None, None]), 3, &orders(), 1));
        assert!(liar.look(&one(&[Some(ORDER), None, Some(ORDER)]), 3, &orders(), 2));

        let mut cut_off = watching(1, 1);
        let silent = Boots::from([(a, Heed { is_silent: true, ..heed(&[None]) })]);
        assert!(cut_off.look(&silent, 1, &orders(), 1), "nobody waits for those who were silent before");
        assert_eq!(cut_off.finish().unheard, [Unheard { boot_id: a, lease_ends_ms: 9_000, is_silent: true }]);
    }

    #[test]
    fn what_remains_is_what_the_users_use() {
        let user = |via: Option<&str>| User {
            principal: "alice".to_owned(),
            via_service: via.map(str::to_owned),
            encrypts: 1,
            decrypts: 1,
            last_ms: 1,
        };
        let usage =
            |vias: &[Option<&str>]| Usage { users: vias.iter().map(|via| user(*via)).collect(), ..Usage::default() };
        assert_eq!(remains(Some(&usage(&[None]))), ALWAYS);
        let some = remains(Some(&usage(&[Some("ebs"), Some("dynamodb.eu-central-1.amazonaws.com"), Some("ec2")])));
        assert_eq!(some.len(), ALWAYS.len() + 2, "{some:?}");
        assert!(some[0].starts_with("EBS") && some[1].starts_with("DynamoDB"), "{some:?}");
        assert_eq!(remains(None).len(), ALWAYS.len() + 3, "where nobody knows, everything is told");
    }
}
