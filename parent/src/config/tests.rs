use super::*;

const MINIMAL: &str = r#"listen = "127.0.0.1:0"
ready_listen = "127.0.0.1:0"
static_configuration = "static.json"
key_stores = "/etc/key-stores"
[enclave]
ingress = "vsock://16:9000"
[control]
listen = "vsock://3:9001"
[egress]
listen = "unix:///run/egress.sock"
[audit]
listen = "unix:///run/audit.sock"
folder = "audit"
"#;

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parent.toml");
    fs::write(&file, text).unwrap();
    Config::load(&file).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
}

#[test]
fn the_minimal_configuration_has_the_documented_defaults() {
    let config = load(MINIMAL).unwrap();
    assert_eq!(config.max_connections, 8192);
    assert_eq!(config.first_byte_timeout, Duration::from_secs(5));
    assert_eq!(config.idle_timeout, Duration::from_mins(5));
    assert_eq!(config.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.drain_grace, Duration::ZERO);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.egress.max_connections, 12_288);
    assert_eq!(config.egress.idle_timeout, Duration::from_mins(5));
    assert_eq!((config.log_format, config.log_level), (LogFormat::Text, LogLevel::Info));
    assert_eq!((config.ports_file, config.enclave.command, config.tracing), (None, None, None));
    assert_eq!(config.egress.allow, []);
    assert_eq!((config.audit.rotate_bytes, config.audit.keep_days), (16 * 1024 * 1024, None));
    assert!(config.audit.folder.is_absolute());
    assert_eq!(config.key_stores, Path::new("/etc/key-stores"));
    assert!(config.static_configuration.is_absolute());
}

/// Files from before there was an audit log.
#[test]
fn a_configuration_without_an_audit_section_has_one_for_instances() {
    let config = load(MINIMAL.split("[audit]").next().unwrap()).unwrap();
    assert_eq!(config.audit.listen.to_string(), "vsock://4294967295:9003");
    assert_eq!(config.audit.folder, Path::new("/var/lib/holdfast/audit"));
    assert_eq!((config.audit.rotate_bytes, config.audit.keep_days), (16 * 1024 * 1024, None));
    let folder = load(&MINIMAL.replace("folder = \"audit\"", "")).unwrap().audit.folder;
    assert_eq!(folder, Path::new("/var/lib/holdfast/audit"));
}

#[test]
fn too_few_egress_connections_are_noticed() {
    let mut egress = load(MINIMAL).unwrap().egress;
    assert_eq!(egress.needed_for(holdfast_link::limits::KEY_STORES_MAX), None);
    egress.max_connections = 5;
    for (key_stores, expected) in [(0, None), (2, None), (3, Some(6))] {
        assert_eq!(egress.needed_for(key_stores), expected, "{key_stores}");
    }
}

#[test]
fn the_example_is_a_configuration() {
    let example = include_str!("../../parent.example.toml");
    assert!(load(example).is_ok());
    // What the example has in comments are the defaults, but for what has none; they must be right fields as well.
    let all: String = example
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut config = load(&all).unwrap();
    assert!(
        config.nitro.is_some()
            && config.ports_file.is_some()
            && config.aws.is_some()
            && config.audit.keep_days.is_some()
            && config.tracing.is_some()
    );
    let mut without = load(example).unwrap();
    assert_eq!((config.cids(), without.cids()), ([16, 17].as_slice(), [16, 17].as_slice()));
    // These have no default, and files are beside the configuration, which each time is in another folder.
    (config.ports_file, config.aws, config.enclave.cids) = (None, None, None);
    let tracing = config.tracing.take().unwrap();
    let given = load(&format!("{MINIMAL}[tracing]\ncollector = \"{}\"", tracing.collector)).unwrap().tracing;
    assert_eq!(given, Some(tracing), "which has the defaults");
    config.audit.keep_days = None;
    for config in [&mut config, &mut without] {
        let own = config.file.parent().unwrap().to_owned();
        let nitro = config.nitro.as_mut().unwrap();
        for path in [&mut config.static_configuration, &mut config.key_stores, &mut nitro.eif] {
            *path = path.strip_prefix(&own).unwrap().to_owned();
        }
        config.file = PathBuf::new();
    }
    assert_eq!(config, without);
}

