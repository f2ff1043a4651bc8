//! Gemma-4, the text: norms before and behind everything, layers of windows and of whole texts with heads of other sizes, an MLP that every token takes
//! beside a mixture, logits that are bounded.
use super::{FULL, HEADS, SLIDING, dtype, factor, images, layer_types, layers, mixture, named, size, taken, trained};
use crate::{
    description::{
        Activation, Attention, ConfigError, Description, Fused, Gated, Layer, LeftOut, Mixer, Mixture, MixtureNorms, Mlp, NAMES as PLAIN, Names,
        Router, StreamNorm,
    },
    json::Keys,
    rope::{Rope, Scaling},
};
use ram_kernels::Pairs;

/// What a file says of images and sounds.
const OTHERS: [&str; 13] = [
    "audio_config",
    "audio_token_id",
    "boa_token_id",
    "boi_token_id",
    "eoa_token_id",
    "eoa_token_index",
    "eoi_token_id",
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_soft_tokens_per_image",
    "audio_ms_per_token",
    "audio_seq_length",
];

const OWN: Names = Names {
    norms: ["input_layernorm", "pre_feedforward_layernorm"],
    after: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
    ..PLAIN
};

/// A text beside images, as its authors publish it, and alone, and as MLX puts it.
const NAMES: [Names; 3] =
    [Names { model: "model.language_model", ..OWN }, OWN, Names { model: "language_model.model", head: "language_model.lm_head", ..OWN }];

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    // MLX has it here too.
    let vocab_size = size(keys, "vocab_size")?;
    let description = images::text(keys, &OTHERS, NAMES[0], describe_text)?;
    if vocab_size.is_some_and(|found| found != description.vocab_size) {
        return Err(keys.invalid("vocab_size", "the same as in text_config"));
    }
    Ok(description)
}

pub fn describe_text(keys: &mut Keys) -> Result<Description, ConfigError> {
    let (mixers, hidden_size) = (mixers(keys)?, keys.need("hidden_size", size)?);
    for key in ["hidden_size_per_layer_input", "num_kv_shared_layers"] {
        // What the small ones have: an embedding for each layer, and layers that look at another's keys.
        keys.off(key)?;
    }
    keys.off("use_double_wide_mlp")?;
    keys.ignore(&["vocab_size_per_layer_input"]);
    // Texts are causal where images are not.
    if keys.text("use_bidirectional_attention")?.is_some_and(|found| found != "vision") {
        return Err(keys.unsupported("use_bidirectional_attention", "'vision' and null"));
    }
    keys.only_text("hidden_activation", "gelu_pytorch_tanh")?;
    keys.only_text("hidden_act", "gelu_pytorch_tanh")?;
    let width = keys.need("intermediate_size", size)?;
    let own = Gated { activation: Activation::Gelu, ..Gated::new(width, named("mlp")) };
    let mlp = match keys.flag("enable_moe_block")?.unwrap_or(false) {
        false => {
            keys.ignore(&["moe_intermediate_size", "num_experts", "top_k_experts"]);
            Mlp::Dense(own)
        }
        true => Mlp::Sparse(Box::new(experts(keys, own)?)),
    };
    dtype(keys)?;
    let left = |prefix: &str, what| LeftOut { prefix: prefix.to_string(), what };
    let towers = [
        ("vision_tower.", "a vision tower"),
        ("embed_vision.", "a vision tower"),
        ("audio_tower.", "an audio tower"),
        ("embed_audio.", "an audio tower"),
    ];
    let left_out = towers.iter().flat_map(|(name, what)| [left(&format!("model.{name}"), *what), left(name, *what)]).collect();
    Ok(Description {
        model_type: String::new(),
        vocab_size: keys.need("vocab_size", size)?,
        hidden_size,
        max_position_embeddings: trained(keys)?,
        rms_norm_eps: keys.need("rms_norm_eps", |k, key| k.number(key, 0.0, 1.0))?,
        norm: StreamNorm::Rms,
        embedding_multiplier: (hidden_size as f64).sqrt(),
        logits_scaling: 1.0,
        logits_cap: keys.number("final_logit_softcapping", 1e-3, 1e6)?,
        layer_scalar: Some("layer_scalar"),
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        head_bias: false,
        norms_less_one: false,
        names: OWN,
        also: &NAMES,
        layers: mixers.into_iter().map(|mixer| Layer { mixer, mlp: mlp.clone() }).collect(),
        bos_token_id: keys.token("bos_token_id")?,
        eos_token_id: keys.tokens("eos_token_id")?,
        quantization: None,
        left_out,
    })
}

/// A mixture whose shared expert is the MLP that every token takes.
fn experts(keys: &mut Keys, own: Gated) -> Result<Mixture, ConfigError> {
    let num_experts = keys.need("num_experts", |keys, key| keys.size(key, 1, 65_536))?;
    let router = Router { expert_scale: Some("router.per_expert_scale"), ..Router::softmax(taken(keys, "top_k_experts", num_experts)?, true) };
    let width = keys.need("moe_intermediate_size", size)?;
    let expert = Gated { activation: Activation::Gelu, ..Gated::new(width, named("experts")) };
    Ok(Mixture {
        shared: Some(own),
        norms: Some(MixtureNorms {
            router: "router.scale",
            routed: "pre_feedforward_layernorm_2",
            after: ["post_feedforward_layernorm_2", "post_feedforward_layernorm_1"],
        }),
        router_module: "router.proj",
        fused: Some(Fused::two("experts.gate_up_proj", "experts.down_proj", &[("", ".weight")])),
        ..mixture(num_experts, router, expert)
    })
}

