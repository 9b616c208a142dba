//! `holdfast config`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

const EXAMPLES_AND_EXIT_CODES: &str = "\
Example:
  holdfast config check /etc/holdfast/parent.toml
  holdfast config check --schema-only custodian.toml --json | jq -r '.files[].findings[].message'

Exit codes:
  0  all files are good
  1  something in a file is wrong, or the program that reads it was not found
  2  the command line is wrong, or a file cannot be read";

/// `holdfast config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say all that is wrong with configuration files, with the lines
    ///
    /// A file is held against its schema; if that finds nothing, the program that reads it checks it (`--check-config`), with the files
    /// that it names and the fields that must go together. With a parent's file, its static configuration is checked as well. Nothing is
    /// started and nothing is sent.
    #[command(after_long_help = EXAMPLES_AND_EXIT_CODES)]
    Check(CheckConfigArguments),
    /// Print the JSON schema of a configuration file, for editors
    #[command(after_long_help = "Example:\n  holdfast config schema parent > parent.schema.json")]
    Schema {
        /// Which file
        kind: FileKind,
    },
    /// Print a configuration file with every option explained
    #[command(after_long_help = "Example:\n  holdfast config example custodian > custodian.toml")]
    Example {
        /// Which file
        kind: FileKind,
    },
}

/// `holdfast config check`
#[derive(Debug, Args)]
pub struct CheckConfigArguments {
    /// The files
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// What they are [default: what is in them tells]
    #[arg(long)]
    pub kind: Option<FileKind>,
    /// Folder of holdfast-parent and holdfast-custodian [default: that of this program, then PATH]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub programs: Option<PathBuf>,
    /// Hold files against their schemas only: where the programs, or the files that they name, are elsewhere
    #[arg(long, conflicts_with = "programs")]
    pub schema_only: bool,
}

/// The configuration files that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    /// TOML, for holdfast-parent
    Parent,
    /// TOML, for holdfast-custodian
    Custodian,
    /// JSON, for the enclave, which measures it
    Static,
}
