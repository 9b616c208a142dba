//! A lane: one request at a time, over a connection of its own or a stream of one.

use std::sync::Arc;
use std::time::Duration;

use super::line::{Http1, Http2, Incoming, Outgoing};
use super::measure::Outcome;
use super::mix::{Mix, Operation};
use super::pace::Ask;
use super::request::{Judge, Template};
use super::sign::{AmzDate, Signer};
use super::target::{Site, Target};
use super::wire::{Dialer, Http, LineError, Reuse};
use crate::alarms::random::Random;

/// Of so many answers to `Encrypt`, one is kept and decrypted after the measurement.
const KEPT_ONE_IN: u64 = 64;
/// Answers that a lane keeps.
const KEPT_MAX: usize = 16;

/// What all lanes of a group share.
pub(super) struct Work {
    pub(super) dialer: Dialer,
    pub(super) sites: Vec<Site>,
    pub(super) mix: Mix,
    /// By operation.
    pub(super) templates: [Vec<Template>; 4],
    pub(super) judge: Judge,
    pub(super) http: Http,
    pub(super) reuse: Reuse,
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    /// How often a request is sent again.
    pub(super) retries: u32,
    /// Bytes of the body of a good answer to the most frequent operation.
    pub(super) answer_bytes: usize,
}

impl Work {
    /// The requests of an operation.
    pub(super) fn of(&self, operation: Operation) -> &[Template] {
        self.templates.get(operation.number()).map(Vec::as_slice).unwrap_or_default()
    }

    fn signers(&self) -> Vec<Signer> {
        let signer = |site: &Site| Signer::new(&site.access_key_id, &site.secret_access_key, &site.region);
        self.sites.iter().map(signer).collect()
    }

    /// The same requests to another server, which need not know XKS.
    pub(super) fn elsewhere(&self, target: &Target, judge: Judge) -> Result<Self, rustls::Error> {
        Ok(Self {
            dialer: Dialer::new(&target.door, self.http, self.reuse == Reuse::Resumed)?,
            sites: self.sites.clone(),
            mix: self.mix.clone(),
            templates: self.templates.clone(),
            judge,
            http: self.http,
            reuse: self.reuse,
            patience: self.patience,
            retries: self.retries,
            answer_bytes: self.answer_bytes,
        })
    }
}

/// What became of a lane's connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    pub(super) connections: u64,
    pub(super) resumed: u64,
}

/// What was encrypted in the measurement and decrypted after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Verified {
    pub(super) good: u64,
    pub(super) wrong: Vec<String>,
}

enum State {
    Closed,
    One(Box<Http1>),
    Two(Http2),
}

/// See the module.
pub(super) struct Lane {
    work: Arc<Work>,
    state: State,
    held: Vec<State>,
    signers: Vec<Signer>,
    date: AmzDate,
    random: Random,
    outgoing: Outgoing,
    incoming: Incoming,
    kept: Vec<(usize, Vec<u8>)>,
    encrypts: u64,
    pub(super) opened: Opened,
}

impl Lane {
    /// A lane over `shared`, a connection of HTTP/2 for several, or over a connection of its own.
    pub(super) fn new(work: Arc<Work>, seed: u64, number: u64, shared: Option<Http2>) -> Self {
        let outgoing = Outgoing::to(&work.dialer.door().authority);
        Self {
            signers: work.signers(),
            state: shared.map_or(State::Closed, State::Two),
            held: Vec::new(),
            date: AmzDate::now(),
            random: Random::of(seed, 1, number),
            outgoing,
            incoming: Incoming::default(),
            kept: Vec::new(),
            encrypts: 0,
            opened: Opened::default(),
            work,
        }
    }

    /// Opens the connection if there is none.
    pub(super) async fn open(&mut self) -> Result<(), LineError> {
        match (&self.state, self.work.http) {
            (State::One(line), _) if line.is_open() => Ok(()),
            (State::Two(line), _) => {
                let (_, fresh) = line.clone().ready(&self.work.dialer).await?;
                self.count(fresh);
                Ok(())
            }
            (_, Http::Two) => {
                let line = Http2::default();
                let (_, fresh) = line.ready(&self.work.dialer).await?;
                self.count(fresh);
                self.state = State::Two(line);
                Ok(())
            }
            (_, Http::One) => {
                let (stream, resumed) = self.work.dialer.dial().await?;
                self.count(Some(resumed));
                self.state = State::One(Box::new(Http1::new(stream)));
                Ok(())
            }
        }
    }

    fn count(&mut self, fresh: Option<bool>) {
        if let Some(resumed) = fresh {
            self.opened.connections += 1;
            self.opened.resumed += u64::from(resumed);
        }
    }

