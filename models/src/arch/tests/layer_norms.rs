//! Families with layer norms, as they are published.
use super::{attention_of, read, weights, with};
use crate::{
    description::{Score, StreamNorm},
    rope::Scaling,
};
use serde_json::{Value, json};

/// Phi-3.5-MoE.
fn phi() -> Value {
    json!({
        "architectures": ["PhiMoEForCausalLM"], "attention_bias": true, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 32000,
        "hidden_act": "silu", "hidden_dropout": 0.0, "hidden_size": 4096, "initializer_range": 0.02, "input_jitter_noise": 0.01,
        "intermediate_size": 6400, "lm_head_bias": true, "max_position_embeddings": 131_072, "model_type": "phimoe", "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 16,
        "original_max_position_embeddings": 4096, "output_router_logits": false, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "rope_scaling": {
            "long_factor": vec![2.0; 64], "long_mscale": 1.2, "original_max_position_embeddings": 4096, "short_factor": vec![1.0; 64],
            "short_mscale": 1.1, "type": "longrope"
        },
        "router_jitter_noise": 0.01, "sliding_window": 131_072, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064
    })
}

fn dbrx() -> Value {
    json!({
        "architectures": ["DbrxForCausalLM"], "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500_000},
        "d_model": 6144, "emb_pdrop": 0.0, "ffn_config": {
            "ffn_hidden_size": 10_752, "model_type": "", "moe_jitter_eps": 0.01, "moe_loss_weight": 0.05, "moe_num_experts": 16, "moe_top_k": 4
        },
        "initializer_range": 0.02, "max_seq_len": 32_768, "model_type": "dbrx", "n_heads": 48, "n_layers": 40, "output_router_logits": false,
        "resid_pdrop": 0.0, "router_aux_loss_coef": 0.05, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
        "vocab_size": 100_352
    })
}

/// As many weights as transformers makes of the same sizes.
#[test]
fn they_are_as_large_as_they_are() {
    let phi = read(&phi()).unwrap();
    assert_eq!((weights(&phi), phi.norm, phi.head_bias), (41_873_153_344, StreamNorm::Layer { bias: true }, true));
    assert_eq!(phi.mixture(0).unwrap().router.score, Score::Mixer(0.01));
    let mut config = dbrx();
    let dbrx = read(&config).unwrap();
    assert!(dbrx.mixture(0).unwrap().router.norm_topk_prob.is_some());
    config["ffn_config"]["moe_normalize_expert_weights"] = Value::Null;
    assert!(read(&config).unwrap().mixture(0).unwrap().router.norm_topk_prob.is_none());
    assert_eq!((weights(&dbrx), dbrx.norm, attention_of(&dbrx, 0).clip), (131_596_523_520, StreamNorm::Layer { bias: false }, Some(8.0)));
}

/// Frequencies and lengths are those of longer texts where there is room for one.
#[test]
fn positions_are_by_the_length_of_the_text() {
    let description = read(&phi()).unwrap();
    for (tokens, divided, expected) in [(4096, 1.0, 1.1f32), (4097, 2.0, 1.2)] {
        let own = description.reaching(tokens);
        let (frequencies, longer) = attention_of(&own, 31).rope.frequencies();
        assert_eq!((frequencies[0], longer), (1.0 / divided, expected));
        assert_eq!(own.reaches_longer(), tokens > 4096);
    }
}

/// Where no file says how long they are, it is by how much longer texts may be (Ding et al. 2024, equation 5).
#[test]
fn lengths_that_are_not_given_are_of_the_ratio() {
    let mut config = phi();
    for key in ["long_mscale", "short_mscale"] {
        config["rope_scaling"].as_object_mut().unwrap().remove(key);
    }
    let description = read(&config).unwrap();
    let Scaling::Long { scales, .. } = &attention_of(&description, 0).rope.scaling else { panic!("no frequencies of long texts") };
    let expected = (1.0 + 32f64.ln() / 4096f64.ln()).sqrt();
    assert_eq!(*scales, [expected; 2]);
}

#[test]
fn what_is_not_known_is_refused() {
    let scaled = |key: &str, value: Value| {
        let mut config = phi();
        config["rope_scaling"][key] = value;
        config
    };
    let inside = |part: &str, key: &str, value: Value| {
        let mut config = dbrx();
        config[part][key] = value;
        config
    };
    for (config, expected) in [
        (scaled("long_factor", json!([1.0])), "rope_scaling.long_factor is [1.0], but must be 64 numbers, one for each pair of a head"),
        (scaled("short_factor", json!("a")), "rope_scaling.short_factor is \"a\", but must be a list of positive numbers"),
        (scaled("original_max_position_embeddings", json!(null)), "rope_scaling.original_max_position_embeddings"),
        (with(phi(), "sliding_window", json!(2048)), "sliding_window is 2048, which is not supported"),
        (inside("attn_config", "kv_n_heads", json!(7)), "attn_config.kv_n_heads is 7, but must be a divisor of n_heads, 48"),
        (inside("attn_config", "qk_ln", json!(true)), "the key attn_config.qk_ln (here true) is not known"),
        (inside("ffn_config", "moe_normalize_expert_weights", json!(2)), "ffn_config.moe_normalize_expert_weights is 2, which is not supported"),
        (inside("ffn_config", "ffn_act_fn", json!({"name": "gelu"})), "ffn_config.ffn_act_fn.name is \"gelu\", which is not supported"),
        (with(dbrx(), "d_model", json!(6000)), "d_model is 6000, but must be an even multiple of n_heads, 48"),
        (with(dbrx(), "attn_config", json!(null)), "attn_config"),
    ] {
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
