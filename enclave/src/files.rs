//! File descriptors for as many connections as the configuration promises.
//!
//! Guarantees: the limit is raised as far as the kernel lets us, and no more connections are taken than it is enough for, so
//! that a flood of strangers never leaves the enclave without a descriptor for its custodians. Assumes: nothing; Linux starts
//! its first process, which we are in the image, with 1,024 descriptors, and lets root have more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors besides those of clients' connections: two for each key store's custodian (1,024 key stores), and our own.
const SPARE: u64 = 2 * 1024 + 256;

/// What became of a wish for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provided {
    /// Connections that the descriptors are enough for.
    pub(crate) connections: usize,
    /// Descriptors that the process may have.
    pub(crate) files: u64,
}

/// Raises the limit for so many connections.
pub(crate) fn provide(connections: usize) -> Provided {
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(SPARE);
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < needed) else {
        return Provided { connections, files: limit.current.unwrap_or(u64::MAX) };
    };
    let raise = |current: u64, maximum: Option<u64>| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).is_ok().then_some(current)
    };
    let within = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    // Root may go beyond the old maximum; others take what there is.
    let beyond = if within < needed { raise(needed, Some(needed)) } else { None };
    let files = beyond.or_else(|| raise(within, limit.maximum)).unwrap_or(current);
    Provided { connections: enough_for(files, connections), files }
}

/// Connections that so many descriptors are enough for, of those that are wanted.
fn enough_for(files: u64, wanted: usize) -> usize {
    let rest = files.saturating_sub(SPARE.min(files / 2));
    usize::try_from(rest).unwrap_or(usize::MAX).clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_for_the_custodians() {
        let cases =
            [(20_000, 4096, 4096), (4096 + SPARE, 4096, 4096), (4096, 4096, 2048), (1024, 4096, 512), (1, 4096, 1)];
        for (files, wanted, expected) in cases {
            assert_eq!(enough_for(files, wanted), expected, "{files}");
        }
    }

    #[test]
    fn what_is_there_is_not_lowered() {
        let before = getrlimit(Resource::Nofile).current;
        let provided = provide(16);
        assert_eq!(provided.connections, 16);
        assert!(getrlimit(Resource::Nofile).current >= before);
    }
}
