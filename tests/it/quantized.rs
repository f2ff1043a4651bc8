//! Checkpoints that gptqmodel and mlx-lm have quantized run on their own codes: `make_quantized_fixtures.py` says what each shows.
use crate::{
    bad_input::copy,
    cli::{json, refused, stdout},
    parity::{LOGIT, checkpoints, dense, distance, held, logits, references},
};
use ram_run::{Checkpoint, Kind, Limit, Method, Model, Request, TensorSpec, description};
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn fixtures() -> Vec<PathBuf> {
    let found = checkpoints(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized"));
    assert_eq!(found.len(), 15, "fixtures are missing");
    found
}

fn fixture(name: &str) -> String {
    format!("tests/fixtures/quantized/{name}")
}

fn open(folder: &Path) -> (Checkpoint, Model) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let plan = ram_run::plan(&checkpoint, &Request { method: Method::Dense, ..Request::default() }, &|_| {}).unwrap();
    let model = Model::load(&checkpoint, &plan, &|_| {}).unwrap();
    (checkpoint, model)
}

/// The same weights as a checkpoint in f32.
pub fn dequantized(checkpoint: &Checkpoint, folder: &Path) {
    let stored = fs::read(checkpoint.folder().join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let values = |spec: &TensorSpec| -> Vec<f32> {
        if spec.kind.is_matrix() {
            return ram_run::read_rows(checkpoint, &spec.name, spec.shape[1], &(0..spec.shape[0]).collect::<Vec<_>>()).unwrap();
        }
        let tensor = stored.tensor(&spec.name).unwrap();
        let halves = |widen: fn([u8; 2]) -> f32| tensor.data().as_chunks().0.iter().map(|b| widen(*b)).collect::<Vec<f32>>();
        let mut all = match tensor.dtype() {
            Dtype::F16 => halves(|b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => halves(|b| half::bf16::from_le_bytes(b).to_f32()),
            Dtype::F32 => tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            other => panic!("{} is {other:?}", spec.name),
        };
        // MLX has them whole.
        if spec.kind == Kind::Norm && checkpoint.description().norms_less_one {
            all.iter_mut().for_each(|w| *w -= 1.0);
        }
        all
    };
    let bytes: Vec<(&TensorSpec, Vec<u8>)> =
        checkpoint.specs().iter().map(|s| (s, values(s).into_iter().flat_map(f32::to_le_bytes).collect())).collect();
    let views = bytes.iter().map(|(s, b)| (s.name.as_str(), TensorView::new(Dtype::F32, s.shape.clone(), b).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(checkpoint.folder().join("config.json")).unwrap()).unwrap();
    for key in ["quantization", "quantization_config"] {
        config.as_object_mut().unwrap().remove(key);
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(checkpoint.folder().join(name), folder.join(name)).unwrap();
    }
}

#[test]
fn their_weights_are_what_the_library_says() {
    for folder in fixtures() {
        let (checkpoint, packed) = open(&folder);
        let reference = references(&folder).remove(0);
        let f32s = tempfile::tempdir().unwrap();
        dequantized(&checkpoint, f32s.path());
        let exact = logits(&dense(f32s.path()), &reference.tokens, &[]);
        let off = distance(&exact, &reference.logits);
        assert!(off < LOGIT, "{}: logits of dequantized weights off by {off}", folder.display());
        // In packed form inputs are rounded to 8 bits besides: logits of 2 move by 0.01 to 0.03 (root mean square), and by more for
        // the few tokens which that sends to another expert.
        let own = logits(&packed.transformer, &reference.tokens, &[]);
        let vocab = own.len() / reference.tokens.len();
        let tokens = own.chunks_exact(vocab).zip(exact.chunks_exact(vocab));
        let mut off: Vec<f32> = tokens.map(|(a, b)| (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / vocab as f32).sqrt()).collect();
        off.sort_by(f32::total_cmp);
        let median = off[off.len() / 2];
        let most = checkpoint.description().layers.iter().map(|layer| match layer.mixer {
            description::Mixer::Attention(_) => 0.05,
            // Queries are rounded on their way to latents, and so is what they find.
            description::Mixer::Latent(_) => 0.1,
            // Where a query of a random one finds next to nothing, the norm behind it makes what rounding leaves as large as all else.
            description::Mixer::DeltaNet(_) => 0.25,
        });
        let most = most.fold(0.0, f32::max);
        assert!(median > 0.0 && median < most, "{}: logits in packed form off by {off:?}", folder.display());
    }
}

/// What a matrix takes here is what it takes in the file; the order of inputs is left out where it is the usual one.
#[test]
fn they_are_charged_at_their_own_bytes() {
    let mut compared = 0;
    for folder in fixtures() {
        let (checkpoint, model) = open(&folder);
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let len = |name: String| stored.tensor(&name).map_or(0, |t| t.data().len() as u64);
        // Tiles are 16 rows, and routers of 4 experts are not.
        for e in model.plan.entries.iter().filter(|e| e.spec.kind.is_matrix() && e.spec.shape[0] % 16 == 0) {
            let module = e.spec.name.trim_end_matches(".weight");
            let codes = len(format!("{module}.qweight")) + len(format!("{module}.weight"));
            let mut all = codes + len(format!("{module}.scales")) + len(format!("{module}.qzeros")) + len(format!("{module}.biases"));
            if e.format.to_string().starts_with('p') {
                all += len(format!("{module}.g_idx"));
            }
            // MLX has all experts of a layer in one tensor.
            if codes > 0 {
                compared += 1;
                assert_eq!(e.bytes, all, "{}: {} in {}", folder.display(), e.spec.name, e.format);
            }
        }
        assert!(checkpoint.is_quantized());
        assert_eq!(model.plan.weight_bytes, model.plan.entries.iter().map(|e| e.bytes).sum::<u64>());
    }
    assert!(compared > 100, "{compared}");
}

/// Floats of 4 bits are kept as they are where the budget allows it, are exact then, and are coded again where it does not.
#[test]
fn floats_of_four_bits_are_kept_or_coded_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt-oss-mxfp4");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = |weights: u64| {
        let request = Request { limit: Limit::Weights(weights), ..Request::default() };
        let plan = ram_run::plan(&checkpoint, &request, &|_| {}).unwrap();
        Model::load(&checkpoint, &plan, &|_| {}).unwrap()
    };
    let experts = |model: &Model| -> Vec<(String, f64, u64)> {
        model
            .plan
            .entries
            .iter()
            .filter(|e| e.spec.expert.is_some() && e.spec.kind.is_matrix())
            .map(|e| (e.format.to_string(), e.error, e.bytes))
            .collect()
    };
    let kept = model(130_000);
    let loaded = ram_run::load(&checkpoint, &kept.plan, &|_| {}).unwrap();
    assert!(experts(&kept).iter().all(|(format, error, _)| format == "mxfp4" && *error == 0.0));
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let in_file: usize =
        stored.tensors().iter().filter(|(name, _)| name.ends_with("_blocks") || name.ends_with("_scales")).map(|(_, t)| t.data().len()).sum();
    assert_eq!(experts(&kept).iter().map(|(_, _, bytes)| *bytes).sum::<u64>(), in_file as u64);
    for spec in checkpoint.specs().iter().filter(|s| s.expert.is_some() && s.kind.is_matrix()) {
        let (rows, cols) = (spec.shape[0], spec.shape[1]);
        let exact = ram_run::read_rows(&checkpoint, &spec.name, cols, &(0..rows).collect::<Vec<_>>()).unwrap();
        assert_eq!(held(&loaded, &spec.name, rows), exact, "{}", spec.name);
    }
    let less = model(70_000);
    assert!(experts(&less).iter().any(|(format, error, _)| format != "mxfp4" && *error > 0.0));
    // A scale that is none, and parts that do not belong together.
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let copy = crate::bad_input::copy("gpt-oss-mxfp4");
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(copy.path.join("model.safetensors"), bytes).unwrap();
        copy
    };
    let at = |name: &str| stored.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    let place = at("model.layers.0.mlp.experts.down_proj_scales");
    damaged(&|bytes| bytes[place] = 255).refused(&["mlp.experts.0.down_proj.weight_scales", "holds a scale that is no number"]);
    let copy = crate::bad_input::copy("gpt-oss-mxfp4");
    copy.config("quantization_config", serde_json::json!({"quant_method": "fp8", "weight_block_size": [16, 16]}));
    copy.refused(&["holds bytes, and config.json has no quantization_config of mxfp4"]);
}

