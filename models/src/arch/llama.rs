//! Llama 1 to 3 and who follows it: `attention_bias` on all four projections, rotary positions from 10,000 where no key says otherwise.
use super::{Variant, alike, attention, dense};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let attention = attention(keys, &Variant { qkv_bias: bias, output_bias: bias, theta: Some(10_000.0), plain_heads: true, ..Variant::default() })?;
    let mlp = dense(keys)?;
    alike(keys, attention, mlp)
}
