//! Qwen3-MoE: RMS norms of queries and keys, `attention_bias` on all four projections, layers that may be dense.
use super::{HEADS, Variant, around, attention, layers, qwen_layers, qwen_mixture, same, switched_window};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let attention = attention(keys, &Variant { qkv_bias: bias, output_bias: bias, qk_norm: Some(HEADS), ..Variant::default() })?;
    switched_window(keys)?;
    keys.off("shared_expert_intermediate_size")?;
    let mixture = qwen_mixture(keys, None)?;
    let count = layers(keys)?;
    let layers = qwen_layers(keys, same(&attention, count), &mixture)?;
    around(keys, layers)
}
