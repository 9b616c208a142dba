//! Seeds of the audit log.

use holdfast_shared::audit::entry::{FORMAT, Opening};
use holdfast_shared::audit::{
    AuditSettings, Checkpoint, Entry, Event, Operation, PreviousHead, Record, RequestRecord, Terms,
};
use holdfast_shared::cbor;
use holdfast_shared::ids::{BlobId, BootId, CommandId, CustodianId};
use holdfast_shared::xks::ErrorName;
use ring::signature::KeyPair as _;

use crate::fuzz::audit::{KEY, LOG, SIGNED, record, segment};
use crate::fuzz::party::ALICE;

use super::Seeds;

pub(super) fn audit(seeds: &mut Seeds) {
    let closed = SIGNED.sign(&KEY);
    let open = Checkpoint { closed: false, ..SIGNED }.sign(&KEY);
    seeds.add("audit_checkpoint", "closed", &closed);
    seeds.add("audit_checkpoint", "open", &open);
    seeds.add("audit_checkpoint", "unsigned", closed.replacen("\n3\n", "\n4\n", 1));
    seeds.refuse("audit_checkpoint", "zero", closed.replacen("\n3\n", "\n03\n", 1));
    seeds.refuse("audit_checkpoint", "torn", closed.get(..closed.len() - 1).unwrap());
    seeds.refuse("audit_checkpoint", "extension", closed.replacen("closed\n", "closed\nmore\n", 1));

    let entries = [
        Entry::Opening(Opening {
            format: FORMAT,
            key_store_id: LOG.key_store_id,
            boot_id: LOG.boot_id,
            audit_public_key: KEY.public_key().as_ref().try_into().unwrap(),
            opened_ms: 1,
            previous: vec![PreviousHead { boot_id: BootId([1; 16]), size: 4, root: [2; 32] }],
        }),
        Entry::Sealed(vec![1; 30].into()),
        Entry::Closing,
    ];
    let sealed =
        |index| -> Entry { cbor::decode(&segment().seal_record(&LOG, index, &record(index)).unwrap()).unwrap() };
    let file = |entries: &[Entry]| -> Vec<u8> {
        let framed = |entry: &Entry| {
            let bytes = cbor::encode(entry);
            [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat()
        };
        entries.iter().flat_map(framed).collect()
    };
    let [opening, strange, closing] = entries.clone();
    let whole = file(&[opening.clone(), sealed(1), closing]);
    seeds.add("audit_file", "whole", &whole);
    seeds.refuse("audit_file", "torn", whole.get(..whole.len() - 1).unwrap());
    seeds.refuse("audit_file", "strange", file(&[opening.clone(), strange]));
    seeds.refuse("audit_file", "moved", file(&[opening, sealed(2)]));

    let mut message = |selector: char, number: usize, bytes: &[u8]| {
        seeds.add(
            "cbor_messages",
            &format!("{selector}-{number}"),
            [&[u8::try_from(selector).unwrap()], bytes].concat(),
        );
    };
    for (number, entry) in entries.iter().enumerate() {
        message('E', number, &cbor::encode(entry));
    }
    let request = RequestRecord {
        key: Some("ward-7.db".parse().unwrap()),
        key_version: Some(2),
        error: Some(ErrorName::AccessDeniedException),
        rule: Some("region-pin".to_owned()),
        principal: Some("arn:aws:iam::1:role/x".to_owned()),
        ..RequestRecord::new(Operation::Decrypt, "AAAAABBBBBCCCCCDDDDD".parse().unwrap())
    };
    let events = [
        Event::Request(Box::new(request)),
        Event::Version { version: 2, blob_id: BlobId([1; 32]), commands: vec![CommandId([2; 16])] },
        Event::overlay(3, false, &["a".parse().unwrap()]),
        Event::Lease { granted: true, custodian_id: CustodianId([3; 32]), expires_in_ms: 60_000 },
        Event::Uncounted { refused_unauthenticated: 7 },
        Event::Setting { settings: Some(AuditSettings::default()) },
    ];
    for (number, what) in events.into_iter().enumerate() {
        message('R', number, &cbor::encode(&Record { at_ms: 5, what }));
    }
    message('S', 0, &cbor::encode(&AuditSettings::default()));
    // Not the same twice: the encryption is randomised. What is decoded is its shape.
    let reader = *ALICE.encryption.public_key();
    let segment = segment().seal_to(&[reader], &LOG, 0, Terms::DEFAULT).unwrap();
    message('E', 9, &cbor::encode(&segment));
}
