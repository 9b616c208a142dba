//! What happens before a measurement: the requests are made, and each kind is tried once.

use std::sync::Arc;
use std::time::Duration;

use super::lane::{Lane, Work};
use super::mix::{Mix, Operation};
use super::request::{Judge, Sizes, Template};
use super::target::Target;
use super::wire::{Dialer, Http, Reuse};

/// Requests of each kind that are made where there are few keys.
const TEMPLATES: usize = 64;
/// Keys that are asked for at most.
const KEYS_MAX: usize = 131_072;

/// How a group of clients behaves.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) mix: Mix,
    pub(super) sizes: Sizes,
    pub(super) http: Http,
    pub(super) reuse: Reuse,
    pub(super) patience: Duration,
    pub(super) retries: u32,
}

/// Why a target cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A request of the preparation failed.
    #[error("{operation} at {target} fails before the measurement: {reason}")]
    Request {
        /// Which operation.
        operation: &'static str,
        /// Where.
        target: String,
        /// Why.
        reason: String,
    },
}

/// Makes the requests of a group, and the ciphertexts that it needs for them.
///
/// # Errors
/// [`PrepareError`].
pub(super) async fn prepare(target: &Target, manner: &Manner, seed: u64) -> Result<Work, PrepareError> {
    let dialer = |resume| Dialer::new(&target.door, manner.http, resume);
    let mut work = Work {
        dialer: dialer(false)?,
        sites: target.sites.clone(),
        mix: manner.mix.clone(),
        templates: Default::default(),
        judge: Judge::Xks,
        http: manner.http,
        reuse: Reuse::Kept,
        patience: Duration::from_secs(10),
        retries: 0,
        answer_bytes: 0,
    };
    let templates = questions(target, manner);
    work.templates = templates.clone();
    let mut scout = Lane::new(Arc::new(work), seed, u64::MAX, None);
    let [encrypts, mut decrypts, metadata, health] = templates;
    let mut lengths = [0; 4];
    let mut tried = |operation: Operation, answer: &[u8]| {
        if let Some(length) = lengths.get_mut(operation.number()) {
            *length = answer.len();
        }
    };
    for template in metadata.first().into_iter().chain(health.first()) {
        tried(template.operation, &try_once(&mut scout, target, template).await?);
    }
    // One is tried; where there is something to decrypt, all of them are.
    let needed = if manner.mix.has(Operation::Decrypt) { encrypts.len() } else { 1 };
    for template in encrypts.iter().take(needed) {
        let answer = try_once(&mut scout, target, template).await?;
        tried(Operation::Encrypt, &answer);
        let failed = |reason| failure(target, Operation::Encrypt, reason);
        let site = target.sites.get(template.site).ok_or_else(|| failed("there is no such key store".to_owned()))?;
        decrypts.push(template.decrypt_of(site, &answer).map_err(failed)?);
    }
    if manner.mix.has(Operation::Decrypt)
        && let Some(first) = decrypts.first()
    {
        tried(Operation::Decrypt, &try_once(&mut scout, target, first).await?);
    }
    Ok(Work {
        dialer: dialer(manner.reuse == Reuse::Resumed)?,
        sites: target.sites.clone(),
        mix: manner.mix.clone(),
        templates: [encrypts, decrypts, metadata, health],
        judge: Judge::Xks,
        http: manner.http,
        reuse: manner.reuse,
        patience: manner.patience,
        retries: manner.retries,
        answer_bytes: lengths.get(manner.mix.main().number()).copied().unwrap_or_default(),
    })
}

/// All requests but those that need the answers of others.
fn questions(target: &Target, manner: &Manner) -> [Vec<Template>; 4] {
    let keys: Vec<(usize, usize)> = target
        .sites
        .iter()
        .enumerate()
        .flat_map(|(number, site)| (0..site.keys.len()).map(move |key| (number, key)))
        .take(KEYS_MAX)
        .collect();
    let each = (TEMPLATES / keys.len().max(1)).max(1);
    let mut templates = <[Vec<Template>; 4]>::default();
    let [encrypts, _, metadata, health] = &mut templates;
    let crypto = manner.mix.has(Operation::Encrypt) || manner.mix.has(Operation::Decrypt);
    for at in keys {
        let Some(site) = target.sites.get(at.0) else { continue };
        if crypto {
            encrypts.extend((0..each).map(|_| Template::encrypt(site, at, manner.sizes)));
        }
        if manner.mix.has(Operation::Metadata) {
            metadata.push(Template::question(Operation::Metadata, site, at));
        }
        if at.1 == 0 {
            // Idle connections need one, too.
            health.push(Template::question(Operation::Health, site, at));
        }
    }
    templates
}

/// The likely causes of a status that has several: the sentence after it.
const fn remedy_of(status: u16) -> &'static str {
    match status {
        401 => {
            "; another credential or region than the proxy's, or clocks that differ by more than five minutes: `holdfast doctor` says which"
        }
        404 => "; no such key, or another path prefix: `holdfast key list` shows the keys",
        503 => "; the key store has no lease: `holdfast status` says why",
        _ => "",
    }
}

async fn try_once(scout: &mut Lane, target: &Target, template: &Template) -> Result<Vec<u8>, PrepareError> {
    let failed = |reason| failure(target, template.operation, reason);
    let answer = scout.send(template).await.map_err(|error| failed(error.to_string()))?;
    let status = answer.status;
    template.check(answer, Judge::Xks).map_err(|reason| failed(format!("{reason}{}", remedy_of(status))))?;
    Ok(answer.body.clone())
}

fn failure(target: &Target, operation: Operation, reason: String) -> PrepareError {
    PrepareError::Request { operation: operation.name(), target: target.name.clone(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_with_several_causes_has_its_remedy() {
        for (status, expected) in [(401, "clocks that differ"), (404, "path prefix"), (503, "no lease")] {
            assert!(remedy_of(status).contains(expected), "{status}");
        }
        assert_eq!(remedy_of(500), "");
    }
}
