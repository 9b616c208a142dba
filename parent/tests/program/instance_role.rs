//! Credentials of the instance's role, from a service in the place of EC2's, to the enclave.

use holdfast_link::control::{AwsCredentials, ToEnclave};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::fixture::{Options, Parent};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Answers as EC2's does; whoever asks without the session is refused.
async fn instance_metadata(listener: TcpListener) {
    let credentials = json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
        "SecretAccessKey": SECRET,
        "Token": "the-token",
        "Expiration": "2026-05-17T15:09:54Z",
    });
    loop {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") && stream.read_line(&mut request).await.unwrap() > 0 {}
        let (status, body) = if request.starts_with("PUT /latest/api/token ") {
            (200, "session==".to_owned())
        } else if !request.contains("x-aws-ec2-metadata-token: session==\r\n") {
            (401, String::new())
        } else if request.starts_with("GET /latest/meta-data/iam/security-credentials/ ") {
            (200, "the-role".to_owned())
        } else {
            assert!(request.starts_with("GET /latest/meta-data/iam/security-credentials/the-role "), "{request}");
            (200, credentials.to_string())
        };
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn each_enclave_that_connects_is_handed_the_credentials_of_the_role() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let aws =
        format!("[aws]\ncredentials = \"instance-role\"\ninstance_metadata = \"{}\"", listener.local_addr().unwrap());
    let service = tokio::spawn(instance_metadata(listener));
    let parent = Parent::start(Options { egress: aws, ..Options::default() }).await;
    for boot_id in [1, 2] {
        let mut control = parent.control(boot_id).await;
        let mut heard = [control.hear().await, control.hear().await];
        heard.sort_by_key(|message| matches!(message, Some(ToEnclave::AwsCredentials(_))));
        let [Some(ToEnclave::KeyStores { .. }), Some(ToEnclave::AwsCredentials(handed))] = heard else {
            panic!("{heard:?}")
        };
        let expected = AwsCredentials {
            access_key_id: "ASIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: SECRET.to_owned(),
            session_token: Some("the-token".to_owned()),
            expires_ms: Some(1_779_030_594_000),
        };
        assert!(handed == expected, "{:?}", handed.expires_ms);
    }
    let log = parent.log();
    assert!(log.contains("new credentials of the instance's role"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains("the-token"), "{log}");
    service.abort();
}

#[tokio::test]
async fn a_service_that_is_away_is_said_and_stops_nothing() {
    // A port that is taken, and at which nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let aws = format!("[aws]\ncredentials = \"instance-role\"\ninstance_metadata = \"{address}\"");
    let parent = Parent::start(Options { egress: aws, ..Options::default() }).await;
    let mut control = parent.control(1).await;
    assert_eq!(control.hear_manifests().await, Vec::<String>::new());
    crate::fixture::until(|| async { parent.log().contains("cannot connect to the instance metadata service") }).await;
}
