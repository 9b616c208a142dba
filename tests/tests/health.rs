//! Health is true: of the custodian in each of its states (ADR 0016), of the fleet, to KMS and to load balancers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use holdfast_devkit::xks_client::XksAnswer;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_tests::applicant::Applicant;
use holdfast_tests::system::{AAD, KEY, Options, System, static_configuration};
use holdfast_tests::wait::until;
use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Waits until health is answered with 200 and says this of the one custodian.
async fn says(system: &System, status: &str) -> XksAnswer {
    let custodian = system.home_custodian();
    let answer = until(&format!("health says {status}"), || async {
        let answer = system.client().health().await.ok()?;
        (answer.body["ekmFleetDetails"][0]["healthStatus"] == status).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, StatusCode::OK);
    let entry = json!({
        "id": custodian.id().to_string(),
        "model": format!("Holdfast custodian {}, protocol 1", custodian.name),
        "healthStatus": status,
    });
    assert_eq!(answer.body["ekmFleetDetails"], json!([entry]), "{}", answer.body);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_the_custodian() {
    let mut system = System::start(Options::default()).await;
    let encrypted = system.encrypt(KEY).await;
    says(&system, "ACTIVE").await;

    // Away: its lease lasts, and so does service.
    system.custodian.kill();
    says(&system, "DEGRADED").await;
    system.round_trip(KEY).await;
    system.custodian.start().await;
    says(&system, "ACTIVE").await;

    // There, behind a wire that is cut.
    system.custodian_tap().close(true);
    says(&system, "DEGRADED").await;
    system.decrypt(&encrypted).await;
    system.custodian_tap().close(false);
    says(&system, "ACTIVE").await;

    // An enclave that is new.
    system.start_enclave().await;
    system.serving().await;
    says(&system, "ACTIVE").await;

    refusing(&mut system).await;
    system.decrypt(&encrypted).await;
    system.assert_no_panic();
}

/// A custodian that lost its memory of the lease and accepts the enclave no more: what was granted lasts, and nothing follows.
async fn refusing(system: &mut System) {
    let (state, kept) = (system.layout.path("custodian/state"), system.layout.path("custodian/kept"));
    system.kill_enclave().await;
    system.custodian.kill();
    copy(&state, &kept);
    system.custodian.start().await;
    system.start_enclave().await;
    system.serving().await;
    says(system, "ACTIVE").await;

    system.custodian.kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&kept, &state).unwrap();
    system.custodian.set_emulated_root(None);
    system.custodian.start().await;
    says(system, "UNAVAILABLE").await;

    system.custodian.kill();
    system.custodian.set_emulated_root(Some(system.layout.path("nsm/root.pem")));
    system.custodian.start().await;
    says(system, "ACTIVE").await;
}

fn copy(from: &Path, to: &Path) {
    let said = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(said.success());
}

/// Whatever health answers, the operation that comes next does, too.
#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_the_other_operations_would() {
    let mut system = System::start(Options { lease: "10s", ..Options::default() }).await;
    let encrypted = system.encrypt(KEY).await;
    agree(&system, &encrypted.body, StatusCode::OK).await;
    system.order(&["block", "--store"]);
    agree(&system, &encrypted.body, StatusCode::BAD_REQUEST).await;
    system.order(&["unblock", "--store"]);
    agree(&system, &encrypted.body, StatusCode::OK).await;
    system.custodian.kill();
    agree(&system, &encrypted.body, StatusCode::SERVICE_UNAVAILABLE).await;
    system.custodian.start().await;
    agree(&system, &encrypted.body, StatusCode::OK).await;
}

/// Waits until health is answered with `status`; then so are the others.
async fn agree(system: &System, message: &serde_json::Value, status: StatusCode) {
    let client = system.client();
    let health = until(&format!("health is answered with {status}"), || async {
        client.health().await.ok().filter(|answer| answer.status == status)
    })
    .await;
    for answer in [
        client.metadata(KEY).await.unwrap(),
        client.encrypt(KEY, b"text", None).await.unwrap(),
        client.decrypt(KEY, message, Some(AAD)).await.unwrap(),
    ] {
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.body.get("errorName"), health.body.get("errorName"));
    }
}

/// A second enclave is whoever was granted a lease and asks for news.
#[tokio::test(flavor = "multi_thread")]
async fn two_enclaves_are_a_fleet_of_two() {
    let system = System::start(Options::default()).await;
    let size = async || system.client().health().await.unwrap().body["xksProxyFleetSize"].clone();
    assert_eq!(size().await, json!(1));
    let mut other = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let mut lease = other.obtain(&system.home_custodian(), system.key_store_id()).await.unwrap();
    let Reply::News { enclaves, .. } = lease.ask(&Ask::Watch { seen: Seen::default(), renew: true }).await.unwrap()
    else {
        panic!("no news")
    };
    assert_eq!(enclaves.get(), 2);
    // The next news reaches the first one at once.
    system.order(&["key", "create", "another"]);
    until("the fleet has two", || async { (size().await == json!(2)).then_some(()) }).await;
}

/// `GET` on the parent's page, as a load balancer sends it: the status and why.
async fn ready(system: &System, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(system.ready_listen).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_sees_what_kms_would() {
    const GET: &str =
        "GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n";
    let mut system = System::start(Options { lease: "10s", ..Options::default() }).await;
    let sees = async |system: &System, status: u16, reason: &str| {
        until(&format!("the load balancer sees {status} {reason}"), || async {
            let (seen, why) = ready(system, GET).await?;
            (seen == status && why.contains(reason)).then_some(())
        })
        .await;
    };
    sees(&system, 200, "true").await;
    // No enclave, and one that is starting.
    system.kill_enclave().await;
    sees(&system, 503, "enclave_not_connected").await;
    system.start_enclave().await;
    sees(&system, 200, "true").await;
    // A parent that is new.
    system.parent.take().unwrap().kill();
    system.start_parent().await;
    sees(&system, 200, "true").await;
    // Nothing is served: every answer to KMS would be an error.
    system.custodian.kill();
    sees(&system, 503, "enclave_not_ready").await;
    assert_eq!(system.client().health().await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    system.custodian.start().await;
    sees(&system, 200, "true").await;
    // What a load balancer's other checks do: connect and leave, or shake hands without a name.
    for _ in 0..20 {
        drop(TcpStream::connect(system.listen).await.unwrap());
    }
    system.round_trip(KEY).await;
}
