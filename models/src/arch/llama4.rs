//! Llama-4, the text: three of four layers look at pieces of a text, the others know no positions; one expert and a shared one, whose input is weighted.
use super::{FULL, Variant, around, attention, images, layer_types, layers, mixture, named, num_experts, size, taken};
use crate::{
    description::{
        Attention, ConfigError, Description, Fused, Gated, Layer, LeftOut, Mixer, Mixture, Mlp, NAMES as PLAIN, Names, Router, Score, Temperature,
    },
    json::Keys,
    rope::Rope,
};
use ram_kernels::Pairs;

/// What a file says of images.
const OTHERS: [&str; 4] = ["boi_token_index", "eoi_token_index", "image_token_index", "vision_config"];

/// A text beside images, as its authors publish it and as transformers keeps the text alone.
const NAMES: [Names; 2] = [Names { model: "language_model.model", head: "language_model.lm_head", ..PLAIN }, PLAIN];

const CHUNKED: &str = "chunked_attention";

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    images::text(keys, &OTHERS, NAMES[0], describe_text)
}

pub fn describe_text(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixers = mixers(keys)?;
    let count = mixers.len();
    let num_experts = num_experts(keys)?;
    let router = Router { score: Score::Sigmoid, ..Router::softmax(taken(keys, "num_experts_per_tok", num_experts)?, false) };
    let width = keys.need("intermediate_size", size)?;
    let mixture = Mixture {
        shared: Some(Gated::new(width, named("feed_forward.shared_expert"))),
        weigh_inputs: true,
        router_module: "feed_forward.router",
        fused: Some(Fused { turned: Some(""), ..Fused::two("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", &[]) }),
        ..mixture(num_experts, router, Gated::new(width, named("feed_forward.experts")))
    };
    let step = keys.size("interleave_moe_layer_step", 1, 4096)?.unwrap_or(1);
    let listed = keys.tokens("moe_layers")?;
    if listed.iter().any(|l| *l as usize >= count) {
        return Err(keys.invalid("moe_layers", &format!("numbers of layers, below {count}")));
    }
    let sparse = |l: usize| if listed.is_empty() { (l + 1).is_multiple_of(step) } else { listed.contains(&(l as u32)) };
    let dense = size(keys, "intermediate_size_mlp")?;
    let dense = if (0..count).all(sparse) { None } else { Some(keys.present("intermediate_size_mlp", dense)?) };
    let mlp = |l: usize| match dense.filter(|_| !sparse(l)) {
        Some(width) => Mlp::Dense(Gated::new(width, named("feed_forward"))),
        None => Mlp::Sparse(Box::new(mixture.clone())),
    };
    let layers = mixers.into_iter().enumerate().map(|(l, mixer)| Layer { mixer, mlp: mlp(l) }).collect();
    keys.ignore(&["cache_implementation", "for_llm_compressor"]);
    let left = |prefix: &str, what| LeftOut { prefix: prefix.to_string(), what };
    let left_out = vec![left("vision_model.", "a vision tower"), left("multi_modal_projector.", "a vision tower")];
    Ok(Description { names: NAMES[1], also: &NAMES, left_out, ..around(keys, layers)? })
}

/// Layers with positions look at pieces of the text, those without at all of it.
fn mixers(keys: &mut Keys) -> Result<Vec<Mixer>, ConfigError> {
    let unit = keys.flag("use_qk_norm")?.unwrap_or(true);
    let known = attention(keys, &Variant { unit_heads: unit, pairs: Pairs::Neighbours, theta: Some(500_000.0), ..Variant::default() })?;
    let count = layers(keys)?;
    let eps = keys.need("rms_norm_eps", |k, key| k.number(key, 0.0, 1.0))?;
    let chunk = keys.size("attention_chunk_size", 1, 1 << 30)?;
    let interval = keys.size("no_rope_layer_interval", 1, 4096)?.unwrap_or(4);
    // Which layers have positions: the list says 1 for those that do.
    let listed = keys.tokens("no_rope_layers")?;
    if !listed.is_empty() && (listed.len() != count || listed.iter().any(|has| *has > 1)) {
        return Err(keys.invalid("no_rope_layers", &format!("a list of {count}, each 0 or 1")));
    }
    let turned = |l: usize| if listed.is_empty() { !(l + 1).is_multiple_of(interval) } else { listed[l] == 1 };
    let kinds = layer_types(keys, count, [CHUNKED, FULL], |l| if turned(l) && chunk.is_some() { CHUNKED } else { FULL })?;
    // Files have it as a flag or as a number.
    let warm = keys.flag("attn_temperature_tuning").or_else(|_| Ok(keys.size("attn_temperature_tuning", 0, 1 << 20)?.map(|n| n > 0)))?;
    let floor = keys.number("floor_scale", 1.0, 1e9)?.unwrap_or(8192.0);
    let scale = keys.number("attn_scale", 0.0, 1e3)?.unwrap_or(0.1);
    let temperature = warm.unwrap_or(true).then_some(Temperature { floor, scale });
    let of = |(l, kind): (usize, &str)| {
        let rope = Rope { dim: if turned(l) { known.rope.dim } else { 0 }, ..known.rope.clone() };
        let chunk = chunk.filter(|_| kind == CHUNKED);
        let unit_heads = (unit && turned(l)).then_some(eps);
        Mixer::Attention(Box::new(Attention { rope, chunk, unit_heads, temperature: temperature.filter(|_| !turned(l)), ..known.clone() }))
    };
    Ok(kinds.into_iter().enumerate().map(of).collect())
}
