//! Where the programs are: beside the tests, in the same profile.

use std::path::PathBuf;

/// A program of this workspace, built in the profile of the running test.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let folder = test.ancestors().nth(2).unwrap();
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build the programs with `cargo build --workspace --bins` (in the same profile), or run all tests \
         with `cargo nextest run --workspace`, which builds them",
        path.display()
    );
    path
}
