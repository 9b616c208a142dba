//! Draining, ending, and the enclave's process.

use holdfast_link::control::{ToEnclave, ToParent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Options, Parent, read_all, soon, until};

fn with(top: &str) -> Options {
    Options { top: top.to_owned(), ..Options::default() }
}

#[tokio::test]
async fn at_sigterm_connections_end_by_themselves() {
    let mut parent = Parent::start(with("drain_timeout_ms = 86400000")).await;
    let enclave = parent.enclave_ingress().await;
    let mut control = parent.control(1).await;
    control.hear_manifests().await;
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    let mut client = parent.client().await;
    client.write_all(b"before").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();

    parent.signal("TERM");
    assert_eq!(control.hear().await, Some(ToEnclave::Drain));
    let (status, body) = parent.page("/ready").await;
    assert_eq!((status, body["reason"].as_str()), (503, Some("draining")));
    until(|| async { TcpStream::connect(parent.listen).await.is_err() }).await;
    control.tell_ready(true).await;
    assert_eq!(parent.page("/ready").await.0, 503, "the enclave's word does not undo the drain");

    // The open connection still works, both ways.
    client.write_all(b" and after").await.unwrap();
    let mut question = [0; 16];
    soon(stream.read_exact(&mut question)).await.unwrap();
    assert_eq!(&question, b"before and after");
    stream.write_all(b"answer").await.unwrap();
    drop(stream);
    control.tell(&ToParent::Drained).await;
    assert_eq!(read_all(&mut client).await, b"answer");
    drop(client);
    assert_eq!(parent.ended().await.code(), Some(0));
    assert_eq!(control.hear().await, None, "drain is said once");
    for name in ["control.sock", "egress.sock", "audit.sock"] {
        assert!(!parent.folder.path().join(name).exists(), "{name} was left behind");
    }
}

#[tokio::test]
async fn sigint_without_connections_ends_at_once() {
    let mut parent = Parent::start(with("drain_timeout_ms = 86400000")).await;
    parent.signal("INT");
    assert_eq!(parent.ended().await.code(), Some(0));
}

/// However little there is to wait for, the enclave hears of the end, and may say that it is done.
#[tokio::test]
async fn the_enclave_is_told_to_drain_before_a_parent_without_clients_ends() {
    for _ in 0..20 {
        let mut parent = Parent::start(with("drain_timeout_ms = 86400000")).await;
        let mut control = parent.control(1).await;
        control.hear_manifests().await;
        control.tell_ready(true).await;
        until(|| async { parent.page("/ready").await.0 == 200 }).await;
        parent.signal("TERM");
        assert_eq!(control.hear().await, Some(ToEnclave::Drain));
        assert_eq!(parent.page("/ready").await.0, 503, "it waits for the enclave");
        control.tell(&ToParent::Drained).await;
        assert_eq!(parent.ended().await.code(), Some(0));
    }
}

/// An enclave that hangs up is not waited for, and one that says nothing only as long as connections are.
#[tokio::test]
async fn an_enclave_that_never_says_that_it_is_done_delays_the_end_by_the_time_for_draining() {
    for (timeout_ms, stays) in [(86_400_000, false), (50, true)] {
        let mut parent = Parent::start(with(&format!("drain_timeout_ms = {timeout_ms}"))).await;
        let mut control = parent.control(1).await;
        control.hear_manifests().await;
        parent.signal("TERM");
        assert_eq!(control.hear().await, Some(ToEnclave::Drain));
        let kept = stays.then_some(control);
        assert_eq!(parent.ended().await.code(), Some(0));
        drop(kept);
    }
}

