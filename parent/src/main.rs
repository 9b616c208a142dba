//! `holdfast-parent`: the program. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_parent::cli::main()
}
