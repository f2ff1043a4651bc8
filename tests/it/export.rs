//! Exports: other engines computed these very bytes, what is read back has the same codes, and nothing is left of what fails.
use crate::{
    bad_input::copy,
    cli::{command, json, ram_run, refused, stdout},
    determinism::folder,
    parity::{LOGIT, checkpoints, dense, distance, logits},
    quantized::dequantized,
};
use ram_run::{Checkpoint, Limit, Method, Pin, Plan, Request, Target, export, load, plan};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

fn model(name: &str) -> Option<PathBuf> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if fixture.is_dir() { Some(fixture) } else { folder(name) }
}

const BUNDLED: &str = "models/tiny-qwen3-moe";

fn request(target: Target, limit: Limit) -> Request {
    Request { method: Method::For(target), limit, ..Request::default() }
}

/// An export that another engine was asked about (`make_export_fixtures.py`).
#[derive(Deserialize)]
struct Case {
    model: String,
    target: String,
    weights: u64,
    sha256: String,
    tokens: Vec<u32>,
    at: Vec<usize>,
    picks: Vec<usize>,
    log_probabilities: Vec<Vec<f32>>,
}

#[test]
fn other_engines_gave_these_logits_for_these_bytes() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../fixtures/exports.json")).unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let Some(folder) = model(&case.model) else { continue };
        let to = tempfile::tempdir().unwrap();
        let (out, f32s) = (to.path().join("out"), to.path().join("f32"));
        let weights = case.weights.to_string();
        let at = ["--model", folder.to_str().unwrap(), "--weights", &weights, "--cache", "off"];
        stdout(&[&at[..], &["export", "--to", &case.target, out.to_str().unwrap()]].concat());
        let hash = hex::encode(Sha256::digest(fs::read(out.join("model.safetensors")).unwrap()));
        assert_eq!(hash, case.sha256, "{} for {}: make_export_fixtures.py asks them about what is written now", case.model, case.target);
        fs::create_dir(&f32s).unwrap();
        dequantized(&Checkpoint::open(&out).unwrap(), &f32s);
        let transformer = dense(&f32s);
        let vocab = transformer.description().vocab_size;
        let all = logits(&transformer, &case.tokens, &[]);
        for (at, want) in case.at.iter().zip(&case.log_probabilities) {
            let row = &all[at * vocab..][..vocab];
            let sum = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() as f32;
            let own: Vec<f32> = case.picks.iter().map(|&p| row[p] - sum).collect();
            let off = distance(&own, want);
            assert!(off < 2.0 * LOGIT, "{} for {}: log-probabilities off by {off}", case.model, case.target);
        }
    }
}

/// What a plan has in memory, and what its export has, read back.
fn same_codes(checkpoint: &Checkpoint, plan: &Plan, out: &Path) {
    let planned = load(checkpoint, plan, &|_| ()).unwrap();
    let back = Checkpoint::open(out).unwrap();
    let own = ram_run::plan(&back, &Request { method: Method::Dense, ..Request::default() }, &|_| ()).unwrap();
    let read = load(&back, &own, &|_| ()).unwrap();
    let mut coded = 0;
    for (e, own) in plan.entries.iter().zip(&own.entries).filter(|(e, _)| e.spec.kind.is_matrix()) {
        assert_eq!((&e.spec.name, e.format), (&own.spec.name, own.format));
        let [planned, read] = [&planned, &read].map(|loaded| loaded.linear(&e.spec.name).unwrap());
        assert!(planned.matrix().bytes() == read.matrix().bytes(), "{} in {}", e.spec.name, e.format);
        coded += usize::from(!e.format.is_dense());
    }
    assert!(coded > 20, "{coded} matrices are coded");
}

