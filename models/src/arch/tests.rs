//! What configs are read as, and what is refused with which sentence.
use crate::{Config, ConfigError, Kind};
use serde_json::{Value, json};

fn mixtral() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000
    })
}

/// Qwen1.5-MoE-A2.7B.
fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
        "model_type": "qwen2_moe", "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 16, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.39.0.dev0",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 151936, "decoder_sparse_step": 1, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "num_experts": 60, "norm_topk_prob": false,
        "output_router_logits": false, "router_aux_loss_coef": 0.001
    })
}

/// Qwen3-Coder-30B-A3B, which has some keys more than Qwen3-30B-A3B.
fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "decoder_sparse_step": 1,
        "eos_token_id": [151645, 151643], "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 5472, "max_position_embeddings": 262144, "max_window_layers": 28, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false, "qkv_bias": false, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 10000000, "router_aux_loss_coef": 0.0, "shared_expert_intermediate_size": 0, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.52.3", "use_cache": true, "use_qk_norm": true,
        "use_sliding_window": false, "vocab_size": 151936
    })
}

fn read(value: &Value) -> Result<Config, ConfigError> {
    Config::from_json(&value.to_string())
}

fn with(mut base: Value, key: &str, value: Value) -> Value {
    match base.as_object_mut() {
        Some(map) => map.insert(key.to_string(), value),
        None => None,
    };
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().and_then(|map| map.remove(key));
    base
}

fn weights(config: &Config) -> usize {
    config.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum()
}

