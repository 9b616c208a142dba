//! What the server counts. Unauthenticated refusals are counted and not recorded (design, section 9).

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

use holdfast_shared::xks::ErrorName;

use super::ConnectionError;
use crate::xks::Outcome;

/// Counters, each one atomic addition.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicU64,
    handshake_failed: AtomicU64,
    handshake_timeout: AtomicU64,
    unknown_host: AtomicU64,
    http_failed: AtomicU64,
    unproven: AtomicU64,
    unsigned: AtomicU64,
    silent: AtomicU64,
    no_room: AtomicU64,
    success: AtomicU64,
    proofs: AtomicU64,
    method_not_allowed: AtomicU64,
    misdirected: AtomicU64,
    aborted: AtomicU64,
    errors: [AtomicU64; ErrorName::ALL.len()],
}

/// Counts a connection as open until dropped.
pub(super) struct Open<'c>(&'c AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    pub(super) fn open_connection(&self) -> Open<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(&self.open)
    }

    pub(super) fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn count_error(&self, error: &ConnectionError) {
        let counter = match error {
            ConnectionError::HandshakeTimeout => &self.handshake_timeout,
            ConnectionError::Handshake(_) => &self.handshake_failed,
            ConnectionError::UnknownHost => &self.unknown_host,
            ConnectionError::Http(_) | ConnectionError::DrainTimeout => &self.http_failed,
            // Counted when they were told to stop, or where their place was taken.
            ConnectionError::Unproven
            | ConnectionError::Unsigned
            | ConnectionError::Silent
            | ConnectionError::Displaced
            | ConnectionError::OverShare => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was told to stop, whether it then ends in order or not.
    pub(super) fn count_stop(&self, reason: &ConnectionError) {
        let counter = match reason {
            ConnectionError::Unproven => &self.unproven,
            ConnectionError::Unsigned => &self.unsigned,
            ConnectionError::Silent => &self.silent,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended before it was read, because its connection or its host had too many.
    pub(super) fn count_no_room(&self) {
        self.no_room.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_outcome(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Success => Some(&self.success),
            Outcome::Proof => Some(&self.proofs),
            Outcome::MethodNotAllowed => Some(&self.method_not_allowed),
            Outcome::Misdirected => Some(&self.misdirected),
            Outcome::Aborted => Some(&self.aborted),
            Outcome::Error(name) => {
                self.errors.iter().zip(ErrorName::ALL).find(|(_, other)| *other == name).map(|(counter, _)| counter)
            }
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let fixed = [
            ("handshakes_failed", &self.handshake_failed),
            ("handshakes_timed_out", &self.handshake_timeout),
            ("handshakes_for_unknown_host", &self.unknown_host),
            ("connections_broken", &self.http_failed),
            ("connections_unproven", &self.unproven),
            ("connections_unsigned", &self.unsigned),
            ("connections_silent", &self.silent),
            ("requests_no_room", &self.no_room),
            ("requests_success", &self.success),
            ("requests_proof", &self.proofs),
            ("requests_method_not_allowed", &self.method_not_allowed),
            ("requests_misdirected", &self.misdirected),
            ("requests_aborted", &self.aborted),
        ];
        let errors = self
            .errors
            .iter()
            .zip(ErrorName::ALL)
            .map(|(counter, name)| (format!("requests{}", snake_case(name.as_str())), counter));
        fixed
            .into_iter()
            .map(|(name, counter)| (name.to_owned(), counter))
            .chain(errors)
            .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
            .collect()
    }
}

/// `KeyNotFoundException` as `_key_not_found_exception`: counters are named in lower case (`holdfast_link::control`).
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use holdfast_link::Message;
    use holdfast_link::control::{Status, ToParent};

    use super::*;

    #[test]
    fn the_parent_takes_the_counters() {
        let counters = Counts::default().by_name();
        assert!(counters.contains_key("requests_key_not_found_exception"), "{counters:?}");
        assert!(counters.contains_key("requests_success"));
        ToParent::Status(Status { counters, ..Status::default() }).check().unwrap();
    }
}
