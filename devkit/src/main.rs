//! `holdfast-dev`: see the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    holdfast_devkit::app::main(holdfast_devkit::app::Arguments::parse())
}
