//! config.json of an export: that of the checkpoint, with what is said of codes as the target reads it.
use super::layout::{Layout, What};
use crate::{
    Checkpoint, Error,
    planner::{Plan, Target},
};
use ram_kernels::{Format, Scheme};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Families that each target was seen to compute as this engine does (docs/exchange.md).
const MLX: [&str; 14] = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_moe",
    "glm4_moe",
    "glm4_moe_lite",
    "deepseek_v3",
    "granitemoe",
    "olmoe",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
];
const VLLM: [&str; 7] = ["mixtral", "qwen2_moe", "qwen3_moe", "llama", "mistral", "qwen2", "qwen3"];

/// Whose tensors llama.cpp stores one for one, all experts of a layer as one.
const GGUF: [&str; 14] = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "phimoe",
    "glm4_moe",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "granitemoe",
    "minimax_m2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
];

fn object(checkpoint: &Checkpoint) -> Result<Map<String, Value>, Error> {
    let bad = |reason: String| Error::File { path: checkpoint.folder().join("config.json"), reason };
    match serde_json::from_str(checkpoint.config()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("is no object".into())),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// Whether a text is one part of a model, beside what sees or hears.
///
/// # Errors
/// Where config.json is none.
pub fn has_text(checkpoint: &Checkpoint) -> Result<bool, Error> {
    object(checkpoint).map(|config| config.contains_key("text_config"))
}

/// Whether a target holds the model's family, and its weights as they are.
///
/// # Errors
/// Names what it does not hold.
pub fn check_family(checkpoint: &Checkpoint, target: Target) -> Result<(), Error> {
    let config = object(checkpoint)?;
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let known: &[&str] = if target == Target::Mlx { &MLX } else { &VLLM };
    let refused = |reason: String| Err(Error::Mismatch(format!("{}: {reason}", checkpoint.folder().display())));
    if !known.contains(&family) {
        return refused(format!("{family} models are not exported to {target} yet: {} are", known.join(", ")));
    }
    let windows = checkpoint.description().layers.iter().filter_map(|layer| layer.mixer.attention()).any(|a| a.window.or(a.chunk).is_some());
    if windows && target == Target::Mlx {
        return refused("layers that look at a window alone would look at everything there".into());
    }
    if checkpoint.is_remote() {
        return refused("its weights are at the hub: fetch it first (chat and generate do), or give a folder".into());
    }
    let coded = checkpoint.specs().iter().filter(|spec| checkpoint.coded(&spec.name).is_some()).map(|spec| (spec, checkpoint.own_format(&spec.name)));
    for (spec, format) in coded {
        let own = matches!(format.scheme(), Scheme::Affine | Scheme::AffineBf16);
        if own || target != Target::Mlx {
            return refused(format!("is quantized already ({} as {format}): give the dense checkpoint", spec.name));
        }
        if !target.holds(format) {
            return Err(Error::Tensor { name: spec.name.clone(), reason: format!("is {format}, which {target} does not hold") });
        }
    }
    Ok(())
}

/// Whether llama.cpp holds the model's family as its tensors are known here, and its weights are those that it is made of.
///
/// # Errors
/// Names what it does not hold.
pub fn check_gguf(checkpoint: &Checkpoint) -> Result<(), Error> {
    let config = object(checkpoint)?;
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let refused = |reason: String| Err(Error::Mismatch(format!("{}: {reason}", checkpoint.folder().display())));
    if !GGUF.contains(&family) {
        return refused(format!("there are no recipes of {family} models for llama.cpp yet: there are of {}", GGUF.join(", ")));
    }
    let layers = checkpoint.description().layers.len();
    let sparse = (0..layers).filter(|&layer| checkpoint.description().mixture(layer).is_some()).count();
    if sparse > 0 && sparse < layers && !["glm4_moe", "ernie4_5_moe"].contains(&family) {
        return refused(format!("llama.cpp's {family} models have experts in all layers"));
    }
    match checkpoint.specs().iter().find(|spec| checkpoint.coded(&spec.name).is_some()) {
        Some(spec) => refused(format!("is quantized already ({}): give the dense checkpoint", spec.name)),
        None => Ok(()),
    }
}

/// The text of config.json.
///
/// # Errors
/// Where that of the checkpoint is none.
pub fn config(checkpoint: &Checkpoint, plan: &Plan, layout: &Layout) -> Result<String, Error> {
    let mut config = object(checkpoint)?;
    for key in ["quantization", "quantization_config", "compression_config"] {
        config.remove(key);
    }
    for key in ["dtype", "torch_dtype"] {
        if let Some(dtype) = config.get_mut(key) {
            *dtype = layout.style.half.name().into();
        }
    }
    complete(&mut config);
    let modules = modules(plan, layout);
    match layout.style.target {
        // What is dense is said by nothing.
        _ if modules.iter().all(|(_, format)| format.is_none()) => {}
        Target::Mlx => {
            let said = mlx(&modules);
            config.insert("quantization".into(), said.clone());
            config.insert("quantization_config".into(), said);
        }
        Target::Vllm { .. } => {
            config.insert("quantization_config".into(), compressed(&modules));
        }
    }
    super::pretty(&config)
}

/// Says what transformers 5 keeps under names of its own also under those that the models' authors use, which other engines know.
fn complete(config: &mut Map<String, Value>) {
    if let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() {
        if let Some(theta) = rope.get("rope_theta") {
            config.entry("rope_theta").or_insert(theta.clone());
        }
        let kind = rope.get("rope_type").and_then(Value::as_str).unwrap_or("default");
        if kind != "default" {
            let mut scaling: Map<String, Value> =
                rope.iter().filter(|(key, _)| *key != "rope_theta").map(|(key, v)| (key.clone(), v.clone())).collect();
            scaling.insert("type".into(), kind.into());
            config.entry("rope_scaling").or_insert(scaling.into());
        }
    }
    if let Some(experts) = config.get("num_local_experts").filter(|_| config.get("model_type") != Some(&"mixtral".into())).cloned() {
        config.entry("num_experts").or_insert(experts);
    }
}

/// Modules with matrices, in order, and what each is; none where it is dense.
fn modules(plan: &Plan, layout: &Layout) -> Vec<(String, Option<Format>)> {
    let mut seen = BTreeSet::new();
    let matrices = plan.entries.iter().zip(&layout.places).filter(|(e, _)| e.spec.kind.is_matrix());
    let each = matrices.filter(|(_, place)| seen.insert(place.module.clone())).map(|(e, place)| {
        let coded = place.parts.iter().any(|part| part.what == What::Codes);
        (place.module.clone(), coded.then(|| layout.style.format(e)))
    });
    each.collect()
}

/// MLX's: what most modules have, and every module that is coded by name.
fn mlx(modules: &[(String, Option<Format>)]) -> Value {
    let coded = || modules.iter().filter_map(|(module, format)| Some((module, (*format)?)));
    let mut counts: BTreeMap<Format, usize> = BTreeMap::new();
    coded().for_each(|(_, format)| *counts.entry(format).or_default() += 1);
    let mut all = Map::new();
    if let Some((most, _)) = counts.into_iter().max_by_key(|(_, n)| *n) {
        all.extend([("group_size".into(), json!(most.group())), ("bits".into(), json!(most.bits())), ("mode".into(), json!("affine"))]);
    }
    all.extend(coded().map(|(module, format)| (module.clone(), json!({ "group_size": format.group(), "bits": format.bits() }))));
    Value::Object(all)
}

/// compressed-tensors': a group for every format, with the modules that have it as patterns; and the modules that are dense.
fn compressed(modules: &[(String, Option<Format>)]) -> Value {
    let mut by_format: BTreeMap<Option<Format>, BTreeSet<String>> = BTreeMap::new();
    let mut layers: BTreeMap<(Option<Format>, String), BTreeSet<usize>> = BTreeMap::new();
    for (module, format) in modules {
        match in_layer(module) {
            Some((layer, name)) => drop(layers.entry((*format, name)).or_default().insert(layer)),
            None => drop(by_format.entry(*format).or_default().insert(module.clone())),
        }
    }
    for ((format, name), layers) in layers {
        let layers: Vec<String> = layers.into_iter().map(|layer| layer.to_string()).collect();
        by_format.entry(format).or_default().insert(format!(r"re:.*\.layers\.({})\.{name}$", layers.join("|")));
    }
    let ignore = by_format.remove(&None).unwrap_or_default();
    let mut groups = Map::new();
    for (number, (format, targets)) in by_format.into_iter().enumerate() {
        let Some(format) = format else { continue };
        let weights = json!({
            "num_bits": format.bits(), "type": "int", "symmetric": true, "strategy": "group", "group_size": format.group(),
            "dynamic": false, "actorder": null,
        });
        let group =
            json!({ "targets": targets, "weights": weights, "input_activations": null, "output_activations": null, "format": "pack-quantized" });
        groups.insert(format!("group_{number}"), group);
    }
    json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "kv_cache_scheme": null,
        "ignore": ignore, "config_groups": groups,
    })
}

