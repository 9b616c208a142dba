//! The credentials of the instance's role, for the enclave to ask AWS KMS with: fetched from the instance metadata service (IMDSv2),
//! handed over as they come.
//!
//! Guarantees: newer credentials are seen long before the older ones end; what is handed over fits the link's message; nothing of it is in
//! a log line or an error. A service that fails, hangs or lies costs a bounded time and memory and stops nothing else: the enclave keeps what it
//! has, and knows itself when that ends. Assumes: the service answers only this machine, so plain HTTP is as AWS has it
//! (Amazon EC2 User Guide, "Use the Instance Metadata Service to access instance metadata"). Refuses: IMDSv1, redirects, answers
//! over their bounds or in another form.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_link::control::AwsCredentials;
use holdfast_link::limits::{AWS_CREDENTIAL_MAX, AWS_SESSION_TOKEN_MAX};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::AwsConfig;
use crate::limits::{
    METADATA_ANSWER_MAX, METADATA_POLL, METADATA_RETRY, METADATA_TIMEOUT, METADATA_TOKEN_MAX, ROLE_NAME_MAX,
};

/// Where a session begins (IMDSv2).
const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN_LIFETIME: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// Names the role; with its name behind it, gives its credentials.
const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
enum MetadataError {
    #[error("cannot connect to the instance metadata service: {0}; is this an EC2 instance?")]
    Connect(std::io::Error),
    #[error("the instance metadata service does not answer as it should: {0}")]
    Http(String),
    #[error("the instance metadata service answered {path} with {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("the instance has no role: give it an instance profile")]
    NoRole,
    #[error("what the instance metadata service says of {0} is not in the form that it should have")]
    Form(&'static str),
    #[error("the instance metadata service took longer than {} s", METADATA_TIMEOUT.as_secs())]
    Late,
}

/// How long is waited when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    poll: Duration,
    retry: (Duration, Duration),
}

impl Default for Pauses {
    fn default() -> Self {
        Self { poll: METADATA_POLL, retry: METADATA_RETRY }
    }
}

/// Keeps `handed` up to date until the program ends; with no configuration, there never is anything.
pub(crate) async fn keep(config: Option<AwsConfig>, pauses: Pauses, handed: watch::Sender<Option<AwsCredentials>>) {
    let Some(AwsConfig { instance_metadata, .. }) = config else { return core::future::pending().await };
    let mut retry = pauses.retry.0;
    loop {
        let fetched = timeout(METADATA_TIMEOUT, fetch(instance_metadata)).await.unwrap_or(Err(MetadataError::Late));
        match fetched {
            Ok(credentials) => {
                let changed = handed.send_if_modified(|current| {
                    let differs = current.as_ref() != Some(&credentials);
                    *current = Some(credentials);
                    differs
                });
                if changed {
                    tracing::info!("new credentials of the instance's role are handed to the enclave");
                }
                retry = pauses.retry.0;
                sleep(pauses.poll).await;
            }
            Err(error) => {
                tracing::warn!(%error, "no new credentials of the instance's role; trying again");
                sleep(retry).await;
                retry = pauses.retry.1.min(retry.saturating_mul(2));
            }
        }
    }
}

async fn fetch(service: SocketAddr) -> Result<AwsCredentials, MetadataError> {
    let (status, token) = ask(service, Method::PUT, TOKEN_PATH, TOKEN_LIFETIME, METADATA_TOKEN_MAX).await?;
    expect_ok(TOKEN_PATH, status)?;
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(MetadataError::Form("its session"));
    }
    let get = |path: String| {
        let token = token.clone();
        async move { ask(service, Method::GET, &path, (TOKEN, &token), METADATA_ANSWER_MAX).await }
    };
    let (status, role) = get(ROLES_PATH.to_owned()).await?;
    if status == StatusCode::NOT_FOUND {
        return Err(MetadataError::NoRole);
    }
    expect_ok(ROLES_PATH, status)?;
    let (status, answer) = get(format!("{ROLES_PATH}{}", role_name(&role)?)).await?;
    expect_ok(ROLES_PATH, status)?;
    credentials(&answer)
}

fn expect_ok(path: &'static str, status: StatusCode) -> Result<(), MetadataError> {
    if status == StatusCode::OK { Ok(()) } else { Err(MetadataError::Status { path, status }) }
}

