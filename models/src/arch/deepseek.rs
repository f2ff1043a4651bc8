//! What DeepSeek's families and those after them have in common: attention over latents, shared experts beside the routed ones.
use super::{Variant, mixture, named, rope, shared_experts, size};
use crate::{
    description::{ConfigError, Gated, Latent, Mixer, Mixture, Router},
    json::Keys,
    rope::Scaling,
};
use ram_kernels::Pairs;

/// Added to the mean square in the norms inside an attention, whatever the file says of the others.
const EPS: f64 = 1e-6;

/// The attention of every layer; neighbours are turned together where no key says that halves are.
pub fn latents(keys: &mut Keys) -> Result<Mixer, ConfigError> {
    keys.only("attention_bias", false)?;
    let num_attention_heads = keys.need("num_attention_heads", size)?;
    if size(keys, "num_key_value_heads")?.is_some_and(|n| n != num_attention_heads) {
        return Err(keys.unsupported("num_key_value_heads", &format!("num_attention_heads, {num_attention_heads}: latents have keys for all")));
    }
    let [kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim] =
        ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"].map(|key| keys.need(key, size));
    let (kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim) = (kv_lora_rank?, qk_nope_head_dim?, qk_rope_head_dim?, v_head_dim?);
    for (key, n) in [("kv_lora_rank", kv_lora_rank), ("v_head_dim", v_head_dim)] {
        if !n.is_multiple_of(16) {
            return Err(keys.unsupported(key, "multiples of 16"));
        }
    }
    if qk_rope_head_dim % 2 == 1 {
        return Err(keys.invalid("qk_rope_head_dim", "an even number: rotary positions turn pairs"));
    }
    // The first is of what is turned alone, as transformers writes it, or of all.
    let query = qk_nope_head_dim + qk_rope_head_dim;
    for (key, known) in [("head_dim", [qk_rope_head_dim, query]), ("qk_head_dim", [query; 2])] {
        if size(keys, key)?.is_some_and(|n| !known.contains(&n)) {
            return Err(keys.invalid(key, &format!("what qk_nope_head_dim and qk_rope_head_dim are together, {query}")));
        }
    }
    let pairs = if keys.flag("rope_interleave")?.unwrap_or(true) { Pairs::Neighbours } else { Pairs::Halves };
    let rope = rope::read(keys, qk_rope_head_dim, &Variant { pairs, ..Variant::default() })?;
    let longer = if let Scaling::Yarn { scores, .. } = rope.scaling { scores } else { 1.0 };
    let scale = longer * longer / (query as f64).sqrt();
    let q_lora_rank = size(keys, "q_lora_rank")?;
    let latent = Latent { num_attention_heads, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, rope, scale, eps: EPS };
    Ok(Mixer::Latent(Box::new(latent)))
}

/// Routed experts and shared ones.
pub fn experts(keys: &mut Keys, num_experts: usize, router: Router) -> Result<Mixture, ConfigError> {
    let width = keys.need("moe_intermediate_size", size)?;
    let shared = shared_experts(keys, "n_shared_experts", width)?;
    if keys.size("moe_layer_freq", 0, 4096)?.is_some_and(|n| n != 1) {
        return Err(keys.unsupported("moe_layer_freq", "1, experts in every layer behind the first"));
    }
    // Of training, and of how experts lie on machines.
    keys.ignore(&["aux_loss_alpha", "ep_size", "seq_aux"]);
    Ok(Mixture { shared, ..mixture(num_experts, router, Gated::new(width, named("mlp.experts"))) })
}