/// A module's layer, and a pattern for its name within. All experts of a layer are one, whatever the names of what they are in: Mixtral's have others
/// in memory than in files.
fn in_layer(module: &str) -> Option<(usize, String)> {
    let (_, rest) = module.split_once(".layers.")?;
    let (layer, name) = rest.split_once('.')?;
    let name = match name.split_once(".experts.") {
        Some(("block_sparse_moe", _)) => r"(block_sparse_moe|mlp)\.experts\..*".into(),
        Some((inner, _)) => format!(r"{}\.experts\..*", inner.replace('.', r"\.")),
        None => name.replace('.', r"\."),
    };
    Some((layer.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_a_format_are_named_by_layer() {
        let format = |text: &str| Some(text.parse::<Format>().expect("a format"));
        let modules = [
            ("model.embed_tokens".to_string(), None),
            ("model.layers.0.self_attn.q_proj".into(), format("s8g64")),
            ("model.layers.11.self_attn.q_proj".into(), format("s8g64")),
            ("model.layers.0.block_sparse_moe.gate".into(), None),
            ("model.layers.0.block_sparse_moe.experts.0.w1".into(), format("s4g128")),
            ("model.layers.0.block_sparse_moe.experts.7.w2".into(), format("s4g128")),
        ];
        let said = compressed(&modules);
        assert_eq!(said["ignore"], json!(["model.embed_tokens", r"re:.*\.layers\.(0)\.block_sparse_moe\.gate$"]));
        assert_eq!(said["config_groups"]["group_0"]["targets"], json!([r"re:.*\.layers\.(0)\.(block_sparse_moe|mlp)\.experts\..*$"]));
        assert_eq!(said["config_groups"]["group_1"]["targets"], json!([r"re:.*\.layers\.(0|11)\.self_attn\.q_proj$"]));
        assert_eq!(said["config_groups"]["group_1"]["weights"]["num_bits"], 8);
    }
}