#[test]
fn every_way_of_coding_is_there() {
    let mut formats: Vec<String> = fixtures().iter().flat_map(|f| open(f).1.plan.entries).map(|e| e.format.to_string()).collect();
    formats.sort();
    formats.dedup();
    for expected in
        ["q4g32", "p4g32", "p3g32", "q8g64", "q8g96", "b3g32", "b4g32", "b4g64", "b5g32", "b6g32", "b6g64", "b8g64", "a2g32", "a4g32", "a8g32"]
    {
        assert!(formats.iter().any(|f| f == expected), "{expected} is not among {formats:?}");
    }
}

#[test]
fn the_program_runs_them() {
    for name in ["gptq-qwen2-order-dynamic", "mlx-qwen3-mixed"] {
        let model = fixture(name);
        assert!(!stdout(&["--model", &model, "generate", "the", "--max-tokens", "4", "--temp", "0"]).is_empty());
        let plan = json(&["--model", &model, "plan", "--json"]);
        // Of the rounding of inputs alone.
        assert!(plan["expected_kl"].as_f64().unwrap() < 1e-3, "{}", plan["expected_kl"]);
    }
    // A budget that is too small for the codes says what they need; one that holds them takes from the dense tensors.
    let model = fixture("gptq-qwen3");
    refused(&["--model", &model, "--weights", "60kB", "plan"], 3, &["--weights 84672"]);
    let plan = json(&["--model", &model, "--weights", "100kB", "plan", "--json"]);
    assert!(plan["weight_bytes"].as_u64().unwrap() <= 100_000);
    let formats: Vec<&str> = plan["entries"].as_array().unwrap().iter().map(|e| e["format"].as_str().unwrap()).collect();
    assert!(formats.contains(&"q4g32") && formats[0].starts_with('t'), "{formats:?}");
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let model = fixture("gptq-qwen3");
    for flags in [&["--objective", "ram"][..], &["--uniform", "a4g64"]] {
        refused(&[&["--model", &model], flags, &["--weights", "100kB", "plan"]].concat(), 2, &[flags[0], "quantized already, as q4g32"]);
    }
    refused(&["--model", &model, "--pin", "k_proj=t4g64", "plan"], 2, &["--pin", "k_proj", "quantized already, as q4g32"]);
    refused(&["--pin", "k_proj=p4g64", "plan"], 2, &["p4g64", "GPTQ"]);
    refused(&["--uniform", "p4g64", "plan"], 2, &["p4g64", "GPTQ"]);
}

