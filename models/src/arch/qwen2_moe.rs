//! Qwen1.5-MoE and Qwen2-MoE: biases of q, k and v, a shared expert, layers that may be dense.
use super::{Variant, around, attention, layers, named, qwen_layers, qwen_mixture, same, size, switched_window};
use crate::{
    description::{ConfigError, Description, Gated},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qkv_bias = keys.flag("qkv_bias")?.unwrap_or(true);
    let attention = attention(keys, &Variant { qkv_bias, ..Variant::default() })?;
    switched_window(keys)?;
    let width = keys.need("shared_expert_intermediate_size", size)?;
    let mixture = qwen_mixture(keys, Some(Gated::new(width, named("mlp.shared_expert"))))?;
    let count = layers(keys)?;
    let layers = qwen_layers(keys, same(&attention, count), &mixture)?;
    around(keys, layers)
}
