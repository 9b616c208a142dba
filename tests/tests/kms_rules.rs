//! What AWS's documents say of `holdfast-dev kms` beyond the procedure: callers that hang up, tries, names of keys, states, and changes that
//! meet each other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::kms::{Kms, Told, events};
use holdfast_tests::wait::until;
use holdfast_tests::xks_proxy::{Flaw, KEY, XksProxy};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A proxy without a flaw, and KMS in front of it.
struct Setting {
    folder: TempDir,
    proxy: XksProxy,
    told: Told,
    kms: Kms,
}

impl Setting {
    async fn new(flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let proxy = XksProxy::start(folder.path(), Flaw::None).await;
        let told = Told::of(&proxy);
        let kms = Kms::start(folder.path(), &told, flags).await;
        Self { folder, proxy, told, kms }
    }

    /// Asks for an operation whose first answer of the proxy is late; `meanwhile` begins once the proxy has been asked.
    async fn while_asked<T>(&self, call: impl Future<Output = T>, meanwhile: impl Future<Output = ()>) -> T {
        let before = self.proxy.asked();
        self.kms.set_faults(&json!({ "latency_ms": 3000, "first": 1 }));
        let after_the_question = async {
            until("the proxy is asked", || async { (self.proxy.asked() > before).then_some(()) }).await;
            meanwhile.await;
        };
        tokio::join!(call, after_the_question).0
    }

    /// Asks for an Encrypt, and hangs up when the proxy has been asked, long before it answers.
    async fn hung_up(&self, key: &str) {
        let before = self.proxy.asked();
        self.kms.set_faults(&json!({ "latency_ms": 3000, "first": 1 }));
        let encrypt = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
        tokio::select! {
            answer = self.kms.ask("Encrypt", &encrypt) => panic!("too early: {answer}"),
            () = until("the proxy is asked", || async { (self.proxy.asked() > before).then_some(()) }) => {}
        }
    }
}

fn with(fields: &Value, changes: &Value) -> Value {
    let mut fields = fields.clone();
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fields
}

/// The proxy was asked, so its log has the call, and CloudTrail must have it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_caller_hangs_up_is_finished_and_recorded() {
    let setting = Setting::new(&[]).await;
    let (_, key) = setting.kms.store_and_key(&setting.told, KEY).await;
    setting.hung_up(&key).await;
    let event = until("the call is in CloudTrail's file", || async { encryption(&setting.kms.state) }).await;
    assert_eq!(event["errorCode"], Value::Null, "{event:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_finished_and_recorded_before_the_end() {
    let setting = Setting::new(&[]).await;
    let (_, key) = setting.kms.store_and_key(&setting.told, KEY).await;
    setting.hung_up(&key).await;
    let state = setting.kms.state.clone();
    setting.kms.terminate();
    let event = encryption(&state).expect("the call is in CloudTrail's file");
    assert_eq!(event["errorCode"], Value::Null, "{event:#}");
}

