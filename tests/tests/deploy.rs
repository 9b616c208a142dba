//! What is deployed besides programs: systemd units, `CloudFormation` templates, the sender of metrics.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_tests::process::run;
use holdfast_tests::programs::program;
use holdfast_tests::python::interpreter;
use holdfast_tests::system::{Options, System};
use serde_json::Value;

fn deployed(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(folder)
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(deployed(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn texts(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Needs systemd-analyze: `scripts/install-prerequisites tests`.
fn systemd_analyze(arguments: &[&str]) -> Output {
    run(Command::new("systemd-analyze").args(arguments))
}

#[test]
fn the_units_are_understood_and_name_programs_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let units = [files("systemd", "service"), files("systemd", "timer")].concat();
    // The programs are where the build put them, not where a package does.
    for unit in &units {
        let mut text = std::fs::read_to_string(unit).unwrap();
        for name in ["holdfast-parent", "holdfast-custodian"] {
            text = text.replace(&format!("/usr/bin/{name}"), program(name).to_str().unwrap());
        }
        text =
            text.replace("/usr/bin/holdfast-metrics", deployed("metrics").join("holdfast-metrics").to_str().unwrap());
        text = text.replace("/usr/bin/holdfast ", &format!("{} ", program("holdfast").display()));
        std::fs::write(folder.path().join(unit.file_name().unwrap()), text).unwrap();
    }
    let copies: Vec<_> = units.iter().map(|unit| folder.path().join(unit.file_name().unwrap())).collect();
    let mut arguments = vec!["verify", "--man=no"];
    arguments.extend(copies.iter().map(|copy| copy.to_str().unwrap()));
    let output = systemd_analyze(&arguments);
    let said = texts(&output);
    let folder = folder.path().to_str().unwrap();
    assert!(output.status.success() && !said.contains(folder) && !said.contains("holdfast-"), "{said}");
}

#[test]
fn the_units_are_confined() {
    // Of 100; below 20 is what systemd calls good, and what each has is close to what it can do without.
    for (unit, threshold) in [
        ("holdfast-parent", "23"),
        ("holdfast-custodian", "15"),
        ("holdfast-metrics", "15"),
        ("holdfast-audit-upload", "18"),
    ] {
        let path = deployed("systemd").join(format!("{unit}.service"));
        let threshold = format!("--threshold={threshold}");
        let output = systemd_analyze(&["security", "--offline=true", "--no-pager", &threshold, path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", texts(&output));
    }
    let parent = std::fs::read_to_string(deployed("systemd").join("holdfast-parent.service")).unwrap();
    for needed in ["DeviceAllow=/dev/nitro_enclaves rw", "AF_VSOCK", "KillMode=process", "SupplementaryGroups=ne"] {
        assert!(parent.contains(needed), "{needed}");
    }
}

#[test]
fn the_templates_are_what_cloudformation_takes() {
    let templates = files("cloudformation", "yaml");
    let lint = interpreter().with_file_name("cfn-lint");
    // A region of each partition whose schemas cfn-lint has.
    for region in ["eu-central-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"] {
        let mut command = Command::new(&lint);
        command.args(["--regions", region, "--include-checks", "I", "--template"]).args(&templates);
        let output = run(&mut command);
        assert!(output.status.success(), "{region}: {}", texts(&output));
    }
}

/// Partition and suffix are told, and never derived from where the template is used.
#[test]
fn the_templates_derive_no_partition() {
    for template in files("cloudformation", "yaml") {
        let text = std::fs::read_to_string(&template).unwrap();
        for derived in ["AWS::Partition", "AWS::URLSuffix", "AWS::Region", "arn:aws:", "amazonaws.com}"] {
            assert!(!text.contains(derived), "{}: {derived}", template.display());
        }
        if text.contains("arn:$") {
            assert!(text.contains("AllowedValues: [aws, aws-us-gov, aws-cn, aws-eusc]"), "{}", template.display());
        }
    }
}

/// An archive may have been packed under any umask, and what root may read, the service may not.
#[test]
fn the_instance_is_checked_as_the_user_that_serves_and_signals_once_it_does() {
    let template = std::fs::read_to_string(deployed("cloudformation").join("service.yaml")).unwrap();
    let guide = std::fs::read_to_string(deployed("../docs").join("ec2.md")).unwrap();
    for text in [&template, &guide] {
        let mut rest = text.as_str();
        for step in [
            "chmod -R u=rwX,g=rX,o= /etc/holdfast",
            "chmod -R u=rwX,go=rX /usr/share/holdfast /usr/bin/holdfast-parent",
            "runuser -u holdfast -- holdfast-parent --config /etc/holdfast/parent.toml --check-instance",
            "systemctl enable --now holdfast-parent.service",
        ] {
            rest = rest.split_once(step).unwrap_or_else(|| panic!("no {step}, or not in order")).1;
        }
    }
    let (script, group) = template.split_once("AWS::AutoScaling::AutoScalingGroup").unwrap();
    let served = script.split_once("http://127.0.0.1:9080/ready").unwrap().1;
    assert!(served.contains("cfn-signal --success true") && served.contains("--resource Group"));
    assert!(group.contains("WaitOnResourceSignals: true"));
}

/// The metrics that alarms of ours wait for are those that are sent, and those are fields of the real status page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_are_what_the_parent_says() {
    let system = System::start(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let script = deployed("metrics").join("holdfast-metrics");
    let sent = |ready_listen: &str| {
        let mut command = Command::new(interpreter());
        let url = format!("http://{ready_listen}/status");
        command.arg(&script).args(["--print", "--url", &url, "--state"]).arg(folder.path());
        let output = run(&mut command);
        let data: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", texts(&output)));
        let metric = |metric: &Value| {
            assert_eq!(metric["Dimensions"][0]["Name"], "Group");
            (metric["MetricName"].as_str().unwrap().to_owned(), metric["Value"].as_f64().unwrap())
        };
        data.as_array().unwrap().iter().map(metric).collect::<BTreeMap<_, _>>()
    };
    system.reports("Serving", "").await;
    let address = system.ready_listen.to_string();
    let first = sent(&address);
    assert_eq!((first["Ready"], first["KeyStoresServing"], first["KeyStoresNotServing"]), (1.0, 1.0, 0.0), "{first:?}");
    assert!(first["LeaseRemaining"] > 0.0 && first["LeaseRemaining"] <= 3600.0, "{first:?}");
    let counters = system.parent_status().await["counters"].clone();
    assert_eq!(first["EnclaveUnreachable"].to_string(), counters["ingress_enclave_unreachable"].to_string());
    assert!(sent(&address)["EnclaveUnreachable"] < 1.0, "what was sent is not sent again");

    let alarms = std::fs::read_to_string(deployed("cloudformation").join("alarms.yaml")).unwrap();
    let mut waited_for = BTreeSet::new();
    for alarm in alarms.split("Namespace: ").skip(1).filter(|alarm| alarm.starts_with("Holdfast\n")) {
        waited_for.insert(alarm.split("MetricName: ").nth(1).unwrap().lines().next().unwrap().to_owned());
    }
    assert!(waited_for.len() >= 5, "{waited_for:?}");
    for name in waited_for {
        assert!(first.contains_key(&name), "no {name} is sent: {first:?}");
    }
    for name in [
        "XksProxyCertificateDaysToExpire",
        "XksProxyCredentialAge",
        "XksProxyErrors",
        "XksExternalKeyManagerStates",
        "XksProxyLatency",
        "ExternalKeyStoreThrottle",
    ] {
        assert!(alarms.contains(name), "no alarm on {name}");
    }

    // Where nothing listens, that is what is said.
    let nobody = sent("127.0.0.1:1");
    assert_eq!(nobody, BTreeMap::from([("Ready".to_owned(), 0.0)]));
}
