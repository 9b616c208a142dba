//! What is known of a request, as plain attributes.

use holdfast_shared::xks::Operation;

use crate::principal::Arn;

/// Milliseconds of a day and of an hour.
const DAY_MS: u64 = 24 * HOUR_MS;
const HOUR_MS: u64 = 3_600_000;

/// Everything that a policy may ask about. Plain data, so that requests on record can be judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The operation of the XKS API.
    pub operation: Operation,
    /// The key, as the path names it.
    pub external_key_id: &'a str,
    /// `awsPrincipalArn`.
    pub principal: &'a str,
    /// `kmsOperation`.
    pub kms_operation: &'a str,
    /// `kmsKeyArn`.
    pub kms_key_arn: Option<&'a str>,
    /// `kmsViaService`.
    pub via_service: Option<&'a str>,
    /// `awsSourceVpc`.
    pub source_vpc: Option<&'a str>,
    /// `awsSourceVpce`.
    pub source_vpce: Option<&'a str>,
    /// Whose signature it was.
    pub access_key_id: &'a str,
    /// The attested clock, milliseconds since 1970.
    pub time_ms: u64,
}

impl Attributes<'_> {
    /// Hour of the day, 0 to 23, UTC.
    #[must_use]
    pub const fn hour(&self) -> u8 {
        narrow(self.time_ms % DAY_MS / HOUR_MS)
    }

    /// Day of the week, 1 (Monday) to 7, UTC (ISO 8601). 1 January 1970 was a Thursday.
    #[must_use]
    pub const fn weekday(&self) -> u8 {
        narrow((self.time_ms / DAY_MS).wrapping_add(3) % 7).wrapping_add(1)
    }
}

const fn narrow(small: u64) -> u8 {
    let [.., byte] = small.to_be_bytes();
    byte
}

/// Region and account of a KMS key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsKey<'a> {
    /// "eu-central-1"
    pub region: &'a str,
    /// 12 digits.
    pub account: &'a str,
}

impl<'a> KmsKey<'a> {
    /// Of `kmsKeyArn`; nothing where that is no ARN of a KMS key. The specification writes its examples `:/key/`, AWS `:key/`.
    #[must_use]
    pub fn parse(arn: &'a str) -> Option<Self> {
        let Arn { service, region, account, resource, .. } = Arn::parse(arn)?;
        let id = resource.strip_prefix('/').unwrap_or(resource).strip_prefix("key/")?;
        let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_region = !region.is_empty() && region.bytes().all(is_label);
        (service == "kms" && is_region && !id.is_empty()).then_some(Self { region, account })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_those_of_utc() {
        let at = |time_ms| Attributes {
            operation: Operation::Encrypt,
            external_key_id: "",
            principal: "",
            kms_operation: "",
            kms_key_arn: None,
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
            time_ms,
        };
        for (time_ms, hour, weekday) in [
            (0, 0, 4),
            (HOUR_MS - 1, 0, 4),
            (HOUR_MS, 1, 4),
            (DAY_MS - 1, 23, 4),
            (DAY_MS, 0, 5),
            (3 * DAY_MS, 0, 7),
            (4 * DAY_MS, 0, 1),
            // 2026-11-22T18:30:00Z, a Sunday.
            (1_795_372_200_000, 18, 7),
        ] {
            assert_eq!((at(time_ms).hour(), at(time_ms).weekday()), (hour, weekday), "{time_ms}");
        }
        assert!(at(u64::MAX).hour() < 24 && (1..=7).contains(&at(u64::MAX).weekday()));
    }

    #[test]
    fn kms_key_arns() {
        let key = |region, account| Some(KmsKey { region, account });
        for (arn, expected) in [
            ("arn:aws:kms:us-east-2:123456789012:/key/1234abcd", key("us-east-2", "123456789012")),
            ("arn:aws:kms:us-east-2:123456789012:key/1234abcd", key("us-east-2", "123456789012")),
            ("arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1234abcd", key("cn-north-1", "123456789012")),
            ("arn:aws:kms::123456789012:key/1", None),
            ("arn:aws:kms:us-east-2:123456789012:alias/a", None),
            ("arn:aws:kms:us-east-2:123456789012:key/", None),
            ("arn:aws:kms:us-east-2:1234:key/1", None),
            ("arn:aws:iam:us-east-2:123456789012:key/1", None),
            ("arn:aws:kms:US:123456789012:key/1", None),
            ("", None),
        ] {
            assert_eq!(KmsKey::parse(arn), expected, "{arn}");
        }
    }
}