/// The event of the one Encrypt.
fn encryption(state: &Path) -> Option<Value> {
    events(state).into_iter().find(|event| event["eventName"] == "Encrypt")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_and_does_nothing() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    let (_, key) = kms.store_and_key(&setting.told, KEY).await;
    let plaintext = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
    let blob = kms.ask("Encrypt", &plaintext).await["CiphertextBlob"].clone();
    let table = [
        ("Encrypt", plaintext),
        ("Decrypt", json!({ "CiphertextBlob": blob })),
        ("ReEncrypt", json!({ "CiphertextBlob": blob, "DestinationKeyId": key })),
        ("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })),
        ("GenerateDataKeyWithoutPlaintext", json!({ "KeyId": key, "KeySpec": "AES_256" })),
    ];
    let before = setting.proxy.asked();
    for (operation, parameters) in &table {
        let dry = with(parameters, &json!({ "DryRun": true }));
        let (kind, message) = kms.refusal(operation, &dry).await;
        assert_eq!(kind, "DryRunOperationException", "{operation}: {message}");
        let unclear = with(parameters, &json!({ "DryRun": "no" }));
        assert_eq!(kms.refusal(operation, &unclear).await.0, "SerializationException", "{operation}");
    }
    assert_eq!(setting.proxy.asked(), before, "the proxy knows nothing of it");
    kms.ask("DisableKey", &json!({ "KeyId": key })).await;
    for (operation, parameters) in &table {
        let dry = with(parameters, &json!({ "DryRun": true }));
        assert_eq!(kms.refusal(operation, &dry).await.0, "DisabledException", "{operation}");
    }
    kms.ask("EnableKey", &json!({ "KeyId": key })).await;
    for (operation, parameters) in &table {
        kms.ask(operation, &with(parameters, &json!({ "DryRun": false }))).await;
    }
}

/// The slow one of two changes must not bring back what the quick one has changed: a rotated credential, for one.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_key_store_that_meet_are_both_kept() {
    let setting = Setting::new(&["--vpc-endpoint-service", VPC_SERVICE]).await;
    let kms = &setting.kms;
    let store = kms.ask("CreateCustomKeyStore", &setting.told.store("store")).await;
    let by_id = json!({ "CustomKeyStoreId": store["CustomKeyStoreId"] });
    let slow = with(&by_id, &json!({ "XksProxyUriPath": setting.told.uri_path }));
    let quick = with(&by_id, &through_vpc());
    let meanwhile = async { drop(kms.ask("UpdateCustomKeyStore", &quick).await) };
    setting.while_asked(kms.ask("UpdateCustomKeyStore", &slow), meanwhile).await;
    let described = kms.ask("DescribeCustomKeyStores", &by_id).await["CustomKeyStores"][0].clone();
    assert_eq!(described["XksProxyConfiguration"]["Connectivity"], "VPC_ENDPOINT_SERVICE", "{described:#}");
    assert_eq!(described["XksProxyConfiguration"]["UriEndpoint"], "https://private.example.com", "{described:#}");
}

const VPC_SERVICE: &str = "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0";

/// Changes that make a key store one with a VPC endpoint service.
fn through_vpc() -> Value {
    json!({
        "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
        "XksProxyUriEndpoint": "https://private.example.com",
        "XksProxyVpcEndpointServiceName": VPC_SERVICE,
    })
}

