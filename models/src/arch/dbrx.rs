//! DBRX: layer norms without biases, queries, keys and values in one matrix and clipped, all experts of a layer in one; keys of its own.
use super::{MOST, dtype, mixture, size, taken};
use crate::{
    description::{
        Attention, AttentionNames, ConfigError, Description, Fused, FusedMatrices, Gated, GatedNames, Layer, Mixer, Mixture, Mlp, NAMES, Names,
        Router, StreamNorm,
    },
    json::Keys,
    rope::{Rope, Scaling},
};
use ram_kernels::Pairs;

const TENSORS: Names = Names {
    model: "transformer",
    embedding: "wte",
    layers: "blocks",
    norm: "norm_f",
    norms: ["norm_attn_norm.norm_1", "norm_attn_norm.norm_2"],
    ..NAMES
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let hidden_size = keys.need("d_model", size)?;
    let trained = keys.need("max_seq_len", |keys, key| keys.size(key, 1, 1 << 30))?;
    let attention = attention(keys, hidden_size)?;
    let mixture = experts(keys)?;
    let count = keys.need("n_layers", |keys, key| keys.size(key, 1, 4096))?;
    dtype(keys)?;
    keys.ignore(&["emb_pdrop", "resid_pdrop"]);
    let layer = Layer { mixer: Mixer::Attention(Box::new(attention)), mlp: Mlp::Sparse(Box::new(mixture)) };
    Ok(Description {
        model_type: String::new(),
        vocab_size: keys.need("vocab_size", size)?,
        hidden_size,
        max_position_embeddings: trained,
        // What layer norms have where nothing is said.
        rms_norm_eps: 1e-5,
        norm: StreamNorm::Layer { bias: false },
        embedding_multiplier: 1.0,
        logits_scaling: 1.0,
        logits_cap: None,
        layer_scalar: None,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        head_bias: false,
        norms_less_one: false,
        names: TENSORS,
        also: &[],
        layers: vec![layer; count],
        bos_token_id: keys.token("bos_token_id")?,
        eos_token_id: keys.tokens("eos_token_id")?,
        quantization: None,
        left_out: Vec::new(),
    })
}

fn attention(keys: &mut Keys, hidden_size: usize) -> Result<Attention, ConfigError> {
    let heads = keys.need("n_heads", size)?;
    if !hidden_size.is_multiple_of(2 * heads) {
        return Err(keys.invalid("d_model", &format!("an even multiple of n_heads, {heads}")));
    }
    let dim = hidden_size / heads;
    let newer = match keys.inner("rope_parameters")? {
        Some(mut inner) => {
            inner.only_text("rope_type", "default")?;
            let theta = inner.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?;
            inner.all_known(&[])?;
            theta
        }
        None => None,
    };
    let missing = || ConfigError::Missing { key: "attn_config".to_string() };
    let mut own = keys.inner("attn_config")?.ok_or_else(missing)?;
    let kv_heads = own.need("kv_n_heads", size)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(own.invalid("kv_n_heads", &format!("a divisor of n_heads, {heads}")));
    }
    let theta = own.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?.or(newer);
    if newer.is_some_and(|newer| theta != Some(newer)) {
        return Err(own.invalid("rope_theta", "the same number as in rope_parameters"));
    }
    let theta = own.present("rope_theta", theta)?;
    let clip = own.number("clip_qkv", 1e-6, 1e6)?;
    own.ignore(&["attn_pdrop", "model_type"]);
    super::all_known(&mut own)?;
    let rope = Rope { theta, scaling: Scaling::Default, dim, pairs: Pairs::Halves };
    let names = AttentionNames { module: "norm_attn_norm.attn", output: "out_proj", joined: Some("Wqkv") };
    Ok(Attention { clip, names, ..Attention::plain([heads, kv_heads, dim], rope) })
}

fn experts(keys: &mut Keys) -> Result<Mixture, ConfigError> {
    let missing = || ConfigError::Missing { key: "ffn_config".to_string() };
    let mut own = keys.inner("ffn_config")?.ok_or_else(missing)?;
    let num_experts = own.need("moe_num_experts", |keys, key| keys.size(key, 1, 65_536))?;
    let taken = taken(&mut own, "moe_top_k", num_experts)?;
    // The sum of weights, which are not below 0; nothing where it is null.
    let divided = !own.is_null("moe_normalize_expert_weights");
    if own.number("moe_normalize_expert_weights", 0.0, 1e3)?.is_some_and(|power| power != 1.0) {
        return Err(own.unsupported("moe_normalize_expert_weights", "1 and null"));
    }
    if let Some(mut gate) = own.inner("ffn_act_fn")? {
        gate.only_text("name", "silu")?;
        gate.all_known(&[])?;
    }
    let width = own.need("ffn_hidden_size", size)?;
    own.size("hidden_size", 1, MOST)?;
    own.ignore(&["model_type", "moe_jitter_eps", "moe_loss_weight", "uniform_expert_assignment"]);
    super::all_known(&mut own)?;
    let expert = Gated::new(width, GatedNames { module: "ffn.experts", projections: ["w1", "v1", "w2"] });
    Ok(Mixture {
        router_module: "ffn.router.layer",
        fused: Some(Fused {
            matrices: FusedMatrices::Flat(["ffn.experts.mlp.w1", "ffn.experts.mlp.v1", "ffn.experts.mlp.w2"]),
            ends: &[("", ".weight")],
            turned: Some(""),
        }),
        ..mixture(num_experts, Router::softmax(taken, divided), expert)
    })
}
