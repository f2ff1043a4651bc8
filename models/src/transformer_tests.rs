//! What a forward pass refuses, on models of a few thousand weights made up here.
use crate::{Backend, Description, ForwardError, Kind, KvCache, KvElement, Next, TensorSpec, Transformer, Weights};
use crate::{backend::LayerState, cache::States};
use ram_kernels::{Arena, Effort, Format, Matrix, quantize};
use std::sync::Arc;

/// Layer 0 dense, layer 1 with experts and a shared one.
fn config(layers: usize, kv_heads: usize) -> Description {
    let json = format!(
        r#"{{"model_type": "qwen2_moe", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 32, "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": {kv_heads},
        "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2, "norm_topk_prob": true, "vocab_size": 128,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false}}"#
    );
    Description::from_json(&json).expect("a configuration")
}

/// A delta net, attention with gates, and so on; experts and a shared one.
fn deltas(layers: usize) -> Description {
    let json = format!(
        r#"{{"model_type": "qwen3_next", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 32, "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true, "full_attention_interval": 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "vocab_size": 128,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false}}"#
    );
    Description::from_json(&json).expect("a configuration")
}

/// Latents: the first layer dense, others with experts in groups and a shared one.
fn latents(layers: usize) -> Description {
    let json = format!(
        r#"{{"model_type": "deepseek_v3", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 2, "topk_group": 2, "norm_topk_prob": true,
        "routed_scaling_factor": 1.5, "first_k_dense_replace": 1, "num_hidden_layers": {layers}, "num_attention_heads": 4, "q_lora_rank": 32,
        "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "vocab_size": 128,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false}}"#
    );
    Description::from_json(&json).expect("a configuration")
}

