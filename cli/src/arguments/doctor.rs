//! `holdfast doctor` and `holdfast explain`

use clap::Args;

/// `holdfast explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// A ConnectionErrorCode, the name of an exception or of a finding, or a whole message; - for standard input
    #[arg(value_name = "MESSAGE")]
    pub message: String,
}
