//! `holdfast release-policy`: to which enclaves custodians release their shares.
//!
//! Guarantees: a new policy is the one in force with what was asked for changed, under an epoch above every one that any custodian
//! showed; each custodian is told by itself, and named with what it has.

use core::fmt;
use core::num::{NonZeroU8, NonZeroU32};

use holdfast_shared::attestation::Measurements;
use holdfast_shared::manifest::{AcceptedImage, ReleasePolicy, ReleaseWindow};
use holdfast_shared::policy::{self, PolicyUpdate};
use holdfast_shared::query::{Answer, Question};
use holdfast_shared::signature::Envelope;
use holdfast_shared::{api, cbor, labels};
use ring::rand::SystemRandom;
use serde::Serialize;

use super::block::nobody;
use super::manifest::write_measurements;
use super::spread::{self, Spread};
use crate::home::KnownPolicy;
use crate::moment::{self, format_duration, format_ms};
use crate::output::printable;
use crate::session::{Contact, Session, SessionError, Wait};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A policy as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyLines {
    /// Its epoch.
    pub epoch: u64,
    /// Accepted images.
    pub images: Vec<ImageLine>,
    /// Length of a lease, in milliseconds.
    pub lease_ms: u64,
    /// Approvals that a boot needs; 0 for none.
    pub approvals: u8,
    /// When a boot may get a share.
    pub window: Option<String>,
    /// How many boots may hold leases at once.
    pub leases_max: Option<u32>,
}

/// An accepted image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageLine {
    /// For people.
    pub name: Option<String>,
    /// From then on it gets nothing, milliseconds since 1970.
    pub sunset_ms: Option<u64>,
    /// What it measures.
    pub measurements: Measurements,
}

impl From<&ReleasePolicy> for PolicyLines {
    fn from(policy: &ReleasePolicy) -> Self {
        let image = |image: &AcceptedImage| ImageLine {
            name: image.name.clone(),
            sunset_ms: image.sunset_ms,
            measurements: image.measurements.clone(),
        };
        Self {
            epoch: policy.epoch,
            images: policy.images.iter().map(image).collect(),
            lease_ms: policy.lease_ms,
            approvals: policy.approvals.map_or(0, NonZeroU8::get),
            window: policy.window.map(window_text),
            leases_max: policy.leases_max.map(NonZeroU32::get),
        }
    }
}

impl fmt::Display for PolicyLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "policy epoch  {}", self.epoch)?;
        writeln!(f, "lease         {}", format_duration(self.lease_ms))?;
        match self.approvals {
            0 => writeln!(f, "approvals     none")?,
            needed => writeln!(f, "approvals     {needed} administrators for each boot")?,
        }
        writeln!(f, "window        {}", self.window.as_deref().unwrap_or("always"))?;
        match self.leases_max {
            None => write!(f, "leases        as many boots as custodians keep")?,
            Some(most) => write!(f, "leases        {most} boots at once")?,
        }
        for image in &self.images {
            let name = image.name.as_deref().map_or_else(|| "(no name)".to_owned(), printable);
            write!(f, "\nimage         {name}")?;
            if let Some(sunset_ms) = image.sunset_ms {
                write!(f, ", accepted until {}", format_ms(sunset_ms))?;
            }
            write_measurements(f, &image.measurements)?;
        }
        Ok(())
    }
}

/// The policy in force, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyLines,
    /// Epochs at the custodians.
    pub custodians: Vec<PolicyAt>,
}

/// A custodian's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyAt {
    /// Its name.
    pub custodian: String,
    /// Its epoch, where it answered.
    pub epoch: Option<u64>,
}

impl fmt::Display for PolicyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.policy)?;
        for at in &self.custodians {
            match at.epoch {
                Some(epoch) if epoch == self.policy.epoch => write!(f, "\n{}: has it", printable(&at.custodian))?,
                Some(epoch) => {
                    write!(
                        f,
                        "\nWARNING {}: has epoch {epoch}; run: holdfast release-policy repeat",
                        printable(&at.custodian)
                    )?;
                }
                None => write!(f, "\n{}: did not answer", printable(&at.custodian))?,
            }
        }
        Ok(())
    }
}

/// Asks custodians for the policy in force.
///
/// # Errors
/// [`SessionError::Nobody`].
pub async fn show(session: &Session) -> Result<PolicyReport, SessionError> {
    let (newest, custodians) = in_force(session).await?;
    Ok(PolicyReport { policy: PolicyLines::from(&newest.policy), custodians })
}

