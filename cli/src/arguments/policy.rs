//! `holdfast policy …`, `holdfast limit …`, `holdfast budget …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use holdfast_guard::{Preset, PresetSettings};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{Budget, KeyBudget, KeyLimit, Quota};

use super::{OrderTerms, PastArguments, Target, Whole};
use crate::commands::budget::parse_budget;

/// `holdfast policy`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Have a policy decide on each use of a key from now on: what it does not permit is denied
    ///
    /// It is checked here as the enclave checks it. Whoever approves it is shown the whole text.
    #[command(
        after_long_help = "Example:\n  holdfast policy set use.cedar --dry-run\n  holdfast policy set use.cedar\n  holdfast policy set --preset region-pin --region eu-central-1\n  holdfast policy set --none"
    )]
    Set {
        /// The policy.
        #[command(flatten)]
        source: PolicySource,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Show the policy in force
    #[command(after_long_help = "Example:\n  holdfast policy show\n  holdfast policy show --json | jq -r .policy")]
    Show(Whole),
    /// Check a policy against the schema, without any key store; errors with line and column, exit code 1
    #[command(after_long_help = "Example:\n  holdfast policy check use.cedar")]
    Check {
        /// The policy; - for standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Have a policy decide on requests in a file, and compare; exit code 1 where one is decided otherwise than expected
    ///
    /// The file is TOML, or JSON where its name ends in .json. docs/policy.md shows one.
    #[command(
        after_long_help = "Example:\n  holdfast policy test cases.toml\n  holdfast policy test cases.toml --policy next.cedar --json"
    )]
    Test {
        /// The cases
        #[arg(value_hint = ValueHint::FilePath)]
        cases: PathBuf,
        /// The policy [default: the one that the file names, beside it]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        policy: Option<PathBuf>,
    },
    /// Have a policy decide anew on the requests in an audit log: which would have been refused, and which not
    ///
    /// Each recorded request is decided by the code that the enclave runs, at the attested time of its record. Grouped by the rule that
    /// decides and the principal, with examples. Exit code 0: no difference; 1: there are some; 2: it could not be done. docs/policy.md
    /// says what a record lacks.
    #[command(
        after_long_help = "Example:\n  holdfast policy replay --policy next.cedar --log /var/lib/holdfast/audit --since 2026-11-01T00:00:00Z\n  holdfast policy replay --policy next.cedar --log audit --json | jq .would_be_refused"
    )]
    Replay {
        /// The policy; - for standard input
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        policy: PathBuf,
        /// Which part of the log.
        #[command(flatten)]
        past: Box<PastArguments>,
    },
    /// Print the schema: what a policy may ask about
    #[command(after_long_help = "Example:\n  holdfast policy schema > holdfast.cedarschema")]
    Schema,
    /// List the presets, or print one of them as text to begin with
    #[command(
        after_long_help = "Example:\n  holdfast policy presets\n  holdfast policy presets account-only --account 123456789012 > use.cedar"
    )]
    Presets {
        /// Which one
        #[arg(value_parser = parse_preset)]
        name: Option<Preset>,
        /// What it is made of.
        #[command(flatten)]
        settings: PresetArguments,
    },
}

/// Which policy is set.
#[derive(Debug, Args)]
#[group(skip)]
pub struct PolicySource {
    /// The policy, in Cedar; - for standard input
    #[arg(value_hint = ValueHint::FilePath, required_unless_present_any = ["preset", "none"], conflicts_with_all = ["preset", "none"])]
    pub file: Option<PathBuf>,
    /// A preset: region-pin, account-only, services or business-hours (see holdfast policy presets)
    #[arg(long, value_name = "NAME", value_parser = parse_preset, conflicts_with = "none")]
    pub preset: Option<Preset>,
    /// No policy: whoever AWS KMS lets may use the keys
    #[arg(long)]
    pub none: bool,
    /// What a preset is made of.
    #[command(flatten)]
    pub settings: PresetArguments,
}

/// What presets are made of.
#[derive(Debug, Args)]
#[group(skip)]
pub struct PresetArguments {
    /// For region-pin: a region of KMS keys; may be given more than once
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// For account-only: an AWS account; may be given more than once
    #[arg(long, value_name = "ID")]
    pub account: Vec<String>,
    /// For services: the short name of an AWS service (ebs, s3, rds); may be given more than once
    #[arg(long, value_name = "NAME")]
    pub service: Vec<String>,
    /// For business-hours: the first hour and the one at which it ends, UTC: 8-18
    #[arg(long, value_name = "HOURS", value_parser = parse_hours)]
    pub hours: Option<(u8, u8)>,
}

