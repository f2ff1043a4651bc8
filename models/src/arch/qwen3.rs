//! Qwen3: RMS norms of queries and keys, `attention_bias` on all four projections, a head_dim of its own.
use super::{HEADS, Variant, alike, attention, dense, size, switched_window};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    // Without it transformers takes 128, whatever the other sizes are.
    keys.need("head_dim", size)?;
    let attention =
        attention(keys, &Variant { qkv_bias: bias, output_bias: bias, qk_norm: Some(HEADS), theta: Some(10_000.0), ..Variant::default() })?;
    switched_window(keys)?;
    let mlp = dense(keys)?;
    alike(keys, attention, mlp)
}
