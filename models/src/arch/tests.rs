//! What configs are read as, and what is refused with which sentence.
mod gemma4;
mod latents;
mod layer_norms;
mod llama4;

use crate::{
    ConfigError, Description, Kind,
    description::{Attention, Mixture, Mlp},
};
use serde_json::{Value, json};

fn attention_of(d: &Description, layer: usize) -> &Attention {
    d.layers[layer].mixer.attention().unwrap()
}

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

/// Llama-3.1-8B.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0",
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "use_cache": true, "vocab_size": 128256
    })
}

/// Mistral-7B-v0.3.
fn mistral() -> Value {
    json!({
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0", "use_cache": true,
        "vocab_size": 32768
    })
}

/// Qwen2.5-7B.
fn qwen2_dense() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
        "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
        "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
        "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 152064
    })
}

/// Qwen3-8B.
fn qwen3_dense() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
        "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936
    })
}

fn read(value: &Value) -> Result<Description, ConfigError> {
    Description::from_json(&value.to_string())
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

fn weights(d: &Description) -> usize {
    d.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum()
}

#[test]
fn published_configs_have_the_published_sizes() {
    let m = read(&mixtral()).unwrap();
    assert_eq!((weights(&m), m.tensors().len()), (46_702_792_704, 995));
    let q2 = read(&qwen2()).unwrap();
    assert_eq!(weights(&q2), 14_315_784_192);
    let mixture = q2.mixture(0).unwrap();
    assert!(attention_of(&q2, 0).qkv_bias && mixture.router.norm_topk_prob.is_none() && mixture.shared.as_ref().unwrap().width == 5632);
    let q3 = read(&qwen3()).unwrap();
    assert_eq!((weights(&q3), attention_of(&q3, 47).head_dim, q3.eos_token_id.len()), (30_532_122_624, 128, 2));
    let dense = [(llama(), 8_030_261_248), (mistral(), 7_248_023_552), (qwen2_dense(), 7_615_616_512), (qwen3_dense(), 8_190_735_360)];
    let dense = dense.map(|(json, published)| {
        let d = read(&json).unwrap();
        assert_eq!(weights(&d), published, "{}", d.model_type);
        d
    });
    for d in dense.into_iter().chain([m, q2, q3]) {
        let mut names: Vec<String> = d.tensors().into_iter().map(|t| t.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

/// Mixtures with other routers, in billions as they are told of.
#[test]
fn other_families_have_the_sizes_that_they_are_told_of() {
    let common = json!({
        "attention_bias": false, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "rope_scaling": null,
        "rope_theta": 1000000, "torch_dtype": "bfloat16", "use_cache": true, "tie_word_embeddings": false, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05, "num_key_value_heads": 8, "head_dim": 128, "pad_token_id": 0, "eos_token_id": [1, 2]
    });
    let like = |more: Value| {
        let mut all = common.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let glm = json!({
        "model_type": "glm4_moe", "attention_bias": true, "hidden_size": 4096, "partial_rotary_factor": 0.5, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "norm_topk_prob": true, "num_attention_heads": 96, "n_group": 1, "topk_group": 1, "n_routed_experts": 128,
        "n_shared_experts": 1, "routed_scaling_factor": 1.0, "num_experts_per_tok": 8, "first_k_dense_replace": 1, "num_hidden_layers": 46,
        "num_nextn_predict_layers": 1, "use_qk_norm": false, "vocab_size": 151552
    });
    let minimax = json!({
        "model_type": "minimax_m2", "hidden_size": 3072, "intermediate_size": 1536, "num_attention_heads": 48, "num_hidden_layers": 62,
        "num_local_experts": 256, "num_experts_per_tok": 8, "rotary_dim": 64, "scoring_func": "sigmoid", "use_routing_bias": true,
        "use_qk_norm": true, "qk_norm_type": "per_layer", "attn_type_list": vec![1; 62], "use_mtp": true, "num_mtp_modules": 3, "vocab_size": 200064,
        "quantization_config": {"quant_method": "fp8", "fmt": "float8_e4m3fn", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    });
    let ernie = json!({
        "model_type": "ernie4_5_moe", "hidden_size": 2560, "intermediate_size": 12288, "num_attention_heads": 20, "num_key_value_heads": 4,
        "num_hidden_layers": 28, "vocab_size": 103424, "tie_word_embeddings": true, "use_bias": false, "moe_num_experts": 64,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_intermediate_size": 1536, "moe_capacity": [64, 64, 64], "moe_k": 6,
        "moe_layer_interval": 1, "moe_use_aux_free": true, "num_nextn_predict_layers": 1
    });
    let olmoe = json!({
        "model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16,
        "num_hidden_layers": 16, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": false, "clip_qkv": null, "vocab_size": 50304
    });
    let granite = json!({
        "model_type": "granitemoe", "hidden_size": 1024, "intermediate_size": 512, "num_attention_heads": 16, "head_dim": 64, "num_hidden_layers": 24,
        "num_local_experts": 32, "num_experts_per_tok": 8, "attention_multiplier": 0.015_625, "embedding_multiplier": 12.0, "logits_scaling": 6.0,
        "residual_multiplier": 0.22, "tie_word_embeddings": true, "vocab_size": 49155
    });
    let hunyuan = json!({
        "model_type": "hunyuan_v1_moe", "hidden_size": 4096, "intermediate_size": 3072, "moe_intermediate_size": vec![3072; 32],
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_experts": 64, "moe_topk": vec![8; 32], "num_shared_expert": vec![1; 32],
        "use_mixed_mlp_moe": true, "use_qk_norm": true, "use_cla": false, "cla_share_factor": 2, "tie_word_embeddings": true, "vocab_size": 128167,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    });
    let oss = json!({
        "model_type": "gpt_oss", "attention_bias": true, "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880, "initial_context_length": 4096,
        "intermediate_size": 2880, "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_local_experts": 32,
        "rope_theta": 150_000, "sliding_window": 128, "swiglu_limit": 7.0, "vocab_size": 201_088,
        "layer_types": (0..24).map(|l| if l % 2 == 0 { "sliding_attention" } else { "full_attention" }).collect::<Vec<_>>(),
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false},
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    });
    for (config, billions) in [(&oss, 20.9), (&glm, 106.9), (&minimax, 228.7), (&ernie, 21.8), (&olmoe, 6.92), (&granite, 1.33), (&hunyuan, 80.4)] {
        let d = read(&like(config.clone())).unwrap();
        let found = weights(&d) as f64 / 1e9;
        assert!((found / billions - 1.0).abs() < 5e-3, "{}: {found} billions", d.model_type);
    }
    let glm = read(&like(glm)).unwrap();
    assert!(glm.mixture(0).is_none() && glm.mixture(1).unwrap().router.correction.is_some() && attention_of(&glm, 0).rope.dim == 64);
    assert_eq!(glm.left_out[0].prefix, "model.layers.46.");
    let refused = |config: &Value, key: &str, value: Value| read(&with(like(config.clone()), key, value)).unwrap_err().to_string();
    for (config, key, value, expected) in [
        (&minimax, "scoring_func", json!("softmax"), "scoring_func is \"softmax\", which is not supported: only 'sigmoid'"),
        (&minimax, "rotary_dim", json!(63), "partial_rotary_factor is absent, but must be a part of head_dim, 128, that is even"),
        (&minimax, "attn_type_list", json!([0]), "attn_type_list is [0], which is not supported: only 1, full attention, in every layer"),
        (&ernie, "use_bias", json!(true), "use_bias is true, which is not supported"),
        (&ernie, "moe_k", json!(65), "moe_k is 65, but must be at most the number of experts, 64"),
        (&oss, "layer_types", json!(["sliding_attention"]), "layer_types is [\"sliding_attention\"], but must be a list of 24, each"),
        (&oss, "experts_per_token", json!(8), "experts_per_token is 8, but must be the same as num_experts_per_tok, 4"),
        (&oss, "hidden_act", json!("gelu"), "hidden_act is \"gelu\", which is not supported"),
        (&olmoe, "clip_qkv", json!(8.0), "clip_qkv is 8.0, which is not supported"),
        (&granite, "logits_scaling", json!(0), "logits_scaling is 0, but must be a positive number"),
        (&hunyuan, "use_cla", json!(true), "use_cla is true, which is not supported"),
        (&hunyuan, "moe_topk", json!([8, 4]), "moe_topk is [8,4], which is not supported: only the same number in every layer"),
        (&hunyuan, "num_shared_expert", json!(vec![2; 32]), "num_shared_expert is ["),
    ] {
        let found = refused(config, key, value);
        assert!(found.starts_with(expected), "{found}");
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
    let sparse: Vec<bool> = (0..8).map(|l| c.mixture(l).is_some()).collect();
    assert_eq!(sparse, [false, false, false, true, false, false, false, true]);
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

/// As compressed-tensors says it.
fn packed(weights: Value) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let cases = [
        (
            with(mixtral(), "model_type", json!("gemma3")),
            "model_type 'gemma3' is not supported; these are: dbrx, deepseek_v2, deepseek_v3, ernie4_5_moe, gemma4,",
        ),
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
            with(mixtral(), "quantization_config", json!({"quant_method": "bitsandbytes", "bits": 4})),
            "quantization_config.quant_method is \"bitsandbytes\", which is not",
        ),
        (
            with(mixtral(), "quantization_config", json!({"quant_method": "awq", "bits": 8})),
            "quantization_config.bits is 8, which is not supported: only 4",
        ),
        (
            with(mixtral(), "quantization_config", json!({"quant_method": "awq", "bits": 4, "version": "gemv"})),
            "quantization_config.version is \"gemv\", which is not supported: only 'gemm'",
        ),
        (
            with(mixtral(), "quantization_config", json!({"quant_method": "awq", "bits": 4, "group_size": 0})),
            "quantization_config.group_size is 0, but must be a number from 1, or -1",
        ),
        (
            with(mixtral(), "quantization_config", json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})),
            "quantization_config.format is \"nvfp4-pack-quantized\", which is not supported: only 'pack-quantized'",
        ),
        (
            with(mixtral(), "quantization_config", packed(json!({"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group"}))),
            "the key quantization_config.config_groups.group_0.weights.group_size is missing",
        ),
        (
            with(mixtral(), "quantization_config", packed(json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "block"}))),
            "quantization_config.config_groups.group_0.weights.strategy is \"block\", which is not supported",
        ),
        (
            with(mixtral(), "quantization_config", packed(json!({"num_bits": 4, "strategy": "group", "group_size": 32, "actorder": "group"}))),
            "quantization_config.config_groups.group_0.weights.actorder is \"group\", which is not supported",
        ),
        (
            with(mixtral(), "quantization", json!({"mode": "mxfp4", "bits": 4, "group_size": 32})),
            "quantization.mode is \"mxfp4\", which is not supported",
        ),
        (with(qwen3(), "rope_scaling", json!({"rope_type": "su", "factor": 4.0})), "rope_scaling.rope_type is \"su\", which is not supported"),
        (with(qwen3(), "rope_scaling", json!({"type": "dynamic", "factor": 4.0})), "rope_scaling.type is \"dynamic\", which is not supported"),
        (with(qwen3(), "rope_scaling", json!({"type": "linear"})), "the key rope_scaling.factor is missing"),
        (
            with(llama(), "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})),
            "the key rope_scaling.high_freq_factor is",
        ),
        (
            with(llama(), "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0})),
            "rope_scaling.high_freq_factor is 4.0, but must be larger than low_freq_factor, 4",
        ),
        (with(llama(), "mlp_bias", json!(true)), "mlp_bias is true, which is not supported"),
        (with(llama(), "num_experts", json!(8)), "the key num_experts (here 8) is not known"),
        (without(llama(), "intermediate_size"), "the key intermediate_size is missing"),
        (with(mistral(), "sliding_window", json!(4096)), "sliding_window is 4096, which is not supported"),
        (with(qwen2_dense(), "use_sliding_window", json!(true)), "use_sliding_window is true, which is not supported"),
        (with(qwen2_dense(), "attention_bias", json!(true)), "attention_bias is true, which is not supported"),
        (without(qwen3_dense(), "head_dim"), "the key head_dim is missing"),
        (without(qwen3_dense(), "num_key_value_heads"), "the key num_key_value_heads is missing"),
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
    assert!(matches!(Description::from_json("{"), Err(ConfigError::Json(_))));
}

#[test]
fn positions_are_scaled_as_files_say() {
    let frequencies = |scaling: Value| {
        let d = read(&with(llama(), "rope_scaling", scaling)).unwrap();
        (attention_of(&d, 0).rope.frequencies(), d.max_position_embeddings)
    };
    let ((plain, longer), context) = frequencies(json!(null));
    assert_eq!((plain[0], longer, context), (1.0, 1.0, 131_072));
    let ((linear, _), _) = frequencies(json!({"type": "linear", "factor": 4.0}));
    assert!(plain.iter().zip(&linear).all(|(p, l)| (p / 4.0 - l).abs() <= f32::EPSILON * p));
    let ((llama, _), _) = frequencies(
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    );
    // Wavelengths below 2,048 positions stay, those above 8,192 are 8 times as long.
    for (p, l) in plain.iter().zip(&llama) {
        let wavelength = std::f32::consts::TAU / p;
        assert!(if wavelength < 2048.0 {
            l == p
        } else if wavelength > 8192.0 {
            (p / 8.0 - l).abs() <= f32::EPSILON * p
        } else {
            l < p && *l > p / 8.0
        });
    }
    let ((yarn, longer), context) = frequencies(json!({"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 8192}));
    assert!((longer - 1.346_573_6).abs() < 1e-6 && context == 262_144, "{longer}");
    assert_eq!((yarn[0], (yarn[63] - plain[63] / 32.0).abs() < 1e-12), (1.0, true));
}

#[test]
fn the_oldest_llamas_have_as_many_key_value_heads_as_heads() {
    let old = ["num_key_value_heads", "rope_theta", "rope_scaling"].into_iter().fold(llama(), without);
    let old = read(&old).unwrap();
    let attention = attention_of(&old, 0);
    assert_eq!((attention.num_key_value_heads, attention.rope.theta), (32, 10_000.0));
}

#[test]
fn a_mixture_takes_the_names_that_are_stored() {
    let stored = |name: &'static str| {
        let mut d = read(&mixtral()).unwrap();
        d.adopt_names([name].into_iter());
        let Some(Mixture { num_experts: 8, .. }) = d.mixture(31) else { panic!("no mixture") };
        assert!(matches!(d.layers[31].mlp, Mlp::Sparse(_)));
        let last = d.tensors().into_iter().rfind(|t| t.kind == Kind::Down).unwrap();
        (d.tensors().into_iter().find(|t| t.kind == Kind::Router).unwrap().name, d.stacked(&last).unwrap())
    };
    let (router, stacked) = stored("model.layers.0.block_sparse_moe.experts.0.w1.weight");
    assert_eq!((&*router, &*stacked), ("model.layers.0.block_sparse_moe.gate.weight", "model.layers.31.block_sparse_moe.switch_mlp.down_proj"));
    let (router, stacked) = stored("model.layers.0.mlp.experts.0.gate_proj.weight");
    assert_eq!((&*router, &*stacked), ("model.layers.0.mlp.gate.weight", "model.layers.31.mlp.switch_mlp.down_proj"));
}

/// Qwen3.5-35B-A3B, the text alone.
fn qwen35() -> Value {
    json!({
        "attention_bias": false, "attention_dropout": 0.0, "attn_output_gate": true, "dtype": "bfloat16", "eos_token_id": 248_044,
        "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
        "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262_144, "mlp_only_layers": [],
        "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 512, "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false,
        "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40, "num_key_value_heads": 2,
        "output_gate_type": "swish", "rms_norm_eps": 1e-6, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512,
        "use_cache": true, "vocab_size": 248_320, "layer_types": (1..=40).map(|l| if l % 4 == 0 { "full_attention" } else { "linear_attention" }).collect::<Vec<_>>(),
        "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25, "rope_theta": 1e7, "rope_type": "default"}
    })
}

/// With the images that a published file describes too.
fn beside_images(text: Value) -> Value {
    json!({
        "architectures": ["Qwen3_5MoeForConditionalGeneration"], "image_token_id": 248_056, "model_type": "qwen3_5_moe", "text_config": text,
        "tie_word_embeddings": false, "transformers_version": "5.0.0", "video_token_id": 248_057, "vision_end_token_id": 248_054,
        "vision_start_token_id": 248_053, "vision_config": {"depth": 27, "hidden_size": 1152}
    })
}

/// As many weights as transformers makes of the same sizes.
#[test]
fn models_with_delta_nets_are_as_large_as_they_are() {
    let all = |text: Value, changes: &[(&str, Value)]| changes.iter().fold(text, |text, (key, value)| with(text, key, value.clone()));
    let small = read(&beside_images(qwen35())).unwrap();
    assert_eq!((weights(&small), weights(&read(&qwen35()).unwrap())), (34_660_610_688, 34_660_610_688));
    assert_eq!((small.max_position_embeddings, attention_of(&small, 39).rope.dim, small.eos_token_id.as_slice()), (262_144, 64, &[248_044][..]));
    assert_eq!(small.tensors()[0].name, "model.language_model.embed_tokens.weight");
    assert_eq!(small.layers.iter().filter(|layer| layer.mixer.attention().is_some()).count(), 10);
    let large = [
        ("hidden_size", json!(4096)),
        ("num_hidden_layers", json!(60)),
        ("num_attention_heads", json!(32)),
        ("linear_num_value_heads", json!(64)),
        ("moe_intermediate_size", json!(1024)),
        ("shared_expert_intermediate_size", json!(1024)),
        ("num_experts", json!(512)),
        ("num_experts_per_tok", json!(10)),
        ("layer_types", Value::Null),
    ];
    assert_eq!(weights(&read(&all(qwen35(), &large)).unwrap()), 396_346_350_336);
    let next = [
        ("model_type", json!("qwen3_next")),
        ("num_hidden_layers", json!(48)),
        ("num_experts", json!(512)),
        ("num_experts_per_tok", json!(10)),
        ("norm_topk_prob", json!(true)),
        ("vocab_size", json!(151_936)),
        ("layer_types", Value::Null),
    ];
    assert_eq!(weights(&read(&all(qwen35(), &next)).unwrap()), 79_674_391_296);
    let dense = [
        ("model_type", json!("qwen3_5_text")),
        ("hidden_size", json!(5120)),
        ("intermediate_size", json!(17_408)),
        ("num_hidden_layers", json!(64)),
        ("num_attention_heads", json!(24)),
        ("num_key_value_heads", json!(4)),
        ("linear_num_value_heads", json!(48)),
        ("layer_types", Value::Null),
    ];
    let dense = ["moe_intermediate_size", "shared_expert_intermediate_size", "num_experts", "num_experts_per_tok"]
        .into_iter()
        .fold(all(qwen35(), &dense), without);
    assert_eq!(weights(&read(&dense).unwrap()), 26_895_998_464);
}

#[test]
fn delta_nets_that_are_not_known_are_refused() {
    for (key, value, expected) in [
        ("linear_num_value_heads", json!(40), "linear_num_value_heads is 40, but must be a multiple of linear_num_key_heads, 16"),
        ("linear_key_head_dim", json!(100), "linear_key_head_dim is 100, which is not supported: only multiples of 16"),
        ("linear_conv_kernel_dim", json!(17), "linear_conv_kernel_dim is 17, but must be a whole number from 1 to 16"),
        ("mamba_ssm_dtype", json!("bfloat16"), "mamba_ssm_dtype is \"bfloat16\", which is not supported: only 'float32'"),
        ("output_gate_type", json!("sigmoid"), "output_gate_type is \"sigmoid\", which is not supported: only 'swish'"),
        ("attn_output_gate", json!(false), "attn_output_gate is false, which is not supported"),
        ("norm_topk_prob", json!(false), "norm_topk_prob is false, which is not supported"),
        ("layer_types", json!(["linear_attention"]), "layer_types is [\"linear_attention\"], but must be a list of 40, each"),
        ("head_dim", Value::Null, "the key head_dim is missing"),
        ("linear_window", json!(3), "the key linear_window (here 3) is not known"),
    ] {
        let alone = read(&with(qwen35(), key, value.clone())).unwrap_err().to_string();
        assert!(alone.contains(expected), "{alone}");
        let inside = read(&beside_images(with(qwen35(), key, value))).unwrap_err().to_string();
        assert!(inside.contains(&format!("text_config.{key}")), "{inside}");
    }
    let tied = read(&with(beside_images(with(qwen35(), "tie_word_embeddings", json!(true))), "tie_word_embeddings", json!(false)));
    assert!(tied.unwrap_err().to_string().contains("tie_word_embeddings is false, but must be the same as in text_config"));
    let error = read(&with(beside_images(qwen35()), "deepstack", json!(1))).unwrap_err().to_string();
    assert!(error.contains("the key deepstack (here 1) is not known"), "{error}");
}

/// Half of gpt-oss' layers hold 128 tokens, whatever the context.
#[test]
fn windows_are_held_alone() {
    let oss = json!({
        "model_type": "gpt_oss", "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8,
        "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_local_experts": 32, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5,
        "sliding_window": 128, "vocab_size": 201_088
    });
    let oss = read(&oss).unwrap();
    let element = crate::KvElement::F16;
    let of = |tokens| [oss.state_bytes(tokens, element), oss.with_all_held().state_bytes(tokens, element), oss.bounded_state_bytes(tokens, element)];
    let [long, all, bounded] = of(131_072);
    assert!(2 * long - 2 * bounded == all && bounded < all / 80, "{long} of {all}, {bounded} of them in windows");
    let [short, all, _] = of(1024);
    assert!(short <= all + (1 << 16), "{short} of {all}");
}