#[test]
fn what_does_not_fit_together_is_named() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    // Tensors that are not there, or not as config.json says.
    let cases: [(&str, &str, Option<serde_json::Value>, &[&str]); 6] = [
        ("gptq-qwen3", "scales", None, &["q_proj.scales", "no tensor"]),
        ("gptq-qwen3", "qzeros", None, &["q_proj.qzeros", "no tensor"]),
        ("gptq-qwen3", "qweight", Some(json!([4, 128])), &["q_proj.qweight", "[4, 128]", "[8, 64]", "4 bits, groups of 32"]),
        ("gptq-qwen3", "qzeros", Some(json!([4, 4])), &["q_proj.qzeros", "[4, 4]", "[2, 8]"]),
        ("gptq-qwen2-order-dynamic", "g_idx", None, &["q_proj.g_idx", "no tensor"]),
        ("mlx-qwen3-mixed", "biases", None, &["q_proj.biases", "no tensor"]),
    ];
    for (name, part, shape, words) in cases {
        let c = copy(&format!("quantized/{name}"));
        c.header(|h| {
            let key = format!("{Q}.{part}");
            match &shape {
                Some(shape) => h[&key]["shape"] = shape.clone(),
                None => {
                    // Its bytes stay, under a name that is some tensor's all the same.
                    let tensor = h.remove(&key).expect("a tensor");
                    h.insert(format!("{Q}.rotary_emb.inv_freq"), tensor);
                }
            }
        });
        c.refused(words);
    }
    // What config.json says of them.
    let gptq = |key: &str, value: serde_json::Value| {
        let c = copy("quantized/gptq-qwen3");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(c.path.join("config.json")).unwrap()).unwrap();
        config["quantization_config"][key] = value;
        c.config("quantization_config", config["quantization_config"].take());
        c
    };
    gptq("quant_method", "bitsandbytes".into()).refused(&["config.json", "quant_method", "bitsandbytes", "gptq"]);
    gptq("checkpoint_format", "gptq_v2".into()).refused(&["q_proj.qzeros", "zero of 7", "checkpoint_format"]);
    gptq("checkpoint_format", "marlin".into()).refused(&["config.json", "checkpoint_format", "marlin"]);
    gptq("group_size", 64.into()).refused(&["q_proj", "groups of 64"]);
    gptq("group_size", 0.into()).refused(&["config.json", "group_size", "-1 for whole rows"]);
    gptq("bits", 5.into()).refused(&["q_proj", "5 bits"]);
    gptq("dynamic", json!({"-:.*q_proj": {}})).refused(&["q_proj.qweight", "dynamic"]);
    gptq("dynamic", json!({"(": {"bits": 8}})).refused(&["config.json", "dynamic", "regular expression"]);
    let c = copy("quantized/gptq-qwen3");
    c.config("quantization_config", serde_json::Value::Null);
    c.refused(&["qweight", "no quantization_config"]);
    // An order that is none.
    let c = copy("quantized/gptq-qwen2-order-dynamic");
    let path = c.path.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(&format!("{Q}.g_idx")).unwrap().data().as_ptr();
        data as usize - bytes.as_ptr() as usize
    };
    bytes[at] = 9;
    fs::write(&path, &bytes).unwrap();
    c.refused(&["q_proj.g_idx", "group 9", "there are 2"]);
    bytes[at] = 1 - u8::from(bytes[at + 4] == 1);
    bytes[at + 4] = bytes[at];
    fs::write(&path, &bytes).unwrap();
    c.refused(&["q_proj.g_idx", "its 32 inputs"]);
}