#[test]
fn an_error_names_file_line_and_field() {
    let with = |line: &str| format!("{line}\n{MINIMAL}");
    let traced = |collector: &str, line: &str| format!("{MINIMAL}[tracing]\ncollector = \"{collector}\"\n{line}");
    for (text, expected) in [
        (with("colour = 1"), "/parent.toml:1: unknown field `colour`"),
        (with("idle_timeout_ms = 0"), "/parent.toml:1: must be from 1 to 86400000 (in `idle_timeout_ms = 0`)"),
        (with("idle_timeout_ms = \"5 s\""), "/parent.toml:1: invalid type: string \"5 s\""),
        (with("idle_timeout_ms = -1"), "/parent.toml:1: invalid value"),
        (with("drain_grace_ms = 86400001"), "(in `drain_grace_ms = 86400001`)"),
        (with("max_connections = 0"), "/parent.toml:1: must be from 1 to 65536 (in `max_connections = 0`)"),
        (with("log_format = \"xml\""), "/parent.toml:1: unknown variant `xml`"),
        (with("listen = \"127.0.0.1:1\""), "/parent.toml:2: duplicate key"),
        (MINIMAL.replace("vsock://16:9000", "vsock://16"), "/parent.toml:6: expected vsock://CID:PORT"),
        (MINIMAL.replace("127.0.0.1:0", "localhost:0"), "/parent.toml:1: invalid socket address"),
        (
            MINIMAL.replace("[audit]", "allow = [\n\"a.example:443\",\n\"A:443\"]\n[audit]"),
            "/parent.toml:11: \"A:443\": expected host:port",
        ),
        (MINIMAL.replace("[control]", "command = []\n[control]"), "/parent.toml:7: must name a program"),
        (
            format!("{MINIMAL}[aws]\ncredentials = \"none\""),
            "/parent.toml:15: unknown variant `none`, expected `instance-role`",
        ),
        (format!("{MINIMAL}[aws]"), "missing field `credentials`"),
        (
            format!("{MINIMAL}[aws]\ncredentials = \"instance-role\"\ninstance_metadata = \"10.0.0.1:80\""),
            "/parent.toml:16: must be a loopback or link-local address",
        ),
        (format!("{MINIMAL}[tracing]"), "missing field `collector`"),
        (traced("http://127.0.0.1:1", "colour = 1"), "/parent.toml:16: unknown field `colour`"),
        (traced("http://127.0.0.1:1", "one_in = 0"), "/parent.toml:16: must be from 1 on"),
        (traced("http://127.0.0.1:1", "per_second = 0"), "/parent.toml:16: must be from 1 to 100"),
        (traced("http://127.0.0.1:1", "per_second = 101"), "/parent.toml:16: must be from 1 to 100"),
        (traced("http://127.0.0.1:1", "slow_ms = 0"), "/parent.toml:16: must be from 1 to 86400000"),
        (
            format!("{MINIMAL}[nitro]\neif = \"x\"\nmemory_mib = 1\ndebug_mode = true"),
            "/parent.toml:17: unknown field `debug_mode`",
        ),
        (format!("{MINIMAL}[nitro]\neif = \"x\"\nmemory_mib = 0"), "/parent.toml:16: must be from 1 to 4194304"),
        (format!("{MINIMAL}[nitro]\neif = \"x\"\nmemory_mib = 1"), "exactly one of cpu_count and cpu_ids"),
        (
            format!("{MINIMAL}[nitro]\neif = \"x\"\nmemory_mib = 1\ncpu_ids = [1]"),
            "nitro.cpu_ids: two enclaves cannot have the same CPUs",
        ),
        (
            format!("{MINIMAL}[nitro]\neif = \"x\"\nmemory_mib = 1\ncpu_count = 1"),
            "enclave.ingress: must contain {cid}",
        ),
        (
            MINIMAL.replace("[control]", "command = [\"x\"]\n[control]")
                + "[nitro]\neif = \"x\"\nmemory_mib = 1\ncpu_count = 1",
            "enclave.command and nitro: at most one",
        ),
        (MINIMAL.replace("[control]", "cids = [16]\n[control]"), "enclave.cids: needs enclave.command or nitro"),
        (MINIMAL.replace("[egress]", "colour = 1\n[egress]"), "/parent.toml:9: unknown field `colour`"),
        (format!("{MINIMAL}rotate_bytes = 1"), "/parent.toml:14: must be from 1048576 to 1073741824"),
        (format!("{MINIMAL}keep_days = 0"), "/parent.toml:14: must be from 1 to 36500"),
        (MINIMAL.replace("[control]\nlisten = \"vsock://3:9001\"\n", ""), "missing field `control`"),
        ("listen".to_owned(), "/parent.toml:1: "),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.contains(expected), "{error}\nshould have: {expected}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_collector_is_near() {
    let collector = |text: &str| load(&format!("{MINIMAL}[tracing]\ncollector = \"{text}\""));
    for near in [
        "http://127.0.0.1:4318",
        "http://10.1.2.3:4318",
        "http://172.31.0.1:4318",
        "http://192.168.0.1:80",
        "http://169.254.3.4:4318",
        "http://[::1]:4318",
        "http://[fd00::1]:4318",
        "http://[fe80::1]:4318",
        "unix:///run/otelcol/otlp.sock",
    ] {
        assert_eq!(collector(near).unwrap().tracing.unwrap().collector.to_string(), near);
    }
    for refused in [
        "http://93.184.216.34:4318",
        "http://172.32.0.1:4318",
        "http://[2001:db8::1]:4318",
        "http://0.0.0.0:4318",
        "http://collector:4318",
        "http://127.0.0.1",
        "http://127.0.0.1:4318/",
        "https://127.0.0.1:4318",
        "127.0.0.1:4318",
        "unix://relative",
        "vsock://3:4318",
        "",
    ] {
        let error = collector(refused).unwrap_err();
        assert!(error.contains("/parent.toml:15: must be http://ADDRESS:PORT"), "{refused}: {error}");
    }
}

#[test]
fn the_static_configuration_is_read_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = load(MINIMAL).unwrap();
    config.static_configuration = folder.path().join("static.json");
    config.key_stores = folder.path().to_owned();
    let text = "{ \"b\" : 1,\r\n\t\"a\": \"\u{e9}\" }\n\n";
    fs::write(&config.static_configuration, text).unwrap();
    assert_eq!(config.load_static_configuration().unwrap(), text);

    fs::write(&config.static_configuration, "{").unwrap();
    assert!(matches!(config.load_static_configuration(), Err(ConfigError::StaticConfiguration { .. })));
    fs::write(&config.static_configuration, b"\"\xff\"").unwrap();
    assert!(matches!(config.load_static_configuration(), Err(ConfigError::Encoding { .. })));
    fs::write(&config.static_configuration, vec![b' '; STATIC_CONFIGURATION_MAX + 1]).unwrap();
    assert!(matches!(config.load_static_configuration(), Err(ConfigError::Length { .. })));
    fs::write(&config.static_configuration, "{}").unwrap();
    config.key_stores = folder.path().join("nowhere");
    assert!(matches!(config.load_static_configuration(), Err(ConfigError::KeyStores { .. })));
}

