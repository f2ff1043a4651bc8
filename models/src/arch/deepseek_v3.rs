//! DeepSeek-V3 and R1, Kimi-K2: latents, sigmoid scores with a correction, the first layers dense.
use super::{around, corrected, deepseek, first_dense, next_layers, num_experts_as};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixer = deepseek::latents(keys, true)?;
    let num_experts = num_experts_as(keys, "n_routed_experts")?;
    let router = corrected(keys, num_experts)?;
    let mixture = deepseek::experts(keys, num_experts, router)?;
    let layers = first_dense(keys, &mixer, mixture)?;
    let mut description = around(keys, layers)?;
    next_layers(keys, "num_nextn_predict_layers", &mut description)?;
    Ok(description)
}
