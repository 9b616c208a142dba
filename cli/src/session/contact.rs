//! One custodian, and how several are asked at once.
//!
//! Guarantees: an answer was signed by this custodian for this very question. Nobody waits for a custodian that is slow: as soon as
//! enough have answered, the others get a moment more.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::Custodian;
use holdfast_shared::query::{self, Answer, Query, Question};
use holdfast_shared::signature::SignatureError;
use holdfast_shared::{api, labels, limits};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::SessionError;
use crate::home::AdministratorKeys;
use crate::moment;

/// Longest time for one exchange with a custodian.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer to a command or a block overlay: it is empty.
const EMPTY_ANSWER_MAX: usize = 1024;
/// Bytes of an answer to a query: at most as many leases with their documents as a custodian grants.
const ANSWER_MAX: usize = limits::CHANNEL_MESSAGE_MAX;
/// How long the others may take once enough custodians have answered.
const LINGER: Duration = Duration::from_secs(2);

/// A custodian that can be asked and sent to.
#[derive(Clone)]
pub struct Contact(Arc<Inner>);

struct Inner {
    custodian: Custodian,
    client: CustodianClient<Tcp>,
    keys: Arc<AdministratorKeys>,
    key_store_id: KeyStoreId,
}

impl Contact {
    pub(super) fn new(
        custodian: &Custodian,
        keys: &Arc<AdministratorKeys>,
        key_store_id: KeyStoreId,
    ) -> Result<Self, ClientError> {
        let client = CustodianClient::new(Tcp, custodian)?;
        Ok(Self(Arc::new(Inner { custodian: custodian.clone(), client, keys: Arc::clone(keys), key_store_id })))
    }

    /// As the manifest describes it.
    #[must_use]
    pub fn custodian(&self) -> &Custodian {
        &self.0.custodian
    }

    /// Its name in the manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.custodian.name
    }

    /// Asks a question.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn ask(&self, question: Question) -> Result<Answer, SessionError> {
        let Inner { custodian, client, keys, key_store_id } = &*self.0;
        let query = Query {
            label: labels::QUERY.to_owned(),
            key_store_id: *key_store_id,
            custodian_id: custodian.id(),
            nonce: random()?,
            issued_ms: moment::now_ms(),
            question,
        };
        let signed = query::sign(&query, &keys.signing_key, &SystemRandom::new())?;
        let answer = client.post(api::QUERIES, signed, ANSWER_MAX, EXCHANGE_TIMEOUT).await?;
        Ok(query::open_answer(&answer, &query, &custodian.signing_key)?)
    }

    /// Sends something that is answered by nothing.
    ///
    /// # Errors
    /// [`SessionError::Client`].
    pub async fn send(&self, path: &str, body: Vec<u8>) -> Result<(), SessionError> {
        self.0.client.post(path, body, EMPTY_ANSWER_MAX, EXCHANGE_TIMEOUT).await?;
        Ok(())
    }
}

/// What each custodian said, in the manifest's order; none of those that were not waited for.
pub type Heard<T> = Vec<(Contact, Option<Result<T, SessionError>>)>;

/// Does the same with every custodian at once. Once `enough` of them succeeded, the others get two more seconds.
pub async fn with_each<T, F>(contacts: &[Contact], enough: usize, act: impl Fn(Contact) -> F) -> Heard<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, SessionError>> + Send + 'static,
{
    let mut heard: Heard<T> = contacts.iter().map(|contact| (contact.clone(), None)).collect();
    let mut tasks = JoinSet::new();
    for (place, contact) in contacts.iter().enumerate() {
        let acting = act(contact.clone());
        tasks.spawn(async move { (place, acting.await) });
    }
    let (mut succeeded, mut until) = (0_usize, None);
    loop {
        let next = match until {
            None => tasks.join_next().await,
            Some(until) => tokio::time::timeout_at(until, tasks.join_next()).await.unwrap_or(None),
        };
        let Some(joined) = next else { return heard };
        let Ok((place, result)) = joined else { continue };
        succeeded = succeeded.saturating_add(usize::from(result.is_ok()));
        if succeeded >= enough && until.is_none() {
            until = Instant::now().checked_add(LINGER);
        }
        if let Some((_, said)) = heard.get_mut(place) {
            *said = Some(result);
        }
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], SessionError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SignatureError::SigningFailed)?;
    Ok(bytes)
}
