//! Granite 3 MoE: multipliers at four places, the experts of a layer in one tensor.
use super::{Variant, alike, attention, mixture, named, num_experts, router, size};
use crate::{
    description::{ConfigError, Description, Fused, Gated, Mixture, Mlp, Router},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let variant = Variant { qkv_bias: bias, output_bias: bias, theta: Some(10_000.0), plain_heads: true, ..Variant::default() };
    let mut attention = attention(keys, &variant)?;
    let mut multiplier = |key: &str| Ok::<f64, ConfigError>(keys.number(key, 1e-9, 1e9)?.unwrap_or(1.0));
    attention.scale = Some(multiplier("attention_multiplier")?);
    attention.multiplier = multiplier("residual_multiplier")?;
    let (embedding_multiplier, logits_scaling) = (multiplier("embedding_multiplier")?, multiplier("logits_scaling")?);
    let num_experts = num_experts(keys)?;
    // The softmax of those that are chosen is that of all, scaled to sum to 1; what experts add is linear in it.
    let router = Router { scaling: attention.multiplier, ..router(keys, num_experts, true)? };
    let expert = Gated::new(keys.need("intermediate_size", size)?, named("block_sparse_moe.experts"));
    let mixture = Mixture {
        router_module: "block_sparse_moe.router.layer",
        fused: Some(Fused::two("block_sparse_moe.input_linear", "block_sparse_moe.output_linear", &[(".weight", ".weight")])),
        ..mixture(num_experts, router, expert)
    };
    Ok(Description { embedding_multiplier, logits_scaling, ..alike(keys, attention, Mlp::Sparse(Box::new(mixture)))? })
}
