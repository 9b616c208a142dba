//! Each message of ours: what is decoded is the one encoding of a value within its rules.
//!
//! The first byte names the message (see [`MESSAGES`]); the rest is its encoding.

use holdfast_shared::api::Refusal;
use holdfast_shared::audit::{AuditSettings, Entry, Record};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::channel::{Ask, ChannelMessage, Reply};
use holdfast_shared::command::{Command, Outcome, ResultContent, ResultUserData, SealedResult};
use holdfast_shared::keystore::{Body, ClientAuthentication, CredentialRecord, Header, Quota};
use holdfast_shared::manifest::Manifest;
use holdfast_shared::proof::ConnectionUserData;
use holdfast_shared::query::{Query, QueryAnswer};
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{
    ChallengeAnswer, ChallengeRequest, ReleaseAnswer, ReleaseContent, ReleaseRequest, ReleaseUserData, Share,
};
use holdfast_shared::signature::Envelope;

use super::Verdict;
use super::cbor_reader;

macro_rules! messages {
    ($($selector:literal $type:ident),* $(,)?) => {
        /// The byte of each message, and its name in errors.
        pub(super) const MESSAGES: &[(u8, &str)] = &[$(($selector, <$type as Message>::NAME)),*];

        /// An encoded message.
        pub fn cbor_messages(data: &[u8]) -> Verdict {
            let Some((selector, bytes)) = data.split_first() else { return Verdict::Refused };
            match selector {
                $($selector => Verdict::from(decode_checked::<$type>(bytes).is_some()),)*
                _ => Verdict::Refused,
            }
        }
    };
}

messages![
    b'a' Ask,
    b'b' BlockOverlay,
    b'c' Command,
    b'd' ClientAuthentication,
    b'e' Envelope,
    b'f' Refusal,
    b'h' Header,
    b'i' ChallengeRequest,
    b'j' ChallengeAnswer,
    b'k' Body,
    b'l' ReleaseRequest,
    b'm' Manifest,
    b'n' ReleaseAnswer,
    b'o' Outcome,
    b'p' ResultContent,
    b'q' Query,
    b'r' RegisterEntry,
    b's' Share,
    b't' ReleaseContent,
    b'u' ReleaseUserData,
    b'v' ResultUserData,
    b'w' QueryAnswer,
    b'x' ChannelMessage,
    b'y' Reply,
    b'z' SealedResult,
    b'C' CredentialRecord,
    b'Q' Quota,
    b'U' ConnectionUserData,
    b'E' Entry,
    b'R' Record,
    b'S' AuditSettings,
];

/// Decodes, and asserts what decoding promises.
pub(super) fn decode_checked<T: Message>(bytes: &[u8]) -> Option<T> {
    let value: T = match cbor::decode(bytes) {
        Ok(value) => value,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with(T::NAME) && text.is_ascii() && text.len() <= 256, "{text}");
            return None;
        }
    };
    assert!(bytes.len() <= T::MAX);
    assert_eq!(cbor::encode(&value).as_slice(), bytes, "not the one encoding");
    assert_eq!(value.check(), Ok(()));
    assert!(cbor_reader::read(bytes).is_some(), "not CBOR in deterministic form");
    Some(value)
}
