use super::*;

async fn of_schema(kind: FileKind, text: &str) -> Vec<String> {
    let check = Check { kind: Some(kind), programs: None, schema_only: true };
    let (_, checked) = check.one(Path::new("F"), kind, text).await;
    assert_eq!(checked.valid, checked.findings.is_empty());
    let text = Report { files: vec![checked] }.to_string();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn examples_are_good() {
    for kind in [FileKind::Parent, FileKind::Custodian, FileKind::Static] {
        let said = of_schema(kind, kind.example()).await;
        assert!(said.first().unwrap().starts_with("F: good, by "), "{said:?}");
        let guessed = guess(Path::new(if kind == FileKind::Static { "F.json" } else { "F" }), kind.example());
        assert_eq!(guessed, Some(kind));
    }
}

#[tokio::test]
async fn all_is_told_at_once_with_lines() {
    let text = r#"
listen = "0.0.0.0:443"
ready_listen = 9080
max_connectoins = 10
first_byte_timeout_ms = 0
idle_timeout_ms = 99999999999999999999999999999
log_level = "inof"
key_stores = "key-stores"
static_configuration = "static.json"
ports_file = 1.5
[enclave]
cids = [16, 17, 18, 2]
[control]
listen = "vsock://4294967295:9001"
[egress]
listen = "vsock://4294967295:9002"
allow = "custodian.example.com:443"
[zzz]
"#;
    let expected = [
        "F: enclave.ingress",
        "F:3: ready_listen: must be a string, and is an integer",
        "F:4: max_connectoins: unknown field; did you mean max_connections?",
        "F:5: first_byte_timeout_ms: must be 1 to 86400000",
        "F:6: idle_timeout_ms: must be 1 to 86400000",
        "F:7: log_level: must be one of \"error\", \"warn\", \"info\", \"debug\"; did you mean info?",
        "F:10: ports_file: must be a string, and is a fraction",
        "F:12: enclave.cids: must have 1 to 2 entries",
        "F:12: enclave.cids[3]: must be 4 to 4294967294",
        "F:17: egress.allow: must be a list, and is a string",
        "F:18: zzz: unknown field",
    ];
    let said = of_schema(FileKind::Parent, text).await;
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for line in expected.iter().skip(1) {
        assert!(said.iter().any(|said| said == line), "{line}\n{said:#?}");
    }
    assert!(said.iter().any(|said| said.contains("enclave.ingress: is missing: Where the enclave takes")), "{said:#?}");
}

#[tokio::test]
async fn syntax_comes_first() {
    let said = of_schema(FileKind::Custodian, "name = \nlisten = \"a\n").await;
    assert!(
        said.len() >= 2 && said.iter().all(|line| line.starts_with("F:1:") || line.starts_with("F:2:")),
        "{said:?}"
    );
    let said = of_schema(FileKind::Static, "{\n \"regions\": [\"us-east-1\"],\n}").await;
    assert!(said.first().unwrap().starts_with("F:3: no JSON text"), "{said:?}");
    let said = of_schema(FileKind::Static, r#"{"regions":["us east"],"connections_max":1}"#).await;
    assert_eq!(said, ["F: static configuration: regions must have a-z, 0-9 and dashes only"]);
    let said = of_schema(FileKind::Static, r#"{"region":["us-east-1"],"connections_max":-1}"#).await;
    assert_eq!(said.len(), 3, "{said:?}");
}

#[tokio::test]
async fn nothing_steers_the_terminal() {
    let said = of_schema(FileKind::Parent, "\"a\\u001b[2Jb\" = 1\n").await;
    assert!(said.iter().any(|line| line.starts_with("F:1: a?[2Jb: unknown field")), "{said:?}");
    assert!(said.iter().all(|line| !line.contains('\u{1b}')));
}

#[test]
fn what_could_be_several_things_is_not_guessed() {
    for text in ["", "listen = \"127.0.0.1:1\"", "state = \"s\"\n[egress]\n"] {
        assert_eq!(guess(Path::new("F.toml"), text), None, "{text}");
    }
}
