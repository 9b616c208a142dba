//! `holdfast key …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use holdfast_shared::external_key::{ExternalKeyId, KeyUsage};

use super::{OrderTerms, Target};
use crate::commands::key::parse_usage;
use crate::moment::parse_duration;

/// `holdfast key`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Have a key made in the enclave
    #[command(
        after_long_help = "Example:\n  holdfast key create payments-1\n  holdfast key create archive --usage decrypt"
    )]
    Create {
        /// 1 to 128 characters of A-Z a-z 0-9 - . _
        id: ExternalKeyId,
        /// encrypt, decrypt, both with a comma between them, or none. KMS wants both of a new key
        #[arg(long, default_value = "encrypt,decrypt", value_parser = parse_usage)]
        usage: KeyUsage,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// List the keys and their states
    #[command(after_long_help = "Example:\n  holdfast key list --json | jq -r .keys[].id")]
    List {
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Allow the use of a disabled key
    #[command(after_long_help = "Example:\n  holdfast key enable payments-1")]
    Enable(OneKey),
    /// Forbid the use of a key until it is enabled again
    ///
    /// This needs an enclave to carry it out. To stop use at once, whatever runs: holdfast block.
    #[command(after_long_help = "Example:\n  holdfast key disable payments-1")]
    Disable(OneKey),
    /// Give a key a new version, made in the enclave: it encrypts from now on, and those before still decrypt
    #[command(after_long_help = "Example:\n  holdfast key rotate payments-1")]
    Rotate(OneKey),
    /// Bring in the raw material of a key
    ///
    /// It is encrypted to a key that an accepted enclave was attested to hold; nobody else can read it. Whoever had the material before
    /// still has it: rotate the key afterwards, so that new messages are encrypted under material that only enclaves know.
    #[command(
        after_long_help = "Example:\n  holdfast key import payments-0 --material-file old-key --legacy\n  holdfast key rotate payments-0"
    )]
    Import(ImportKeyArguments),
    /// Destroy an old version of a key. What it encrypted can never be decrypted again
    ///
    /// The version that encrypts cannot be destroyed: rotate the key first. Sealed key stores from before still hold the material, under
    /// the key store's root key.
    #[command(
        name = "destroy-version",
        after_long_help = "Example:\n  holdfast key destroy-version payments-1 3 --confirm payments-1:3"
    )]
    DestroyVersion {
        /// The key
        id: ExternalKeyId,
        /// The version, as in key list
        #[arg(value_parser = clap::value_parser!(u32).range(1..1 << 24))]
        number: u32,
        /// ID:NUMBER once more, because this cannot be undone
        #[arg(long, value_name = "ID:NUMBER")]
        confirm: String,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Forbid the use of a key, and destroy it after a waiting period
    ///
    /// Until then it can be taken back: holdfast key cancel-destruction. Any enclave whose attested clock has come so far destroys it:
    /// its material goes, the root key changes, and custodians delete the old shares. Then nothing decrypts what it encrypted.
    #[command(
        name = "schedule-destruction",
        after_long_help = "Example:\n  holdfast key schedule-destruction payments-1 --wait 30d"
    )]
    ScheduleDestruction {
        /// The key
        id: ExternalKeyId,
        /// The waiting period: 1d to 366d
        #[arg(long = "wait", value_name = "DURATION", value_parser = parse_duration)]
        waiting: Duration,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Do not destroy a key after all; it is disabled then
    #[command(name = "cancel-destruction", after_long_help = "Example:\n  holdfast key cancel-destruction payments-1")]
    CancelDestruction(OneKey),
    /// Destroy a key that is pending destruction, now. What it encrypted can never be decrypted again
    ///
    /// Needs as many signatures as custody. Its material goes, the root key changes, and custodians delete the old shares; this waits
    /// until so few old shares are left that the old root key is lost, and names who still holds one. Backups of custodians are beyond
    /// its reach: whoever restores enough of them has the old shares.
    #[command(after_long_help = "Example:\n  holdfast key destroy payments-1 --confirm payments-1")]
    Destroy {
        /// The key
        id: ExternalKeyId,
        /// The key's id once more, because this cannot be undone
        #[arg(long, value_name = "ID")]
        confirm: ExternalKeyId,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
}

/// `holdfast key import`
#[derive(Debug, Args)]
pub struct ImportKeyArguments {
    /// 1 to 128 characters of A-Z a-z 0-9 - . _
    pub id: ExternalKeyId,
    /// File with the AES-256 key: 32 bytes, or 64 hexadecimal digits; readable by its owner only. - for standard input
    #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub material_file: PathBuf,
    /// Also decrypt what AWS's sample proxy (aws-kms-xks-proxy) encrypted under this key
    #[arg(long)]
    pub legacy: bool,
    /// encrypt, decrypt, both with a comma between them, or none. KMS wants both of a new key
    #[arg(long, default_value = "encrypt,decrypt", value_parser = parse_usage)]
    pub usage: KeyUsage,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
    /// Under which conditions.
    #[command(flatten)]
    pub terms: OrderTerms,
}

/// A key that exists.
#[derive(Debug, Args)]
pub struct OneKey {
    /// The key
    pub id: ExternalKeyId,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
    /// Under which conditions.
    #[command(flatten)]
    pub terms: OrderTerms,
}
