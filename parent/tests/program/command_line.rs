//! The command line and the configuration.

use std::path::Path;
use std::process::Output;

use crate::fixture::{Options, Parent, program, soon, write_files};

async fn run(arguments: &[&str]) -> Output {
    soon(program().args(arguments).output()).await.unwrap()
}

async fn run_config(file: &Path, more: &[&str]) -> Output {
    soon(program().arg("--config").arg(file).args(more).output()).await.unwrap()
}

#[tokio::test]
async fn the_help_documents_every_field_signal_and_exit_code() {
    let output = run(&["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let example = include_str!("../../parent.example.toml");
    for line in example.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some((field, _)) = line.split_once(" = ")
            && !field.contains(' ')
        {
            assert!(help.contains(field), "--help does not name {field}");
        }
    }
    for text in ["--config", "--check-config", "SIGTERM", "SIGHUP", "Exit codes"] {
        assert!(help.contains(text), "--help does not name {text}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_two() {
    for arguments in [&[][..], &["--colour"][..], &["--config"][..]] {
        assert_eq!(run(arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_named_by_file_line_and_field() {
    for (top, expected) in [
        ("colour = 1", "parent.toml:7: unknown field `colour`"),
        ("idle_timeout_ms = 0", "parent.toml:7: must be from 1 to 86400000 (in `idle_timeout_ms = 0`)"),
        ("max_connections = \"many\"", "parent.toml:7: invalid type"),
    ] {
        for more in [&[][..], &["--check-config"][..]] {
            let folder = tempfile::tempdir().unwrap();
            let file = write_files(folder.path(), &Options { top: top.to_owned(), ..Options::default() });
            let output = run_config(&file, more).await;
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(expected), "{text}");
            assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        }
    }
}

#[tokio::test]
async fn a_configuration_is_checked_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), &Options::default());
    let output = run_config(&file, &["--check-config"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(!folder.path().join("control.sock").exists() && !folder.path().join("ports.json").exists());

    std::fs::write(folder.path().join("static.json"), "{").unwrap();
    let output = run_config(&file, &["--check-config"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("static.json"));

    let output = run_config(&folder.path().join("nowhere.toml"), &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nowhere.toml"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let first = Parent::start(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), &Options::default());
    let text = std::fs::read_to_string(&file).unwrap();
    let taken = text.replacen("127.0.0.1:0", &first.listen.to_string(), 1);
    std::fs::write(&file, taken).unwrap();
    let output = run_config(&file, &[]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&format!("listen = {}", first.listen)), "{error}");

    let control = first.folder.path().join("control.sock");
    let taken = text.replace(&format!("{}/control.sock", folder.path().display()), control.to_str().unwrap());
    std::fs::write(&file, taken).unwrap();
    let output = run_config(&file, &[]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("control.listen") && error.contains("another process"), "{error}");
    assert!(control.exists(), "the first program's socket must stay");
}

#[tokio::test]
async fn the_chosen_ports_are_written_to_a_file() {
    let parent = Parent::start(Options::default()).await;
    let text = std::fs::read_to_string(parent.folder.path().join("ports.json")).unwrap();
    let ports: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ports["listen"], parent.listen.to_string());
    assert_eq!(ports["ready_listen"], parent.ready_listen.to_string());
    assert_ne!(parent.listen.port(), 0);
}
