//! Signatures over everything that a signer may choose: a right one is accepted, and one with any character changed is not.

use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sha256;
use holdfast_shared::sigv4::{AccessKeyId, Claim, Credential, CredentialSet, Occurrence, Regions, SignedRequest};
use proptest::collection::btree_map;
use proptest::prelude::*;
use ring::hmac;
use time::OffsetDateTime;

#[derive(Clone, Debug)]
struct Request {
    path: String,
    authority: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn authenticates(&self, credentials: &CredentialSet, now_ms: u64) -> bool {
        let request = SignedRequest {
            method: "POST",
            path: &self.path,
            authority: &self.authority,
            header: |name: &str| {
                let value = self.headers.iter().find(|(header, _)| header == name);
                value.map_or(Occurrence::Absent, |(_, value)| Occurrence::Once(value.as_bytes()))
            },
            body: &self.body,
        };
        Claim::parse(&request, &Regions::Any, now_ms).is_ok_and(|claim| claim.verify(credentials).is_ok())
    }

    /// Appendix A, Tasks 1 to 3; `host` is always signed.
    fn sign(&mut self, id: &str, secret: &str, region: &str, date: &str) {
        self.headers.push(("x-amz-date".to_owned(), date.to_owned()));
        let mut signed: Vec<_> = self.headers.clone();
        signed.push(("host".to_owned(), self.authority.clone()));
        signed.sort();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: Vec<String> = signed
            .iter()
            .map(|(name, value)| {
                let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
                [name, ":", &words.join(" "), "\n"].concat()
            })
            .collect();
        let body_hash = hex::encode(sha256(&[&self.body]));
        let canonical = format!("POST\n{}\n\n{}\n{names}\n{body_hash}", self.path, lines.concat());
        let scope = format!("{}/{region}/kms-xks-proxy/aws4_request", &date[..8]);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(sha256(&[canonical.as_bytes()])));
        let mac = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
        let signature = hex::encode(mac(&key, &text));
        let header = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        self.headers.push(("authorization".to_owned(), header));
    }
}

fn date(seconds: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let (hour, minute, second) = date.to_hms();
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_a_signer_may_choose(
        id in "[A-Z2-7]{20,30}",
        secret in "[A-Za-z0-9/+=]{43,64}",
        region in "[a-z0-9-]{1,32}",
        seconds in 0_i64..253_402_300_800,
        skew_s in -300_i64..=300,
        path in "(/[A-Za-z0-9_.-]{1,20}){1,5}",
        authority in "[a-zA-Z0-9.-]{1,40}(:[0-9]{1,5})?",
        headers in btree_map("[a-g][a-z0-9._-]{0,63}", " {0,2}[!-~]{0,10}( {1,3}[!-~]{1,10}){0,3} {0,2}", 0..8),
        body in prop::collection::vec(any::<u8>(), 0..100),
        at: prop::sample::Index,
        to in "[ -~]",
    ) {
        let secret_bytes = SecretBytes::new(secret.clone().into_bytes());
        let credential = Credential::new(AccessKeyId::parse(&id).unwrap(), secret_bytes).unwrap();
        let credentials = CredentialSet::new(vec![credential], &Secret::take(&mut [9; 32])).unwrap();
        let headers = headers.into_iter().filter(|(name, _)| name != "authorization").collect();
        let mut request = Request { path, authority, headers, body };
        request.sign(&id, &secret, &region, &date(seconds));
        let now_ms = u64::try_from((seconds + skew_s).max(0)).unwrap() * 1000;
        prop_assert!(request.authenticates(&credentials, now_ms), "{:?}", request);

        // One character of the header is another; only the spaces after the commas may go.
        let mut changed = request.clone();
        let header = &mut changed.headers.last_mut().unwrap().1;
        let at = at.index(header.len());
        header.replace_range(at..=at, &to);
        prop_assert_eq!(changed.authenticates(&credentials, now_ms), changed.headers == request.headers);
        let mut dense = request.clone();
        let header = &mut dense.headers.last_mut().unwrap().1;
        *header = header.replace(", ", ",");
        prop_assert!(dense.authenticates(&credentials, now_ms));
        let mut other = request.clone();
        other.body.push(b' ');
        prop_assert!(!other.authenticates(&credentials, now_ms));
        let other = Request { path: format!("{}x", request.path), ..request.clone() };
        prop_assert!(!other.authenticates(&credentials, now_ms));
        prop_assert!(!request.authenticates(&credentials, now_ms.saturating_add(600_001)));
    }
}
