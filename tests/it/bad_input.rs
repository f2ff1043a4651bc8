//! Bad input gets one sentence that names the thing, the right exit code, and no panic.
use crate::cli::refused;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A copy of a small checkpoint that a test may damage.
pub struct Copy {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

pub fn copy(name: &str) -> Copy {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model");
    fs::create_dir(&path).expect("a folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    for entry in fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), path.join(entry.file_name())).expect("a copy");
    }
    Copy { _folder: folder, path }
}

impl Copy {
    pub fn refused(&self, words: &[&str]) {
        refused(&["--model", self.path.to_str().expect("UTF-8"), "--dense", "generate", "a", "--max-tokens", "1"], 4, words);
    }

    /// The weights file with another header and the same data.
    pub fn header(&self, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
        let path = self.path.join("model.safetensors");
        let bytes = fs::read(&path).expect("weights");
        let n = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let mut header: serde_json::Map<_, _> = serde_json::from_slice(&bytes[8..8 + n]).expect("a header");
        change(&mut header);
        let header = serde_json::to_vec(&header).expect("JSON");
        let out = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + n..]].concat();
        fs::write(path, out).expect("written");
    }

    pub fn config(&self, key: &str, value: serde_json::Value) {
        let path = self.path.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
        config[key] = value;
        fs::write(path, config.to_string()).expect("written");
    }
}

const SINGLE: &str = "qwen2-no-bias-f16";

#[test]
fn folders_and_configs() {
    refused(&["--model", "/nowhere/at/all", "plan"], 4, &["/nowhere/at/all", "config.json"]);
    let c = copy(SINGLE);
    c.config("model_type", "gpt9".into());
    c.refused(&["config.json", "gpt9"]);
    for (key, value) in [
        ("hidden_act", "gelu".into()),
        ("num_attention_heads", 0.into()),
        ("rope_scaling", serde_json::json!({"rope_type": "longrope", "factor": 4.0})),
        ("a_new_key", true.into()),
        ("quantization_config", serde_json::json!({"quant_method": "bitsandbytes", "bits": 4})),
    ] {
        let c = copy(SINGLE);
        c.config(key, value);
        c.refused(&["config.json", key]);
    }
    let c = copy(SINGLE);
    fs::write(c.path.join("config.json"), "{").expect("written");
    c.refused(&["config.json"]);
}

#[test]
fn tensors() {
    let c = copy(SINGLE);
    c.header(|h| {
        let v = h.remove("model.norm.weight").expect("a norm");
        h.insert("model.norm.wait".into(), v);
    });
    c.refused(&["model.norm.weight"]);
    let c = copy(SINGLE);
    c.config("num_hidden_layers", 1.into());
    c.refused(&["model.layers.1."]);
    let c = copy(SINGLE);
    c.header(|h| {
        let shape = h["lm_head.weight"]["shape"].as_array_mut().expect("a shape");
        shape.reverse();
    });
    c.refused(&["lm_head.weight", "shape"]);
    let c = copy(SINGLE);
    c.header(|h| h["lm_head.weight"]["dtype"] = "I16".into());
    c.refused(&["lm_head.weight", "I16"]);
}

