//! Qwen3.5, the text: gated delta nets and gated attention, an MLP.
use super::{around, delta_net, dense, images};
use crate::{
    description::{ConfigError, Description, Layer},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    images::text(keys, &delta_net::OTHERS, delta_net::NAMES[0], describe_text)
}

pub fn describe_text(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixers = delta_net::mixers(keys, false)?;
    keys.off("mlp_only_layers")?;
    let mlp = dense(keys)?;
    let layers = mixers.into_iter().map(|mixer| Layer { mixer, mlp: mlp.clone() }).collect();
    let description = around(keys, layers)?;
    Ok(delta_net::text(keys, description))
}
