//! The invariants of ARCHITECTURE.md, as far as the compiler does not hold them.
use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut rest) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = rest.pop() {
        for path in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            if path.is_dir() {
                rest.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path.strip_prefix(root).expect("below the root").to_path_buf(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

fn all() -> Vec<(PathBuf, String)> {
    ["src", "kernels", "models", "tests"].into_iter().flat_map(sources).collect()
}

/// Files where a word may stand.
fn only_in(word: &str, files: &[(PathBuf, String)], allowed: &[&str]) {
    for (path, text) in files {
        let named = path.to_string_lossy();
        if named != "tests/it/tidy.rs" && text.contains(word) {
            assert!(allowed.iter().any(|a| named.starts_with(a)), "'{word}' does not belong in {named}");
        }
    }
}

#[test]
fn words_stay_in_their_places() {
    let files = all();
    only_in("core::arch", &files, &["kernels/src/isa/"]);
    only_in("#[target_feature", &files, &["kernels/src/isa.rs"]);
    only_in("unsafe {", &files, &["kernels/src/isa", "kernels/src/team.rs"]);
    only_in("println!", &files, &["tests/", "benches/", "kernels/examples/", "kernels/src/tests.rs", "models/src/config_tests.rs", "src/lib.rs"]);
    only_in("candle_core::", &files, &["models/", "src/error.rs", "src/budget.rs", "src/cli/args.rs", "tests/it/parity.rs"]);
    for word in ["todo!", "dbg!", "unimplemented!"] {
        only_in(word, &files, &[]);
    }
    let kernels = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/Cargo.toml")).expect("a manifest");
    assert!(!kernels.contains("candle"));
}

#[test]
fn files_are_small_and_say_what_they_are_for() {
    for (path, text) in all() {
        let lines = text.lines().count();
        assert!(lines <= 620, "{} has {lines} lines: split it", path.display());
        assert!(text.starts_with("//!"), "{} does not begin with a sentence on what it is for", path.display());
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        assert!(!["utils", "util", "common", "helpers", "manager", "misc"].contains(&name), "{}", path.display());
    }
}
