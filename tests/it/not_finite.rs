//! Numbers that overflow on their way through a model end in an error that says where, not in token 0.
use crate::{
    bad_input::{Copy, copy},
    cli::{ram_run, text},
};
use ram_run::{Checkpoint, Error, Method, Model, Request, Sampling};
use std::fs;

/// A copy of a fixture of f32 weights with all values of one tensor so large.
fn with(name: &str, value: f32) -> Copy {
    let c = copy("qwen3-bias-f32");
    for path in fs::read_dir(&c.path).expect("a folder").map(|e| e.expect("an entry").path()) {
        let mut bytes = fs::read(&path).expect("a file");
        if path.extension().is_none_or(|e| e != "safetensors") || path.ends_with("reference.safetensors") {
            continue;
        }
        let n = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..n]).expect("a header");
        let Some(offsets) = header[name]["data_offsets"].as_array() else { continue };
        let [start, end] = [0, 1].map(|i| n + offsets[i].as_u64().expect("an offset") as usize);
        bytes[start..end].as_chunks_mut().0.iter_mut().for_each(|to| *to = value.to_le_bytes());
        fs::write(&path, bytes).expect("written");
        return c;
    }
    panic!("no tensor {name}");
}

const CASES: [(&str, &str); 3] = [
    ("model.norm.weight", "inputs of the head are no numbers"),
    ("model.layers.2.input_layernorm.weight", "inputs of the attention in layer 2 are no numbers"),
    ("model.layers.1.post_attention_layernorm.weight", "inputs of the router in layer 1 are no numbers"),
];

#[test]
fn every_command_that_computes_says_where_and_ends_with_4() {
    let (_folder, text) = text();
    let text = text.to_str().expect("UTF-8");
    for (name, says) in CASES {
        let c = with(name, 3e38);
        let model = ["--model", c.path.to_str().expect("UTF-8")];
        for weights in [&["--dense"][..], &["--uniform", "t8g32"]] {
            for command in [&["generate", "a", "--temp", "0"][..], &["eval-ppl", "--text", text, "--window", "32", "--max-windows", "1"]] {
                let out = ram_run(&[&model, weights, command].concat());
                let error = String::from_utf8_lossy(&out.stderr);
                assert_eq!(out.status.code(), Some(4), "{name} {command:?}: {error}");
                assert!(error.contains(says) && !error.contains("panicked"), "{name} {command:?}: {error}");
            }
        }
    }
}

#[test]
fn the_library_says_where_too() {
    for (name, says) in CASES {
        let c = with(name, 3e38);
        let checkpoint = Checkpoint::open(&c.path).expect("a checkpoint");
        let request = Request { method: Method::Dense, ..Request::default() };
        let plan = ram_run::plan(&checkpoint, &request, &|_| ()).expect("a plan");
        let model = Model::load(&checkpoint, &plan, &|_| ()).expect("a model");
        let prompt = model.tokenizer.encode("a", true).expect("tokens");
        let mut session = model.session(Sampling::default()).expect("a session");
        session.prompt(&prompt).expect("fits");
        let first = model.generate(&mut session, 4).next();
        assert!(matches!(&first, Some(Err(Error::NotFinite(place))) if says.starts_with(place)), "{name}: {first:?}");
        assert_eq!(session.computed(), 0);
    }
}

#[test]
fn a_cache_of_another_model_is_an_error() {
    let model = |name: &str| {
        let folder = copy(name);
        let checkpoint = Checkpoint::open(&folder.path).expect("a checkpoint");
        let plan = ram_run::plan(&checkpoint, &Request { method: Method::Dense, ..Request::default() }, &|_| ()).expect("a plan");
        Model::load(&checkpoint, &plan, &|_| ()).expect("a model")
    };
    let (model, other) = (model("qwen2-step-f32"), model("qwen3-bias-f32"));
    let prompt = model.tokenizer.encode("a", true).expect("tokens");
    let mut session = other.session(Sampling::default()).expect("a session");
    session.prompt(&prompt).expect("fits");
    let error = model.next(&mut session).expect_err("another model's session");
    assert!(matches!(&error, Error::Mismatch(text) if text.contains("KV cache")), "{error}");
}
