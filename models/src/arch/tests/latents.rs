//! Families with latents, as they are published.
use super::{read, weights, with, without};
use crate::{
    KvElement,
    description::{Description, Groups, Latent, Mixer},
};
use serde_json::{Value, json};

/// DeepSeek-V3.
fn deepseek3() -> Value {
    let text = r#"{
        "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "bos_token_id": 0,
        "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
        "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
        "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
        "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-6,
        "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true, "tie_word_embeddings": false,
        "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
    }"#;
    serde_json::from_str(text).unwrap()
}

fn all(text: Value, changes: &[(&str, Value)]) -> Value {
    changes.iter().fold(text, |text, (key, value)| with(text, key, value.clone()))
}

/// DeepSeek-V2-Lite.
fn lite() -> Value {
    let changes = [
        ("model_type", json!("deepseek_v2")),
        ("first_k_dense_replace", json!(1)),
        ("hidden_size", json!(2048)),
        ("intermediate_size", json!(10_944)),
        ("moe_intermediate_size", json!(1408)),
        ("n_group", json!(1)),
        ("topk_group", json!(1)),
        ("n_routed_experts", json!(64)),
        ("n_shared_experts", json!(2)),
        ("norm_topk_prob", json!(false)),
        ("num_attention_heads", json!(16)),
        ("num_key_value_heads", json!(16)),
        ("num_experts_per_tok", json!(6)),
        ("num_hidden_layers", json!(27)),
        ("q_lora_rank", Value::Null),
        ("routed_scaling_factor", json!(1.0)),
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
        ("vocab_size", json!(102_400)),
    ];
    let mut text = all(without(without(deepseek3(), "num_nextn_predict_layers"), "quantization_config"), &changes);
    let yarn = &mut text["rope_scaling"];
    (yarn["mscale"], yarn["mscale_all_dim"]) = (json!(0.707), json!(0.707));
    text
}

fn latents(d: &Description) -> &Latent {
    match &d.layers[0].mixer {
        Mixer::Latent(latent) => latent,
        other => panic!("{other:?}"),
    }
}

/// As many weights as transformers makes of the same sizes, and corrections.
#[test]
fn they_are_as_large_as_they_are() {
    let large = read(&deepseek3()).unwrap();
    assert_eq!((weights(&large), large.max_position_embeddings), (671_026_404_352 + 58 * 256, 163_840));
    // 0.1 ln 40 + 1, twice.
    assert!((latents(&large).scale * 192f64.sqrt() - 1.368_888_f64.powi(2)).abs() < 1e-5, "{}", latents(&large).scale);
    // 576 halves of a token and layer, where keys and values of all heads would be 57 times as many.
    let bytes = large.state_bytes(65_536, KvElement::F16);
    assert!(bytes.abs_diff(65_536 * 61 * 1152) < bytes / 1000, "{bytes}");
    let two = read(&lite()).unwrap();
    assert_eq!((weights(&two), latents(&two).q_lora_rank), (15_706_484_224, None));
    assert_eq!(two.mixture(1).unwrap().router.groups, Groups { count: 1, kept: 1, summed: 1 });
    let kimi = [
        ("model_type", json!("kimi_k2")),
        ("first_k_dense_replace", json!(1)),
        ("n_group", json!(1)),
        ("topk_group", json!(1)),
        ("n_routed_experts", json!(384)),
        ("num_attention_heads", json!(64)),
        ("num_key_value_heads", json!(64)),
        ("num_nextn_predict_layers", json!(0)),
        ("routed_scaling_factor", json!(2.827)),
        ("vocab_size", json!(163_840)),
    ];
    assert_eq!(weights(&read(&all(deepseek3(), &kimi)).unwrap()), 1_026_408_209_408 + 60 * 384);
    let flash = [
        ("model_type", json!("glm4_moe_lite")),
        ("first_k_dense_replace", json!(1)),
        ("hidden_size", json!(2048)),
        ("intermediate_size", json!(10_240)),
        ("max_position_embeddings", json!(202_752)),
        ("moe_intermediate_size", json!(1536)),
        ("n_group", json!(1)),
        ("topk_group", json!(1)),
        ("n_routed_experts", json!(64)),
        ("num_attention_heads", json!(20)),
        ("num_key_value_heads", json!(20)),
        ("num_experts_per_tok", json!(4)),
        ("num_hidden_layers", json!(47)),
        ("q_lora_rank", json!(768)),
        ("qk_nope_head_dim", json!(192)),
        ("v_head_dim", json!(256)),
        ("rope_scaling", Value::Null),
        ("rope_theta", json!(1_000_000)),
        ("routed_scaling_factor", json!(1.8)),
        ("rms_norm_eps", json!(1e-5)),
        ("vocab_size", json!(154_880)),
    ];
    let flash = read(&all(deepseek3(), &flash)).unwrap();
    assert_eq!((weights(&flash), latents(&flash).scale), (29_943_390_976 + 46 * 64, 1.0 / 16.0));
    assert_eq!(flash.left_out[0].prefix, "model.layers.47.");
}

#[test]
fn latents_that_are_not_known_are_refused() {
    for (text, key, value, expected) in [
        (deepseek3(), "num_key_value_heads", json!(64), "num_key_value_heads is 64, which is not supported: only num_attention_heads, 128"),
        (deepseek3(), "kv_lora_rank", json!(500), "kv_lora_rank is 500, which is not supported: only multiples of 16"),
        (deepseek3(), "v_head_dim", Value::Null, "the key v_head_dim is missing"),
        (deepseek3(), "qk_rope_head_dim", json!(63), "qk_rope_head_dim is 63, but must be an even number"),
        (deepseek3(), "head_dim", json!(128), "head_dim is 128, but must be what qk_nope_head_dim and qk_rope_head_dim are together, 192"),
        (deepseek3(), "attention_bias", json!(true), "attention_bias is true, which is not supported"),
        (deepseek3(), "moe_layer_freq", json!(2), "moe_layer_freq is 2, which is not supported: only 1, experts in every layer"),
        (deepseek3(), "topk_method", json!("greedy"), "topk_method is \"greedy\", which is not supported: only 'noaux_tc'"),
        (deepseek3(), "index_topk", json!(2048), "the key index_topk (here 2048) is not known"),
        (deepseek3(), "mlp_layer_types", json!(["dense"]), "mlp_layer_types is [\"dense\"], but must be a list of 61, each 'dense' or 'sparse'"),
        (lite(), "topk_method", json!("noaux_tc"), "topk_method is \"noaux_tc\", which is not supported: only 'greedy' and 'group_limited_greedy'"),
        (lite(), "norm_topk_prob", json!(true), "norm_topk_prob is true, which is not supported"),
        (lite(), "scoring_func", json!("sigmoid"), "scoring_func is \"sigmoid\", which is not supported: only 'softmax'"),
    ] {
        let error = read(&with(text, key, value)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
