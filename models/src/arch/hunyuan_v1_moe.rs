//! Hunyuan-A13B: heads of queries and keys normalised after they are turned, an ungated shared expert, frequencies of a longer base.
use super::{Variant, alike, attention, mixture, named, num_experts, size, taken};
use crate::{
    description::{ConfigError, Description, Gated, Mixture, Mlp, Normed, QkNorm, Router},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let qk_norm = Some(QkNorm { of: Normed::TurnedHeads, names: ["self_attn.query_layernorm", "self_attn.key_layernorm"] });
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let variant = Variant { qkv_bias: bias, output_bias: bias, qk_norm, theta: Some(10_000.0), plain_heads: true, alpha: true, ..Variant::default() };
    let attention = attention(keys, &variant)?;
    let num_experts = num_experts(keys)?;
    let width = keys.need("intermediate_size", size)?;
    // One for all layers, or the same for each.
    let alike_in_all = |keys: &mut Keys, key: &str| match &keys.tokens(key)?[..] {
        [] => Ok(None),
        [first, rest @ ..] if rest.iter().all(|n| n == first) => Ok(Some(*first as usize)),
        _ => Err(keys.unsupported(key, "the same number in every layer")),
    };
    for (key, only) in [("moe_intermediate_size", width), ("num_shared_expert", 1)] {
        if alike_in_all(keys, key)?.is_some_and(|found| found != only) {
            return Err(keys.unsupported(key, &only.to_string()));
        }
    }
    let num_experts_per_tok = match alike_in_all(keys, "moe_topk")? {
        Some(n) if n > num_experts || n == 0 => return Err(keys.invalid("moe_topk", &format!("from 1 to the number of experts, {num_experts}"))),
        Some(n) => n,
        None => taken(keys, "num_experts_per_tok", num_experts)?,
    };
    let mixture = Mixture {
        router_module: "mlp.gate.wg",
        shared: Some(Gated::new(width, named("mlp.shared_mlp"))),
        ..mixture(num_experts, Router::softmax(num_experts_per_tok, true), Gated::new(width, named("mlp.experts")))
    };
    // What other models of the same code have and this one has not.
    for key in ["add_classification_head", "use_cla", "use_mla", "position_embedding_xdrope", "moe_layer_num_skipped", "group_limited_greedy"] {
        keys.off(key)?;
    }
    for key in ["use_mixed_mlp_moe", "use_rotary_pos_emb"] {
        keys.only(key, true)?;
    }
    keys.only_text("norm_type", "rms")?;
    // Sizes of what is switched off, and how experts were cut short in training.
    keys.ignore(&[
        "attention_head_dim",
        "capacity_factor",
        "cla_share_factor",
        "class_num",
        "dense_list",
        "eod_token_id",
        "im_end_id",
        "im_newline_id",
    ]);
    keys.ignore(&["im_start_id", "kv_lora_rank", "mask_init_id", "moe_drop_tokens", "moe_random_routing_dropped_token", "num_media_embeds"]);
    keys.ignore(&[
        "org_vocab_size",
        "pool_type",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "text_end_id",
        "text_start_id",
        "v_head_dim",
    ]);
    alike(keys, attention, Mlp::Sparse(Box::new(mixture)))
}
