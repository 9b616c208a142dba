//! The audit log: checkpoints, and the files in which the parent keeps entries.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::audit::folder::Entries;
use holdfast_shared::audit::{Checkpoint, Entry, Event, LogId, Record, SegmentKey};
use holdfast_shared::ids::BootId;
use holdfast_shared::secrets::Secret;
use holdfast_shared::{cbor, limits};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::Verdict;
use super::party::KEY_STORE;

/// The log of all seeds.
pub(super) const LOG: LogId = LogId { key_store_id: KEY_STORE, boot_id: BootId([0xB0; 16]) };

/// Its audit key.
pub(super) static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[0xB0; 32]).unwrap());

/// What was signed, and the same without its end.
pub(super) const SIGNED: Checkpoint =
    Checkpoint { log: LOG, size: 3, root: [0x33; 32], time_ms: 1_790_000_000_000, closed: true };

/// The key of its segment.
pub(super) fn segment() -> SegmentKey {
    SegmentKey::draw(Secret::take(&mut [0xB0; 32]))
}

/// The record that stands at an index.
pub(super) const fn record(index: u64) -> Record {
    Record { at_ms: index, what: Event::Uncounted { refused_unauthenticated: index } }
}

/// A checkpoint's text.
pub fn audit_checkpoint(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    let parsed = Checkpoint::parse(text);
    assert_eq!(parsed.ok(), read(text), "two readers disagree");
    let public_key = KEY.public_key().as_ref().try_into().unwrap();
    if let Ok(verified) = Checkpoint::verify(text, &public_key) {
        assert!([SIGNED, Checkpoint { closed: false, ..SIGNED }].contains(&verified));
        assert_eq!(text, verified.sign(&KEY));
    }
    Verdict::from(parsed.is_ok())
}

/// Line by line, each by its own form.
fn read(text: &str) -> Option<Checkpoint> {
    if text.len() > limits::AUDIT_CHECKPOINT_MAX {
        return None;
    }
    let lines: Vec<&str> = text.strip_suffix('\n')?.split('\n').collect();
    let (origin, size, root, time, closed, signature) = match lines[..] {
        [origin, size, root, time, "", signature] => (origin, size, root, time, false, signature),
        [origin, size, root, time, "closed", "", signature] => (origin, size, root, time, true, signature),
        _ => return None,
    };
    let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
    let [name, key_store, boot] = origin.split('/').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str| {
        let is_canonical = text == "0" || !text.starts_with('0');
        (is_canonical && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().ok()).flatten()
    };
    let signed = signature.strip_prefix(&format!("\u{2014} {origin} "))?;
    if name != "holdfast.audit"
        || !is_hex(key_store, 64)
        || !is_hex(boot, 32)
        || STANDARD.decode(signed).ok()?.len() != 68
    {
        return None;
    }
    let root = STANDARD.decode(root).ok()?.try_into().ok()?;
    let log = LogId { key_store_id: key_store.parse().unwrap(), boot_id: boot.parse().unwrap() };
    Some(Checkpoint { log, size: number(size)?, root, time_ms: number(time.strip_prefix("time ")?)?, closed })
}

/// A file of a log. Accepted where all of it is entries and each of them is ours.
pub fn audit_file(data: &[u8]) -> Verdict {
    let mut entries = Entries::of(data);
    let (mut again, mut are_ours) = (Vec::new(), true);
    for (index, bytes) in (0_u64..).zip(entries.by_ref()) {
        assert!((1..=limits::AUDIT_ENTRY_MAX).contains(&bytes.len()));
        again.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        again.extend_from_slice(bytes);
        match cbor::decode::<Entry>(bytes) {
            Ok(Entry::Sealed(sealed)) => {
                let opened = segment().open_record(&LOG, index, &sealed).ok();
                assert!(opened.is_none() || opened == Some(record(index)), "opened what was not sealed");
                are_ours &= opened.is_some();
            }
            Ok(_) => {}
            Err(_) => are_ours = false,
        }
    }
    assert_eq!([&again, entries.rest()].concat(), data);
    assert_eq!(entries.consumed, u64::try_from(again.len()).unwrap());
    Verdict::from(are_ours && entries.rest().is_empty() && !data.is_empty())
}