/// The newest policy, and who has which.
pub(super) async fn in_force(session: &Session) -> Result<(KnownPolicy, Vec<PolicyAt>), SessionError> {
    let statuses = session.statuses().await;
    let epoch = |said: &Option<Result<holdfast_shared::query::KeyStoreStatus, SessionError>>| {
        Some(said.as_ref()?.as_ref().ok()?.policy_epoch)
    };
    let at: Vec<_> = statuses
        .iter()
        .map(|(contact, said)| PolicyAt { custodian: contact.name().to_owned(), epoch: epoch(said) })
        .collect();
    let Some(highest) = at.iter().filter_map(|at| at.epoch).max() else { return Err(nobody(statuses)) };
    let own = session.store().policies();
    let newest = match own.last() {
        Some(known) if known.policy.epoch >= highest => Some(known.clone()),
        _ => session.refreshed().await?.policies().last().cloned(),
    };
    newest.map(|newest| (newest, at)).ok_or(SessionError::OtherAnswer)
}

/// What is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Accept these instead of all others.
    pub images: Option<Vec<AcceptedImage>>,
    /// Accept these, too.
    pub accept: Vec<AcceptedImage>,
    /// Give these (name, or the beginning of PCR 0) an end.
    pub sunset: Vec<(String, Option<u64>)>,
    /// Length of a lease.
    pub lease_ms: Option<u64>,
    /// Approvals that a boot needs; 0 for none.
    pub approvals: Option<u8>,
    /// When a boot may get a share.
    pub window: Option<Option<ReleaseWindow>>,
    /// How many boots may hold leases at once.
    pub leases_max: Option<Option<NonZeroU32>>,
}

impl Edit {
    /// The policy with this changed, under another epoch.
    ///
    /// # Errors
    /// What cannot be changed.
    pub fn apply(&self, policy: &ReleasePolicy, epoch: u64) -> Result<ReleasePolicy, String> {
        let mut next = ReleasePolicy { epoch, ..policy.clone() };
        if let Some(images) = &self.images {
            next.images.clone_from(images);
        }
        for image in &self.accept {
            next.images.retain(|known| known.measurements != image.measurements);
            next.images.push(image.clone());
        }
        for (named, sunset_ms) in &self.sunset {
            let is_meant = |image: &AcceptedImage| {
                image.name.as_ref() == Some(named)
                    || (named.len() >= 8
                        && hex::encode(image.measurements.pcr0).starts_with(&named.to_ascii_lowercase()))
            };
            let mut meant = next.images.iter_mut().filter(|image| is_meant(image));
            match (meant.next(), meant.next()) {
                (Some(image), None) => image.sunset_ms = *sunset_ms,
                (None, _) => return Err(format!("no accepted image is named {named}, or has a PCR 0 that begins so")),
                (Some(_), Some(_)) => return Err(format!("more than one accepted image could be meant by {named}")),
            }
        }
        next.lease_ms = self.lease_ms.unwrap_or(next.lease_ms);
        if let Some(approvals) = self.approvals {
            next.approvals = NonZeroU8::new(approvals);
        }
        next.window = self.window.unwrap_or(next.window);
        next.leases_max = self.leases_max.unwrap_or(next.leases_max);
        Ok(next)
    }
}

/// A new policy with the maker's signature.
#[derive(Clone, Debug)]
pub struct SignedUpdate {
    /// What it says.
    pub update: PolicyUpdate,
    /// Its signatures.
    pub envelope: Envelope,
    /// Signatures that it needs.
    pub needed: u8,
}

/// Makes the next policy and signs it.
///
/// # Errors
/// [`SessionError`]; a rule of policies that it breaks.
pub async fn change(session: &Session, edit: &Edit) -> Result<SignedUpdate, ReleasePolicyError> {
    let (newest, at) = in_force(session).await?;
    let highest = at.iter().filter_map(|at| at.epoch).max().unwrap_or(0).max(newest.policy.epoch);
    let next = edit.apply(&newest.policy, highest.saturating_add(1)).map_err(ReleasePolicyError::Edit)?;
    let manifest = session.store().manifest.manifest();
    if next.approvals.is_some_and(|needed| usize::from(needed.get()) > manifest.administrators.len()) {
        return Err(SessionError::Policy(policy::PolicyError::Approvals).into());
    }
    if next.accepted(moment::now_ms()).is_empty() {
        return Err(ReleasePolicyError::Edit(
            "no image would be accepted: accept another one first (holdfast release-policy accept-image); to stop all use: holdfast block \
             --store"
                .to_owned(),
        ));
    }
    let update = PolicyUpdate {
        label: labels::POLICY.to_owned(),
        key_store_id: session.store().manifest.id(),
        policy: next,
        issued_ms: moment::now_ms(),
    };
    let envelope =
        policy::sign(&update, &session.keys().signing_key, &SystemRandom::new()).map_err(SessionError::from)?;
    Ok(SignedUpdate { update, envelope, needed: manifest.thresholds.custody })
}

