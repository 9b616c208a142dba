//! Leases: how long an enclave may use what a custodian released.
//!
//! Guarantees: a lease ends at the time at which its request was *sent* plus the granted duration, on the enclave's own
//! monotonic clock, so that an answer that is held back is worth no more than one that comes at once; an answer to a request
//! older than [`ANSWER_AGE_MAX_MS`] is worth nothing. Assumes: the caller notes the time before it sends.

use holdfast_shared::limits::ANSWER_AGE_MAX_MS;

/// The time at which a request was sent, on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    at_ms: u64,
}

/// An answer came so late that it could have been held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer came {age_ms} ms after its request; it may have been held back")]
pub(crate) struct LateAnswer {
    /// How late.
    pub(crate) age_ms: u64,
}

impl Sent {
    /// Notes the time, before the request leaves.
    #[must_use]
    pub(crate) const fn at(monotonic_ms: u64) -> Self {
        Self { at_ms: monotonic_ms }
    }

    /// Takes note of the answer.
    ///
    /// # Errors
    /// [`LateAnswer`].
    pub(crate) const fn answered(self, monotonic_ms: u64) -> Result<Answered, LateAnswer> {
        let age_ms = monotonic_ms.saturating_sub(self.at_ms);
        if age_ms > ANSWER_AGE_MAX_MS { Err(LateAnswer { age_ms }) } else { Ok(Answered { sent_ms: self.at_ms }) }
    }
}

/// A request whose answer came in time. Only [`Sent::answered`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    sent_ms: u64,
}

impl Answered {
    /// When the request was sent, monotonic.
    #[must_use]
    pub(crate) const fn sent_ms(self) -> u64 {
        self.sent_ms
    }
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    sent_ms: u64,
    duration_ms: u64,
}

impl Lease {
    /// The lease that an answer grants.
    #[must_use]
    pub(crate) const fn granted(answer: Answered, duration_ms: u64) -> Self {
        Self { sent_ms: answer.sent_ms, duration_ms }
    }

    /// When it was asked for, monotonic.
    #[must_use]
    pub(crate) const fn sent_ms(&self) -> u64 {
        self.sent_ms
    }

    /// When it ends, monotonic.
    #[must_use]
    pub(crate) const fn expires_ms(&self) -> u64 {
        self.sent_ms.saturating_add(self.duration_ms)
    }

    /// When it should be renewed, monotonic: after one third.
    #[must_use]
    pub(crate) const fn renew_ms(&self) -> u64 {
        self.sent_ms.saturating_add(self.duration_ms / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SteppedClock};

    #[test]
    fn a_held_back_renewal_stretches_nothing() {
        let clock = SteppedClock::at(0);
        let sent = Sent::at(clock.monotonic_ms());
        clock.advance_ms(59_000);
        let lease = Lease::granted(sent.answered(clock.monotonic_ms()).unwrap(), 100_000);
        assert_eq!(lease.expires_ms(), 100_000, "counted from the sending, not from the answer");

        let sent = Sent::at(clock.monotonic_ms());
        clock.advance_ms(ANSWER_AGE_MAX_MS + 1);
        assert_eq!(sent.answered(clock.monotonic_ms()), Err(LateAnswer { age_ms: ANSWER_AGE_MAX_MS + 1 }));
    }

    #[test]
    fn renewal_is_due_after_one_third() {
        let lease = Lease::granted(Sent::at(3_000).answered(3_500).unwrap(), 90_000);
        assert_eq!((lease.renew_ms(), lease.expires_ms()), (33_000, 93_000));
    }
}
