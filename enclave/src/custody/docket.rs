//! The commands of one key store that wait here, and those that were dealt with.
//!
//! Guarantees: a command that waits, or was dealt with, is not sent again with the next news, and one that could not be dealt with is
//! asked for again after a while, with the signatures that it has then; all of that is bounded.

use std::collections::VecDeque;

use holdfast_shared::command;
use holdfast_shared::ids::CommandId;
use holdfast_shared::limits::PENDING_COMMANDS_MAX;

/// How long a command waits that could not be dealt with, in milliseconds.
const PUT_OFF_MS: u64 = 5_000;

/// A signed command on its turn.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) signed: Vec<u8>,
    /// What it claims to be, unproven: only for asking about it. A custodian that would hide a command need not send it.
    pub(super) claimed: Option<CommandId>,
    /// How often another enclave was faster.
    pub(super) races: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Docket {
    waiting: VecDeque<Waiting>,
    handled: VecDeque<CommandId>,
    /// Until when, monotonic.
    put_off: VecDeque<(CommandId, u64)>,
}

impl Docket {
    /// Takes what came with news.
    pub(super) fn take(&mut self, commands: impl Iterator<Item = Vec<u8>>) {
        for signed in commands {
            let claimed = command::claimed_id(&signed).ok();
            let is_known = claimed.is_some() && self.waiting.iter().any(|waiting| waiting.claimed == claimed);
            if self.waiting.len() < PENDING_COMMANDS_MAX && !is_known {
                self.waiting.push_back(Waiting { signed, claimed, races: 0 });
            }
        }
    }

    /// The next command, which stays first in line until [`Self::done`] or [`Self::put_off`].
    pub(super) fn next(&self) -> Option<Waiting> {
        self.waiting.front().cloned()
    }

    /// Another enclave was faster: it is looked at again. Returns how often that was so.
    pub(super) fn lost_race(&mut self) -> usize {
        self.waiting.front_mut().map_or(0, |waiting| {
            waiting.races = waiting.races.saturating_add(1);
            waiting.races
        })
    }

    /// The first in line was dealt with.
    pub(super) fn done(&mut self, command_id: CommandId) {
        self.waiting.pop_front();
        if self.handled.contains(&command_id) {
            return;
        }
        if self.handled.len() >= PENDING_COMMANDS_MAX {
            self.handled.pop_front();
        }
        self.handled.push_back(command_id);
    }

    /// The first in line is asked for again after a while.
    pub(super) fn put_off(&mut self, now_ms: u64) {
        let Some(Waiting { claimed: Some(id), .. }) = self.waiting.pop_front() else { return };
        self.put_off.retain(|(other, _)| *other != id);
        if self.put_off.len() >= PENDING_COMMANDS_MAX {
            self.put_off.pop_front();
        }
        self.put_off.push_back((id, now_ms.saturating_add(PUT_OFF_MS)));
    }

    /// All that wait are asked for again after a while.
    pub(super) fn put_all_off(&mut self, now_ms: u64) {
        while self.next().is_some() {
            self.put_off(now_ms);
        }
    }

    /// A new lease: what waits at the custodian comes anew.
    pub(super) fn start_anew(&mut self) {
        self.waiting.clear();
        self.put_off.clear();
    }

    /// When to ask for those that were put off, monotonic.
    pub(super) fn again_ms(&self) -> Option<u64> {
        self.put_off.iter().map(|(_, until_ms)| *until_ms).min()
    }

    /// What need not be sent: what waits here or was put off, which surely waits at the custodian; of those dealt with, the newest.
    pub(super) fn seen(&mut self, now_ms: u64) -> Vec<CommandId> {
        self.put_off.retain(|(_, until_ms)| now_ms < *until_ms);
        let mut seen: Vec<CommandId> = Vec::new();
        let waiting = self.waiting.iter().filter_map(|waiting| waiting.claimed);
        let put_off = self.put_off.iter().map(|(id, _)| *id);
        for id in waiting.chain(put_off).chain(self.handled.iter().rev().copied()) {
            if seen.len() < PENDING_COMMANDS_MAX && !seen.contains(&id) {
                seen.push(id);
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dealt_with_or_put_off_is_not_asked_for() {
        let mut docket = Docket::default();
        docket.take([vec![0; 4]].into_iter());
        assert!(docket.next().is_some(), "noise waits, and has no name");
        assert!(docket.seen(0).is_empty());
        docket.put_off(0);
        assert!(docket.next().is_none() && docket.seen(0).is_empty());
        docket.done(CommandId([1; 16]));
        docket.waiting.push_back(Waiting { signed: vec![1], claimed: Some(CommandId([2; 16])), races: 0 });
        assert_eq!(docket.seen(0), [CommandId([2; 16]), CommandId([1; 16])]);
        docket.put_off(0);
        assert_eq!((docket.again_ms(), docket.seen(4_999).len(), docket.seen(5_000).len()), (Some(5_000), 2, 1));
        for n in 0..=255 {
            docket.done(CommandId([n; 16]));
        }
        assert_eq!(docket.seen(0).len(), PENDING_COMMANDS_MAX);
    }
}
