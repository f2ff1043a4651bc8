//! Qwen1.5, Qwen2 and Qwen2.5: Llama with biases of q, k and v.
use super::{Variant, alike, around, attention, dense, switched_window};
use crate::{
    description::{ConfigError, Description, Layer, Mlp},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let attention = attention(keys, &Variant { qkv_bias: true, theta: Some(10_000.0), ..Variant::default() })?;
    switched_window(keys)?;
    let mlp = Mlp::Dense(dense(keys)?);
    let layers = alike(keys, Layer { attention, mlp })?;
    around(keys, layers)
}
