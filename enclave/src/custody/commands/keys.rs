//! Orders about external keys and their versions.
//!
//! Guarantees: the newest version of a key is never destroyed while the key lives, so a number is never given twice: the next one is
//! always above it; a key is destroyed only after it was pending destruction, and its id is never used again.
//! Assumes: keys are sorted by id and versions by number, which the sealed key store demands. Refuses: a key pending destruction,
//! except that its versions may be destroyed.

use holdfast_shared::command::{KeyDescription, Outcome, VersionRun};
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage, VERSION_MAX};
use holdfast_shared::keystore::{Body, ExternalKeyRecord, KeyVersionRecord, VersionState};
use holdfast_shared::limits;
use holdfast_shared::secrets::Secret;

use super::{Effect, refused};

const DONE: Effect = Effect::Changed(Outcome::Done);

fn place(body: &Body, id: &ExternalKeyId) -> Result<usize, usize> {
    body.external_keys.binary_search_by(|key| key.id.cmp(id))
}

/// A key that was not destroyed.
fn find<'b>(body: &'b mut Body, id: &ExternalKeyId) -> Option<&'b mut ExternalKeyRecord> {
    let found = place(body, id).ok().and_then(|index| body.external_keys.get_mut(index));
    found.filter(|key| key.state != KeyState::Destroyed)
}

fn no_such_key(id: &ExternalKeyId) -> String {
    format!("there is no key {id}")
}

const fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::PendingDestruction => "pending destruction",
        KeyState::Destroyed => "destroyed",
    }
}

/// Whether the key is in the state that the signer expected.
pub(super) fn check_state(body: &Body, id: &ExternalKeyId, expected: KeyState) -> Result<(), String> {
    match place(body, id).ok().and_then(|index| body.external_keys.get(index)) {
        Some(key) if key.state == expected => Ok(()),
        Some(key) => Err(format!("key {id} is {}, not {}", state_name(key.state), state_name(expected))),
        None => Err(no_such_key(id)),
    }
}

/// Adds a key with its first version.
pub(super) fn create(body: &mut Body, id: &ExternalKeyId, usage: KeyUsage, first: KeyVersionRecord) -> Effect {
    let place = match place(body, id) {
        Err(place) => place,
        Ok(_) if find(body, id).is_none() => {
            return refused(&format!("there was a key {id}, which was destroyed: its id is never used again"));
        }
        Ok(_) => return refused(&format!("key {id} exists already")),
    };
    if body.external_keys.len() >= limits::EXTERNAL_KEYS_MAX {
        return refused("the key store is full");
    }
    let record = ExternalKeyRecord {
        id: id.clone(),
        usage,
        state: KeyState::Enabled,
        versions: vec![first],
        destroy_after_ms: None,
    };
    body.external_keys.insert(place, record);
    DONE
}

/// Gives a key a version above all that it ever had.
pub(super) fn rotate(body: &mut Body, id: &ExternalKeyId, material: Secret<32>) -> Effect {
    let Some(key) = find(body, id) else { return refused(&no_such_key(id)) };
    if key.state == KeyState::PendingDestruction {
        return refused(&format!("key {id} is pending destruction; cancel that first"));
    }
    let number = key.versions.last().map_or(1, |newest| newest.number.saturating_add(1));
    if number > VERSION_MAX {
        return refused(&format!("key {id} has used up its version numbers; make another key"));
    }
    if key.versions.len() >= limits::KEY_VERSIONS_MAX {
        // What is left of a destroyed version only informs: numbers go up from the newest, which is never destroyed.
        let Some(oldest) = key.versions.iter().position(|version| version.material.is_none()) else {
            return refused(&format!("key {id} has {} versions; destroy old ones first", limits::KEY_VERSIONS_MAX));
        };
        key.versions.remove(oldest);
    }
    key.versions.push(KeyVersionRecord::new(number, material));
    DONE
}

/// Drops the material of an old version.
pub(super) fn destroy_version(body: &mut Body, id: &ExternalKeyId, number: u32) -> Effect {
    let Some(key) = find(body, id) else { return refused(&no_such_key(id)) };
    if key.versions.last().is_some_and(|newest| newest.number == number) {
        return refused(&format!("version {number} of key {id} is the one that encrypts; rotate the key first"));
    }
    match key.versions.iter_mut().find(|version| version.number == number) {
        None => refused(&format!("key {id} has no version {number}")),
        Some(version) if version.material.is_none() => {
            refused(&format!("version {number} of key {id} is destroyed already"))
        }
        Some(version) => {
            version.destroy();
            DONE
        }
    }
}

