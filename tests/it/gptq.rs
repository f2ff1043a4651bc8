//! Against calibrated GPTQ: plans that have seen no text lose less than GPTQ after 32,768 tokens of the very text that is tested,
//! at equal bytes, embedding, head and routers dense on both sides.
//!
//! `tests/gptq/make_gptq.py` makes the checkpoints in target/gptq, once; it needs python3 (or what `RAM_RUN_PYTHON` names) with
//! numpy and tokenizers, and the folder `shared`. Without them this is skipped and says so.
use crate::{
    cli::{ram_run, stdout},
    parity::shared,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const MODELS: [&str; 3] = ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"];
/// (bits, group).
const HOW: [(&str, &str); 3] = [("4", "128"), ("4", "64"), ("3", "128")];

fn python() -> Option<String> {
    let python = std::env::var("RAM_RUN_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import numpy, tokenizers"]).output().is_ok_and(|out| out.status.success());
    if !found {
        crate::skips::skip("python3 has no numpy and tokenizers (RAM_RUN_PYTHON can name another)");
    }
    found.then_some(python)
}

fn quantized(python: &str, model: &Path, text: &Path, (bits, group): (&str, &str)) -> PathBuf {
    let name = format!("{}-{bits}bit-{group}g", model.file_name().expect("a name").to_str().expect("UTF-8"));
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gptq").join(name);
    if !out.is_dir() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gptq/make_gptq.py");
        let made = Command::new(python).arg(script).args([model, text, &out]).args([bits, group]).output().expect("python starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        eprintln!("{}", String::from_utf8_lossy(&made.stdout));
    }
    out
}

#[test]
fn plans_without_text_lose_less_than_gptq_with_it() {
    let (Some(shared), Some(python)) = (shared(), python()) else { return };
    let text = shared.join("data/wikitext-2-raw/wiki.test.raw");
    for name in MODELS {
        let model = shared.join("models").join(name);
        let made = HOW.map(|how| quantized(&python, &model, &text, how));
        let mut args = vec!["--model", model.to_str().expect("UTF-8"), "compare", "--text", text.to_str().expect("UTF-8")];
        args.extend(["--window", "256", "--max-windows", "32"]);
        args.extend(made.iter().flat_map(|folder| ["--against", folder.to_str().expect("UTF-8")]));
        let table = stdout(&args);
        eprintln!("{table}");
        let rows = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| method") && !l.starts_with("| dense"));
        let rows: Vec<(u64, f64)> = rows
            .map(|l| l.split('|').map(str::trim).collect::<Vec<_>>())
            .map(|c| (c[2].parse().expect("bytes"), c[4].parse().expect("a number")))
            .collect();
        assert_eq!(rows.len(), 2 * HOW.len(), "{table}");
        for pair in rows.chunks_exact(2) {
            let ((their_bytes, theirs), (bytes, own)) = (pair[0], pair[1]);
            // Not a byte more, and hardly one less.
            assert!(bytes <= their_bytes && bytes as f64 > 0.999 * their_bytes as f64, "{name}: {table}");
            // Measured: 0.42 to 0.56 of theirs.
            assert!(own < 0.75 * theirs, "{name}: {own} against {theirs}\n{table}");
        }
    }
}

#[test]
fn comparisons_that_make_no_sense_are_refused() {
    let fixture = |name: &str| format!("tests/fixtures/{name}");
    let refused = |args: &[&str], words: &str| {
        let out = ram_run(args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains(words), "{args:?}: {said}");
    };
    let text = crate::cli::text();
    let text = text.1.to_str().expect("UTF-8");
    let (dense, gptq, other) = (fixture("mixtral-bf16"), fixture("quantized/gptq-qwen3"), fixture("qwen2-shared-bf16"));
    let windows = ["--text", text, "--window", "16", "--max-windows", "1"];
    refused(&[&["--model", &dense, "compare", "--against", &other], &windows[..]].concat(), "must be a quantized checkpoint of the model");
    refused(&[&["--model", &dense, "compare", "--against", &gptq], &windows[..]].concat(), "must be a quantized checkpoint of the model");
    refused(&[&["--model", &gptq, "eval-ppl", "--kl"], &windows[..]].concat(), "--kl-against FOLDER");
    refused(&[&["--model", &dense, "eval-ppl", "--kl-against", &other], &windows[..]].concat(), "different tokenizers");
    // A checkpoint against itself: nothing but the rounding of inputs.
    let out = crate::cli::json(&[&["--model", &gptq, "eval-ppl", "--kl-against", &gptq, "--json"], &windows[..]].concat());
    assert!(out["kl"].as_f64().expect("a number") < 1e-3, "{out}");
}
