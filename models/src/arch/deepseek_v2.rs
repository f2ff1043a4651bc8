//! DeepSeek-V2 and its Lite: latents, softmax scores, groups known by their best expert.
use super::{around, deepseek, factor, first_dense, groups, num_experts_as, taken};
use crate::{
    description::{ConfigError, Description, Groups, Router},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixer = deepseek::latents(keys)?;
    let num_experts = num_experts_as(keys, "n_routed_experts")?;
    let num_experts_per_tok = taken(keys, "num_experts_per_tok", num_experts)?;
    keys.only_text("scoring_func", "softmax")?;
    keys.only("norm_topk_prob", false)?;
    let read = groups(keys, num_experts, num_experts_per_tok)?;
    let groups = match keys.text("topk_method")?.as_deref() {
        None | Some("greedy") => Groups::ONE,
        Some("group_limited_greedy") => Groups { summed: 1, ..read },
        Some(_) => return Err(keys.unsupported("topk_method", "'greedy' and 'group_limited_greedy'")),
    };
    let scaling = keys.need("routed_scaling_factor", factor)?;
    let router = Router { groups, scaling, ..Router::softmax(num_experts_per_tok, false) };
    let mixture = deepseek::experts(keys, num_experts, router)?;
    let layers = first_dense(keys, &mixer, mixture)?;
    around(keys, layers)
}
