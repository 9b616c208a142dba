//! What verification costs: writes an audit log as an enclave and its parent do, and verifies it as `holdfast audit verify` does.
//!
//! ```sh
//! cargo build --release -p holdfast-cli --example audit_log
//! target/release/examples/audit_log write /tmp/log 10000000    # 2.8 GB
//! target/release/examples/audit_log verify /tmp/log            # with all processors
//! taskset -c 0 target/release/examples/audit_log verify /tmp/log
//! ```

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use holdfast_cli::audit::folder::{Folder, LogFile};
use holdfast_cli::audit::heads::{Heads, Witnessed};
use holdfast_cli::audit::verify::{Against, verify};
use holdfast_cli::progress::Progress;
use holdfast_shared::audit::entry::{FORMAT, Opening};
use holdfast_shared::audit::{
    Checkpoint, Entry, Event, LogId, Operation, Record, RequestRecord, SegmentKey, Terms, Tree,
};
use holdfast_shared::cbor;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::secrets::Secret;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const LOG: LogId = LogId { key_store_id: KeyStoreId([0x11; 32]), boot_id: BootId([0x22; 16]) };
/// As the parent rotates.
const FILE_BYTES: usize = 16 * 1024 * 1024;
const OPENED_MS: u64 = 1_795_000_000_000;
/// A checkpoint each second at the default limit of KMS.
const RECORDS_EACH_SECOND: u64 = 1_800;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", folder, records] => write(Path::new(folder), records.parse()?),
        ["verify", folder] => check(Path::new(folder)),
        _ => Err("expected: write FOLDER RECORDS, or verify FOLDER".into()),
    }
}

fn audit_key() -> Result<Ed25519KeyPair, Box<dyn Error>> {
    Ed25519KeyPair::from_seed_unchecked(&[0x33; 32]).map_err(|error| error.to_string().into())
}

/// The files of one log.
struct Writer {
    folder: PathBuf,
    tree: Tree,
    file: Option<(BufWriter<File>, usize)>,
    checkpoints: BufWriter<File>,
}

impl Writer {
    fn append(&mut self, entry: &Entry) -> Result<(), Box<dyn Error>> {
        self.append_leaf(&cbor::encode(entry))
    }

    fn append_leaf(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let index = self.tree.append(bytes);
        let (mut file, written) = match self.file.take().filter(|(_, written)| *written < FILE_BYTES) {
            Some(file) => file,
            None => (BufWriter::new(File::create_new(self.folder.join(format!("{index:016}.log")))?), 0),
        };
        file.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
        file.write_all(bytes)?;
        self.file = Some((file, written.saturating_add(bytes.len())));
        Ok(())
    }

    fn checkpoint(&mut self, key: &Ed25519KeyPair, closed: bool) -> Result<(), Box<dyn Error>> {
        let (size, root) = (self.tree.size(), self.tree.root());
        let time_ms = OPENED_MS.saturating_add(size);
        let note = Checkpoint { log: LOG, size, root, time_ms, closed }.sign(key);
        Ok(writeln!(self.checkpoints, "{note}")?)
    }
}

fn record(number: u64) -> Result<Record, Box<dyn Error>> {
    let request = RequestRecord {
        key: Some(ExternalKeyId::parse("payments-1")?),
        key_version: Some(1),
        latency_us: 300,
        kms_request_id: Some(format!("4112f4d6-db54-4af4-ae30-{number:012}")),
        kms_operation: Some("Decrypt".to_owned()),
        principal: Some("arn:aws:iam::123456789012:role/payments-eu-writer".to_owned()),
        kms_key_arn: Some("arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab".to_owned()),
        via_service: Some("ebs.eu-central-1.amazonaws.com".to_owned()),
        ..RequestRecord::new(Operation::Decrypt, "AAAAABBBBBCCCCCDDDDD".parse()?)
    };
    Ok(Record { at_ms: OPENED_MS.saturating_add(number), what: Event::Request(Box::new(request)) })
}

fn write(folder: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let folder = folder.join(LOG.key_store_id.to_string()).join(LOG.boot_id.to_string());
    fs::create_dir_all(&folder)?;
    let key = audit_key()?;
    let checkpoints = BufWriter::new(File::create_new(folder.join("checkpoints"))?);
    let mut writer = Writer { folder, tree: Tree::default(), file: None, checkpoints };
    writer.append(&Entry::Opening(Opening {
        format: FORMAT,
        key_store_id: LOG.key_store_id,
        boot_id: LOG.boot_id,
        audit_public_key: key.public_key().as_ref().try_into()?,
        opened_ms: OPENED_MS,
        previous: Vec::new(),
    }))?;
    let segment = SegmentKey::draw(Secret::take(&mut [0x44; 32]));
    writer.append(&segment.seal_to(&[*PrivateKey::generate()?.public_key()], &LOG, 0, Terms::DEFAULT)?)?;
    let begun = Instant::now();
    for number in 0..records {
        let index = writer.tree.size();
        writer.append_leaf(&segment.seal_record(&LOG, index, &record(number)?)?)?;
        if number.is_multiple_of(RECORDS_EACH_SECOND) {
            writer.checkpoint(&key, false)?;
        }
    }
    writer.append(&Entry::Closing)?;
    writer.checkpoint(&key, true)?;
    println!("{records} records written in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn check(path: &Path) -> Result<(), Box<dyn Error>> {
    let folder = Folder::open(path, LOG.key_store_id)?;
    let files = folder.boots.iter().flat_map(|boot| &boot.files);
    let bytes: u64 = files.map(LogFile::size).sum();
    let key = audit_key()?;
    let newest = {
        let mut newest = None;
        for boot in &folder.boots {
            boot.checkpoints(|text| newest = Checkpoint::parse(text).ok().or(newest))?;
        }
        newest
    };
    let witnessed = Witnessed {
        audit_public_key: key.public_key().as_ref().try_into().ok(),
        checkpoints: newest.into_iter().collect(),
    };
    let heads = Heads { custodians: 1, boots: [(LOG.boot_id, witnessed)].into(), ..Heads::default() };
    let progress = Progress::of("verifying", bytes);
    let begun = Instant::now();
    let against = Against { heads: (heads, Vec::new()), readers: &[], progress: &|bytes| progress.add(bytes) };
    let report = verify(&folder, against);
    let seconds = begun.elapsed().as_secs_f64();
    drop(progress);
    let entries: u64 = report.boots.iter().map(|boot| boot.entries).sum();
    let rate = f64::from(u32::try_from(entries)?) / seconds;
    println!("{report}");
    println!("{entries} entries, {} MiB, in {seconds:.2} s: {rate:.0} per second", bytes >> 20);
    Ok(())
}
