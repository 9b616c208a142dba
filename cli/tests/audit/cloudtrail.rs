//! CloudTrail's files.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_cli::audit::cloudtrail::{CloudTrail, CloudTrailError, View, sources};
use serde_json::{Value, json};

fn event() -> Value {
    json!({
        "eventVersion": "1.08",
        "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/Alice", "accountId": "111122223333" },
        "eventTime": "2022-11-24T00:26:58Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "awsRegion": "us-west-2",
        "requestParameters": { "keyId": "alias/payments", "encryptionContext": { "Department": "Engineering" } },
        "responseElements": null,
        "additionalEventData": { "customKeyStoreId": "cks-9876543210fedcba9", "xksKeyId": "abc01234567890fe" },
        "requestID": "f1b881f8-2048-41f8-b6cc-382b7857ec61",
        "resources": [{ "ARN": "arn:aws:kms:us-west-2:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321" }],
    })
}

fn read(bytes: &[u8]) -> Result<CloudTrail, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("trail.json"), bytes).unwrap();
    let [source] = &sources(&[folder.path().to_owned()]).unwrap()[..] else { panic!("one file") };
    let mut trail = CloudTrail::default();
    trail.read(source, 0, u64::MAX).map(|()| trail).map_err(|error| error.to_string())
}

fn file(events: &[Value]) -> Vec<u8> {
    json!({ "Records": events }).to_string().into_bytes()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The event is that of the AWS KMS Developer Guide, "Decrypt with a KMS key in an external key store", shortened.
#[test]
fn an_event_is_read_compressed_or_not() {
    let bytes = file(&[event()]);
    for bytes in [compressed(&bytes), bytes] {
        let trail = read(&bytes).unwrap();
        let call = &trail.calls["f1b881f8-2048-41f8-b6cc-382b7857ec61"];
        assert_eq!(call.at_ms, 1_669_249_618_000);
        let view = View {
            name: "Decrypt".to_owned(),
            region: "us-west-2".to_owned(),
            error: None,
            callers: vec!["arn:aws:iam::111122223333:user/Alice".to_owned()],
            account: Some("111122223333".to_owned()),
            key_arns: vec!["arn:aws:kms:us-west-2:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321".to_owned()],
            external_key: Some("abc01234567890fe".to_owned()),
            custom_key_store: Some("cks-9876543210fedcba9".to_owned()),
        };
        assert_eq!(call.views, [Rc::new(view)]);
        assert_eq!((trail.files, trail.other_files, trail.events), (1, 0, 1));
    }
}

#[test]
fn what_is_kept_of_other_events() {
    let with = |path: &str, value: Value| {
        let mut event = event();
        *event.pointer_mut(path).unwrap() = value;
        event
    };
    for (what, event, calls) in [
        ("as it is", event(), 1),
        ("another service", with("/eventSource", json!("s3.amazonaws.com")), 0),
        ("no external key store", with("/additionalEventData", Value::Null), 0),
        ("other types everywhere", with("/requestParameters", json!(5)), 1),
        (
            "CreateKey",
            {
                let mut event = with("/eventName", json!("CreateKey"));
                event["requestParameters"] = event["additionalEventData"].take();
                event
            },
            1,
        ),
        (
            "DescribeKey",
            {
                let mut event = with("/eventName", json!("DescribeKey"));
                event["additionalEventData"].take();
                event
            },
            1,
        ),
    ] {
        let trail = read(&file(&[event])).unwrap();
        assert_eq!((trail.calls.len(), trail.events), (calls, 1), "{what}");
        assert_eq!(trail.coverage["us-west-2"], (1_669_249_618_000, 1_669_249_618_000), "{what}");
    }
    let twice = read(&file(&[event(), event(), with("/userIdentity/arn", Value::Null)])).unwrap();
    assert_eq!(
        twice.calls.values().map(|call| call.views.len()).collect::<Vec<_>>(),
        [2],
        "one call, seen from two accounts"
    );
}

#[test]
fn a_service_and_the_role_behind_a_session_are_callers() {
    for (identity, expected) in [
        (json!({ "type": "AWSService", "invokedBy": "ec2.amazonaws.com" }), vec!["ec2.amazonaws.com"]),
        (json!({ "type": "IAMUser", "arn": "a", "invokedBy": "AWS Internal" }), vec!["a"]),
        (
            json!({ "type": "AssumedRole", "arn": "session", "sessionContext": { "sessionIssuer": { "arn": "role" } } }),
            vec!["session", "role"],
        ),
        (json!({ "type": "AWSAccount", "accountId": "1" }), vec![]),
    ] {
        let mut event = event();
        event["userIdentity"] = identity;
        let trail = read(&file(&[event])).unwrap();
        assert_eq!(trail.calls.values().next().unwrap().views[0].callers, expected);
    }
}

#[test]
fn what_is_not_cloudtrails_is_refused_or_counted() {
    assert_eq!(read(br#"{"digestEndTime": "x"}"#).map(|trail| (trail.files, trail.other_files)), Ok((0, 1)));
    let mut long = event();
    long["requestID"] = json!("x".repeat(2049));
    let mut timeless = event();
    timeless["eventTime"].take();
    let torn = file(&[event()]);
    for (bytes, expected) in [
        (b"[]".to_vec(), "an object with Records"),
        (b"".to_vec(), "EOF"),
        (br#"{"Records": {}}"#.to_vec(), "an array of events"),
        (torn[..torn.len() - 2].to_vec(), "EOF"),
        ([&torn[..], b"x"].concat(), "trailing"),
        (file(&[long]), "too long"),
        (file(&[timeless]), "no eventTime"),
        (compressed(&torn)[..60].to_vec(), ""),
        (compressed(format!("{{\"Records\": [{}", " ".repeat(130 << 20)).as_bytes()), "more than 128 MiB"),
    ] {
        let error = read(&bytes).map(|trail| trail.events).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn folders_are_walked_and_digests_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let day = folder.path().join("AWSLogs/1/CloudTrail/us-west-2/2022/11/24");
    let digests = folder.path().join("AWSLogs/1/CloudTrail-Digest/us-west-2");
    for (folder, name) in [(&day, "b.json.gz"), (&day, "a.json"), (&day, "a.txt"), (&digests, "d.json.gz")] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), b"{}").unwrap();
    }
    std::os::unix::fs::symlink(folder.path(), day.join("loop")).unwrap();
    let found = sources(&[folder.path().to_owned(), day.join("a.json")]).unwrap();
    let names: Vec<_> = found.iter().map(|source| source.path.strip_prefix(&day).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.json", "b.json.gz"]);
    assert!(sources(&[folder.path().join("missing")]).is_err());
    let deep: PathBuf = std::iter::repeat_n("d", 20).collect();
    fs::create_dir_all(folder.path().join(deep)).unwrap();
    assert!(matches!(sources(&[folder.path().to_owned()]), Err(CloudTrailError::TooMany(_))));
}

#[test]
fn errors_steer_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("\u{1b}[2J.json");
    let mut long = event();
    long["requestID"] = json!(format!("\u{1b}[2J{}", "x".repeat(2049)));
    for bytes in [file(&[long]), br#"{"Records": "\u001b[2J"}"#.to_vec()] {
        fs::write(&path, bytes).unwrap();
        let [source] = &sources(&[folder.path().to_owned()]).unwrap()[..] else { panic!("one file") };
        let error = CloudTrail::default().read(source, 0, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("?[2J") && !error.contains('\u{1b}'), "{error:?}");
    }
    let error = sources(&[folder.path().join("\u{1b}")]).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
}
