//! Mistral: Llama without biases, with a window of attention that must not be reached.
use super::{Variant, alike, attention, dense, no_window};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let attention = attention(keys, &Variant { theta: Some(10_000.0), ..Variant::default() })?;
    no_window(keys)?;
    let mlp = dense(keys)?;
    alike(keys, attention, mlp)
}
