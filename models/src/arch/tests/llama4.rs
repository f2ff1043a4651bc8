//! Llama-4, as it is published.
use super::{read, weights, with, without};
use crate::{KvElement, description::Mixer};
use serde_json::{Value, json};

/// Scout, the text alone.
fn scout() -> Value {
    json!({
        "attention_bias": false, "attention_chunk_size": 8192, "attn_scale": 0.1, "attn_temperature_tuning": 4, "cache_implementation": "hybrid",
        "floor_scale": 8192, "for_llm_compressor": false, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 8192,
        "intermediate_size_mlp": 16_384, "interleave_moe_layer_step": 1, "max_position_embeddings": 10_485_760, "model_type": "llama4_text",
        "moe_layers": (0..48).collect::<Vec<_>>(), "no_rope_layers": [], "num_attention_heads": 40, "num_experts_per_tok": 1,
        "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 0.5, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "use_qk_norm": true, "vocab_size": 202_048
    })
}

fn beside_images(text: Value) -> Value {
    json!({
        "architectures": ["Llama4ForConditionalGeneration"], "boi_token_index": 200_080, "eoi_token_index": 200_081, "image_token_index": 200_092,
        "model_type": "llama4", "text_config": text, "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1408}
    })
}

/// As many weights as transformers makes of the same sizes; a quarter of the layers sees all of a text.
#[test]
fn they_are_as_large_as_they_are() {
    let small = read(&beside_images(scout())).unwrap();
    assert_eq!((weights(&small), small.tensors()[0].name.as_str()), (107_769_861_120, "language_model.model.embed_tokens.weight"));
    let of = |l: usize| match &small.layers[l].mixer {
        Mixer::Attention(a) => (a.chunk, a.rope.dim, a.unit_heads, a.temperature.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!((of(0), of(3)), ((Some(8192), 128, Some(1e-5), false), (None, 0, None, true)));
    let [all, bounded] = [small.state_bytes(1 << 20, KvElement::F16), small.bounded_state_bytes(1 << 20, KvElement::F16)];
    assert!(bounded * 5 < all && (all - bounded).abs_diff(12 * (1 << 20) * 4096) < all / 100, "{bounded} of {all}");
    let large = [
        ("num_local_experts", json!(128)),
        ("interleave_moe_layer_step", json!(2)),
        ("moe_layers", json!((0..24).map(|l| 2 * l + 1).collect::<Vec<_>>())),
        ("use_qk_norm", json!(false)),
        ("rope_scaling", Value::Null),
    ];
    let large = large.into_iter().fold(scout(), |text, (key, value)| with(text, key, value));
    assert_eq!(weights(&read(&large).unwrap()), 400_711_848_960);
    assert_eq!(weights(&read(&without(large, "moe_layers")).unwrap()), 400_711_848_960);
}

#[test]
fn what_is_not_known_is_refused() {
    for (key, value, expected) in [
        ("no_rope_layers", json!([1, 0]), "no_rope_layers is [1,0], but must be a list of 48, each 0 or 1"),
        ("moe_layers", json!([48]), "moe_layers is [48], but must be numbers of layers, below 48"),
        ("layer_types", json!(["full_attention"]), "layer_types is [\"full_attention\"], but must be a list of 48"),
        ("attention_chunk_size", json!(0), "attention_chunk_size is 0, but must be a whole number from 1"),
        ("qk_norm", json!(1), "the key qk_norm (here 1) is not known"),
    ] {
        let error = read(&with(scout(), key, value)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let dense = without(with(scout(), "moe_layers", json!([1])), "intermediate_size_mlp");
    assert!(read(&dense).unwrap_err().to_string().contains("intermediate_size_mlp"));
}