    /// Sends a request and takes its answer, whatever it says.
    pub(super) async fn send(&mut self, template: &Template) -> Result<&Incoming, LineError> {
        self.open().await?;
        let request = &mut self.outgoing;
        template.write(&mut request.body, &mut self.random);
        self.date.renew();
        self.date.text().clone_into(&mut request.date);
        request.path.clone_from(&template.path);
        request.authorization.clear();
        if let Some(signer) = self.signers.get_mut(template.site) {
            let (path, host) = (&request.path, &request.authority);
            signer.authorize(&mut request.authorization, path, host, &self.date, &request.body);
        }
        match &mut self.state {
            State::One(line) => line.exchange(request, &mut self.incoming).await?,
            State::Two(line) => {
                let (sender, fresh) = line.ready(&self.work.dialer).await?;
                self.opened.connections += u64::from(fresh.is_some());
                Http2::exchange(sender, request, &mut self.incoming).await?;
            }
            State::Closed => return Err(LineError::Ended),
        }
        Ok(&self.incoming)
    }

    /// Sends a request, and says what is wrong with its answer.
    pub(super) async fn checked(&mut self, template: &Template) -> Result<(), String> {
        let (judge, patience) = (self.work.judge, self.work.patience);
        match tokio::time::timeout(patience, self.send(template)).await {
            Ok(Ok(answer)) => template.check(answer, judge),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(given_up(patience)),
        }
    }

    /// Opens the connection and sends a request over it that costs the server little.
    pub(super) async fn greet(&mut self) -> Result<(), String> {
        let work = Arc::clone(&self.work);
        match work.of(Operation::Health).first() {
            Some(template) => self.checked(template).await,
            None => self.open().await.map_err(|error| error.to_string()),
        }
    }

    /// Takes the connection out of use, as the group wants it.
    async fn leave(&mut self) {
        match (self.work.reuse, core::mem::replace(&mut self.state, State::Closed)) {
            (Reuse::Kept, state) => self.state = state,
            (Reuse::Held, state) => self.held.push(state),
            (Reuse::New | Reuse::Resumed, State::One(line)) => line.close().await,
            (Reuse::New | Reuse::Resumed, _) => {}
        }
    }

    async fn attempt(&mut self, template: &Template, outcome: &mut Outcome) {
        let (judge, patience) = (self.work.judge, self.work.patience);
        outcome.failure = match tokio::time::timeout(patience, self.send(template)).await {
            Ok(Ok(answer)) => template.check(answer, judge).err(),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                outcome.timeouts += 1;
                // The answer to what was given up must not be taken for that of the next.
                if matches!(self.state, State::One(_)) {
                    self.state = State::Closed;
                }
                Some(given_up(patience))
            }
        };
    }

    fn keep(&mut self, number: usize) {
        self.encrypts += 1;
        if self.work.judge == Judge::Xks && self.encrypts % KEPT_ONE_IN == 1 {
            let kept = (number, self.incoming.body.clone());
            let place = usize::try_from(self.encrypts / KEPT_ONE_IN).unwrap_or_default() % KEPT_MAX;
            match self.kept.get_mut(place) {
                Some(old) => *old = kept,
                None => self.kept.push(kept),
            }
        }
    }

    /// Decrypts what was kept of the answers to `Encrypt`.
    pub(super) async fn verify(&mut self) -> Verified {
        let mut verified = Verified::default();
        let work = Arc::clone(&self.work);
        for (number, answer) in core::mem::take(&mut self.kept) {
            let template = work.of(Operation::Encrypt).get(number);
            let Some((template, site)) = template.and_then(|template| Some((template, work.sites.get(template.site)?)))
            else {
                continue;
            };
            let checked = match template.decrypt_of(site, &answer) {
                Ok(decrypt) => self.checked(&decrypt).await,
                Err(error) => Err(error),
            };
            self.leave().await;
            match checked {
                Ok(()) => verified.good += 1,
                // A key that may only encrypt: there is no way to see.
                Err(error) if error.contains("InvalidKeyUsageException") => {}
                Err(error) => verified.wrong.push(format!("an Encrypt cannot be decrypted: {error}")),
            }
        }
        verified
    }
}

fn given_up(patience: Duration) -> String {
    format!("no answer within {} ms", patience.as_millis())
}

/// Whether KMS would ask again: it got no answer, or the server says that it is at fault.
fn may_retry(failure: &str) -> bool {
    !failure.starts_with('4') && !failure.starts_with("a wrong answer")
}

impl Ask for Lane {
    async fn ask(&mut self) -> (Operation, Outcome) {
        let work = Arc::clone(&self.work);
        let operation = work.mix.pick(self.random.next());
        let templates = work.of(operation);
        let count = u64::try_from(templates.len().max(1)).unwrap_or(1);
        let number = usize::try_from(self.random.next() % count).unwrap_or_default();
        let mut outcome = Outcome::default();
        let Some(template) = templates.get(number) else {
            outcome.failure = Some("there is no such request".to_owned());
            return (operation, outcome);
        };
        self.attempt(template, &mut outcome).await;
        while outcome.retries < work.retries && outcome.failure.as_deref().is_some_and(may_retry) {
            outcome.retries += 1;
            self.attempt(template, &mut outcome).await;
        }
        if operation == Operation::Encrypt && outcome.failure.is_none() {
            self.keep(number);
        }
        if work.reuse.is_once() {
            self.leave().await;
        }
        (operation, outcome)
    }
}