#[tokio::test]
async fn connections_that_do_not_end_are_closed() {
    let mut parent = Parent::start(with("drain_timeout_ms = 50")).await;
    let enclave = parent.enclave_ingress().await;
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    let stream = soon(enclave.accept()).await.unwrap();
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
    assert!(matches!(soon(client.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    drop(stream);
}

#[tokio::test]
async fn during_the_grace_it_is_not_ready_and_still_accepts() {
    let mut parent = Parent::start(with("drain_grace_ms = 86400000")).await;
    let enclave = parent.enclave_ingress().await;
    parent.signal("TERM");
    until(|| async { parent.page("/ready").await.1["reason"] == "draining" }).await;
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    // A second signal does not wait.
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(1));
}

fn shell(script: &str) -> Options {
    let command = serde_json::to_string(&["sh", "-c", script]).unwrap();
    Options { enclave: format!("command = {command}"), ..Options::default() }
}

#[tokio::test]
async fn the_enclaves_process_is_started_again_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let mut parent = Parent::start(shell(&format!("echo run >> '{}'", runs.display()))).await;
    until(|| async { std::fs::read_to_string(&runs).is_ok_and(|text| text.lines().count() >= 3) }).await;
    assert!(parent.status().await["counters"]["enclave_started"].as_u64().unwrap() >= 3);
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_enclaves_process_ends_with_the_program() {
    for (signals, code) in [(1, 0), (2, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut options = shell(&format!("echo $$ > '{0}.tmp'; mv '{0}.tmp' '{0}'; exec sleep 1000", file.display()));
        // With two signals the program ends within the grace.
        options.top = if signals == 2 { "drain_grace_ms = 86400000".to_owned() } else { String::new() };
        let mut parent = Parent::start(options).await;
        until(|| async { file.exists() }).await;
        let pid = std::fs::read_to_string(&file).unwrap();
        let running = format!("/proc/{}/cmdline", pid.trim());
        // Between two programs of one process there is a moment without a command line.
        until(|| async { std::fs::read_to_string(&running).is_ok_and(|text| !text.is_empty()) }).await;
        parent.signal("TERM");
        if signals == 2 {
            until(|| async { parent.page("/ready").await.1["reason"] == "draining" }).await;
            parent.signal("TERM");
        }
        assert_eq!(parent.ended().await.code(), Some(code));
        // A process that has ended but was not yet waited for has an empty command line (proc(5)).
        until(|| async { std::fs::read_to_string(&running).map_or(true, |text| text.is_empty()) }).await;
    }
}

#[tokio::test]
async fn the_enclaves_process_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let (started, told) = (folder.path().join("started"), folder.path().join("told"));
    let script = format!(
        "trap ': > \"{}\"; exit 0' TERM; : > '{}'; while :; do sleep 0.05; done",
        told.display(),
        started.display()
    );
    let mut parent = Parent::start(shell(&script)).await;
    until(|| async { started.exists() }).await;
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
    assert!(told.exists());
}

#[tokio::test]
async fn an_enclave_that_ends_while_draining_is_not_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let (runs, finish) = (folder.path().join("runs"), folder.path().join("finish"));
    let command = |mark: &str| {
        let script = format!(
            "echo run >> '{}'; until [ -e '{}' ]; do sleep 0.05; done # {mark}",
            runs.display(),
            finish.display()
        );
        serde_json::to_string(&["sh", "-c", &script]).unwrap()
    };
    let top = "drain_timeout_ms = 86400000\nfirst_byte_timeout_ms = 86400000".to_owned();
    let enclave = format!("command = {}", command("first"));
    let mut parent = Parent::start(Options { top, enclave, ..Options::default() }).await;
    until(|| async { runs.exists() }).await;
    // A client that says nothing keeps the drain from ending.
    let client = parent.client().await;
    parent.counted("ingress_accepted", 1).await;
    parent.signal("TERM");
    until(|| async { TcpStream::connect(parent.listen).await.is_err() }).await;
    // Nor is another image started now.
    let file = parent.folder.path().join("parent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("# first", "# second")).unwrap();
    parent.signal("HUP");
    until(|| async { parent.log().contains("told to end: no upgrade is begun") }).await;
    std::fs::write(&finish, "").unwrap();
    until(|| async { parent.log().contains("the enclave's process ended") }).await;
    assert!(!parent.log().contains("starting again"), "{}", parent.log());
    drop(client);
    assert_eq!(parent.ended().await.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_no_reason_to_end() {
    let options = Options { enclave: "command = [\"/nonexistent/enclave\"]".to_owned(), ..Options::default() };
    let mut parent = Parent::start(options).await;
    until(|| async { parent.log().contains("cannot start the enclave's process") }).await;
    assert_eq!(parent.page("/ready").await.0, 503);
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn logs_may_be_json() {
    let mut parent = Parent::start(with("log_format = \"json\"")).await;
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
    let log = parent.log();
    assert!(log.lines().count() > 0);
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}
