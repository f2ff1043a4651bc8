//! MiniMax-M2: Mixtral's names, sigmoid scores with a correction, queries and keys normalised as wholes, part of a head turned.
use super::{Variant, alike, attention, mixture, num_experts, size, taken};
use crate::{
    description::{ConfigError, Correction, Description, Gated, GatedNames, Groups, LEAST, LeftOut, Mixture, Mlp, Normed, QkNorm, Router, Score},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qk_norm = Some(QkNorm { of: Normed::All, names: ["self_attn.q_norm", "self_attn.k_norm"] });
    let attention = attention(keys, &Variant { qk_norm, partial: Some(1.0), ..Variant::default() })?;
    keys.only_text("qk_norm_type", "per_layer")?;
    keys.only_text("scoring_func", "sigmoid")?;
    keys.only("use_routing_bias", true)?;
    if keys.tokens("attn_type_list")?.iter().any(|kind| *kind != 1) {
        return Err(keys.unsupported("attn_type_list", "1, full attention, in every layer"));
    }
    keys.off("shared_intermediate_size")?;
    let num_experts = num_experts(keys)?;
    let router = Router {
        expert_scale: None,
        num_experts_per_tok: taken(keys, "num_experts_per_tok", num_experts)?,
        score: Score::Sigmoid,
        bias: None,
        correction: Some(Correction { name: "block_sparse_moe.e_score_correction_bias", shape: vec![num_experts] }),
        groups: Groups::ONE,
        norm_topk_prob: Some(LEAST),
        scaling: 1.0,
    };
    let width = keys.need("intermediate_size", size)?;
    let expert = Gated::new(width, GatedNames { module: "block_sparse_moe.experts", projections: ["w1", "w3", "w2"] });
    let mixture = Mixture { router_module: "block_sparse_moe.gate", ..mixture(num_experts, router, expert) };
    // Of linear attention and shared experts, which no layer has; and modules that predict further tokens, which no published file has.
    keys.ignore(&["layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta", "shared_moe_mode"]);
    keys.ignore(&["mtp_transformer_layers", "num_mtp_modules", "use_mtp"]);
    let mut description = alike(keys, attention, Mlp::Sparse(Box::new(mixture)))?;
    description.left_out.push(LeftOut { prefix: "model.mtp.".into(), what: "multi-token prediction" });
    Ok(description)
}