/// Why a policy was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ReleasePolicyError {
    /// Custodians, or a rule.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What was asked for.
    #[error("{0}")]
    Edit(String),
}

/// A policy that was sent, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicySpread {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyLines,
    /// Who has it.
    #[serde(flatten)]
    pub spread: Spread,
}

impl fmt::Display for PolicySpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.policy, self.spread)
    }
}

/// Sends a policy with all its signatures to every custodian. It counts for each one by itself, so all must have it.
///
/// # Errors
/// [`SessionError`].
pub async fn send(session: &Session, envelope: &Envelope, wait: Wait<'_>) -> Result<PolicySpread, SessionError> {
    let signed = cbor::encode(envelope).to_vec();
    let update: PolicyUpdate = cbor::decode(envelope.unverified_payload())?;
    // As custodians verify it.
    policy::open(&signed, &session.store().manifest, update.policy.epoch.saturating_sub(1))?;
    let epoch = update.policy.epoch;
    if let Some(known) = KnownPolicy::open(&signed, &session.store().manifest) {
        session.home().note_policy(session.store().manifest.id(), &known)?;
    }
    let all = session.contacts().len();
    let spread = spread::to_all(session.contacts(), all, wait, move |contact| {
        let signed = signed.clone();
        async move { put(&contact, signed, epoch).await }
    })
    .await?;
    Ok(PolicySpread { policy: PolicyLines::from(&update.policy), spread })
}

/// Sends the newest policy that is known once more, for custodians that missed it.
///
/// # Errors
/// [`SessionError`].
pub async fn repeat(session: &Session, wait: Wait<'_>) -> Result<PolicySpread, ReleasePolicyError> {
    let (newest, _) = in_force(session).await?;
    if newest.signed.is_empty() {
        return Err(ReleasePolicyError::Edit(
            "the first release policy is in the manifest; every custodian has it".to_owned(),
        ));
    }
    let envelope: Envelope = cbor::decode(&newest.signed).map_err(SessionError::from)?;
    Ok(send(session, &envelope, wait).await?)
}

/// The custodian's empty answer is worth no more than the connection that it came over; its signed status is.
async fn put(contact: &Contact, signed: Vec<u8>, epoch: u64) -> Result<(), SessionError> {
    let at = |answer| match answer {
        Answer::Status(status) => Ok(status.policy_epoch),
        _ => Err(SessionError::OtherAnswer),
    };
    let Err(error) = contact.send(api::POLICIES, signed).await else {
        return match at(contact.ask(Question::Status).await?)? {
            shown if shown >= epoch => Ok(()),
            shown => Err(SessionError::Unconfirmed { ordered: epoch, shown }),
        };
    };
    // One that has it already refuses it as not newer.
    match at(contact.ask(Question::Status).await?) {
        Ok(shown) if shown == epoch => Ok(()),
        _ => Err(error),
    }
}

/// Reads a window: `mon-fri 08:00 10h`, `sat,sun 00:00 24h`.
///
/// # Errors
/// What the text should have been.
pub fn parse_window(text: &str) -> Result<ReleaseWindow, String> {
    const EXPECTED: &str = "expected days, the time of opening in UTC and a length: for example \"mon-fri 08:00 10h\"";
    let mut words = text.split_ascii_whitespace();
    let (Some(days), Some(opens), Some(length), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(EXPECTED.to_owned());
    };
    let (hour, minute) = opens.split_once(':').ok_or(EXPECTED)?;
    let number =
        |text: &str, below: u16| text.parse::<u16>().ok().filter(|n| text.len() == 2 && *n < below).ok_or(EXPECTED);
    let opens = number(hour, 24)?.saturating_mul(60).saturating_add(number(minute, 60)?);
    let minutes = moment::parse_duration(length)?.as_secs() / 60;
    let minutes = u16::try_from(minutes).ok().filter(|minutes| (1..=1440).contains(minutes));
    let minutes = minutes.ok_or("a window stays open for a minute to 24 hours")?;
    Ok(ReleaseWindow { days: parse_days(days)?, opens, minutes })
}

