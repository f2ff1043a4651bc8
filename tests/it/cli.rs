//! The command as a person runs it.
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// The program with arguments, from the repository's root.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ram-run"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What it says and how it ends.
pub fn ram_run(args: &[&str]) -> Output {
    command(args).output().expect("the program starts")
}

/// Its stdout as text; panics with its stderr where it failed.
pub fn stdout(args: &[&str]) -> String {
    let out = ram_run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Its stdout as JSON.
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(args)).expect("JSON")
}

/// Checks exit code and that stderr is one line that holds every word.
pub fn refused(args: &[&str], code: i32, words: &[&str]) {
    let out = ram_run(args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?} does not say '{word}': {text}");
    }
    assert!(out.stdout.is_empty() && !text.contains("panicked"), "{args:?}: {text}");
}

/// A text of its own: nothing of a data set is kept in the repository.
pub fn text() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("text.txt");
    let words = ["the river", "a town in the north", "was built in 1850", "by the army", "and its people", ", who lived there ,"];
    let text: String = (0..900).map(|i: usize| format!("{} ", words[i * i % 31 % 6])).collect();
    std::fs::write(&path, text).expect("a file");
    (folder, path)
}

#[test]
fn plans_keep_to_their_bytes_and_do_not_depend_on_threads() {
    let threads = |threads: &str, args: &[&str]| {
        let out = command(args).env("RAYON_NUM_THREADS", threads).output().expect("the program starts");
        String::from_utf8(out.stdout).expect("UTF-8")
    };
    let one = threads("1", &["--weights", "6MB", "plan", "--json"]);
    for n in ["2", "7"] {
        assert_eq!(one, threads(n, &["--weights", "6MB", "plan", "--json"]));
        assert_eq!(threads("1", &["--budget", "64MB", "plan", "--json"]), threads(n, &["--budget", "64MB", "plan", "--json"]));
    }
    let plan: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    let bytes = plan["weight_bytes"].as_u64().expect("a number");
    assert!((5_990_000..=6_000_000).contains(&bytes), "{bytes}");
    let sum: u64 = plan["entries"].as_array().expect("a list").iter().map(|e| e["bytes"].as_u64().expect("a number")).sum();
    assert_eq!(sum, bytes);
    let budget = json(&["--budget", "64MB", "plan", "--json"]);
    assert!(budget["memory"]["total"].as_u64() <= Some(64_000_000), "{}", budget["memory"]);
    for objective in ["kl", "ram", "ram-experts"] {
        let plan = json(&["--weights", "6MB", "--objective", objective, "plan", "--json"]);
        assert!(plan["weight_bytes"].as_u64() <= Some(6_000_000) && plan["method"] == objective);
    }
    let pinned = json(&["--weights", "6MB", "--pin", "lm_head=t5g64", "--pin", "layers\\.0\\.=t6g16", "plan", "--json"]);
    let formats = |p: &serde_json::Value, part: &str| -> Vec<String> {
        let entries = p["entries"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|e| e["name"].as_str().is_some_and(|n| n.contains(part) && n.ends_with("proj.weight")));
        entries.map(|e| e["format"].as_str().unwrap_or_default().to_string()).collect()
    };
    assert!(formats(&pinned, "layers.0.").iter().all(|f| f == "t6g16"));
    let table = stdout(&["--weights", "6MB", "plan"]);
    for word in ["head", "gate", "bits per weight", "KV cache", "plan "] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn peak_memory_stays_under_the_budget() {
    let (_folder, path) = text();
    // As long as WikiText-2: to tokenize it at once would take three times the budget.
    let long = std::fs::read_to_string(&path).expect("a text").replace(" , ", "\n").repeat(90);
    assert!(long.len() > 1_000_000);
    std::fs::write(&path, long).expect("written");
    let eval = ["eval-ppl", "wikitext2", "--text", path.to_str().expect("UTF-8"), "--window", "512", "--max-windows", "4", "--json"];
    let eval = ["48MB", "64MB"].map(|budget| [&["--budget", budget][..], &eval].concat());
    for args in [&eval[0], &eval[1], &["--budget", "48MB", "generate", "The river", "--max-tokens", "40", "--json"][..]] {
        let report = json(args);
        let (peak, budget) = (report["peak_rss"].as_u64().expect("a number"), report["budget"].as_u64().expect("a number"));
        assert!(peak < budget, "{args:?}: {peak} of {budget}");
    }
}

#[test]
fn texts_are_generated_alike_every_time() {
    let greedy = |threads: &str| {
        let mut command = command(&["--weights", "7MB", "generate", "The town of", "--temp", "0", "--max-tokens", "24"]);
        String::from_utf8(command.env("RAYON_NUM_THREADS", threads).output().expect("the program starts").stdout).expect("UTF-8")
    };
    assert_eq!(greedy("1"), greedy("3"));
    assert!(greedy("2").starts_with("The town of"));
    let sampled = |seed: &str| stdout(&["--weights", "7MB", "generate", "The town of", "--seed", seed, "--max-tokens", "24"]);
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));
}

