//! GLM-4.5 to 4.7 and their Airs: sigmoid scores with a correction, an ungated shared expert, the first layers dense, half of a head turned.
use super::{HEADS, Variant, around, attention, first_dense, groups, mixture, named, next_layers, num_experts_as, shared_experts, size, taken};
use crate::{
    description::{ConfigError, Correction, Description, Gated, LEAST, Mixture, Router, Score},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let qk_norm = keys.flag("use_qk_norm")?.unwrap_or(false).then_some(HEADS);
    // Biases are of q, k and v alone, whatever the key says of all.
    let variant = Variant { qkv_bias, output_bias: qkv_bias, qk_norm, partial: Some(0.5), ..Variant::default() };
    let mut attention = attention(keys, &variant)?;
    attention.output_bias = false;
    let num_experts = num_experts_as(keys, "n_routed_experts")?;
    let num_experts_per_tok = taken(keys, "num_experts_per_tok", num_experts)?;
    let router = Router {
        num_experts_per_tok,
        score: Score::Sigmoid,
        bias: None,
        correction: Some(Correction { name: "mlp.gate.e_score_correction_bias", shape: vec![num_experts] }),
        groups: groups(keys, num_experts, num_experts_per_tok)?,
        norm_topk_prob: keys.need("norm_topk_prob", Keys::flag)?.then_some(LEAST),
        scaling: keys.need("routed_scaling_factor", |k, key| k.number(key, 1e-6, 1e6))?,
    };
    let width = keys.need("moe_intermediate_size", size)?;
    let shared = shared_experts(keys, "n_shared_experts", width)?;
    let expert = Gated { width, names: named("mlp.experts") };
    let mixture = Mixture { shared, ..mixture(num_experts, router, expert) };
    let layers = first_dense(keys, &attention, mixture)?;
    let mut description = around(keys, layers)?;
    next_layers(keys, "num_nextn_predict_layers", &mut description)?;
    Ok(description)
}
