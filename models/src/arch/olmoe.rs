//! OLMoE: queries and keys normalised as wholes, weights of experts as the softmax gives them.
use super::{Variant, alike, attention, mixture, named, num_experts, router, size};
use crate::{
    description::{ConfigError, Description, Gated, Mlp, Normed, QkNorm},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qk_norm = Some(QkNorm { of: Normed::All, names: ["self_attn.q_norm", "self_attn.k_norm"] });
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let variant = Variant { qkv_bias: bias, output_bias: bias, qk_norm, theta: Some(10_000.0), plain_heads: true, ..Variant::default() };
    let attention = attention(keys, &variant)?;
    // No published one has it.
    keys.off("clip_qkv")?;
    let num_experts = num_experts(keys)?;
    let norm_topk_prob = keys.flag("norm_topk_prob")?.unwrap_or(false);
    let router = router(keys, num_experts, norm_topk_prob)?;
    let expert = Gated::new(keys.need("intermediate_size", size)?, named("mlp.experts"));
    alike(keys, attention, Mlp::Sparse(Box::new(mixture(num_experts, router, expert))))
}
