//! Key stores and keys beside those of `holdfast-dev up`, made as an operator makes them: manifests, ceremonies, signed commands.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_cli::commands::credential::{self, secret_text};
use holdfast_cli::commands::key;
use holdfast_cli::commands::manifest::{self as manifests, Settings as ManifestSettings};
use holdfast_cli::commands::tls;
use holdfast_cli::home::Home;
use holdfast_cli::session::{Session, Wait};
use holdfast_shared::external_key::{ExternalKeyId, KeyUsage};
use holdfast_shared::manifest::Thresholds;
use holdfast_shared::xks::{HostName, PathPrefix};
use tokio::task::JoinSet;

use super::{Bench, failed};
use crate::load::LoadError;
use crate::load::local::LocalSystem;
use crate::load::target::{Site, Target};
use crate::up::authority::Authority;
use crate::up::configurations::measurements;

/// How long an enclave may take to carry out one order while it has many.
const WAIT: Wait<'static> = Wait::silent(Duration::from_mins(5));
/// Key stores that are made at once, and orders of each that wait at once: a custodian keeps 64.
const STORES_AT_ONCE: usize = 4;
const ORDERS_AT_ONCE: usize = 32;

/// How many there are to be, the one of `holdfast-dev up` among them.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stores: u32,
    pub(super) keys: u32,
}

/// A key store that is served.
pub(super) struct Enlisted {
    pub(super) session: Arc<Session>,
    pub(super) site: Site,
}

/// Makes them, and returns all.
pub(super) async fn enlist(
    bench: &Bench<'_>,
    system: &LocalSystem,
    wanted: Wanted,
) -> Result<Vec<Enlisted>, LoadError> {
    let state = system.state();
    let home = Home::at(state.join("home"));
    let first = Target::from_files(std::slice::from_ref(&state))?;
    let first = first.sites.into_iter().next().ok_or_else(|| failed("the first key store", &"is missing"))?;
    let known = home.key_stores().map_err(|error| failed("the first key store", &error))?;
    let known = known.into_iter().next().ok_or_else(|| failed("the first key store", &"is missing"))?;
    let host_name = known.manifest.manifest().host_name.clone();
    let session = Session::about(&home, known).map_err(|error| failed("the first key store", &error))?;
    let (mut waiting, mut enlisted) = (vec![(session, first.clone())], Vec::new());
    for number in 1..wanted.stores {
        waiting.push(manifest(&state, &home, number, &host_name, &first).await?);
    }
    let authority = Arc::new(Authority::of_state(&state).map_err(|error| failed("the authority", &error))?);
    let mut waiting = waiting.into_iter();
    let mut making = JoinSet::new();
    loop {
        while making.len() < STORES_AT_ONCE
            && let Some((session, site)) = waiting.next()
        {
            making.spawn(furnish(session, site, wanted.keys, Arc::clone(&authority)));
        }
        match making.join_next().await {
            Some(made) => enlisted.push(made.map_err(|error| failed("a key store", &error))??),
            None => return Ok(enlisted),
        }
        if bench.stop.load(Ordering::Relaxed) {
            return Err(LoadError::Interrupted);
        }
        bench.tell(&format!("{} of {} key stores with {} keys", enlisted.len(), wanted.stores, wanted.keys));
    }
}

/// A manifest under the same host name, enrolled and handed to the parent.
async fn manifest(
    state: &Path,
    home: &Home,
    number: u32,
    host_name: &HostName,
    first: &Site,
) -> Result<(Session, Site), LoadError> {
    let name = format!("s{number}");
    let at = |error: &dyn core::fmt::Display| failed(&format!("key store {name}"), error);
    let configuration = std::fs::read_to_string(state.join("parent/static.json")).map_err(|error| at(&error))?;
    let custodian = state.join("custodian/state/custodian.json");
    let path_prefix = PathPrefix::parse(&format!("/{name}")).map_err(|error| at(&error))?;
    let path = path_prefix.uri_path();
    let settings = ManifestSettings {
        name: name.clone(),
        administrators: Vec::new(),
        custodians: vec![manifests::read_custodian(&custodian).map_err(|error| at(&error))?],
        shares_needed: 1,
        hostile_tolerated: 0,
        kms_share: None,
        host_name: host_name.clone(),
        path_prefix,
        measurements: vec![measurements(&configuration)],
        emulated_root: Some(state.join("nsm/root.pem")),
        lease_ms: 24 * 3_600_000,
        thresholds: Thresholds::ONE,
    };
    let store = manifests::create(home, &settings).map_err(|error| at(&error))?;
    let session = Session::about(home, store).map_err(|error| at(&error))?;
    session.enrol().await.map_err(|error| at(&error))?;
    // Complete before the parent sees it.
    let (place, new) = (format!("parent/key-stores/{name}.manifest"), format!("parent/{name}.new"));
    std::fs::write(state.join(&new), session.store().manifest.signed_bytes()).map_err(|error| at(&error))?;
    std::fs::rename(state.join(new), state.join(place)).map_err(|error| at(&error))?;
    Ok((session, Site { path, keys: Vec::new(), ..first.clone() }))
}

/// Waits for its ceremony, has it certified, and the keys made that it lacks.
async fn furnish(session: Session, site: Site, keys: u32, authority: Arc<Authority>) -> Result<Enlisted, LoadError> {
    let name = session.store().manifest.manifest().name.clone();
    let issued = credential::show(&session, None, WAIT).await;
    let issued = issued.map_err(|error| failed(&format!("the ceremony of key store {name}"), &error))?.credential;
    let mut site = Site {
        access_key_id: issued.access_key_id.to_string(),
        secret_access_key: secret_text(&issued.secret_access_key).to_owned(),
        ..site
    };
    // The one that `up` made has a certificate, and keys.
    if site.keys.is_empty() {
        certify(&session, &authority).await?;
    }
    let session = Arc::new(session);
    let there = u32::try_from(site.keys.len()).unwrap_or(u32::MAX);
    let mut numbers = there..keys;
    let mut ordered = JoinSet::new();
    loop {
        while ordered.len() < ORDERS_AT_ONCE
            && let Some(number) = numbers.next()
        {
            let session = Arc::clone(&session);
            ordered.spawn(async move {
                let id = ExternalKeyId::parse(&format!("k{number}")).map_err(|error| failed("a key", &error))?;
                let made = key::create(&session, id.clone(), KeyUsage::ENCRYPT_DECRYPT, WAIT).await;
                made.map(|_| id.to_string()).map_err(|error| failed("a key", &error))
            });
        }
        match ordered.join_next().await {
            Some(made) => site.keys.push(made.map_err(|error| failed("a key", &error))??),
            None => return Ok(Enlisted { session, site }),
        }
    }
}

/// Without a certificate of its own, a key store is not served.
async fn certify(session: &Session, authority: &Authority) -> Result<(), LoadError> {
    let host_name = &session.store().manifest.manifest().host_name;
    let request = tls::request(session, WAIT).await.map_err(|error| failed("a certificate's request", &error))?;
    let chain = authority.sign(&request.pem, host_name.as_str()).map_err(|error| failed("a certificate", &error))?;
    let chain = tls::parse_chain(chain.as_bytes()).map_err(|error| failed("a certificate", &error))?;
    tls::install(session, chain, WAIT).await.map(drop).map_err(|error| failed("a certificate", &error))
}