/// Every section and every field that may stand beside the others.
const FULL: &str = r#"
listen = "0.0.0.0:443"
ready_listen = "127.0.0.1:9080"
static_configuration = "static.json"
key_stores = "key-stores"
[enclave]
ingress = "vsock://{cid}:8443"
cids = [16, 17]
[nitro]
eif = "holdfast.eif"
cpu_count = 2
memory_mib = 1024
[control]
listen = "vsock://4294967295:9001"
[egress]
listen = "vsock://4294967295:9002"
allow = ["custodian.example.com:443"]
[audit]
[aws]
credentials = "instance-role"
[tracing]
collector = "http://127.0.0.1:4318"
"#;

#[test]
fn the_schema_says_what_is_taken() {
    use holdfast_tests::reference::{assert_agreement, assert_schema_current, schema_of};

    let schema = schema_of::<Config>(
        "parent.toml",
        "Configuration of `holdfast-parent`. Relative paths are relative to the file; unknown fields are refused. Addresses on the \
         enclave's side are `vsock://CID:PORT`, `unix:///PATH` or `hybrid:///PATH:PORT`, where `{cid}` stands for the context id that \
         the parent gives an enclave.",
    );
    assert_schema_current("parent.schema.json", &schema);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parent.toml");
    let base = toml::from_str(FULL).unwrap();
    assert_agreement(&schema, &[base], &|document| {
        fs::write(&file, toml::to_string(document).unwrap()).unwrap();
        Config::load(&file).map(|config| format!("{config:?}")).map_err(|error| error.to_string())
    });
}