fn parse_days(text: &str) -> Result<u8, String> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| *day == name);
        found.ok_or_else(|| format!("unknown day {name:?}: expected mon, tue, wed, thu, fri, sat or sun"))
    };
    let mut days = 0_u8;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // A range may go over the end of the week.
        let length = (last.saturating_add(7).saturating_sub(first)) % 7;
        for step in 0..=length {
            days |= 1 << (first.saturating_add(step) % 7);
        }
    }
    Ok(days)
}

fn window_text(window: ReleaseWindow) -> String {
    let days: Vec<_> =
        DAYS.iter().enumerate().filter(|(day, _)| window.days >> day & 1 == 1).map(|(_, name)| *name).collect();
    let length = format_duration(u64::from(window.minutes).saturating_mul(60_000));
    format!("{} {:02}:{:02} UTC for {length}", days.join(","), window.opens / 60, window.opens % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_they_are_written() {
        let window = |days, opens, minutes| Some(ReleaseWindow { days, opens, minutes });
        let table = [
            ("mon-fri 08:00 10h", window(0b001_1111, 480, 600)),
            ("sat,sun 00:00 24h", window(0b110_0000, 0, 1440)),
            ("fri-mon 23:59 1m", window(0b111_0001, 1439, 1)),
            ("wed 12:30 90m", window(0b000_0100, 750, 90)),
            ("mon-fri 8:00 10h", None),
            ("mon-fri 24:00 10h", None),
            ("mon-fri 08:60 10h", None),
            ("mon-fri 08:00", None),
            ("mon-fri 08:00 10h x", None),
            ("mon-fri 08:00 25h", None),
            ("mon-fri 08:00 30s", None),
            ("Mon 08:00 1h", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_window(text).ok(), expected, "{text:?}");
        }
        assert_eq!(
            window_text(parse_window("mon-wed,sun 08:05 10h").unwrap()),
            "mon,tue,wed,sun 08:05 UTC for 10 h 0 min"
        );
    }

    fn image(byte: u8, name: Option<&str>) -> AcceptedImage {
        let pcr = [byte; 48];
        let measurements =
            Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
        AcceptedImage { measurements, name: name.map(str::to_owned), sunset_ms: None }
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let base = ReleasePolicy {
            images: vec![image(1, Some("old")), image(2, None)],
            ..ReleasePolicy::first([9; 32], Vec::new(), 60_000)
        };
        let apply = |edit: &Edit| edit.apply(&base, 7);
        assert_eq!(apply(&Edit::default()), Ok(ReleasePolicy { epoch: 7, ..base.clone() }));
        let accept = Edit { accept: vec![image(3, Some("new")), image(1, Some("renamed"))], ..Edit::default() };
        assert_eq!(apply(&accept).unwrap().images, [image(2, None), image(3, Some("new")), image(1, Some("renamed"))]);
        let sunset =
            Edit { sunset: vec![("old".to_owned(), Some(5)), ("02020202".to_owned(), Some(6))], ..Edit::default() };
        let sunsets: Vec<_> = apply(&sunset).unwrap().images.iter().map(|image| image.sunset_ms).collect();
        assert_eq!(sunsets, [Some(5), Some(6)]);
        for unknown in ["new", "0202", "03030303"] {
            let edit = Edit { sunset: vec![(unknown.to_owned(), None)], ..Edit::default() };
            assert!(apply(&edit).is_err(), "{unknown}");
        }
        let numbers =
            Edit { approvals: Some(2), lease_ms: Some(1), leases_max: Some(NonZeroU32::new(3)), ..Edit::default() };
        let next = apply(&numbers).unwrap();
        assert_eq!((next.approvals, next.lease_ms, next.leases_max), (NonZeroU8::new(2), 1, NonZeroU32::new(3)));
        let lifted = Edit { approvals: Some(0), leases_max: Some(None), ..Edit::default() }.apply(&next, 8).unwrap();
        assert_eq!((lifted.approvals, lifted.leases_max), (None, None));
    }
}