#[test]
fn every_instruction_set_gives_the_same_text() {
    let run = |isa: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ram-run"));
        command.env("RAM_RUN_ISA", isa).args(["--weights", "7MB", "generate", "The town of", "--temp", "0", "--max-tokens", "8"]);
        command.output().expect("the program starts")
    };
    let scalar = run("scalar");
    assert!(scalar.status.success());
    for isa in ["avx2", "avxvnni", "avx512"] {
        let out = run(isa);
        // 2 where the processor lacks it.
        if out.status.code() != Some(2) {
            assert_eq!(out.stdout, scalar.stdout, "{isa}");
        }
    }
    assert_eq!(run("mmx").status.code(), Some(2));
}

#[test]
fn perplexity_reports_have_their_keys() {
    let (_folder, path) = text();
    let report = json(&[
        "--weights",
        "6MB",
        "eval-ppl",
        "wikitext2",
        "--text",
        path.to_str().expect("UTF-8"),
        "--window",
        "128",
        "--max-windows",
        "4",
        "--kl",
        "--json",
    ]);
    for key in [
        "perplexity",
        "mean_nll",
        "standard_error",
        "median_window",
        "windows",
        "tokens_scored",
        "kl",
        "top1_agreement",
        "bits_per_weight",
        "weight_bytes",
        "peak_rss",
        "budget",
        "plan",
    ] {
        assert!(report.get(key).is_some(), "{key}");
    }
    assert_eq!((report["windows"].as_u64(), report["tokens_scored"].as_u64()), (Some(4), Some(4 * 127)));
    let kl = report["kl"].as_f64().expect("a number");
    assert!(kl > 0.0 && kl < 0.1, "{kl}");
}

/// What a tensor is pinned to is the tried model's, not the reference's.
#[test]
fn the_reference_is_the_checkpoint() {
    let (_folder, path) = text();
    let text = ["eval-ppl", "--text", path.to_str().expect("UTF-8"), "--window", "128", "--max-windows", "2", "--kl", "--json"];
    let report = json(&[&["--dense", "--pin", "v_proj=t2g64"], &text[..]].concat());
    assert!(report["kl"].as_f64().expect("a number") > 1e-4, "{report}");
    let report = json(&[&["--dense", "--kv", "q4"], &text[..]].concat());
    assert!(report["kl"].as_f64().expect("a number") > 1e-6, "{report}");
}

#[test]
fn threads_stop_at_what_the_machine_has() {
    let most = std::thread::available_parallelism().expect("processors").to_string();
    for threads in ["100000", "18446744073709551615"] {
        let out = ram_run(&["--threads", threads, "--weights", "7MB", "bench", "-r", "1", "-p", "2", "-n", "1", "--json"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.contains(&format!("--threads {threads}: this machine has {most} processors")), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(report["threads"].to_string(), most);
    }
    refused(&["--threads", "0", "plan"], 2, &["--threads"]);
}

#[test]
fn words_that_are_no_unicode_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
    for args in [&["generate"][..], &["--budget"], &["--model"], &[]] {
        let out = command(args).arg(odd).output().expect("the program starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && !said.contains("panicked"), "{args:?}: {said}");
    }
}