/// One request on a connection of its own.
async fn ask(
    service: SocketAddr,
    method: Method,
    path: &str,
    (name, value): (&str, &str),
    max: usize,
) -> Result<(StatusCode, String), MetadataError> {
    let broken = |error: hyper::Error| MetadataError::Http(error.to_string());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, service.ip().to_string())
        .header(name, value)
        .body(Empty::<Bytes>::new())
        .map_err(|error| MetadataError::Http(error.to_string()))?;
    let stream = TcpStream::connect(service).await.map_err(MetadataError::Connect)?;
    stream.set_nodelay(true).map_err(MetadataError::Connect)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(METADATA_ANSWER_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Dropped, and so ended, with this call.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, max).collect().await.map_err(|error| MetadataError::Http(error.to_string()))?;
    let text = String::from_utf8(body.to_bytes().to_vec()).map_err(|_| MetadataError::Form("anything"))?;
    Ok((head.status, text))
}

/// A role's name as IAM allows it, so that it is one part of a path.
fn role_name(text: &str) -> Result<&str, MetadataError> {
    let name = text.trim_ascii();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    let fits = (1..=ROLE_NAME_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
    // Two dots alone would be another folder.
    if fits && name.bytes().any(|byte| byte != b'.') { Ok(name) } else { Err(MetadataError::Form("the role's name")) }
}

/// As the service gives them out; other fields may come.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    code: String,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

fn credentials(text: &str) -> Result<AwsCredentials, MetadataError> {
    // What serde says of a mistake may quote a secret.
    let answer: Answer = serde_json::from_str(text).map_err(|_| MetadataError::Form("the credentials"))?;
    if answer.code != "Success" {
        return Err(MetadataError::Form("the credentials, which it could not get itself"));
    }
    let expires_ms = milliseconds_since_1970(&answer.expiration).ok_or(MetadataError::Form("their end"))?;
    let fits = |text: &str, max: usize| (1..=max).contains(&text.len());
    if !fits(&answer.access_key_id, AWS_CREDENTIAL_MAX)
        || !fits(&answer.secret_access_key, AWS_CREDENTIAL_MAX)
        || !fits(&answer.token, AWS_SESSION_TOKEN_MAX)
    {
        return Err(MetadataError::Form("the credentials"));
    }
    Ok(AwsCredentials {
        access_key_id: answer.access_key_id,
        secret_access_key: answer.secret_access_key,
        session_token: Some(answer.token),
        expires_ms: Some(expires_ms),
    })
}

/// `YYYY-MM-DDTHH:MM:SSZ`, from 1970 on.
fn milliseconds_since_1970(text: &str) -> Option<u64> {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')];
    if text.len() != 20 || !separators.iter().all(|(at, separator)| text.as_bytes().get(*at) == Some(separator)) {
        return None;
    }
    let number = |range: core::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |month: u64| match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_moment = year >= 1970
        && (1..=12).contains(&month)
        && (1..=length(month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_moment {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = years + (1..month).map(length).sum::<u64>() + day - 1;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::AwsCredentialsSource;

    fn answer(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut answer = json!({
            "Code": "Success",
            "LastUpdated": "2026-05-17T09:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
            "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "Token": "token",
            "Expiration": "2026-05-17T15:09:54Z",
        });
        change(&mut answer);
        answer.to_string()
    }

    #[test]
    fn moments_are_counted_as_they_are() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799_000)),
            ("2001-03-01T00:00:00Z", Some(983_404_800_000)),
            ("2026-05-17T15:09:54Z", Some(1_779_030_594_000)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400_000)),
            ("2100-02-29T00:00:00Z", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-00-10T00:00:00Z", None),
            ("2026-13-10T00:00:00Z", None),
            ("2026-01-00T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:60:00Z", None),
            ("2026-01-01T00:00:60Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2026-01-01 00:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("+026-01-01T00:00:00Z", None),
            ("2026-01-01T00:00:00Ü", None),
            ("", None),
        ] {
            assert_eq!(milliseconds_since_1970(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_role_has_a_name_that_is_one_part_of_a_path() {
        for (text, expected) in [
            ("holdfast-instances", Some("holdfast-instances")),
            ("a+=,.@_-Z9\n", Some("a+=,.@_-Z9")),
            ("", None),
            ("..", None),
            ("a/b", None),
            ("a b", None),
            ("a\r\nx: y", None),
            (&"r".repeat(ROLE_NAME_MAX), Some(&*"r".repeat(ROLE_NAME_MAX))),
            (&"r".repeat(ROLE_NAME_MAX + 1), None),
        ] {
            assert_eq!(role_name(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn credentials_are_taken_whole_and_within_bounds_and_errors_show_nothing_of_them() {
        let good = credentials(&answer(|_| ())).unwrap();
        assert_eq!(good.access_key_id, "ASIAIOSFODNN7EXAMPLE");
        assert_eq!((good.session_token.as_deref(), good.expires_ms), (Some("token"), Some(1_779_030_594_000)));
        let set = |field: &'static str, value: serde_json::Value| answer(move |answer| answer[field] = value);
        for text in [
            set("Code", json!("Failed")),
            set("AccessKeyId", json!("")),
            set("SecretAccessKey", json!("secret".repeat(30))),
            set("SecretAccessKey", json!(["secret"])),
            set("Token", json!("secret".repeat(2_000))),
            set("Expiration", json!("tomorrow")),
            "\"secret".to_owned(),
        ] {
            let error = credentials(&text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    /// What a service answers, one connection after the other; what it was asked.
    type Asked = Arc<Mutex<Vec<String>>>;

    async fn service(answer: impl Fn(usize, &str) -> String + Send + 'static) -> (AwsConfig, Asked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance_metadata = listener.local_addr().unwrap();
        let asked = Asked::default();
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            let count = AtomicUsize::new(0);
            loop {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") && stream.read_line(&mut request).await.unwrap() > 0 {}
                let body = answer(count.fetch_add(1, Ordering::Relaxed), &request);
                heard.lock().unwrap().push(request);
                let _ = stream.write_all(body.as_bytes()).await;
            }
        });
        (AwsConfig { credentials: AwsCredentialsSource::InstanceRole, instance_metadata }, asked)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    const QUICK: Pauses =
        Pauses { poll: Duration::from_millis(5), retry: (Duration::from_millis(5), Duration::from_millis(5)) };

    #[tokio::test]
    async fn a_session_is_opened_the_role_asked_for_and_newer_credentials_follow() {
        let (config, asked) = service(|count, request| {
            if request.starts_with("PUT /latest/api/token ") {
                // It fails the first time, as a service may that has just come up.
                if count == 0 { http("503 Service Unavailable", "") } else { http("200 OK", "session==") }
            } else if request.starts_with(&format!("GET {ROLES_PATH} ")) {
                http("200 OK", "the-role")
            } else {
                let token = if count < 6 { "first" } else { "second" };
                http("200 OK", &answer(|answer| answer["Token"] = json!(token)))
            }
        })
        .await;
        let (sender, mut handed) = watch::channel(None);
        let keeping = tokio::spawn(keep(Some(config), QUICK, sender));
        for expected in ["first", "second"] {
            handed.changed().await.unwrap();
            let token = handed.borrow_and_update().clone().unwrap().session_token;
            assert_eq!(token.as_deref(), Some(expected));
        }
        keeping.abort();
        let asked = asked.lock().unwrap().clone();
        assert!(asked[0].contains("x-aws-ec2-metadata-token-ttl-seconds: 60\r\n"), "{asked:?}");
        let [_, put, roles, role, ..] = asked.as_slice() else { panic!("{asked:?}") };
        assert!(put.starts_with("PUT /latest/api/token HTTP/1.1\r\n"), "{put}");
        for (request, path) in [(roles, ""), (role, "the-role")] {
            assert!(request.starts_with(&format!("GET {ROLES_PATH}{path} HTTP/1.1\r\n")), "{request}");
            assert!(request.contains("x-aws-ec2-metadata-token: session==\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_of_the_service_gives_no_credentials() {
        let long = "x".repeat(METADATA_ANSWER_MAX + 1);
        let cases: [(usize, String, &str); 8] = [
            (0, http("403 Forbidden", ""), "answered /latest/api/token with 403"),
            (0, http("200 OK", "a\nb"), "its session"),
            (0, http("200 OK", &"x".repeat(METADATA_TOKEN_MAX + 1)), "length limit exceeded"),
            (1, http("404 Not Found", ""), "has no role"),
            (1, http("301 Moved Permanently", ""), "with 301"),
            (1, http("200 OK", "../user-data"), "the role's name"),
            (2, http("200 OK", &long), "length limit exceeded"),
            (2, "nonsense\r\n\r\n".to_owned(), "does not answer as it should"),
        ];
        for (place, wrong, expected) in cases {
            let (config, _) = service(move |count, _| match count {
                count if count == place => wrong.clone(),
                0 => http("200 OK", "session"),
                1 => http("200 OK", "the-role"),
                _ => http("200 OK", &answer(|_| ())),
            })
            .await;
            let error = fetch(config.instance_metadata).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nshould have: {expected}");
        }
    }
}
