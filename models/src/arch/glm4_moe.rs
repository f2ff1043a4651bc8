//! GLM-4.5 to 4.7 and their Airs: sigmoid scores with a correction, an ungated shared expert, the first layers dense, half of a head turned.
use super::{HEADS, Variant, around, attention, corrected, first_dense, mixture, named, next_layers, num_experts_as, shared_experts, size};
use crate::{
    description::{ConfigError, Description, Gated, Mixer, Mixture},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let qk_norm = keys.flag("use_qk_norm")?.unwrap_or(false).then_some(HEADS);
    // Biases are of q, k and v alone, whatever the key says of all.
    let variant = Variant { qkv_bias, output_bias: qkv_bias, qk_norm, partial: Some(0.5), ..Variant::default() };
    let mut attention = attention(keys, &variant)?;
    attention.output_bias = false;
    let num_experts = num_experts_as(keys, "n_routed_experts")?;
    let router = corrected(keys, num_experts)?;
    let width = keys.need("moe_intermediate_size", size)?;
    let shared = shared_experts(keys, "n_shared_experts", width)?;
    let expert = Gated::new(width, named("mlp.experts"));
    let mixture = Mixture { shared, ..mixture(num_experts, router, expert) };
    let layers = first_dense(keys, &Mixer::Attention(Box::new(attention)), mixture)?;
    let mut description = around(keys, layers)?;
    next_layers(keys, "num_nextn_predict_layers", &mut description)?;
    Ok(description)
}
