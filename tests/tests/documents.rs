//! What the documents say about the tests is true: each test and file that ARCHITECTURE.md names exists, and docs/spec-coverage.md is
//! what the requirements give.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use holdfast_spec_coverage::page::render;
use holdfast_spec_coverage::requirements::Requirements;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension() == Some(OsStr::new("rs")) {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn architecture_names_what_exists() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut code = Vec::new();
    sources(&root(), &mut code);
    let (mut tests, mut files) = (0, 0);
    for quoted in text.split('`').skip(1).step_by(2) {
        let is_test = quoted.matches('_').count() >= 2
            && quoted
                .chars()
                .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_')
            && quoted != "compile_fail";
        if is_test {
            tests += 1;
            let definition = format!("fn {quoted}(");
            assert!(code.iter().any(|text| text.contains(&definition)), "there is no test {quoted}");
        } else if quoted.contains('/') && Path::new(quoted).extension().is_some_and(|end| end == "rs" || end == "toml")
        {
            files += 1;
            let below = |base: &str| root().join(base).join(quoted).exists();
            assert!(["", "enclave/src", "custodian/src"].into_iter().any(below), "there is no file {quoted}");
        }
    }
    assert!(tests >= 15 && files >= 8, "the search finds what is there: {tests} tests, {files} files");
}

/// The page says what the requirements say; whether their tests exist, ran and passed is checked after the run (`scripts/test`).
#[test]
fn spec_coverage_is_what_the_requirements_give() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let requirements = Requirements::read(&read("tests/spec/requirements.toml")).unwrap();
    assert_eq!(read("docs/spec-coverage.md"), render(&requirements), "cargo run -p holdfast-spec-coverage -- write");
    let code = {
        let mut code = Vec::new();
        sources(&root(), &mut code);
        code.concat()
    };
    for requirement in requirements.all() {
        for test in &requirement.tests {
            let definition = format!("fn {}(", test.function());
            assert!(code.contains(&definition), "{}: there is no test {test}", requirement.id);
        }
    }
}
