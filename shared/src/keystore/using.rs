//! Who may use the keys of a key store, and how often.

use super::Quota;
use crate::cbor::{Message, message};
use crate::external_key::ExternalKeyId;
use crate::limits;

/// The policy of use, as text. What it means, and whether it means anything, `holdfast-guard` knows.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct UsePolicy {
    /// A policy set of Cedar.
    #[n(0)]
    pub text: String,
}

message!(UsePolicy, limits::USE_POLICY_MAX + 16, "policy of use", |policy| {
    if (1..=limits::USE_POLICY_MAX).contains(&policy.text.len()) {
        Ok(())
    } else {
        Err("a policy of use has 1 to 65536 bytes")
    }
});

/// How often keys may be used, beside the quota of all of them together; each enclave counts for itself.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct UseLimits {
    /// Each key that has no limit of its own.
    #[n(0)]
    pub per_key: Option<Quota>,
    /// Keys with limits of their own, sorted by id.
    #[n(1)]
    pub keys: Vec<KeyLimit>,
    /// Each principal, with all keys together.
    #[n(2)]
    pub per_principal: Option<Quota>,
}

message!(UseLimits, limits::COMMAND_MAX, "limits of use", |settings| {
    if settings.per_key.is_none() && settings.keys.is_empty() && settings.per_principal.is_none() {
        return Err("limits of use name a limit at least");
    }
    if settings.keys.len() > limits::LIMITED_KEYS_MAX || !settings.keys.is_sorted_by(|a, b| a.id < b.id) {
        return Err("limits of use name at most 256 keys, sorted, each once");
    }
    let named = settings.keys.iter().map(|limit| &limit.quota);
    named.chain(&settings.per_key).chain(&settings.per_principal).try_for_each(Message::check)
});

/// The limit of one key.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KeyLimit {
    /// The key.
    #[n(0)]
    pub id: ExternalKeyId,
    /// How often it may be used.
    #[n(1)]
    pub quota: Quota,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn rules() {
        let quota = Quota { requests_per_second: 1, burst: 1 };
        let limit = |id: &str| KeyLimit { id: ExternalKeyId::parse(id).unwrap(), quota };
        let none = UseLimits { per_key: None, keys: Vec::new(), per_principal: None };
        let keys = |ids: &[&str]| UseLimits { keys: ids.iter().map(|id| limit(id)).collect(), ..none.clone() };
        let many: Vec<_> = (0..=limits::LIMITED_KEYS_MAX).map(|number| format!("key-{number:04}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (limits, holds) in [
            (none.clone(), false),
            (UseLimits { per_key: Some(quota), ..none.clone() }, true),
            (UseLimits { per_principal: Some(quota), ..none.clone() }, true),
            (UseLimits { per_key: Some(Quota { burst: 0, ..quota }), ..none.clone() }, false),
            (
                UseLimits { per_principal: Some(Quota { requests_per_second: 2_000_000, ..quota }), ..none.clone() },
                false,
            ),
            (keys(&["a", "b"]), true),
            (keys(&["b", "a"]), false),
            (keys(&["a", "a"]), false),
            (keys(&many[1..]), true),
            (keys(&many), false),
        ] {
            assert_eq!(limits.check().is_ok(), holds, "{limits:?}");
            assert_eq!(cbor::decode::<UseLimits>(&cbor::encode(&limits)).is_ok(), holds);
        }
        for (len, holds) in [(0, false), (1, true), (limits::USE_POLICY_MAX, true), (limits::USE_POLICY_MAX + 1, false)]
        {
            let policy = UsePolicy { text: "a".repeat(len) };
            assert_eq!(cbor::decode::<UsePolicy>(&cbor::encode(&policy)).is_ok(), holds, "{len}");
        }
    }
}
