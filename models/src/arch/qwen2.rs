//! Qwen1.5, Qwen2 and Qwen2.5: Llama with biases of q, k and v.
use super::{Variant, alike, attention, dense, switched_window};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let attention = attention(keys, &Variant { qkv_bias: true, theta: Some(10_000.0), ..Variant::default() })?;
    switched_window(keys)?;
    let mlp = dense(keys)?;
    alike(keys, attention, mlp)
}
