//! AWS Signature Version 4, signer's side: for requests of the enclave to AWS itself, and of `holdfast doctor` to proxies.
//!
//! Guarantees: canonical request, string to sign and keys are those of the verifier ([`super`]), so there is one computation of
//! signatures; the keys that are derived from the secret are zeroized. Assumes: the path holds nothing that would have to be
//! encoded, there is no query, and the headers
//! are sent as they are given, each once, with `x-amz-date` and `authorization` as returned. Refuses: nothing; what AWS
//! refuses, it says.

use super::canonical::{CanonicalRequest, string_to_sign};
use super::credential::{Seed, SigningKey};
use crate::secrets::SecretBytes;

/// A request to be signed: a `POST`.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingRequest<'a> {
    /// The path, as it is sent.
    pub path: &'a str,
    /// Names, in lower case, and values of the headers to sign, `host` among them, in any order.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// The region in the scope.
    pub region: &'a str,
    /// The service in the scope.
    pub service: &'a str,
    /// The time of signing, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Two headers to add to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `x-amz-date`.
    pub date: String,
    /// `authorization`.
    pub authorization: String,
}

impl OutgoingRequest<'_> {
    /// Signs.
    #[must_use]
    pub fn sign(&self, access_key_id: &str, secret_access_key: &SecretBytes) -> Signature {
        let date = amz_date(self.at_ms);
        let day = date.get(..8).unwrap_or_default();
        let mut headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        headers.push(("x-amz-date", date.as_bytes()));
        headers.sort_unstable();
        let signed_headers = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = CanonicalRequest {
            method: "POST",
            path: self.path,
            query: "",
            headers: &headers,
            signed_headers: &signed_headers,
            body_hash: &hex::encode(crate::sha256(&[self.body])),
        };
        let scope = [day, "/", self.region, "/", self.service, "/aws4_request"].concat();
        let text = string_to_sign(&date, &scope, &canonical.hash());
        let key = SigningKey::derive(&Seed::of(secret_access_key.expose()), day, self.region, self.service);
        let signature = hex::encode(key.sign(text.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={signed_headers}, Signature={signature}"
        );
        Signature { date, authorization }
    }
}

/// `YYYYMMDD'T'HHMMSS'Z'` of a time before the year 10000.
fn amz_date(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years (146,097 days) from 1 March of the year 0, in which a year ends with its leap day.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;

    use super::*;
    use crate::sigv4::date::RequestDate;

    const HEADERS: [(&str, &str); 4] = [
        ("x-amz-target", "TrentService.Decrypt"),
        ("host", "kms.eu-central-1.amazonaws.com"),
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-security-token", "IQoJb3JpZ2luX2VjEXAMPLE+/=="),
    ];

    /// What AWS's own signer makes of the same request. It adds the token itself.
    fn signed_by_aws(secret: &str, body: &[u8], at: SystemTime) -> (String, String) {
        let token = HEADERS[3].1.to_owned();
        let identity = Credentials::new("ASIAIOSFODNN7EXAMPLE", secret, Some(token), None, "test").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name("kms")
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let uri = "https://kms.eu-central-1.amazonaws.com/";
        let headers = [HEADERS[0], HEADERS[2]].into_iter();
        let request = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
        let header = |wanted: &str| {
            let mut headers = instructions.headers();
            headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).unwrap().1.to_owned()
        };
        (header("x-amz-date"), header("authorization"))
    }

    proptest! {
        #[test]
        fn the_signature_is_that_of_awss_own_signer(
            seconds in 0_u64..253_402_300_800,
            body in proptest::collection::vec(any::<u8>(), 0..100),
            secret in "[A-Za-z0-9/+]{40}|[A-Za-z0-9/+]{61,70}",
        ) {
            let at_ms = seconds * 1000 + 999;
            let request =
                OutgoingRequest { path: "/", headers: &HEADERS, body: &body, region: "eu-central-1", service: "kms", at_ms };
            let ours = request.sign("ASIAIOSFODNN7EXAMPLE", &SecretBytes::new(secret.clone().into_bytes()));
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
            prop_assert_eq!((ours.date, ours.authorization), signed_by_aws(&secret, &body, at));
        }

        #[test]
        fn dates_are_those_that_the_verifier_reads(seconds in 0_u64..253_402_300_800) {
            let date = amz_date(seconds * 1000 + 1);
            prop_assert_eq!(RequestDate::parse(date.as_bytes()).unwrap().epoch_ms(), seconds * 1000);
        }
    }
}
