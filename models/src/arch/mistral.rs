//! Mistral: Llama without biases, with a window of attention that must not be reached.
use super::{Variant, alike, around, attention, dense, no_window};
use crate::{
    description::{ConfigError, Description, Layer, Mlp},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let attention = attention(keys, &Variant { theta: Some(10_000.0), ..Variant::default() })?;
    no_window(keys)?;
    let mlp = Mlp::Dense(dense(keys)?);
    let layers = alike(keys, Layer { attention, mlp })?;
    around(keys, layers)
}
