//! Recipes for llama.cpp's quantizer: names, types and bytes by its own tables (`recipe.py`), and its own dry run where it is installed.
use crate::{
    cli::{json, ram_run, stdout},
    parity::{fixtures, shared},
    real::form,
    skips::skip,
};
use std::{fs, path::Path, process::Command};

#[test]
fn llama_cpp_has_these_tensors_and_types() {
    let Ok(python) = std::env::var("RAM_RUN_PYTHON") else { return skip("RAM_RUN_PYTHON names no Python with gguf (.ci/run installs it)") };
    let folder = tempfile::tempdir().unwrap();
    let trained = shared().into_iter().flat_map(|shared| ["tiny-mixtral", "tiny-qwen2-moe"].map(|name| shared.join("models").join(name)));
    let (mut asked, mut refused) = (Vec::new(), Vec::new());
    for model in fixtures().into_iter().chain(trained).chain(form("llama")) {
        let name = model.file_name().unwrap().to_str().unwrap().to_string();
        let (at, out) = (model.to_str().unwrap(), folder.path().join(&name));
        // The first of these that is enough: rows of some fixtures are too short for any block.
        let whole = fs::read_dir(&model).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        let said = [whole / 3, whole / 2, whole * 3 / 4, whole, whole * 2].into_iter().find_map(|size| {
            let size = size.to_string();
            let args = ["--model", at, "--no-survey", "--weights", &size, "export", "--to", "gguf-recipe", out.to_str().unwrap(), "--json"];
            let done = ram_run(&args);
            done.status.success().then(|| serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap())
        });
        let Some(said) = said else {
            assert!(!out.exists());
            refused.push(name);
            continue;
        };
        asked.extend([at.to_string(), out.to_str().unwrap().into(), said["weight_bytes"].to_string()]);
        let lines = fs::read_to_string(&out).unwrap();
        assert_eq!(lines.lines().count(), said["tensors"].as_object().unwrap().len());
    }
    // Fused, latent and recurrent mixers, and what is published in codes.
    let other =
        ["dbrx", "deepseek", "glm4-lite", "gpt-oss", "qwen3-next", "qwen35", "gemma4", "llama4", "fp8", "qwen2-step", "qwen3-bias", "qwen3-dense"];
    assert!(refused.iter().all(|name| other.iter().any(|word| name.contains(word))), "{refused:?}");
    assert!(asked.len() >= 3 * 20, "{}", asked.len());
    let checked = Command::new(python).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/recipe.py")).args(&asked).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(String::from_utf8_lossy(&checked.stdout).trim(), format!("{} recipes", asked.len() / 3));
}

#[test]
fn recipes_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("types");
    let at = out.to_str().unwrap();
    let to = ["export", "--to", "gguf-recipe", at];
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["--weights"]),
        (&["--budget", "1GB"], 2, &["--budget", "--weights"]),
        (&["--weights", "6MB", "--refine"], 2, &["--refine"]),
        (&["--weights", "6MB", "--pin", "lm_head=t4g64"], 2, &["--pin"]),
        (&["--weights", "6MB", "--tp", "2"], 2, &["--tp"]),
        (&["--weights", "1MB"], 3, &["--weights", "need at least"]),
        (&["--weights", "6MB", "--model", "tests/fixtures/dbrx-bf16"], 2, &["dbrx", "llama.cpp"]),
        (&["--weights", "6MB", "--model", "tests/fixtures/quantized/gptq-qwen3"], 2, &["quantized already"]),
    ];
    for (flags, code, words) in cases {
        let done = ram_run(&[&to[..], flags].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(*code), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{flags:?}: {said}");
        assert!(!out.exists());
    }
    let [fewer, more] = ["6MB", "7MB"].map(|weights| json(&[&["--weights", weights][..], &to, &["--json"]].concat()));
    for (said, most) in [(&fewer, 6_000_000), (&more, 7_000_000)] {
        let bytes = said["weight_bytes"].as_u64().unwrap();
        assert!(bytes <= most && bytes > most * 97 / 100, "{bytes} of {most}");
    }
    assert!(more["expected_kl"].as_f64() < fewer["expected_kl"].as_f64());
    assert!(stdout(&[&["--weights", "6MB"][..], &to].concat()).contains("llama-quantize --tensor-type-file"));
}
