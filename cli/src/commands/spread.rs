//! Something signed, on its way to every custodian.
//!
//! Guarantees: a custodian counts only once it said that it has it; one that said no is not asked again; one that cannot be reached is
//! tried again for a while, and named.

use core::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::moment::format_duration;
use crate::output::printable;
use crate::session::{Contact, Patience, SessionError, Wait};

/// How long those that cannot be reached are tried on, once enough have it.
const LINGER: Duration = Duration::from_secs(5);

/// What came of one custodian, and when.
type Said = (Result<(), SessionError>, Duration);

/// Who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many custodians must have it before it counts for sure.
    pub needed: usize,
    /// Whether so many have it.
    pub complete: bool,
    /// Until so many had it, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_after_ms: Option<u64>,
    /// Each custodian.
    pub custodians: Vec<Acknowledgement>,
}

/// One custodian's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Its name.
    pub custodian: String,
    /// Whether it has it.
    pub acknowledged: bool,
    /// How long that took, or how long it was tried, in milliseconds.
    pub elapsed_ms: u64,
    /// Whether it said no.
    pub refused: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Spread {
    fn acknowledged(&self) -> usize {
        self.custodians.iter().filter(|one| one.acknowledged).count()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (has, all, needed) = (self.acknowledged(), self.custodians.len(), self.needed);
        match self.complete_after_ms {
            Some(after_ms) => {
                write!(f, "acknowledged  by {has} of {all} custodians, {needed} needed, after {after_ms} ms")?;
            }
            None => write!(
                f,
                "INCOMPLETE    acknowledged by {has} of {all} custodians, {needed} needed: repeat it when the others are back"
            )?,
        }
        for one in &self.custodians {
            match &one.error {
                None => write!(f, "\n  {}: has it, after {} ms", printable(&one.custodian), one.elapsed_ms)?,
                Some(error) => {
                    let tried = format_duration(one.elapsed_ms);
                    write!(
                        f,
                        "\n  {}: DOES NOT HAVE IT, tried for {tried}: {}",
                        printable(&one.custodian),
                        printable(error)
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// Does `act` at every custodian at once until it succeeds, is refused, or the time is over.
///
/// # Errors
/// Where nobody has it: the custodian's own words, or those of all.
pub async fn to_all<F>(
    contacts: &[Contact],
    needed: usize,
    wait: Wait<'_>,
    act: impl Fn(Contact) -> F + Clone + Send + 'static,
) -> Result<Spread, SessionError>
where
    F: Future<Output = Result<(), SessionError>> + Send + 'static,
{
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (place, contact) in contacts.iter().enumerate() {
        let (contact, act, timeout) = (contact.clone(), act.clone(), wait.timeout);
        tasks.spawn(async move { (place, persist(contact, timeout, act).await, started.elapsed()) });
    }
    let mut said: Vec<Option<Said>> = contacts.iter().map(|_| None).collect();
    let (mut has, mut complete_after, mut patience) = (0_usize, None, Patience::new(wait));
    let mut is_over = false;
    loop {
        let limit =
            complete_after.map(|after: Duration| after.saturating_add(LINGER).saturating_sub(started.elapsed()));
        let next = tokio::select! {
            next = tasks.join_next() => next,
            () = tokio::time::sleep(limit.unwrap_or(Duration::MAX)) => break,
            paused = patience.pause("custodians"), if complete_after.is_none() && !is_over => {
                is_over = paused.is_err();
                continue;
            }
        };
        let Some(joined) = next else { break };
        let Ok((place, result, elapsed)) = joined else { continue };
        has = has.saturating_add(usize::from(result.is_ok()));
        if has >= needed && complete_after.is_none() {
            complete_after = Some(elapsed);
        }
        if let Some(slot) = said.get_mut(place) {
            *slot = Some((result, elapsed));
        }
    }
    summary(contacts, needed, complete_after, said, started.elapsed())
}

async fn persist<F: Future<Output = Result<(), SessionError>>>(
    contact: Contact,
    timeout: Duration,
    act: impl Fn(Contact) -> F,
) -> Result<(), SessionError> {
    let mut patience = Patience::new(Wait::silent(timeout));
    loop {
        match act(contact.clone()).await {
            Err(error) if error.is_passing() => {
                if patience.pause("").await.is_err() {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

fn summary(
    contacts: &[Contact],
    needed: usize,
    complete_after: Option<Duration>,
    said: Vec<Option<Said>>,
    waited: Duration,
) -> Result<Spread, SessionError> {
    let has = said.iter().filter(|said| matches!(said, Some((Ok(()), _)))).count();
    if has == 0 && said.len() == 1 {
        let only = said.into_iter().flatten().next();
        return Err(only.and_then(|(result, _)| result.err()).unwrap_or(SessionError::Interrupted));
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let one = |(contact, said): (&Contact, Option<Said>)| {
        let refused = matches!(&said, Some((Err(error), _)) if error.is_refusal());
        let (error, elapsed) = match said {
            Some((Ok(()), elapsed)) => (None, elapsed),
            Some((Err(error), elapsed)) => (Some(error.to_string()), elapsed),
            None => (Some("no answer in time".to_owned()), waited),
        };
        let custodian = contact.name().to_owned();
        Acknowledgement { custodian, acknowledged: error.is_none(), elapsed_ms: ms(elapsed), refused, error }
    };
    let custodians: Vec<_> = contacts.iter().zip(said).map(one).collect();
    if has == 0 {
        let words = |one: &Acknowledgement| format!("{}: {}", one.custodian, one.error.as_deref().unwrap_or_default());
        return Err(SessionError::Nobody(custodians.iter().map(words).collect::<Vec<_>>().join("; ")));
    }
    Ok(Spread { needed, complete: has >= needed, complete_after_ms: complete_after.map(ms), custodians })
}