#[test]
fn weight_files() {
    let weights = |c: &Copy| c.path.join("model.safetensors");
    let c = copy(SINGLE);
    let bytes = fs::read(weights(&c)).expect("weights");
    for cut in [0, 4, 8, 100, bytes.len() - 1] {
        fs::write(weights(&c), &bytes[..cut]).expect("written");
        c.refused(&["model.safetensors"]);
    }
    fs::write(weights(&c), [&bytes[..], &[0]].concat()).expect("written");
    c.refused(&["model.safetensors", "behind"]);
    for length in [u64::MAX, 1 << 40, bytes.len() as u64] {
        fs::write(weights(&c), [&length.to_le_bytes()[..], &bytes[8..]].concat()).expect("written");
        c.refused(&["model.safetensors", "header"]);
    }
    for offsets in [[0u64, 0], [0, u64::MAX], [u64::MAX, 0], [1 << 50, 1 << 51]] {
        let c = copy(SINGLE);
        c.header(|h| h["lm_head.weight"]["data_offsets"] = serde_json::json!(offsets));
        c.refused(&["model.safetensors", "lm_head.weight"]);
    }
    let c = copy(SINGLE);
    c.header(|h| h["model.norm.weight"]["data_offsets"] = h["model.layers.0.input_layernorm.weight"]["data_offsets"].clone());
    c.refused(&["model.safetensors"]);
    fs::remove_file(weights(&c)).expect("removed");
    c.refused(&["model.safetensors"]);
    let c = copy(SINGLE);
    let mut bytes = bytes;
    let n = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    // A half with all exponent bits set, in the middle of every tensor: NaN.
    for at in (8 + n..bytes.len() - 1).step_by(2) {
        bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    }
    fs::write(weights(&c), bytes).expect("written");
    c.refused(&["tensor", "NaN"]);
}