#[test]
fn published_configs_have_the_published_sizes() {
    let m = read(&mixtral()).unwrap();
    assert_eq!((weights(&m), m.tensors().len()), (46_702_792_704, 995));
    let q2 = read(&qwen2()).unwrap();
    assert_eq!(weights(&q2), 14_315_784_192);
    assert!(q2.qkv_bias && !q2.norm_topk_prob && q2.shared_expert_intermediate_size == Some(5632));
    let q3 = read(&qwen3()).unwrap();
    assert_eq!((weights(&q3), q3.head_dim, q3.eos_token_id.len()), (30_532_122_624, 128, 2));
    for config in [m, q2, q3] {
        let mut names: Vec<String> = config.tensors().into_iter().map(|t| t.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

#[test]
fn both_dialects_read_the_same() {
    let old = read(&qwen3()).unwrap();
    let new = with(without(qwen3(), "rope_theta"), "rope_parameters", json!({"rope_type": "default", "rope_theta": 10000000.0}));
    let new = with(without(without(new, "torch_dtype"), "num_experts"), "dtype", json!("bfloat16"));
    let new = with(new, "num_local_experts", json!(128));
    assert_eq!(read(&new).unwrap(), old);
    assert_eq!(read(&with(qwen3(), "rope_scaling", json!({"type": "default"}))).unwrap(), old);
}

#[test]
fn dense_layers_are_those_between_steps_and_those_named() {
    let c = with(with(qwen3(), "decoder_sparse_step", json!(2)), "mlp_only_layers", json!([1, 5]));
    let c = read(&c).unwrap();
    assert_eq!(c.sparse[..8], [false, false, false, true, false, false, false, true]);
    let dense: Vec<_> = c.tensors().into_iter().filter(|t| t.layer == Some(0) && t.name.contains("mlp")).collect();
    assert_eq!(dense.len(), 3);
    assert_eq!((dense[2].name.as_str(), dense[2].kind), ("model.layers.0.mlp.down_proj.weight", Kind::Down));
    assert_eq!((dense[2].shape.clone(), dense[2].expert), (vec![2048, 5472], None));
}

#[test]
fn tied_embeddings_have_no_head() {
    let c = read(&with(mixtral(), "tie_word_embeddings", json!(true))).unwrap();
    assert!(c.tensors().iter().all(|t| t.kind != Kind::Head));
}

#[test]
fn a_window_that_is_never_reached_is_none() {
    read(&with(mixtral(), "sliding_window", json!(32768))).unwrap();
    read(&with(qwen2(), "sliding_window", json!(4096))).unwrap();
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let cases = [
        (with(mixtral(), "model_type", json!("llama")), "model_type 'llama' is not supported: mixtral, qwen2_moe and qwen3_moe are"),
        (without(mixtral(), "hidden_size"), "the key hidden_size is missing"),
        (without(mixtral(), "intermediate_size"), "the key intermediate_size is missing"),
        (without(mixtral(), "num_local_experts"), "the key num_experts or num_local_experts is missing"),
        (without(qwen3(), "rope_theta"), "the key rope_theta is missing"),
        (without(qwen2(), "norm_topk_prob"), "the key norm_topk_prob is missing"),
        (with(mixtral(), "sliding_window", json!(4096)), "sliding_window is 4096, which is not supported"),
        (with(qwen2(), "use_sliding_window", json!(true)), "use_sliding_window is true, which is not supported"),
        (with(mixtral(), "hidden_act", json!("gelu")), "hidden_act is \"gelu\", which is not supported: only 'silu'"),
        (with(mixtral(), "quantization_config", json!({"bits": 4})), "the key quantization_config.group_size is missing"),
        (
            with(mixtral(), "quantization_config", json!({"quant_method": "awq", "bits": 4})),
            "quantization_config.quant_method is \"awq\", which is not",
        ),
        (
            with(mixtral(), "quantization", json!({"mode": "mxfp4", "bits": 4, "group_size": 32})),
            "quantization.mode is \"mxfp4\", which is not supported",
        ),
        (with(qwen3(), "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})), "rope_scaling.rope_type is \"yarn\", which is not supported"),
        (with(qwen3(), "rope_parameters", json!({"rope_type": "default", "factor": 2})), "the key rope_parameters.factor (here 2) is not known"),
        (with(qwen3(), "rope_parameters", json!({"rope_theta": 5.0})), "rope_parameters.rope_theta is 5.0, but must be the same number"),
        (with(qwen3(), "partial_rotary_factor", json!(0.5)), "partial_rotary_factor is 0.5, which is not supported: only 1"),
        (with(qwen2(), "layer_types", json!(["sliding_attention"])), "layer_types is \"sliding_attention\", which is not supported"),
        (with(qwen2(), "layer_types", json!(["full_attention"])), "layer_types is [\"full_attention\"], but must be a list of 24"),
        (with(qwen3(), "use_qk_norm", json!(false)), "use_qk_norm is false, which is not supported"),
        (with(qwen3(), "shared_expert_intermediate_size", json!(64)), "shared_expert_intermediate_size is 64, which is not supported"),
        (with(mixtral(), "attention_bias", json!(true)), "attention_bias is true, which is not supported"),
        (with(mixtral(), "logit_softcap", json!(null)), "the key logit_softcap (here null) is not known"),
        (with(mixtral(), "num_attention_heads", json!(0)), "num_attention_heads is 0, but must be a whole number from 1"),
        (with(mixtral(), "num_key_value_heads", json!(5)), "num_key_value_heads is 5, but must be a divisor of num_attention_heads, 32"),
        (with(mixtral(), "num_experts_per_tok", json!(9)), "num_experts_per_tok is 9, but must be at most the number of experts, 8"),
        (with(mixtral(), "num_experts", json!(4)), "num_local_experts is 8, but must be the same as num_experts, 4"),
        (with(mixtral(), "hidden_size", json!(u64::MAX)), "hidden_size is 18446744073709551615, but must be a whole number from 1"),
        (with(mixtral(), "hidden_size", json!(4096.5)), "hidden_size is 4096.5, but must be a whole number"),
        (with(mixtral(), "hidden_size", json!(-1)), "hidden_size is -1, but must be a whole number"),
        (with(mixtral(), "hidden_size", json!("4096")), "hidden_size is \"4096\", but must be a whole number"),
        (with(mixtral(), "hidden_size", json!(4100)), "hidden_size is 4100, but must be an even multiple of num_attention_heads, 32"),
        (with(qwen3(), "head_dim", json!(63)), "head_dim is 63, but must be an even number"),
        (with(qwen3(), "mlp_only_layers", json!([48])), "mlp_only_layers is [48], but must be numbers of layers, below 48"),
        (with(qwen3(), "decoder_sparse_step", json!(0)), "decoder_sparse_step is 0, but must be a whole number from 1"),
        (with(qwen3(), "rope_theta", json!(0)), "rope_theta is 0, but must be a positive number"),
        (with(mixtral(), "torch_dtype", json!("int8")), "torch_dtype is \"int8\", which is not supported"),
        (with(mixtral(), "intermediate_size", json!(1 << 24)), "num_hidden_layers is 32, but must be a number that with the other sizes gives"),
        (json!([]), "not a JSON object"),
    ];
    let mut failures = Vec::new();
    for (config, expected) in cases {
        match read(&config) {
            Err(e) if e.to_string().starts_with(expected) => {}
            other => failures.push(format!("expected: {expected}\n     got: {}", other.map_or_else(|e| e.to_string(), |_| "a config".to_string()))),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(matches!(Config::from_json("{"), Err(ConfigError::Json(_))));
}

#[test]
fn what_is_serialized_reads_as_the_same() {
    let gptq = json!({
        "quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 4, "group_size": -1, "sym": false, "desc_act": true,
        "dynamic": {"+:a.*": {"bits": 8, "group_size": 32}, "-:b\\d": {}}
    });
    let mlx = json!({"bits": 3, "group_size": 64, "model.layers.0.mlp": false, "lm_head": {"bits": 8, "group_size": 32}});
    let qwen2_as_mixed = with(with(qwen2(), "decoder_sparse_step", json!(2)), "mlp_only_layers", json!([3]));
    for value in [mixtral(), qwen2(), qwen3(), qwen2_as_mixed, with(qwen2(), "quantization", mlx), with(qwen3(), "quantization_config", gptq)] {
        let config = read(&value).expect("read");
        let mut json = serde_json::to_value(&config).expect("JSON");
        for key in ["hidden_size", "num_experts", "num_experts_per_tok", "rope_theta", "vocab_size", "mlp_only_layers", "quantization_config"] {
            assert!(json.get(key).is_some(), "{key}: {json}");
        }
        if config.model_type == "mixtral" {
            // Its own config.json has one width, and no word for what all of them do.
            json = ["moe_intermediate_size", "norm_topk_prob", "mlp_only_layers"].into_iter().fold(json, without);
        }
        assert_eq!(read(&json).expect("read again"), config, "{json}");
    }
}
