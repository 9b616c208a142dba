//! `holdfast-custodian`: see [`holdfast_custodian::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_custodian::program::run()
}