/// Five layers of six look at a window, the sixth at all of the text with heads of its own, whose values may be its keys.
fn mixers(keys: &mut Keys) -> Result<Vec<Mixer>, ConfigError> {
    let count = layers(keys)?;
    let kinds = layer_types(keys, count, [SLIDING, FULL], |l| if (l + 1).is_multiple_of(6) { FULL } else { SLIDING })?;
    if kinds.last() != Some(&FULL) {
        return Err(keys.invalid("layer_types", "a list whose last is 'full_attention'"));
    }
    let (bias, heads) = (keys.flag("attention_bias")?.unwrap_or(false), keys.need("num_attention_heads", size)?);
    let eps = keys.need("rms_norm_eps", |k, key| k.number(key, 0.0, 1.0))?;
    let tied_values = keys.flag("attention_k_eq_v")?.unwrap_or(false);
    let window = keys.need("sliding_window", |keys, key| keys.size(key, 1, 1 << 30))?;
    let sliding = [keys.need("num_key_value_heads", size)?, keys.need("head_dim", size)?];
    let full = full_heads(keys, sliding, tied_values, &kinds)?;
    let missing = || ConfigError::Missing { key: "rope_parameters".to_string() };
    let mut ropes = keys.inner("rope_parameters")?.ok_or_else(missing)?;
    let mut of = |kind: &str, [kv_heads, dim]: [usize; 2]| {
        if !heads.is_multiple_of(kv_heads) || dim % 2 == 1 {
            return Err(ropes.invalid(kind, &format!("for heads of an even number of numbers, {dim}, whose keys, of {kv_heads}, divide {heads}")));
        }
        let plain = Attention::plain([heads, kv_heads, dim], rope(&mut ropes, kind, dim)?);
        Ok(Attention { qkv_bias: bias, output_bias: bias, qk_norm: Some(HEADS), unit_values: Some(eps), scale: Some(1.0), ..plain })
    };
    let sliding = Attention { window: Some(window), ..of(SLIDING, sliding)? };
    let full = Attention { tied_values, ..of(FULL, full)? };
    ropes.all_known(&[])?;
    Ok(kinds.into_iter().map(|kind| Mixer::Attention(Box::new(if kind == FULL { full.clone() } else { sliding.clone() }))).collect())
}

/// Key and value heads of the layers that look at all of a text, and the numbers of each: under names of their own, or by layer.
fn full_heads(keys: &mut Keys, sliding: [usize; 2], tied_values: bool, kinds: &[&str]) -> Result<[usize; 2], ConfigError> {
    let dim = size(keys, "global_head_dim")?;
    let heads = size(keys, "num_global_key_value_heads")?.filter(|_| tied_values);
    let Some(mut layers) = keys.inner("per_layer_config")? else { return Ok([heads.unwrap_or(sliding[0]), dim.unwrap_or(512)]) };
    let mut found = None;
    for (l, _) in kinds.iter().enumerate().filter(|(_, kind)| **kind == FULL) {
        let Some(mut own) = layers.inner(&l.to_string())? else { continue };
        let here = [size(&mut own, "num_key_value_heads")?.unwrap_or(sliding[0]), own.need("head_dim", size)?];
        own.all_known(&[])?;
        if found.is_some_and(|found| found != here) {
            return Err(layers.unsupported(&l.to_string(), "the same in all layers of 'full_attention'"));
        }
        found = Some(here);
    }
    layers.all_known(&[])?;
    let found = layers.present("per_layer_config", found)?;
    if dim.is_some_and(|dim| dim != found[1]) || heads.is_some_and(|heads| heads != found[0]) {
        return Err(keys.invalid("per_layer_config", "the same as global_head_dim and num_global_key_value_heads"));
    }
    Ok(found)
}

/// How positions turn heads of one kind of layers: the first pairs only, where they are proportional.
fn rope(ropes: &mut Keys, kind: &str, dim: usize) -> Result<Rope, ConfigError> {
    let missing = ConfigError::Missing { key: format!("rope_parameters.{kind}") };
    let mut own = ropes.inner(kind)?.ok_or(missing)?;
    let theta = own.need("rope_theta", |keys, key| keys.number(key, f64::MIN_POSITIVE, f64::MAX))?;
    let scaling = match own.text("rope_type")?.as_deref() {
        None | Some("default") => {
            own.whole("partial_rotary_factor")?;
            Scaling::Default
        }
        Some("proportional") => {
            if factor(&mut own, "factor")?.is_some_and(|factor| factor != 1.0) {
                return Err(own.unsupported("factor", "1"));
            }
            let part = own.number("partial_rotary_factor", f64::MIN_POSITIVE, 1.0)?.unwrap_or(1.0);
            Scaling::Part { pairs: (part * dim as f64) as usize / 2 }
        }
        Some(_) => return Err(own.unsupported("rope_type", "'default' and 'proportional'")),
    };
    own.all_known(&[])?;
    Ok(Rope { theta, scaling, dim, pairs: Pairs::Halves })
}
