//! An enclave that ends at any moment of a ceremony, a change, a change of the root key, or of the custodians, and the one that comes
//! after it.
//!
//! All that an enclave asks of custodians is counted; after so many answers nothing gets through any more, and the enclave ends. What the
//! next one finds is all that is left: it must come to one committed version, with shares that open it, at every custodian.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::custodian::Fuse;
use super::*;

/// What is tried: n, m and f; how the request ends that is the last one; and how many requests lie between two tries.
struct Tries {
    numbers: &'static [(usize, u8, u8)],
    last: &'static [Fault],
    step: usize,
}

/// Each request, in both ways.
const ALL: Tries = Tries { numbers: &[(3, 2, 0), (3, 2, 1)], last: &[Fault::Lost, Fault::AnswerLost], step: 1 };
/// Some, for every day.
const SOME: Tries = Tries { numbers: &[(3, 2, 0)], last: &[Fault::AnswerLost], step: 5 };

impl World {
    fn light(&self, answers: usize, last: Fault) -> Arc<Fuse> {
        let fuse = Arc::new(Fuse { left: AtomicUsize::new(answers), last });
        for custodian in &self.custodians {
            custodian.state().hostile.fuse = Some(Arc::clone(&fuse));
        }
        fuse
    }

    fn put_out(&self) {
        for custodian in &self.custodians {
            custodian.change(|state| state.hostile.fuse = None);
        }
    }

    /// Versions that any custodian holds, by number and blob: one of each number.
    fn assert_one_line(&self, what: &str) {
        let mut line = std::collections::BTreeMap::new();
        for custodian in &self.custodians {
            for version in &custodian.state().versions {
                let blob = line.entry(version.entry.version).or_insert(version.entry.blob_id);
                assert_eq!(*blob, version.entry.blob_id, "{what}: one version of each number");
            }
        }
    }
}

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ceremony,
    /// A key store in service, beside whose custodians there are so many others.
    Serving(usize),
}

/// Lets an enclave do `begin` up to each of its requests, ends it, and looks at what the next one makes of it.
async fn crash_everywhere(
    tries: &Tries,
    numbers: (usize, u8, u8),
    stage: Stage,
    begin: impl Fn(&World),
    is_done: impl Fn(&World) -> bool,
    check: impl Fn(&World, &str),
) {
    for &last in tries.last {
        for answers in (1..).step_by(tries.step) {
            let what = format!("{numbers:?}, {last:?}, {answers}");
            let others = if let Stage::Serving(others) = stage { others } else { 0 };
            let world = World::start_beside(numbers, others, |custodians| {
                if stage == Stage::Ceremony {
                    let fuse = Arc::new(Fuse { left: AtomicUsize::new(answers), last });
                    for fake in custodians {
                        fake.state().hostile.fuse = Some(Arc::clone(&fuse));
                    }
                }
            });
            let (world, fuse) = if stage == Stage::Ceremony {
                let fuse = world.custodian.state().hostile.fuse.clone().unwrap();
                (world, fuse)
            } else {
                let world = world.serving().await.settled().await;
                let fuse = world.light(answers, last);
                (world, fuse)
            };
            begin(&world);
            let burnt = |world: &World| fuse.left.load(Ordering::SeqCst) == 0 || (is_done(world) && world.is_settled());
            world.until(&what, burnt).await;
            let is_over = fuse.left.load(Ordering::SeqCst) > 0;
            // Whatever is under way comes to its end before the enclave does.
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.task.abort();
            world.put_out();
            let world = world.reboot().await.serving().await;
            let is_made_up_for = |world: &World| {
                // A command that came while too few custodians answered was put off.
                world.clock.advance_ms(50);
                is_done(world) && world.is_settled()
            };
            world.until(&format!("{what}: done"), is_made_up_for).await;
            world.assert_one_line(&what);
            check(&world, &what);
            if is_over {
                assert!(answers > 5, "something was interrupted");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ceremony_that_ends_anywhere_is_made_up_for() {
    ceremonies(&SOME).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_ceremony_that_ends_anywhere_is_made_up_for() {
    ceremonies(&ALL).await;
}

async fn ceremonies(tries: &Tries) {
    for &numbers in tries.numbers {
        let is_done = |world: &World| world.custodian.state().results.contains_key(&command::ceremony_id(world.id));
        crash_everywhere(
            tries,
            numbers,
            Stage::Ceremony,
            |_| {},
            is_done,
            |world, what| {
                assert_eq!(world.custodian.state().versions.len(), 1, "{what}");
            },
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_ends_anywhere_is_made_up_for() {
    changes(&SOME).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_change_that_ends_anywhere_is_made_up_for() {
    changes(&ALL).await;
}

async fn changes(tries: &Tries) {
    for &numbers in tries.numbers {
        let begin = |world: &World| {
            world.create("a");
        };
        let is_done =
            |world: &World| world.custodian.state().versions.len() > 1 && world.custodian.state().commands.is_empty();
        crash_everywhere(tries, numbers, Stage::Serving(0), begin, is_done, |world, what| {
            assert_eq!(world.custodian.state().versions.len(), 2, "{what}: carried out once");
            assert_eq!(world.custodian.state().results.len(), 2, "{what}: and answered");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_root_key_that_ends_anywhere_is_made_up_for() {
    root_keys(&SOME).await;
}

#[tokio::test(start_paused = true)]
async fn long_a_new_root_key_that_ends_anywhere_is_made_up_for() {
    root_keys(&ALL).await;
}

async fn root_keys(tries: &Tries) {
    for &numbers in tries.numbers {
        let begin = |world: &World| {
            world.order(0, Action::RotateRootKey);
        };
        let is_done =
            |world: &World| world.custodian.state().versions.len() > 1 && world.custodian.state().commands.is_empty();
        crash_everywhere(tries, numbers, Stage::Serving(0), begin, is_done, |world, what| {
            let state = world.custodian.state();
            assert_eq!(state.versions.len(), 2, "{what}: carried out once");
            assert_eq!(state.generations(), [2], "{what}: the old share is deleted");
            drop(state);
            world.assert_any_two_open(what);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_ends_anywhere_is_made_up_for() {
    adoptions(&SOME).await;
}

#[tokio::test(start_paused = true)]
async fn long_an_adoption_that_ends_anywhere_is_made_up_for() {
    adoptions(&ALL).await;
}

async fn adoptions(tries: &Tries) {
    for &numbers in tries.numbers {
        let begin = |world: &World| {
            let signed = world.with_another_third();
            world.stage(&signed);
            world.order(0, Action::AdoptManifest { signed });
        };
        let is_done = |world: &World| {
            let home = world.custodian.state();
            let is_adopted = home.manifest().sequence() == 2 && home.commands.is_empty();
            drop(home);
            is_adopted && world.generations() == [vec![2], vec![2], vec![], vec![2]]
        };
        crash_everywhere(tries, numbers, Stage::Serving(1), begin, is_done, |world, what| {
            let state = world.custodian.state();
            assert_eq!(state.versions.len(), 2, "{what}: carried out once");
            assert_eq!(state.results.len(), 2, "{what}: and answered");
            drop(state);
            world.assert_any_two_open(what);
        })
        .await;
    }
}
