//! `holdfast alarms`

use std::time::Duration;

use clap::Args;
use holdfast_shared::alarm::AlarmKind;

use super::Target;
use crate::commands::alarms::parse_kind;
use crate::moment::parse_duration;

/// `holdfast alarms`
#[derive(Debug, Args)]
pub struct AlarmsArguments {
    /// Of this kind alone; may be given several times: first-seen, unusual-rate, off-hours, budget, clock-drift, lease-trouble, refused-burst
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    pub kind: Vec<AlarmKind>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Show those that come from now on, each as a line, until interrupted
    #[arg(long, conflicts_with = "limit")]
    pub watch: bool,
    /// How long between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration, requires = "watch")]
    pub every: Duration,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}