#[test]
fn what_is_written_is_read_back_code_for_code() {
    let checkpoint = Checkpoint::open(Path::new(BUNDLED)).unwrap();
    for (target, weights) in
        [(Target::Mlx, 5_500_000), (Target::Mlx, 9_000_000), (Target::Vllm { ranks: 1 }, 12_000_000), (Target::Vllm { ranks: 2 }, 12_000_000)]
    {
        let to = tempfile::tempdir().unwrap();
        let out = to.path().join("out");
        let plan = plan(&checkpoint, &request(target, Limit::Weights(weights)), &|_| ()).unwrap();
        let exported = export(&checkpoint, &plan, None, None, &out, &|_| ()).unwrap();
        assert!(exported.weight_bytes <= weights && exported.weight_bytes > weights * 9 / 10, "{} of {weights}", exported.weight_bytes);
        same_codes(&checkpoint, &plan, &out);
        // The same from weights that are in memory.
        let again = to.path().join("again");
        export(&checkpoint, &plan, Some(&load(&checkpoint, &plan, &|_| ()).unwrap()), None, &again, &|_| ()).unwrap();
        for file in ["model.safetensors", "config.json", "ram-run-export.json", "tokenizer.json"] {
            assert!(fs::read(out.join(file)).unwrap() == fs::read(again.join(file)).unwrap(), "{file}");
        }
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }
}

