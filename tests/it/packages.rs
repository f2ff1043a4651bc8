//! What is packed with the program says what the program knows (docs/packages).
use crate::cli::command;
use std::{fs, path::Path, process::Output};

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// Variables of the service's settings, those that are examples too.
fn settings() -> Vec<(String, String)> {
    let text = text("docs/packages/ram-run.default");
    let all = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    // A key has no example: one that is published keeps nobody out.
    let value = |name: &str, value: &str| if name == "RAM_RUN_API_KEY" { "key".into() } else { value.to_string() };
    all.filter(|(name, _)| name.starts_with("RAM_RUN_")).map(|(name, said)| (name.into(), value(name, said))).collect()
}

/// Words behind a key of the unit, wherever it stands.
fn words(key: &str) -> Vec<String> {
    let text = text("docs/packages/ram-run.service");
    let lines = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(String::from).collect()
}

/// The service's own command and variables, with settings and further arguments.
fn started(settings: &[(String, String)], more: &[&str]) -> Output {
    let start = words("ExecStart");
    assert_eq!(start[0], "/usr/bin/ram-run");
    let typed: Vec<&str> = start[1..].iter().map(String::as_str).chain(more.iter().copied()).collect();
    let own = words("Environment").into_iter().map(|word| word.split_once('=').map(|(n, v)| (n.into(), v.into())).expect("NAME=VALUE"));
    let own: Vec<(String, String)> = own.collect();
    command(&typed).envs(own).envs(settings.iter().cloned()).output().expect("runs")
}

#[test]
fn the_service_starts_what_there_is() {
    let settings = settings();
    assert!(settings.len() > 5, "{settings:?}");
    let out = command(&["--no-config", "config", "show", "serve"]).envs(settings.iter().cloned()).output().expect("runs");
    let shown = String::from_utf8_lossy(&out.stdout);
    for (name, _) in &settings {
        assert!(shown.lines().any(|line| line.ends_with(&format!(" {name}"))), "{name} sets nothing: {shown}");
    }
    // All is read, and refused for what is typed alone: nothing listens anywhere else but here.
    let out = started(&settings, &["--no-config", "--host", "127.0.0.1", "--port", "0", "--model", "/nowhere"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(4) && said.contains("/nowhere") && !said.contains("means nothing"), "{said}");
    assert_eq!(started(&[], &["--no-config", "--port", "0", "--model", "/nowhere"]).status.code(), Some(4));
    // Those do not start again; time to end is longer than what running requests have.
    assert_eq!(words("RestartPreventExitStatus"), ["2", "3", "4"]);
    assert!(words("TimeoutStopSec")[0].parse::<u32>().expect("seconds") > 10);
}

#[test]
fn what_packages_hold_is_there() {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("TOML");
    let deb = manifest["package"]["metadata"]["deb"].as_table().expect("a section");
    for asset in deb["assets"].as_array().expect("a list") {
        let source = asset[0].as_str().expect("a path");
        // What is built is not there yet.
        if let Some(folder) = source.rsplit_once("/*").map(|(folder, _)| folder).or(Some(source)).filter(|path| !path.starts_with("target/")) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).exists(), "{source}");
        }
    }
    let (image, built) = (text("docs/packages/Dockerfile"), text("docs/packages/build.sh"));
    assert!(image.lines().count() <= 10 && built.contains("image/data"));
    // The image's command is the service's.
    assert!(image.contains("ENTRYPOINT [\"/ram-run\"]\nCMD [\"serve\"]\n"), "{image}");
}
