//! The invariants of ARCHITECTURE.md, as far as the compiler does not hold them.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Crates that lie below src/.
const CRATES: [&str; 2] = ["src/engine", "src/server"];

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
    only_in("#[target_feature", &files, &["kernels/src/isa/x86.rs"]);
    only_in("unsafe {", &files, &["kernels/src/isa", "kernels/src/team.rs"]);
    only_in("println!", &files, &["tests/", "benches/", "kernels/examples/", "kernels/src/tests.rs", "models/src/arch/tests.rs", "src/lib.rs"]);
    only_in(
        "candle_core::",
        &files,
        &["models/", "src/engine/error.rs", "src/engine/planner/budget.rs", "src/engine/planner/gguf.rs", "src/cli/args.rs", "tests/it/parity.rs"],
    );
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

/// The paths of a `use` tree, and those that stand in expressions.
fn paths(text: &str) -> Vec<Vec<String>> {
    fn expand(tree: &str, before: &[String], out: &mut Vec<Vec<String>>) {
        let tree = tree.trim();
        let (head, group) = tree.split_once('{').map_or((tree, None), |(head, rest)| (head, rest.rsplit_once('}').map(|(group, _)| group)));
        let words = head.split("::").filter_map(|word| word.split_whitespace().next()).map(str::to_string);
        let path: Vec<String> = before.iter().cloned().chain(words).collect();
        let Some(group) = group else {
            out.push(path);
            return;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !group[start..at].trim().is_empty() {
                        expand(&group[start..at], &path, out);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    for (i, statement) in code.split(';').enumerate() {
        let used = statement.rfind("use ").filter(|at| statement[..*at].ends_with(['\n', ' ']) || *at == 0).map(|at| &statement[at + 4..]);
        match used.filter(|tree| i == 0 || !tree.contains("fn ")) {
            Some(tree) => expand(tree, &[], &mut out),
            None => {
                for start in ["crate::", "super::"] {
                    for (at, _) in statement.match_indices(start) {
                        let end = statement[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').map_or(statement.len(), |n| at + n);
                        out.push(statement[at..end].split("::").map(str::to_string).collect());
                    }
                }
            }
        }
    }
    out
}

/// Modules of a crate by their path in it, with their text but for tests.
fn modules(folder: &str) -> BTreeMap<Vec<String>, String> {
    // The crates below src/ are not the program's modules.
    let own = sources(folder).into_iter().filter(|(path, _)| folder != "src" || !CRATES.iter().any(|c| path.starts_with(c)));
    let each = own.map(|(path, text)| {
        let path = path.strip_prefix(folder).expect("below it").with_extension("");
        let mut name: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if name == ["lib"] {
            name.clear();
        }
        let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        (name, text[..tests].to_string())
    });
    each.collect()
}

/// The module that a path in module `from` leads to, also by what other modules show as theirs.
fn target(
    modules: &BTreeMap<Vec<String>, String>,
    shown: &BTreeMap<(Vec<String>, String), Vec<String>>,
    from: &[String],
    path: &[String],
) -> Option<Vec<String>> {
    let (mut at, mut rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.to_vec(), &path[1..]),
        "super" => {
            let up = path.iter().take_while(|word| *word == "super").count();
            (from[..from.len().saturating_sub(up)].to_vec(), &path[up..])
        }
        _ => (from.to_vec(), path),
    };
    let own = at.clone();
    while let Some(next) = rest.first().map(|word| [at.as_slice(), std::slice::from_ref(word)].concat()).filter(|next| modules.contains_key(next)) {
        at = next;
        rest = &rest[1..];
    }
    if at == own && !["crate", "self", "super"].contains(&path[0].as_str()) {
        return None;
    }
    rest.first().and_then(|word| shown.get(&(at.clone(), word.clone())).cloned()).or(Some(at))
}

/// Among the modules of one folder, each with all below it, none needs another that needs it.
#[test]
fn modules_have_no_circles() {
    for folder in ["kernels/src", "models/src", "src/engine", "src/server", "src"] {
        let modules = modules(folder);
        let mut shown = BTreeMap::new();
        for _ in 0..2 {
            for (from, text) in &modules {
                for (at, _) in text.match_indices("pub use ").chain(text.match_indices("pub(crate) use ")) {
                    let statement = &text[at..][..text[at..].find(';').unwrap_or(0) + 1];
                    for path in paths(&statement[statement.find("use").unwrap_or(0)..]) {
                        if let (Some(found), Some(word)) = (target(&modules, &shown, from, &path), path.last()) {
                            shown.insert((from.clone(), word.clone()), found);
                        }
                    }
                }
            }
        }
        // By the folder that both are in.
        let mut needs: BTreeMap<&[String], BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
        let mut edges = 0;
        for (from, text) in &modules {
            for found in paths(text).iter().filter_map(|path| target(&modules, &shown, from, path)) {
                let same = from.iter().zip(&found).take_while(|(a, b)| a == b).count();
                if same < from.len() && same < found.len() {
                    needs.entry(&from[..same]).or_default().entry(&from[same]).or_default().insert(found[same].clone());
                    edges += 1;
                }
            }
        }
        assert!(edges > 20, "{folder}: {edges}");
        for (within, needs) in &needs {
            for start in needs.keys() {
                let (mut seen, mut left) = (BTreeSet::new(), vec![*start]);
                while let Some(next) = left.pop() {
                    for other in needs.get(next).into_iter().flatten() {
                        assert!(other != start, "{folder}/{}: {start} needs what needs it, by way of {next}", within.join("/"));
                        if seen.insert(other.as_str()) {
                            left.push(other);
                        }
                    }
                }
            }
        }
    }
}
