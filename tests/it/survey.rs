//! Plans with a survey: channels are scaled, nothing but the error changes, and that gets less.
use crate::{
    cli::{json, ram_run},
    parity::{dense, distance, logits, shared},
    real::form,
};
use ram_models::Weights;
use ram_run::{Checkpoint, Error, Format, Method, Model, Request, Survey, load, plan};
use std::path::Path;

fn uniform(format: &str, survey: Option<Survey>) -> Request {
    let format: Format = format.parse().expect("a format");
    Request { method: Method::Uniform(format), survey: survey.map(Into::into), context: Some(64), ..Request::default() }
}

/// How far off the logits of half of the tokens are at the most.
fn off(folder: &Path, request: &Request, exact: &[f32], tokens: &[u32]) -> f32 {
    let checkpoint = Checkpoint::open(folder).expect("opens");
    let plan = plan(&checkpoint, request, &|_| ()).expect("a plan");
    let model = Model::load(&checkpoint, &plan, &|_| ()).expect("loads");
    let own = logits(&model.transformer, tokens, &[]);
    let vocab_size = own.len() / tokens.len();
    let mut each: Vec<f32> = own.chunks(vocab_size).zip(exact.chunks(vocab_size)).map(|(a, b)| distance(a, b)).collect();
    each.sort_by(f32::total_cmp);
    // A router that is nearly undecided may choose another expert, for a token or two.
    each[each.len() / 2]
}

/// Eight bits leave next to no error: a scale that is not undone would be all of it.
#[test]
fn what_is_scaled_is_scaled_back() {
    let models =
        shared().into_iter().flat_map(|shared| ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"].map(|name| shared.join("models").join(name)));
    let real = ["llama", "mixtral", "qwen2_moe"].into_iter().filter_map(form);
    // Those with delta nets or latents are small and random: their tokens are others.
    let fixtures = [
        "qwen3-next-bf16",
        "qwen35-moe-bf16",
        "qwen35-dense-f32",
        "deepseek2-groups-bf16",
        "deepseek3-fp8",
        "deepseek3-plain-f32",
        "glm4-lite-bf16",
        "llama4-pieces-bf16",
        "phimoe-bf16",
        "dbrx-bf16",
        "gemma4-mixed-bf16",
        "gemma4-dense-f32",
    ];
    let fixtures = fixtures.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name));
    for folder in models.chain(real).chain(fixtures) {
        let vocab_size = Checkpoint::open(&folder).expect("opens").description().vocab_size as u32;
        let tokens: Vec<u32> = (0..24).map(|i| (300 + 7 * i) % vocab_size).collect();
        let exact = logits(&dense(&folder), &tokens, &[]);
        let survey = Survey::measure(&Checkpoint::open(&folder).expect("opens"), &|_| ()).expect("a survey");
        let [plain, surveyed] = [None, Some(survey)].map(|survey| off(&folder, &uniform("t8g64", survey), &exact, &tokens));
        assert!(surveyed < 2.0 * plain, "{}: {surveyed} with it, {plain} without", folder.display());
    }
}

#[test]
fn it_halves_the_loss_of_a_real_model_in_three_bits() {
    let (Some(model), Some(shared)) = (form("llama"), shared()) else { return };
    let text = shared.join("data/wikitext-2-raw/wiki.test.raw");
    let [model, text] = [&model, &text].map(|p| p.to_str().expect("UTF-8"));
    let kl = |more: &[&str]| {
        let args = ["--model", model, "--uniform", "t3g64", "--pin", "embed_tokens=bf16", "eval-ppl", "--text", text];
        let report = json(&[&args[..], &["--window", "512", "--max-windows", "4", "--kl", "--json"], more].concat());
        report["kl"].as_f64().expect("a number")
    };
    let (plain, surveyed) = (kl(&["--no-survey"]), kl(&[]));
    assert!(surveyed < 0.6 * plain, "{surveyed} with it, {plain} without");
}

/// The same bytes for any number of threads.
#[test]
fn threads_change_no_scale_and_no_cost() {
    // The bundled one.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe");
    let packed = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let checkpoint = Checkpoint::open(&folder).expect("opens");
            let survey = Survey::measure(&checkpoint, &|_| ()).expect("a survey");
            let plan = plan(&checkpoint, &uniform("t4g64", Some(survey)), &|_| ()).expect("a plan");
            let loaded = load(&checkpoint, &plan, &|_| ()).expect("loads");
            let each = checkpoint.specs().iter().filter(|s| s.kind.is_matrix()).map(|s| loaded.matrix(s).expect("a matrix").bytes().to_vec());
            (plan.expected_kl, each.collect::<Vec<_>>())
        })
    };
    let one = packed(1);
    assert!(one == packed(2) && one == packed(7), "threads change bytes");
}

#[test]
fn it_is_refused_where_it_cannot_be() {
    let out = ram_run(&["--no-survey", "--dense", "generate", "x"]);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    let bundled = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe")).expect("opens");
    let survey = Survey::measure(&bundled, &|_| ()).expect("a survey");
    let copy = crate::bad_input::copy("qwen2-shared-bf16");
    let other = Checkpoint::open(&copy.path).expect("opens");
    assert!(matches!(plan(&other, &uniform("t4g64", Some(survey)), &|_| ()), Err(Error::Mismatch(_))));
}
