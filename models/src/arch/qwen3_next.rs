//! Qwen3-Next: gated delta nets and gated attention, a gated shared expert, layers that may be dense; projections packed by key head.
use super::{around, delta_net, named, qwen_layers, qwen_mixture, size, switched_window};
use crate::{
    description::{ConfigError, Description, Gated},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixers = delta_net::mixers(keys, true)?;
    switched_window(keys)?;
    let width = keys.need("shared_expert_intermediate_size", size)?;
    let mixture = qwen_mixture(keys, Some(Gated::new(width, named("mlp.shared_expert"))))?;
    let layers = qwen_layers(keys, mixers, &mixture)?;
    let description = around(keys, layers)?;
    Ok(delta_net::text(keys, description))
}
