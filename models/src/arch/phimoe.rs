//! Phi-3.5-MoE: layer norms, biases, two experts of which the second is chosen as if there were no first, positions by length of the text.
use super::{Variant, alike, attention, mixture, no_window, num_experts, router, size};
use crate::{
    description::{ConfigError, Description, Gated, GatedNames, Mixture, Mlp, Router, Score, StreamNorm},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let attention = attention(keys, &Variant { qkv_bias: bias, output_bias: bias, theta: Some(1_000_000.0), ..Variant::default() })?;
    no_window(keys)?;
    let num_experts = num_experts(keys)?;
    let jitter = keys.number("router_jitter_noise", 0.0, 1.0)?.unwrap_or(0.01);
    let router = Router { score: Score::Mixer(jitter as f32), ..router(keys, num_experts, false)? };
    let width = keys.need("intermediate_size", size)?;
    let expert = Gated::new(width, GatedNames { module: "block_sparse_moe.experts", projections: ["w1", "w3", "w2"] });
    let mixture = Mixture { router_module: "block_sparse_moe.gate", ..mixture(num_experts, router, expert) };
    let head_bias = keys.flag("lm_head_bias")?.unwrap_or(false);
    // Noise and dropout of training, and what rope_scaling says too.
    keys.ignore(&["hidden_dropout", "input_jitter_noise", "original_max_position_embeddings"]);
    let norm = StreamNorm::Layer { bias: true };
    Ok(Description { norm, head_bias, ..alike(keys, attention, Mlp::Sparse(Box::new(mixture)))? })
}
