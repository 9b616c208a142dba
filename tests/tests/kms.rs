//! `holdfast-dev kms`: AWS's own clients go through AWS's own procedure, in front of the whole system, and every failure is told as KMS
//! tells it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::kms::{Kms, Told};
use holdfast_tests::system::{HOST_NAME as LOCALHOST, KEY as OUR_KEY, Options, REGION, System};
use holdfast_tests::wait::until;
use holdfast_tests::xks_proxy::{Flaw, KEY, XksProxy};
use serde_json::{Value, json};
use tempfile::TempDir;

const VPC_SERVICE: &str = "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0";

fn our_proxy(system: &System) -> Told {
    Told {
        host_name: LOCALHOST.to_owned(),
        listen: system.listen,
        uri_path: "/kms/xks/v1".to_owned(),
        ca: system.authority.certificate_file.clone(),
        access_key_id: system.credential.access_key_id.clone(),
        secret_access_key: system.credential.secret_access_key.clone(),
    }
}

async fn other_proxy(folder: &Path, flaw: Flaw) -> (XksProxy, Told) {
    let proxy = XksProxy::start(folder, flaw).await;
    let told = Told::of(&proxy);
    (proxy, told)
}

/// The lines of the operator's tool, AWS's CLI, its libraries, and then the audit log against CloudTrail's files.
#[tokio::test(flavor = "multi_thread")]
async fn aws_clients_use_the_whole_system_and_cloudtrail_agrees_with_the_log() {
    let system = System::start(Options::default()).await;
    let folder = TempDir::new().unwrap();
    let kms = Kms::start(folder.path(), &our_proxy(&system), &[]).await;
    let out = folder.path().join("store.json");
    let arguments = ["kms", "config", "--region", REGION, "--key", OUR_KEY, "--out", out.to_str().unwrap(), "--json"];
    let shown = system.administrator.holdfast(&arguments).shown();
    let lines: Vec<&str> = shown["commands"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let [create, connect, key] = lines[..] else { panic!("{shown:#}") };
    let script = format!(
        "{create}\n{connect}\n\
         until [ $(aws kms describe-custom-key-stores --custom-key-store-id $CUSTOM_KEY_STORE_ID \
         --query 'CustomKeyStores[0].ConnectionState' --output text) != CONNECTING ]; do sleep 0.1; done\n\
         KEY_ID=$({key} --query KeyMetadata.KeyId --output text)\n\
         aws kms create-alias --alias-name alias/payments --target-key-id $KEY_ID\n\
         printf 'a secret of ours' > plain\n\
         aws kms encrypt --key-id alias/payments --plaintext fileb://plain --encryption-context a=b \
         --query CiphertextBlob --output text | base64 -d > sealed\n\
         aws kms decrypt --ciphertext-blob fileb://sealed --encryption-context a=b --query Plaintext --output text | base64 -d"
    );
    let output = kms.shell(&script, folder.path());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{}", kms.log());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with("a secret of ours"), "{said}\n{complaint}");

    let output = kms.python("kms_clients.py", &["alias/payments"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert_eq!(said.lines().count(), 3, "{said}");

    reconciled(&system, &kms.state).await;
    system.assert_no_panic();
}

/// Nothing is missing on either side, and more than one answered request was compared.
async fn reconciled(system: &System, state: &Path) {
    let (log, trail) = (system.layout.path("parent/audit"), state.join("cloudtrail"));
    let arguments =
        ["audit", "reconcile", "--log", log.to_str().unwrap(), "--cloudtrail", trail.to_str().unwrap(), "--json"];
    // The newest records reach the parent's disk a little after the answers.
    let shown = until("the log has every call", || async {
        let shown = system.administrator.holdfast(&arguments).shown();
        (shown["reconciled"] == json!(true)).then_some(shown)
    })
    .await;
    assert!(shown["matched"].as_u64().unwrap() > 10, "{shown:#}");
}

/// What is wrong with a proxy when a key store is made, and when one is connected that was made without a look.
#[tokio::test(flavor = "multi_thread")]
async fn a_flaw_is_told_when_a_key_store_is_made_and_connected() {
    let table = [
        (Flaw::UnknownAuthority, "XksProxyUriUnreachableException", "XKS_PROXY_INVALID_TLS_CONFIGURATION"),
        (Flaw::Expired, "XksProxyUriUnreachableException", "XKS_PROXY_INVALID_TLS_CONFIGURATION"),
        (Flaw::OtherName, "XksProxyUriUnreachableException", "XKS_PROXY_INVALID_TLS_CONFIGURATION"),
        (Flaw::Closes, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
        (Flaw::OtherPath, "XksProxyInvalidConfigurationException", "XKS_PROXY_INVALID_CONFIGURATION"),
        (Flaw::NotJson, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
        (Flaw::Oversized, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
        (Flaw::Redirects, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
        (Flaw::MissingField, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
        (Flaw::Unavailable, "XksProxyUriUnreachableException", "XKS_PROXY_NOT_REACHABLE"),
        (Flaw::OtherSecret, "XksProxyIncorrectAuthenticationCredentialException", "INVALID_CREDENTIALS"),
        (Flaw::Fails, "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ];
    for (flaw, exception, code) in table {
        let folder = TempDir::new().unwrap();
        let (_proxy, told) = other_proxy(folder.path(), flaw).await;
        let kms = Kms::start(folder.path(), &told, &["--vpc-endpoint-service", VPC_SERVICE]).await;
        let (kind, message) = kms.refusal("CreateCustomKeyStore", &told.store("store")).await;
        assert_eq!(kind, exception, "{flaw:?}: {message}");
        assert_eq!(kms.ask("DescribeCustomKeyStores", &json!({})).await["CustomKeyStores"], json!([]), "{flaw:?}");
        let mut through_vpc = told.store("store");
        through_vpc["XksProxyConnectivity"] = json!("VPC_ENDPOINT_SERVICE");
        through_vpc["XksProxyVpcEndpointServiceName"] = json!(VPC_SERVICE);
        let store = kms.ask("CreateCustomKeyStore", &through_vpc).await;
        let id = store["CustomKeyStoreId"].as_str().unwrap();
        assert_eq!(kms.connect(id).await, ("FAILED".to_owned(), Some(code.to_owned())), "{flaw:?}");
        let by_id = json!({ "CustomKeyStoreId": id });
        assert_eq!(kms.refusal("ConnectCustomKeyStore", &by_id).await.0, "CustomKeyStoreInvalidStateException");
        kms.ask("DisconnectCustomKeyStore", &by_id).await;
    }
}

/// What is wrong with an external key, or with what the proxy makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flaw_of_a_key_is_told_when_it_is_made_or_used() {
    let at_creation = [
        (Flaw::Disabled, "XksKeyInvalidConfigurationException"),
        (Flaw::Short, "XksKeyInvalidConfigurationException"),
        (Flaw::EncryptOnly, "XksKeyInvalidConfigurationException"),
    ];
    for (flaw, exception) in at_creation {
        let folder = TempDir::new().unwrap();
        let (_proxy, told) = other_proxy(folder.path(), flaw).await;
        let kms = Kms::start(folder.path(), &told, &[]).await;
        let store = kms.ask("CreateCustomKeyStore", &told.store("store")).await;
        kms.connect(store["CustomKeyStoreId"].as_str().unwrap()).await;
        let mut key = json!({ "Origin": "EXTERNAL_KEY_STORE", "XksKeyId": KEY });
        key["CustomKeyStoreId"] = store["CustomKeyStoreId"].clone();
        assert_eq!(kms.refusal("CreateKey", &key).await.0, exception, "{flaw:?}");
        key["XksKeyId"] = json!("nobody");
        assert_eq!(kms.refusal("CreateKey", &key).await.0, "XksKeyNotFoundException", "{flaw:?}");
    }
    for flaw in [Flaw::NoIntegrity, Flaw::OtherIntegrity, Flaw::TagAppended] {
        let folder = TempDir::new().unwrap();
        let (_proxy, told) = other_proxy(folder.path(), flaw).await;
        let kms = Kms::start(folder.path(), &told, &[]).await;
        let (_, key) = kms.store_and_key(&told, KEY).await;
        let encrypt = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
        let (kind, message) = kms.refusal("Encrypt", &encrypt).await;
        assert_eq!(kind, "KMSInvalidStateException", "{flaw:?}");
        assert!(message.starts_with("AWS KMS cannot interpret the response"), "{flaw:?}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_states_are_checked_as_kms_checks_them() {
    let folder = TempDir::new().unwrap();
    let (_proxy, told) = other_proxy(folder.path(), Flaw::None).await;
    let kms = Kms::start(folder.path(), &told, &[]).await;
    let (store, key) = kms.store_and_key(&told, KEY).await;
    let with = |fields: Value, changes: Value| {
        let mut fields = fields;
        fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        fields
    };
    let other = || told.store("other");
    let by_id = json!({ "CustomKeyStoreId": store });
    let by_key = json!({ "KeyId": key });
    let new_key = json!({ "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": KEY });
    let endpoint = |text: &str| json!({ "XksProxyUriEndpoint": text });
    let table = [
        ("CreateCustomKeyStore", told.store("store"), "CustomKeyStoreNameInUseException"),
        ("CreateCustomKeyStore", other(), "XksProxyUriInUseException"),
        ("CreateCustomKeyStore", with(other(), endpoint("https://xks.example.com:443")), "ValidationException"),
        ("CreateCustomKeyStore", with(other(), json!({ "XksProxyUriPath": "/kms/xks" })), "ValidationException"),
        ("CreateCustomKeyStore", with(other(), json!({ "CustomKeyStoreType": null })), "UnsupportedOperationException"),
        (
            "CreateCustomKeyStore",
            with(
                other(),
                json!({ "XksProxyAuthenticationCredential": { "AccessKeyId": "A", "RawSecretAccessKey": "b" } }),
            ),
            "ValidationException",
        ),
        (
            "CreateCustomKeyStore",
            with(
                other(),
                json!({ "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE", "XksProxyUriPath": "/b/kms/xks/v1" }),
            ),
            "ValidationException",
        ),
        ("DeleteCustomKeyStore", by_id.clone(), "CustomKeyStoreInvalidStateException"),
        (
            "UpdateCustomKeyStore",
            with(by_id.clone(), endpoint("https://other.test")),
            "CustomKeyStoreInvalidStateException",
        ),
        ("ConnectCustomKeyStore", json!({ "CustomKeyStoreId": "cks-0" }), "CustomKeyStoreNotFoundException"),
        ("DescribeCustomKeyStores", json!({ "CustomKeyStoreName": "nobody" }), "CustomKeyStoreNotFoundException"),
        ("CreateKey", new_key.clone(), "XksKeyAlreadyInUseException"),
        ("CreateKey", with(new_key.clone(), json!({ "XksKeyId": "a/b" })), "ValidationException"),
        ("CreateKey", with(new_key.clone(), json!({ "Origin": "AWS_KMS" })), "UnsupportedOperationException"),
        ("CreateKey", with(new_key.clone(), json!({ "MultiRegion": true })), "UnsupportedOperationException"),
        ("DescribeKey", json!({ "KeyId": "alias/nobody" }), "NotFoundException"),
        ("DescribeKey", json!({ "KeyId": "arn:aws:kms:eu-west-1:111122223333:key/1" }), "NotFoundException"),
        ("CreateAlias", json!({ "AliasName": "payments", "TargetKeyId": key }), "InvalidAliasNameException"),
        ("CreateAlias", json!({ "AliasName": "alias/aws/s3", "TargetKeyId": key }), "InvalidAliasNameException"),
        ("DeleteAlias", json!({ "AliasName": "alias/nobody" }), "NotFoundException"),
        ("Encrypt", with(by_key.clone(), json!({ "Plaintext": "" })), "ValidationException"),
        ("Encrypt", with(by_key.clone(), json!({ "Plaintext": "!" })), "SerializationException"),
        ("GenerateDataKey", by_key.clone(), "ValidationException"),
        (
            "GenerateDataKey",
            with(by_key.clone(), json!({ "KeySpec": "AES_256", "NumberOfBytes": 1 })),
            "ValidationException",
        ),
        ("CancelKeyDeletion", by_key.clone(), "KMSInvalidStateException"),
        ("ScheduleKeyDeletion", with(by_key.clone(), json!({ "PendingWindowInDays": 6 })), "ValidationException"),
        ("Sign", by_key.clone(), "UnsupportedOperationException"),
    ];
    for (operation, parameters, exception) in table {
        let (kind, message) = kms.refusal(operation, &parameters).await;
        assert_eq!(kind, exception, "{operation} {parameters}: {message}");
    }
    states_of_a_key(&kms, &key).await;

    // What may change while connected, and what a key says when its store is not.
    kms.ask("UpdateCustomKeyStore", &with(by_id.clone(), json!({ "NewCustomKeyStoreName": "renamed" }))).await;
    let wrong = json!({ "AccessKeyId": told.access_key_id, "RawSecretAccessKey": "A".repeat(43) });
    let wrong = with(by_id.clone(), json!({ "XksProxyAuthenticationCredential": wrong }));
    let (kind, _) = kms.refusal("UpdateCustomKeyStore", &wrong).await;
    assert_eq!(kind, "XksProxyIncorrectAuthenticationCredentialException", "and nothing has changed:");
    kms.ask("GenerateDataKey", &with(by_key.clone(), json!({ "KeySpec": "AES_256" }))).await;
    kms.ask("DisconnectCustomKeyStore", &by_id).await;
    assert_eq!(kms.ask("DescribeKey", &by_key).await["KeyMetadata"]["KeyState"], "Unavailable");
    let (kind, message) = kms.refusal("GenerateDataKey", &with(by_key, json!({ "KeySpec": "AES_256" }))).await;
    assert!(kind == "KMSInvalidStateException" && message.contains("not connected"), "{kind}: {message}");
    let other_key = with(new_key, json!({ "XksKeyId": "other" }));
    assert_eq!(kms.refusal("CreateKey", &other_key).await.0, "CustomKeyStoreInvalidStateException");
    assert_eq!(kms.refusal("DisconnectCustomKeyStore", &by_id).await.0, "CustomKeyStoreInvalidStateException");
    assert_eq!(kms.refusal("DeleteCustomKeyStore", &by_id).await.0, "CustomKeyStoreHasCMKsException");
}

async fn states_of_a_key(kms: &Kms, key: &str) {
    let by_key = json!({ "KeyId": key });
    let encrypt = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
    let state = async || kms.ask("DescribeKey", &by_key).await["KeyMetadata"]["KeyState"].clone();
    kms.ask("DisableKey", &by_key).await;
    assert_eq!(state().await, "Disabled");
    assert_eq!(kms.refusal("Encrypt", &encrypt).await.0, "DisabledException");
    kms.ask("EnableKey", &by_key).await;
    let blob = kms.ask("Encrypt", &encrypt).await["CiphertextBlob"].clone();
    let scheduled = kms.ask("ScheduleKeyDeletion", &by_key).await;
    assert_eq!((&scheduled["KeyState"], &scheduled["PendingWindowInDays"]), (&json!("PendingDeletion"), &json!(30)));
    assert_eq!(kms.refusal("Decrypt", &json!({ "CiphertextBlob": blob })).await.0, "KMSInvalidStateException");
    assert_eq!(kms.refusal("EnableKey", &by_key).await.0, "KMSInvalidStateException");
    kms.ask("CancelKeyDeletion", &by_key).await;
    assert_eq!(state().await, "Disabled");
    kms.ask("EnableKey", &by_key).await;
    let back = kms.ask("Decrypt", &json!({ "CiphertextBlob": blob })).await;
    assert_eq!(back["Plaintext"], STANDARD.encode("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_come_and_go_while_it_runs_and_one_lost_answer_is_asked_for_again() {
    let folder = TempDir::new().unwrap();
    let (_proxy, told) = other_proxy(folder.path(), Flaw::None).await;
    let kms = Kms::start(folder.path(), &told, &["--proxy-timeout", "5s"]).await;
    let (_, key) = kms.store_and_key(&told, KEY).await;
    let encrypt = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
    let table = [
        (json!({ "unreachable": true }), "AWS KMS cannot communicate with the external key store proxy."),
        (json!({ "drop": true }), "AWS KMS cannot interpret the response"),
        (json!({ "bad_certificate": true }), "AWS KMS cannot establish a TLS connection"),
        (
            json!({ "wrong_credential": true }),
            "The external key store proxy rejected the request because it could not authenticate",
        ),
        (
            json!({ "latency_ms": 600_000 }),
            "AWS KMS rejected the request because the external key store proxy did not respond in time.",
        ),
    ];
    for (faults, start) in table {
        kms.set_faults(&faults);
        let (kind, message) = kms.refusal("Encrypt", &encrypt).await;
        assert!(kind == "KMSInvalidStateException" && message.starts_with(start), "{faults}: {kind}: {message}");
    }
    for fault in [json!({ "latency_ms": 600_000 }), json!({ "unreachable": true }), json!({ "drop": true })] {
        let mut once = fault;
        once["first"] = json!(1);
        kms.set_faults(&once);
        kms.ask("Encrypt", &encrypt).await;
    }
    kms.set_faults(&json!({ "unreachable": true, "first": 2 }));
    kms.refusal("Encrypt", &encrypt).await;
    kms.ask("Encrypt", &encrypt).await;
    // A slip of the pen is not taken for health.
    kms.set_faults(&json!({ "latency": 1 }));
    kms.refusal("Encrypt", &encrypt).await;
    assert!(kms.log().contains("unknown field `latency`"), "{}", kms.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_kill_and_strangers_are_refused() {
    let folder = TempDir::new().unwrap();
    let (_proxy, told) = other_proxy(folder.path(), Flaw::None).await;
    let mut kms = Kms::start(folder.path(), &told, &[]).await;
    let (store, key) = kms.store_and_key(&told, KEY).await;
    let blob = kms.ask("Encrypt", &json!({ "KeyId": key, "Plaintext": STANDARD.encode("kept") })).await;
    let mut made = Vec::new();
    for round in 0..3 {
        let name = format!("alias/round-{round}");
        kms.ask("CreateAlias", &json!({ "AliasName": name, "TargetKeyId": key })).await;
        made.push(json!(name));
        kms.kill();
        kms = Kms::start(folder.path(), &told, &[]).await;
        let aliases = kms.ask("ListAliases", &json!({})).await;
        let found: Vec<Value> =
            aliases["Aliases"].as_array().unwrap().iter().map(|alias| alias["AliasName"].clone()).collect();
        assert_eq!(found, made);
    }
    let stores = kms.ask("DescribeCustomKeyStores", &json!({ "CustomKeyStoreId": store })).await;
    assert_eq!(stores["CustomKeyStores"][0]["ConnectionState"], "CONNECTED");
    let back = kms.ask("Decrypt", &json!({ "CiphertextBlob": blob["CiphertextBlob"] })).await;
    assert_eq!(back["Plaintext"], STANDARD.encode("kept"));

    kms.client.secret_access_key = holdfast_shared::secrets::SecretBytes::new(b"another".to_vec());
    assert_eq!(kms.refusal("ListKeys", &json!({})).await.0, "InvalidSignatureException");
    kms.client.access_key_id = "AKIAIOSFODNN7EXAMPLE".to_owned();
    assert_eq!(kms.refusal("ListKeys", &json!({})).await.0, "UnrecognizedClientException");
    let trail = std::fs::read_to_string(kms.state.join("cloudtrail/events-000001.json")).unwrap();
    let records: Value = serde_json::from_str(&trail).unwrap();
    assert!(!trail.contains(&told.secret_access_key) && records["Records"].as_array().unwrap().len() > 8, "{trail}");
}
