use std::path::Path;

use super::*;

fn config(url: &str) -> TransitConfig {
    TransitConfig {
        url: url.to_owned(),
        mount: "transit".to_owned(),
        key: "holdfast".to_owned(),
        token_file: Path::new("/nowhere/token").to_owned(),
        roots: None,
        namespace: None,
    }
}

fn key() -> TransitKey {
    TransitKey::open(&config("http://127.0.0.1:1")).unwrap()
}

#[test]
fn a_url_has_tls_or_a_loopback_address() {
    for url in ["http://127.0.0.1:8200", "http://[::1]:8200/"] {
        assert!(TransitKey::open(&config(url)).is_ok(), "{url}");
    }
    let table = [
        ("http://localhost:8200", "http:// is refused for localhost"),
        ("http://vault.example.com:8200", "http:// is refused for vault.example.com"),
        ("https://vault.example.com:8200", "transit.roots is missing"),
        ("vault.example.com:8200", "write https://host:port"),
        ("http://127.0.0.1", "no host and port"),
        ("http://127.0.0.1:8200/v1", "no host and port"),
        ("http://user@127.0.0.1:8200", "http:// is refused"),
    ];
    for (url, expected) in table {
        let error = TransitKey::open(&config(url)).err().unwrap();
        assert!(matches!(error, KekError::Misconfigured { .. }), "{url}: {error}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
}

#[test]
fn names_cannot_leave_their_place_in_the_path() {
    for (name, slashes, fits) in [
        ("transit", true, true),
        ("team-1/transit_2", true, true),
        ("v1.2", false, true),
        ("team/key", false, false),
        ("..", true, false),
        ("a/../b", true, false),
        ("/a", true, false),
        ("a/", true, false),
        ("a//b", true, false),
        ("", true, false),
        ("a%2Fb", true, false),
        ("a?b", true, false),
        ("a#b", true, false),
        ("a b", true, false),
    ] {
        assert_eq!(is_path(name, slashes), fits, "{name:?}");
        let mut config = config("http://127.0.0.1:1");
        if slashes {
            config.mount = name.to_owned();
        } else {
            config.key = name.to_owned();
        }
        assert_eq!(TransitKey::open(&config).is_ok(), fits, "{name:?}");
    }
}

#[test]
fn a_ciphertext_is_that_of_transit() {
    for (text, fits) in [
        ("vault:v1:qRjXRl2zK6cUlGMsoNMvNhGr9fo+3Z/YjxA=", true),
        ("vault:v1:AAAA=", false),
        ("vault:v1:AAB=", false),
        ("vault:v1:AAA", false),
        ("vault:v0:AAAA", false),
        ("vault:v01:AAAA", false),
        ("vault:v+1:AAAA", false),
        ("vault:v12:AAAA", true),
        ("vault:v:AAAA", false),
        ("vault:v1:", false),
        ("vault:v1", false),
        ("vault:v12345678901:AAAA", false),
        ("vault:v-1:AAAA", false),
        ("vault:v1:AA\"AA", false),
        ("hsm:v1:AAAA", false),
        ("", false),
    ] {
        assert_eq!(is_ciphertext(text), fits, "{text:?}");
    }
    assert!(!is_ciphertext(&format!("vault:v1:{}", "A".repeat(WRAPPED_MAX))));
}

#[test]
fn a_body_is_json() {
    let text = body(&[("plaintext", &base64(b"hello")), associated(&base64(b"aad"))]);
    let value: serde_json::Value = serde_json::from_slice(text.expose()).unwrap();
    assert_eq!(value, serde_json::json!({ "plaintext": "aGVsbG8=", "associated_data": "YWFk" }));
    let longest = body(&[("ciphertext", &SecretBytes::new(vec![b'A'; WRAPPED_MAX])), associated(&base64(&[0; 200]))]);
    assert!(serde_json::from_slice::<serde_json::Value>(longest.expose()).is_ok());
}

/// The texts are those of `OpenBao` 2.7.
#[test]
fn every_refusal_says_what_to_do() {
    let key = key();
    let table = [
        (400, "cipher: message authentication failed", "does not open under this key-encryption key", false),
        (400, "invalid ciphertext length", "does not open under this key-encryption key", false),
        (400, "invalid ciphertext: version is too new", "does not open under this key-encryption key", false),
        (400, "ciphertext or signature version is disallowed by policy (too old)", "min_decryption_version", false),
        (400, "encryption key not found", "there is no such key", false),
        (400, "something new", "status 400: something new", true),
        (403, "permission denied", "renew the token", true),
        (404, "no handler for route \"x/encrypt/k\". route entry not found.", "no Transit engine at this mount", false),
        (429, "rate limit quota exceeded", "status 429", true),
        (307, "", "name the active server", true),
        (500, "internal error", "look at the server's log", true),
        (503, "Vault is sealed", "unseal it", true),
        (503, "local node not active", "status 503: local node not active", true),
    ];
    for (status, said, expected, passes) in table {
        let answer = SecretBytes::new(serde_json::json!({ "errors": [said] }).to_string().into_bytes());
        let error = key.refusal(StatusCode::from_u16(status).unwrap(), &answer);
        assert!(error.to_string().contains(expected), "{status} {said}: {error}");
        assert_eq!(error.may_pass(), passes, "{status} {said}: {error}");
    }
    for garbage in ["", "<html>", "{\"errors\":[1]}", "[]"] {
        let error = key.refusal(StatusCode::BAD_GATEWAY, &SecretBytes::new(garbage.as_bytes().to_vec()));
        assert!(matches!(error, KekError::Unavailable { .. }), "{garbage}: {error}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_not_quoted() {
    let answer = SecretBytes::new(b"{\"data\":{\"plaintext\":987654,\"other\":\"c2VjcmV0\"}}".to_vec());
    let error = key().parse::<Answer<Unwrapped<'_>>>(&answer).err().unwrap();
    assert!(!error.to_string().contains("c2VjcmV0") && !error.to_string().contains("987654"), "{error}");
}

#[tokio::test]
async fn a_missing_token_may_come_and_a_loose_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config("http://127.0.0.1:1");
    config.token_file = directory.path().join("token");
    let key = TransitKey::open(&config).unwrap();
    let error = key.token().await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("start the agent"), "{error}");
    state::write_private(&config.token_file, b"  \n").unwrap();
    let error = key.token().await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("holds no token"), "{error}");
    std::fs::write(&config.token_file, "s.abc\n").unwrap();
    assert_eq!(key.token().await.unwrap().expose(), b"s.abc");
    std::fs::write(&config.token_file, "s.abc\ns.def\n").unwrap();
    assert!(key.token().await.is_err());
    std::fs::set_permissions(&config.token_file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let error = key.token().await.unwrap_err();
    assert!(matches!(error, KekError::File(StateError::Mode { .. })), "{error}");
}
