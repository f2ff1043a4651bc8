//! Gemma-4-26B-A4B, the text, as its shapes are known.
use super::{attention_of, read, weights, with};
use crate::{Kind, KvElement, rope::Scaling};
use serde_json::{Value, json};

fn text() -> Value {
    let kinds = (0..30).map(|l| if (l + 1) % 6 == 0 { "full_attention" } else { "sliding_attention" });
    json!({
        "attention_bias": false, "attention_dropout": 0.0, "attention_k_eq_v": true, "bos_token_id": 2, "dtype": "bfloat16", "enable_moe_block": true,
        "eos_token_id": 1, "final_logit_softcapping": 30.0, "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2816, "hidden_size_per_layer_input": 0, "initializer_range": 0.02, "intermediate_size": 2112,
        "layer_types": kinds.collect::<Vec<_>>(), "max_position_embeddings": 262_144, "model_type": "gemma4_text", "moe_intermediate_size": 704,
        "num_attention_heads": 16, "num_experts": 128, "num_global_key_value_heads": 2, "num_hidden_layers": 30, "num_key_value_heads": 8,
        "num_kv_shared_layers": 0, "pad_token_id": 0, "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}
        },
        "sliding_window": 1024, "tie_word_embeddings": true, "top_k_experts": 8, "use_bidirectional_attention": "vision", "use_cache": true,
        "use_double_wide_mlp": false, "vocab_size": 262_144, "vocab_size_per_layer_input": 262_144
    })
}

fn beside_images(text: Value) -> Value {
    json!({
        "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": null, "eos_token_id": [1, 106], "image_token_id": 258_880,
        "model_type": "gemma4", "text_config": text, "vision_config": {"hidden_size": 1152}
    })
}

/// As many weights as transformers makes of the same sizes; a sixth of the layers keep all of a text.
#[test]
fn it_is_as_large_as_it_is() {
    let whole = read(&beside_images(text())).unwrap();
    assert_eq!((weights(&whole), whole.tensors()[0].name.as_str()), (25_233_141_790, "model.language_model.embed_tokens.weight"));
    assert!(whole.embedding_multiplier == 2816f64.sqrt() && whole.logits_cap == Some(30.0) && whole.tie_word_embeddings);
    let of = |l: usize| attention_of(&whole, l);
    assert_eq!((of(0).window, of(0).num_key_value_heads, of(0).head_dim, of(0).tied_values), (Some(1024), 8, 256, false));
    assert_eq!((of(5).window, of(5).num_key_value_heads, of(5).head_dim, of(5).tied_values), (None, 2, 512, true));
    assert_eq!(of(5).rope.scaling, Scaling::Part { pairs: 64 });
    let (frequencies, _) = of(5).rope.frequencies();
    assert!(frequencies[63] > 0.0 && frequencies[64..] == [0.0; 192] && frequencies[0] == 1.0);
    assert_eq!(whole.tensors().iter().filter(|spec| spec.kind == Kind::Value).count(), 25);
    let [all, bounded] = [whole.state_bytes(1 << 18, KvElement::F16), whole.bounded_state_bytes(1 << 18, KvElement::F16)];
    assert!((all - bounded).abs_diff(5 * (1 << 18) * 2 * 2 * 512 * 2) < all / 100, "{bounded} of {all}");
    // As tools write it that have one config for each layer.
    let mut newer = text();
    let own = json!({"head_dim": 512, "num_key_value_heads": 2});
    newer["per_layer_config"] = [5, 11, 17, 23, 29].map(|l| (l.to_string(), own.clone())).into_iter().collect::<serde_json::Map<_, _>>().into();
    for key in ["global_head_dim", "num_global_key_value_heads"] {
        newer.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(read(&newer).unwrap(), read(&text()).unwrap());
}

#[test]
fn what_is_not_known_is_refused() {
    for (key, value, expected) in [
        ("hidden_size_per_layer_input", json!(256), "hidden_size_per_layer_input is 256, which is not supported"),
        ("num_kv_shared_layers", json!(10), "num_kv_shared_layers is 10, which is not supported"),
        ("use_bidirectional_attention", json!("all"), "use_bidirectional_attention is \"all\", which is not supported"),
        ("hidden_activation", json!("silu"), "hidden_activation is \"silu\", which is not supported"),
        ("layer_types", json!(vec!["sliding_attention"; 30]), "but must be a list whose last is 'full_attention'"),
        ("num_global_key_value_heads", json!(3), "rope_parameters.full_attention"),
        (
            "per_layer_config",
            json!({"5": {"head_dim": 256}}),
            "per_layer_config is {\"5\":{\"head_dim\":256}}, but must be the same as global_head_dim",
        ),
        ("rope_parameters", json!({"sliding_attention": {"rope_theta": 1e4}}), "rope_parameters.full_attention is missing"),
        ("attn_logit_softcapping", json!(50.0), "the key attn_logit_softcapping (here 50.0) is not known"),
    ] {
        let error = read(&with(text(), key, value)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let other = with(beside_images(text()), "vocab_size", json!(8));
    assert!(read(&other).unwrap_err().to_string().contains("vocab_size is 8, but must be the same as in text_config"));
}
