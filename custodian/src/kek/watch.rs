//! Whether the key-encryption key can be used: found out by using it.
//!
//! Guarantees: a key that does not work is noticed within half a minute, or by the first release that needs it, and one that
//! works again within as much; the log says so at each change, also of the reason.

use std::time::Duration;

use holdfast_shared::labels;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use tokio::sync;

use super::{Kek, KekError};

/// Time between two looks at a key that works, and the longest between two at one that does not.
const INTERVAL: Duration = Duration::from_secs(30);

/// How long a key that did not work so many times in a row is left alone.
pub(super) fn pause_after(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return INTERVAL };
    Duration::from_secs(1_u64.checked_shl(doublings.min(16)).unwrap_or(u64::MAX)).min(INTERVAL)
}

impl Kek {
    /// Whether the key worked when it was used last.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.trouble.borrow().is_none()
    }

    /// Wraps and unwraps something of no value.
    ///
    /// # Errors
    /// [`KekError`].
    pub async fn probe(&self) -> Result<(), KekError> {
        // Noted as a whole: a key that wraps and does not unwrap is not usable in between.
        self.noted(self.try_out().await)
    }

    async fn try_out(&self) -> Result<(), KekError> {
        self.in_time(self.key.health()).await?;
        let mut sample = [0; 16];
        SystemRandom::new().fill(&mut sample).map_err(|_| KekError::Random)?;
        let wrapped = self.seal(labels::WRAP_PROBE.as_bytes(), &sample).await?;
        let opened = match self.unseal(labels::WRAP_PROBE.as_bytes(), &wrapped).await {
            Err(KekError::OpenFailed) => false,
            result => result?.expose().ct_eq(&sample).into(),
        };
        if opened {
            return Ok(());
        }
        Err(KekError::Misconfigured {
            what: "it does not open what it just wrapped".to_owned(),
            remedy: "look whether the key was exchanged, or name another".to_owned(),
        })
    }

    /// Looks at the key again and again.
    pub async fn watch(&self) {
        let mut trouble = self.trouble.subscribe();
        let mut failures: u32 = 0;
        loop {
            let pause = tokio::time::sleep(pause_after(failures));
            tokio::select! {
                () = pause => {}
                // A release found it out first.
                () = unusable(&mut trouble), if failures == 0 => tokio::time::sleep(pause_after(1)).await,
            }
            match self.probe().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(key = self.describe(), "still: {error}");
                }
            }
        }
    }
}

async fn unusable(trouble: &mut sync::watch::Receiver<Option<String>>) {
    // An error would mean that the key itself is gone, and with it whoever waits here.
    let _ = trouble.wait_for(Option::is_some).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_interval() {
        let seconds: Vec<_> = (0..=8).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(seconds, [30, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause_after(u32::MAX), INTERVAL);
    }
}
