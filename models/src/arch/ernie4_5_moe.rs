//! ERNIE-4.5 (text): a softmax whose choice is corrected, ungated shared experts, neighbours turned together.
use super::{MOST, Variant, around, attention, layers, mixed, mixture, named, num_experts_as, same, shared_experts, size, taken};
use crate::{
    description::{ConfigError, Correction, Description, Gated, LeftOut, Mixture, Router},
    json::Keys,
};
use ram_kernels::Pairs;

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    // Of every projection, the head's too.
    keys.off("use_bias")?;
    let attention = attention(keys, &Variant { pairs: Pairs::Neighbours, theta: Some(500_000.0), ..Variant::default() })?;
    let num_experts = num_experts_as(keys, "moe_num_experts")?;
    let least = keys.number("moe_norm_min", 0.0, 1.0)?.unwrap_or(1e-12);
    let router = Router {
        correction: Some(Correction { name: "mlp.moe_statics.e_score_correction_bias", shape: vec![1, num_experts] }),
        norm_topk_prob: Some(least),
        ..Router::softmax(taken(keys, "moe_k", num_experts)?, true)
    };
    let width = keys.need("moe_intermediate_size", size)?;
    let shared = shared_experts(keys, "moe_num_shared_experts", width)?;
    let mixture = Mixture { shared, ..mixture(num_experts, router, Gated::new(width, named("mlp.experts"))) };
    let count = layers(keys)?;
    let start = keys.size("moe_layer_start_index", 0, MOST)?.unwrap_or(1);
    let end = keys.whole_number("moe_layer_end_index")?.and_then(|end| usize::try_from(end).ok()).unwrap_or(count - 1);
    let interval = keys.size("moe_layer_interval", 1, MOST)?.unwrap_or(1);
    let layers = mixed(keys, same(&attention, count), &mixture, |l| (l + 1).is_multiple_of(interval) && l >= start && l <= end)?;
    // How experts were balanced and cut short in training.
    keys.ignore(&["moe_capacity", "moe_use_aux_free", "num_nextn_predict_layers"]);
    let mut description = around(keys, layers)?;
    description.left_out.push(LeftOut { prefix: "model.mtp_".into(), what: "multi-token prediction" });
    Ok(description)
}
