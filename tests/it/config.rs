//! Settings that are not typed: which holds, where it comes from, and what is wrong with one.
use crate::cli::command;
use std::{fs, path::Path, process::Output};

/// A home with these files: the user's, and the system's.
fn home(user: &str, system: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    for (folder, text) in [("user", user), ("system", system)] {
        let folder = home.path().join(folder).join("ram-run");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("config.toml"), text).expect("written");
    }
    home
}

fn run(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = command(args);
    command.env("XDG_CONFIG_HOME", home.join("user")).env("XDG_CONFIG_DIRS", home.join("system"));
    command.envs(variables.iter().copied()).output().expect("runs")
}

/// Value and origin of an option of `plan`.
fn shown(home: &Path, variables: &[(&str, &str)], option: &str) -> (String, String) {
    let out = run(home, variables, &["config", "show", "plan"]);
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(option)).unwrap_or_else(|| panic!("{option}: {text}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    (words[2].into(), words[3..].join(" "))
}

/// Bytes of the weights, and tokens of context, that a plan is made for.
fn planned(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> (u64, u64) {
    let out = run(home, variables, &[&["plan", "--json", "--no-survey"], args].concat());
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    (json["weight_bytes"].as_u64().expect("a number"), json["context"].as_u64().expect("a number"))
}

#[test]
fn what_is_nearer_holds() {
    let home = home("[defaults]\nctx = 1000\n[plan]\nweights = \"6MB\"\n", "[defaults]\nctx = 500\nthreads = 1\nweights = \"5MB\"\n");
    let home = home.path();
    let user = format!("of {}", home.join("user/ram-run/config.toml").display());
    assert_eq!(shown(home, &[], "ctx"), ("1000".into(), format!("[defaults] {user}")));
    assert_eq!(shown(home, &[], "weights"), ("6MB".into(), format!("[plan] {user}")));
    assert_eq!(shown(home, &[], "threads").0, "1");
    assert_eq!(shown(home, &[("RAM_RUN_CTX", "700")], "ctx"), ("700".into(), "RAM_RUN_CTX".into()));
    assert_eq!(shown(home, &[], "effort"), ("default".into(), "default".into()));
    let (bytes, context) = planned(home, &[], &[]);
    assert!((5_900_000..=6_000_000).contains(&bytes) && context == 1000, "{bytes} {context}");
    assert_eq!(planned(home, &[("RAM_RUN_CTX", "700")], &[]).1, 700);
    assert_eq!(planned(home, &[("RAM_RUN_CTX", "700")], &["--ctx", "600"]).1, 600);
    // What is typed, or said in a variable, does away with what contradicts it.
    assert!(planned(home, &[], &["--budget", "200MB"]).0 > 12_000_000);
    assert!(planned(home, &[("RAM_RUN_BUDGET", "200MB")], &[]).0 > 12_000_000);
    assert_eq!(planned(home, &[], &["--no-config"]).1, 4096);
}

#[test]
fn an_alias_stands_for_a_model_and_its_settings() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe");
    let home = home(&format!("[alias.small]\nmodel = {model:?}\nweights = \"5MB\"\nctx = 64\ntemp = 0.5\n"), "");
    let home = home.path();
    for typed in [&["-m", "small"][..], &["--model", "small"], &["--model=small"]] {
        let (bytes, context) = planned(home, &[("RAM_RUN_CTX", "700")], typed);
        assert!((4_900_000..=5_000_000).contains(&bytes) && context == 64, "{bytes} {context}");
    }
    assert_eq!(planned(home, &[], &["-m", "small", "--ctx", "32"]).1, 32);
    let listed = run(home, &[], &["config", "aliases"]);
    assert!(String::from_utf8_lossy(&listed.stdout).starts_with("small "), "{listed:?}");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, code, words) in [
        ("[plan]\nbudgit = \"6MB\"\n", 4, &["config.toml", "[plan]", "budgit", "budget"][..]),
        ("[plann]\nctx = 1\n", 4, &["config.toml", "[plann]", "plan"]),
        ("ctx = 1\n", 4, &["config.toml", "ctx"]),
        ("[plan\n", 4, &["config.toml"]),
        ("[plan]\nctx = true\n", 2, &["config.toml", "--ctx"]),
        ("[plan]\noffline = 3\n", 2, &["config.toml", "--offline"]),
        ("[plan]\nctx = \"many\"\n", 2, &["--ctx", "many"]),
        ("[plan]\nweights = \"lots\"\n", 2, &["--weights"]),
    ] {
        let home = home(text, "");
        let out = run(home.path(), &[], &["plan"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{text}: {said}");
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{text}: {said}");
    }
    let home = home("", "");
    let out = run(home.path(), &[("RAM_RUN_BUGDET", "1GB")], &["plan", "--weights", "6MB", "--no-survey"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("RAM_RUN_BUGDET") && said.contains("RAM_RUN_BUDGET"), "{said}");
    let out = run(home.path(), &[("RAM_RUN_OFFLINE", "perhaps")], &["plan"]);
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("RAM_RUN_OFFLINE"), "{out:?}");
    // A key is not shown, and is used.
    let out = run(home.path(), &[("RAM_RUN_API_KEY", "secret")], &["config", "show", "serve"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("(hidden)") && !text.contains("secret"), "{text}");
    let path = run(home.path(), &[], &["config", "path"]);
    assert_eq!(String::from_utf8_lossy(&path.stdout).lines().count(), 2);
}
