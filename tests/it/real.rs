//! A public model that nobody here trained: SmolLM2-135M-Instruct (Apache-2.0), in three forms that compute the same.
//!
//! `RAM_RUN_REAL` names a folder with them as `llama`, `mixtral` and `qwen2_moe`; `.ci/run` makes it with `../shared/tools/real_model.py`.
use crate::{
    cli::json,
    parity::{dense, distance, logits, shared},
    skips::skip,
};
use ram_run::{Checkpoint, Limit, Model, Request, Sampling};
use std::path::PathBuf;

const FRANCE: &str = "The capital of France is";

/// The folder of a form.
pub fn form(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("RAM_RUN_REAL") else {
        skip("RAM_RUN_REAL names no folder with a real model (.ci/run makes one)");
        return None;
    };
    Some(PathBuf::from(folder).join(name))
}

#[test]
fn its_perplexity_is_what_transformers_finds() {
    let (Some(model), Some(shared)) = (form("llama"), shared()) else { return };
    let text = shared.join("data/wikitext-2-raw/wiki.test.raw");
    let [model, text] = [&model, &text].map(|p| p.to_str().expect("UTF-8"));
    let report = json(&["--model", model, "--dense", "eval-ppl", "--text", text, "--window", "512", "--max-windows", "16", "--json"]);
    let perplexity = report["perplexity"].as_f64().expect("a number");
    assert!((perplexity - 36.005).abs() < 0.005, "{perplexity}");
}

#[test]
fn its_three_forms_compute_the_same() {
    let Some(folder) = form("llama") else { return };
    let tokens = ram_run::Tokenizer::open(&folder, 49_152).expect("a tokenizer").encode(FRANCE, true).expect("encodes");
    let own = logits(&dense(&folder), &tokens, &[]);
    for name in ["mixtral", "qwen2_moe"] {
        let other = logits(&dense(&form(name).expect("a folder")), &tokens, &[]);
        let off = distance(&own, &other);
        assert!(off < 2e-3, "{name}: {off}");
    }
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(folder) = form("llama") else { return };
    let checkpoint = Checkpoint::open(&folder).expect("opens");
    for limit in [Limit::None, Limit::Weights(100_000_000)] {
        let plan = ram_run::plan(&checkpoint, &Request { limit, context: Some(64), ..Request::default() }, &|_| {}).expect("a plan");
        let model = Model::load(&checkpoint, &plan, &|_| {}).expect("loads");
        let tokens = model.tokenizer.encode(FRANCE, true).expect("encodes");
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let mut session = model.session(greedy).expect("a session");
        session.prompt(&tokens).expect("fits");
        let said: Vec<u32> = model.generate(&mut session, 4).collect::<Result<_, _>>().expect("tokens");
        let said = model.tokenizer.decode(&said).expect("a text");
        assert!(said.trim_start().starts_with("Paris"), "{limit:?}: {said}");
    }
}
