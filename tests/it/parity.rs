//! What transformers computes is what this computes: logits, greedy continuations and perplexities of dense models.
//!
//! Checked on the fixtures beside this (`make_fixtures.py` says which flags they switch) and on the trained checkpoints of the folder
//! `shared` next to the repository, or where `RAM_RUN_SHARED` says; without it those are skipped.
use crate::skips::{begin, skip};
use ram_run::{Backend, Checkpoint, Effort, KvElement, Loaded, Method, Model, Protocol, Request, Transformer, candle_core};
use safetensors::{Dtype, SafeTensors};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Largest difference of a logit from the reference.
pub const LOGIT: f32 = 1e-3;
/// Largest difference of a logit between ways of cutting the same tokens.
const CUT: f32 = 1e-5;

/// The model of a folder with all its weights as they are.
fn dense_model(folder: &Path) -> Model {
    dense_on(folder, Backend::Fused)
}

fn dense_on(folder: &Path, backend: Backend) -> Model {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let request = Request { method: Method::Dense, backend, ..Request::default() };
    let plan = ram_run::plan(&checkpoint, &request, &|_| {}).unwrap();
    Model::load(&checkpoint, &plan, &|_| {}).unwrap()
}

pub fn dense(folder: &Path) -> Transformer {
    dense_model(folder).transformer
}

/// The folder `shared`, if this machine has it.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("RAM_RUN_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    begin();
    let found = folder.join("models").is_dir();
    if !found {
        skip("../shared has no trained checkpoints (RAM_RUN_SHARED can name another folder)");
    }
    found.then_some(folder)
}

/// Folders with a config.json in `folder`, by name.
pub fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.join("config.json").is_file()).collect();
    found.sort();
    found
}