#[test]
fn what_is_no_file_is_refused_before_it_is_read() {
    // A FIFO would be waited for, a device never ends.
    type Make = fn(&Path);
    let kinds: [(&str, Make); 3] = [
        ("directory", |path| fs::create_dir(path).expect("a folder")),
        ("FIFO", |path| assert!(Command::new("mkfifo").arg(path).status().expect("runs").success())),
        ("device", |path| std::os::unix::fs::symlink("/dev/zero", path).expect("a link")),
    ];
    let files = [
        "model.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ];
    for (kind, make) in kinds {
        for file in files {
            let c = copy(SINGLE);
            let path = c.path.join(file);
            let _ = fs::remove_file(&path);
            make(&path);
            c.refused(&[file, kind]);
        }
        let path = tempfile::tempdir().expect("a folder").path().with_extension("other");
        make(&path);
        let named = path.to_str().expect("UTF-8");
        let sound = copy(SINGLE);
        refused(&["eval-ppl", "wikitext2", "--text", named], 4, &[named, kind]);
        refused(&["--model", sound.path.to_str().expect("UTF-8"), "chat", "--chat-template", named], 4, &[named, kind]);
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
    }
}

#[test]
fn files_that_are_no_text() {
    for file in
        ["model.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    {
        let c = copy(SINGLE);
        fs::write(c.path.join(file), b"{\"a\": \"\xff\"}").expect("written");
        c.refused(&[file, "UTF-8", "byte 7"]);
    }
}

#[test]
fn what_is_no_checkpoint() {
    let refused = |path: &Path, words: &[&str]| refused(&["--model", path.to_str().expect("UTF-8"), "plan"], 4, words);
    for path in ["/etc/passwd", "/dev/null"] {
        refused(Path::new(path), &[path, "is not a checkpoint folder"]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    refused(folder.path(), &["is not a checkpoint folder"]);
    let gguf = folder.path().join("x.gguf");
    let words = ["GGUF is not read yet; give the folder with the original safetensors"];
    refused(&gguf, &words);
    fs::write(&gguf, "GGUF").expect("written");
    refused(&gguf, &words);
    refused(folder.path(), &words);
}

#[test]
fn published_sampling_blames_its_file() {
    for (json, word) in [(r#"{"top_p": 2}"#, "top_p 2"), (r#"{"temperature": "hot"}"#, "temperature"), (r#"{"eos_token_id": -1}"#, "eos_token_id -1")]
    {
        let c = copy(SINGLE);
        fs::write(c.path.join("generation_config.json"), json).expect("written");
        c.refused(&["generation_config.json", word]);
    }
}

#[test]
fn shards() {
    let sharded = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")).expect("fixtures").flatten();
    let name = sharded.map(|e| e.path()).find(|p| p.join("model.safetensors.index.json").exists()).expect("a sharded fixture");
    let c = copy(name.file_name().and_then(|n| n.to_str()).expect("UTF-8"));
    let shard = fs::read_dir(&c.path).expect("a folder").flatten().map(|e| e.path()).find(|p| p.to_string_lossy().contains("-of-")).expect("a shard");
    fs::remove_file(&shard).expect("removed");
    c.refused(&[shard.file_name().and_then(|n| n.to_str()).expect("UTF-8"), "index"]);
    fs::write(c.path.join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../../etc/passwd"}}"#).expect("written");
    c.refused(&["index", "outside"]);
}

#[test]
fn tokenizers_and_templates() {
    let c = copy(SINGLE);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe/tokenizer.json"), c.path.join("tokenizer.json")).expect("a copy");
    c.refused(&["tokenizer.json", "vocab_size"]);
    fs::remove_file(c.path.join("tokenizer.json")).expect("removed");
    c.refused(&["tokenizer.json"]);
    // A decoder that panics at a token shorter than what it strips.
    let c = copy(SINGLE);
    let path = c.path.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("a tokenizer")).expect("JSON");
    json["decoder"] = serde_json::json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
    fs::write(&path, json.to_string()).expect("written");
    refused(&["--model", c.path.to_str().expect("UTF-8"), "--dense", "generate", "aaaa", "--json"], 4, &["tokenizer"]);
    let c = copy(SINGLE);
    fs::write(c.path.join("chat_template.jinja"), "{{ raise_exception('say nothing') }}").expect("written");
    let path = c.path.to_str().expect("UTF-8");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ram-run"))
        .args(["--model", path, "--dense", "chat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"hello\n").expect("written");
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&out.stderr).contains("say nothing"));
}

#[test]
fn flags() {
    refused(&["--budget", "1", "plan"], 3, &["--budget", "at least"]);
    refused(&["--weights", "100kB", "plan"], 3, &["--weights", "at least"]);
    refused(&["--budget", "abc", "plan"], 2, &["abc", "24GB"]);
    refused(&["--budget", "24", "GB", "plan"], 2, &["--budget 24GB"]);
    refused(&["--pin", "no_such_tensor=t4g64", "plan"], 2, &["no_such_tensor"]);
    refused(&["--pin", "lm_head=t9g64", "plan"], 2, &["t9g64"]);
    refused(&["--pin", "(=t4g64", "plan"], 2, &["--pin"]);
    refused(&["--uniform", "x4", "plan"], 2, &["x4"]);
    refused(&["--ctx", "999999", "plan"], 2, &["--ctx"]);
    refused(&["--ctx", "4", "generate", "one two three four five six seven"], 2, &["--ctx"]);
    refused(&["generate", "a", "--top-p", "2"], 2, &["--top-p"]);
    refused(&["generate", ""], 2, &["empty"]);
    refused(&["eval-ppl", "wikitext2", "--text", "/nowhere.txt"], 4, &["/nowhere.txt"]);
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let path = empty.path().to_str().expect("UTF-8");
    refused(&["eval-ppl", "wikitext2", "--text", path], 4, &[path, "empty"]);
    fs::write(empty.path(), "a few words").expect("written");
    refused(&["eval-ppl", "wikitext2", "--text", path], 2, &["too few"]);
    refused(&["eval-ppl", "wikitext2", "--text", path, "--window", "1"], 2, &["--window"]);
}

/// 8-bit floats whose scales are not there, or are those of other blocks.
#[test]
fn floats_of_eight_bits_want_their_scales() {
    let wrong = |value: serde_json::Value, words: &[&str]| {
        let copy = copy("qwen3-fp8");
        copy.config("quantization_config", value);
        copy.refused(words);
    };
    let fp8 = |block: serde_json::Value| serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": block});
    wrong(fp8(serde_json::json!([16, 16])), &["weight_scale_inv", "has shape [3, 2], and blocks of [16, 16] ask for [3, 3]"]);
    wrong(fp8(serde_json::json!(null)), &["weight_block_size", "two numbers, outputs and inputs of a block"]);
    wrong(serde_json::Value::Null, &["holds numbers of 8 bits, and config.json has no quantization_config of fp8"]);
}