/// Allows or forbids the use of a key.
pub(super) fn set_state(body: &mut Body, id: &ExternalKeyId, state: KeyState) -> Effect {
    match find(body, id) {
        None => refused(&no_such_key(id)),
        Some(key) if key.state == KeyState::PendingDestruction => {
            refused(&format!("key {id} is pending destruction; cancel that first"))
        }
        Some(key) if key.state == state => refused(&format!("key {id} is {} already", state_name(state))),
        Some(key) => {
            key.state = state;
            DONE
        }
    }
}

/// Takes a key out of service for good, unless that is cancelled before `destroy_after_ms`.
pub(super) fn schedule_destruction(body: &mut Body, id: &ExternalKeyId, destroy_after_ms: u64) -> Effect {
    match find(body, id) {
        None => refused(&no_such_key(id)),
        Some(key) if key.state == KeyState::PendingDestruction => {
            refused(&format!("key {id} is pending destruction already; cancel that first to change the time"))
        }
        Some(key) => {
            key.state = KeyState::PendingDestruction;
            key.destroy_after_ms = Some(destroy_after_ms);
            DONE
        }
    }
}

/// Keeps a key that was to be destroyed. Whether it is used again is another decision.
pub(super) fn cancel_destruction(body: &mut Body, id: &ExternalKeyId) -> Effect {
    match find(body, id) {
        None => refused(&no_such_key(id)),
        Some(key) if key.state != KeyState::PendingDestruction => {
            refused(&format!("key {id} is {}, not pending destruction", state_name(key.state)))
        }
        Some(key) => {
            key.state = KeyState::Disabled;
            key.destroy_after_ms = None;
            DONE
        }
    }
}

/// Drops all of a key but its id and its newest number.
pub(super) fn destroy(body: &mut Body, id: &ExternalKeyId) -> Effect {
    match find(body, id) {
        None => refused(&no_such_key(id)),
        Some(key) if key.state != KeyState::PendingDestruction => refused(&format!(
            "key {id} is {}; only a key that is pending destruction is destroyed: schedule that first",
            state_name(key.state)
        )),
        Some(key) => {
            bury(key);
            Effect::ChangedRoot(Outcome::Done)
        }
    }
}

fn bury(key: &mut ExternalKeyRecord) {
    key.state = KeyState::Destroyed;
    key.destroy_after_ms = None;
    let newest = key.versions.pop();
    key.versions.clear();
    key.versions.extend(newest.map(|mut newest| {
        newest.destroy();
        newest
    }));
}

/// Whether a key's time of destruction has come.
pub(crate) fn is_due(body: &Body, now_ms: u64) -> bool {
    body.external_keys.iter().any(|key| key_is_due(key, now_ms))
}

/// Carries out the standing orders to destroy keys whose time has come, and returns these keys. The root key must change with it.
pub(crate) fn carry_out_due(body: &mut Body, now_ms: u64) -> Vec<ExternalKeyId> {
    let due = body.external_keys.iter_mut().filter(|key| key_is_due(key, now_ms));
    due.map(|key| {
        bury(key);
        key.id.clone()
    })
    .collect()
}

fn key_is_due(key: &ExternalKeyRecord, now_ms: u64) -> bool {
    key.state == KeyState::PendingDestruction && key.destroy_after_ms.is_some_and(|due_ms| now_ms >= due_ms)
}

/// All keys, with their versions as far as these fit into one result.
pub(super) fn list(body: &Body) -> Vec<KeyDescription> {
    let mut keys: Vec<_> = body.external_keys.iter().map(describe).collect();
    if keys.iter().map(|key| key.runs.len()).sum::<usize>() > limits::LISTED_RUNS_MAX {
        for key in &mut keys {
            key.runs.clear();
        }
    }
    keys
}

fn describe(key: &ExternalKeyRecord) -> KeyDescription {
    let mut runs: Vec<VersionRun> = Vec::new();
    for version in &key.versions {
        let state = version.state();
        match runs.last_mut() {
            Some(run) if run.state == state && run.last.saturating_add(1) == version.number => {
                run.last = version.number;
            }
            _ => runs.push(VersionRun { first: version.number, last: version.number, state }),
        }
    }
    let live = key.versions.iter().filter(|version| version.state() != VersionState::Destroyed).count();
    KeyDescription {
        id: key.id.clone(),
        usage: key.usage,
        state: key.state,
        current_version: key.versions.last().map_or(0, |version| version.number),
        versions: u32::try_from(live).unwrap_or(u32::MAX),
        runs,
        destroy_after_ms: key.destroy_after_ms,
    }
}
