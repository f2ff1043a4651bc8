//! What real models would get at real budgets, from their config.json alone: bits per weight by kind of tensor.
//!
//!     cargo run --release --example real_shapes
use ram_run::{Description, Error, Kind, Limit, Plan, Request, outline, size};
use std::{collections::BTreeMap, fmt::Write};

/// The budgets of the published RAM comparisons.
const COMPARED: &[&str] = &["16.1GiB", "19GiB", "24GiB", "24.5GiB", "29.9GiB"];

/// Name and config.json of each model, as its authors published it (keys that do not shape a plan left out), and budgets for it.
const MODELS: [(&str, &str, &[&str]); 21] = [
    (
        "Mixtral-8x7B",
        r#"{"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6}"#,
        COMPARED,
    ),
    (
        "Qwen3-30B-A3B",
        r#"{"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768, "norm_topk_prob": true, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6}"#,
        COMPARED,
    ),
    (
        "Qwen2-57B-A14B",
        r#"{"model_type": "qwen2_moe", "vocab_size": 151936, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 2560,
            "shared_expert_intermediate_size": 20480, "norm_topk_prob": false, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6}"#,
        COMPARED,
    ),
    (
        "Qwen3-235B-A22B",
        r#"{"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 94,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 1536, "norm_topk_prob": true, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6}"#,
        &["24GiB", "80GiB", "96GiB", "128GiB"],
    ),
    (
        "GLM-4.5-Air",
        r#"{"model_type": "glm4_moe", "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
            "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": true, "n_routed_experts": 128,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "norm_topk_prob": true,
            "routed_scaling_factor": 1.0, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6}"#,
        &["32GB", "48GB", "64GB"],
    ),
    (
        "MiniMax-M2",
        r#"{"model_type": "minimax_m2", "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
            "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "rotary_dim": 64, "num_local_experts": 256,
            "num_experts_per_tok": 8, "max_position_embeddings": 196608, "rms_norm_eps": 1e-6, "rope_theta": 5e6}"#,
        &["80GB", "96GB", "128GB"],
    ),
    (
        "Hunyuan-A13B",
        r#"{"model_type": "hunyuan_v1_moe", "vocab_size": 128167, "hidden_size": 4096, "intermediate_size": 3072, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 64, "moe_topk": 8, "tie_word_embeddings": true,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e4}"#,
        &["24GB", "32GB", "48GB"],
    ),
    (
        "ERNIE-4.5-21B-A3B",
        r#"{"model_type": "ernie4_5_moe", "vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
            "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 128, "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2,
            "moe_intermediate_size": 1536, "tie_word_embeddings": true, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 5e5}"#,
        &["8GB", "12GB", "16GB"],
    ),
    (
        "gpt-oss-20b",
        r#"{"model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4,
            "sliding_window": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 150000,
            "quantization_config": {"quant_method": "mxfp4"}}"#,
        &["8GB", "12GB", "16GB", "24GB"],
    ),
    (
        "gpt-oss-120b",
        r#"{"model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4,
            "sliding_window": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 150000,
            "quantization_config": {"quant_method": "mxfp4"}}"#,
        &["48GB", "64GB", "80GB"],
    ),
    (
        "Qwen3.6-35B-A3B",
        r#"{"model_type": "qwen3_5_moe", "text_config": {"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_value_head_dim": 128, "linear_num_value_heads": 32, "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 1e7}}"#,
        &["12GB", "16GB", "24GB"],
    ),
    (
        "Qwen3-Next-80B-A3B",
        r#"{"model_type": "qwen3_next", "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_value_head_dim": 128, "linear_num_value_heads": 32, "num_experts": 512, "num_experts_per_tok": 10, "norm_topk_prob": true,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
            "rope_theta": 1e7}"#,
        &["24GB", "32GB", "48GB", "64GB"],
    ),
    (
        "Qwen3.5-397B-A17B",
        r#"{"model_type": "qwen3_5_moe", "text_config": {"vocab_size": 248320, "hidden_size": 4096, "num_hidden_layers": 60, "num_attention_heads": 32,
            "num_key_value_heads": 2, "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_value_head_dim": 128, "linear_num_value_heads": 64, "num_experts": 512, "num_experts_per_tok": 10,
            "moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
            "rope_theta": 1e7}}"#,
        &["128GB", "192GB", "256GB"],
    ),
    (
        "Gemma-4-26B-A4B",
        r#"{"model_type": "gemma4", "text_config": {"vocab_size": 262144, "hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 2,
            "attention_k_eq_v": true, "sliding_window": 1024, "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8,
            "moe_intermediate_size": 704, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}}"#,
        &["8GB", "12GB", "16GB", "24GB"],
    ),
    (
        "Phi-3.5-MoE",
        r#"{"model_type": "phimoe", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": true,
            "lm_head_bias": true, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e4}"#,
        &["16GB", "24GB", "32GB"],
    ),
    (
        "DBRX",
        r#"{"model_type": "dbrx", "vocab_size": 100352, "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768,
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}}"#,
        &["48GB", "64GB", "96GB"],
    ),
    (
        "GLM-4.7-Flash",
        r#"{"model_type": "glm4_moe_lite", "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47,
            "num_attention_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
            "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4, "moe_intermediate_size": 1536, "first_k_dense_replace": 1,
            "norm_topk_prob": true, "routed_scaling_factor": 1.8, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "rope_theta": 1e6}"#,
        &["12GB", "16GB", "24GB"],
    ),
    (
        "DeepSeek-V3",
        r#"{"model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "n_routed_experts": 256, "n_shared_experts": 1, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "first_k_dense_replace": 3, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "max_position_embeddings": 163840,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4}"#,
        &["192GB", "256GB", "384GB", "512GB"],
    ),
    (
        "Kimi-K2",
        r#"{"model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 1,
            "norm_topk_prob": true, "routed_scaling_factor": 2.827, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 5e4}"#,
        &["256GB", "384GB", "512GB", "768GB"],
    ),
    (
        "Llama-4-Scout",
        r#"{"model_type": "llama4_text", "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16,
            "num_experts_per_tok": 1, "max_position_embeddings": 10485760, "rms_norm_eps": 1e-5, "rope_theta": 5e5}"#,
        &["32GB", "48GB", "64GB"],
    ),
    (
        "Llama-4-Maverick",
        r#"{"model_type": "llama4_text", "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 128,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "use_qk_norm": false, "max_position_embeddings": 1048576,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5}"#,
        &["128GB", "192GB", "256GB"],
    ),
];

