//! Real clients, as people install them: `.ci/run` does, and says where they are by `RAM_RUN_CLIENTS` (a Python) and `RAM_RUN_NODE` (a
//! folder with node_modules).
use super::Serving;
use crate::{
    cli::json,
    real::form,
    skips::{installed, skip},
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

/// A real model, at 7 bits.
fn real(model: &Path) -> [&str; 7] {
    ["--model", model.to_str().expect("UTF-8"), "--weights", "120MB", "--ctx", "2048", "--no-survey"]
}

fn run(mut command: Command) {
    let out = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("starts");
    let said = String::from_utf8_lossy(&out.stdout);
    eprintln!("{said}");
    assert!(out.status.success() && said.trim_end().ends_with("0 failed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn python_clients_notice_nothing() {
    let (Some(python), Some(model)) = (installed("RAM_RUN_CLIENTS"), form("llama")) else { return };
    let server = Serving::start(&real(&model), &[]);
    // The text that is scored there.
    let text = "The river flows through the town . ".repeat(20);
    let tokens = server.ask("/tokenize", &json!({"content": text}))["count"].as_u64().expect("a number").to_string();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let eval = ["eval-ppl", "--text", file.path().to_str().expect("UTF-8"), "--window", &tokens, "--max-windows", "1", "--json"];
    let report = json(&[&real(&model)[..], &eval].concat());
    let mut command = Command::new(python);
    command.args(["tests/clients/sdk.py", &format!("http://localhost:{}", server.port), &report["mean_nll"].to_string()]);
    run(command);
}

#[test]
fn javascript_clients_notice_nothing() {
    let (Some(modules), Some(model)) = (installed("RAM_RUN_NODE"), form("llama")) else { return };
    let server = Serving::start(&real(&model), &[]);
    let mut command = Command::new("node");
    command.args(["tests/clients/sdk.mjs", &format!("http://localhost:{}", server.port)]).env("MODULES", modules);
    run(command);
}

/// Requests of every form that the description allows, and of many that it does not: each has an answer that is described.
#[test]
fn what_is_described_is_what_is_answered() {
    let Some(python) = installed("RAM_RUN_CLIENTS") else { return };
    let server = Serving::bundled(&[]);
    let place = format!("http://localhost:{}", server.port);
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(Path::new(&python).with_file_name("schemathesis"));
    command.args(["run", &format!("{place}/openapi.json"), "--url", &place, "--exclude-path", "/ram/events", "--exclude-path", "/v1/embeddings"]);
    // Which values are refused besides those that the description refuses is for the server to say.
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method";
    command.args(["--checks", checks, "--max-examples", "30", "--seed", "1", "--no-color", "--request-timeout", "30"]);
    let out = command.current_dir(&folder).output().expect("starts");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let status: Value = server.get("/ram/status").json();
    assert!(status["running"] == 0 && status["queued"] == 0, "{status}");
}

/// The page, as a person uses it: `.ci/run` installs the browser.
#[test]
fn the_page_is_used_in_a_browser() {
    let Some(modules) = installed("RAM_RUN_NODE") else { return };
    let browser = std::env::var("CHROMIUM").unwrap_or("/usr/bin/chromium".into());
    if !Path::new(&browser).exists() {
        return skip(&format!("{browser} is not there (.ci/run installs it)"));
    }
    let server = Serving::bundled(&["--api-key", "secret"]);
    let mut command = Command::new("node");
    command.args(["tests/clients/page.mjs", &format!("http://localhost:{}", server.port), "secret"]).env("PAGE_MODULES", modules);
    run(command);
}
