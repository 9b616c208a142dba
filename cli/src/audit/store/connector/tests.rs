use super::*;

#[test]
fn plain_http_stays_on_this_machine() {
    for (address, loopback, metadata) in [
        ("127.0.0.1", true, true),
        ("127.9.9.9", true, true),
        ("::1", true, true),
        ("169.254.169.254", false, true),
        ("169.254.170.2", false, true),
        ("fd00:ec2::254", false, true),
        ("fd00:ec3::254", false, false),
        ("fe80::1", false, false),
        ("10.0.0.1", false, false),
        ("0.0.0.0", false, false),
        ("192.0.2.1", false, false),
    ] {
        let parsed = address.parse().unwrap();
        assert_eq!((Plain::Loopback.takes(parsed), Plain::Metadata.takes(parsed)), (loopback, metadata), "{address}");
    }
    for (host, expected) in
        [("localhost", true), ("[::1]", true), ("127.0.0.1", true), ("localhost.example.com", false), ("0", false)]
    {
        assert_eq!(is_loopback(host), expected, "{host}");
    }
}

#[test]
fn a_host_is_named_as_it_was_signed() {
    for (url, expected) in [
        ("https://s3.eu-central-1.amazonaws.com/bucket/x?y", "s3.eu-central-1.amazonaws.com"),
        ("https://s3.example.com:443/", "s3.example.com"),
        ("https://s3.example.com:8443/", "s3.example.com:8443"),
        ("http://127.0.0.1:8333/", "127.0.0.1:8333"),
        ("http://[::1]:80/", "[::1]"),
    ] {
        let target = Target::of(&url.parse().unwrap()).unwrap();
        assert_eq!(target.header().unwrap(), expected, "{url}");
    }
    assert_eq!(Target::of(&"http://[::1]:80/".parse().unwrap()).unwrap().host(), "::1");
    assert_eq!(Target::of(&"ftp://example.com/".parse().unwrap()), None);
    assert_eq!(Target::of(&"/path".parse().unwrap()), None);
}

#[test]
fn refusals() {
    let long = "x".repeat(5000);
    for (refusal, expected) in [
        ("<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>Please</Message></Error>", "SlowDown: Please"),
        ("<Error><Code>NoSuchKey</Code></Error>", "NoSuchKey"),
        ("<Error><Code>broken", "<Error><Code>broken"),
        ("", ""),
        (&long, &long[..REASON_MAX]),
    ] {
        assert_eq!(shortened(&Bytes::copy_from_slice(refusal.as_bytes())), expected);
    }
}