#[test]
fn gptq_goes_to_mlx_without_being_rounded() {
    for folder in checkpoints(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized")) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let to = tempfile::tempdir().unwrap();
        let out = to.path().join("out");
        let said = ram_run(&["--model", folder.to_str().unwrap(), "export", "--to", "mlx", out.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        let reason = match name.as_str() {
            name if name.starts_with("mlx-") => Some(if name.contains("gemma4") { "not exported" } else { "quantized already" }),
            "gptq-qwen2-order-dynamic" | "gptq-mixtral-3bit" => Some("does not hold"),
            _ => None,
        };
        if let Some(reason) = reason {
            assert!(said.status.code().is_some_and(|code| code != 0) && error.contains(reason), "{name}: {error}");
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "{name}");
            continue;
        }
        assert!(said.status.success(), "{name}: {error}");
        let [before, after] = [folder.as_path(), &out].map(|folder| Checkpoint::open(folder).unwrap());
        // Names may differ: what is written has those of the family's authors.
        for (spec, there) in before.specs().iter().zip(after.specs()).filter(|(s, _)| s.kind.is_matrix()) {
            let rows: Vec<usize> = (0..spec.shape[0]).collect();
            let [a, b] = [(&before, spec), (&after, there)].map(|(c, s)| ram_run::read_rows(c, &s.name, s.shape[1], &rows).unwrap());
            // An offset is a scale times a zero, to 11 bits where the zero has any number of them.
            let most = a.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            let exact = ["gptq-qwen3", "packed-qwen3-int4", "packed-qwen2-int8"].contains(&name.as_str()) && before.is_quantized();
            let off = distance(&a, &b);
            assert!(if exact { off <= most * 1e-6 } else { off <= most * 2e-3 }, "{name}: {} off by {off} of {most}", spec.name);
        }
    }
}

#[test]
fn a_process_that_was_killed_leaves_what_another_goes_on_with() {
    let to = tempfile::tempdir().unwrap();
    let (out, whole) = (to.path().join("out"), to.path().join("whole"));
    let args =
        |weights: &'static str, out: &Path| ["--weights", weights, "--no-survey", "export", "--to", "mlx", out.to_str().unwrap()].map(String::from);
    stdout(&args("6500000", &whole).each_ref().map(String::as_str));
    // As a process leaves it that has written one file and half of another.
    let unfinished = to.path().join(".out.unfinished");
    let mut child = command(&args("6500000", &out).each_ref().map(String::as_str)).stdout(Stdio::null()).spawn().unwrap();
    while !unfinished.is_dir() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !out.exists() {
        // Of another plan it is not taken for this one.
        refused(&args("7500000", &out).each_ref().map(String::as_str), 4, &[".out.unfinished", "another plan", "remove it"]);
        stdout(&args("6500000", &out).each_ref().map(String::as_str));
    }
    assert!(!unfinished.exists());
    for file in fs::read_dir(&whole).unwrap().map(|e| e.unwrap().file_name()) {
        assert!(fs::read(whole.join(&file)).unwrap() == fs::read(out.join(&file)).unwrap(), "{file:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let to = tempfile::tempdir().unwrap();
    let out = to.path().join("out");
    let at = out.to_str().unwrap();
    let phimoe = ["--model", "tests/fixtures/phimoe-bf16", "--weights", "1MB", "export", "--to"];
    refused(&[&phimoe[..], &["vllm", at]].concat(), 2, &["phimoe", "vllm", "mixtral"]);
    refused(&["export", "--to", "mlx", at], 2, &["--weights", "--budget"]);
    refused(&["--weights", "6MB", "export", "--to", "mlx", "--tp", "2", at], 2, &["--tp"]);
    refused(&["--weights", "6MB", "--uniform", "a4g64", "export", "--to", "mlx", at], 2, &["--uniform", "export"]);
    refused(&["--weights", "1MB", "export", "--to", "mlx", at], 3, &["need at least"]);
    refused(&["--weights", "7MB", "--pin", "experts=t4g64", "--no-survey", "export", "--to", "mlx", at], 4, &["t4g64", "mlx does not hold"]);
    let apart = ["--pin", "experts.0.gate=b4g64", "--pin", "experts.1.gate=b8g64"];
    refused(&[&["--weights", "6MB"], &apart[..], &["--no-survey", "export", "--to", "mlx", at]].concat(), 2, &["pin all of them"]);
    refused(&["--weights", "6MB", "export", "--to", "mlx", "/nowhere/at/all"], 4, &["/nowhere/at/all", "make that first"]);
    refused(&["--weights", "6MB", "export", "--to", "mlx", to.path().to_str().unwrap()], 4, &["there already"]);
    // A file that cannot grow, as on a disk that is full.
    let mut limited = command(&["--weights", "6MB", "--no-survey", "export", "--to", "mlx", at]);
    let program = limited.get_program().to_owned();
    let args: Vec<_> = limited.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    limited = std::process::Command::new("bash");
    limited.arg0("bash").args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]).arg(program).args(args);
    let said = limited.output().unwrap();
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(1) && error.contains("model.safetensors") && error.contains(at) && error.lines().count() == 1, "{error}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_checkpoint_leaves_nothing() {
    let damaged = copy("mixtral-bf16");
    let (to, weights) = (tempfile::tempdir().unwrap(), damaged.path.join("model.safetensors"));
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let checkpoint = Checkpoint::open(&damaged.path).unwrap();
    let dense = Pin { pattern: "".parse().unwrap(), format: ram_run::Format::BF16 };
    let request = Request { pins: vec![dense], ..request(Target::Mlx, Limit::None) };
    let Ok(plan) = plan(&checkpoint, &request, &|_| ()) else { return };
    let error = export(&checkpoint, &plan, None, None, &to.path().join("out"), &|_| ()).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn what_is_said_of_an_export_adds_up() {
    let to = tempfile::tempdir().unwrap();
    let out = to.path().join("out");
    let said = json(&["--weights", "6500000", "export", "--to", "mlx", out.to_str().unwrap(), "--json"]);
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(out.join("ram-run-export.json")).unwrap()).unwrap();
    assert_eq!(said, kept);
    let modules = said["modules"].as_object().unwrap();
    let bytes: u64 = modules.values().map(|m| m["bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(bytes), said["weight_bytes"].as_u64());
    // Its own formats lose less at as many bytes.
    let [there, here] = ["expected_kl", "expected_kl_here"].map(|key| said[key].as_f64().unwrap());
    assert!(here > 0.0 && there > 1.5 * here, "{there} there, {here} here");
    assert!(modules.contains_key("model.layers.0.mlp.switch_mlp.gate_proj"), "{:?}", modules.keys().take(9).collect::<Vec<_>>());
}
