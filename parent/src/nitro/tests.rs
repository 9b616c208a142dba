use super::*;

/// As nitro-cli 1.4 prints it (Nitro Enclaves User Guide, `nitro-cli describe-enclaves`; measurements as in
/// `src/common/json_output.rs` of aws-nitro-enclaves-cli).
const DESCRIBED: &str = r#"[
  {
    "EnclaveName": "holdfast-16",
    "EnclaveID": "i-abc12345def67890a-enc9876abcd543210ef12",
    "ProcessID": 12345,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "CPUIDs": [
      1,
      3
    ],
    "MemoryMiB": 1600,
    "State": "RUNNING",
    "Flags": "NONE",
    "Measurements": {
      "HashAlgorithm": "Sha384 { ... }",
      "PCR0": "aa",
      "PCR1": "bb",
      "PCR2": "cc"
    }
  }
]"#;

fn output(stdout: &str) -> Output {
    Output { status: ExitStatus::default(), stdout: stdout.into(), stderr: Vec::new() }
}

fn config() -> NitroConfig {
    toml::from_str("eif = \"/x.eif\"\ncpu_count = 2\nmemory_mib = 1600").unwrap()
}

#[test]
fn the_documented_outputs_are_read() {
    let enclaves: Vec<EnclaveInfo> = output(DESCRIBED).json("describe-enclaves").unwrap();
    let [enclave] = enclaves.as_slice() else { panic!("{enclaves:?}") };
    assert!(enclave.is_running() && !enclave.may_be_debugged());
    assert_eq!(enclave.id, "i-abc12345def67890a-enc9876abcd543210ef12");
    // Issue 273 of aws-nitro-enclaves-cli, where both outputs are in one.
    let run = "Start allocating memory...\nStarted enclave with enclave-cid: 42, memory: 20000 MiB\n{\n  \"EnclaveID\": \
               \"i-04e1bfe628305b166-enc17aab64b3f7703d\",\n  \"ProcessID\": 7885,\n  \"EnclaveCID\": 42,\n  \
               \"NumberOfCPUs\": 8,\n  \"CPUIDs\": [1, 9],\n  \"MemoryMiB\": 20000,\n  \"New\": {}\n}\n";
    let enclave: EnclaveInfo = output(run).json("run-enclave").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((enclave.cid, enclave.memory_mib, enclave.state), (42, 20_000, None));
    assert!(output("[]").json::<Vec<EnclaveInfo>>("describe-enclaves").unwrap().is_empty());
    for wrong in ["", "no", "{}", "[{\"EnclaveID\": 1}]"] {
        assert!(output(wrong).json::<Vec<EnclaveInfo>>("describe-enclaves").is_err(), "{wrong}");
    }
}

#[test]
fn an_enclave_is_run_as_configured_and_never_in_debug_mode() {
    let text = |config: &NitroConfig| {
        let words = run_arguments(config, 17).into_iter().map(|word| word.into_string().unwrap());
        words.collect::<Vec<_>>().join(" ")
    };
    let expected = "--enclave-name holdfast-17 --enclave-cid 17 --eif-path /x.eif --memory 1600 --cpu-count 2";
    assert_eq!(text(&config()), expected);
    let listed = NitroConfig { cpu_count: None, cpu_ids: Some(vec![1, 3]), ..config() };
    assert!(text(&listed).ends_with("--cpu-ids 1 3"));
    assert!(!text(&listed).contains("debug"));
    let error =
        toml::from_str::<NitroConfig>("eif = \"x\"\ncpu_count = 2\nmemory_mib = 1\ndebug_mode = true").unwrap_err();
    assert!(error.message().contains("debug_mode"), "{error}");
}

#[test]
fn only_an_enclave_like_ours_is_adopted() {
    let found: Vec<EnclaveInfo> = serde_json::from_str(DESCRIBED).unwrap();
    let found = found.into_iter().next().unwrap();
    let image = found.measurements.clone();
    let other = image.clone().map(|image| ImageMeasurements { pcr0: "ab".to_owned(), ..image });
    let with = |change: &dyn Fn(&mut EnclaveInfo)| {
        let mut found = found.clone();
        change(&mut found);
        found
    };
    assert!(is_wanted(&found, &config(), image.as_ref()));
    assert!(is_wanted(&found, &config(), None), "an image that cannot be described is no reason to end what serves");
    for (what, found, image) in [
        ("another image", found.clone(), other.as_ref()),
        ("no measurements", with(&|found| found.measurements = None), image.as_ref()),
        ("debug mode", with(&|found| found.flags = Some("DEBUG_MODE".to_owned())), image.as_ref()),
        ("flags unknown", with(&|found| found.flags = None), image.as_ref()),
        ("terminating", with(&|found| found.state = Some("TERMINATING".to_owned())), image.as_ref()),
        ("debug mode, and no image", with(&|found| found.flags = Some("DEBUG_MODE".to_owned())), None),
        ("more memory", with(&|found| found.memory_mib = 3200), image.as_ref()),
        ("more CPUs", with(&|found| found.cpus = 4), image.as_ref()),
    ] {
        assert!(!is_wanted(&found, &config(), image), "{what}");
    }
}