/// Norms before and behind everything, experts apart, heads of two sizes.
fn apart(layers: usize) -> Description {
    let kinds: Vec<&str> = (1..=layers).map(|l| if l == layers { r#""full_attention""# } else { r#""sliding_attention""# }).collect();
    let kinds = kinds.join(",");
    let json = format!(
        r#"{{"model_type": "gemma4_text", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64, "intermediate_size": 96,
        "moe_intermediate_size": 48, "enable_moe_block": true, "num_experts": 4, "top_k_experts": 2, "num_hidden_layers": {layers},
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1,
        "attention_k_eq_v": true, "sliding_window": 4000, "layer_types": [{kinds}], "vocab_size": 128, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "final_logit_softcapping": 5.0, "tie_word_embeddings": false,
        "rope_parameters": {{"full_attention": {{"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}},
        "sliding_attention": {{"rope_type": "default", "rope_theta": 1e4}}}}}}"#
    );
    Description::from_json(&json).expect("a configuration")
}

/// Parts of tensors' names, and what their weights are multiplied with.
type Larger<'a> = &'a [(&'a str, f32)];

/// Weights from their names, in `format`; those of the tensors in `larger` times so much, and in f32.
struct MadeUp<'a> {
    format: Format,
    larger: Larger<'a>,
}

impl MadeUp<'_> {
    fn values(&self, spec: &TensorSpec) -> (Vec<f32>, bool) {
        let larger = self.larger.iter().find(|(name, _)| spec.name.contains(name));
        let mut state = spec.name.bytes().fold(1u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let (base, spread) = if spec.kind == Kind::Norm { (1.0, 0.1) } else { (0.0, 0.2) };
        let values = (0..spec.shape.iter().product::<usize>()).map(|_| (base + spread * next()) * larger.map_or(1.0, |(_, by)| *by));
        (values.collect(), larger.is_some())
    }
}

impl Weights for MadeUp<'_> {
    type Error = candle_core::Error;

    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Self::Error> {
        let (values, larger) = self.values(spec);
        let (format, rows, cols) = (if larger { Format::F32 } else { self.format }, spec.shape[0], spec.shape[1]);
        let bytes = format.bytes(rows, cols);
        let mut arena = Arena::new(bytes)?;
        let (codes, order) = arena.bytes_mut()[..bytes].split_at_mut(bytes - format.order_bytes(cols));
        quantize(format, Effort::Fast, &values, cols, codes);
        // Inputs as they come, where there is an order.
        order.as_chunks_mut().0.iter_mut().zip(0u32..).for_each(|(to, c)| *to = c.to_le_bytes());
        Ok(Matrix::new(Arc::new(arena), 0, format, rows, cols))
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error> {
        Ok(self.values(spec).0)
    }
}

fn model(format: &str, larger: Larger) -> Transformer {
    let format = format.parse().expect("a format");
    Transformer::new(config(2, 2), &MadeUp { format, larger }, &Backend::Fused).expect("a model")
}

const TOKENS: [u32; 5] = [1, 77, 3, 127, 50];

#[test]
fn what_is_not_finite_is_an_error_that_says_where() {
    let (first, second) = (Some(0), Some(1));
    let cases: [(Larger, &str, Option<usize>); 15] = [
        (&[("embed_tokens", 1e38)], "inputs of the attention", first),
        (&[("layers.0.input_layernorm", 3e38)], "inputs of the attention", first),
        (&[("layers.1.input_layernorm", 1e3), ("layers.1.self_attn.k_proj.weight", 1e38)], "keys or values", second),
        (&[("layers.1.input_layernorm", 1e3), ("layers.1.self_attn.v_proj.weight", 1e38)], "keys or values", second),
        (&[("layers.0.self_attn.v_proj.bias", f32::MAX * 2.0)], "keys or values", first),
        (&[("layers.0.input_layernorm", 1e3), ("layers.0.self_attn.q_proj.weight", 1e38)], "results of the attention", first),
        (&[("layers.0.self_attn.q_proj", 1e36), ("layers.0.self_attn.k_proj", 1e4)], "results of the attention", first),
        (&[("layers.1.self_attn.o_proj", 1e38)], "inputs of the router", second),
        (&[("layers.1.post_attention_layernorm", 1e3), ("layers.1.mlp.gate.weight", 1e38)], "logits of the router", second),
        (&[("layers.1.post_attention_layernorm", 1e3), ("layers.1.mlp.shared_expert_gate", 1e38)], "logits of the router", second),
        (&[("layers.0.post_attention_layernorm", 1e3), ("layers.0.mlp.up_proj", 1e38)], "inputs of the down projections", first),
        (&[("layers.1.mlp.experts", 1e25)], "inputs of the down projections", second),
        (&[("layers.0.mlp.down_proj", 1e38)], "inputs of the attention", second),
        (&[("layers.1.mlp.shared_expert.down_proj", 1e38)], "inputs of the head", None),
        (&[("model.norm", 3e38)], "inputs of the head", None),
    ];
    for format in ["f32", "t4g64", "a4g64", "q4g32"] {
        for (larger, what, layer) in cases {
            let model = model(format, larger);
            let seen = |e: ForwardError| match e {
                ForwardError::NotFinite { what, layer } => (what, layer),
                other => panic!("{other}"),
            };
            for element in [KvElement::F16, KvElement::F32] {
                let mut cache = model.cache(8, element);
                for tokens in [&TOKENS[..], &TOKENS[..1]] {
                    let forward = model.forward(tokens, &mut cache).map(|_| ()).map_err(seen);
                    let logits = model.next_logits(tokens, &mut cache).map(|_| ()).map_err(seen);
                    assert_eq!((forward, logits), (Err((what, layer)), Err((what, layer))), "{format} {element:?} {larger:?}");
                    let States::Fused(layers) = &cache.states else { panic!("another backend") };
                    assert!(cache.is_empty() && layers.iter().all(|l| matches!(l, LayerState::Kv(l) if l.is_empty())), "{format} {larger:?}");
                }
            }
        }
        let model = model(format, &[("lm_head", 3e38)]);
        let mut cache = model.cache(8, KvElement::F16);
        let hidden = model.forward(&TOKENS, &mut cache).expect("hidden states");
        for error in [model.logits(&hidden).map(|_| ()), model.next_logits(&TOKENS[..1], &mut cache).map(|_| ())] {
            let error = error.expect_err("logits that are not finite");
            assert_eq!(error.to_string(), "logits are no numbers", "{format}");
        }
        assert_eq!(cache.len(), TOKENS.len());
    }
    let error = model("f32", &[("layers.1.input_layernorm", 3e38)]).forward(&TOKENS, &mut KvCache::new(&config(2, 2), 8, KvElement::F16));
    assert_eq!(error.expect_err("no numbers").to_string(), "inputs of the attention in layer 1 are no numbers");
}

#[test]
fn a_cache_is_as_good_as_new_after_an_error() {
    // The other model fails in its last layer, when the first has keys already.
    for (format, element) in [("f32", KvElement::F32), ("t4g64", KvElement::F16)] {
        let good = model(format, &[]);
        let bad = model(format, &[("layers.1.mlp.experts", 1e25)]);
        let mut cache = good.cache(8, element);
        let want = good.next_logits(&TOKENS, &mut cache).expect("logits").to_vec();
        cache.truncate(2);
        assert!(bad.forward(&TOKENS[2..], &mut cache).is_err());
        assert_eq!(cache.len(), 2);
        assert_eq!(good.next_logits(&TOKENS[2..], &mut cache).expect("logits"), want);
    }
}

#[test]
fn states_are_as_good_as_new_after_an_error() {
    let of = |larger| Transformer::new(deltas(3), &MadeUp { format: Format::F32, larger }, &Backend::Fused).expect("a model");
    let (good, bad) = (of(&[]), of(&[("layers.1.mlp.experts", 1e25)]));
    let mut alone = good.cache(8, KvElement::F32);
    let want = good.next_logits(&TOKENS, &mut alone).expect("logits").to_vec();
    let mut cache = good.cache(16, KvElement::F32);
    for tokens in [&TOKENS[..2], &TOKENS[2..3]] {
        good.next_logits(tokens, &mut cache).expect("logits");
        for more in [1, 2] {
            // The first layer has these tokens already when the second fails.
            assert!(bad.forward(&TOKENS[3..3 + more], &mut cache).is_err());
        }
    }
    assert_eq!((cache.len(), cache.reach(3), cache.reach(0)), (3, 3, 0));
    assert_eq!(good.next_logits(&TOKENS[3..], &mut cache).expect("logits"), want);
    // Back before the last token, and before all of them.
    for len in [4, 0] {
        let mut fork = cache.fork(len);
        assert_eq!(fork.len(), len);
        assert_eq!(good.next_logits(&TOKENS[len..], &mut fork).expect("logits"), want);
    }
    let mut bytes = Vec::new();
    cache.save(&mut bytes).expect("written");
    let mut again = good.cache(16, KvElement::F32);
    again.restore(5, &mut bytes.as_slice()).expect("read");
    assert_eq!(good.next_logits(&TOKENS, &mut again).expect("logits"), good.next_logits(&TOKENS, &mut cache).expect("logits"));
    let error = good.forward(&TOKENS, &mut KvCache::new(&config(3, 2), 8, KvElement::F32)).expect_err("another model's");
    assert!(matches!(error, ForwardError::OtherModel { .. }), "{error}");
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let model = model("f32", &[]);
    for (layers, kv_heads, head_dim) in [(1, 2, 16), (3, 2, 16), (2, 1, 16), (2, 4, 16), (2, 2, 32)] {
        let mut other = config(layers, kv_heads);
        other.layers.iter_mut().filter_map(|l| l.mixer.attention_mut()).for_each(|a| a.head_dim = head_dim);
        let mut cache = KvCache::new(&other, 8, KvElement::F16);
        for error in [model.forward(&TOKENS, &mut cache).map(|_| ()), model.next_logits(&TOKENS, &mut cache).map(|_| ())] {
            let error = error.expect_err("another model's cache");
            assert!(matches!(error, ForwardError::OtherModel { .. }), "{error}");
            assert!(error.to_string().contains(&format!("({layers}, {kv_heads}, {head_dim})")), "{error}");
        }
        assert!(cache.is_empty());
    }
}

/// Sequences of several lengths at once, alone, on both backends: the same numbers, also where one goes on by one token and another by
/// a prompt.
#[test]
fn a_batch_changes_nothing() {
    fn shared<T: Send + Sync>(_: &T) {}
    let weights = MadeUp { format: "t4g32".parse().expect("a format"), larger: &[] };
    let both = [Backend::Fused, Backend::Candle(candle_core::Device::Cpu)];
    for (backend, description) in both.iter().flat_map(|backend| [config(4, 2), latents(3)].map(|d| (backend, d))) {
        let model = Transformer::new(description, &weights, backend).expect("a model");
        shared(&model);
        let prompts: Vec<Vec<u32>> = [1usize, 40, 7, 130, 2].iter().map(|n| (0..*n as u32).map(|i| i * 37 % 128).collect()).collect();
        let mut caches: Vec<KvCache> = prompts.iter().map(|_| model.cache(200, KvElement::F16)).collect();
        let mut alone: Vec<KvCache> = prompts.iter().map(|_| model.cache(200, KvElement::F16)).collect();
        for round in 0..3 {
            // Another one has a prompt each time.
            let next: Vec<&[u32]> = prompts.iter().enumerate().map(|(i, p)| if round == 0 || i % 3 == round { &p[..] } else { &p[..1] }).collect();
            let fits: Vec<usize> = (0..prompts.len()).filter(|&i| caches[i].len() + next[i].len() <= 200).collect();
            let mut batch: Vec<Next> =
                caches.iter_mut().enumerate().filter(|(i, _)| fits.contains(i)).map(|(i, cache)| Next::new(next[i], cache)).collect();
            model.advance(&mut batch).expect("logits");
            for &i in &fits {
                let want = model.next_logits(next[i], &mut alone[i]).expect("logits");
                let same = |a: f32, b: f32| if matches!(backend, Backend::Fused) { a == b } else { (a - b).abs() < 1e-4 };
                assert!(want.iter().zip(caches[i].logits()).all(|(a, b)| same(*a, *b)), "{backend:?}, sequence {i}, round {round}");
                assert_eq!(caches[i].len(), alone[i].len());
            }
        }
        // One that cannot be computed leaves all as they were.
        let before: Vec<usize> = caches.iter().map(KvCache::len).collect();
        let mut batch: Vec<Next> = caches.iter_mut().enumerate().map(|(i, cache)| Next::new(if i == 2 { &[128] } else { &[1] }, cache)).collect();
        assert!(matches!(model.forward_batch(&mut batch), Err(ForwardError::Vocabulary { token: 128, .. })));
        assert!(matches!(model.forward_batch(&mut []), Err(ForwardError::NoTokens)));
        assert_eq!(caches.iter().map(KvCache::len).collect::<Vec<_>>(), before);
    }
}

/// What candle computes is looked at, too, where it leaves the model or chooses experts.
#[test]
fn candle_says_what_is_not_finite() {
    for (larger, what) in [
        (&[("model.norm", 1e10), ("lm_head", 1e38)][..], "logits"),
        (&[("layers.1.post_attention_layernorm", 1e3), ("layers.1.mlp.shared_expert_gate", 1e38)], "logits of the router"),
        (&[("layers.1.post_attention_layernorm", 1e3), ("layers.1.mlp.gate.weight", 1e38)], "logits of the router"),
        (&[("layers.0.self_attn.v_proj.bias", f32::MAX * 2.0)], "keys or values"),
    ] {
        let weights = MadeUp { format: Format::F32, larger };
        let model = Transformer::new(config(2, 2), &weights, &Backend::Candle(candle_core::Device::Cpu)).expect("a model");
        let mut cache = model.cache(8, KvElement::F32);
        match model.next_logits(&TOKENS, &mut cache) {
            Err(ForwardError::NotFinite { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {:?}", other.map(<[f32]>::len)),
        }
        assert!(cache.is_empty());
    }
}

/// A pass that is cancelled leaves the caches as they were, and those without logits go on to the same.
#[test]
fn what_is_cancelled_did_not_happen() {
    let weights = MadeUp { format: "t4g32".parse().expect("a format"), larger: &[] };
    let both = [Backend::Fused, Backend::Candle(candle_core::Device::Cpu)];
    for (backend, description) in both.iter().flat_map(|backend| [config(4, 2), latents(3)].map(|d| (backend, d))) {
        let model = Transformer::new(description, &weights, backend).expect("a model");
        let cancel = crate::Cancel::default();
        let [mut one, mut other, mut want] = [(); 3].map(|()| model.cache(200, KvElement::Q8));
        model.forward(&TOKENS, &mut one).expect("hidden states");
        model.forward(&TOKENS, &mut want).expect("hidden states");
        let expected = model.next_logits(&TOKENS, &mut want).expect("logits");
        cancel.cancel();
        let mut batch = [Next { cancel: Some(&cancel), ..Next::new(&TOKENS, &mut one) }, Next::new(&TOKENS, &mut other)];
        assert!(matches!(model.advance(&mut batch), Err(ForwardError::Cancelled)), "{backend:?}");
        assert_eq!((one.len(), other.len()), (TOKENS.len(), 0));
        cancel.renew();
        let mut batch = [Next { cancel: Some(&cancel), ..Next::new(&TOKENS, &mut one) }, Next { logits: false, ..Next::new(&TOKENS, &mut other) }];
        model.advance(&mut batch).expect("logits");
        // Sums of candle's products are in another order where there are more tokens, and codes of 8 bits may be the next ones then.
        let same = |a: &[f32], b: &[f32]| if matches!(backend, Backend::Fused) { a == b } else { a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-2) };
        assert!(same(one.logits(), expected), "{backend:?}");
        assert!(other.logits().is_empty() && other.len() == TOKENS.len());
        // A fork, and what was saved and read again, go on as the first does.
        let mut fork = one.fork(TOKENS.len());
        let mut bytes = Vec::new();
        fork.save(&mut bytes).expect("written");
        let mut again = model.cache(200, KvElement::Q8);
        again.restore(TOKENS.len(), &mut bytes.as_slice()).expect("read");
        for cache in [&mut fork, &mut again, &mut other] {
            assert!(same(model.next_logits(&TOKENS, cache).expect("logits"), expected), "{backend:?}");
        }
        assert!(again.restore(TOKENS.len(), &mut &bytes[1..]).is_err() && again.is_empty());
        assert!(again.restore(201, &mut bytes.as_slice()).is_err());
    }
}

/// The memory that passes work in is what the budget counts for them: not more, and not much less.
#[test]
fn scratch_is_what_was_said() {
    for (format, ordered) in [("f32", false), ("t4g32", false), ("a4g32", false), ("q4g32", false), ("p4g32", true)] {
        let small = [config(1, 2), config(2, 2), deltas(1), latents(1), apart(1)].map(|description| (description, 512));
        let shapes = small.into_iter().chain([config(4, 2), deltas(4), latents(2), apart(2)].map(|description| (description, 4000)));
        // What latents have by head never has an order.
        for (description, context) in shapes.filter(|(description, _)| !ordered || description.model_type != "deepseek_v3") {
            let (description, layers) = (Description { max_position_embeddings: 4000, ..description.clone() }, description.layers.len());
            let weights = MadeUp { format: format.parse().expect("a format"), larger: &[] };
            let model = Transformer::new(description.clone(), &weights, &Backend::Fused).expect("a model");
            let all: Vec<u32> = (0..context as u32).map(|i| i * 37 % 128).collect();
            // What grows step by step must not take more than what is as large at once.
            for (sequences, sizes) in [(1, &[1usize, 3, 100, 130, 300, 301, 512][..]), (1, &[512]), (3, &[7, 60, 61]), (40, &[1])] {
                for &n in sizes {
                    let mut caches: Vec<KvCache> = (0..sequences).map(|_| model.cache(context, KvElement::F16)).collect();
                    let mut batch: Vec<Next> = caches.iter_mut().map(|cache| Next { logits: false, ..Next::new(&all[..n], cache) }).collect();
                    model.advance(&mut batch).expect("computed");
                }
                let work = crate::Work { tokens: sequences * sizes[sizes.len() - 1], sequences, context, threads: 0, ordered };
                holds(&model, work, &format!("{format}, {layers} layers, {sequences} of {sizes:?}"));
            }
            // One token at the end of a long context.
            let mut cache = model.cache(context, KvElement::F16);
            all[..context - 1].chunks(500).for_each(|piece| drop(model.forward(piece, &mut cache).expect("hidden states")));
            model.scratch().clear();
            model.advance(&mut [Next { logits: false, ..Next::new(&[1], &mut cache) }]).expect("computed");
            holds(
                &model,
                crate::Work { tokens: 1, sequences: 1, context, threads: 0, ordered },
                &format!("{format}, {layers} layers, the last of {context}"),
            );
        }
    }
}

/// Forgets the scratch after.
fn holds(model: &Transformer, work: crate::Work, what: &str) {
    let (taken, description) = (model.scratch()[0].bytes(), model.description());
    let said =
        crate::backend::Scratch::most_bytes(&description.needs(), description.hidden_size, crate::backend::Rotary::of(description).len(), work);
    assert!(taken <= said, "{what}: {taken} of {said}");
    // Inputs are counted in all three forms, and wanted in one or two.
    assert!(4 * taken >= said, "{what}: {taken} of {said}");
    model.scratch().clear();
}

/// Both backends hold the same numbers; the fused one also rounds queries to 8 bits where keys are codes.
#[test]
fn backends_agree_on_every_kv_cache() {
    let weights = MadeUp { format: Format::F32, larger: &[] };
    let tokens: Vec<u32> = (0..200).map(|i| i * 37 % 128).collect();
    let elements = KvElement::ALL.into_iter().zip([1e-4, 1e-2, 5e-2, 5e-2]);
    for ((element, limit), description) in elements.flat_map(|element| [config(4, 2), latents(3)].map(|d| (element, d))) {
        let of = |backend| Transformer::new(description.clone(), &weights, &backend).expect("a model");
        let [fused, candle] = [Backend::Fused, Backend::Candle(candle_core::Device::Cpu)].map(of);
        let logits = |model: &Transformer| {
            let mut cache = model.cache(200, element);
            // A prompt that ends within the second page, and a token at a time.
            model.forward(&tokens[..90], &mut cache).expect("hidden states");
            tokens[90..].iter().map(|token| model.next_logits(&[*token], &mut cache).expect("logits").to_vec()).collect::<Vec<_>>().concat()
        };
        let [own, other] = [&fused, &candle].map(logits);
        let sum = |f: &dyn Fn(f64, f64) -> f64| own.iter().zip(&other).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
        let off = (sum(&|a, b| (a - b).powi(2)) / sum(&|_, b| b * b)).sqrt();
        assert!(off < limit, "{element:?}: off by {off}");
    }
}