impl From<PresetArguments> for PresetSettings {
    fn from(arguments: PresetArguments) -> Self {
        let PresetArguments { region, account, service, hours } = arguments;
        Self { regions: region, accounts: account, services: service, hours }
    }
}

fn parse_preset(text: &str) -> Result<Preset, String> {
    Preset::named(text).ok_or_else(|| "expected region-pin, account-only, services or business-hours".to_owned())
}

fn parse_hours(text: &str) -> Result<(u8, u8), String> {
    let hours = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    hours.ok_or_else(|| "expected two hours, as 8-18".to_owned())
}

/// `holdfast limit`
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    /// Limit Encrypt and Decrypt for each key or each principal, beside the quota; beyond it, KMS is told to come back later
    ///
    /// What is not named is not limited any more. Each enclave counts for itself. A request that one limit refuses counts for none.
    #[command(
        after_long_help = "Example:\n  holdfast limit set --per-key 200:400 --key payments-1=20:40 --per-principal 50:100"
    )]
    Set {
        /// Each key: requests per second, and how many may come at once after a pause
        #[arg(long, value_name = "RATE:BURST", value_parser = parse_rate, required_unless_present_any = ["key", "per_principal"])]
        per_key: Option<Quota>,
        /// One key; may be given more than once
        #[arg(long, value_name = "ID=RATE:BURST", value_parser = parse_key_limit)]
        key: Vec<KeyLimit>,
        /// Each principal (awsPrincipalArn), with all keys together
        #[arg(long, value_name = "RATE:BURST", value_parser = parse_rate)]
        per_principal: Option<Quota>,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Lift these limits; the quota stays
    #[command(after_long_help = "Example:\n  holdfast limit clear")]
    Clear(Whole),
    /// Show the limits in force, the quota too
    #[command(after_long_help = "Example:\n  holdfast limit show --json | jq .per_principal")]
    Show(Whole),
}

/// `holdfast budget`
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// Give keys so many uses (Encrypt and Decrypt together) in each hour and each day of UTC; beyond them, KMS is told to come back later
    ///
    /// All enclaves together have so many and no more: the home custodian counts. What is not named has no budget any more. A raise counts
    /// at once, and what was debited before stays debited; so a budget that is used up is extended by this command.
    #[command(
        after_long_help = "Example:\n  holdfast budget set --key payments-1=1000/hour,20000/day --every-key 5000/hour"
    )]
    Set {
        /// One key; may be given more than once
        #[arg(long, value_name = "ID=USES/hour,USES/day", value_parser = parse_key_budget, required_unless_present = "every_key")]
        key: Vec<KeyBudget>,
        /// Each key that is not named, for itself
        #[arg(long, value_name = "USES/hour,USES/day", value_parser = parse_budget)]
        every_key: Option<Budget>,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Lift all budgets
    #[command(after_long_help = "Example:\n  holdfast budget clear")]
    Clear(Whole),
    /// Show the budgets in force, and what is debited in this hour and this day
    #[command(after_long_help = "Example:\n  holdfast budget show --json | jq .keys")]
    Show(Whole),
}

fn parse_key_budget(text: &str) -> Result<KeyBudget, String> {
    let (id, budget) =
        text.split_once('=').ok_or_else(|| "expected a key and its uses, as payments-1=1000/hour".to_owned())?;
    let id = ExternalKeyId::parse(id).map_err(|error| error.to_string())?;
    Ok(KeyBudget { id, budget: parse_budget(budget)? })
}

fn parse_rate(text: &str) -> Result<Quota, String> {
    let rate = text.split_once(':').and_then(|(rate, burst)| {
        let quota = Quota { requests_per_second: rate.parse().ok()?, burst: burst.parse().ok()? };
        holdfast_shared::cbor::Message::check(&quota).ok().map(|()| quota)
    });
    rate.ok_or_else(|| "expected requests per second and a burst, 1 to 1000000 each, as 100:200".to_owned())
}

fn parse_key_limit(text: &str) -> Result<KeyLimit, String> {
    let (id, rate) =
        text.split_once('=').ok_or_else(|| "expected a key and its limit, as payments-1=20:40".to_owned())?;
    let id = ExternalKeyId::parse(id).map_err(|error| error.to_string())?;
    Ok(KeyLimit { id, quota: parse_rate(rate)? })
}