#[test]
fn kinds_are_told_apart_in_stacked_tensors() {
    let (checkpoint, _) = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture("mlx-qwen3-mixed")));
    let format = |kind| checkpoint.specs().iter().find(|s| s.kind == kind).map(|s| checkpoint.own_format(&s.name).to_string());
    let found = [Kind::Gate, Kind::Up, Kind::Down, Kind::Router].map(|k| format(k).unwrap());
    assert_eq!(found, ["b4g64", "b3g32", "b6g32", "bf16"]);
}

/// The bundled model with the experts of every layer in one tensor per projection, as MLX and others store them.
#[test]
fn experts_stored_together_get_the_same_plan() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe");
    let apart = Checkpoint::open(&bundled).unwrap();
    let bytes = fs::read(bundled.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut together: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for spec in apart.specs() {
        let tensor = stored.tensor(&spec.name).unwrap();
        let name = match spec.expert {
            Some(e) => spec.name.replace(&format!("experts.{e}."), "switch_mlp."),
            None => spec.name.clone(),
        };
        let (shape, data) = together.entry(name).or_insert_with(|| (spec.shape.clone(), Vec::new()));
        if spec.expert == Some(0) {
            shape.insert(0, apart.description().mixture(0).expect("a mixture").num_experts);
        }
        data.extend_from_slice(tensor.data());
    }
    let folder = tempfile::tempdir().unwrap();
    let views = together.iter().map(|(name, (shape, data))| (name, TensorView::new(Dtype::BF16, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(bundled.join(name), folder.path().join(name)).unwrap();
    }
    let together = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(together.specs(), apart.specs());
    for bits in [3, 5] {
        let parameters: usize = apart.specs().iter().map(|s| s.shape.iter().product::<usize>()).sum();
        let request = Request { limit: Limit::Weights((parameters * bits / 8) as u64), ..Request::default() };
        let [a, b] = [&apart, &together].map(|c| ram_run::plan(c, &request, &|_| {}).unwrap());
        assert_eq!(a.weight_bytes, b.weight_bytes);
        for (a, b) in a.entries.iter().zip(&b.entries) {
            assert_eq!((a.format, a.error, a.u), (b.format, b.error, b.u), "{}", a.spec.name);
        }
    }
}