/// An alias names a key where it is used, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_named_as_each_operation_takes_them() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    let (_, key) = kms.store_and_key(&setting.told, KEY).await;
    let arn = kms.ask("DescribeKey", &json!({ "KeyId": key })).await["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let alias = json!("alias/payments");
    kms.ask("CreateAlias", &json!({ "AliasName": alias, "TargetKeyId": arn })).await;
    let alias_arn = arn.replace(&format!("key/{key}"), "alias/payments");
    for name in [key.as_str(), &arn, "alias/payments", &alias_arn] {
        kms.ask("DescribeKey", &json!({ "KeyId": name })).await;
        kms.ask("GenerateDataKey", &json!({ "KeyId": name, "KeySpec": "AES_256" })).await;
    }
    for name in ["alias/payments", &alias_arn] {
        for operation in ["EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion", "ListAliases"] {
            let (kind, message) = kms.refusal(operation, &json!({ "KeyId": name })).await;
            assert_eq!(kind, "NotFoundException", "{operation} {name}: {message}");
            assert!(message.contains("Invalid keyId"), "{operation} {name}: {message}");
        }
        let target = json!({ "AliasName": "alias/other", "TargetKeyId": name });
        assert_eq!(kms.refusal("CreateAlias", &target).await.0, "ValidationException", "{name}");
        let target = json!({ "AliasName": alias, "TargetKeyId": name });
        assert_eq!(kms.refusal("UpdateAlias", &target).await.0, "ValidationException", "{name}");
    }
    let other_account = arn.replace("111122223333", "444455556666");
    let table = [
        (format!("key/{key}"), "NotFoundException"),
        (arn.replace("key/", ""), "NotFoundException"),
        (arn.replace("us-east-1", "eu-west-1"), "NotFoundException"),
        ("no-uuid".to_owned(), "NotFoundException"),
        (other_account, "AccessDeniedException"),
    ];
    for (name, exception) in table {
        for (operation, parameters) in [
            ("DescribeKey", json!({ "KeyId": name })),
            ("Encrypt", json!({ "KeyId": name, "Plaintext": STANDARD.encode("secret") })),
        ] {
            let (kind, message) = kms.refusal(operation, &parameters).await;
            assert_eq!(kind, exception, "{operation} {name}: {message}");
        }
    }
    assert_eq!(kms.ask("ListAliases", &json!({ "KeyId": null })).await["Aliases"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_pending_deletion_gets_no_alias() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    let (store, key) = kms.store_and_key(&setting.told, KEY).await;
    let named = |alias: &str| json!({ "AliasName": alias, "TargetKeyId": key });
    kms.ask("CreateAlias", &named("alias/one")).await;
    kms.ask("ScheduleKeyDeletion", &json!({ "KeyId": key })).await;
    for (operation, alias) in [("CreateAlias", "alias/two"), ("UpdateAlias", "alias/one")] {
        let (kind, message) = kms.refusal(operation, &named(alias)).await;
        assert_eq!(kind, "KMSInvalidStateException", "{operation}: {message}");
        assert!(message.ends_with("is pending deletion."), "{operation}: {message}");
    }
    kms.ask("DeleteAlias", &json!({ "AliasName": "alias/one" })).await;
    let metadata = async || kms.ask("DescribeKey", &json!({ "KeyId": key })).await["KeyMetadata"].clone();
    assert_eq!(metadata().await["Enabled"], false);
    kms.ask("CancelKeyDeletion", &json!({ "KeyId": key })).await;
    kms.ask("EnableKey", &json!({ "KeyId": key })).await;
    assert_eq!((&metadata().await["Enabled"], &metadata().await["KeyState"]), (&json!(true), &json!("Enabled")));
    // Enabled means that it can be used.
    kms.ask("DisconnectCustomKeyStore", &json!({ "CustomKeyStoreId": store })).await;
    assert_eq!((&metadata().await["Enabled"], &metadata().await["KeyState"]), (&json!(false), &json!("Unavailable")));
}

/// A blob is bytes from strangers: no change of one is a plaintext, and none is an answer other than a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_ciphertext_is_refused_wherever_it_is_changed() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    let (_, key) = kms.store_and_key(&setting.told, KEY).await;
    let parameters = json!({ "KeyId": key, "Plaintext": STANDARD.encode("s"), "EncryptionContext": { "a": "b" } });
    let blob = kms.ask("Encrypt", &parameters).await["CiphertextBlob"].clone();
    let blob = STANDARD.decode(blob.as_str().unwrap()).unwrap();
    let decrypt = |blob: &[u8]| json!({ "CiphertextBlob": STANDARD.encode(blob), "EncryptionContext": { "a": "b" } });
    for place in 0..blob.len() {
        let mut changed = blob.clone();
        changed[place] ^= 1;
        let (kind, message) = kms.refusal("Decrypt", &decrypt(&changed)).await;
        let expected: &[&str] = match place {
            0 => &["InvalidCiphertextException"],
            // The key's id: what KMS says of a key that was deleted, and of others' keys.
            1..=16 => &["AccessDeniedException"],
            // Lengths that lead elsewhere, or what is authenticated.
            _ => &["InvalidCiphertextException", "KMSInvalidStateException"],
        };
        assert!(expected.contains(&kind.as_str()), "{place}: {kind}: {message}");
        let named = with(&decrypt(&changed), &json!({ "KeyId": key }));
        let expected = if (1..=16).contains(&place) { "IncorrectKeyException" } else { &kind };
        assert_eq!(kms.refusal("Decrypt", &named).await.0, expected, "{place}");
        let cut = decrypt(&blob[..place]);
        if place > 0 {
            kms.refusal("Decrypt", &cut).await;
        }
    }
    assert_eq!(kms.ask("Decrypt", &decrypt(&blob)).await["Plaintext"], STANDARD.encode("s"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vpc_endpoint_service_comes_and_goes() {
    let mut setting = Setting::new(&["--vpc-endpoint-service", VPC_SERVICE]).await;
    let store = with(
        &setting.told.store("store"),
        &json!({
            "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
            "XksProxyVpcEndpointServiceName": VPC_SERVICE,
        }),
    );
    let id = setting.kms.ask("CreateCustomKeyStore", &store).await["CustomKeyStoreId"].as_str().unwrap().to_owned();
    let by_id = json!({ "CustomKeyStoreId": id });
    assert_eq!(setting.kms.connect(&id).await, ("CONNECTED".to_owned(), None));
    // While it is connected KMS can look at a new credential at once.
    let wrong = json!({ "AccessKeyId": setting.told.access_key_id, "RawSecretAccessKey": "A".repeat(43) });
    let wrong = with(&by_id, &json!({ "XksProxyAuthenticationCredential": wrong }));
    let (kind, message) = setting.kms.refusal("UpdateCustomKeyStore", &wrong).await;
    assert_eq!(kind, "XksProxyIncorrectAuthenticationCredentialException", "{message}");
    setting.kms.ask("DisconnectCustomKeyStore", &by_id).await;

    // Without the service.
    setting.kms.kill();
    let kms = Kms::start(setting.folder.path(), &setting.told, &[]).await;
    assert_eq!(kms.connect(&id).await, ("FAILED".to_owned(), Some("XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND".to_owned())));
    kms.ask("DisconnectCustomKeyStore", &by_id).await;
    kms.ask("UpdateCustomKeyStore", &with(&by_id, &json!({ "NewCustomKeyStoreName": "renamed" }))).await;

    // To a public endpoint, as the API reference has it: with another endpoint, and an empty name for the service.
    let public =
        with(&by_id, &json!({ "XksProxyConnectivity": "PUBLIC_ENDPOINT", "XksProxyVpcEndpointServiceName": "" }));
    assert_eq!(kms.refusal("UpdateCustomKeyStore", &public).await.0, "ValidationException", "the same endpoint");
    let endpoint = json!({ "XksProxyUriEndpoint": format!("https://{}", setting.told.host_name) });
    kms.ask("UpdateCustomKeyStore", &with(&public, &endpoint)).await;
    assert_eq!(kms.connect(&id).await, ("CONNECTED".to_owned(), None));
    let described = kms.ask("DescribeCustomKeyStores", &by_id).await["CustomKeyStores"][0].clone();
    assert_eq!(described["XksProxyConfiguration"]["VpcEndpointServiceName"], Value::Null, "{described:#}");
    setting.kms = kms;
}

/// The endpoint is a name (specification, "URI"), and names are the same in capitals.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_a_name_in_whatever_case() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    for address in ["https://127.0.0.1", "https://203.0.113.7"] {
        let store = with(&setting.told.store("store"), &json!({ "XksProxyUriEndpoint": address }));
        let (kind, message) = kms.refusal("CreateCustomKeyStore", &store).await;
        assert_eq!(kind, "ValidationException", "{address}: {message}");
    }
    let capitals = format!("https://{}", setting.told.host_name.to_uppercase());
    let store = with(&setting.told.store("store"), &json!({ "XksProxyUriEndpoint": capitals }));
    let id = kms.ask("CreateCustomKeyStore", &store).await["CustomKeyStoreId"].as_str().unwrap().to_owned();
    assert_eq!(kms.connect(&id).await, ("CONNECTED".to_owned(), None));
}

/// A key that is disabled between the two halves of a `ReEncrypt` is not used any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changes_meanwhile_is_as_it_is_now() {
    let setting = Setting::new(&[]).await;
    let kms = &setting.kms;
    let (_, key) = kms.store_and_key(&setting.told, KEY).await;
    let encrypt = json!({ "KeyId": key, "Plaintext": STANDARD.encode("secret") });
    let blob = kms.ask("Encrypt", &encrypt).await["CiphertextBlob"].clone();
    let again = json!({ "CiphertextBlob": blob, "DestinationKeyId": key });
    let meanwhile = async { drop(kms.ask("DisableKey", &json!({ "KeyId": key })).await) };
    let (kind, message) = setting.while_asked(kms.refusal("ReEncrypt", &again), meanwhile).await;
    assert_eq!(kind, "DisabledException", "{message}");
}