pub fn fixtures() -> Vec<PathBuf> {
    let found = checkpoints(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    assert!(found.len() >= 35, "fixtures are missing");
    found
}

fn trained() -> Vec<PathBuf> {
    shared().map(|folder| checkpoints(&folder.join("models"))).unwrap_or_default()
}

/// What the reference says about one prompt.
pub struct Reference {
    pub tokens: Vec<u32>,
    /// (tokens, vocab_size).
    pub logits: Vec<f32>,
    greedy: Vec<u32>,
}

pub fn references(folder: &Path) -> Vec<Reference> {
    let bytes = fs::read(folder.join("reference.safetensors")).unwrap();
    let tensors: BTreeMap<String, _> = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
    let numbers = |name: &str| -> Vec<u32> {
        assert_eq!(tensors[name].dtype(), Dtype::I64);
        tensors[name].data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    };
    let floats = |name: &str| -> Vec<f32> {
        assert_eq!(tensors[name].dtype(), Dtype::F32);
        tensors[name].data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let suffixes = tensors.keys().filter_map(|name| name.strip_prefix("logits"));
    let prompt = |suffix: &str| if suffix.is_empty() { numbers("tokens") } else { numbers(&format!("prompt{suffix}")) };
    suffixes
        .map(|s| Reference {
            tokens: prompt(s),
            logits: floats(&format!("logits{s}")),
            greedy: if tensors.contains_key(&format!("greedy{s}")) { numbers(&format!("greedy{s}")) } else { Vec::new() },
        })
        .collect()
}

/// Logits of all tokens, fed in pieces of the given lengths and then the rest at once.
pub fn logits(model: &Transformer, tokens: &[u32], pieces: &[usize]) -> Vec<f32> {
    let mut cache = model.cache(tokens.len(), KvElement::F32);
    let mut all = Vec::new();
    let mut rest = tokens;
    for n in pieces.iter().copied().chain([tokens.len()]) {
        let (piece, after) = rest.split_at(n.min(rest.len()));
        rest = after;
        if !piece.is_empty() {
            let hidden = model.forward(piece, &mut cache).unwrap();
            all.extend(model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
    }
    assert_eq!(cache.len(), tokens.len());
    all
}

fn greedy(model: &Transformer, tokens: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache(tokens.len() + count, KvElement::F32);
    let mut hidden = model.forward(tokens, &mut cache).unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let last = hidden.narrow(0, hidden.dim(0).unwrap() - 1, 1).unwrap();
        let row = model.logits(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let best = (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).unwrap() as u32;
        found.push(best);
        hidden = model.forward(&[best], &mut cache).unwrap();
    }
    found
}

/// The rows of a matrix as they are held.
pub fn held(loaded: &Loaded, name: &str, rows: usize) -> Vec<f32> {
    let all = candle_core::Tensor::arange(0u32, rows as u32, &candle_core::Device::Cpu).unwrap();
    loaded.linear(name).unwrap().rows(&all).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A NaN is as far away as can be.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) })
}

/// Everything that is wrong with one folder.
fn problems(folder: &Path) -> Vec<String> {
    let model = dense(folder);
    let mut found = Vec::new();
    let mut check = |what: &str, distance: f32, most: f32| {
        if distance > most {
            found.push(format!("{}: {what} off by {distance:e}, at most {most:e} allowed", folder.display()));
        }
    };
    for (i, reference) in references(folder).into_iter().enumerate() {
        let Reference { tokens, logits: expected, greedy: continuation } = reference;
        let once = logits(&model, &tokens, &[]);
        check(&format!("logits of prompt {i}"), distance(&once, &expected), LOGIT);
        check(&format!("prompt {i} in pieces"), distance(&logits(&model, &tokens, &[1, 3]), &once), CUT);
        check(&format!("prompt {i} token by token"), distance(&logits(&model, &tokens, &vec![1; tokens.len()]), &once), CUT);
        let got = greedy(&model, &tokens, continuation.len());
        let differ = got.iter().zip(&continuation).filter(|(a, b)| a != b).count();
        check(&format!("greedy continuation of prompt {i}, in tokens,"), differ as f32, 0.0);
    }
    found
}

/// Both backends are the same function, and so are pieces of a prompt and a cache that was cut, on each of them.
#[test]
fn candle_computes_what_the_reference_computes() {
    let quantized = checkpoints(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized"));
    for folder in fixtures().into_iter().chain(trained()).chain(quantized.clone()) {
        let plain = dense_on(&folder, Backend::Candle(candle_core::Device::Cpu)).transformer;
        let fused = dense(&folder);
        for Reference { tokens, logits: expected, .. } in references(&folder) {
            let once = logits(&plain, &tokens, &[]);
            for (what, other, most) in [
                ("the reference", expected, LOGIT),
                // Which rounds inputs where matrices are quantized.
                ("the fused backend", logits(&fused, &tokens, &[]), if quantized.contains(&folder) { f32::MAX } else { LOGIT }),
                ("its pieces", logits(&plain, &tokens, &[1, 3]), 10.0 * CUT),
            ] {
                let off = distance(&once, &other);
                assert!(off <= most, "{}: candle differs from {what} by {off}", folder.display());
            }
            let mut cache = plain.cache(tokens.len(), KvElement::F32);
            plain.forward(&tokens, &mut cache).unwrap();
            let kept = (tokens.len() - 1).min(2);
            // States that are made token by token are not kept of each.
            cache.truncate(kept);
            assert!(cache.len() <= kept);
            let last = plain.next_logits(&tokens[cache.len()..], &mut cache).unwrap();
            assert!(distance(last, &once[once.len() - last.len()..]) <= 10.0 * CUT, "{}", folder.display());
        }
        let mut cache = fused.cache(8, KvElement::F32);
        assert!(plain.forward(&[1], &mut cache).is_err_and(|e| e.to_string().contains("another backend")));
    }
}

/// Packed matrices are decoded to what products with them take; only the inputs are not rounded.
#[test]
fn candle_runs_every_plan() {
    let mut all = Vec::new();
    for folder in fixtures() {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        for format in ["t3g32", "a4g32", "t8g64"] {
            let run = |backend| {
                // Affine codes by the published rule: with others a token of a random fixture may go another way.
                let effort = if format.starts_with('a') { Effort::Fast } else { Effort::Default };
                let request = Request { method: Method::Uniform(format.parse().unwrap()), effort, backend, ..Request::default() };
                let plan = ram_run::plan(&checkpoint, &request, &|_| {}).unwrap();
                let model = Model::load(&checkpoint, &plan, &|_| {}).unwrap();
                logits(&model.transformer, &references(&folder)[0].tokens, &[])
            };
            let (plain, fused) = (run(Backend::Candle(candle_core::Device::Cpu)), run(Backend::Fused));
            let size = checkpoint.description().vocab_size;
            let off = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.iter().map(|x| x * x).sum::<f32>();
            let mut each: Vec<f32> = plain.chunks(size).zip(fused.chunks(size)).map(off).collect();
            each.sort_by(f32::total_cmp);
            // A router that is nearly undecided may choose another expert, for a token or two.
            assert!(each[each.len() / 2] < 1e-2 && each[each.len() - 1] < 0.5, "{} {format}: {each:?}", folder.display());
            all.extend(each);
        }
    }
    all.sort_by(f32::total_cmp);
    assert!(all[all.len() / 2] < 1e-3, "{all:?}");
}

#[test]
fn fixtures_compute_what_the_reference_computes() {
    let found: Vec<String> = fixtures().iter().flat_map(|folder| problems(folder)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn trained_checkpoints_compute_what_the_reference_computes() {
    let found: Vec<String> = trained().iter().flat_map(|folder| problems(folder)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_cache_that_was_cut_back_is_as_good_as_new() {
    let folder = &fixtures()[0];
    let (model, tokens) = (dense(folder), &references(folder)[0].tokens);
    let mut cache = model.cache(tokens.len(), KvElement::F32);
    let first = model.forward(tokens, &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    cache.truncate(5);
    let again = model.forward(&tokens[5..], &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(first[first.len() - again.len()..], again);
}

#[test]
fn a_forward_that_cannot_be_leaves_the_cache_alone() {
    let folder = &fixtures()[0];
    let (model, tokens) = (dense(folder), &references(folder)[0].tokens);
    let mut cache = model.cache(4, KvElement::F16);
    model.forward(&tokens[..3], &mut cache).unwrap();
    let cases: [(&[u32], &str); 3] = [
        (&[], "a forward pass needs at least one token"),
        (&tokens[..2], "2 tokens after 3 do not fit a cache for 4"),
        (&[1_000_000], "token 1000000 is not in the vocabulary of 264"),
    ];
    for (tokens, expected) in cases {
        let error = model.forward(tokens, &mut cache).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(cache.len(), 3);
    }
}

/// (folder, text) of every trained checkpoint.
fn texts() -> Vec<(PathBuf, String)> {
    let Some(shared) = shared() else { return Vec::new() };
    let text = fs::read_to_string(shared.join("data/wikitext-2-raw/wiki.test.raw")).unwrap();
    trained().into_iter().map(|folder| (folder, text.clone())).collect()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Within 0.1 % of the reference's perplexity.
fn assert_near(folder: &Path, found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-3, "{}: perplexity {found}, but the reference's is {expected}", folder.display());
}

#[test]
fn perplexity_of_the_first_windows_is_the_references() {
    let expected = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/perplexity.json"));
    for (folder, text) in texts() {
        let mean_nll = &expected[folder.file_name().unwrap().to_str().unwrap()];
        // Enough text for the 2,048 tokens that are scored.
        let start: String = text.chars().take(20_000).collect();
        let report = dense_model(&folder).perplexity(&start, &Protocol::windows(256, 256), Some(8), None, &mut |_| {}).unwrap();
        assert_eq!((report.windows, report.tokens_scored), (8, 8 * 255));
        assert_near(&folder, report.perplexity, mean_nll.as_f64().unwrap().exp());
    }
}

/// Minutes: only where `RUN_SLOW_TESTS` is set. One protocol per checkpoint, so that all of them are seen.
#[test]
fn perplexity_of_the_whole_text_is_the_references() {
    if std::env::var_os("RUN_SLOW_TESTS").is_none() {
        return;
    }
    let protocols = ["llamacpp-512", "window-2048", "window-256"];
    for ((folder, text), name) in texts().into_iter().zip(protocols) {
        let expected = &json(&folder.join("reference.json"))["perplexity"][name];
        let model = dense_model(&folder);
        let protocol = match name {
            "llamacpp-512" => Protocol::llamacpp_512(model.tokenizer.bos),
            "window-2048" => Protocol::hf_2048(),
            _ => Protocol::windows(256, 256),
        };
        let report = model.perplexity(&text, &protocol, None, None, &mut |_| {}).unwrap();
        assert_eq!(report.windows as u64, expected["windows"].as_u64().unwrap());
        assert_eq!(report.tokens_scored as u64, expected["scored"].as_u64().unwrap());
        assert_near(&folder, report.perplexity, expected["perplexity"].as_f64().unwrap());
    }
}