const KINDS: [Kind; 21] = [
    Kind::Embedding,
    Kind::Head,
    Kind::QueryDown,
    Kind::Query,
    Kind::LatentDown,
    Kind::KeyUp,
    Kind::ValueUp,
    Kind::Key,
    Kind::Value,
    Kind::Output,
    Kind::Router,
    Kind::Gate,
    Kind::Up,
    Kind::Down,
    Kind::SharedGate,
    Kind::SharedUp,
    Kind::SharedDown,
    Kind::DeltaInput,
    Kind::DeltaGate,
    Kind::DeltaRates,
    Kind::DeltaOutput,
];

/// Bits per weight of a kind: the first layer's, then those of all others.
fn bits(plan: &Plan, kind: Kind) -> String {
    let mut sums: BTreeMap<bool, (u64, usize)> = BTreeMap::new();
    for e in plan.entries.iter().filter(|e| e.spec.kind == kind) {
        let sum = sums.entry(e.spec.layer.is_some_and(|l| l > 0)).or_default();
        *sum = (sum.0 + e.bytes, sum.1 + e.spec.shape.iter().product::<usize>());
    }
    let each: Vec<String> = sums.values().map(|&(bytes, numbers)| format!("{:.1}", 8.0 * bytes as f64 / numbers as f64)).collect();
    each.join(" ")
}

fn main() -> Result<(), Error> {
    for (name, json, budgets) in MODELS {
        let description = Description::from_json(json).map_err(|source| Error::Config { path: name.into(), source })?;
        let specs = description.tensors();
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| specs.iter().any(|spec| spec.kind == *kind)).collect();
        let mut table = format!("\n**{name}**\n\n| budget | whole |");
        kinds.iter().for_each(|k| table += &format!(" {k} |"));
        let _ = write!(table, "\n|{}", "---|".repeat(kinds.len() + 2));
        for &budget in budgets {
            let limit = Limit::Process(size::parse(budget).unwrap_or_else(|e| panic!("{e}")));
            let plan = match outline(&description, &Request { limit, ..Request::default() }) {
                Ok(plan) if plan.bits_per_weight < 9.0 => plan,
                Ok(_) => continue,
                Err(Error::Budget { need, .. }) => {
                    let _ = write!(table, "\n| {budget} | needs {} |", size::show(need));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let _ = write!(table, "\n| {budget} | {:.2} |", plan.bits_per_weight);
            kinds.iter().for_each(|&k| table += &format!(" {} |", bits(&plan, k)));
        }
        println!("{table}");
    }
    Ok(())
}
