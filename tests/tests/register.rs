//! A model of the register: several enclaves, several custodians, crashes, and custodians that lie.
//!
//! The rules are the product's own ([`holdfast_shared::quorum`]); what is modelled is everything around them: who asks whom, in which
//! order, who crashes between two messages. Each run is a seed; a broken invariant prints it. That the checks can fail is shown by
//! runs outside the rules: with one liar more than the numbers bear, and with write quorums that are too small.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::num::NonZeroU64;

use holdfast_shared::quorum::Quorum;
use holdfast_tests::random::Random;

#[path = "register/model.rs"]
mod model;

use model::{Broken, Faults, Model};

/// Steps of a run: enough for about ten versions and as many crashes.
const STEPS: usize = 160;

/// n, r, f.
const ARRANGEMENTS: [(usize, usize, usize); 9] =
    [(1, 1, 0), (2, 1, 0), (2, 2, 0), (2, 2, 1), (3, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 1), (5, 4, 1)];

fn run(quorum: Quorum, write: usize, faults: Faults, seed: u64) -> Result<Model, Broken> {
    let mut model = Model::new(quorum, write, faults, Random::seeded(seed));
    for _ in 0..STEPS {
        model.step()?;
    }
    Ok(model)
}

fn holds(seeds: core::ops::Range<u64>) {
    for (n, r, f) in ARRANGEMENTS {
        let quorum = Quorum::new(n, r, f);
        let mut committed = 0;
        for seed in seeds.clone() {
            for home_lies in [false, true] {
                // Home is one of those that lie, or none of the liars is home.
                let faults = Faults { liars: f, home_lies: home_lies && f > 0 };
                match run(quorum, quorum.write(), faults, seed) {
                    Ok(model) => committed += model.committed(),
                    Err(broken) => panic!("{n} custodians, {r} answers, {faults:?}, seed {seed}: {broken:?}"),
                }
            }
        }
        assert!(committed > seeds.end - seeds.start, "{n}/{r}/{f}: only {committed} versions: the model does nothing");
    }
}

#[test]
fn no_committed_version_is_lost_and_no_number_is_committed_twice() {
    holds(0..150);
}

#[test]
fn long_no_committed_version_is_lost_in_many_runs() {
    holds(0..20_000);
}

#[test]
fn everything_that_was_begun_ends_once_all_are_up_and_honest() {
    for (n, r, f) in ARRANGEMENTS {
        let quorum = Quorum::new(n, r, f);
        for seed in 0..100 {
            let faults = Faults { liars: 0, home_lies: false };
            let mut model = run(quorum, quorum.write(), faults, seed).unwrap();
            let before = model.committed();
            model.settle().unwrap_or_else(|broken| panic!("{n}/{r}/{f}, seed {seed}: {broken:?}"));
            assert!(model.committed() > before, "{n}/{r}/{f}, seed {seed}: nothing new was committed");
        }
    }
}

/// How many of the first runs it takes to see an invariant broken.
fn first_broken(quorum: Quorum, write: usize, faults: Faults) -> Option<NonZeroU64> {
    (0..2_000).find(|seed| run(quorum, write, faults, *seed).is_err()).and_then(|seed| NonZeroU64::new(seed + 1))
}

#[test]
fn one_liar_more_than_the_numbers_bear_is_found_out_by_the_model() {
    for (n, r, f) in [(2, 1, 0), (3, 2, 0), (3, 2, 1), (5, 3, 1)] {
        let quorum = Quorum::new(n, r, f);
        let faults = Faults { liars: f + 1, home_lies: true };
        assert!(first_broken(quorum, quorum.write(), faults).is_some(), "{n}/{r}/{f} bears {} liars?", f + 1);
    }
}

#[test]
fn a_smaller_write_quorum_is_found_out_by_the_model() {
    for (n, r, f) in [(2, 1, 0), (3, 2, 0), (3, 2, 1), (5, 3, 1), (5, 4, 1)] {
        let quorum = Quorum::new(n, r, f);
        let faults = Faults { liars: f, home_lies: f > 0 };
        assert!(
            first_broken(quorum, quorum.write() - 1, faults).is_some(),
            "{n}/{r}/{f}: {} would do?",
            quorum.write() - 1
        );
    }
}
