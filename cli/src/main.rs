//! `holdfast`: see the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    holdfast_cli::app::main(holdfast_cli::arguments::Arguments::parse())
}
