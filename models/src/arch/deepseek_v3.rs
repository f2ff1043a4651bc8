//! DeepSeek-V3 and R1, Kimi-K2, GLM-4.7-Flash: latents, sigmoid scores with a correction, the first layers dense, or those that a list names.
use super::{around, corrected, deepseek, first_dense, layers, mixed, next_layers, num_experts_as};
use crate::{
    description::{ConfigError, Description},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixer = deepseek::latents(keys)?;
    let num_experts = num_experts_as(keys, "n_routed_experts")?;
    let router = corrected(keys, num_experts)?;
    let mixture = deepseek::experts(keys, num_experts, router)?;
    let layers = match keys.texts("mlp_layer_types")? {
        None => first_dense(keys, &mixer, mixture)?,
        Some(list) => {
            let count = layers(keys)?;
            if list.len() != count || list.iter().any(|kind| !["dense", "sparse"].contains(&kind.as_str())) {
                return Err(keys.invalid("mlp_layer_types", &format!("a list of {count}, each 'dense' or 'sparse'")));
            }
            // It says the same in fewer words, and less.
            keys.ignore(&["first_k_dense_replace"]);
            mixed(keys, vec![mixer; count], &mixture, |l| list[l] == "sparse")?
        }
    };
    let mut description = around(keys, layers)?;
    next_layers(keys, "num_nextn_predict_layers", &mut description)?;
    Ok(description)
}
